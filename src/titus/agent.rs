//! What an agent's templates need that is derived of facts and settings.

use super::attributes::{ResourceSet, attributes, resource_set};
use super::instance_types::{self, InstanceType};
use super::resources::{disk_mib, mem_mib, resources};
use super::{Values, supported_family};
use crate::error::{Error, Result};
use crate::facts::{Instance, TypeNumbers};
use crate::settings::Settings;
use crate::settings::schema::Families;
use crate::template::how_to_set;

impl Values {
    /// Everything, for an agent.
    ///
    /// # Errors
    /// 69 for a family that Titus's VPC driver does not know; 78 for an instance type without
    /// numbers, a missing Auto Scaling group, or a value that would forge attributes.
    pub fn of_agent(settings: &Settings, instance: &Instance) -> Result<Values> {
        refuse_family(settings, instance)?;
        let numbers = instance_type(settings, &instance.instance_type, instance.type_numbers)?;
        let kind = settings.agent.resource_set.as_deref().unwrap_or("instance").parse::<ResourceSet>()?;
        let set = resource_set(kind, &numbers)?;
        Ok(Values {
            attributes: Some(attributes_of(settings, instance, &set)?),
            resources: Some(resources_of(settings, instance, &numbers)?),
            resource_set: Some(set),
            ..Values::of_settings(settings)
        })
    }
}

fn refuse_family(settings: &Settings, instance: &Instance) -> Result<()> {
    let Some(Families::Listed(supported)) = &settings.agent.supported_families else { return Ok(()) };
    let family = instance_types::family(&instance.instance_type);
    if supported_family(family, supported) {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "instance type {:?}: Titus's VPC driver does not know the family {family}",
        instance.instance_type
    ))
    .cause(format!("supported are: {}", supported.join(", ")))
    .fix(
        "use an instance type of one of these families; if your driver knows more, say so in agent.supported_families",
    ))
}

/// Whether somebody else has to be asked for the numbers of the instance's type.
///
/// # Errors
/// 69 for a family that Titus's VPC driver does not know.
pub fn lacks_numbers(settings: &Settings, instance: &Instance) -> Result<bool> {
    refuse_family(settings, instance)?;
    Ok(instance_type(settings, &instance.instance_type, instance.type_numbers).is_err())
}

/// An instance type's numbers: the table's, else EC2's, with the settings' on top.
///
/// # Errors
/// When none has them.
pub fn instance_type(settings: &Settings, name: &str, of_ec2: Option<TypeNumbers>) -> Result<InstanceType> {
    let of_ec2 = of_ec2.map(|TypeNumbers { max_enis, ipv4_per_eni, network_mbps }| InstanceType {
        max_enis,
        ipv4_per_eni,
        network_mbps,
    });
    let table = instance_types::lookup(name).or(of_ec2);
    let own = settings.instance_types.get(name).cloned().unwrap_or_default();
    let of = |own: Option<u32>, table: Option<u32>| own.or(table);
    let max_enis = of(own.max_enis, table.as_ref().map(|t| t.max_enis));
    let ipv4_per_eni = of(own.ipv4_per_eni, table.as_ref().map(|t| t.ipv4_per_eni));
    match (max_enis, ipv4_per_eni) {
        (Some(max_enis), Some(ipv4_per_eni)) => Ok(InstanceType {
            max_enis,
            ipv4_per_eni,
            network_mbps: of(own.network_mbps, table.and_then(|t| t.network_mbps)),
        }),
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

fn attributes_of(settings: &Settings, instance: &Instance, set: &str) -> Result<Vec<String>> {
    let group = settings.agent.asg.clone().or_else(|| instance.autoscaling_group.clone()).ok_or_else(|| {
        Error::config("the Auto Scaling group is not known")
            .cause("neither the setting agent.asg nor the instance tag aws:autoscaling:groupName is there")
            .fix(format!(
                "{}; or turn tags in instance metadata on (InstanceMetadataTags=enabled)",
                how_to_set("agent.asg")
            ))
    })?;
    let ports = settings.agent.ports.as_deref().unwrap_or("7150-7200");
    let fixed = [
        ("region", instance.region.as_str()),
        ("zone", &instance.zone),
        ("id", &instance.id),
        ("asg", &group),
        ("stack", &settings.stack),
        ("itype", &instance.instance_type),
        ("ports", &format!("[{ports}]")),
        ("res", set),
    ];
    let further = settings.agent.attributes.iter().map(|(k, v)| (k.clone(), v.clone()));
    let pairs: Vec<(String, String)> =
        fixed.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).chain(further).collect();
    attributes(&pairs)
}

fn resources_of(settings: &Settings, instance: &Instance, numbers: &InstanceType) -> Result<String> {
    let agent = &settings.agent;
    let fixed = |name: &str| agent.resources.get(name).copied();
    let mem = match fixed("mem") {
        Some(mem) => mem,
        None => mem_mib(instance.memory_mib, agent.reserve.mem.unwrap_or(1024))?,
    };
    let disk = match fixed("disk") {
        Some(disk) => disk,
        None => disk_mib(instance.disk_mib, agent.reserve.disk.unwrap_or(10240))?,
    };
    let network = fixed("network").or(numbers.network_mbps.map(u64::from)).ok_or_else(|| {
        Error::config(format!("the baseline bandwidth of {:?} is not known", instance.instance_type))
            .fix("set agent.resources.network, in Mbit/s")
    })?;
    let mut pairs: Vec<(String, String)> = vec![
        ("mem".into(), mem.to_string()),
        ("disk".into(), disk.to_string()),
        ("network".into(), network.to_string()),
    ];
    let further = agent.resources.iter().filter(|(name, _)| !["mem", "disk", "network"].contains(&name.as_str()));
    pairs.extend(further.map(|(name, amount)| (name.clone(), amount.to_string())));
    resources(&pairs)
}
