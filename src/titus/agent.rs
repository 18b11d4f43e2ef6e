//! What an agent's templates need that is derived of facts and settings.

use super::attributes::{ResourceSet, attributes, resource_set};
use super::instance_types::{self, InstanceType};
use super::part::{Input, Part};
use super::resources::{disk, mem, resources};
use super::{Values, vpc_driver};
use crate::error::{Error, Result};
use crate::facts::{Instance, TypeNumbers};
use crate::settings::Settings;
use crate::template::how_to_set;

impl Values {
    /// Everything, for an agent.
    ///
    /// # Errors
    /// 69 for a type that Titus's VPC driver does not know; 78 for an instance type without
    /// numbers, a missing Auto Scaling group, or a value that would forge attributes.
    pub fn of_agent(settings: &Settings, instance: &Instance) -> Result<Values> {
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
            ..Values::of_settings(settings)
        };
        let mut counted = Part::new("", &set).of(Input::named("agent.resource_set", way));
        if !matches!(kind, ResourceSet::Exact(..)) {
            counted = counted.of(places.max_enis).of(places.ipv4_per_eni);
        }
        if kind == ResourceSet::Schedulable {
            if let Some(driver) = driver {
                let row = || Some(format!("the VPC driver's table of 2018-05, row {}", instance.instance_type));
                let input = |name: &str, number| Input { source: row(), ..Input::named(name, number) };
                counted = counted.of(input("interfaces", driver.interfaces)).of(input("ipv4", driver.ipv4));
            }
            counted = counted.how("the smaller of both, without the node's own interface");
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

/// Where each of an instance type's numbers stands.
#[derive(Debug, Clone)]
pub struct Places {
    /// Of the interfaces.
    pub max_enis: Input,
    /// Of the addresses.
    pub ipv4_per_eni: Input,
    /// Of the bandwidth, where it is known.
    pub network_mbps: Option<Input>,
}

impl Places {
    /// Which number, and the setting or else the words that say where it stands.
    pub fn told(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = [Some(&self.max_enis), Some(&self.ipv4_per_eni), self.network_mbps.as_ref()];
        all.into_iter().flatten().map(|input| {
            let number = input.name.rsplit('.').next().unwrap_or_default();
            (number, input.source.as_deref().unwrap_or(&input.name))
        })
    }
}

/// Whether somebody else has to be asked for the numbers of the instance's type. Nobody is for a type that
/// will be refused.
pub fn lacks_numbers(settings: &Settings, instance: &Instance) -> bool {
    vpc_driver::refuse_unknown(settings, &instance.instance_type).is_ok()
        && type_numbers(settings, &instance.instance_type, instance.type_numbers).is_err()
}

/// An instance type's numbers, and where each stands: the table's, else EC2's, with the settings' on top.
///
/// # Errors
/// When none has them.
pub fn type_numbers(settings: &Settings, name: &str, of_ec2: Option<TypeNumbers>) -> Result<(InstanceType, Places)> {
    let in_table = instance_types::lookup(name);
    let of_ec2 = of_ec2.map(|TypeNumbers { max_enis, ipv4_per_eni, network_mbps }| InstanceType {
        max_enis,
        ipv4_per_eni,
        network_mbps,
    });
    let known = in_table.or(of_ec2);
    let own = settings.instance_types.get(name).cloned().unwrap_or_default();
    let find = |key: &str, own: Option<u32>, known: Option<u32>| match (own, known) {
        (Some(number), _) => Some((number, Input::named(format!("instance_types.{name}.{key}"), number))),
        (None, Some(number)) if in_table.is_some() => {
            let source = Some(format!("built-in table, row {name}"));
            Some((number, Input { source, ..Input::named(key, number) }))
        }
        (None, Some(number)) => Some((number, Input::named(format!("instance.type_numbers.{key}"), number))),
        (None, None) => None,
    };
    let max_enis = find("max_enis", own.max_enis, known.map(|t| t.max_enis));
    let ipv4_per_eni = find("ipv4_per_eni", own.ipv4_per_eni, known.map(|t| t.ipv4_per_eni));
    let network = find("network_mbps", own.network_mbps, known.and_then(|t| t.network_mbps));
    match (max_enis, ipv4_per_eni) {
        (Some((max_enis, of_enis)), Some((ipv4_per_eni, of_addresses))) => Ok((
            InstanceType { max_enis, ipv4_per_eni, network_mbps: network.as_ref().map(|(number, _)| *number) },
            Places { max_enis: of_enis, ipv4_per_eni: of_addresses, network_mbps: network.map(|(_, place)| place) },
        )),
        _ => Err(Error::config(format!("instance type {name:?} is not in the table"))
            .cause("its interfaces and addresses are unknown, and are never guessed")
            .fix(how_to_give_numbers(name))),
    }
}

/// The setting that has them, in words.
pub fn how_to_give_numbers(name: &str) -> String {
    format!(
        "put its numbers into the settings:\n[instance_types.{name:?}]\nmax_enis = …\nipv4_per_eni = …\nnetwork_mbps = …"
    )
}

/// A setting for which roles with `vpc_driver` have a default.
fn default_of<'a, T>(name: &str, value: &'a Option<T>) -> Result<&'a T> {
    value.as_ref().ok_or_else(|| {
        Error::config(format!("{name} has no value"))
            .cause("a role with vpc_driver = true needs it, and its table [defaults] does not have it")
            .fix(how_to_set(name))
    })
}

fn attributes_of(settings: &Settings, instance: &Instance, set: &str) -> Result<Vec<Part>> {
    let own = settings.agent.asg.as_ref().map(|group| ("agent.asg", group));
    let tagged = || instance.autoscaling_group.as_ref().map(|group| ("instance.autoscaling_group", group));
    let (group_name, group) = own.or_else(tagged).ok_or_else(|| {
        Error::config("the Auto Scaling group is not known")
            .cause("neither the setting agent.asg nor the instance tag aws:autoscaling:groupName is there")
            .fix(format!(
                "{}; or turn tags in instance metadata on (InstanceMetadataTags=enabled)",
                how_to_set("agent.asg")
            ))
    })?;
    let ports = default_of("agent.ports", &settings.agent.ports)?;
    let mut parts = vec![
        Part::same("region", &instance.region, "instance.region"),
        Part::same("zone", &instance.zone, "instance.zone"),
        Part::same("id", &instance.id, "instance.id"),
        Part::same("asg", group, group_name),
        Part::same("stack", &settings.stack, "stack"),
        Part::same("itype", &instance.instance_type, "instance.type"),
        Part::new("ports", format!("[{ports}]")).of(Input::named("agent.ports", ports)),
        Part::same("res", set, "titus.resource_set"),
    ];
    let further = settings.agent.attributes.iter();
    parts.extend(further.map(|(name, value)| Part::same(name, value, format!("agent.attributes.{name}"))));
    Ok(parts)
}

fn resources_of(settings: &Settings, instance: &Instance, network: Option<Input>) -> Result<Vec<Part>> {
    let agent = &settings.agent;
    let given = |name: &str, amount: &u64| Part::same(name, amount, format!("agent.resources.{name}"));
    let fixed = |name: &str| agent.resources.get(name).map(|amount| given(name, amount));
    let mem = match fixed("mem") {
        Some(mem) => mem,
        None => mem(instance.memory_mib, *default_of("agent.reserve.mem", &agent.reserve.mem)?)?,
    };
    let disk = match fixed("disk") {
        Some(disk) => disk,
        None => disk(instance.disk_mib, *default_of("agent.reserve.disk", &agent.reserve.disk)?)?,
    };
    let network = network.map(|place| Part::new("network", &place.value).of(place));
    let network = fixed("network").or(network).ok_or_else(|| {
        Error::config(format!("the baseline bandwidth of {:?} is not known", instance.instance_type))
            .fix("set agent.resources.network, in Mbit/s")
    })?;
    let further = agent.resources.iter().filter(|(name, _)| !["mem", "disk", "network"].contains(&name.as_str()));
    let further = further.map(|(name, amount)| given(name, amount));
    Ok([mem, disk, network].into_iter().chain(further).collect())
}
