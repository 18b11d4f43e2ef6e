//! What an attacker does, and what the program does about it: a case for each row of docs/security.md. The files here
//! need no node; `nodes/` has the cases that attack from inside a container or as a local user.

mod answers;
mod files;
mod people;
pub mod races;
