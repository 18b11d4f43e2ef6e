//! Credentials for registries, from a configuration file of the Docker client (docker login, "Credential stores").

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

/// Docker Hub's name in the client's file and for credential helpers.
const HUB: &str = "https://index.docker.io/v1/";

/// The time limit of a helper, which asks a service of the registry.
const HELPER: Duration = Duration::from_secs(30);

/// A helper's message if it has no credentials for a registry (docker-credential-helpers, `errors.go`).
const NOTHING_FOUND: &str = "credentials not found";

/// The registry of an image: the first part of its name, if that has a dot or a port, or is localhost; else Docker Hub
/// (Docker's reference grammar).
pub(super) fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// The source of credentials for registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialSource {
    /// The file in the setting `docker.auth`.
    pub path: String,
    /// The complete environment of credential helpers.
    pub environment: Vec<(String, String)>,
}

/// The fields of the file that the program reads.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
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

/// The output of a helper.
#[derive(Deserialize)]
struct HelperOutput {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// How to get the credentials for one registry.
#[derive(Clone, PartialEq)]
enum How {
    Given(DockerCredentials),
    /// The helper `docker-credential-NAME`.
    Helper(String),
}

impl How {
    /// Hides the credentials in all later messages.
    fn learn(&self) {
        let How::Given(given) = self else { return };
        let secret = [&given.password, &given.identitytoken, &given.registrytoken];
        secret.into_iter().flatten().for_each(|text| secrets::learn_text(text));
        if let (Some(user), Some(password)) = (&given.username, &given.password) {
            secrets::learn_text(&BASE64_STANDARD.encode(format!("{user}:{password}")));
        }
    }
}

/// The reason why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoCredentials {
    /// The explanation.
    pub why: String,
    /// Whether another try may succeed.
    pub is_temporary: bool,
}

/// Checked credentials for registries, which also work in threads without a [`Host`].
#[derive(Clone, Default)]
pub(super) struct Registries {
    known: BTreeMap<String, How>,
    /// The helper for every other registry.
    store: Option<String>,
    environment: Vec<(String, String)>,
    commands: OsString,
}

impl Host {
    /// Refuses an unusable file of registry credentials, if the settings name one.
    ///
    /// # Errors
    /// Fails with 78 when the file does not exist, is readable by others, or does not have the form of a Docker
    /// client's configuration.
    pub fn refuse_registry_credentials(&self) -> Result<()> {
        self.registries().map(drop)
    }

    /// Reads the credentials for registries.
    ///
    /// # Errors
    /// Fails for the reasons of [`Host::refuse_registry_credentials`].
    pub(super) fn registries(&self) -> Result<Registries> {
        let Some(CredentialSource { path, environment }) = &self.registry_credentials else {
            return Ok(Registries::default());
        };
        self.refuse_exposed(std::path::Path::new(path))?;
        let text = match self.read(path) {
            // Only root can read it, and another user's plan does not ask a registry.
            Err(_) if !self.may_chown() => return Ok(Registries::default()),
            read => read?,
        };
        let found = text.ok_or_else(|| "it does not exist".to_owned()).and_then(|text| parse(&text));
        let registries = found.map_err(|why| {
            Error::config(format!("docker.auth = {path:?} cannot be used")).cause(why).fix(
                "write a config.json there as `docker login` does, with auths, credHelpers or credsStore; \
                 or remove the setting docker.auth",
            )
        })?;
        registries.known.values().for_each(How::learn);
        Ok(Registries { environment: environment.clone(), commands: self.commands.clone(), ..registries })
    }

    /// The credentials for the registry of an image.
    pub(super) fn credentials(&self, reference: &str) -> Result<Option<DockerCredentials>> {
        self.registries()?.credentials(reference).map_err(|none| {
            Error::new(Kind::Failed, format!("no credentials for {}", registry(reference))).cause(none.why)
        })
    }
}

/// The registry for a key of the file: `https://index.docker.io/v1/` means Docker Hub.
fn name(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        name => name,
    }
}

/// For [`crate::parsers`].
pub(crate) fn read_as_any_file(text: &[u8]) -> crate::claims::Claim {
    use crate::claims::{SECRET, holds};
    let refusal = parse(text).err().unwrap_or_default();
    holds(!refusal.contains(SECRET), || format!("the secret is in: {refusal}"))
}

/// Parses the text of the file. Errors never quote it.
fn parse(text: &[u8]) -> Result<Registries, String> {
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err("it is not a JSON object".into());
    }
    let file: ConfigFile = serde_json::from_slice(text).map_err(|e| {
        let kind = if e.is_data() { "a value in it has the wrong type" } else { "it is not JSON" };
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
        // The store has what `docker login` would otherwise have written to auths.
        registries.known.retain(|_, how| matches!(how, How::Helper(_)));
        registries.store = Some(checked(&file.store)?);
    }
    if registries.known.is_empty() && registries.store.is_none() {
        return Err("it has no credentials: auths, credHelpers and credsStore are empty".into());
    }
    Ok(registries)
}

/// Checks the name of a helper, which becomes part of a command's name.
fn checked(helper: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if helper.is_empty() || !helper.chars().all(plain) {
        return Err(format!("{helper:?} is not the name of a credential helper: letters, digits, `-`, `_`, `.`"));
    }
    Ok(helper.to_owned())
}

impl Entry {
    /// Returns `None` for an entry that only records a login.
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
            _ => Err(format!("{key:?} has a user name or a password, but not both")),
        }
    }
}

/// The address of a registry for helpers and engines.
fn address(registry: &str) -> String {
    if registry == "docker.io" { HUB.to_owned() } else { registry.to_owned() }
}

impl Registries {
    /// The helper with the credentials for an image's registry.
    pub(super) fn helper(&self, reference: &str) -> Option<&str> {
        match self.known.get(registry(reference)) {
            Some(How::Helper(helper)) => Some(helper),
            Some(How::Given(_)) => None,
            None => self.store.as_deref(),
        }
    }

    /// The credentials for an image's registry, or `None` to ask it without any.
    pub(super) fn credentials(&self, reference: &str) -> Result<Option<DockerCredentials>, NoCredentials> {
        let registry = registry(reference);
        if let Some(How::Given(given)) = self.known.get(registry) {
            return Ok(Some(given.clone()));
        }
        let Some(helper) = self.helper(reference) else { return Ok(None) };
        let (command, address) = (format!("docker-credential-{helper}"), address(registry));
        let no =
            |is_temporary: bool, why: String| NoCredentials { why: format!("{why} (from {command})"), is_temporary };
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let asked = command::run_with_input(&self.commands, &[&command, "get"], &environment, &address, HELPER);
        let output = asked.map_err(|error| no(false, error.cause.unwrap_or(error.what)))?;
        if !output.status.success() {
            if output.both.contains(NOTHING_FOUND) {
                return Ok(None);
            }
            let is_final = ["AccessDenied", "not authorized"].iter().any(|words| output.both.contains(words));
            return Err(no(!is_final, secrets::masked(output.both.trim())));
        }
        let printed: HelperOutput = serde_json::from_str(&output.stdout)
            .map_err(|_| no(false, "it did not print credentials in JSON".into()))?;
        secrets::learn_text(&printed.secret);
        let (user, secret) = (Some(printed.username), Some(printed.secret));
        let of_registry = DockerCredentials { serveraddress: Some(address), ..DockerCredentials::default() };
        // docker-credential-helpers, "Development": this name means that the secret is an identity token.
        Ok(Some(if user.as_deref() == Some("<token>") {
            DockerCredentials { identitytoken: secret, ..of_registry }
        } else {
            DockerCredentials { username: user, password: secret, ..of_registry }
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
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
            (r#"{ "auths": { "h": "secret-of-mine" } }"#, "the wrong type"),
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
            // A child writes it: if this process did, a child that another test forks in the meantime would keep it open
            // for writing, and then it would be "text file busy".
            let mut install = std::process::Command::new("install");
            let install = install.args(["-m", "0755", "/dev/stdin"]).arg(&path).stdin(std::process::Stdio::piped());
            let mut install = install.spawn().unwrap();
            write!(install.stdin.take().unwrap(), "#!/bin/sh\n{script}\n").unwrap();
            assert!(install.wait().unwrap().success());
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
        assert!(
            !denied.is_temporary && denied.why.contains("AccessDeniedException: no (from docker-credential-test)"),
            "{denied:?}"
        );
        assert!(of("echo no route; exit 1").is_temporary);
        assert!(!of("echo hello").is_temporary);
        std::fs::remove_file(&path).unwrap();
        let missing =
            Registries { store: Some("test".into()), commands: directory.path().into(), ..Registries::default() };
        let missing = missing.credentials("x").unwrap_err();
        assert!(!missing.is_temporary && missing.why.contains("No such file"), "{missing:?}");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{ "auths": { "h": { "auth": "YTpi" } } }"#).unwrap();
        let mut host = Host::live(Default::default());
        host.registry_credentials =
            Some(CredentialSource { path: file.path().display().to_string(), ..CredentialSource::default() });
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
        host.registry_credentials =
            Some(CredentialSource { path: "/nowhere/config.json".into(), ..CredentialSource::default() });
        let refused = host.refuse_registry_credentials().unwrap_err();
        assert_eq!(refused.kind.exit_code(), 78);
        assert!(refused.to_string().contains("docker.auth = \"/nowhere/config.json\" cannot be used"), "{refused}");
    }
}
