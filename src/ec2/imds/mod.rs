//! The instance metadata service of EC2. All is read by version 2; version 1 is asked for nothing but whether it answers.
//!
//! Everything is read in one go, one request after another, under one deadline. What
//! goes wrong on the way is tried again until then: refused connections, silence,
//! 401 (with a new token), 403, 429, 5xx, and 404 for what every instance has. An
//! answer that the metadata service cannot have given ends the reading at once:
//! a redirect, more than 64 KiB, or a value that does not look like what was asked for.

mod client;
mod endpoint;
pub(super) mod value;

use std::collections::BTreeMap;
use std::time::Duration;

use aws_credential_types::Credentials;
use serde::Deserialize;

pub use self::endpoint::Endpoint;

use self::client::Client;
use self::value::{Form, refuse};
use crate::error::{Error, Result};
use crate::facts::{GROUP_TAG, HttpTokens, Instance};
use crate::host::wait::Deadline;

/// Region, zone, type and ids in one answer.
const IDENTITY: &str = "dynamic/instance-identity/document";

/// How many tags are read, one request each. EC2 allows 50, not counting its own (`aws:`).
const MOST_TAGS: usize = 64;

/// What the metadata service said.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// The instance, without what only the machine itself knows.
    pub instance: Instance,
    /// Where each fact came from: `instance.region` -> `IMDS placement/region`.
    pub sources: BTreeMap<String, String>,
    /// The user data as it is; absent when there is none.
    pub user_data: Option<Vec<u8>>,
}

/// Reads everything with one deadline for all.
///
/// # Errors
/// `TemporaryFailure` when the time is over, `Config` when an answer must not be used, `Unavailable` when the endpoint
/// is disabled, `Interrupted` when a signal came.
pub fn read(endpoint: &Endpoint, limit: Duration) -> Result<Answers> {
    Session::open(endpoint, limit)?.read()
}

/// A connection to the metadata service that is kept for a question after the reading.
pub struct Session(Client<Deadline>);

impl Session {
    /// Connects nowhere yet.
    ///
    /// # Errors
    /// `Unavailable` when the endpoint is disabled.
    pub fn open(endpoint: &Endpoint, limit: Duration) -> Result<Session> {
        Ok(Session(Client::new(endpoint, Deadline::new("", limit))?))
    }

    /// Reads everything.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(&mut self) -> Result<Answers> {
        Reader { client: &mut self.0, sources: BTreeMap::new() }.everything()
    }

    /// Whether the instance's metadata options demand tokens, by one request without one; `None` when the answer does
    /// not say.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
    pub fn http_tokens(&mut self) -> Result<Option<HttpTokens>> {
        let answers = self.0.answers_version_1("meta-data/instance-id")?;
        Ok(answers.map(|answers| if answers { HttpTokens::Optional } else { HttpTokens::Required }))
    }
}

/// The public keys of the instance's key pair, `ssh-ed25519 AAAA… NAME` each; most instances have one or none.
///
/// # Errors
/// As [`read`].
pub fn public_keys(endpoint: &Endpoint, limit: Duration) -> Result<Vec<String>> {
    let mut deadline = Deadline::new("", limit);
    let mut client = Client::new(endpoint, &mut deadline)?;
    let list = client.optional("meta-data/public-keys/")?.unwrap_or_default();
    let mut keys = Vec::new();
    // A line a key: `0=NAME`.
    for line in String::from_utf8_lossy(&list).lines() {
        let number = line.split('=').next().unwrap_or_default();
        if number.is_empty() || number.len() > 3 || !number.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let key = client.optional(&format!("meta-data/public-keys/{number}/openssh-key"))?;
        keys.extend(key.map(|key| String::from_utf8_lossy(&key).trim().to_owned()));
    }
    Ok(keys)
}

/// As whom, and where, the instance may call AWS's APIs.
#[derive(Debug)]
pub(super) struct Access {
    /// Its profile's credentials.
    pub credentials: Credentials,
    /// The domain of the partition: `amazonaws.com`.
    pub domain: Option<String>,
}

/// Credentials as IMDS has them ("Retrieve security credentials from instance metadata", EC2 user guide).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Keys {
    code: String,
    message: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    token: Option<String>,
    expiration: Option<String>,
}

/// Credentials of the instance's profile; `None` when it has none.
///
/// # Errors
/// As [`read`], and when EC2 could not get them.
pub(super) fn access(endpoint: &Endpoint, deadline: &mut Deadline) -> Result<Option<Access>> {
    const FOLDER: &str = "meta-data/iam/security-credentials/";
    let mut client = Client::new(endpoint, deadline)?;
    let Some(listing) = client.optional(FOLDER)? else { return Ok(None) };
    let name = Form::Text.read(FOLDER, listing.trim_ascii())?;
    // One segment of a path; the names of IAM's roles have nothing else (IAM, "IAM name requirements").
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)) {
        return Err(refuse(FOLDER, &listing, "it is not the name of a role"));
    }
    let item = format!("{FOLDER}{name}");
    let Some(document) = client.optional(&item)? else { return Ok(None) };
    // What it holds is a secret: no error may show it.
    let wrong = |why: String| Error::config(format!("instance metadata: {item} has no credentials")).cause(why);
    let keys: Keys = serde_json::from_slice(&document).map_err(|_| wrong("it is not what EC2 writes there".into()))?;
    let (Some(id), Some(secret), "Success") = (keys.access_key_id, keys.secret_access_key, keys.code.as_str()) else {
        let why = format!("{}: {}", keys.code, keys.message.unwrap_or_default());
        return Err(wrong(why).fix("see whether the profile's role exists, and lets ec2.amazonaws.com assume it"));
    };
    let expiry = keys.expiration.and_then(|time| humantime::parse_rfc3339(&time).ok());
    let credentials = Credentials::new(id, secret, keys.token, expiry, "IMDS");
    let domain = client.optional("meta-data/services/domain")?;
    let domain = domain.map(|domain| Form::HostName.read("meta-data/services/domain", &domain)).transpose()?;
    Ok(Some(Access { credentials, domain }))
}

/// For [`crate::parsers`].
pub(crate) fn read_as_any_item(bytes: &[u8]) {
    use Form::{Account, HostName, Id, InstanceType, Ipv4, LifecycleState, Mac, Place, Text};
    for form in [Id("i"), InstanceType, Place, Ipv4, Mac, HostName, Account, LifecycleState, Text] {
        let _ = form.read("x", bytes);
    }
    let _ = (serde_json::from_slice::<Keys>(bytes), serde_json::from_slice::<Identity>(bytes));
}

/// The signed document about the instance; what is not needed is not read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    instance_id: String,
    instance_type: String,
    availability_zone: String,
    region: String,
    account_id: Option<String>,
    image_id: Option<String>,
}

struct Reader<'a> {
    client: &'a mut Client<Deadline>,
    sources: BTreeMap<String, String>,
}

impl Reader<'_> {
    fn everything(mut self) -> Result<Answers> {
        let document = self.client.required(IDENTITY)?;
        let identity: Identity = serde_json::from_slice(&document)
            .map_err(|e| refuse(IDENTITY, &document, format!("it is no identity document: {e}")))?;

        // The item is younger than the document, and not every service in EC2's place has it.
        let region = match self.optional("region", "meta-data/placement/region", Form::Place)? {
            Some(region) => region,
            None => self.of_identity("region", Form::Place, &identity.region)?,
        };
        let mac = self.required("mac", "meta-data/mac", Form::Mac)?;
        let vpc = format!("meta-data/network/interfaces/macs/{mac}/vpc-id");
        let lifecycle = "meta-data/autoscaling/target-lifecycle-state";
        let mut instance = Instance {
            id: self.of_identity("id", Form::Id("i"), &identity.instance_id)?,
            instance_type: self.of_identity("type", Form::InstanceType, &identity.instance_type)?,
            zone: self.of_identity("zone", Form::Place, &identity.availability_zone)?,
            account_id: identity.account_id.map(|a| self.of_identity("account_id", Form::Account, &a)).transpose()?,
            ami_id: identity.image_id.map(|a| self.of_identity("ami_id", Form::Id("ami"), &a)).transpose()?,
            local_ipv4: self.required("local_ipv4", "meta-data/local-ipv4", Form::Ipv4)?,
            hostname: self.required("hostname", "meta-data/local-hostname", Form::HostName)?,
            vpc_id: self.optional("vpc_id", &vpc, Form::Id("vpc"))?,
            reservation_id: self.optional("reservation_id", "meta-data/reservation-id", Form::Id("r"))?,
            lifecycle_state: self.optional("lifecycle_state", lifecycle, Form::LifecycleState)?,
            region,
            mac,
            ..Instance::default()
        };
        let tags = self.tags()?;
        let user_data = self.client.optional("user-data")?.filter(|bytes| !bytes.is_empty());
        instance.take_tags(tags, &mut self.sources);
        Ok(Answers { instance, sources: self.sources, user_data })
    }

    fn of_identity(&mut self, fact: &str, form: Form, value: &str) -> Result<String> {
        self.came_from(fact, IDENTITY);
        form.read(&format!("{IDENTITY}, {fact}"), value.as_bytes())
    }

    fn required(&mut self, fact: &str, item: &str, form: Form) -> Result<String> {
        self.came_from(fact, item);
        form.read(item, &self.client.required(item)?)
    }

    fn optional(&mut self, fact: &str, item: &str, form: Form) -> Result<Option<String>> {
        let bytes = self.client.optional(item)?;
        self.came_from(fact, &format!("{}{item}", if bytes.is_some() { "" } else { "has no " }));
        bytes.map(|bytes| form.read(item, &bytes)).transpose()
    }

    fn came_from(&mut self, fact: &str, item: &str) {
        self.sources.insert(format!("instance.{fact}"), format!("IMDS {}", item.replace("meta-data/", "")));
    }

    /// The instance's tags; `None` where they are not allowed in its metadata.
    fn tags(&mut self) -> Result<Option<BTreeMap<String, String>>> {
        const LISTING: &str = "meta-data/tags/instance";
        let Some(listing) = self.client.optional(LISTING)? else {
            self.sources.insert("instance.tags".into(), "tags in instance metadata are off".into());
            return Ok(None);
        };
        let mut keys = tag_keys(LISTING, &listing)?;
        // Should there be more than EC2 allows, those that decide something are read first.
        keys.sort_by_key(|key| !is_ours(key));
        let mut tags = BTreeMap::new();
        for key in keys.into_iter().take(MOST_TAGS) {
            let item = format!("{LISTING}/{}", percent_encoded(key));
            // A tag can be removed between the listing and this request.
            let Some(bytes) = self.client.optional(&item)? else { continue };
            match Form::Text.read(&format!("{LISTING}/{key}"), &bytes) {
                Ok(value) => {
                    tags.insert(key.to_owned(), value);
                }
                Err(error) if is_ours(key) => return Err(error),
                // Somebody's description with a line break in it must not stop the node.
                Err(_) => {
                    self.sources.insert(format!("instance.tags.{key}"), "left out: not plain text".into());
                }
            }
        }
        self.came_from("tags", LISTING);
        Ok(Some(tags))
    }
}

/// Whether roles or settings come from this tag.
pub(super) fn is_ours(key: &str) -> bool {
    key.starts_with("titus:") || key.starts_with("titus-") || key == GROUP_TAG
}

/// The keys of a listing, one a line. Refuses what EC2 does not allow in a key
/// ("Tag your Amazon EC2 resources", EC2 user guide), such as the lines of a page.
fn tag_keys<'a>(item: &str, listing: &'a [u8]) -> Result<Vec<&'a str>> {
    let text = std::str::from_utf8(listing).map_err(|_| refuse(item, listing, "it is not UTF-8"))?;
    let keys: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
    // `.` and `..` are steps in a path, encoded or not.
    let is_key =
        |key: &str| key != "." && key != ".." && key.chars().all(|c| c.is_alphanumeric() || " +-=.,_:/@".contains(c));
    match keys.iter().find(|key| !is_key(key)) {
        Some(other) => Err(refuse(item, listing, format!("{other:?} is no key of a tag"))),
        None => Ok(keys),
    }
}

/// A key as one segment of a path (RFC 3986, `pchar`).
fn percent_encoded(key: &str) -> String {
    key.bytes()
        .map(|b| match b {
            b if b.is_ascii_alphanumeric() || b"-._~+=,:@".contains(&b) => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_lines_of_the_listing() {
        let listing = "titus:role\naws:autoscaling:groupName\nNombre de la máquina\n";
        assert_eq!(
            tag_keys("tags", listing.as_bytes()).unwrap(),
            ["titus:role", "aws:autoscaling:groupName", "Nombre de la máquina"]
        );
        assert_eq!(tag_keys("tags", b"").unwrap(), [""; 0]);
        for bad in [&b"<!DOCTYPE html>"[..], b"a\n..\n", b".", b"a\0", b"a\r\nb", b"\xff", b"{\"code\": 404}"] {
            assert!(tag_keys("tags", bad).is_err());
        }
    }

    #[test]
    fn keys_become_one_segment() {
        assert_eq!(percent_encoded("aws:autoscaling:groupName"), "aws:autoscaling:groupName");
        assert_eq!(percent_encoded("a b/é?#%"), "a%20b%2F%C3%A9%3F%23%25");
    }

    proptest! {
        #[test]
        fn an_accepted_key_never_leaves_its_place(listing in ".*|[./a-z \n]*") {
            let endpoint = Endpoint::at("http://127.0.0.1").unwrap();
            for key in tag_keys("tags", listing.as_bytes()).unwrap_or_default() {
                let url = endpoint.item(&format!("tags/{}", percent_encoded(key))).unwrap();
                prop_assert_eq!(url.path_segments().unwrap().count(), 3);
                prop_assert!(url.path().starts_with("/latest/tags/"));
            }
        }
    }
}
