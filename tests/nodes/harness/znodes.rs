//! Znodes, read and written as any client of ZooKeeper does (its protocol is jute: numbers
//! big-endian, strings and requests with their length before them).

use std::io::{Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::node::Node;
use super::services::in_network;

const CREATE: i32 = 1;
const GET_DATA: i32 = 4;

/// Everybody may do everything: one entry, all permissions, `world:anyone`.
const OPEN: &[u8] = b"\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone";

/// Creates a znode by the server at `address`, as the node reaches it.
#[track_caller]
pub fn write(node: &Node, address: &str, path: &str, data: &str) {
    let request = [text(path), text(data), OPEN.to_vec(), vec![0; 4]].concat();
    let answer = in_network(node.init, || ask(address, CREATE, &request));
    assert_eq!(answer.unwrap_or_else(|e| panic!("{address}: {e}")).0, 0, "the error of creating {path}");
}

/// A znode's data by the server at `address`; `None`: there is no such znode, or no server.
pub fn read(node: &Node, address: &str, path: &str) -> Option<String> {
    let request = [text(path), vec![0]].concat();
    let (error, answer) = in_network(node.init, || ask(address, GET_DATA, &request)).ok()?;
    let length = i32::from_be_bytes(answer.get(..4)?.try_into().ok()?);
    (error == 0).then(|| String::from_utf8(answer[4..4 + usize::try_from(length).unwrap()].to_vec()).unwrap())
}

/// What the server at `address` says of its mode.
pub fn mode(node: &Node, address: &str) -> Option<String> {
    let srvr = || -> Result<String> {
        let mut stream = connect(address)?;
        stream.write_all(b"srvr")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = in_network(node.init, srvr).ok()?;
    answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
}

fn text(text: &str) -> Vec<u8> {
    [&i32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, request: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(&i32::try_from(request.len()).unwrap().to_be_bytes())?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// One request in a session of its own: the error, and what follows it.
fn ask(address: &str, operation: i32, request: &[u8]) -> Result<(i32, Vec<u8>)> {
    let mut stream = connect(address)?;
    let timeout = 10_000_i32.to_be_bytes();
    // Protocol, last zxid, timeout, session, and the length of a password of zeros.
    send(&mut stream, &[&[0; 12][..], &timeout, &[0; 8], &16_i32.to_be_bytes(), &[0; 16]].concat())?;
    let header = [1_i32.to_be_bytes(), operation.to_be_bytes()].concat();
    let answer = send(&mut stream, &[&header[..], request].concat())?;
    let error = i32::from_be_bytes(answer[12..16].try_into().unwrap());
    Ok((error, answer[16..].to_vec()))
}
