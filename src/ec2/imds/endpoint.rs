//! The address of the metadata service.

use std::fmt;

use reqwest::Url;

use crate::error::{Error, Result};

const IPV4: &str = "http://169.254.169.254";
const IPV6: &str = "http://[fd00:ec2::254]";

/// The address of the metadata service, and whether the program may use it.
///
/// Follows the same variables as AWS's SDKs (AWS SDKs and Tools Reference Guide, "IMDS client").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    base: Url,
    given: bool,
    disabled: bool,
}

impl Endpoint {
    /// Reads `AWS_EC2_METADATA_SERVICE_ENDPOINT`, or else `…_ENDPOINT_MODE` (`IPv4`,
    /// `IPv6`), and `AWS_EC2_METADATA_DISABLED` (`true`, `false`).
    ///
    /// # Errors
    /// Fails when one of them has an invalid value.
    pub fn from_env() -> Result<Endpoint> {
        Endpoint::from_variables(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// This address, `http://HOST[:PORT]`, without reading any variables.
    ///
    /// # Errors
    /// Fails when it is not such an address.
    pub fn at(address: &str) -> Result<Endpoint> {
        let refuse = |cause: &str| {
            Error::config(format!("{address:?} cannot be the address of the metadata service"))
                .cause(cause)
                .fix(format!("give http://HOST or http://HOST:PORT, such as {IPV4}"))
        };
        let base = Url::parse(address).map_err(|e| refuse(&e.to_string()))?;
        if base.scheme() != "http" {
            return Err(refuse("the metadata service speaks http only"));
        }
        if !base.username().is_empty() || base.password().is_some() || base.path() != "/" {
            return Err(refuse("it must not have a user, password or path"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(refuse("it must not have a query or fragment"));
        }
        Ok(Endpoint { base, given: true, disabled: false })
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Endpoint> {
        let set = |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let refuse =
            |name: &str, value: &str, fix: &str| Err(Error::config(format!("{name} must not be {value:?}")).fix(fix));

        let mode = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";
        let default = match set(mode) {
            None => IPV4,
            Some(value) if value.eq_ignore_ascii_case("IPv4") => IPV4,
            Some(value) if value.eq_ignore_ascii_case("IPv6") => IPV6,
            Some(value) => return refuse(mode, &value, "use IPv4 or IPv6"),
        };
        let address = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
        let endpoint = match set(address) {
            Some(value) => Endpoint::at(&value).map_err(|e| e.at(address))?,
            None => Endpoint { given: false, ..Endpoint::at(default)? },
        };
        let disabled = "AWS_EC2_METADATA_DISABLED";
        let disabled = match set(disabled) {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(value) if value.eq_ignore_ascii_case("false") => false,
            Some(value) => return refuse(disabled, &value, "use true or false"),
        };
        Ok(Endpoint { disabled, ..endpoint })
    }

    /// Whether this is the default address of every instance, `http://169.254.169.254`.
    pub fn is_default(&self) -> bool {
        self.to_string() == IPV4
    }

    /// Whether the caller or a variable named this address. Then there is a metadata service, even if the machine is
    /// clearly not an EC2 instance.
    pub fn is_given(&self) -> bool {
        self.given
    }

    /// Whether the program must not use the metadata service.
    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// Refuses the use of a disabled metadata service.
    ///
    /// # Errors
    /// Returns `Unavailable` when the service is disabled.
    pub fn refuse_disabled(&self) -> Result<()> {
        if !self.disabled {
            return Ok(());
        }
        Err(Error::unavailable("instance metadata: AWS_EC2_METADATA_DISABLED=true forbids its use")
            .fix("unset the variable, or give the facts with --facts FILE"))
    }

    /// The address of an item: `meta-data/mac` below `latest/`.
    pub(super) fn item(&self, path: &str) -> Result<Url> {
        let address = format!("latest/{path}");
        self.base.join(&address).map_err(|e| Error::config(format!("{address:?} is not a path: {e}")))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(variables: &[(&str, &str)]) -> Result<Endpoint> {
        Endpoint::from_variables(|name| {
            let short = name.strip_prefix("AWS_EC2_METADATA_")?;
            variables.iter().find(|(known, _)| *known == short).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_change_the_endpoint() {
        let default = endpoint(&[]).unwrap();
        assert!(default.is_default() && !default.is_given() && !default.is_disabled());
        assert_eq!(default.to_string(), "http://169.254.169.254");
        for (variables, expected) in [
            (&[("SERVICE_ENDPOINT_MODE", "IPv6")][..], "http://[fd00:ec2::254]"),
            (&[("SERVICE_ENDPOINT_MODE", "ipv4")], "http://169.254.169.254"),
            (&[("SERVICE_ENDPOINT", "")], "http://169.254.169.254"),
            (&[("SERVICE_ENDPOINT", "http://127.0.0.1:1338/")], "http://127.0.0.1:1338"),
            (&[("SERVICE_ENDPOINT", "http://a.b:80"), ("SERVICE_ENDPOINT_MODE", "IPv6")], "http://a.b"),
        ] {
            let moved = endpoint(variables).unwrap();
            assert_eq!(moved.to_string(), expected);
            assert_eq!(moved.is_default(), expected == IPV4);
        }
        assert!(endpoint(&[("DISABLED", "True")]).unwrap().is_disabled());
        assert!(!endpoint(&[("DISABLED", "false")]).unwrap().is_disabled());
    }

    #[test]
    fn invalid_values_are_refused_by_name() {
        for (name, value) in [
            ("SERVICE_ENDPOINT_MODE", "IPv5"),
            ("DISABLED", "1"),
            ("SERVICE_ENDPOINT", "169.254.169.254"),
            ("SERVICE_ENDPOINT", "https://169.254.169.254"),
            ("SERVICE_ENDPOINT", "http://user@169.254.169.254"),
            ("SERVICE_ENDPOINT", "http://169.254.169.254/latest"),
            ("SERVICE_ENDPOINT", "http://169.254.169.254/?a=b"),
            ("SERVICE_ENDPOINT", "http://"),
        ] {
            let error = endpoint(&[(name, value)]).unwrap_err();
            assert_eq!(error.kind, crate::error::Kind::Config);
            assert!(error.what.contains(name), "{error}");
            assert!(error.fix.is_some(), "{error}");
        }
    }
}
