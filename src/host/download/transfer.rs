//! One download: it continues where an earlier try or run was cut off, and its SHA-256 is checked.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE, TRANSFER_ENCODING,
};

use crate::error::Result;
use crate::host::Host;
use crate::host::download::cache::{CACHE, Growing, LIMIT, Target};
use crate::host::download::{Download, Failure};
use crate::host::fs::io_error;
use crate::host::net::{self, Proxy, RequestFailure, chain, download_client, is_temporary};
use crate::host::wait::{self, Deadline};

/// One download, and its limits.
pub(super) struct Transfer {
    url: String,
    /// The address without secrets.
    shown: String,
    /// `None` if only the SHA-256 is needed.
    target: Option<Target>,
    proxy: Proxy,
    /// The size limit, bytes.
    limit: u64,
    /// For all tries together.
    deadline: Duration,
    /// The download is tried again when the server sends nothing for this time.
    stall: Duration,
    /// The first pause between two tries; each later one is twice as long.
    pause: Duration,
}

/// How a try ended.
enum Trial {
    /// Another try may succeed; the message of this one.
    Again(String),
    /// No other try can succeed.
    End(Failure),
}

impl Transfer {
    /// A download from `url`, with the proxies and the deadline of `host`.
    pub(super) fn new(host: &Host, url: &str, target: Option<Target>) -> Transfer {
        Transfer {
            url: url.to_owned(),
            shown: crate::secrets::masked(url),
            target,
            proxy: host.proxy.clone(),
            limit: LIMIT,
            deadline: host.deadlines.download,
            stall: Duration::from_secs(30),
            pause: Duration::from_secs(1),
        }
    }

    /// Starts on a separate thread.
    pub(super) fn spawn(self, download: Arc<Download>) {
        std::thread::spawn(move || download.end(self.run(&download)));
    }

    fn run(&self, download: &Download) -> Result<String, Failure> {
        let mut growing = match &self.target {
            None => Growing::without_file(),
            Some(target) => {
                if target.is_whole().map_err(|e| disk(&e))? {
                    return Ok(target.sha256.clone());
                }
                Growing::open(&target.part).map_err(|e| disk(&e))?
            }
        };
        let runtime = wait::runtime().map_err(|e| Failure::Refused(e.to_string(), None))?;
        let fetched = runtime.block_on(self.fetch(&mut growing, download));
        let Some(target) = &self.target else { return fetched };
        match &fetched {
            Ok(_) => growing.finish(target).map_err(|e| disk(&e))?,
            // The next run continues from a partial download. A wrong one is removed, and so is one on a full disk.
            Err(Failure::Refused(..) | Failure::Late(_)) if growing.length > 0 => {}
            Err(_) => {
                let _ = std::fs::remove_file(&target.part);
            }
        }
        fetched
    }

    /// Tries until the deadline, as long as another try may help.
    async fn fetch(&self, growing: &mut Growing, download: &Download) -> Result<String, Failure> {
        let client = download_client(&self.proxy)
            .and_then(|builder| {
                let patient = builder.connect_timeout(self.stall).read_timeout(self.stall);
                patient.build().map_err(|e| chain(&e.without_url()))
            })
            .map_err(|why| Failure::Refused(why, None))?;
        let deadline = Deadline::new(&self.shown, self.deadline);
        let (mut pause, mut has_restarted) = (self.pause, false);
        loop {
            let before = growing.length;
            let tried = tokio::time::timeout(deadline.left(), self.try_to_fetch(&client, growing, download)).await;
            let answer = match tried {
                Ok(Ok(whole)) => {
                    let is = growing.checksum();
                    if self.target.as_ref().is_none_or(|target| target.sha256 == is) {
                        return Ok(is);
                    }
                    // If the file came in one piece, the server has the wrong file.
                    if has_restarted || (whole && !growing.pieced) {
                        return Err(Failure::Checksum(is, growing.length));
                    }
                    tracing::warn!("{}: pieces do not fit together, downloading it again", self.shown);
                    has_restarted = true;
                    growing.restart().map_err(|e| disk(&e))?;
                    continue;
                }
                Ok(Err(Trial::End(failure))) => return Err(failure),
                Ok(Err(Trial::Again(answer))) => answer,
                Err(_) => "it was still in progress".into(),
            };
            // A server that sends a piece each time is not down.
            if growing.length > before {
                pause = self.pause;
            }
            if !download
                .pause_before_retry(&format!("downloading {}", self.shown), &answer, &mut pause, &deadline)
                .await
            {
                return Err(Failure::Late(answer));
            }
        }
    }

    /// Reads one answer to its end. Returns whether a truncated answer would have been recognized.
    async fn try_to_fetch(
        &self,
        client: &reqwest::Client,
        growing: &mut Growing,
        download: &Download,
    ) -> Result<bool, Trial> {
        let mut response = self.request(client, growing).await?;
        if growing.length == 0 {
            growing.validator = validator(response.headers());
        } else {
            growing.pieced = true;
        }
        let rest = response.content_length().map(|rest| growing.length.saturating_add(rest));
        let all = range(response.headers()).and_then(|(_, all)| all).or(rest);
        if all.is_some_and(|all| all > self.limit) {
            return Err(Trial::End(Failure::TooLarge));
        }
        loop {
            let (done, total) = (growing.length, all.unwrap_or(0));
            download.note(|progress| {
                progress.parts.insert(String::new(), (done, total));
            });
            let Some(bytes) = response.chunk().await.map_err(Trial::from_error)? else { break };
            if growing.length + bytes.len() as u64 > self.limit {
                return Err(Trial::End(Failure::TooLarge));
            }
            growing.add(&bytes).map_err(|e| Trial::End(disk(&e)))?;
        }
        match all {
            Some(all) if growing.length < all => {
                Err(Trial::Again(format!("it ended after {} of {all} bytes", growing.length)))
            }
            _ => Ok(all.is_some() || response.headers().contains_key(TRANSFER_ENCODING)),
        }
    }

    /// Requests the rest of the file, or all of it.
    async fn request(&self, client: &reqwest::Client, growing: &mut Growing) -> Result<reqwest::Response, Trial> {
        loop {
            let mut request = client.get(&self.url).header(ACCEPT_ENCODING, "identity");
            if growing.length > 0 {
                request = request.header(RANGE, format!("bytes={}-", growing.length));
                if let Some(validator) = &growing.validator {
                    request = request.header(IF_RANGE, validator);
                }
            }
            let response = net::send(request).await.map_err(Trial::from_error)?;
            let start = range(response.headers()).map(|(start, _)| start);
            match response.status().as_u16() {
                206 if growing.length > 0 && start == Some(growing.length) => return Ok(response),
                // The server does not support ranges, or its file has changed.
                200 => {
                    if growing.length > 0 {
                        growing.restart().map_err(|e| Trial::End(disk(&e)))?;
                    }
                    return Ok(response);
                }
                206 | 416 if growing.length > 0 => growing.restart().map_err(|e| Trial::End(disk(&e)))?,
                status => {
                    let answer = format!("its server answers {}", response.status());
                    return Err(if is_temporary(status) {
                        Trial::Again(answer)
                    } else {
                        Trial::End(Failure::Refused(answer, None))
                    });
                }
            }
        }
    }
}

fn disk(error: &std::io::Error) -> Failure {
    Failure::Disk(io_error("filled with a download", CACHE, error))
}

impl Trial {
    fn from_error(error: reqwest::Error) -> Trial {
        let RequestFailure { why, is_temporary, fix } = error.into();
        if is_temporary { Trial::Again(why) } else { Trial::End(Failure::Refused(why, fix)) }
    }
}

/// The start of a range, and the length of the whole file: `Content-Range: bytes 5-9/10` (RFC 9110, 14.4).
fn range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (part, all) = text.split_once('/')?;
    Some((part.split_once('-')?.0.trim().parse().ok()?, all.trim().parse().ok()))
}

/// A value for `If-Range` (RFC 9110, 13.1.5): a strong entity tag, or else a date.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(ETAG).filter(|tag| tag.starts_with('"')).or_else(|| text(LAST_MODIFIED))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::sync::Mutex;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::host::net::tests::NOBODY;

    const BODY: &str = "what a deb has in it";

    /// The address of a server, and its requests so far, in lower case.
    struct Server {
        address: String,
        requests: Arc<Mutex<Vec<String>>>,
    }

    /// Starts a server. `answer` returns the bytes for the n-th request (from 0) and the byte at which its range
    /// starts. The server then closes the connection, or keeps it open if the answer ends in `HOLD`.
    fn serve(answer: impl Fn(usize, usize) -> String + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut held: Vec<TcpStream> = Vec::new();
            for (n, stream) in listener.incoming().flatten().enumerate() {
                let mut reader = BufReader::new(stream);
                let mut request = String::new();
                while reader.read_line(&mut request).is_ok_and(|n| n > 2) {}
                let request = request.to_lowercase();
                let start = request.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next());
                let answer = answer(n, start.map_or(0, |start| start.parse().unwrap()));
                log.lock().unwrap().push(request);
                let mut stream = reader.into_inner();
                let _ = stream.write_all(answer.trim_end_matches(HOLD).as_bytes());
                if answer.ends_with(HOLD) {
                    held.push(stream);
                }
            }
        });
        Server { address, requests }
    }

    const HOLD: char = '\u{1}';

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nETag: \"one\"\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn partial(start: usize) -> String {
        let (all, rest) = (BODY.len(), &BODY[start..]);
        format!(
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes {start}-{}/{all}\r\nContent-Length: {}\r\n\r\n{rest}",
            all - 1,
            rest.len()
        )
    }

    fn status(line: &str) -> String {
        format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n")
    }

    /// An answer with its complete header and the first bytes of its body.
    fn cut(answer: &str, body: usize) -> String {
        answer[..answer.find("\r\n\r\n").unwrap() + 4 + body].to_owned()
    }

    fn sum(text: &str) -> String {
        crate::host::hex(&Sha256::digest(text))
    }

    /// A cache, and a download into it.
    struct Case {
        _directory: tempfile::TempDir,
        transfer: Transfer,
        part: PathBuf,
        whole: PathBuf,
    }

    fn case(server: &Server) -> Case {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), crate::host::Deadlines::default()).unwrap();
        let target = host.place_in_cache(&sum(BODY)).unwrap();
        let (part, whole) = (target.part.clone(), target.whole.clone());
        let url = format!("http://someone:secret@{}/x.deb?X-Amz-Signature=secret", server.address);
        let transfer = Transfer {
            // Long, because a busy machine may be slow; a test whose server holds back answers sets a shorter stall.
            deadline: Duration::from_secs(300),
            stall: Duration::from_secs(60),
            pause: Duration::from_millis(1),
            ..Transfer::new(&host, &url, Some(target))
        };
        Case { _directory: directory, transfer, part, whole }
    }

    impl Case {
        fn run(&self) -> Result<String, Failure> {
            self.transfer.run(&Download::default())
        }

        #[track_caller]
        fn succeeds(&self) {
            assert_eq!(self.run().unwrap(), sum(BODY));
            assert_eq!(std::fs::read_to_string(&self.whole).unwrap(), BODY);
            assert_eq!(std::fs::metadata(&self.whole).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!self.part.exists());
        }

        /// Returns the failure and its message, and checks that no file is left for apt to install.
        #[track_caller]
        fn fails(&self) -> (Failure, String) {
            let failure = self.run().unwrap_err();
            assert!(!self.whole.exists());
            let message = failure.error(&self.transfer.shown, "debs.master", self.transfer.deadline).to_string();
            assert!(!message.contains("secret"), "{message}");
            (failure, message)
        }
    }

    impl Server {
        /// The byte at which the range of each request starts.
        fn starts(&self) -> Vec<Option<usize>> {
            let requests = self.requests.lock().unwrap();
            let start = |request: &String| request.split("\r\nrange: bytes=").nth(1)?.split('-').next()?.parse().ok();
            requests.iter().map(start).collect()
        }
    }

    #[test]
    fn a_complete_file_with_the_right_checksum_is_kept() {
        let server = serve(|_, _| ok(BODY));
        let case = case(&server);
        case.succeeds();
        // A killed run left the complete file: it is not downloaded again.
        case.succeeds();
        assert_eq!(server.starts(), [None]);
        // A file with the right name and other contents is not trusted.
        std::fs::write(&case.whole, "other").unwrap();
        case.succeeds();
        assert_eq!(server.starts(), [None, None]);
    }

    #[test]
    fn a_download_that_stops_halfway_is_continued() {
        // By the place, because a slow machine can cause a second request for the same range.
        let server = serve(|_, start| match start {
            0 => cut(&ok(BODY), 5),
            5 => cut(&partial(start), 4),
            // Sends nothing more, and keeps the connection open.
            9 => cut(&partial(start), 1) + &HOLD.to_string(),
            _ => partial(start),
        });
        let mut case = case(&server);
        case.transfer.stall = Duration::from_millis(500);
        case.succeeds();
        let mut starts = server.starts();
        starts.dedup();
        assert_eq!(starts, [None, Some(5), Some(9), Some(10)]);
        assert!(server.requests.lock().unwrap().iter().any(|request| request.contains("if-range: \"one\"")));
    }

    #[test]
    fn a_later_run_continues_a_partial_download() {
        let server = serve(|_, start| partial(start));
        let case = case(&server);
        std::fs::write(&case.part, &BODY[..7]).unwrap();
        case.succeeds();
        assert_eq!(server.starts(), [Some(7)]);
    }

    #[test]
    fn without_ranges_the_download_starts_again() {
        let nonsense = partial(0);
        for answer in [ok(BODY), status("416 Range Not Satisfiable"), nonsense] {
            let server = serve(move |n, _| if n == 0 { answer.clone() } else { ok(BODY) });
            let case = case(&server);
            std::fs::write(&case.part, &BODY[..7]).unwrap();
            case.succeeds();
            assert_eq!(server.starts()[0], Some(7));
            assert!(server.starts().len() <= 2);
        }
    }

    #[test]
    fn pieces_that_do_not_fit_together_are_thrown_away_once() {
        let server = serve(|_, start| if start > 0 { partial(start) } else { ok(BODY) });
        let case = case(&server);
        std::fs::write(&case.part, "rubbish").unwrap();
        case.succeeds();
        assert_eq!(server.starts(), [Some(7), None]);

        // A longer part, of another version.
        std::fs::remove_file(&case.whole).unwrap();
        std::fs::write(&case.part, "rubbish".repeat(9)).unwrap();
        let server = serve(|_, start| if start > 0 { status("416 No") } else { ok(BODY) });
        let case = Case { transfer: Transfer { url: format!("http://{}/", server.address), ..case.transfer }, ..case };
        case.succeeds();
    }

    #[test]
    fn a_wrong_checksum_is_final_and_reports_the_right_one() {
        let server = serve(|_, _| ok("something else"));
        let case = case(&server);
        std::fs::write(&case.part, "rubbish").unwrap();
        let (failure, message) = case.fails();
        assert!(matches!(failure, Failure::Checksum(is, 14) if is == sum("something else")));
        assert!(message.contains(&format!("set sha256 = \"{}\" in debs.master", sum("something else"))), "{message}");
        assert!(!case.part.exists());
        assert_eq!(server.starts(), [Some(7)], "it came in one piece, and was requested again");
    }

    #[test]
    fn a_truncated_answer_without_length_is_requested_again() {
        let endless = |body: &str| format!("HTTP/1.0 200 OK\r\n\r\n{body}");
        let server = serve(move |n, _| endless(if n == 0 { &BODY[..6] } else { BODY }));
        case(&server).succeeds();
        let server = serve(move |_, _| endless(&BODY[..6]));
        assert!(matches!(case(&server).fails().0, Failure::Checksum(_, 6)));
        assert_eq!(server.starts(), [None, None]);
    }

    #[test]
    fn statuses_are_distinguished() {
        let server = serve(|n, _| if n < 2 { status("503 Busy") } else { ok(BODY) });
        case(&server).succeeds();
        for (line, requests) in [("404 Not Found", 1), ("403 Forbidden", 1), ("304 Not Modified", 1)] {
            let server = serve(move |_, _| status(line));
            let (failure, message) = case(&server).fails();
            assert!(matches!(failure, Failure::Refused(..)) && message.contains(line), "{message}");
            assert_eq!(server.starts().len(), requests);
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_before_and_during_the_download() {
        let endless = format!("HTTP/1.0 200 OK\r\n\r\n{BODY}");
        let continued = format!("HTTP/1.1 206 Partial\r\nContent-Range: bytes 7-9/{}\r\n\r\nabc", u64::MAX);
        for answer in [ok(BODY), endless, continued] {
            let server = serve(move |_, _| answer.clone());
            let mut case = case(&server);
            std::fs::write(&case.part, &BODY[..7]).unwrap();
            case.transfer.limit = 10;
            assert!(matches!(case.fails().0, Failure::TooLarge));
            assert!(!case.part.exists());
            assert_eq!(server.starts().len(), 1);
        }
    }

    #[test]
    fn a_partial_download_is_kept_at_the_deadline() {
        // One byte for each request whose range starts at one of the first three bytes.
        let server = serve(|_, start| cut(&if start > 0 { partial(start) } else { ok(BODY) }, usize::from(start < 3)));
        let mut case = case(&server);
        case.transfer.deadline = Duration::from_millis(100);
        // A busy machine may need several runs; each continues where the last one stopped.
        while std::fs::read_to_string(&case.part).unwrap_or_default() != BODY[..3] {
            let (failure, message) = case.fails();
            assert!(matches!(failure, Failure::Late(_)) && message.contains("continues where it stopped"), "{message}");
            assert!(BODY[..3].starts_with(&std::fs::read_to_string(&case.part).unwrap_or_default()));
        }
        // No server at all.
        case.transfer.deadline = Duration::from_secs(2);
        case.transfer.url = format!("http://someone:secret@{NOBODY}/");
        assert!(case.fails().1.contains("refused"));
    }

    #[test]
    fn a_redirect_is_followed_and_its_secrets_are_not_printed() {
        let server = serve(|_, _| status("404 Not Found"));
        let target = format!("http://other:secret@{}/", server.address);
        let first = serve(move |_, _| format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"));
        case(&first).fails();
        assert_eq!((first.starts().len(), server.starts().len()), (1, 1));
        let nowhere =
            serve(|_, _| "HTTP/1.1 302 Found\r\nLocation: ftp://a:secret@b/\r\nContent-Length: 0\r\n\r\n".into());
        case(&nowhere).fails();
    }

    #[test]
    fn links_in_the_cache_are_replaced_and_never_followed() {
        let server = serve(|_, _| ok(BODY));
        let case = case(&server);
        let victim = case.part.with_file_name("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &case.part).unwrap();
        std::os::unix::fs::symlink(&victim, &case.whole).unwrap();
        case.succeeds();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert!(std::fs::symlink_metadata(&case.whole).unwrap().is_file());
    }

    #[test]
    fn a_download_without_a_target_returns_only_its_checksum() {
        let server = serve(|n, start| if n == 0 { cut(&ok(BODY), 5) } else { partial(start) });
        let case = case(&server);
        let transfer = Transfer { target: None, ..case.transfer };
        assert_eq!(transfer.run(&Download::default()).unwrap(), sum(BODY));
        assert!(!case.part.exists() && !case.whole.exists());
    }

    #[test]
    fn a_step_joins_a_download_that_has_started() {
        let server = serve(|_, _| ok(BODY));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let deadlines = crate::host::Deadlines { download: Duration::from_secs(60), ..Default::default() };
        let host = Host::tree(directory.path(), deadlines).unwrap();
        let url = format!("http://{}/x.deb", server.address);
        host.begin_download(&url, &sum(BODY));
        host.join_download(&url, &sum(BODY)).unwrap().unwrap();
        assert_eq!(server.starts().len(), 1);
        assert_eq!(host.checksum_of_download(&url).unwrap().unwrap(), sum(BODY));
    }
}
