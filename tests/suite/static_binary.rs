//! The binary needs no loader and no library: it runs in any image of any release.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;

/// Program header types, elf(5).
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

fn number<const N: usize>(file: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&file[at..at + N]);
    u64::from_le_bytes(bytes)
}

/// The types of an executable's program headers.
fn program_headers(file: &[u8]) -> Vec<u32> {
    assert_eq!(&file[..6], b"\x7fELF\x02\x01", "no ELF file of 64 bits, little endian");
    let table = usize::try_from(number::<8>(file, 0x20)).unwrap();
    let (size, count) = (number::<2>(file, 0x36) as usize, number::<2>(file, 0x38) as usize);
    (0..count).map(|n| u32::try_from(number::<4>(file, table + n * size)).unwrap()).collect()
}

#[test]
fn no_interpreter_and_no_needed_library() {
    let file = fs::read(env!("CARGO_BIN_EXE_titus-bootstrap")).unwrap();
    let headers = program_headers(&file);
    assert!(headers.len() > 2, "{headers:?}");
    assert!(!headers.contains(&PT_INTERP), "RUSTFLAGS in the environment replace the flags of .cargo/config.toml");
    // A static-pie binary has a dynamic section, to relocate itself, that names no library (DT_NEEDED).
    assert!(!headers.contains(&PT_DYNAMIC) || !needs_a_library(&file));
}

/// Whether the section .dynamic has an entry DT_NEEDED.
fn needs_a_library(file: &[u8]) -> bool {
    const SHT_DYNAMIC: u64 = 6;
    const DT_NEEDED: u64 = 1;
    let table = usize::try_from(number::<8>(file, 0x28)).unwrap();
    let (size, count) = (number::<2>(file, 0x3a) as usize, number::<2>(file, 0x3c) as usize);
    (0..count).map(|n| table + n * size).filter(|at| number::<4>(file, at + 4) == SHT_DYNAMIC).any(|at| {
        let (start, length) = (number::<8>(file, at + 0x18) as usize, number::<8>(file, at + 0x20) as usize);
        (start..start + length).step_by(16).any(|entry| number::<8>(file, entry) == DT_NEEDED)
    })
}

#[test]
fn a_dynamic_program_is_distinguished() {
    // The shell of every distribution that the tests run on is dynamic.
    let file = fs::read("/bin/bash").unwrap();
    assert!(program_headers(&file).contains(&PT_INTERP) && needs_a_library(&file));
}
