//! The values in an agent's templates that are derived from facts and settings.

use super::attributes::{ResourceSet, attributes, resource_set};
use super::instance_types::{self, InstanceType};
use super::part::{Input, Part};
use super::resources::{disk, mem, resources};
use super::{Values, vpc_driver};
use crate::error::{Error, Result};
use crate::facts::{Instance, TypeNumbers};
use crate::settings::Settings;
use crate::template::setting_advice;

impl Values {
    /// Derives all values of an agent.
    ///
    /// # Errors
    /// Fails with 69 for a type that Titus's VPC driver does not support. Fails with 78 for an instance type without
    /// numbers, a missing Auto Scaling group, or a value that would forge attributes.
    pub fn derive_agent(settings: &Settings, instance: &Instance) -> Result<Values> {
        vpc_driver::refuse_unknown(settings, &instance.instance_type)?;
        let driver = vpc_driver::limits(settings, &instance.instance_type);
        let (numbers, places) = type_numbers(settings, &instance.instance_type, instance.type_numbers)?;
        let way = default_of("agent.resource_set", &settings.agent.resource_set)?;
        let kind = way.parse::<ResourceSet>()?;
        let set = resource_set(kind, &numbers, driver)?;
        let attributes_of_it = attributes_of(settings, instance, &set)?;
        let offered = resources_of(settings, instance, places.network_mbps)?;
        let pairs = |parts: &[Part]| parts.iter().map(Part::pair).collect::<Vec<_>>();
        let mut values = Values {
            attributes: Some(attributes(&pairs(&attributes_of_it))?),
            resources: Some(resources(&pairs(&offered))?),
            ..Values::derive_common(settings)
        };
        let mut counted = Part::new("", &set).add_input(Input::new("agent.resource_set", way));
        if !matches!(kind, ResourceSet::Exact(..)) {
            counted = counted.add_input(places.max_enis).add_input(places.ipv4_per_eni);
        }
        if kind == ResourceSet::Schedulable {
            if let Some(driver) = driver {
                let row = || Some(format!("the VPC driver's table of 2018-05, row {}", instance.instance_type));
                let input = |name: &str, number| Input { source: row(), ..Input::new(name, number) };
                counted =
                    counted.add_input(input("interfaces", driver.interfaces)).add_input(input("ipv4", driver.ipv4));
            }
            counted = counted.operation("the smaller of both, without the node's own interface");
        }
        values.resource_set = Some(set);
        values.parts.extend([
            ("attributes", attributes_of_it),
            ("resources", offered),
            ("resource_set", vec![counted]),
        ]);
        Ok(values)
    }
}

/// The source of each number of an instance type.
#[derive(Debug, Clone)]
pub struct NumberSources {
    /// Number of interfaces.
    pub max_enis: Input,
    /// Number of addresses.
    pub ipv4_per_eni: Input,
    /// Bandwidth, if known.
    pub network_mbps: Option<Input>,
}

impl NumberSources {
    /// Each number's name with its source: a setting, or words that describe it.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = [Some(&self.max_enis), Some(&self.ipv4_per_eni), self.network_mbps.as_ref()];
        all.into_iter().flatten().map(|input| {
            let number = input.name.rsplit('.').next().unwrap_or_default();
            (number, input.source.as_deref().unwrap_or(&input.name))
        })
    }
}

/// Whether the program must ask EC2 for the numbers of the instance's type. It does not for a type that it
/// will refuse.
pub fn lacks_numbers(settings: &Settings, instance: &Instance) -> bool {
    vpc_driver::refuse_unknown(settings, &instance.instance_type).is_ok()
        && type_numbers(settings, &instance.instance_type, instance.type_numbers).is_err()
}

/// The numbers of an instance type with their sources: from the table, else from EC2. Settings override both.
///
/// # Errors
/// Fails when no source has the numbers.
pub fn type_numbers(
    settings: &Settings,
    name: &str,
    of_ec2: Option<TypeNumbers>,
) -> Result<(InstanceType, NumberSources)> {
    let in_table = instance_types::lookup(name);
    let of_ec2 = of_ec2.map(|TypeNumbers { max_enis, ipv4_per_eni, network_mbps }| InstanceType {
        max_enis,
        ipv4_per_eni,
        network_mbps,
    });
    let known = in_table.or(of_ec2);
    let own = settings.instance_types.get(name).cloned().unwrap_or_default();
    let find = |key: &str, own: Option<u32>, known: Option<u32>| match (own, known) {
        (Some(number), _) => Some((number, Input::new(format!("instance_types.{name}.{key}"), number))),
        (None, Some(number)) if in_table.is_some() => {
            let source = Some(format!("built-in table, row {name}"));
            Some((number, Input { source, ..Input::new(key, number) }))
        }
        (None, Some(number)) => Some((number, Input::new(format!("instance.type_numbers.{key}"), number))),
        (None, None) => None,
    };
    let max_enis = find("max_enis", own.max_enis, known.map(|t| t.max_enis));
    let ipv4_per_eni = find("ipv4_per_eni", own.ipv4_per_eni, known.map(|t| t.ipv4_per_eni));
    let network = find("network_mbps", own.network_mbps, known.and_then(|t| t.network_mbps));
    match (max_enis, ipv4_per_eni) {
        (Some((max_enis, of_enis)), Some((ipv4_per_eni, of_addresses))) => Ok((
            InstanceType { max_enis, ipv4_per_eni, network_mbps: network.as_ref().map(|(number, _)| *number) },
            NumberSources {
                max_enis: of_enis,
                ipv4_per_eni: of_addresses,
                network_mbps: network.map(|(_, place)| place),
            },
        )),
        _ => Err(Error::config(format!("instance type {name:?} is not in the built-in table"))
            .cause("its interfaces and addresses are unknown, and the program never guesses them")
            .fix(instance_types::add_suggestion(name, how_to_give_numbers(name)))),
    }
}

/// Advice: the settings that supply the numbers.
pub fn how_to_give_numbers(name: &str) -> String {
    format!(
        "put its numbers into the settings:\n[instance_types.{name:?}]\nmax_enis = …\nipv4_per_eni = …\nnetwork_mbps = …"
    )
}

/// The value of a setting that roles with `vpc_driver` must give a default.
fn default_of<'a, T>(name: &str, value: &'a Option<T>) -> Result<&'a T> {
    value.as_ref().ok_or_else(|| {
        Error::config(format!("{name} has no value"))
            .cause("a role with vpc_driver = true needs it, but its table [defaults] lacks it")
            .fix(setting_advice(name))
    })
}

fn attributes_of(settings: &Settings, instance: &Instance, set: &str) -> Result<Vec<Part>> {
    let own = settings.agent.asg.as_ref().map(|group| ("agent.asg", group.as_str()));
    let tagged = || instance.autoscaling_group.as_ref().map(|group| ("instance.autoscaling_group", group.as_str()));
    let (group_name, group) = own.or_else(tagged).ok_or_else(|| {
        Error::config("the Auto Scaling group is unknown")
            .cause("neither the setting agent.asg nor the instance tag aws:autoscaling:groupName is set")
            .fix(format!(
                "{}; or enable tags in instance metadata (InstanceMetadataTags=enabled)",
                setting_advice("agent.asg")
            ))
            .awaiting("the Auto Scaling group")
    })?;
    let ports = default_of("agent.ports", &settings.agent.ports)?;
    let mut parts = vec![
        Part::direct("region", &instance.region, "instance.region"),
        Part::direct("zone", &instance.zone, "instance.zone"),
        Part::direct("id", &instance.id, "instance.id"),
        Part::direct("asg", group, group_name),
        Part::direct("stack", &settings.stack, "stack"),
        Part::direct("itype", &instance.instance_type, "instance.type"),
        Part::new("ports", format!("[{ports}]")).add_input(Input::new("agent.ports", ports)),
        Part::direct("res", set, "titus.resource_set"),
    ];
    let further = settings.agent.attributes.iter();
    parts.extend(further.map(|(name, value)| Part::direct(name.as_str(), value, format!("agent.attributes.{name}"))));
    Ok(parts)
}

fn resources_of(settings: &Settings, instance: &Instance, network: Option<Input>) -> Result<Vec<Part>> {
    let agent = &settings.agent;
    let given = |name: &str, amount: &u64| Part::direct(name, amount, format!("agent.resources.{name}"));
    let fixed = |name: &str| agent.resources.get(name).map(|amount| given(name, amount));
    let mem = match fixed("mem") {
        Some(mem) => mem,
        None => mem(instance.memory_mib, *default_of("agent.reserve.mem", &agent.reserve.mem)?)?,
    };
    let disk = match fixed("disk") {
        Some(disk) => disk,
        None => disk(instance.disk_mib, *default_of("agent.reserve.disk", &agent.reserve.disk)?)?,
    };
    let network = network.map(|place| Part::new("network", &place.value).add_input(place));
    let network = fixed("network").or(network).ok_or_else(|| {
        Error::config(format!("the baseline bandwidth of {:?} is unknown", instance.instance_type))
            .fix("set agent.resources.network, in Mbit/s")
    })?;
    let further = agent.resources.iter().filter(|(name, _)| !["mem", "disk", "network"].contains(&name.as_str()));
    let further = further.map(|(name, amount)| given(name, amount));
    Ok([mem, disk, network].into_iter().chain(further).collect())
}
