//! One parser of `titus_bootstrap::parsers`, that which the environment variable `PARSER` names, under libFuzzer.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use titus_bootstrap::parsers::{PARSERS, Parser};

static CHOSEN: LazyLock<Parser> = LazyLock::new(|| {
    let name = std::env::var("PARSER").unwrap_or_default();
    *PARSERS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("PARSER={name:?} is not a parser"))
});

fuzz_target!(|input: &[u8]| {
    let (name, parse) = *CHOSEN;
    parse(input).unwrap_or_else(|broken| panic!("{name}: {broken}"));
});
