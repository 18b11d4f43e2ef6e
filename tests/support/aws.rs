//! EC2, Auto Scaling and S3 in this process, on threads: the calls that the program makes, with every signature
//! checked, and with faults that a test can switch on. They live until the last clone of the handle is dropped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

pub mod account;
mod judge;

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

pub use self::judge::Keys;

use self::account::Account;
use super::door::{Door, read_request};
use super::sigv4::{Request, decoded};

/// Faults; several can be active at once.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This number of requests is throttled, in the words of their service.
    Throttle(u32),
    /// This number of requests is answered per second, and at once; the rest is throttled.
    Rate(u32),
    /// This number of requests is answered with 503 and a page.
    Unavailable(u32),
    /// Nobody may call this action.
    Deny(&'static str),
    /// This number of requests is answered as if the token had expired.
    Expired(u32),
    /// The service's clock is ahead by this number of seconds.
    Clock(i64),
    /// Bodies come byte by byte, with this pause before each.
    Trickle(Duration),
    /// Requests are read but never answered.
    Hang,
    /// This number of connections is closed instead of an answer.
    Close(u32),
    /// This number of connections is closed in the middle of an answer.
    Cut(u32),
    /// Every request is answered with this status and text.
    Text(u16, String),
    /// Every request is answered with an endless body.
    Endless,
}

/// A handle to the APIs.
#[derive(Debug, Clone)]
pub struct Aws {
    shared: Arc<Shared>,
    door: Arc<Door>,
}

impl Aws {
    /// Serves this account, in a region, on this listener, to clients with these keys.
    pub fn serve(listener: TcpListener, region: &str, account: Account, keys: &Keys) -> Aws {
        let state = State { region: region.to_owned(), account, keys: vec![keys.clone()], ..State::default() };
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { address, state: Mutex::new(state), changed: Condvar::new() });
        let (serving, ending) = (Arc::clone(&shared), Arc::clone(&shared));
        let door = Door::open(listener, move |stream| serving.converse(stream), move || ending.close());
        Aws { shared, door: Arc::new(door) }
    }

    /// Serves the sample instance's account on a loopback port of its own.
    pub fn start(account: Account, keys: &Keys) -> Aws {
        let region = titus_bootstrap::facts::sample::facts().instance.unwrap().region;
        Aws::serve(TcpListener::bind("127.0.0.1:0").unwrap(), &region, account, keys)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Reads or changes the account.
    pub fn account<T>(&self, change: impl FnOnce(&mut Account) -> T) -> T {
        change(&mut self.shared.state().account)
    }

    /// Accepts only these keys from now on.
    pub fn accept(&self, keys: &Keys) {
        self.shared.state().keys = vec![keys.clone()];
    }

    /// Switches a fault on, starting with the next request.
    pub fn fault(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    /// Switches all faults off; requests that hang are answered.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
        self.shared.changed.notify_all();
    }

    /// All requests so far: `DescribeTags Filter.1.Name=resource-id …`, `HEAD /BUCKET`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }

    /// The highest number of requests that were answered at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.state().most
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        self.door.connections()
    }
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    region: String,
    account: Account,
    keys: Vec<Keys>,
    faults: Vec<Fault>,
    requests: Vec<String>,
    /// The number of requests that are being answered, and its maximum.
    open: usize,
    most: usize,
    /// The remaining allowance of [`Fault::Rate`], and since when.
    allowance: Option<(f64, Instant)>,
    closed: bool,
}

/// An answer.
#[derive(Debug, Default)]
struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Ends all waiting.
    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Answers one request after another until the client or the service goes.
    fn converse(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader)? {
            {
                let mut state = self.state();
                state.note(&request);
                (state.open, state.most) = (state.open + 1, state.most.max(state.open + 1));
            }
            let hung = |state: &mut State| !state.closed && state.has(|fault| matches!(fault, Fault::Hang));
            drop(self.changed.wait_while(self.state(), hung).unwrap_or_else(|p| p.into_inner()));
            let answered = self.answer(stream, &request);
            self.state().open -= 1;
            if !answered? {
                break;
            }
        }
        stream.flush()
    }

    /// Sends an answer; returns `false` when the connection ends.
    fn answer(&self, mut stream: &TcpStream, request: &Request) -> io::Result<bool> {
        let (reply, pause, cut) = {
            let mut state = self.state();
            if state.spend(|fault| if let Fault::Close(left) = fault { Some(left) } else { None }) {
                return Ok(false);
            }
            let cut = state.spend(|fault| if let Fault::Cut(left) = fault { Some(left) } else { None });
            let pause =
                state.faults.iter().find_map(|f| if let Fault::Trickle(pause) = f { Some(*pause) } else { None });
            (state.reply(request), pause, cut)
        };
        if self.state().has(|fault| matches!(fault, Fault::Endless)) {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            // Until the client goes.
            loop {
                stream.write_all(&[b'a'; 1 << 16])?;
            }
        }
        let Reply { status, headers, body } = reply;
        let date = judge::http_date(self.state().now());
        let length = body.len();
        let head = format!("HTTP/1.1 {status} .\r\nDate: {date}\r\n{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let body = if request.method == "HEAD" { &[][..] } else { &body[..] };
        if cut {
            stream.write_all(&body[..length / 2])?;
            return Ok(false);
        }
        let Some(pause) = pause else { return stream.write_all(body).map(|()| true) };
        for byte in body {
            let (state, _) = self
                .changed
                .wait_timeout_while(self.state(), pause, |state| !state.closed)
                .unwrap_or_else(|p| p.into_inner());
            drop(state);
            stream.write_all(&[*byte])?;
        }
        Ok(true)
    }
}

impl State {
    fn has(&self, is: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(is)
    }

    /// Whether a fault with a number of requests has any left; uses one up.
    fn spend(&mut self, of: impl Fn(&mut Fault) -> Option<&mut u32>) -> bool {
        let left = self.faults.iter_mut().filter_map(of).find(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }

    /// The service's clock.
    fn now(&self) -> SystemTime {
        let ahead =
            self.faults.iter().find_map(|fault| if let Fault::Clock(ahead) = fault { Some(*ahead) } else { None });
        let ahead = ahead.unwrap_or(0);
        let difference = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { SystemTime::now() - difference } else { SystemTime::now() + difference }
    }

    fn note(&mut self, request: &Request) {
        let parameters = parameters(request);
        let line = match parameters.iter().find(|(name, _)| name == "Action") {
            Some((_, action)) => {
                let others = parameters.iter().filter(|(name, _)| name != "Action" && name != "Version");
                others.fold(action.clone(), |line, (name, value)| format!("{line} {name}={value}"))
            }
            None => format!("{} {}", request.method, request.path()),
        };
        self.requests.push(line);
    }

    /// Whether a rate allows one more request now.
    fn within_rate(&mut self) -> bool {
        let rate = self.faults.iter().find_map(|fault| if let Fault::Rate(rate) = fault { Some(*rate) } else { None });
        let Some(rate) = rate.map(f64::from) else { return true };
        let now = Instant::now();
        let (left, since) = self.allowance.unwrap_or((rate, now));
        let left = (left + rate * (now - since).as_secs_f64()).min(rate);
        let allowed = left >= 1.0;
        self.allowance = Some((if allowed { left - 1.0 } else { left }, now));
        allowed
    }
}

/// The fields of the form.
fn parameters(request: &Request) -> Vec<(String, String)> {
    let text = |part: &str| String::from_utf8_lossy(&decoded(&part.replace('+', " "))).into_owned();
    let body = String::from_utf8_lossy(&request.body);
    let pairs = body.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (text(n), text(v))).collect()
}
