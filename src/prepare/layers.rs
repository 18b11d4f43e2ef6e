//! The layers of settings of one run, in their order: later sources override earlier ones.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::request::{FactSource, Phases, Request};
use crate::error::{Error, Result};
use crate::facts::sample;
use crate::host::net::Proxy;
use crate::host::no_proxy;
use crate::host::{Deadlines, Host};
use crate::role::{Role, known_names};
use crate::settings::schema::{self, Timeouts};
use crate::settings::tags::{self, Tags};
use crate::settings::{Layer, Merged, Source};
use crate::titus::Values;
use crate::userdata;

/// All layers except those of the program and the role, which are below them.
pub struct Layers {
    /// Settings from tags, within what the image allows.
    tags: Tags,
    /// The image's files.
    image: Vec<Layer>,
    /// The instance's user data.
    user_data: Vec<Layer>,
    /// The command line.
    above: Vec<Layer>,
}

impl Layers {
    /// Reads the layers that do not depend on the instance.
    ///
    /// # Errors
    /// Fails when a file or flag is wrong.
    pub fn read(request: &Request, host: &Host) -> Result<Layers> {
        request.user_data.iter().chain(&request.config).try_for_each(|path| host.refuse_untrusted(path))?;
        let (layers, wrong) = Layers::read_all(request, image_files(request, host));
        wrong.into_iter().next().map_or(Ok(layers), Err)
    }

    /// Reads the correct layers, over the image's files, and returns all errors of the others.
    pub fn read_all(request: &Request, files: Vec<Result<Layer, Vec<Error>>>) -> (Layers, Vec<Error>) {
        let mut wrong = Vec::new();
        let mut good = |layers: Vec<Result<Layer, Vec<Error>>>| -> Vec<Layer> {
            layers.into_iter().filter_map(|layer| layer.map_err(|errors| wrong.extend(errors)).ok()).collect()
        };
        let one = |error| vec![error];
        let sample =
            (request.facts == FactSource::Sample).then(|| Layer::parse(Source::Sample, sample::SETTINGS).map_err(one));
        let image = good(sample.into_iter().chain(files).collect());
        let paths = request.user_data.iter().chain(&request.config).map(|path| Layer::file(path));
        let above = paths.chain(request.set.iter().map(|assignment| Layer::assignment(assignment)));
        let is_allowed = |layer: Layer| tags::refuse_elsewhere(&layer).map(|()| layer);
        let above = good(above.map(|layer| layer.and_then(is_allowed).map_err(one)).collect());
        (Layers { tags: Tags::default(), image, user_data: Vec::new(), above }, wrong)
    }

    /// Adds the settings in the instance's user data, including those on its first line.
    ///
    /// # Errors
    /// Fails when the user data is for this program and wrong.
    pub fn take_user_data(&mut self, request: &Request, bytes: &[u8]) -> Result<()> {
        if let Some(text) = userdata::settings(bytes)? {
            self.user_data.push(Layer::parse(Source::UserData, &text)?);
            self.user_data.extend(first_line(request, &text)?);
            self.user_data.iter().try_for_each(tags::refuse_elsewhere)?;
        }
        Ok(())
    }

    /// Adds the settings that the instance's tags may set.
    ///
    /// # Errors
    /// Fails when a value has the wrong form.
    pub fn take_tags(&mut self, facts: &crate::facts::Facts) -> Result<()> {
        if let Some(tags) = facts.instance.as_ref().and_then(|instance| instance.tags.as_ref()) {
            let mut image = Merged::default();
            image.add(Layer::built_in()?);
            self.image.iter().for_each(|layer| image.add(layer));
            self.tags = tags::read(tags, &image)?;
        }
        Ok(())
    }

    /// Notices about ignored tags.
    pub fn ignored_tags(&self) -> Vec<String> {
        self.tags.ignored.clone()
    }

    /// Merges the layers, over the defaults of a role if it is known.
    ///
    /// # Errors
    /// Fails when a default of the role is not a setting.
    pub fn merged(&self, role: Option<&Role>) -> Result<Merged> {
        let mut merged = Merged::default();
        merged.add(Layer::built_in()?);
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

/// The settings of the image's files, one layer each.
fn image_files(request: &Request, host: &Host) -> Vec<Result<Layer, Vec<Error>>> {
    let handed_down = if request.phases == Phases::Keep { Layer::read_last_run(host).transpose() } else { None };
    // Use everything that the last run had, including files, which may have changed since.
    handed_down.map_or_else(|| Layer::files(host), |layer| vec![layer.map_err(|error| vec![error])])
}

/// `--role` and `--set` on the `#!` line of user data.
fn first_line(request: &Request, text: &str) -> Result<Vec<Layer>> {
    let line = (request.first_line)(&userdata::arguments(text))?;
    if line.roles.len() > 1 {
        return Err(
            Error::config("user data: its first line has more than one --role").fix("keep one; a node has one role")
        );
    }
    Layer::first_line(line.roles.first().map(String::as_str), &line.set)
}

/// A role's own settings, and the names that it uses, checked against the names of the sample's facts.
///
/// # Errors
/// Fails when a name does not exist.
pub fn used_names(host: &Host, role: &Role) -> Result<(Merged, BTreeSet<String>)> {
    let merged = Layers { tags: Tags::default(), image: Vec::new(), user_data: Vec::new(), above: Vec::new() }
        .merged(Some(role))?;
    let known = known_names(&sample::facts(), &merged.settings()?, &Values::default());
    let names = role.names(&role.renderer(host, known)?)?;
    Ok((merged, names))
}

/// A table of the settings that is needed before all layers are known.
fn table<T: DeserializeOwned + Default>(merged: &Merged, name: &str) -> T {
    merged.table.get(name).cloned().and_then(|table| table.try_into().ok()).unwrap_or_default()
}

/// The time limit for all facts together.
pub fn fact_timeout(merged: &Merged) -> Duration {
    table::<Timeouts>(merged, "timeouts").facts_limit()
}

/// The time limits for all kinds of waiting.
pub fn deadlines(merged: &Merged) -> Deadlines {
    table::<Timeouts>(merged, "timeouts").deadlines()
}

/// The proxies of the settings, in the form that the host takes.
pub fn proxy(set: &schema::Proxy) -> Proxy {
    let schema::Proxy { http, https, no_proxy } = set.clone();
    Proxy { http: http.map(String::from), https: https.map(String::from), no_proxy: no_proxy.map(String::from) }
}

/// The environment of a registry's credential helper: where it stores data, the instance's region, and the proxies for
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
    add("HTTP_PROXY", set.http.clone().map(String::from));
    add("HTTPS_PROXY", set.https.clone().map(String::from));
    if set.http.is_some() || set.https.is_some() {
        add("NO_PROXY", Some(no_proxy::for_go(set.no_proxy.as_deref())));
    }
    variables
}

/// The proxies from settings that are not complete yet.
pub fn early_proxy(merged: &Merged) -> Proxy {
    proxy(&table(merged, "proxy"))
}

/// How long the settings let a fleet spread its calls for tags.
pub fn spread(merged: &Merged) -> Duration {
    table::<schema::Tags>(merged, "tags").spread.map_or(Duration::ZERO, |spread| spread.0)
}

/// Whether the settings allow asking the EC2 API for tags.
pub fn may_ask_for_tags(merged: &Merged) -> bool {
    table::<schema::Tags>(merged, "tags").api
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_helper_never_asks_the_metadata_service_through_a_proxy() {
        let of = |set: &schema::Proxy, name: &str| {
            let found = helper_environment(set, "eu-west-1").into_iter().find(|(variable, _)| variable == name);
            found.map(|(_, value)| value)
        };
        let none = schema::Proxy::default();
        assert_eq!(of(&none, "AWS_REGION").as_deref(), Some("eu-west-1"));
        assert_eq!(of(&none, "HOME").as_deref(), Some("/root"));
        assert_eq!((of(&none, "NO_PROXY"), of(&none, "PATH")), (None, None));
        let set = schema::Proxy {
            https: Some("http://p:3128".parse().unwrap()),
            no_proxy: Some(".internal".parse().unwrap()),
            ..schema::Proxy::default()
        };
        assert_eq!(of(&set, "HTTPS_PROXY").as_deref(), Some("http://p:3128"));
        assert_eq!(of(&set, "NO_PROXY").as_deref(), Some(no_proxy::for_go(Some(".internal")).as_str()));
        let own = of(&set, "NO_PROXY").unwrap();
        assert!(own.starts_with(".internal,") && own.contains("169.254.0.0/16") && own.contains("localhost,"), "{own}");
    }
}
