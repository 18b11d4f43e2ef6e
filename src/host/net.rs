//! The network: small requests to services, and downloads with a size limit.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::json::{Bounded, START};
use super::wait::{Deadline, runtime};
use super::{Host, no_proxy};
use crate::error::{Error, Kind, Result};

/// The answer of an HTTP server.
#[derive(Debug)]
pub struct Answer<T = ()> {
    /// Status code.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The first 2 KiB of the body.
    pub start: String,
    /// The result of reading the body.
    pub read: T,
}

/// The largest answer that is read, bytes. A Mesos master's answer to `/slaves` has about 10 KiB per agent.
pub const ANSWER_LIMIT: usize = 256 << 20;

/// Proxies for downloads; settings `proxy.*`.
#[derive(Debug, Clone, Default)]
pub struct Proxy {
    /// For `http` addresses.
    pub http: Option<String>,
    /// For `https` addresses.
    pub https: Option<String>,
    /// Hosts that are contacted directly.
    pub no_proxy: Option<String>,
}

impl Proxy {
    /// The proxy for an address, if it has one.
    fn for_url(&self, url: &reqwest::Url) -> Option<String> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let port = url.port_or_known_default().unwrap_or_default();
        proxy
            .clone()
            .filter(|_| !no_proxy::is_direct(self.no_proxy.as_deref(), url.host_str().unwrap_or_default(), port))
    }
}

/// Converts a host name with non-ASCII characters to its form in DNS.
pub fn in_ascii(name: &str) -> Option<String> {
    let url: reqwest::Url = format!("http://{name}/").parse().ok()?;
    url.host_str().map(str::to_owned)
}

fn ask<T>(
    what: String,
    limit: Duration,
    question: impl Future<Output = Result<T, String>>,
) -> Result<Result<T, String>> {
    Deadline::new(what, limit).ask(&runtime()?, question)
}

/// An error with all its sources, in one line and without the names that libraries give to their layers.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let words = plain_words(&error.to_string());
        if !words.is_empty() && !parts.iter().any(|part| part.contains(&words)) {
            parts.push(words);
        }
        next = error.source();
    }
    if parts.is_empty() { "no answer".to_owned() } else { parts.join(": ") }
}

/// Messages of library layers that say nothing about the cause.
const FRAMES: [&str; 14] = [
    "error sending request",
    "Error in the hyper legacy client",
    "client error (Connect)",
    "client error (SendRequest)",
    "client error (Canceled)",
    "client error (ChannelClosed)",
    "error trying to connect",
    "tcp connect error",
    "tcp open error",
    "dns error",
    "connection error",
    "request or response body error",
    "error reading a body from connection",
    "error decoding response body",
];

/// Messages of libraries, and their meaning in an operator's terms.
const WORDS: [(&str, &str); 26] = [
    ("builder error", "this address cannot be used"),
    (
        "invalid peer certificate: UnknownIssuer",
        "the server's certificate is signed by an authority that this machine does not trust",
    ),
    ("invalid peer certificate: Expired", "the server's certificate has expired"),
    ("invalid peer certificate: certificate expired", "the server's certificate has expired"),
    ("invalid peer certificate: NotValidYet", "the server's certificate is not valid yet"),
    ("invalid peer certificate: certificate not valid yet", "the server's certificate is not valid yet"),
    ("invalid peer certificate: NotValidForName", "the server's certificate is for another name"),
    ("invalid peer certificate: certificate not valid for name", "the server's certificate is for another name"),
    ("invalid peer certificate: BadSignature", "the signature of the server's certificate is wrong"),
    ("invalid peer certificate", "the server's certificate cannot be used"),
    ("received corrupt message", "the server does not answer with TLS; it may speak plain HTTP at this port"),
    ("received fatal alert", "the server ended the TLS handshake: it does not accept this program's TLS 1.2 and 1.3"),
    ("peer is incompatible", "the server does not support this program's TLS 1.2 and 1.3"),
    ("peer closed connection without sending TLS close_notify", "the server closed the connection in the middle"),
    ("tls handshake eof", "the server closed the connection during the TLS handshake"),
    ("unexpected EOF during handshake", "the server closed the connection during the TLS handshake"),
    ("connection closed before message completed", "the server closed the connection before its answer was complete"),
    ("end of file before message length reached", "the answer is shorter than the server announced"),
    ("unexpected EOF", "the answer ends in the middle"),
    ("unexpected end of file", "the answer ends in the middle"),
    ("invalid HTTP", "the answer is not HTTP"),
    ("Invalid chunk", "the answer is not HTTP: its parts have wrong lengths"),
    ("message head is too large", "the answer is not HTTP: its head is too long"),
    ("invalid content-length parsed", "the answer is not HTTP: its length is not a number"),
    ("no record", "no name server knows this name"),
    ("Failed to deserialize JSON", "its answer is not the JSON that the Docker Engine's API defines"),
];

/// The plain words for one layer of an error; empty if it says nothing about the cause.
fn plain_words(text: &str) -> String {
    let mut text = text.trim();
    while let Some(rest) = FRAMES.iter().find_map(|frame| text.strip_prefix(frame)) {
        // An address in parentheses can follow.
        let rest = rest.trim_start();
        text = match rest.strip_prefix("for url (") {
            Some(address) => address.split_once(')').map_or("", |(_, rest)| rest),
            None => rest,
        };
        text = text.trim_start_matches(':').trim_start();
    }
    let known = WORDS.iter().find(|(words, _)| text.starts_with(words));
    known.map_or_else(|| text.to_owned(), |(_, plain)| (*plain).to_owned())
}

/// The fix for a refused server certificate, for which another try cannot help. `None` for a certificate that is not
/// valid yet, because the machine's clock may not be set yet.
pub(crate) fn certificate_fix(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    use rustls::CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
    };
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return match why {
                NotValidYet | NotValidYetContext { .. } => None,
                Expired | ExpiredContext { .. } => Some(
                    "see whether this machine's clock is right (date --utc); else the server needs a new certificate",
                ),
                NotValidForName | NotValidForNameContext { .. } => {
                    Some("use a name in the address that the server's certificate is for")
                }
                _ => Some(
                    "install the package ca-certificates; where the server, or a proxy, has a certificate of your own \
                     authority, add that to /usr/local/share/ca-certificates and run update-ca-certificates",
                ),
            };
        }
        // `io::Error::source` skips the wrapped error and returns that error's source.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

/// A failed request to a server.
pub(crate) struct RequestFailure {
    /// The explanation, without the address.
    pub why: String,
    /// Whether another try may succeed.
    pub is_temporary: bool,
    /// What to do about it, if known.
    pub fix: Option<&'static str>,
}

impl From<reqwest::Error> for RequestFailure {
    fn from(error: reqwest::Error) -> RequestFailure {
        let fix = certificate_fix(&error);
        let is_final = fix.is_some() || error.is_redirect() || error.is_builder();
        let is_temporary = !is_final && error.status().is_none_or(|status| is_temporary(status.as_u16()));
        RequestFailure { why: chain(&error.without_url()), is_temporary, fix }
    }
}

/// A client without TLS or proxy, for services on the node and in the cluster.
fn plain_client() -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|e| chain(&e))
}

/// A client for downloads: it uses the proxies of the settings, and follows no redirect from https to http.
pub(crate) fn download_client(proxy: &Proxy) -> Result<reqwest::ClientBuilder, String> {
    let policy =
        reqwest::redirect::Policy::custom(|attempt| match why_not_followed(attempt.previous(), attempt.url()) {
            Some(why) => attempt.error(why),
            None => attempt.follow(),
        });
    // A Referer would send the query, which can be a signature, to the server that the redirect names.
    let mut builder = reqwest::Client::builder().no_proxy().referer(false).redirect(policy);
    if proxy.http.is_some() || proxy.https.is_some() {
        let proxy = proxy.clone();
        builder = builder.proxy(reqwest::Proxy::custom(move |url| proxy.for_url(url)));
    }
    Ok(builder)
}

/// The reason not to follow a redirect, if there is one.
fn why_not_followed(previous: &[reqwest::Url], next: &reqwest::Url) -> Option<&'static str> {
    if next.scheme() != "https" && previous.last().is_some_and(|from| from.scheme() == "https") {
        Some("redirected from https to http")
    } else if previous.len() > 10 {
        Some("redirected more than ten times")
    } else {
        None
    }
}

async fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = name.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    let resolver =
        hickory_resolver::TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(|e| chain(&e))?;
    Ok(resolver.lookup_ip(name).await.map_err(|e| chain(&e))?.iter().collect())
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    let (name, port) = address.rsplit_once(':').ok_or("not host:port")?;
    let port: u16 = port.parse().map_err(|_| "not host:port".to_owned())?;
    let mut last = format!("{name} has no address");
    for address in addresses(name).await? {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

/// Sends a request. With `-v` the program shows the request, its result and duration, but no headers, and the address
/// without user, password and query.
///
/// # Errors
/// Fails when the request fails.
pub async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
    let (client, request) = request.build_split();
    let request = request?;
    let (method, mut url) = (request.method().clone(), request.url().clone());
    url.set_query(None);
    // This fails for an address without a host, which has neither.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    let started = Instant::now();
    let answer = client.execute(request).await;
    let result = match &answer {
        Ok(answer) => answer.status().to_string(),
        // The caller reports the reason.
        Err(error) if error.is_timeout() => "no answer in time".to_owned(),
        Err(error) if error.is_connect() => "no connection".to_owned(),
        Err(_) => "failed".to_owned(),
    };
    tracing::debug!(%method, %url, %result, elapsed = ?started.elapsed(), "request");
    answer
}

/// Sends a request, and reads the body of the answer with `read`.
async fn http<T>(
    request: impl FnOnce(reqwest::Client) -> reqwest::RequestBuilder,
    read: impl AsyncFnOnce(&mut reqwest::Response) -> Result<(String, T), String>,
) -> Result<Answer<T>, String> {
    // The caller's message has the address.
    let mut response = send(request(plain_client()?)).await.map_err(|e| chain(&e.without_url()))?;
    let location = response.headers().get("location").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let status = response.status().as_u16();
    let (start, read) = read(&mut response).await?;
    Ok(Answer { status, location, start, read })
}

/// Reads the start of a body.
async fn read_start(response: &mut reqwest::Response) -> Result<(String, ()), String> {
    let mut start = Vec::new();
    while start.len() < START
        && let Some(chunk) = response.chunk().await.map_err(|e| chain(&e.without_url()))?
    {
        start.extend(chunk.iter().take(START - start.len()));
    }
    Ok((String::from_utf8_lossy(&start).into_owned(), ()))
}

/// Passes a body to `read` while it arrives.
async fn stream<T: Send + 'static>(
    response: &mut reqwest::Response,
    read: impl FnOnce(&mut dyn std::io::Read) -> serde_json::Result<T> + Send + 'static,
) -> Result<(String, Result<T, String>), String> {
    // Without a buffer, so that a fast sender waits for a slow reader.
    let (sender, receiver) = std::sync::mpsc::sync_channel(0);
    let reader = std::thread::spawn(move || {
        let mut chunks = Bounded::new(Received { receiver, chunk: Vec::new(), position: 0 });
        // Buffered: then a reader that stops at the first wrong byte still leaves the start of the answer for a
        // message.
        let read = read(&mut std::io::BufReader::new(&mut chunks));
        let read = read.map_err(|e| format!("it is not the expected JSON: {}", super::json::describe_error(&e)));
        (chunks.start(), read)
    });
    let mut length = 0_usize;
    while let Some(chunk) = response.chunk().await.map_err(|e| chain(&e.without_url()))? {
        length = length.saturating_add(chunk.len());
        if length > ANSWER_LIMIT {
            return Err(format!("the answer is larger than {} MiB", ANSWER_LIMIT >> 20));
        }
        // The reader stops when it has read enough.
        if sender.send(chunk.to_vec()).is_err() {
            break;
        }
    }
    drop(sender);
    reader.join().map_err(|_| "the answer could not be read".into())
}

/// The chunks of a body, one after another.
struct Received {
    receiver: std::sync::mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    position: usize,
}

impl std::io::Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.position == self.chunk.len() {
            let Ok(chunk) = self.receiver.recv() else { return Ok(0) };
            (self.chunk, self.position) = (chunk, 0);
        }
        let mut rest = self.chunk.get(self.position..).unwrap_or_default();
        let count = std::io::Read::read(&mut rest, buffer)?;
        self.position += count;
        Ok(count)
    }
}

impl Host {
    /// The addresses of a name; for an address, the address itself.
    ///
    /// # Errors
    /// The outer result fails when a signal arrives. The inner one fails when the name cannot be looked up; the error
    /// is a message.
    pub fn addresses(&self, name: &str, deadline: Duration) -> Result<Result<Vec<IpAddr>, String>> {
        ask(format!("the addresses of {name}"), deadline, addresses(name))
    }

    /// Checks that something accepts connections at `host:port`.
    ///
    /// # Errors
    /// The outer result fails when a signal arrives. The inner one fails when there is no connection; the error is a
    /// message.
    pub fn connect_tcp(&self, address: &str, deadline: Duration) -> Result<Result<(), String>> {
        ask(format!("{address} to accept connections"), deadline, async { connect(address).await.map(drop) })
    }

    /// Sends a line to `host:port`, and returns what it answers until it closes the connection; at most 64 KiB.
    ///
    /// # Errors
    /// The outer result fails when a signal arrives. The inner one fails when there is no answer; the error is a
    /// message.
    pub fn ask_tcp(&self, address: &str, line: &str, deadline: Duration) -> Result<Result<String, String>> {
        ask(format!("{address} to answer"), deadline, async {
            let mut stream = connect(address).await?;
            stream.write_all(line.as_bytes()).await.map_err(|e| e.to_string())?;
            let mut answer = Vec::new();
            stream.take(64 << 10).read_to_end(&mut answer).await.map_err(|e| e.to_string())?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        })
    }

    /// Sends a GET request without a proxy. Does not follow redirects.
    ///
    /// # Errors
    /// The outer result fails when a signal arrives. The inner one fails when there is no answer; the error is a
    /// message. A status that reports a failure is not an error.
    pub fn http_get(&self, url: &str, deadline: Duration) -> Result<Result<Answer, String>> {
        ask(format!("{url} to answer"), deadline, http(|client| client.get(url), read_start))
    }

    /// Gets a JSON document like [`Host::http_get`]. `read` parses it while it arrives, and keeps what the caller
    /// needs.
    ///
    /// # Errors
    /// Fails when [`Host::http_get`] fails. The result in the answer fails when the document cannot be read; the error
    /// is a message.
    pub fn http_get_json<T: Send + 'static>(
        &self,
        url: &str,
        deadline: Duration,
        read: impl FnOnce(&mut dyn std::io::Read) -> serde_json::Result<T> + Send + 'static,
    ) -> Result<Result<Answer<Result<T, String>>, String>> {
        let read = async |response: &mut reqwest::Response| stream(response, read).await;
        ask(format!("{url} to answer"), deadline, http(|client| client.get(url), read))
    }

    /// Sends a PUT request with a JSON document, like [`Host::http_get`].
    ///
    /// # Errors
    /// Fails when [`Host::http_get`] fails.
    pub fn http_put(&self, url: &str, document: &Json, deadline: Duration) -> Result<Result<Answer, String>> {
        let body = document.to_string();
        let request = |client: reqwest::Client| client.put(url).header("content-type", "application/json").body(body);
        ask(format!("{url} to answer"), deadline, http(request, read_start))
    }

    /// Downloads at most `limit` bytes. Does not follow a redirect from https to http.
    ///
    /// # Errors
    /// Returns `TemporaryFailure` when the download is not available now, and `Failed` when another try would not help:
    /// it is too large, the server refuses it, or the server's certificate is not trusted. Errors do not show
    /// credentials in the address. Returns `Interrupted` when a signal arrives.
    pub fn download(&self, url: &str, limit: usize) -> Result<Vec<u8>> {
        let failure = |kind, cause: String, fix: Option<&str>| {
            Error::new(kind, format!("{}: cannot be downloaded", crate::secrets::masked(url))).cause(cause).fix(
                fix.unwrap_or(
                    "check the address and the route there (settings proxy.*), or give a path instead of an address",
                ),
            )
        };
        let sent = |error: reqwest::Error| {
            let RequestFailure { why, is_temporary, fix } = error.into();
            failure(if is_temporary { Kind::TemporaryFailure } else { Kind::Failed }, why, fix)
        };
        let download = async {
            let client = download_client(&self.proxy).and_then(|client| client.build().map_err(|e| chain(&e)));
            let client = client.map_err(|why| failure(Kind::Failed, why, None))?;
            let mut response =
                send(client.get(url)).await.and_then(reqwest::Response::error_for_status).map_err(sent)?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(sent)? {
                body.extend_from_slice(&chunk);
                if body.len() > limit {
                    return Err(failure(Kind::Failed, format!("it is larger than {limit} bytes"), None));
                }
            }
            Ok(body)
        };
        let what = format!("the download of {}", crate::secrets::masked(url));
        let limit = self.deadlines.download;
        let late = || format!("no answer within {}", humantime::format_duration(limit));
        let done = Deadline::new(what, limit).block_on(&runtime()?, download)?;
        done.unwrap_or_else(|| Err(failure(Kind::TemporaryFailure, late(), None)))
    }
}

/// Whether a request that got this status may succeed later.
pub(crate) fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::host::Deadlines;

    /// A port without a listener. Another test could use a port that was free a moment ago.
    pub const NOBODY: &str = "127.0.0.1:9";

    fn answering(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
            }
        });
        address
    }

    fn host() -> Host {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Host::live(Deadlines { download: SECONDS, ..Deadlines::default() })
    }

    const SECONDS: Duration = Duration::from_secs(10);

    #[test]
    fn a_port_answers_or_does_not() {
        let address = answering(b"");
        host().connect_tcp(&address, SECONDS).unwrap().unwrap();
        assert!(host().connect_tcp(NOBODY, SECONDS).unwrap().unwrap_err().contains("refused"));
        assert!(host().connect_tcp("nonsense", SECONDS).unwrap().is_err());
    }

    #[test]
    fn a_redirect_is_an_answer() {
        let address =
            answering(b"HTTP/1.1 307 Temporary\r\nLocation: //other:5050/slaves\r\nContent-Length: 0\r\n\r\n");
        let answer = host().http_get(&format!("http://{address}/slaves"), SECONDS).unwrap().unwrap();
        assert_eq!((answer.status, answer.location.as_deref()), (307, Some("//other:5050/slaves")));
    }

    #[test]
    fn a_redirect_never_leads_from_https_to_http() {
        let follows = |from: &str, to: &str| why_not_followed(&[from.parse().unwrap()], &to.parse().unwrap()).is_none();
        assert!(follows("http://a/x", "https://b/x") && follows("https://a/x", "https://b/x"));
        assert!(follows("http://a/x", "http://b/x"));
        assert!(!follows("https://a/x", "http://b/x") && !follows("https://a/x", "file:///etc/passwd"));
        let often = vec!["https://a/x".parse().unwrap(); 11];
        assert!(why_not_followed(&often, &often[0]).is_some());
    }

    #[test]
    fn a_download_is_bounded_and_hides_credentials() {
        let address = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world");
        let url = format!("http://someone:secret@{address}/key");
        assert_eq!(host().download(&url, 12).unwrap(), b"hello, world");
        let message = host().download(&url, 11).unwrap_err().to_string();
        assert!(message.contains("larger than 11 bytes") && !message.contains("secret"), "{message}");
    }

    #[test]
    fn an_error_page_is_not_a_download() {
        for (status, kind) in
            [("404 Not Found", Kind::Failed), ("403 Forbidden", Kind::Failed), ("503 Busy", Kind::TemporaryFailure)]
        {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\npage");
            let address = answering(answer.leak().as_bytes());
            assert_eq!(host().download(&format!("http://{address}/"), 100).unwrap_err().kind, kind, "{status}");
        }
        assert_eq!(host().download(&format!("http://{NOBODY}/"), 100).unwrap_err().kind, Kind::TemporaryFailure);
    }

    /// A server with a self-signed certificate, for any number of connections.
    fn with_own_certificate() -> SocketAddr {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = std::sync::Arc::new(config.with_single_cert(vec![own.cert.der().clone()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut connection = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
                while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
            }
        });
        address
    }

    #[test]
    fn a_certificate_that_is_refused_ends_a_download_at_once() {
        let url = format!("https://localhost:{}/key", with_own_certificate().port());
        let error = host().download(&url, 100).unwrap_err();
        assert_eq!(error.kind, Kind::Failed, "{error}");
        assert!(error.fix.unwrap().contains("ca-certificates"));
        // Another try would come after a pause that is too long for a test.
        let failure = host().checksum_of_download(&url).unwrap().unwrap_err();
        assert!(matches!(failure, crate::host::download::Failure::Refused(..)), "{failure:?}");
    }

    #[test]
    fn no_failure_has_words_of_a_library() {
        let assert_plain = |shown: &str| {
            let word = crate::parsers::JARGON.iter().find(|word| shown.contains(*word));
            assert_eq!(word, None, "{shown}");
            assert!(!shown.trim().is_empty());
        };
        let mut urls = vec![format!("http://{NOBODY}/"), "http://no-such-name.invalid/".to_owned()];
        for answer in [
            &b""[..],
            b"garbage\r\n\r\n",
            b"HTTP/9.9 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{\"a\":",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<htm>",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]",
        ] {
            urls.push(format!("http://{}/", answering(answer)));
        }
        let host = host();
        for url in &urls {
            let read = |answer: &mut dyn std::io::Read| serde_json::from_reader::<_, BTreeMap<String, u16>>(answer);
            match host.http_get_json(url, Duration::from_secs(2), read).unwrap() {
                Ok(answer) => assert_plain(&answer.read.unwrap_err()),
                Err(why) => assert_plain(&why),
            }
            if let Err(why) = host.http_get(url, Duration::from_secs(2)).unwrap() {
                assert_plain(&why);
            }
        }
        let tls = with_own_certificate().port();
        for address in [format!("localhost:{tls}"), format!("127.0.0.1:{tls}"), answering(b"HTTP/1.1 400 no\r\n\r\n")] {
            let why = host.http_get(&format!("https://{address}/"), Duration::from_secs(2)).unwrap().unwrap_err();
            assert_plain(&why);
        }
        use rustls::CertificateError as Fault;
        for fault in [
            rustls::Error::InvalidCertificate(Fault::Expired),
            rustls::Error::InvalidCertificate(Fault::NotValidYet),
            rustls::Error::InvalidCertificate(Fault::UnknownIssuer),
            rustls::Error::InvalidCertificate(Fault::NotValidForName),
            rustls::Error::InvalidCertificate(Fault::Revoked),
            rustls::Error::InvalidCertificate(Fault::BadSignature),
            rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure),
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
            rustls::Error::PeerIncompatible(rustls::PeerIncompatible::NoCipherSuitesInCommon),
        ] {
            assert_plain(&chain(&std::io::Error::new(std::io::ErrorKind::InvalidData, fault)));
        }
    }

    #[test]
    fn each_fault_of_a_certificate_has_its_fix() {
        use rustls::CertificateError as Fault;
        let fix = |fault| {
            let inner = std::io::Error::new(std::io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(fault));
            certificate_fix(&std::io::Error::other(inner))
        };
        assert!(fix(Fault::Expired).unwrap().contains("date --utc"));
        assert!(fix(Fault::NotValidForName).unwrap().contains("a name in the address"));
        assert!(fix(Fault::UnknownIssuer).unwrap().contains("update-ca-certificates"));
        assert!(fix(Fault::Revoked).is_some() && fix(Fault::BadEncoding).is_some());
        assert_eq!(fix(Fault::NotValidYet), None);
        assert_eq!(certificate_fix(&std::io::Error::other("refused")), None);
    }
}
