//! Code that several rings of tests share.

#![cfg_attr(not(feature = "nodes"), allow(dead_code, reason = "the nodes use the rest"))]

pub mod agent;
pub mod aws;
pub mod docker;
pub mod door;
pub mod environment_file;
pub mod log;
pub mod metadata;
pub mod outcome;
pub mod root;
pub mod schemas;
pub mod sigv4;
pub mod simulated;
pub mod tree;
pub mod troubleshooting;
pub mod user;

/// Compresses with gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}
