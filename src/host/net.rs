//! The network: small questions to services, and downloads that are bounded.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Host;
use super::json::{Bounded, START};
use super::wait::{Deadline, runtime};
use crate::error::{Error, Kind, Result};

/// What an HTTP server said.
#[derive(Debug)]
pub struct Answer<T = ()> {
    /// Status code.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The first 2 KiB of the body.
    pub start: String,
    /// What was read of the body.
    pub read: T,
}

/// More of an answer than this is not read, bytes. A Mesos master answers `/slaves` with some 10 KiB an agent.
pub const ANSWER_LIMIT: usize = 256 << 20;

/// Proxies for downloads; settings `proxy.*`.
#[derive(Debug, Clone, Default)]
pub struct Proxy {
    /// For `http` addresses.
    pub http: Option<String>,
    /// For `https` addresses.
    pub https: Option<String>,
    /// Names that are asked directly.
    pub no_proxy: Option<String>,
}

fn ask<T>(
    what: String,
    limit: Duration,
    question: impl Future<Output = Result<T, String>>,
) -> Result<Result<T, String>> {
    Deadline::new(what, limit).ask(&runtime()?, question)
}

/// An error with all that lies below it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let line = source.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        next = source.source();
    }
    text
}

/// What to do where a server's certificate is refused, which no other try changes. A certificate that is not valid
/// yet may be the fault of a clock that is not set yet: that passes.
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
        // The source of an `io::Error` is that of the error in it, which it skips.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

/// Why something was not had from a server.
pub(crate) struct NotHad {
    /// In words, without the address.
    pub why: String,
    /// Whether another try may go better.
    pub may_pass: bool,
    /// What to do about it, where that is known.
    pub fix: Option<&'static str>,
}

impl From<reqwest::Error> for NotHad {
    fn from(error: reqwest::Error) -> NotHad {
        let fix = certificate_fix(&error);
        let is_final = fix.is_some() || error.is_redirect() || error.is_builder();
        let may_pass = !is_final && error.status().is_none_or(|status| may_pass(status.as_u16()));
        NotHad { why: chain(&error.without_url()), may_pass, fix }
    }
}

/// A client without TLS or proxy, for the node itself and for the cluster.
fn plain_client() -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|e| chain(&e))
}

/// A client for downloads: through the proxies of the settings, and never from https to http.
pub(crate) fn download_client(proxy: &Proxy) -> Result<reqwest::ClientBuilder, String> {
    let policy =
        reqwest::redirect::Policy::custom(|attempt| match why_not_followed(attempt.previous(), attempt.url()) {
            Some(why) => attempt.error(why),
            None => attempt.follow(),
        });
    // A Referer would carry the query, which signs for an address, to whoever the redirect names.
    let mut builder = reqwest::Client::builder().no_proxy().referer(false).redirect(policy);
    let without = proxy.no_proxy.as_deref().and_then(reqwest::NoProxy::from_string);
    let proxies = [proxy.http.as_ref().map(reqwest::Proxy::http), proxy.https.as_ref().map(reqwest::Proxy::https)];
    for one in proxies.into_iter().flatten() {
        builder = builder.proxy(one.map_err(|e| chain(&e.without_url()))?.no_proxy(without.clone()));
    }
    Ok(builder)
}

/// Why a redirect is not followed, if it is not.
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

/// Sends a request, and has the answer's body read.
async fn http<T>(
    request: impl FnOnce(reqwest::Client) -> reqwest::RequestBuilder,
    read: impl AsyncFnOnce(&mut reqwest::Response) -> Result<(String, T), String>,
) -> Result<Answer<T>, String> {
    // Whoever asks names the address.
    let mut response = request(plain_client()?).send().await.map_err(|e| chain(&e.without_url()))?;
    let location = response.headers().get("location").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let status = response.status().as_u16();
    let (start, read) = read(&mut response).await?;
    Ok(Answer { status, location, start, read })
}

/// The start of a body.
async fn start(response: &mut reqwest::Response) -> Result<(String, ()), String> {
    let mut start = Vec::new();
    while start.len() < START
        && let Some(chunk) = response.chunk().await.map_err(|e| chain(&e.without_url()))?
    {
        start.extend(chunk.iter().take(START - start.len()));
    }
    Ok((String::from_utf8_lossy(&start).into_owned(), ()))
}

/// Gives a body to `read` while it comes.
async fn stream<T: Send + 'static>(
    response: &mut reqwest::Response,
    read: impl FnOnce(&mut dyn std::io::Read) -> serde_json::Result<T> + Send + 'static,
) -> Result<(String, Result<T, String>), String> {
    // Without room for a chunk more, so that what comes fast waits for what reads slowly.
    let (sender, receiver) = std::sync::mpsc::sync_channel(0);
    let reader = std::thread::spawn(move || {
        let mut chunks = Bounded::new(Received { receiver, chunk: Vec::new(), position: 0 });
        // In blocks: a reader that stops at the first wrong byte leaves the start of the answer for a message.
        let read = read(&mut std::io::BufReader::new(&mut chunks));
        let read = read.map_err(|e| format!("it is not the JSON that was asked for: {e}"));
        (chunks.start(), read)
    });
    let mut length = 0_usize;
    while let Some(chunk) = response.chunk().await.map_err(|e| chain(&e.without_url()))? {
        length = length.saturating_add(chunk.len());
        if length > ANSWER_LIMIT {
            return Err(format!("the answer is larger than {} MiB", ANSWER_LIMIT >> 20));
        }
        // One that has read enough has hung up.
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
    /// The addresses of a name; an address is its own.
    ///
    /// # Errors
    /// Outside: a signal. Inside: why the name cannot be looked up, in words.
    pub fn addresses(&self, name: &str, deadline: Duration) -> Result<Result<Vec<IpAddr>, String>> {
        ask(format!("the addresses of {name}"), deadline, addresses(name))
    }

    /// Whether something accepts connections at `host:port`.
    ///
    /// # Errors
    /// Outside: a signal. Inside: the last answer, in words.
    pub fn connect_tcp(&self, address: &str, deadline: Duration) -> Result<Result<(), String>> {
        ask(format!("{address} to accept connections"), deadline, async { connect(address).await.map(drop) })
    }

    /// What `host:port` answers to a line, until it closes the connection; cut at 64 KiB.
    ///
    /// # Errors
    /// Outside: a signal. Inside: the last answer, in words.
    pub fn ask_tcp(&self, address: &str, line: &str, deadline: Duration) -> Result<Result<String, String>> {
        ask(format!("{address} to answer"), deadline, async {
            let mut stream = connect(address).await?;
            stream.write_all(line.as_bytes()).await.map_err(|e| e.to_string())?;
            let mut answer = Vec::new();
            stream.take(64 << 10).read_to_end(&mut answer).await.map_err(|e| e.to_string())?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        })
    }

    /// GET without proxy; a redirect is an answer like any other.
    ///
    /// # Errors
    /// Outside: a signal. Inside: the last answer, in words. A status that reports a failure is not an error.
    pub fn http_get(&self, url: &str, deadline: Duration) -> Result<Result<Answer, String>> {
        ask(format!("{url} to answer"), deadline, http(|client| client.get(url), start))
    }

    /// GET of a JSON document, as [`Host::http_get`]. `read` gets it while it comes, and keeps what is wanted of it.
    ///
    /// # Errors
    /// As there. In the answer: why the document could not be read, in words.
    pub fn http_get_json<T: Send + 'static>(
        &self,
        url: &str,
        deadline: Duration,
        read: impl FnOnce(&mut dyn std::io::Read) -> serde_json::Result<T> + Send + 'static,
    ) -> Result<Result<Answer<Result<T, String>>, String>> {
        let read = async |response: &mut reqwest::Response| stream(response, read).await;
        ask(format!("{url} to answer"), deadline, http(|client| client.get(url), read))
    }

    /// PUT of a JSON document, as [`Host::http_get`].
    ///
    /// # Errors
    /// As there.
    pub fn http_put(&self, url: &str, document: &Json, deadline: Duration) -> Result<Result<Answer, String>> {
        let body = document.to_string();
        let request = |client: reqwest::Client| client.put(url).header("content-type", "application/json").body(body);
        ask(format!("{url} to answer"), deadline, http(request, start))
    }

    /// Downloads at most `limit` bytes. A redirect from https to http is not followed.
    ///
    /// # Errors
    /// `TemporaryFailure` when it cannot be had now; `Failed` when another try would not help: it is larger, the
    /// server refuses it or its certificate is refused. Credentials in the address are not shown. `Interrupted` when a
    /// signal came.
    pub fn download(&self, url: &str, limit: usize) -> Result<Vec<u8>> {
        let failure = |kind, cause: String, fix: Option<&str>| {
            Error::new(kind, format!("{}: cannot be downloaded", crate::secrets::masked(url))).cause(cause).fix(
                fix.unwrap_or(
                    "check the address and the way there (settings proxy.*), or give a path instead of an address",
                ),
            )
        };
        let sent = |error: reqwest::Error| {
            let NotHad { why, may_pass, fix } = error.into();
            failure(if may_pass { Kind::TemporaryFailure } else { Kind::Failed }, why, fix)
        };
        let download = async {
            let client = download_client(&self.proxy).and_then(|client| client.build().map_err(|e| chain(&e)));
            let client = client.map_err(|why| failure(Kind::Failed, why, None))?;
            let mut response =
                client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(sent)?;
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

/// Whether a status is one that another try may not meet.
pub(crate) fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::host::Deadlines;

    /// Nobody listens there. A port that was free a moment ago can be the next test's.
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
        let told = host().download(&url, 11).unwrap_err().to_string();
        assert!(told.contains("larger than 11 bytes") && !told.contains("secret"), "{told}");
    }

    #[test]
    fn an_error_page_is_not_a_download_and_may_pass_or_not() {
        for (status, kind) in
            [("404 Not Found", Kind::Failed), ("403 Forbidden", Kind::Failed), ("503 Busy", Kind::TemporaryFailure)]
        {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\npage");
            let address = answering(answer.leak().as_bytes());
            assert_eq!(host().download(&format!("http://{address}/"), 100).unwrap_err().kind, kind, "{status}");
        }
        assert_eq!(host().download(&format!("http://{NOBODY}/"), 100).unwrap_err().kind, Kind::TemporaryFailure);
    }

    /// A server with a certificate that nobody signed, for any number of connections.
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
        // With a pause between tries that no test would wait for.
        let failure = host().sum_of_download(&url).unwrap().unwrap_err();
        assert!(matches!(failure, crate::host::download::Failure::Refused(..)), "{failure:?}");
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
