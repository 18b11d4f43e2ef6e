//! Mesos attributes of a Titus agent, `MESOS_ATTRIBUTES`.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};
use crate::secrets::shown;
use crate::titus::instance_types::InstanceType;
use crate::titus::vpc_driver::Limits;
use crate::titus::{is_name, is_ranges, parse_whole};

/// How to count the interfaces and addresses that Titus may assign to containers:
/// the setting `agent.resource_set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceSet {
    /// All interfaces of the instance, including the node's own. The proof of concept counts this way.
    Instance,
    /// All interfaces except the node's own, up to the number that the driver attaches. `titus-vpc-tool genconf` of May 2018
    /// counts this way.
    Schedulable,
    /// This number of interfaces, with this number of addresses each.
    Exact(u32, u32),
}

impl FromStr for ResourceSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |part: &str| parse_whole(part).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        match text {
            "instance" => Ok(ResourceSet::Instance),
            "schedulable" => Ok(ResourceSet::Schedulable),
            _ => text
                .split_once('-')
                .and_then(|(enis, addresses)| Some(ResourceSet::Exact(number(enis)?, number(addresses)?)))
                .ok_or_else(|| {
                    Error::config(format!("{text:?} is not a way to count a resource set")).fix(
                        "use \"instance\" (all interfaces), \"schedulable\" (all but the node's own), \
                         or \"E-I\", interfaces and addresses on each, such as \"7-29\"",
                    )
                }),
        }
    }
}

/// The value of the attribute `res`, e.g. `ResourceSet-ENIs-2-10`: interfaces, and IPv4 addresses per
/// interface. Titus assigns at most that many addresses to containers on the node. `driver`: the limits of the VPC driver,
/// if its table has any.
///
/// # Errors
/// Fails when no interface is left for containers.
pub fn resource_set(kind: ResourceSet, t: &InstanceType, driver: Option<Limits>) -> Result<String> {
    let (enis, addresses) = match kind {
        ResourceSet::Instance => (t.max_enis, t.ipv4_per_eni),
        // The executor attaches container interface n to device n + 1; device 0 is the node's own interface.
        ResourceSet::Schedulable => {
            let Limits { interfaces, ipv4, .. } = driver.unwrap_or(Limits::NONE);
            (t.max_enis.min(interfaces).saturating_sub(1), t.ipv4_per_eni.min(ipv4))
        }
        ResourceSet::Exact(enis, addresses) => (enis, addresses),
    };
    if enis == 0 || addresses == 0 {
        return Err(Error::new(Kind::Unavailable, "no network interface is left for containers")
            .cause(format!(
                "the instance type has {} interfaces with {} IPv4 addresses each, and one interface is the node's own",
                t.max_enis, t.ipv4_per_eni
            ))
            .fix("use a larger instance type"));
    }
    Ok(format!("ResourceSet-ENIs-{enis}-{addresses}"))
}

/// Attributes that Titus and its scheduler read as text. They would read a number as an empty text.
const READ_AS_TEXT: [&str; 7] = ["region", "zone", "id", "asg", "stack", "itype", "cluster"];

/// Formats each pair as `name:value`, in the given order. Refuses values that could
/// forge another attribute or that a shell would interpret.
///
/// A value is a list of ranges such as `[7150-7200]`, or printable ASCII without blanks and
/// without characters that Mesos or a shell interprets. Mesos itself
/// promises less: letters, digits, `_`, `.`, `/`, `-`.
///
/// # Errors
/// Fails when a name or a value has neither form, or when a name occurs twice.
pub fn attributes(pairs: &[(String, String)]) -> Result<Vec<String>> {
    let mut seen = BTreeSet::new();
    pairs
        .iter()
        .map(|(name, value)| {
            if !is_name(name) {
                return Err(Error::config(format!("{name:?} cannot be the name of a Mesos attribute"))
                    .fix("use letters, digits, '_', '.', '/' and '-'"));
            }
            if !seen.insert(name) {
                return Err(Error::config(format!("the Mesos attribute {name} is given twice"))
                    .fix("remove it from the table agent.attributes"));
            }
            check_value(name, value)?;
            Ok(format!("{name}:{value}"))
        })
        .collect()
}

fn check_value(name: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::config(format!("the Mesos attribute {name} has no value")));
    }
    if READ_AS_TEXT.contains(&name) && is_number(value) {
        return Err(Error::config(format!("the Mesos attribute {name} must not be {:?}", shown(name, value)))
            .cause("Mesos reads it as a number, and Titus, which expects text, then gets an empty value")
            .fix(format!("use text, for example \"v{value}\": change the tag or setting that {name} comes from")));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_./-+=,@%".contains(c);
    let Some(offender) = value.chars().find(|c| !allowed(*c)) else {
        return Ok(());
    };
    if is_ranges(value) {
        return Ok(());
    }
    Err(Error::config(format!("the Mesos attribute {name} must not be {:?}", shown(name, value)))
        .cause(format!(
            "it contains {offender:?}; attributes are written as name:value;name:value into a shell script, \
             so only letters, digits, _ . / - + = , @ % and ranges such as [7150-7200] can stand in a value"
        ))
        .fix(format!("change the tag or setting that {name} comes from")))
}

/// Whether Mesos reads a value as a scalar: text that lexical_cast converts to a double, and hexadecimal ("Attributes &
/// Resources", and stout's numify).
pub(super) fn is_number(value: &str) -> bool {
    let digits = value.trim_start_matches(['+', '-']);
    let hexadecimal = digits.strip_prefix("0x").or(digits.strip_prefix("0X"));
    value.parse::<f64>().is_ok()
        || hexadecimal
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit() || b == b'.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::titus::instance_types::lookup;
    use crate::titus::vpc_driver;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_three_ways_to_count() {
        let m4_large = lookup("m4.large").unwrap();
        let r4_8xlarge = lookup("r4.8xlarge").unwrap();
        let count = |kind: &str, t| resource_set(kind.parse().unwrap(), t, None).unwrap();
        assert_eq!(count("instance", &m4_large), "ResourceSet-ENIs-2-10");
        assert_eq!(count("schedulable", &m4_large), "ResourceSet-ENIs-1-10");
        assert_eq!(count("instance", &r4_8xlarge), "ResourceSet-ENIs-8-30");
        assert_eq!(count("schedulable", &r4_8xlarge), "ResourceSet-ENIs-7-30");
        assert_eq!(count("7-29", &r4_8xlarge), "ResourceSet-ENIs-7-29");
    }

    #[test]
    fn what_can_be_scheduled_is_the_smaller_of_both_numbers() {
        for (name, set) in [
            ("c5.4xlarge", "3-30"),
            ("c5.9xlarge", "3-30"),
            ("c5.18xlarge", "3-50"),
            ("m5.24xlarge", "14-30"),
            ("m4.large", "1-10"),
        ] {
            let (numbers, driver) = (lookup(name).unwrap(), vpc_driver::limits_2018(name));
            let count = |kind: ResourceSet| resource_set(kind, &numbers, driver).unwrap();
            assert_eq!(count(ResourceSet::Schedulable), format!("ResourceSet-ENIs-{set}"), "{name}");
            // The numbers of EC2, which the proof of concept uses.
            let whole = format!("ResourceSet-ENIs-{}-{}", numbers.max_enis, numbers.ipv4_per_eni);
            assert_eq!(count(ResourceSet::Instance), whole, "{name}");
        }
    }

    #[test]
    fn other_ways_to_count_are_refused_with_the_three() {
        for bad in ["", "Instance", "7", "7-", "-29", "0-29", "7-0", "+7-29", "7-29-1", "99999999999-1"] {
            let error = bad.parse::<ResourceSet>().unwrap_err();
            assert_eq!(error.kind, Kind::Config, "{bad}");
            let fix = error.fix.unwrap();
            assert!(fix.contains("instance") && fix.contains("schedulable") && fix.contains("E-I"), "{fix}");
        }
    }

    #[test]
    fn a_type_with_one_interface_has_nothing_to_schedule_on() {
        for max_enis in [0, 1] {
            let t = InstanceType { max_enis, ipv4_per_eni: 4, network_mbps: None };
            assert_eq!(resource_set(ResourceSet::Schedulable, &t, None).unwrap_err().kind, Kind::Unavailable);
        }
    }

    #[test]
    fn attributes_keep_their_order() {
        let pairs = [pair("zone", "eu-west-1a"), pair("id", "i-0123456789abcdef0"), pair("ports", "[7150-7200]")];
        assert_eq!(attributes(&pairs).unwrap(), ["zone:eu-west-1a", "id:i-0123456789abcdef0", "ports:[7150-7200]"]);
    }

    #[test]
    fn a_value_that_reads_as_a_number_is_refused_with_the_reason() {
        for value in ["2018", "-1", "1e3", ".5", "0x1F", "inf", "NaN"] {
            let error = attributes(&[pair("asg", value)]).unwrap_err();
            assert!(error.cause.unwrap().contains("reads it as a number") && error.kind == Kind::Config, "{value}");
        }
        for value in ["v2018", "2018-05", "1.2.3", "0xg", "[1-2]", "30.0.100.140"] {
            attributes(&[pair("asg", value)]).unwrap();
        }
        attributes(&[pair("distrelease", "16.04")]).unwrap();
    }

    #[test]
    fn hostile_values_are_refused() {
        let bad = [
            "",
            "a;id:i-1",
            "a:b",
            "a b",
            "a\nb",
            "a\"b",
            "a'b",
            "a\\b",
            "$(reboot)",
            "`reboot`",
            "a\u{7f}",
            "[1-2",
            "é",
            "{a}",
            "a&b",
            "arn:aws:iam::123456789012:role/x",
            "<?xml version=\"1.0\"?>",
        ];
        for value in bad {
            let error = attributes(&[pair("asg", value)]).unwrap_err();
            assert_eq!(error.kind, Kind::Config);
            assert!(error.what.contains("asg"), "{error}");
        }
        for name in ["", "a;b", "a:b", "a b", "é"] {
            assert!(attributes(&[pair(name, "x")]).is_err(), "{name}");
        }
        assert!(attributes(&[pair("a", "1"), pair("a", "2")]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_cannot_forge_an_attribute(name in ".*", value in ".*") {
            if let Ok(lines) = attributes(&[(name, value)]) {
                prop_assert_eq!(lines.len(), 1);
                prop_assert_eq!(lines[0].matches([':', ';']).count(), 1);
                prop_assert!(!lines[0].contains(['"', '\'', '$', '`', '\\', ' ', '\n']));
            }
        }

        #[test]
        fn any_numbers_are_counted_or_refused(max_enis: u32, ipv4_per_eni: u32, e: u32, i: u32) {
            let t = InstanceType { max_enis, ipv4_per_eni, network_mbps: None };
            for kind in [ResourceSet::Instance, ResourceSet::Schedulable, ResourceSet::Exact(e, i)] {
                let _ = resource_set(kind, &t, None);
            }
        }
    }
}
