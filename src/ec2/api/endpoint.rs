//! The addresses of AWS's regional services.

use reqwest::Url;

use crate::error::{Error, Result};

/// A regional service of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// EC2.
    Ec2,
    /// EC2 Auto Scaling.
    AutoScaling,
    /// S3.
    S3,
}

impl Service {
    /// Its name in addresses and in signatures.
    pub fn name(self) -> &'static str {
        match self {
            Service::Ec2 => "ec2",
            Service::AutoScaling => "autoscaling",
            Service::S3 => "s3",
        }
    }

    /// Its name in messages.
    pub fn title(self) -> &'static str {
        match self {
            Service::Ec2 => "the EC2 API",
            Service::AutoScaling => "the Auto Scaling API",
            Service::S3 => "S3",
        }
    }

    /// A call in messages: `the EC2 API (DescribeTags)`.
    pub(super) fn call(self, action: &str) -> String {
        format!("{} ({action})", self.title())
    }

    /// The version of its API that the program uses; S3 has no versions.
    pub(super) fn version(self) -> &'static str {
        match self {
            Service::Ec2 => "2016-11-15",
            Service::AutoScaling => "2011-01-01",
            Service::S3 => "",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Service::Ec2 => "AWS_ENDPOINT_URL_EC2",
            Service::AutoScaling => "AWS_ENDPOINT_URL_AUTO_SCALING",
            Service::S3 => "AWS_ENDPOINT_URL_S3",
        }
    }
}

/// The address of a service in a region. `domain` is that of the partition, which IMDS has in `services/domain`.
///
/// Follows the same variables as AWS's SDKs (AWS SDKs and Tools Reference Guide, "Service-specific endpoints", "FIPS
/// endpoints"): `AWS_ENDPOINT_URL_EC2` etc., `AWS_ENDPOINT_URL`, `AWS_USE_FIPS_ENDPOINT`.
///
/// # Errors
/// Fails when a variable or the address is invalid.
pub fn service_url(
    service: Service,
    region: &str,
    domain: Option<&str>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Url> {
    let set = |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    for name in [service.variable(), "AWS_ENDPOINT_URL"] {
        let Some(given) = set(name) else { continue };
        let url = Url::parse(&given).ok().filter(|url| {
            ["http", "https"].contains(&url.scheme())
                && url.has_host()
                && url.query().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        return url.ok_or_else(|| {
            // The text before an @ may be a password.
            let shown = given.rsplit('@').next().unwrap_or_default();
            Error::config(format!("{name} must not be {shown:?}")).fix("give http://HOST[:PORT] or https://HOST[:PORT]")
        });
    }
    let name = "AWS_USE_FIPS_ENDPOINT";
    let fips = match set(name).map(|value| value.to_ascii_lowercase()).as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(Error::config(format!("{name} must not be {other:?}")).fix("use true or false")),
    };
    let domain = domain.unwrap_or(if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" });
    // GovCloud's usual endpoints are FIPS endpoints, except for S3 ("AWS GovCloud (US) endpoints").
    let plain = !fips || (region.starts_with("us-gov-") && service != Service::S3);
    let name = if plain { service.name().to_owned() } else { format!("{}-fips", service.name()) };
    let host = format!("{name}.{region}.{domain}");
    // An invalid region or domain must not send the signature to another host.
    let url = Url::parse(&format!("https://{host}/")).ok();
    let url = url.filter(|url| url.host_str() == Some(&host) && !host.contains(".."));
    url.ok_or_else(|| {
        Error::config(format!("{host:?} is not an address of {}", service.title()))
            .fix("see the region in the facts (titus-bootstrap facts)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(service: Service, region: &str, domain: Option<&str>, set: &[(&str, &str)]) -> Result<String> {
        let variable = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        service_url(service, region, domain, &variable).map(|url| url.to_string())
    }

    #[test]
    fn each_partition_has_its_names() {
        let plain = |service, region, domain| at(service, region, domain, &[]).unwrap();
        assert_eq!(plain(Service::Ec2, "eu-west-1", Some("amazonaws.com")), "https://ec2.eu-west-1.amazonaws.com/");
        assert_eq!(plain(Service::Ec2, "cn-north-1", None), "https://ec2.cn-north-1.amazonaws.com.cn/");
        assert_eq!(
            plain(Service::AutoScaling, "us-iso-east-1", Some("c2s.ic.gov")),
            "https://autoscaling.us-iso-east-1.c2s.ic.gov/"
        );
        let fips = |service, region| at(service, region, None, &[("AWS_USE_FIPS_ENDPOINT", "true")]).unwrap();
        assert_eq!(fips(Service::Ec2, "us-east-1"), "https://ec2-fips.us-east-1.amazonaws.com/");
        assert_eq!(fips(Service::Ec2, "us-gov-west-1"), "https://ec2.us-gov-west-1.amazonaws.com/");
        assert_eq!(fips(Service::S3, "us-gov-west-1"), "https://s3-fips.us-gov-west-1.amazonaws.com/");
    }

    #[test]
    fn a_variable_overrides_the_address() {
        let set = [("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:5000"), ("AWS_ENDPOINT_URL", "https://all.example/")];
        assert_eq!(at(Service::Ec2, "eu-west-1", None, &set).unwrap(), "http://127.0.0.1:5000/");
        assert_eq!(at(Service::S3, "eu-west-1", None, &set).unwrap(), "https://all.example/");
        for wrong in ["127.0.0.1:5000", "ftp://host/", "https://user@host/", "https://:hush@host/", "http://host/?a=b"]
        {
            let error = at(Service::Ec2, "eu-west-1", None, &[("AWS_ENDPOINT_URL_EC2", wrong)]).unwrap_err();
            assert!(error.what.starts_with("AWS_ENDPOINT_URL_EC2 must not be"), "{error}");
            assert!(!error.what.contains("hush"), "{error}");
        }
        at(Service::Ec2, "eu-west-1", None, &[("AWS_USE_FIPS_ENDPOINT", "yes")]).unwrap_err();
    }

    #[test]
    fn a_region_leads_nowhere_else() {
        for region in ["", "eu/west", "evil.example/#", "evil.example:8443/", "a@evil.example", "eu west", "EU-WEST-1"]
        {
            let error = at(Service::Ec2, region, None, &[]).unwrap_err();
            assert!(error.what.ends_with("is not an address of the EC2 API"), "{error}");
        }
    }
}
