//! EC2, Auto Scaling and S3 in this process, on threads: the calls that the program makes, with every signature
//! checked, and faults that can be switched on. It lives until the last clone of its handle is dropped.

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

/// What goes wrong; several can at once.
#[derive(Debug, Clone)]
pub enum Fault {
    /// So many requests are throttled, in the words of their service.
    Throttle(u32),
    /// So many requests a second are answered, and as many at once; the rest is throttled.
    Rate(u32),
    /// So many requests are answered with 503 and a page.
    Unavailable(u32),
    /// This action is allowed to nobody.
    Deny(&'static str),
    /// So many requests come with a token that has expired, it says.
    Expired(u32),
    /// Its clock is so many seconds ahead.
    Clock(i64),
    /// Bodies come byte by byte, with this pause before each.
    Trickle(Duration),
    /// Requests are read and never answered.
    Hang,
    /// So many connections are closed instead of an answer.
    Close(u32),
    /// So many connections are closed in the middle of an answer.
    Cut(u32),
    /// Everything is answered with this status and text.
    Text(u16, String),
    /// Everything is answered with a body that does not end.
    Endless,
}

/// A handle to the APIs.
#[derive(Debug, Clone)]
pub struct Aws {
    shared: Arc<Shared>,
    door: Arc<Door>,
}

impl Aws {
    /// Serves this account, in a region, to whoever comes to this listener with these keys.
    pub fn serve(listener: TcpListener, region: &str, account: Account, keys: &Keys) -> Aws {
        let state = State { region: region.to_owned(), account, keys: vec![keys.clone()], ..State::default() };
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { address, state: Mutex::new(state), changed: Condvar::new() });
        let (serving, ending) = (Arc::clone(&shared), Arc::clone(&shared));
        let door = Door::open(listener, move |stream| serving.converse(stream), move || ending.close());
        Aws { shared, door: Arc::new(door) }
    }

    /// Serves the sample instance's account on loopback, on a port of its own.
    pub fn start(account: Account, keys: &Keys) -> Aws {
        let region = titus_bootstrap::facts::sample::facts().instance.unwrap().region;
        Aws::serve(TcpListener::bind("127.0.0.1:0").unwrap(), &region, account, keys)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Looks at the account, or changes it.
    pub fn account<T>(&self, change: impl FnOnce(&mut Account) -> T) -> T {
        change(&mut self.shared.state().account)
    }

    /// Accepts these keys from now on, and no others.
    pub fn accept(&self, keys: &Keys) {
        self.shared.state().keys = vec![keys.clone()];
    }

    /// Switches a fault on, from the next request on.
    pub fn fault(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    /// Switches all faults off; what hangs is answered.
    pub fn mend(&self) {
        self.shared.state().faults.clear();
        self.shared.changed.notify_all();
    }

    /// All requests until now: `DescribeTags Filter.1.Name=resource-id …`, `HEAD /BUCKET`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }

    /// The most requests that were answered at once.
    pub fn most_at_once(&self) -> usize {
        self.shared.state().most
    }

    /// How many connections there were.
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
    /// Requests that are being answered, and the most of them.
    open: usize,
    most: usize,
    /// What may still be answered under [`Fault::Rate`], and since when that is known.
    allowance: Option<(f64, Instant)>,
    closed: bool,
}

/// What is sent.
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

    /// Ends what waits.
    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Answers one request after another until one of both goes.
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

    /// Sends an answer; `false`: the connection ends.
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
            // Until the other side goes.
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

    /// Whether a fault of some number of requests has one left; then it has one less.
    fn spend(&mut self, of: impl Fn(&mut Fault) -> Option<&mut u32>) -> bool {
        let left = self.faults.iter_mut().filter_map(of).find(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }

    /// Its own clock.
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

/// The form's fields.
fn parameters(request: &Request) -> Vec<(String, String)> {
    let text = |part: &str| String::from_utf8_lossy(&decoded(&part.replace('+', " "))).into_owned();
    let body = String::from_utf8_lossy(&request.body);
    let pairs = body.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (text(n), text(v))).collect()
}
