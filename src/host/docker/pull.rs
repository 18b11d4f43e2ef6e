//! Pulls of images: begun in the background as soon as the engine answers, joined by the step
//! that needs one.

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
use crate::host::docker::{absent_is_none, open, words};
use crate::host::download::background::{Background, Progress};
use crate::host::wait::{self, Deadline};

/// How soon an engine that does not answer yet is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// Why an image cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The engine refuses manifests of schema 1, as engines from 26 do.
    OldManifest,
    /// The registry has no such image, or not for us.
    Absent,
    /// What the registry sent is not what the digest names.
    Digest,
    /// The engine's file system is full.
    Space,
    /// Anything else; worth another try.
    Other,
}

/// The last answer to a pull that did not succeed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// The engine's words.
    pub answer: String,
}

/// All pulls of a run.
#[derive(Debug, Default)]
pub(crate) struct Pulls(RefCell<BTreeMap<String, Arc<Pull>>>);

type Pull = Background<Result<(), Failure>>;

impl Host {
    /// Begins to pull these images on a thread of its own. An image that the engine has is not pulled.
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
        std::thread::spawn(move || match wait::runtime() {
            Ok(runtime) => runtime.block_on(pull_all(&address, limit, &new)),
            Err(error) => {
                let failure = Failure { reason: Reason::Other, answer: error.to_string() };
                new.iter().for_each(|(_, pull)| pull.end(Err(failure.clone())));
            }
        });
    }

    /// Waits for a pull to end, and tells of it meanwhile; begun now if it was not.
    ///
    /// # Errors
    /// Outside: a signal. Inside: why the image cannot be had.
    pub fn join_pull(&self, reference: &str) -> Result<Result<(), Failure>> {
        self.begin_pulls(&[reference.to_owned()]);
        let Some(pull) = self.pulls.0.borrow().get(reference).cloned() else {
            return Err(Error::failed("a pull was lost"));
        };
        let joined = self.join(&pull, "pull", reference, self.deadlines.pull)?;
        // Its own deadline begins when the engine answers, which it may have ceased to do.
        let silent = || Failure {
            reason: Reason::Other,
            answer: format!("the Docker Engine at {} does not answer", self.docker),
        };
        let outcome = joined.unwrap_or_else(|| Err(silent()));
        // Another run of this step begins anew.
        self.pulls.0.borrow_mut().remove(reference);
        Ok(outcome)
    }
}

/// What a line of the engine tells of a layer.
fn note(progress: &mut Progress, line: CreateImageInfo) {
    let Some(layer) = line.id else { return };
    let bytes = |n: Option<i64>| u64::try_from(n.unwrap_or(0)).unwrap_or(0);
    let known = progress.parts.entry(layer).or_default();
    match (line.status.as_deref(), line.progress_detail) {
        (Some("Downloading"), Some(detail)) => *known = (bytes(detail.current), bytes(detail.total)),
        (Some("Download complete" | "Pull complete"), _) => known.0 = known.1,
        _ => {}
    }
}

async fn pull_all(address: &str, limit: Duration, pulls: &[(String, Arc<Pull>)]) {
    // The step that installs the engine may come only now; who joins has seen it answer.
    let client = loop {
        match open(address).await {
            Ok((client, _)) => break client,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    let each = pulls.iter().map(|(reference, pull)| pull_one(&client, limit, reference, pull));
    futures_util::future::join_all(each).await;
}

/// Pulls an image, again and again until the deadline if another try may help.
async fn pull_one(client: &bollard::Docker, limit: Duration, reference: &str, pull: &Pull) {
    let deadline = Deadline::new(reference, limit);
    let mut pause = Duration::from_secs(1);
    loop {
        let tried = tokio::time::timeout(deadline.left(), try_to_pull(client, reference, pull)).await;
        let failure = match tried {
            Ok(Ok(())) => return pull.end(Ok(())),
            Ok(Err(failure)) => failure,
            Err(_) => Failure { reason: Reason::Other, answer: "the pull did not end in time".into() },
        };
        let work = format!("pulling {reference}");
        let again = failure.reason == Reason::Other;
        if !(again && pull.try_again(&work, &failure.answer, &mut pause, &deadline).await) {
            return pull.end(Err(failure));
        }
        pull.note(|progress| progress.parts.clear());
    }
}

async fn try_to_pull(client: &bollard::Docker, reference: &str, pull: &Pull) -> Result<(), Failure> {
    if matches!(absent_is_none(client.inspect_image(reference).await), Ok(Some(_))) {
        return Ok(());
    }
    let (name, tag) = split(reference);
    let options = CreateImageOptions { from_image: Some(name), tag: Some(tag), ..Default::default() };
    let mut lines = client.create_image(Some(options), None, None);
    while let Some(line) = lines.next().await {
        let line = line.map_err(|e| Failure::of(&e))?;
        pull.note(|progress| note(progress, line));
    }
    // A stream that was cut can end like one that is complete.
    match absent_is_none(client.inspect_image(reference).await) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Failure { reason: Reason::Other, answer: "the pull ended, and the image is not there".into() }),
        Err(e) => Err(Failure::of(&e)),
    }
}

/// Name and tag or digest; without a tag the engine would pull every tag there is.
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

impl Failure {
    fn of(error: &EngineError) -> Failure {
        let status =
            if let EngineError::DockerResponseServerError { status_code, .. } = error { *status_code } else { 0 };
        Failure::from_words(status, words(error))
    }

    /// Of an answer: engines tell these apart by words alone, and 26 to 29 differ in them.
    pub fn from_words(status: u16, answer: String) -> Failure {
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
        } else if matches!(status, 400 | 401 | 403 | 404) || has(&["manifest unknown", "pull access denied"]) {
            Reason::Absent
        } else {
            Reason::Other
        };
        Failure { reason, answer }
    }

    /// As a step's error. `setting` names the image.
    pub fn error(&self, reference: &str, setting: &str, deadline: Duration) -> Error {
        let made = |kind, what: &str| Error::new(kind, format!("image {reference}: {what}")).cause(&self.answer);
        match self.reason {
            Reason::OldManifest => made(Kind::Unavailable, "this Docker Engine is too new for it")
                .fix(format!("it is in the old manifest format, which Docker 26 and later refuse: set {setting} to an image in today's format (or install an older engine: packages.docker = [\"docker-ce=VERSION\"])")),
            Reason::Absent => made(Kind::Failed, "its registry does not give it")
                .fix(format!("check its name and tag; the setting {setting} names another")),
            Reason::Digest => made(Kind::Failed, "what its registry sent is not what its digest names")
                .fix(format!("do not trust that registry until you know why; the setting {setting} has the digest")),
            Reason::Space => made(Kind::Failed, "there is no room for it")
                .fix("make room on the file system of Docker's data (docker system df, df -h), and run titus-bootstrap again"),
            Reason::Other => made(
                Kind::Failed,
                &format!("could not be pulled within {}", humantime::format_duration(deadline)),
            )
            .fix("see whether this node reaches the registry (settings proxy.*, or a mirror in /etc/docker/daemon.json), and run titus-bootstrap again; the setting timeouts.pull gives it longer"),
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
    fn words_of_engines_are_told_apart() {
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
            (500, "Get \"http://127.0.0.1:5000/v2/\": dial tcp: connection refused", Reason::Other),
        ];
        for (status, answer, reason) in cases {
            assert_eq!(Failure::from_words(status, answer.into()).reason, reason, "{answer}");
        }
    }

    #[test]
    fn layers_are_followed() {
        let line = |json: serde_json::Value| serde_json::from_value::<CreateImageInfo>(json).unwrap();
        let mut progress = Progress::default();
        for (id, current, total) in [("a", 1 << 20, 4 << 20), ("b", 1 << 20, 6 << 20), ("a", 2 << 20, 4 << 20)] {
            note(
                &mut progress,
                line(serde_json::json!({
                    "id": id, "status": "Downloading", "progressDetail": { "current": current, "total": total }
                })),
            );
        }
        assert_eq!(progress.told(), "3 of 10 MiB");
        note(&mut progress, line(serde_json::json!({ "id": "b", "status": "Pull complete", "progressDetail": {} })));
        assert_eq!(progress.told(), "8 of 10 MiB");
    }
}
