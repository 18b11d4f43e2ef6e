//! A line to a registry that a test can cut, hold and tap.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use super::node::Node;
use super::registry::{ADDRESS, BEHIND};
use super::services::{in_network, listen};

/// How the line behaves from now on.
#[derive(Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// As a good one.
    Passes,
    /// Each connection is closed when so many bytes of answers have passed.
    Cut(usize),
    /// Each connection falls silent then, until the line behaves otherwise.
    Silent(usize),
    /// Requests for this get an answer to a request for that; both of the same length.
    Misleads(String, String),
}

/// The line, in a node's network, from where Docker looks for the registry to where it is.
pub struct Line {
    state: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    behaviour: Behaviour,
    /// Connections that were cut or are silent.
    disturbed: usize,
}

impl Line {
    /// A line that behaves like this.
    pub fn lay(node: &Node, behaviour: Behaviour) -> Line {
        let state = Arc::new((Mutex::new(State { behaviour, disturbed: 0 }), Condvar::new()));
        let (listener, init) = (listen(node, ADDRESS), node.init);
        let line = Line { state: Arc::clone(&state) };
        std::thread::spawn(move || serve(&listener, init, &state));
        line
    }

    /// It behaves like this from now on; connections that were silent are closed.
    pub fn behave(&self, behaviour: Behaviour) {
        let (state, changed) = &*self.state;
        state.lock().unwrap().behaviour = behaviour;
        changed.notify_all();
    }

    /// How many connections it has cut or silenced.
    pub fn disturbed(&self) -> usize {
        self.state.0.lock().unwrap().disturbed
    }
}

type Shared = Arc<(Mutex<State>, Condvar)>;

fn serve(listener: &TcpListener, init: i32, state: &Shared) {
    // A thread that is in the node's network can open connections there.
    in_network(init, || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(BEHIND) else { continue };
            let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
            let [requests, answers] = [Arc::clone(state), Arc::clone(state)];
            std::thread::spawn(move || forward_requests(ends, &requests));
            std::thread::spawn(move || forward_answers(server, client, &answers));
        }
    });
}

fn forward_requests([mut client, mut server]: [TcpStream; 2], state: &Shared) {
    let mut buffer = [0; 8192];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        let request = match &state.0.lock().unwrap().behaviour {
            Behaviour::Misleads(from, to) => {
                String::from_utf8_lossy(&buffer[..n]).replacen(from.as_str(), to, 1).into_bytes()
            }
            _ => buffer[..n].to_vec(),
        };
        if server.write_all(&request).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

fn forward_answers(mut server: TcpStream, mut client: TcpStream, state: &Shared) {
    let (mut buffer, mut passed) = ([0; 8192], 0);
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        let (lock, changed) = &**state;
        let mut now = lock.lock().unwrap();
        match now.behaviour.clone() {
            Behaviour::Cut(limit) if passed + n > limit => {
                now.disturbed += 1;
                break;
            }
            held @ Behaviour::Silent(limit) if passed + n > limit => {
                now.disturbed += 1;
                drop(changed.wait_while(now, |state| state.behaviour == held).unwrap());
                break;
            }
            _ => drop(now),
        }
        if client.write_all(&buffer[..n]).is_err() {
            break;
        }
        passed += n;
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
