//! The instance metadata service of EC2. The program reads everything by version 2; it only tests whether version 1
//! answers.
//!
//! All items have one deadline. The program requests items that do not depend on other answers at the same time, but
//! reads the answers in a fixed order. It tries again until the deadline after refused connections, silence, 401 (with
//! a new token), 403, 429, 5xx, and 404 for items that every instance has. It stops at once at an answer that cannot
//! come from the metadata service: a redirect, more than 64 KiB, or a value with the wrong form.

mod client;
mod endpoint;
pub(super) mod value;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
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

const REGION: &str = "meta-data/placement/region";
const MAC: &str = "meta-data/mac";
const LOCAL_IPV4: &str = "meta-data/local-ipv4";
const HOSTNAME: &str = "meta-data/local-hostname";
const RESERVATION: &str = "meta-data/reservation-id";
const LIFECYCLE: &str = "meta-data/autoscaling/target-lifecycle-state";
const TAGS: &str = "meta-data/tags/instance";
const USER_DATA: &str = "user-data";

/// The credentials as something that AWS may provide later (`Error::awaits`).
pub(super) const CREDENTIALS: &str = "the instance profile's credentials";

/// The most tags to read, with one request each. EC2 allows 50, without its own (`aws:`).
const MOST_TAGS: usize = 64;

/// The answers of the metadata service.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// The instance, without the facts that only the machine itself knows.
    pub instance: Instance,
    /// The source of each fact: `instance.region` -> `IMDS placement/region`.
    pub sources: BTreeMap<String, String>,
    /// The unchanged user data, if the instance has any.
    pub user_data: Option<Vec<u8>>,
}

/// Reads all items with one deadline.
///
/// # Errors
/// Returns `TemporaryFailure` at the deadline, `Config` when an answer must not be used, `Unavailable` when the
/// endpoint is disabled, and `Interrupted` when a signal arrives.
pub fn read(endpoint: &Endpoint, limit: Duration) -> Result<Answers> {
    Session::open(endpoint, limit)?.read()
}

/// A connection to the metadata service, which stays open for later questions.
pub struct Session(Client<Deadline>);

impl Session {
    /// Does not connect yet.
    ///
    /// # Errors
    /// Returns `Unavailable` when the endpoint is disabled.
    pub fn open(endpoint: &Endpoint, limit: Duration) -> Result<Session> {
        Ok(Session(Client::new(endpoint, Deadline::new("", limit))?))
    }

    /// Reads all items.
    ///
    /// # Errors
    /// Fails when [`read`] fails.
    pub fn read(&mut self) -> Result<Answers> {
        Reader { client: &mut self.0, sources: BTreeMap::new() }.read_all()
    }

    /// Finds out, by one request without a token, whether the instance's metadata options require tokens; `None` if the
    /// answer does not show it.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub fn http_tokens(&mut self) -> Result<Option<HttpTokens>> {
        let answers = self.0.answers_version_1("meta-data/instance-id")?;
        Ok(answers.map(|answers| if answers { HttpTokens::Optional } else { HttpTokens::Required }))
    }
}

/// The public keys of the instance's key pair, each `ssh-ed25519 AAAA… NAME`. Most instances have at most one.
///
/// # Errors
/// Fails when [`read`] fails.
pub fn public_keys(endpoint: &Endpoint, limit: Duration) -> Result<Vec<String>> {
    let mut deadline = Deadline::new("", limit);
    let mut client = Client::new(endpoint, &mut deadline)?;
    let list = client.optional("meta-data/public-keys/")?.unwrap_or_default();
    let mut keys = Vec::new();
    // Each line has one key: `0=NAME`.
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

/// The instance's access to AWS's APIs.
#[derive(Debug)]
pub(super) struct Access {
    /// The credentials of its profile.
    pub credentials: Credentials,
    /// The domain of the partition: `amazonaws.com`.
    pub domain: Option<String>,
}

/// Credentials in IMDS's form ("Retrieve security credentials from instance metadata", EC2 user guide).
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

/// The credentials of the instance's profile; `None` if it has no profile.
///
/// # Errors
/// Fails when [`read`] fails, or when EC2 could not get the credentials.
pub(super) fn access(endpoint: &Endpoint, deadline: &mut Deadline) -> Result<Option<Access>> {
    const FOLDER: &str = "meta-data/iam/security-credentials/";
    const DOMAIN: &str = "meta-data/services/domain";
    let mut client = Client::new(endpoint, deadline)?;
    client.announce([DOMAIN.to_owned()]);
    let Some(listing) = client.optional(FOLDER)? else { return Ok(None) };
    let name = Form::Text.read(FOLDER, listing.trim_ascii())?;
    if name.is_empty() {
        return Ok(None);
    }
    // The name must be one segment of a path; names of IAM roles have only these characters (IAM, "IAM name
    // requirements").
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)) {
        return Err(refuse(FOLDER, &listing, "it is not the name of a role"));
    }
    let item = format!("{FOLDER}{name}");
    let Some(document) = client.optional(&item)? else { return Ok(None) };
    // The document is secret: no error may show it.
    let wrong = |why: String| Error::config(format!("instance metadata: {item} has no credentials")).cause(why);
    let keys: Keys = serde_json::from_slice(&document).map_err(|_| wrong("it is not what EC2 writes there".into()))?;
    let (Some(id), Some(secret), "Success") = (keys.access_key_id, keys.secret_access_key, keys.code.as_str()) else {
        let why = format!("{}: {}", keys.code, keys.message.unwrap_or_default());
        let fix = "see whether the profile's role exists, and lets ec2.amazonaws.com assume it";
        return Err(wrong(why).fix(fix).awaiting(CREDENTIALS));
    };
    let expiry = keys.expiration.and_then(|time| humantime::parse_rfc3339(&time).ok());
    let credentials = Credentials::new(id, secret, keys.token, expiry, "IMDS");
    let domain = client.optional(DOMAIN)?;
    let domain = domain.map(|domain| Form::HostName.read(DOMAIN, &domain)).transpose()?;
    Ok(Some(Access { credentials, domain }))
}

/// For [`crate::parsers`].
pub(crate) fn read_as_any_item(bytes: &[u8]) -> crate::claims::Claim {
    use Form::{Account, HostName, Id, InstanceType, Ipv4, LifecycleState, Mac, Place, Text};
    for form in [Id("i"), InstanceType, Place, Ipv4, Mac, HostName, Account, LifecycleState, Text] {
        match form.read("meta-data/x", bytes) {
            // The value is the first host name, or a MAC address in lower case; a second conversion changes nothing.
            Ok(value) => {
                let again = form.read("meta-data/x", value.as_bytes());
                crate::claims::holds(again.as_ref().ok() == Some(&value), || format!("{value:?} becomes {again:?}"))?;
            }
            Err(error) => crate::claims::sound(&error, crate::error::Kind::Config, "instance metadata: meta-data/x")?,
        }
    }
    let _ = (serde_json::from_slice::<Keys>(bytes), serde_json::from_slice::<Identity>(bytes));
    Ok(())
}

/// The needed fields of the signed document about the instance.
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
    fn read_all(mut self) -> Result<Answers> {
        // Three rounds: the token; these eight items on eight connections; and the items that the MAC address and the
        // list of tags name, together with the user data, which would need a ninth connection in the second round.
        let first = [REGION, MAC, LOCAL_IPV4, HOSTNAME, RESERVATION, LIFECYCLE, TAGS];
        self.client.announce(first.map(str::to_owned));
        let document = self.client.required(IDENTITY)?;
        let identity: Identity = serde_json::from_slice(&document).map_err(|e| {
            refuse(
                IDENTITY,
                &document,
                format!("it is not an identity document: {}", crate::host::json::describe_error(&e)),
            )
        })?;

        // The item is newer than the document, and not every replacement of the metadata service has it.
        let region = match self.optional("region", REGION, Form::Place)? {
            Some(region) => region,
            None => self.read_identity("region", Form::Place, &identity.region)?,
        };
        let mac = self.required("mac", MAC, Form::Mac)?;
        let vpc = format!("meta-data/network/interfaces/macs/{mac}/vpc-id");
        let mut instance = Instance {
            id: self.read_identity("id", Form::Id("i"), &identity.instance_id)?,
            instance_type: self.read_identity("type", Form::InstanceType, &identity.instance_type)?,
            zone: self.read_identity("zone", Form::Place, &identity.availability_zone)?,
            account_id: identity.account_id.map(|a| self.read_identity("account_id", Form::Account, &a)).transpose()?,
            ami_id: identity.image_id.map(|a| self.read_identity("ami_id", Form::Id("ami"), &a)).transpose()?,
            local_ipv4: self.local_ipv4(&mac)?,
            hostname: self.required("hostname", HOSTNAME, Form::HostName)?,
            reservation_id: self.optional("reservation_id", RESERVATION, Form::Id("r"))?,
            lifecycle_state: self.optional("lifecycle_state", LIFECYCLE, Form::LifecycleState)?,
            region,
            mac,
            ..Instance::default()
        };
        let keys = self.tag_keys()?;
        self.client.announce(keys.iter().map(|key| tag_item(key)).chain([USER_DATA.to_owned()]));
        instance.vpc_id = self.optional("vpc_id", &vpc, Form::Id("vpc"))?;
        let tags = self.tags(keys)?;
        let user_data = self.client.optional(USER_DATA)?.filter(|bytes| !bytes.is_empty());
        instance.take_tags(tags, &mut self.sources);
        Ok(Answers { instance, sources: self.sources, user_data })
    }

    fn read_identity(&mut self, fact: &str, form: Form, value: &str) -> Result<String> {
        self.record_source(fact, IDENTITY);
        form.read(&format!("{IDENTITY}, {fact}"), value.as_bytes())
    }

    fn required(&mut self, fact: &str, item: &str, form: Form) -> Result<String> {
        self.record_source(fact, item);
        form.read(item, &self.client.required(item)?)
    }

    fn optional(&mut self, fact: &str, item: &str, form: Form) -> Result<Option<String>> {
        let bytes = self.client.optional(item)?;
        self.record_source(fact, &format!("{}{item}", if bytes.is_some() { "" } else { "has no " }));
        bytes.map(|bytes| form.read(item, &bytes)).transpose()
    }

    /// The primary address. It may be late, but an instance in an IPv6-only subnet never has one.
    fn local_ipv4(&mut self, mac: &str) -> Result<String> {
        const FACT: &str = "local_ipv4";
        if let Some(address) = self.optional(FACT, LOCAL_IPV4, Form::Ipv4)? {
            return Ok(address);
        }
        let interface = format!("meta-data/network/interfaces/macs/{mac}");
        let mut read_interface = |item: &str| self.client.optional(&format!("{interface}/{item}"));
        let (v4, v6) = (read_interface("local-ipv4s")?, read_interface("ipv6s")?);
        // Each line has one address.
        let first = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).lines().next()?.trim().parse::<Ipv6Addr>().ok();
        match v6.and_then(first).filter(|_| v4.is_none_or(|v4| v4.trim_ascii().is_empty())) {
            Some(address) => Err(Error::unavailable("this instance has no IPv4 address: its subnet is IPv6-only")
                .cause(format!(
                    "instance metadata has neither local-ipv4 nor local-ipv4s of {mac}, but ipv6s: {address}"
                ))
                .fix("launch the instance in a subnet with IPv4 addresses: Titus, Mesos and its tasks need them")),
            None => self.required(FACT, LOCAL_IPV4, Form::Ipv4),
        }
    }

    fn record_source(&mut self, fact: &str, item: &str) {
        self.sources.insert(format!("instance.{fact}"), format!("IMDS {}", item.replace("meta-data/", "")));
    }

    /// The keys of the instance's tags; empty if its metadata must not have tags, or does not have them yet.
    fn tag_keys(&mut self) -> Result<Vec<String>> {
        let listing = self.client.optional(TAGS)?;
        let mut keys = parse_tag_keys(TAGS, listing.as_deref().unwrap_or_default())?;
        if keys.is_empty() {
            let why = if listing.is_some() {
                "instance metadata has no tags"
            } else {
                "tags in instance metadata are disabled"
            };
            self.sources.insert("instance.tags".into(), why.into());
        }
        // If there are too many, the tags that the program uses come first.
        keys.sort_by_key(|key| !is_ours(key));
        Ok(keys.into_iter().take(MOST_TAGS).map(str::to_owned).collect())
    }

    /// The tags with these keys; `None` if there are no keys.
    fn tags(&mut self, keys: Vec<String>) -> Result<Option<BTreeMap<String, String>>> {
        if keys.is_empty() {
            return Ok(None);
        }
        let mut tags = BTreeMap::new();
        for key in keys {
            // A tag can be removed between the listing and this request.
            let Some(bytes) = self.client.optional(&tag_item(&key))? else { continue };
            match Form::Text.read(&format!("{TAGS}/{key}"), &bytes) {
                Ok(value) => {
                    tags.insert(key, value);
                }
                Err(error) if is_ours(&key) => return Err(error),
                // A line break in somebody's description must not stop the node.
                Err(_) => {
                    self.sources.insert(format!("instance.tags.{key}"), "left out: not plain text".into());
                }
            }
        }
        self.record_source("tags", TAGS);
        Ok(Some(tags))
    }
}

/// The item that has the value of the tag with this key.
fn tag_item(key: &str) -> String {
    format!("{TAGS}/{}", percent_encoded(key))
}

/// Whether roles or settings come from this tag.
pub(super) fn is_ours(key: &str) -> bool {
    key.starts_with("titus:") || key.starts_with("titus-") || key == GROUP_TAG
}

/// Parses a list with one key per line. Refuses a key that EC2 does not allow ("Tag your Amazon EC2 resources", EC2
/// user guide), e.g. a line of an error page.
fn parse_tag_keys<'a>(item: &str, listing: &'a [u8]) -> Result<Vec<&'a str>> {
    let text = std::str::from_utf8(listing).map_err(|_| refuse(item, listing, "it is not UTF-8"))?;
    let keys: Vec<&str> = text.split('\n').filter(|line| !line.trim().is_empty()).collect();
    // `.` and `..` have a special meaning in a path, encoded or not.
    let is_key =
        |key: &str| key != "." && key != ".." && key.chars().all(|c| c.is_alphanumeric() || " +-=.,_:/@".contains(c));
    match keys.iter().find(|key| !is_key(key)) {
        Some(other) => Err(refuse(item, listing, format!("{other:?} is not the key of a tag"))),
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
    fn each_line_of_the_list_is_a_key() {
        let listing = "titus:role\naws:autoscaling:groupName\nNombre de la máquina\n";
        assert_eq!(
            parse_tag_keys("tags", listing.as_bytes()).unwrap(),
            ["titus:role", "aws:autoscaling:groupName", "Nombre de la máquina"]
        );
        assert_eq!(parse_tag_keys("tags", b"").unwrap(), [""; 0]);
        for bad in [&b"<!DOCTYPE html>"[..], b"a\n..\n", b".", b"a\0", b"a\r\nb", b"\xff", b"{\"code\": 404}"] {
            assert!(parse_tag_keys("tags", bad).is_err());
        }
    }

    #[test]
    fn a_key_becomes_one_segment() {
        assert_eq!(percent_encoded("aws:autoscaling:groupName"), "aws:autoscaling:groupName");
        assert_eq!(percent_encoded("a b/é?#%"), "a%20b%2F%C3%A9%3F%23%25");
    }

    proptest! {
        #[test]
        fn an_accepted_key_never_leaves_its_place(listing in ".*|[./a-z \n]*") {
            let endpoint = Endpoint::at("http://127.0.0.1").unwrap();
            for key in parse_tag_keys("tags", listing.as_bytes()).unwrap_or_default() {
                let url = endpoint.item(&format!("tags/{}", percent_encoded(key))).unwrap();
                prop_assert_eq!(url.path_segments().unwrap().count(), 3);
                prop_assert!(url.path().starts_with("/latest/tags/"));
            }
        }
    }
}
