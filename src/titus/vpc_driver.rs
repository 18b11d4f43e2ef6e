//! Which instance types Titus's VPC driver supports, and how many interfaces and addresses it attaches on each.

use super::checks::Finding;
use super::instance_types::family;
use crate::error::{Error, Result};
use crate::facts::{HttpTokens, Instance};
use crate::settings::Settings;
use crate::settings::schema::{DriverRelease, Families, VpcDriver};

/// `data/vpc-driver-2018-05.csv`: the table in titus-executor of May 2018. The driver panics on every other type, even of
/// these families, and attaches no more than this, even if EC2 allows more.
const MAY_2018: &str = include_str!("../../data/vpc-driver-2018-05.csv");

/// The number of addresses of one interface that can reach the metadata service, VPC DNS and the time service. Those from
/// the 32nd on cannot ("IP addresses per network interface per instance type", EC2 user guide).
const UNREACHABLE: [&str; 5] = ["f1.16xlarge", "g3.16xlarge", "h1.16xlarge", "i3.16xlarge", "r4.16xlarge"];
const REACHABLE: u32 = 31;

/// What the driver attaches on an instance type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Network interfaces, including the node's own.
    pub interfaces: u32,
    /// IPv4 addresses of one interface.
    pub ipv4: u32,
    /// The bandwidth to which it limits the instance, Mbit/s.
    pub network_mbps: u32,
}

impl Limits {
    /// No limits except EC2's.
    pub const NONE: Limits = Limits { interfaces: u32::MAX, ipv4: u32::MAX, network_mbps: u32::MAX };
}

/// Whether the driver supports a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// It does, with these limits.
    WithLimits(Limits),
    /// It does, according to the settings; only EC2 limits it.
    Unlimited,
    /// It does not.
    Not {
        /// The refusal, e.g. `Titus's VPC driver of 2018-05 does not know m5.8xlarge`.
        what: String,
        /// The types or families that it supports.
        knows: String,
    },
}

/// The limits of the driver of May 2018 on this type, or `None` if it panics.
pub fn limits_2018(name: &str) -> Option<Limits> {
    rows().find(|(known, _)| *known == name).map(|(_, limits)| limits)
}

/// Whether the driver uses version 1 of the metadata service only: its AWS SDK of 2018 does not support tokens.
pub fn uses_version_1(settings: &Settings) -> bool {
    matches!(settings.agent.vpc_driver, None | Some(VpcDriver::Release(DriverRelease::May2018)))
}

/// Whether the metadata service will answer the driver, according to the instance's metadata options.
pub fn check_metadata(settings: &Settings, instance: &Instance) -> Finding {
    let Instance { id, region, .. } = instance;
    match instance.http_tokens {
        _ if !uses_version_1(settings) => {
            Finding::Good("agent.vpc_driver is a later release, which may support tokens".into())
        }
        Some(HttpTokens::Optional) => {
            Finding::Good("the metadata service answers without a token, which is how the driver asks".into())
        }
        Some(HttpTokens::Required) => Finding::Bad(format!(
            "the metadata service demands a token (IMDSv2), but titus-executor of May 2018 does not support tokens: no task with a \
             network starts. Run: aws ec2 modify-instance-metadata-options --region {region} --instance-id {id} \
             --http-tokens optional. If your titus-executor is a later one that knows tokens, set agent.vpc_driver"
        )),
        None => Finding::NotAsked(
            "whether the metadata service answers without a token, which is how titus-executor asks, is unknown".into(),
        ),
    }
}

fn rows() -> impl Iterator<Item = (&'static str, Limits)> {
    MAY_2018.lines().skip(1).filter_map(|row| {
        let (name, numbers) = row.split_once(',')?;
        let mut numbers = numbers.split(',').map(|number| number.parse().ok());
        let limits = Limits { interfaces: numbers.next()??, ipv4: numbers.next()??, network_mbps: numbers.next()?? };
        Some((name, limits))
    })
}

/// Whether the driver supports a type: by `agent.vpc_driver`, else by `agent.supported_families`, else like the driver of
/// May 2018.
pub fn find_support(settings: &Settings, name: &str) -> Support {
    let of = family(name);
    match (&settings.agent.vpc_driver, &settings.agent.supported_families) {
        (Some(VpcDriver::Any(_)), _) | (None, Some(Families::Any(_))) => Support::Unlimited,
        (Some(VpcDriver::Types(types)), _) if types.iter().any(|known| known == name) => Support::Unlimited,
        (Some(VpcDriver::Types(types)), _) => Support::Not {
            what: format!("Titus's VPC driver does not know {name}"),
            knows: format!("agent.vpc_driver has {}", types.join(", ")),
        },
        // In settings of earlier versions, `any` may be an entry of the list.
        (None, Some(Families::Listed(families))) if families.iter().any(|known| known == of || known == "any") => {
            Support::Unlimited
        }
        (None, Some(Families::Listed(families))) => Support::Not {
            what: format!("Titus's VPC driver does not know the family {of}"),
            knows: format!("agent.supported_families has {}", families.join(", ")),
        },
        (None | Some(VpcDriver::Release(DriverRelease::May2018)), _) => match limits_2018(name) {
            Some(limits) => Support::WithLimits(limits),
            None => refusal_2018(name),
        },
    }
}

/// The driver's limits on a type, if its table has any.
pub fn limits(settings: &Settings, name: &str) -> Option<Limits> {
    if let Support::WithLimits(limits) = find_support(settings, name) { Some(limits) } else { None }
}

fn refusal_2018(name: &str) -> Support {
    let of = family(name);
    let same: Vec<&str> = rows().map(|(known, _)| known).filter(|known| family(known) == of).collect();
    if !same.is_empty() {
        return Support::Not {
            what: format!("Titus's VPC driver of May 2018 does not know {name}"),
            knows: format!("of the family {of} it knows {}", same.join(", ")),
        };
    }
    let mut families: Vec<&str> = rows().map(|(known, _)| family(known)).collect();
    families.dedup();
    Support::Not {
        what: format!("Titus's VPC driver of May 2018 does not know the family {of}"),
        knows: format!("it knows types of {}", families.join(", ")),
    }
}

/// Refuses a type on which the first task would make the driver panic.
///
/// # Errors
/// Fails with 69 when the driver does not support the type. The error lists the types that work.
pub fn refuse_unknown(settings: &Settings, name: &str) -> Result<()> {
    let Support::Not { what, knows } = find_support(settings, name) else { return Ok(()) };
    Err(Error::unavailable(format!("instance type {name:?}: {what}")).cause(knows).fix(
        "use one of these instance types; if your driver is a later release, list what it supports in agent.vpc_driver \
         (\"any\", or a list of types; agent.supported_families takes families)",
    ))
}

/// A notice about the addresses of an instance type.
pub fn notice(name: &str, addresses: u32) -> Option<String> {
    (UNREACHABLE.contains(&name) && addresses > REACHABLE).then(|| {
        format!(
            "on {name}, the addresses of an interface from the 32nd on cannot reach the metadata service, VPC DNS and the time \
             service (EC2 user guide, \"IP addresses per network interface\"): use at most {REACHABLE}, for example \
             agent.resource_set = \"14-{REACHABLE}\""
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_driver_without_tokens_needs_a_metadata_service_that_answers_without() {
        let (optional, required) = (Some(HttpTokens::Optional), Some(HttpTokens::Required));
        for (text, http_tokens, expected) in [
            ("", optional, "good"),
            ("", required, "failed"),
            ("agent.vpc_driver = '2018-05'", required, "failed"),
            ("agent.supported_families = ['m4']", required, "failed"),
            ("", None, "not asked"),
            ("agent.vpc_driver = 'any'", required, "good"),
            ("agent.vpc_driver = ['m5.8xlarge']", None, "good"),
        ] {
            let instance = Instance { id: "i-1".into(), region: "r-1".into(), http_tokens, ..Instance::default() };
            let found = match check_metadata(&settings(text), &instance) {
                Finding::Good(_) => "good",
                Finding::Warning(_) => "warning",
                Finding::NotAsked(_) => "not asked",
                Finding::Bad(text) => {
                    assert!(text.contains("--region r-1 --instance-id i-1 --http-tokens optional"), "{text}");
                    "failed"
                }
            };
            assert_eq!(found, expected, "{text} {http_tokens:?}");
        }
    }

    #[test]
    fn every_row_has_its_numbers() {
        assert_eq!(rows().count(), MAY_2018.lines().count() - 1);
        assert_eq!(rows().count(), 27);
        let c5 = limits_2018("c5.18xlarge").unwrap();
        assert_eq!((c5.interfaces, c5.ipv4, c5.network_mbps), (4, 50, 23000));
    }

    #[test]
    fn the_driver_knows_types_and_not_families() {
        for (text, name, words) in [
            ("", "m4.large", None),
            ("", "m5.24xlarge", None),
            ("", "m5.8xlarge", Some(["m5.8xlarge", "of the family m5 it knows m5.large, m5.xlarge"])),
            ("", "m5.metal", Some(["m5.metal", "m5.24xlarge"])),
            ("", "c5.24xlarge", Some(["c5.24xlarge", "c5.18xlarge"])),
            ("", "t2.large", Some(["the family t2", "m4, m5, r4, p2, c5"])),
            ("agent.vpc_driver = '2018-05'", "m5.12xlarge", None),
            ("agent.vpc_driver = '2018-05'\nagent.supported_families = 'any'", "t2.large", Some(["t2", "m4"])),
            ("agent.vpc_driver = 'any'", "t2.large", None),
            ("agent.vpc_driver = ['t3.large']", "t3.large", None),
            ("agent.vpc_driver = ['t3.large']", "m4.large", Some(["m4.large", "t3.large"])),
            ("agent.supported_families = 'any'", "t2.large", None),
            ("agent.supported_families = ['t2']", "t2.large", None),
            ("agent.supported_families = ['m4', 'any']", "t2.large", None),
            ("agent.supported_families = ['t2']", "m4.large", Some(["the family m4", "t2"])),
        ] {
            let refused = refuse_unknown(&settings(text), name);
            assert_eq!(refused.is_err(), words.is_some(), "{text} {name}: {refused:?}");
            if let (Err(error), Some(words)) = (refused, words) {
                assert_eq!(error.kind.exit_code(), 69);
                let shown = error.to_string();
                assert!(words.iter().all(|word| shown.contains(word)), "{shown}");
            }
        }
    }

    #[test]
    fn only_some_types_have_addresses_that_reach_nothing() {
        assert!(notice("r4.16xlarge", 50).unwrap().contains("32nd"));
        assert_eq!(notice("r4.16xlarge", 31), None);
        assert_eq!(notice("c5.18xlarge", 50), None);
    }
}
