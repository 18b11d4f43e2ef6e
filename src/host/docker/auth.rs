//! Credentials of registries, from a configuration file of the Docker client (docker login, "Credential stores").

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::host::{Host, command};
use crate::secrets;

/// Docker Hub, as the client's file and credential helpers name it.
const HUB: &str = "https://index.docker.io/v1/";

/// A helper asks a service of the registry's.
const HELPER: Duration = Duration::from_secs(30);

/// What a helper says of a registry that it has nothing for (docker-credential-helpers, `errors.go`).
const NOTHING_FOUND: &str = "credentials not found";

/// The registry of an image: the first part of its name, if that has a dot or a port, or is localhost; else Docker Hub.
/// (Docker's reference grammar.)
pub(super) fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// Where the credentials of registries come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The file; setting `docker.auth`.
    pub path: String,
    /// Variables of credential helpers, which get no others.
    pub environment: Vec<(String, String)>,
}

/// The part of the file that counts here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a helper prints.
#[derive(Deserialize)]
struct Printed {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// How credentials of one registry are had.
#[derive(Clone, PartialEq)]
enum How {
    Given(DockerCredentials),
    /// The helper `docker-credential-NAME`.
    Helper(String),
}

impl How {
    /// From now on no message has them.
    fn learn(&self) {
        let How::Given(given) = self else { return };
        let secret = [&given.password, &given.identitytoken, &given.registrytoken];
        secret.into_iter().flatten().for_each(|text| secrets::learn_text(text));
        if let (Some(user), Some(password)) = (&given.username, &given.password) {
            secrets::learn_text(&BASE64_STANDARD.encode(format!("{user}:{password}")));
        }
    }
}

/// Why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoCredentials {
    /// In words.
    pub why: String,
    /// Whether another try may go better.
    pub may_pass: bool,
}

/// Credentials of registries, checked. For threads that have no [`Host`], too.
#[derive(Clone, Default)]
pub(super) struct Registries {
    known: BTreeMap<String, How>,
    /// For every registry that is not known.
    store: Option<String>,
    environment: Vec<(String, String)>,
    commands: OsString,
}

impl Host {
    /// Refuses a file with credentials of registries that cannot be used, if the settings name one.
    ///
    /// # Errors
    /// 78 when it is not there, others may read it, or it has not the form of a Docker client's configuration.
    pub fn refuse_registry_credentials(&self) -> Result<()> {
        self.registries().map(drop)
    }

    /// The credentials of registries.
    ///
    /// # Errors
    /// As [`Host::refuse_registry_credentials`].
    pub(super) fn registries(&self) -> Result<Registries> {
        let Some(Source { path, environment }) = &self.registry_credentials else { return Ok(Registries::default()) };
        self.refuse_exposed(std::path::Path::new(path))?;
        let text = match self.read(path) {
            // It is root's alone, and a plan by someone else asks no registry.
            Err(_) if !self.may_chown() => return Ok(Registries::default()),
            read => read?,
        };
        let found = text.ok_or_else(|| "it is not there".to_owned()).and_then(|text| parse(&text));
        let registries = found.map_err(|why| {
            Error::config(format!("docker.auth = {path:?} cannot be used")).cause(why).fix(
                "write a config.json there as `docker login` does, with auths, credHelpers or credsStore; \
                 or remove the setting docker.auth",
            )
        })?;
        registries.known.values().for_each(How::learn);
        Ok(Registries { environment: environment.clone(), commands: self.commands.clone(), ..registries })
    }

    /// What the engine is to show the registry of an image.
    pub(super) fn credentials(&self, reference: &str) -> Result<Option<DockerCredentials>> {
        self.registries()?.credentials(reference).map_err(|none| {
            Error::new(Kind::Failed, format!("no credentials for {}", registry(reference))).cause(none.why)
        })
    }
}

/// The name of a registry, of a key of the file: `https://index.docker.io/v1/` is Docker Hub's.
fn name(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        name => name,
    }
}

/// Reads any text as that file.
pub fn read_as_any_file(text: &[u8]) {
    let _ = parse(text);
}

/// Credentials, from the text of the file. No error repeats a part of it.
fn parse(text: &[u8]) -> Result<Registries, String> {
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err("it is not a JSON object".into());
    }
    let file: File = serde_json::from_slice(text).map_err(|e| {
        let kind = if e.is_data() { "a value in it has another type than Docker's" } else { "it is not JSON" };
        format!("{kind} (line {}, column {})", e.line(), e.column())
    })?;
    let mut registries = Registries::default();
    for (key, entry) in &file.auths {
        if let Some(given) = entry.credentials(key)? {
            registries.known.insert(name(key).to_owned(), How::Given(given));
        }
    }
    for (key, helper) in &file.helpers {
        registries.known.insert(name(key).to_owned(), How::Helper(checked(helper)?));
    }
    if !file.store.is_empty() {
        // The store has what `docker login` would have written into auths.
        registries.known.retain(|_, how| matches!(how, How::Helper(_)));
        registries.store = Some(checked(&file.store)?);
    }
    if registries.known.is_empty() && registries.store.is_none() {
        return Err("it has no credentials: auths, credHelpers and credsStore are empty".into());
    }
    Ok(registries)
}

/// The name of a helper, which becomes a part of a command's.
fn checked(helper: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if helper.is_empty() || !helper.chars().all(plain) {
        return Err(format!("{helper:?} is not the name of a credential helper: letters, digits, `-`, `_`, `.`"));
    }
    Ok(helper.to_owned())
}

impl Entry {
    /// None: an entry that only says that somebody logged in.
    fn credentials(&self, key: &str) -> Result<Option<DockerCredentials>, String> {
        let (mut username, mut password) = (self.username.clone(), self.password.clone());
        if !self.auth.is_empty() {
            let decoded = BASE64_STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
            let (user, secret) = pair.ok_or_else(|| format!("auth of {key:?} is not USER:PASSWORD in base64"))?;
            (username, password) = (user.to_owned(), secret.to_owned());
        }
        let given = |text: String| (!text.is_empty()).then_some(text);
        let credentials = DockerCredentials {
            username: given(username),
            password: given(password),
            identitytoken: given(self.identitytoken.clone()),
            registrytoken: given(self.registrytoken.clone()),
            serveraddress: Some(address(name(key))),
            ..DockerCredentials::default()
        };
        let has_token = credentials.identitytoken.is_some() || credentials.registrytoken.is_some();
        match (&credentials.username, &credentials.password) {
            (Some(_), Some(_)) => Ok(Some(credentials)),
            _ if has_token => Ok(Some(credentials)),
            (None, None) => Ok(None),
            _ => Err(format!("{key:?} has a user name or a password, and not both")),
        }
    }
}

/// The address of a registry, as helpers and engines name it.
fn address(registry: &str) -> String {
    if registry == "docker.io" { HUB.to_owned() } else { registry.to_owned() }
}

impl Registries {
    /// The helper that has the credentials of an image's registry.
    pub(super) fn helper(&self, reference: &str) -> Option<&str> {
        match self.known.get(registry(reference)) {
            Some(How::Helper(helper)) => Some(helper),
            Some(How::Given(_)) => None,
            None => self.store.as_deref(),
        }
    }

    /// The credentials for an image's registry; none: it is asked without.
    pub(super) fn credentials(&self, reference: &str) -> Result<Option<DockerCredentials>, NoCredentials> {
        let registry = registry(reference);
        if let Some(How::Given(given)) = self.known.get(registry) {
            return Ok(Some(given.clone()));
        }
        let Some(helper) = self.helper(reference) else { return Ok(None) };
        let (command, address) = (format!("docker-credential-{helper}"), address(registry));
        let no = |may_pass: bool, why: String| NoCredentials { why: format!("{command}: {why}"), may_pass };
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let asked = command::answer_to(&self.commands, &[&command, "get"], &environment, &address, HELPER);
        let output = asked.map_err(|error| no(false, error.cause.unwrap_or(error.what)))?;
        if !output.status.success() {
            if output.both.contains(NOTHING_FOUND) {
                return Ok(None);
            }
            let is_final = ["AccessDenied", "not authorized"].iter().any(|words| output.both.contains(words));
            return Err(no(!is_final, secrets::masked(output.both.trim())));
        }
        let printed: Printed = serde_json::from_str(&output.stdout)
            .map_err(|_| no(false, "it printed something else than credentials in JSON".into()))?;
        secrets::learn_text(&printed.secret);
        let (user, secret) = (Some(printed.username), Some(printed.secret));
        let of_registry = DockerCredentials { serveraddress: Some(address), ..DockerCredentials::default() };
        // docker-credential-helpers, "Development": this name says that the secret is an identity token.
        Ok(Some(if user.as_deref() == Some("<token>") {
            DockerCredentials { identitytoken: secret, ..of_registry }
        } else {
            DockerCredentials { username: user, password: secret, ..of_registry }
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn given(text: &str, reference: &str) -> Option<(Option<String>, Option<String>, Option<String>)> {
        let found = parse(text.as_bytes()).unwrap().credentials(reference).unwrap();
        found.map(|given| (given.username, given.password, given.identitytoken))
    }

    #[test]
    fn the_registry_of_an_image_is_in_its_name() {
        for (reference, expected) in [
            ("zookeeper", "docker.io"),
            ("jplock/zookeeper:3.4.10", "docker.io"),
            ("localhost/x", "localhost"),
            ("h:5000/x/y:1", "h:5000"),
            ("1.dkr.ecr.eu-west-1.amazonaws.com/x@sha256:ab", "1.dkr.ecr.eu-west-1.amazonaws.com"),
        ] {
            assert_eq!(registry(reference), expected, "{reference}");
        }
    }

    #[test]
    fn each_registry_has_its_own_credentials() {
        // me:pw:x, as base64.
        let file = r#"{ "auths": {
            "h:5000": { "auth": "bWU6cHc6eA==" },
            "https://index.docker.io/v1/": { "username": "hub", "password": "pw" },
            "https://token.example/v2/": { "identitytoken": "t" },
            "gone.example": {}
        }, "HttpHeaders": { "User-Agent": "x" }, "psFormat": "table" }"#;
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(given(file, "h:5000/a/b:1"), Some((text("me"), text("pw:x"), None)));
        assert_eq!(given(file, "jplock/zookeeper:3.4.10"), Some((text("hub"), text("pw"), None)));
        assert_eq!(given(file, "docker.io/x"), Some((text("hub"), text("pw"), None)));
        assert_eq!(given(file, "token.example/x"), Some((None, None, text("t"))));
        for other in ["other.example/a", "gone.example/x", "h:5001/a"] {
            assert_eq!(given(file, other), None, "{other}");
        }
    }

    #[test]
    fn a_helper_is_chosen_by_registry_and_else_the_store() {
        let helper = |file: &str, reference: &str| parse(file.as_bytes()).unwrap().helper(reference).map(str::to_owned);
        let ecr = r#"{ "auths": { "h": { "auth": "YTpi" } }, "credHelpers": { "1.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login" } }"#;
        assert_eq!(helper(ecr, "1.dkr.ecr.eu-west-1.amazonaws.com/x:1").as_deref(), Some("ecr-login"));
        assert_eq!(helper(ecr, "h/x:1"), None);
        assert_eq!(helper(ecr, "x:1"), None);
        let store = r#"{ "auths": { "h": {} }, "credsStore": "pass" }"#;
        assert_eq!(helper(store, "h/x:1").as_deref(), Some("pass"));
    }

    #[test]
    fn other_forms_are_refused_and_nothing_of_them_is_repeated() {
        for (text, words) in [
            ("", "not a JSON object"),
            ("secret-of-mine", "not a JSON object"),
            ("[]", "not a JSON object"),
            ("{ secret-of-mine", "not JSON (line 1, column 3)"),
            ("{}", "no credentials"),
            (r#"{ "auths": { "h": {} } }"#, "no credentials"),
            (r#"{ "auths": { "h": { "auth": "secret-of-mine" } } }"#, "auth of \"h\" is not USER:PASSWORD in base64"),
            (r#"{ "auths": { "h": { "auth": "c2VjcmV0" } } }"#, "auth of \"h\" is not USER:PASSWORD in base64"),
            (r#"{ "auths": { "h": { "username": "secret-of-mine" } } }"#, "not both"),
            (r#"{ "auths": { "h": "secret-of-mine" } }"#, "another type"),
            (r#"{ "credHelpers": { "h": "../x" } }"#, "not the name of a credential helper"),
            (r#"{ "credsStore": "a b" }"#, "not the name of a credential helper"),
        ] {
            let refused = parse(text.as_bytes()).map(drop).unwrap_err();
            assert!(refused.contains(words) && !refused.contains("secret-of-mine"), "{text}: {refused}");
        }
    }

    #[test]
    fn a_helper_gets_its_registry_and_no_variables_but_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker-credential-test");
        let ask = |script: &str| {
            // Under another name first: one that another thread is starting cannot be written to.
            let new = directory.path().join("new");
            std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::rename(&new, &path).unwrap();
            let registries = Registries {
                store: Some("test".into()),
                environment: vec![("HOME".into(), "/root".into())],
                commands: directory.path().into(),
                ..Registries::default()
            };
            registries.credentials("jplock/zookeeper:1")
        };
        let script =
            r#"read -r url; [ "$1" = get ] && [ -z "$CARGO" ] && echo "{\"Username\":\"$HOME\",\"Secret\":\"$url\"}""#;
        let found = ask(script).unwrap().unwrap();
        assert_eq!((found.username.as_deref(), found.password.as_deref()), (Some("/root"), Some(HUB)));
        let token = ask(r#"echo '{"Username":"<token>","Secret":"a-token-of-it"}'"#).unwrap().unwrap();
        assert_eq!((token.username, token.identitytoken.as_deref()), (None, Some("a-token-of-it")));
        assert!(secrets::is_known("a-token-of-it"));
        assert_eq!(ask("echo credentials not found in native keychain; exit 1").unwrap(), None);
        let of = |script: &str| ask(script).unwrap_err();
        let denied = of("echo 'AccessDeniedException: no' >&2; exit 1");
        assert!(!denied.may_pass && denied.why.contains("docker-credential-test: AccessDeniedException"), "{denied:?}");
        assert!(of("echo no route; exit 1").may_pass);
        assert!(!of("echo hello").may_pass);
        std::fs::remove_file(&path).unwrap();
        let missing =
            Registries { store: Some("test".into()), commands: directory.path().into(), ..Registries::default() };
        let missing = missing.credentials("x").unwrap_err();
        assert!(!missing.may_pass && missing.why.contains("No such file"), "{missing:?}");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{ "auths": { "h": { "auth": "YTpi" } } }"#).unwrap();
        let mut host = Host::live(Default::default());
        host.registry_credentials = Some(Source { path: file.path().display().to_string(), ..Source::default() });
        let mode = |mode| std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        host.refuse_registry_credentials().unwrap();
        if host.may_chown() {
            for exposed in [0o604, 0o644, 0o660 | 0o006] {
                mode(exposed);
                let refused = host.refuse_registry_credentials().unwrap_err();
                assert_eq!(refused.kind.exit_code(), 78);
                assert!(refused.to_string().contains("chmod 0600"), "{refused}");
            }
        }
        host.registry_credentials = Some(Source { path: "/nowhere/config.json".into(), ..Source::default() });
        let refused = host.refuse_registry_credentials().unwrap_err();
        assert_eq!(refused.kind.exit_code(), 78);
        assert!(refused.to_string().contains("docker.auth = \"/nowhere/config.json\" cannot be used"), "{refused}");
    }
}
