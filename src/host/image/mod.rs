//! Cleans and searches a whole image.

pub mod clear;
pub mod search;
