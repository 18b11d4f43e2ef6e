//! A stand-in for tini-static: runs its arguments and ends as they end.

use std::process::{Command, exit};

fn main() {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "--version") {
        println!("tini version 0.18.0 (stand-in)");
        return;
    }
    arguments.retain({
        let mut options = true;
        move |a| {
            options &= a.to_string_lossy().starts_with('-');
            !options
        }
    });
    let Some((program, rest)) = arguments.split_first() else {
        exit(64)
    };
    match Command::new(program).args(rest).status() {
        Ok(status) => exit(status.code().unwrap_or(1)),
        Err(error) => {
            eprintln!("tini (stand-in): {}: {error}", program.to_string_lossy());
            exit(127)
        }
    }
}
