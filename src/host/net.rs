//! The network: small questions to services, and downloads that are bounded.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Host;
use super::wait::{Deadline, runtime};
use crate::error::{Error, Kind, Result};

/// What an HTTP server said.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The body, at most [`ANSWER_LIMIT`].
    pub body: Vec<u8>,
}

/// More of an answer than this is not read, bytes. A Mesos master of a thousand
/// agents answers `/slaves` with some 2 MiB.
pub const ANSWER_LIMIT: usize = 64 << 20;

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

fn http(
    url: &str,
    request: impl FnOnce(reqwest::Client) -> reqwest::RequestBuilder,
    deadline: Duration,
) -> Result<Result<Answer, String>> {
    ask(format!("{url} to answer"), deadline, async {
        // Whoever asks names the address.
        let mut response = request(plain_client()?).send().await.map_err(|e| chain(&e.without_url()))?;
        let body = body(&mut response, ANSWER_LIMIT).await?;
        let location = response.headers().get("location").and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Answer { status: response.status().as_u16(), location, body })
    })
}

/// What an answer carries, at most so many bytes.
async fn body(response: &mut reqwest::Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| chain(&e.without_url()))? {
        body.extend_from_slice(&chunk);
        if body.len() > limit {
            return Err(format!("the answer is larger than {limit} bytes"));
        }
    }
    Ok(body)
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
    /// Outside: a signal. Inside: the last answer, in words. A status that tells of a failure is not an error.
    pub fn http_get(&self, url: &str, deadline: Duration) -> Result<Result<Answer, String>> {
        http(url, |client| client.get(url), deadline)
    }

    /// PUT of a JSON document, as [`Host::http_get`].
    ///
    /// # Errors
    /// As there.
    pub fn http_put(&self, url: &str, document: &Json, deadline: Duration) -> Result<Result<Answer, String>> {
        let body = document.to_string();
        http(url, |client| client.put(url).header("content-type", "application/json").body(body), deadline)
    }

    /// Downloads at most `limit` bytes. A redirect from https to http is not followed.
    ///
    /// # Errors
    /// When it cannot be had, or is larger. Credentials in the address are not shown. `Interrupted` when a signal came.
    pub fn download(&self, url: &str, limit: usize) -> Result<Vec<u8>> {
        let shown = crate::secrets::masked(url);
        let download = async {
            let client = download_client(&self.proxy)?.build().map_err(|e| chain(&e))?;
            let response = client.get(url).send().await.map_err(|e| chain(&e.without_url()))?;
            let mut response = response.error_for_status().map_err(|e| chain(&e.without_url()))?;
            body(&mut response, limit).await
        };
        ask(format!("the download of {shown}"), self.deadlines.download, download)?.map_err(|cause| {
            Error::new(Kind::TemporaryFailure, format!("{shown}: cannot be downloaded"))
                .cause(cause)
                .fix("check the address and the way there (settings proxy.*), or give a path instead of an address")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::host::Deadlines;

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
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        assert!(host().connect_tcp(&closed, SECONDS).unwrap().unwrap_err().contains("refused"));
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
    fn an_error_page_is_not_a_download() {
        let address = answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\npage");
        assert!(host().download(&format!("http://{address}/"), 100).is_err());
    }
}
