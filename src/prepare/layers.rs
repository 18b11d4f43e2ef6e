//! The layers of settings of one run, in their order: later sources override earlier ones.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::request::{FactSource, Phases, Request};
use crate::error::{Error, Result};
use crate::facts::sample;
use crate::host::net::Proxy;
use crate::host::{Deadlines, Host};
use crate::role::{Role, known_names};
use crate::settings::schema::{self, Timeouts};
use crate::settings::tags::{self, Tags};
use crate::settings::{Layer, Merged, Source};
use crate::titus::Values;
use crate::userdata;

/// All layers but those of the program and the role, which lie below them.
pub struct Layers {
    /// What tags may say of what the image leaves open.
    tags: Tags,
    /// The image's files.
    image: Vec<Layer>,
    /// The instance's user data.
    user_data: Vec<Layer>,
    /// The command line.
    above: Vec<Layer>,
}

impl Layers {
    /// Reads what can be read before the instance is asked.
    ///
    /// # Errors
    /// When a file or flag is wrong.
    pub fn read(request: &Request, host: &Host) -> Result<Layers> {
        let mut image = Vec::new();
        if request.facts == FactSource::Sample {
            image.push(Layer::parse(Source::Sample, sample::SETTINGS)?);
        }
        let handed_down = if request.phases == Phases::Keep { Layer::of_last_run(host)? } else { None };
        match handed_down {
            // All that the run was given, also by files: they may have changed since.
            Some(handed_down) => image.push(handed_down),
            None => image.extend(Layer::files(host)?),
        }
        let mut above = Vec::new();
        for path in request.user_data.iter().chain(&request.config) {
            host.refuse_untrusted(path)?;
            above.push(Layer::file(path)?);
        }
        for assignment in &request.set {
            above.push(Layer::assignment(assignment)?);
        }
        above.iter().try_for_each(tags::refuse_elsewhere)?;
        Ok(Layers { tags: Tags::default(), image, user_data: Vec::new(), above })
    }

    /// Takes the settings in the instance's user data, and those on its first line.
    ///
    /// # Errors
    /// When it is ours and wrong.
    pub fn take_user_data(&mut self, request: &Request, bytes: &[u8]) -> Result<()> {
        if let Some(text) = userdata::settings(bytes)? {
            self.user_data.push(Layer::parse(Source::UserData, &text)?);
            self.user_data.extend(first_line(request, &text)?);
            self.user_data.iter().try_for_each(tags::refuse_elsewhere)?;
        }
        Ok(())
    }

    /// Takes what the instance's tags may say.
    ///
    /// # Errors
    /// When a value has the wrong form.
    pub fn take_tags(&mut self, facts: &crate::facts::Facts) -> Result<()> {
        if let Some(tags) = facts.instance.as_ref().and_then(|instance| instance.tags.as_ref()) {
            let mut image = Merged::default();
            image.add(&Layer::built_in()?);
            self.image.iter().for_each(|layer| image.add(layer));
            self.tags = tags::read(tags, &image)?;
        }
        Ok(())
    }

    /// What an operator should know of tags that are ignored.
    pub fn ignored_tags(&self) -> Vec<String> {
        self.tags.ignored.clone()
    }

    /// Their sum, over the defaults of a role if it is known.
    ///
    /// # Errors
    /// When a default of the role is not a setting.
    pub fn merged(&self, role: Option<&Role>) -> Result<Merged> {
        let mut merged = Merged::default();
        merged.add(&Layer::built_in()?);
        if let Some(role) = role {
            merged.add(&role.defaults()?);
        }
        self.tags
            .layers
            .iter()
            .chain(&self.image)
            .chain(&self.user_data)
            .chain(&self.above)
            .for_each(|layer| merged.add(layer));
        Ok(merged)
    }
}

/// `--role` and `--set` on the `#!` line of user data.
fn first_line(request: &Request, text: &str) -> Result<Vec<Layer>> {
    let line = (request.first_line)(&userdata::arguments(text))?;
    if line.roles.len() > 1 {
        return Err(Error::config("user data: its first line has more than one --role").fix("a node has one role"));
    }
    Layer::first_line(line.roles.first().map(String::as_str), &line.set)
}

/// A role's own settings, and the names that it uses: over facts of which only the names count.
///
/// # Errors
/// When a name does not exist.
pub fn names_of(host: &Host, role: &Role) -> Result<(Merged, BTreeSet<String>)> {
    let merged = Layers { tags: Tags::default(), image: Vec::new(), user_data: Vec::new(), above: Vec::new() }
        .merged(Some(role))?;
    let known = known_names(&sample::facts(), &merged.settings()?, &Values::default());
    let names = role.names(&role.renderer(host, known)?)?;
    Ok((merged, names))
}

/// A table of the settings that is needed before they are whole.
fn table<T: DeserializeOwned + Default>(merged: &Merged, name: &str) -> T {
    merged.table.get(name).cloned().and_then(|table| table.try_into().ok()).unwrap_or_default()
}

/// How long all facts together may take.
pub fn fact_timeout(merged: &Merged) -> Duration {
    table::<Timeouts>(merged, "timeouts").for_facts()
}

/// How long each sort of waiting may take.
pub fn deadlines(merged: &Merged) -> Deadlines {
    table::<Timeouts>(merged, "timeouts").deadlines()
}

/// The proxies of the settings, as the host goes through them.
pub fn proxy(set: &schema::Proxy) -> Proxy {
    let schema::Proxy { http, https, no_proxy } = set.clone();
    Proxy { http, https, no_proxy }
}

/// The variables of a registry's credential helper: where it keeps what it was given, the instance's region, and the way to
/// AWS's services. The metadata service is never behind a proxy.
pub fn helper_environment(set: &schema::Proxy, region: &str) -> Vec<(String, String)> {
    let mut variables = vec![("HOME".to_owned(), "/root".to_owned())];
    let mut add = |name: &str, value: Option<String>| {
        variables.extend(value.filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value)));
    };
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        add(name, Some(region.to_owned()));
    }
    for name in ["AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"] {
        add(name, std::env::var(name).ok());
    }
    add("HTTP_PROXY", set.http.clone());
    add("HTTPS_PROXY", set.https.clone());
    if set.http.is_some() || set.https.is_some() {
        let own = set.no_proxy.iter().cloned();
        add(
            "NO_PROXY",
            Some(own.chain(["169.254.169.254,localhost,127.0.0.1".to_owned()]).collect::<Vec<_>>().join(",")),
        );
    }
    variables
}

/// The same of settings that are not whole yet.
pub fn early_proxy(merged: &Merged) -> Proxy {
    proxy(&table(merged, "proxy"))
}

/// Whether the settings let the EC2 API be asked for tags.
pub fn may_ask_for_tags(merged: &Merged) -> bool {
    table::<schema::Tags>(merged, "tags").api
}
