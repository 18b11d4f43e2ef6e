//! Pulls of images: they start in the background as soon as the engine answers, and the step that needs one joins it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;

use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::docker::auth::{NoCredentials, Registries, registry};
use crate::host::docker::{absent_is_none, engine_message, open};
use crate::host::download::background::{Background, Progress};
use crate::host::wait::{self, Deadline};

/// The pause between connections to an engine that does not answer yet.
const RETRY: Duration = Duration::from_millis(100);

/// Why an image cannot be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The engine refuses manifests of schema 1, as engines from 26 do.
    OldManifest,
    /// The registry has no such image.
    Absent,
    /// The registry denies access to it.
    Denied,
    /// A credential helper failed, or is not installed yet.
    Credentials,
    /// The registry has it only for other architectures.
    Platform,
    /// The registry allows no more pulls for this time.
    Limited(Duration),
    /// The engine does not accept its name.
    Name,
    /// The registry has a certificate that the engine does not trust, or none.
    Certificate,
    /// The contents from the registry do not match the digest.
    Digest,
    /// The engine's file system is full.
    Space,
    /// Anything else; another try may succeed.
    Other,
}

/// The last answer to a pull that did not succeed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The reason.
    pub reason: Reason,
    /// The engine's message.
    pub answer: String,
}

/// All pulls of a run.
#[derive(Debug, Default)]
pub(crate) struct Pulls(RefCell<BTreeMap<String, Arc<Pull>>>);

type Pull = Background<Result<(), Failure>>;

impl Host {
    /// Starts to pull these images on a separate thread. Does not pull an image that the engine has.
    pub fn begin_pulls(&self, references: &[String]) {
        let mut pulls = self.pulls.0.borrow_mut();
        let new: Vec<(String, Arc<Pull>)> = references
            .iter()
            .filter(|reference| !pulls.contains_key(*reference))
            .map(|reference| (reference.clone(), Arc::default()))
            .collect();
        if new.is_empty() {
            return;
        }
        pulls.extend(new.iter().cloned());
        let (address, limit) = (self.docker.clone(), self.deadlines.pull);
        let registries = self.registries();
        std::thread::spawn(move || {
            let ready = registries.and_then(|registries| Ok((registries, wait::runtime()?)));
            match ready {
                Ok((registries, runtime)) => runtime.block_on(pull_all(&address, limit, &registries, &new)),
                Err(error) => {
                    let failure = Failure { reason: Reason::Other, answer: error.to_string() };
                    new.iter().for_each(|(_, pull)| pull.end(Err(failure.clone())));
                }
            }
        });
    }

    /// Waits for a pull to end, and reports the progress. Starts the pull if necessary.
    ///
    /// # Errors
    /// The outer result fails when a signal arrives, the inner one when the image cannot be pulled.
    pub fn join_pull(&self, reference: &str) -> Result<Result<(), Failure>> {
        self.begin_pulls(&[reference.to_owned()]);
        let Some(pull) = self.pulls.0.borrow().get(reference).cloned() else {
            return Err(Error::failed("a pull was lost"));
        };
        let joined = self.join(&pull, "pull", reference, self.deadlines.pull)?;
        // The pull's own deadline begins only when the engine answers, and the engine may not answer any more.
        let silent = || Failure {
            reason: Reason::Other,
            answer: format!("the Docker Engine at {} does not answer", self.docker),
        };
        let outcome = joined.unwrap_or_else(|| Err(silent()));
        // If the step runs again, it starts a new pull.
        self.pulls.0.borrow_mut().remove(reference);
        Ok(outcome)
    }
}

/// Updates the progress from one of the engine's lines about a layer.
fn add_line(progress: &mut Progress, line: CreateImageInfo) {
    let Some(layer) = line.id else { return };
    let bytes = |n: Option<i64>| u64::try_from(n.unwrap_or(0)).unwrap_or(0);
    let known = progress.parts.entry(layer).or_default();
    match (line.status.as_deref(), line.progress_detail) {
        (Some("Downloading"), Some(detail)) => *known = (bytes(detail.current), bytes(detail.total)),
        (Some("Download complete" | "Pull complete"), _) => known.0 = known.1,
        _ => {}
    }
}

/// For [`crate::parsers`]: the lines of a pull in progress, and the message of one that failed.
pub(super) fn read_as_any_answer(bytes: &[u8]) -> crate::claims::Claim {
    use crate::claims::{holds, sound};
    let mut progress = Progress::default();
    for line in bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
        add_line(&mut progress, line);
    }
    let shown = progress.bar("x");
    holds(shown.len() < 200, || format!("progress as {shown:?}"))?;
    let answer: String = String::from_utf8_lossy(bytes).chars().take(500).collect();
    for status in [0, 400, 401, 404, 500] {
        let error =
            Failure::from_message(status, answer.clone()).error("a/b:1", "images.x", Duration::from_secs(1), "/d");
        sound(&error, error.kind, "image a/b:1")?;
        holds(error.fix.is_some(), || format!("no advice: {error}"))?;
    }
    Ok(())
}

async fn pull_all(address: &str, limit: Duration, registries: &Registries, pulls: &[(String, Arc<Pull>)]) {
    // Without a deadline: a later step may install the engine, and a step joins only after the engine has answered.
    let client = loop {
        match open(address).await {
            Ok((client, _)) => break client,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    let each = pulls.iter().map(|(reference, pull)| pull_one(&client, limit, registries, reference, pull));
    futures_util::future::join_all(each).await;
}

/// Pulls an image; tries until the deadline, as long as another try may help.
async fn pull_one(client: &bollard::Docker, limit: Duration, registries: &Registries, reference: &str, pull: &Pull) {
    let deadline = Deadline::new(reference, limit);
    let mut pause = Duration::from_secs(1);
    loop {
        let tried = tokio::time::timeout(deadline.left(), try_to_pull(client, registries, reference, pull)).await;
        let failure = match tried {
            Ok(Ok(())) => return pull.end(Ok(())),
            Ok(Err(failure)) => failure,
            Err(_) => Failure { reason: Reason::Other, answer: "the pull did not end in time".into() },
        };
        let work = format!("pulling {reference}");
        let may_retry = failure.is_temporary(deadline.left());
        if !(may_retry && pull.pause_before_retry(&work, &failure.answer, &mut pause, &deadline).await) {
            return pull.end(Err(failure));
        }
        pull.note(|progress| progress.parts.clear());
    }
}

async fn try_to_pull(
    client: &bollard::Docker,
    registries: &Registries,
    reference: &str,
    pull: &Pull,
) -> Result<(), Failure> {
    if matches!(absent_is_none(client.inspect_image(reference).await), Ok(Some(_))) {
        return Ok(());
    }
    let (name, tag) = split(reference);
    let options = CreateImageOptions { from_image: Some(name), tag: Some(tag), ..Default::default() };
    let (registries, name) = (registries.clone(), reference.to_owned());
    // A helper blocks its thread; other pulls continue.
    let credentials = tokio::task::spawn_blocking(move || registries.credentials(&name)).await;
    let credentials = credentials.unwrap_or(Ok(None)).map_err(Failure::without_credentials)?;
    let mut lines = client.create_image(Some(options), None, credentials);
    while let Some(line) = lines.next().await {
        let line = line.map_err(|e| Failure::from_error(&e))?;
        pull.note(|progress| add_line(progress, line));
    }
    // A truncated stream can end like a complete one.
    match absent_is_none(client.inspect_image(reference).await) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Failure {
            reason: Reason::Other,
            answer: "the pull ended, but the engine does not have the image".into(),
        }),
        Err(e) => Err(Failure::from_error(&e)),
    }
}

/// The name, and the tag or digest. Without a tag the engine would pull all tags.
fn split(reference: &str) -> (String, String) {
    let (name, tag) = match reference.split_once('@') {
        Some((name, digest)) => (name, digest),
        None => match reference.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (reference, "latest"),
        },
    };
    (name.to_owned(), tag.to_owned())
}

/// How long a registry that answered with status 429 allows no more pulls. Docker Hub counts over six hours and does
/// not say how much of that time is left. A registry that names no time limits requests per second.
fn rate_limit(answer: &str) -> Option<Duration> {
    let lower = answer.to_ascii_lowercase();
    if !["toomanyrequests", "too many requests", "status 429", "status: 429", "status code 429"]
        .iter()
        .any(|word| lower.contains(word))
    {
        return None;
    }
    if lower.contains("pull rate limit") {
        return Some(Duration::from_secs(6 * 60 * 60));
    }
    let after = ["retry-after:", "retry after", "try again in", "retry in", "try again after"];
    let named = after.iter().find_map(|words| lower.split_once(words)).and_then(|(_, rest)| {
        let rest = rest.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, unit) = rest.split_at(digits);
        let seconds = match unit.trim_start().chars().next() {
            Some('h') => 60 * 60,
            Some('m') if !unit.trim_start().starts_with("ms") => 60,
            _ => 1,
        };
        Some(Duration::from_secs(number.parse::<u64>().ok()?.saturating_mul(seconds)))
    });
    Some(named.unwrap_or_default())
}

impl Failure {
    fn from_error(error: &EngineError) -> Failure {
        let status =
            if let EngineError::DockerResponseServerError { status_code, .. } = error { *status_code } else { 0 };
        Failure::from_message(status, engine_message(error))
    }

    fn without_credentials(none: NoCredentials) -> Failure {
        let reason = if none.is_temporary { Reason::Other } else { Reason::Credentials };
        Failure { reason, answer: none.why }
    }

    /// The failure for an answer. Engines distinguish these reasons only in the text, which differs between 26 and 29.
    pub fn from_message(status: u16, answer: String) -> Failure {
        let has = |parts: &[&str]| parts.iter().any(|part| answer.contains(part));
        let reason = if has(&["schema 1", "manifest.v1+", "schema1"]) {
            Reason::OldManifest
        } else if has(&["no space left on device", "disk quota exceeded"]) {
            Reason::Space
        } else if has(&[
            "verification failed",
            "unexpected digest",
            "does not match digest",
            "unexpected commit digest",
        ]) {
            Reason::Digest
        } else if let Some(limit) = rate_limit(&answer) {
            Reason::Limited(limit)
        } else if has(&["invalid reference format", "repository name must be lowercase", "invalid tag format"]) {
            Reason::Name
        } else if has(&["no matching manifest", "no match for platform", "does not match the specified platform"]) {
            Reason::Platform
        } else if has(&["x509: ", "server gave HTTP response to HTTPS client"])
            && (has(&["is after"]) || !has(&["is not yet valid"]))
        {
            Reason::Certificate
        } else if matches!(status, 401 | 403)
            || has(&[
                "pull access denied",
                "access to the resource is denied",
                "access forbidden",
                "no basic auth credentials",
                "authentication required",
                "unauthorized",
                "403 Forbidden",
                "401 Unauthorized",
                "incorrect username or password",
                "not authorized",
                ": denied: ",
            ])
        {
            Reason::Denied
        } else if matches!(status, 400 | 404) || has(&["manifest unknown", "name unknown", "repository name not known"])
        {
            Reason::Absent
        } else {
            Reason::Other
        };
        Failure { reason, answer }
    }

    /// Whether another try may succeed in the time that is left.
    fn is_temporary(&self, left: Duration) -> bool {
        match self.reason {
            Reason::Other => true,
            Reason::Limited(limit) => limit < left,
            _ => false,
        }
    }

    /// The error of a step with this failure. `setting` is the name of the image's setting, `data_root` the engine's
    /// data directory.
    pub fn error(&self, reference: &str, setting: &str, deadline: Duration, data_root: &str) -> Error {
        let made = |kind, what: &str| Error::new(kind, format!("image {reference}: {what}")).cause(&self.answer);
        match self.reason {
            Reason::OldManifest => made(Kind::Unavailable, "this Docker Engine is too new for it")
                .fix(format!("it is in the old manifest format, which Docker 26 and later refuse: set {setting} to an image in the current format (or install an older engine: packages.docker = [\"docker-ce=VERSION\"])")),
            Reason::Absent => made(Kind::Failed, "its registry does not have it")
                .fix(format!("check its name and tag; the setting {setting} names another")),
            Reason::Denied => made(Kind::Failed, "its registry denies access")
                .fix(format!("check its name: registries also say this about an image that does not exist; the setting {setting} names another\nif it is private, set docker.auth to a docker config.json with credentials for {}", registry(reference))),
            Reason::Credentials => made(Kind::Failed, &format!("no credentials for {}", registry(reference)))
                .fix("install the credential helper that the file of docker.auth names, in /usr/local/bin or /usr/bin, and make sure that this instance's role may request credentials (ECR: ecr:GetAuthorizationToken)"),
            Reason::Platform => made(Kind::Failed, "its registry has it only for other architectures")
                .fix(format!("set {setting} to an image for {} (docker manifest inspect shows what an image is for)", std::env::consts::ARCH)),
            Reason::Limited(limit) => made(
                Kind::Failed,
                &format!("its registry allows this address no more pulls for up to {}", humantime::format_duration(limit)),
            )
            .fix(format!("set docker.auth to a docker config.json with an account for {}, whose limit is higher; or set {setting} to a copy in your own registry, or set registry-mirrors in /etc/docker/daemon.json; or run titus-bootstrap again later", registry(reference))),
            Reason::Name => made(Kind::Failed, "the engine does not accept this name")
                .fix(format!("set {setting} to name:tag or name@sha256:digest, in lower case except the tag")),
            Reason::Certificate => made(Kind::Failed, &format!("the engine does not trust the registry {}", registry(reference)))
                .fix(format!("put the certificate of the authority that signed its certificate into /etc/docker/certs.d/{0}/ca.crt; if it uses plain HTTP, add {0} to insecure-registries in /etc/docker/daemon.json; if it has expired, check this machine's clock (date --utc)", registry(reference))),
            Reason::Digest => made(Kind::Failed, "the contents from its registry do not match its digest")
                .fix(format!("do not trust that registry until you know why; the setting {setting} has the digest")),
            Reason::Space => made(Kind::Failed, "there is no room for it")
                .fix(format!("make room on the file system of {data_root}, where Docker has its data (docker system df, df -h {data_root}), and run titus-bootstrap again")),
            Reason::Other => made(
                Kind::Failed,
                &format!("could not be pulled within {}", humantime::format_duration(deadline)),
            )
            .fix("see whether this node reaches the registry (settings proxy.*, or a mirror in /etc/docker/daemon.json), and run titus-bootstrap again; the setting timeouts.pull allows more time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_never_means_every_tag() {
        let split = |reference| split(reference);
        assert_eq!(split("jplock/zookeeper:3.4.10"), ("jplock/zookeeper".into(), "3.4.10".into()));
        assert_eq!(split("host:5000/zookeeper"), ("host:5000/zookeeper".into(), "latest".into()));
        assert_eq!(split("host:5000/z:1@sha256:ab"), ("host:5000/z:1".into(), "sha256:ab".into()));
    }

    #[test]
    fn messages_of_engines_are_distinguished() {
        let cases = [
            (
                0,
                "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support is disabled by default",
                Reason::OldManifest,
            ),
            (
                500,
                "not implemented: media type \"application/vnd.docker.distribution.manifest.v1+prettyjws\" is no longer supported since containerd v2.1",
                Reason::OldManifest,
            ),
            (0, "failed to register layer: write /x: no space left on device", Reason::Space),
            (0, "filesystem layer verification failed for digest sha256:ab", Reason::Digest),
            (404, "manifest for jplock/zookeeper:nope not found: manifest unknown", Reason::Absent),
            (500, "manifest unknown: The named manifest is not known to the registry.", Reason::Absent),
            (404, "repository host/x not found: name unknown: repository name not known to registry", Reason::Absent),
            (
                404,
                "pull access denied for x/y, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
                Reason::Denied,
            ),
            (500, "Head \"https://h/v2/x/manifests/1\": unauthorized: authentication required", Reason::Denied),
            (
                500,
                "Head \"https://1.dkr.ecr.eu-west-1.amazonaws.com/v2/x/manifests/1\": no basic auth credentials",
                Reason::Denied,
            ),
            (500, "Get https://h/v2/x/manifests/1: denied: Permission \"downloadArtifacts\" denied", Reason::Denied),
            (401, "authorization failed", Reason::Denied),
            (
                500,
                "unknown: failed to resolve reference \"h/x:1\": unexpected status from HEAD request to https://h/v2/x/manifests/1: 403 Forbidden",
                Reason::Denied,
            ),
            (500, "no matching manifest for linux/arm64/v8 in the manifest list entries", Reason::Platform),
            (404, "no match for platform in manifest: not found", Reason::Platform),
            (0, "image with reference x was found but does not match the specified platform", Reason::Platform),
            (400, "invalid reference format", Reason::Name),
            (400, "invalid reference format: repository name must be lowercase", Reason::Name),
            (500, "Get \"https://h/v2/\": x509: certificate signed by unknown authority", Reason::Certificate),
            (
                500,
                "Get \"https://h/v2/\": tls: failed to verify certificate: x509: certificate is valid for a, not b",
                Reason::Certificate,
            ),
            (500, "Get \"https://h:5000/v2/\": http: server gave HTTP response to HTTPS client", Reason::Certificate),
            (
                500,
                "x509: certificate has expired or is not yet valid: current time 2026 is after 2020",
                Reason::Certificate,
            ),
            // The clock may be set later.
            (
                500,
                "Get \"https://h/v2/\": x509: certificate has expired or is not yet valid: current time is before",
                Reason::Other,
            ),
            (
                500,
                "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit",
                Reason::Limited(Duration::from_secs(6 * 60 * 60)),
            ),
            (500, "toomanyrequests: Rate exceeded", Reason::Limited(Duration::ZERO)),
            (
                429,
                "received unexpected HTTP status: 429 Too Many Requests, retry after 90 seconds",
                Reason::Limited(Duration::from_secs(90)),
            ),
            (500, "429 Too Many Requests: try again in 45 minutes", Reason::Limited(Duration::from_secs(45 * 60))),
            // Temporary failures.
            (500, "received unexpected HTTP status: 500 Internal Server Error", Reason::Other),
            (500, "Get \"https://h/v2/\": net/http: request canceled while waiting for connection", Reason::Other),
            (0, "dial unix /run/docker.sock: connect: permission denied", Reason::Other),
            (500, "Get \"http://127.0.0.1:5000/v2/\": dial tcp: connection refused", Reason::Other),
        ];
        for (status, answer, reason) in cases {
            assert_eq!(Failure::from_message(status, answer.into()).reason, reason, "{answer}");
        }
    }

    #[test]
    fn a_pull_that_no_other_try_helps_ends_at_once_with_its_own_advice() {
        let failure = |answer: &str| Failure::from_message(500, answer.into());
        let rate = failure("toomanyrequests: You have reached your pull rate limit.");
        let soon = failure("429 Too Many Requests: try again in 5 minutes");
        let (half, day) = (Duration::from_secs(30 * 60), Duration::from_secs(24 * 60 * 60));
        let platform = format!("set images.zookeeper to an image for {}", std::env::consts::ARCH);
        assert!(
            !rate.is_temporary(half)
                && rate.is_temporary(day)
                && soon.is_temporary(half)
                && !soon.is_temporary(Duration::ZERO)
        );
        for (answer, words) in [
            (
                "unauthorized: authentication required",
                "set docker.auth to a docker config.json with credentials for h:5000",
            ),
            ("toomanyrequests: You have reached your pull rate limit.", "no more pulls for up to 6h"),
            ("no matching manifest for linux/arm64", &platform),
            ("invalid reference format", "set images.zookeeper to name:tag"),
            ("x509: certificate signed by unknown authority", "/etc/docker/certs.d/h:5000/ca.crt"),
            ("no space left on device", "df -h /mnt/docker"),
        ] {
            let failure = failure(answer);
            assert!(failure.reason == rate.reason || !failure.is_temporary(half), "{answer}");
            let message = failure.error("h:5000/x:1", "images.zookeeper", half, "/mnt/docker").to_string();
            assert!(message.contains(words) && message.contains(answer), "{message}");
        }
    }

    #[test]
    fn the_progress_of_layers_adds_up() {
        let line = |json: serde_json::Value| serde_json::from_value::<CreateImageInfo>(json).unwrap();
        let mut progress = Progress::default();
        for (id, current, total) in [("a", 1 << 20, 4 << 20), ("b", 1 << 20, 6 << 20), ("a", 2 << 20, 4 << 20)] {
            add_line(
                &mut progress,
                line(serde_json::json!({
                    "id": id, "status": "Downloading", "progressDetail": { "current": current, "total": total }
                })),
            );
        }
        assert_eq!(progress.summary(), "3 of 10 MiB");
        add_line(
            &mut progress,
            line(serde_json::json!({ "id": "b", "status": "Pull complete", "progressDetail": {} })),
        );
        assert_eq!(progress.summary(), "8 of 10 MiB");
    }
}
