//! A whole image: what a builder left in it, removed and searched for.

pub mod clear;
pub mod search;
