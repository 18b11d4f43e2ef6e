//! A metadata service in this process, on threads: version 2 of EC2's protocol, with
//! faults that a test can switch on. It lives until the last clone of its handle is dropped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::door::{Door, read_request};
use super::sigv4::{Request, decoded};

/// The served items below `latest/`: `meta-data/instance-id`, `user-data`, …
///
/// The identity document is made from the `meta-data/` items, with which EC2's agrees,
/// unless it is an item itself.
pub type Items = BTreeMap<String, Vec<u8>>;

const IDENTITY: &str = "dynamic/instance-identity/document";
const TAGS: &str = "meta-data/tags/instance";

/// Faults; several can be active at once.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This number of requests is answered with 503.
    Unavailable(u32),
    /// Every second request is answered with 429.
    Throttle,
    /// A token is valid for this number of requests, then 401.
    ExpireTokenAfter(u32),
    /// Bodies come byte by byte, with this pause before each.
    Trickle(Duration),
    /// Every request is answered with a redirect.
    Redirect,
    /// Every item has this number of bytes.
    Huge(usize),
    /// This item is not UTF-8.
    InvalidUtf8(String),
    /// Requests for a token are answered with 403, as if the service were switched off.
    Refuse,
    /// Requests are read but never answered.
    Hang,
    /// Nothing is answered before so many requests wait; then the next number holds, and after the last none.
    Rounds(Vec<usize>),
    /// Version 1: it has no tokens and needs none.
    V1Only,
    /// Every item is a page of HTML, with status 200.
    ErrorPage,
    /// This number of connections is closed in the middle of an item.
    Cut(u32),
}

/// The instance of [`titus_bootstrap::facts::sample::facts`].
pub fn sample() -> Items {
    let instance = titus_bootstrap::facts::sample::facts().instance.unwrap();
    let interface = format!("meta-data/network/interfaces/macs/{}", instance.mac);
    let mut items = Items::new();
    let mut set = |path: &str, value: Option<String>| value.map(|v| items.insert(path.to_owned(), v.into_bytes()));
    set("meta-data/instance-id", Some(instance.id));
    set("meta-data/instance-type", Some(instance.instance_type));
    set("meta-data/placement/availability-zone", Some(instance.zone));
    set("meta-data/placement/region", Some(instance.region));
    set("meta-data/local-ipv4", Some(instance.local_ipv4));
    set("meta-data/local-hostname", Some(instance.hostname));
    set("meta-data/mac", Some(instance.mac));
    set(&format!("{interface}/vpc-id"), instance.vpc_id);
    set(&format!("{interface}/owner-id"), instance.account_id);
    set("meta-data/reservation-id", instance.reservation_id);
    set("meta-data/ami-id", instance.ami_id);
    set("meta-data/autoscaling/target-lifecycle-state", instance.lifecycle_state);
    for (key, value) in instance.tags.unwrap_or_default() {
        set(&format!("{TAGS}/{key}"), Some(value));
    }
    items
}

/// A handle to the service.
#[derive(Debug, Clone)]
pub struct Metadata {
    shared: Arc<Shared>,
    door: Arc<Door>,
}

impl Metadata {
    /// Serves these items on this listener.
    pub fn serve(listener: TcpListener, items: Items) -> Metadata {
        let shared = Arc::new(Shared { address: listener.local_addr().unwrap(), ..Shared::default() });
        shared.state().items = items.into_iter().map(|(path, value)| (path, Some(value))).collect();
        let (serving, ending) = (Arc::clone(&shared), Arc::clone(&shared));
        let door = Door::open(listener, move |stream| serving.converse(stream), move || ending.close());
        Metadata { shared, door: Arc::new(door) }
    }

    /// Serves these items on a loopback port of its own.
    pub fn start(items: Items) -> Metadata {
        Metadata::serve(TcpListener::bind("127.0.0.1:0").unwrap(), items)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Changes or removes an item.
    pub fn set(&self, path: &str, value: Option<Vec<u8>>) {
        self.shared.state().items.insert(path.to_owned(), value);
    }

    /// The answer for an item.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.shared.state().items.get(path).cloned().flatten()
    }

    /// Sets whether a request needs a token (the instance's `HttpTokens`); it does by default. An optional token is
    /// still checked if a request has one.
    pub fn require_tokens(&self, required: bool) {
        self.shared.state().tokens_optional = !required;
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

    /// All requests so far: `PUT /latest/api/token`, `GET /latest/user-data`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }

    /// How many rounds of requests there were, where [`Fault::Rounds`] says how large each is: a client with another
    /// number of requests under way makes more.
    pub fn rounds(&self) -> usize {
        self.shared.state().round
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

impl Default for Shared {
    fn default() -> Self {
        Shared { address: ([0, 0, 0, 0], 0).into(), state: Mutex::default(), changed: Condvar::new() }
    }
}

#[derive(Debug, Default)]
struct State {
    items: BTreeMap<String, Option<Vec<u8>>>,
    faults: Vec<Fault>,
    requests: Vec<String>,
    /// How often each token was used; the n-th is called `token-n`.
    tokens: Vec<u32>,
    tokens_optional: bool,
    /// How many rounds were complete, and how many requests wait for the next; see [`Fault::Rounds`].
    round: usize,
    waiting: usize,
    closed: bool,
}

#[derive(Default)]
struct Reply {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
    /// The pause before each byte of the body.
    pause: Duration,
    cut: bool,
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

    /// Waits until the round is complete that this request belongs to.
    fn join_round(&self) {
        let mut state = self.state();
        let round = state.round;
        state.waiting += 1;
        let sizes =
            state.faults.iter().find_map(|fault| if let Fault::Rounds(sizes) = fault { Some(sizes) } else { None });
        if sizes.and_then(|sizes| sizes.get(round)).is_none_or(|size| state.waiting >= *size) {
            state.round += 1;
            state.waiting = 0;
            self.changed.notify_all();
        }
        let waits = |state: &mut State| !state.closed && state.round == round;
        drop(self.changed.wait_while(state, waits).unwrap_or_else(|p| p.into_inner()));
    }

    /// Answers one request after another until the client or the service goes.
    fn converse(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader)? {
            self.state().requests.push(format!("{} {}", request.method, request.target));
            self.join_round();
            let hung = |state: &mut State| !state.closed && state.has(|fault| matches!(fault, Fault::Hang));
            drop(self.changed.wait_while(self.state(), hung).unwrap_or_else(|p| p.into_inner()));
            let reply = self.state().answer(&request);

            let Reply { status, headers, body, pause, cut } = reply;
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nServer: EC2ws\r\n\r\n");
            let whole = [head.into_bytes(), body].concat();
            let (head, body) = whole.split_at(whole.len() - length);
            if cut {
                return stream.write_all(&whole[..whole.len() - length.div_ceil(2)]);
            }
            if pause.is_zero() {
                stream.write_all(&whole)?;
                continue;
            }
            stream.write_all(head)?;
            for byte in body {
                let (state, _) = self
                    .changed
                    .wait_timeout_while(self.state(), pause, |state| !state.closed)
                    .unwrap_or_else(|p| p.into_inner());
                drop(state);
                stream.write_all(&[*byte])?;
            }
        }
        Ok(())
    }
}

impl State {
    fn has(&self, is: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(is)
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let mut reply = self.answer_or_fault(request);
        for fault in &mut self.faults {
            match fault {
                Fault::Trickle(pause) => reply.pause = *pause,
                Fault::Cut(left) if *left > 0 && request.method == "GET" => {
                    *left -= 1;
                    reply.cut = true;
                }
                _ => {}
            }
        }
        reply
    }

    fn answer_or_fault(&mut self, request: &Request) -> Reply {
        let is_token = request.method == "PUT";
        for fault in &mut self.faults {
            match fault {
                Fault::Unavailable(left) if *left > 0 => {
                    *left -= 1;
                    return page("503 Service Unavailable");
                }
                Fault::Throttle if self.requests.len().is_multiple_of(2) => return page("429 Too Many Requests"),
                Fault::Redirect => {
                    let headers = "Location: http://login.example.com/\r\n".into();
                    return Reply { headers, ..page("302 Found") };
                }
                Fault::Refuse if is_token => return page("403 Forbidden"),
                Fault::V1Only if is_token => return page("405 Method Not Allowed"),
                _ => {}
            }
        }
        if is_token { self.new_token(request) } else { self.item(request) }
    }

    fn new_token(&mut self, request: &Request) -> Reply {
        if request.target != "/latest/api/token" {
            return page("404 Not Found");
        }
        // EC2 gives no token to a request that came through a proxy.
        if request.header("x-forwarded-for").is_some() {
            return page("403 Forbidden");
        }
        let ttl = request.header("x-aws-ec2-metadata-token-ttl-seconds").and_then(|ttl| ttl.parse::<u32>().ok());
        if !ttl.is_some_and(|ttl| (1..=21600).contains(&ttl)) {
            return page("400 Bad Request");
        }
        self.tokens.push(0);
        Reply { status: "200 OK", body: format!("token-{}", self.tokens.len()).into_bytes(), ..Reply::default() }
    }

    fn item(&mut self, request: &Request) -> Reply {
        if !self.authorized(request) {
            return page("401 Unauthorized");
        }
        let path = decoded(request.target.strip_prefix("/latest/").unwrap_or_default());
        let path = String::from_utf8_lossy(&path);
        let path = path.trim_end_matches('/');
        for fault in &self.faults {
            let body = match fault {
                Fault::Huge(bytes) => vec![b'a'; *bytes],
                Fault::ErrorPage => page("").body,
                Fault::InvalidUtf8(item) if item == path => b"i-0\xff\xfe".to_vec(),
                _ => continue,
            };
            return Reply { status: "200 OK", body, ..Reply::default() };
        }
        let body = match self.items.get(path) {
            Some(item) => item.clone(),
            None if path == IDENTITY => Some(self.identity()),
            None => self.listing(path),
        };
        match body {
            Some(body) => Reply { status: "200 OK", body, ..Reply::default() },
            None => page("404 Not Found"),
        }
    }

    fn authorized(&mut self, request: &Request) -> bool {
        if self.has(|fault| matches!(fault, Fault::V1Only)) {
            return true;
        }
        let token = request.header("x-aws-ec2-metadata-token");
        if token.is_none() && self.tokens_optional {
            return true;
        }
        let number = token.and_then(|token| token.strip_prefix("token-"));
        let index = number.and_then(|number| number.parse::<usize>().ok()?.checked_sub(1));
        let Some(uses) = index.and_then(|index| self.tokens.get_mut(index)) else {
            return false;
        };
        *uses += 1;
        let uses = *uses;
        !self.has(|fault| matches!(fault, Fault::ExpireTokenAfter(most) if uses > *most))
    }

    /// The identity document, made from the corresponding items.
    fn identity(&self) -> Vec<u8> {
        let item = |path: &str| {
            let value = self.items.get(&format!("meta-data/{path}")).cloned().flatten()?;
            String::from_utf8(value).ok()
        };
        let owner = item("mac").and_then(|mac| item(&format!("network/interfaces/macs/{mac}/owner-id")));
        let document = serde_json::json!({
            "accountId": owner,
            "architecture": "x86_64",
            "availabilityZone": item("placement/availability-zone"),
            "billingProducts": null,
            "imageId": item("ami-id"),
            "instanceId": item("instance-id"),
            "instanceType": item("instance-type"),
            "pendingTime": "2018-05-15T10:31:08Z",
            "privateIp": item("local-ipv4"),
            "region": item("placement/region"),
            "version": "2017-09-30",
        });
        serde_json::to_vec_pretty(&document).unwrap()
    }

    /// The names below a path, one per line, folders with a slash; for tags, the keys.
    fn listing(&self, path: &str) -> Option<Vec<u8>> {
        let folder = format!("{path}/");
        let mut names = Vec::new();
        for (item, value) in &self.items {
            let (Some(rest), Some(_)) = (item.strip_prefix(&folder), value) else { continue };
            let name = match rest.split_once('/') {
                Some((name, _)) if path != TAGS => format!("{name}/"),
                _ => rest.to_owned(),
            };
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        (!names.is_empty()).then(|| names.join("\n").into_bytes())
    }
}

/// A status with EC2's own page for it.
fn page(status: &'static str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html xmlns=\"http://www.w3.org/1999/xhtml\">\n \
         <head>\n  <title>{status}</title>\n </head>\n <body>\n  <h1>{status}</h1>\n </body>\n</html>\n"
    );
    Reply { status, headers: "Content-Type: text/html\r\n".into(), body: body.into_bytes(), ..Reply::default() }
}
