//! An image is in the engine, by tag or digest.

use serde::Deserialize;

use super::forms::ImageName;
use super::{Change, Planned, RawKind, State, Work};
use crate::error::{Error, Result};
use crate::facts::machine;
use crate::host::docker::pull::{Failure, Reason};
use crate::host::{Fetch, Host};
use crate::template::{Renderer, Templated};

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawImage {
    name: Templated<ImageName>,
    /// The setting that contains it, for messages.
    setting: Option<String>,
}

/// An image.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `name:tag` or `name@sha256:digest`.
    name: String,
    setting: String,
}

impl RawImage {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Image> {
        let ImageName(name) = self.name.get(renderer)?;
        Ok(Image { name, setting: self.setting.clone().unwrap_or_else(|| "of its role file".into()) })
    }
}

impl Image {
    /// Whether the engine has the image; for one given by digest, exactly that image.
    fn is_there(&self, host: &Host) -> Result<bool> {
        let engine = host.engine()?.map_err(Error::failed)?;
        let Some(found) = engine.image(&self.name)? else { return Ok(false) };
        Ok(match self.name.split_once('@') {
            Some((_, digest)) => found.digests.iter().any(|known| known.ends_with(digest)),
            None => true,
        })
    }

    fn error(&self, failure: &Failure, host: &Host) -> Error {
        let data_root = machine::docker_data_root(host).unwrap_or_else(|_| "its data root".into());
        failure.error(&self.name, &self.setting, host.deadlines.pull, &data_root)
    }
}

impl RawKind for RawImage {}

impl Work for Image {
    fn explain(&self) -> Vec<String> {
        vec![format!("Keeps the image {} in the Docker Engine: the run pulls it if it is not there.", self.name)]
    }

    /// Refuses an engine that cannot use the image from its registry. If the registry does not
    /// answer, the pull reports it.
    fn refuse(&self, host: &Host) -> Result<()> {
        if !host.is_live() {
            return Ok(());
        }
        host.refuse_registry_credentials()?;
        let Ok(engine) = host.engine()? else { return Ok(()) };
        if self.is_there(host)? || !refuses_old_manifests(&engine.version) {
            return Ok(());
        }
        let message = match engine.manifest_type(&self.name, host) {
            Ok(media_type) => media_type,
            Err(error) => error.cause.unwrap_or_default(),
        };
        let failure = Failure::from_message(0, message);
        if failure.reason != Reason::OldManifest {
            return Ok(());
        }
        Err(self.error(&failure, host).cause(format!("this is Docker {}: {}", engine.version, failure.answer)))
    }

    fn fetches(&self, host: &Host) -> Result<Vec<Fetch>> {
        // An engine that has not answered yet may come with a package of this run; the pull waits for it.
        let is_there = host.engine.get().is_some() && self.is_there(host)?;
        Ok(if is_there { Vec::new() } else { vec![Fetch::Image(self.name.clone())] })
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        if !host.is_live() {
            return Ok(State::Deferred(format!("image {} is not pulled with --root", self.name)));
        }
        if let Err(answer) = host.engine()? {
            return Ok(State::Blocked(answer));
        }
        Ok(if self.is_there(host)? {
            State::InSync(None)
        } else {
            State::Changes(vec![Change::new(format!("pull image {}", self.name))])
        })
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let mut pulled = host.join_pull(&self.name)?;
        // The pull began in the background, perhaps before the package of the credential helper was installed.
        if matches!(&pulled, Err(failure) if failure.reason == Reason::Credentials) {
            pulled = host.join_pull(&self.name)?;
        }
        pulled.map_err(|failure| self.error(&failure, host))
    }
}

/// Docker 26 was the first release to refuse them (its release notes, "Deprecation of image manifest v2 schema 1").
fn refuses_old_manifests(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 26)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_a_digest() {
        let resolve = |name: &str| {
            crate::step::loaded::<RawImage>(&format!("name = '{name}'"))?.resolve(&Renderer::new(serde_json::json!({})))
        };
        resolve("jplock/zookeeper:3.4.10").unwrap();
        resolve(&format!("jplock/zookeeper@sha256:{}", "a".repeat(64))).unwrap();
        for name in ["x@sha256:abc", "x@md5:abc", "x@"] {
            resolve(name).unwrap_err();
        }
    }

    #[test]
    fn engines_from_26_refuse_old_manifests() {
        assert!(refuses_old_manifests("26.0.0") && refuses_old_manifests("29.1.3"));
        assert!(!refuses_old_manifests("20.10.24+dfsg1") && !refuses_old_manifests(""));
    }

    fn host(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Host {
        let deadlines = crate::host::Deadlines { pull: std::time::Duration::from_secs(1), ..Default::default() };
        let mut host = Host::live(deadlines);
        host.docker = crate::host::docker::fake::engine(answer).address;
        host
    }

    fn image() -> Image {
        Image { name: "jplock/zookeeper:3.4.10".into(), setting: "images.zookeeper".into() }
    }

    const OLD: &str = "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support is disabled by default and will be removed in an upcoming release.";

    #[test]
    fn an_engine_too_new_for_the_image_is_refused_before_anything_is_pulled() {
        let refused_by = |version: &'static str, registry: (u16, String)| {
            let host = host(move |request| match request {
                "GET /version" => crate::host::docker::fake::version(version, "1.44", "1.24"),
                _ if request.contains("/distribution/") => registry.clone(),
                _ => (404, "{\"message\":\"No such image\"}".into()),
            });
            image().refuse(&host)
        };
        let in_old_format = || (400, format!("{{\"message\":\"{OLD}\"}}"));
        let message = refused_by("26.1.4", in_old_format()).unwrap_err();
        assert_eq!(message.kind.exit_code(), 69);
        assert!(message.to_string().contains("set images.zookeeper to an image in the current format"), "{message}");
        let told_by_type = "{\"Descriptor\":{\"mediaType\":\"application/vnd.docker.distribution.manifest.v1+prettyjws\"},\"Platforms\":[]}";
        refused_by("29.0.0", (200, told_by_type.into())).unwrap_err();
        // An older engine accepts it. If the registry does not answer, the pull reports it.
        refused_by("20.10.24", in_old_format()).unwrap();
        refused_by("26.1.4", (500, "{\"message\":\"connection refused\"}".into())).unwrap();
    }

    #[test]
    fn an_image_is_fetched_unless_the_engine_is_known_to_have_it() {
        for (is_there, before_it_answered, after) in [(true, 1, 0), (false, 1, 1)] {
            let host = host(move |request| match request {
                "GET /version" => crate::host::docker::fake::version("20.10.24", "1.41", "1.12"),
                _ if is_there => (200, "{\"Id\":\"sha256:1\"}".into()),
                _ => (404, "{\"message\":\"No such image\"}".into()),
            });
            assert_eq!(image().fetches(&host).unwrap().len(), before_it_answered);
            host.engine().unwrap().unwrap();
            assert_eq!(image().fetches(&host).unwrap().len(), after, "{is_there}");
        }
    }

    #[test]
    fn an_error_inside_a_pull_is_an_error() {
        let pulled = |stream: &'static str| {
            let host = host(move |request| match request {
                "GET /version" => crate::host::docker::fake::version("26.1.4", "1.44", "1.24"),
                _ if request.starts_with("POST") => (200, stream.into()),
                _ => (404, "{\"message\":\"No such image\"}".into()),
            });
            image().converge(&host).unwrap_err().to_string()
        };
        let message = pulled(
            "{\"status\":\"Pulling from x\"}\n{\"errorDetail\":{\"message\":\"write /x: no space left on device\"},\"error\":\"write /x: no space left on device\"}\n",
        );
        assert!(
            message.contains("there is no room for it") && message.contains("no space left on device"),
            "{message}"
        );
        // A pull that just ends, e.g. because the engine restarts, is tried again until the deadline.
        let message = pulled("{\"status\":\"Pulling from x\"}\n");
        assert!(
            message.contains("could not be pulled within 1s") && message.contains("does not have the image"),
            "{message}"
        );
    }
}
