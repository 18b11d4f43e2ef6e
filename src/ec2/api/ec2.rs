//! Calls to EC2: tags, instance types, instances.

use std::collections::BTreeMap;

use roxmltree::Node;

use super::answer::{Reply, http_date, parse, refused};
use super::{Api, Failure, Service};
use crate::ec2::imds::{self, value::Form};
use crate::error::{Error, Result};
use crate::facts::{Peer, TypeNumbers};

/// A query for the running instances with this tag in this VPC.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The tag's key.
    pub tag: &'a str,
    /// The tag's value.
    pub value: &'a str,
    /// The VPC; `None` for an instance outside a VPC.
    pub vpc_id: Option<&'a str>,
}

/// The most pages of one answer, each with up to a hundred instances. More are a mistake.
const MOST_PAGES: usize = 32;

impl Api {
    /// All tags of an instance. As with IMDS, other people's tags that are not plain text are left out.
    ///
    /// # Errors
    /// Fails when the call fails, or a tag that the program uses is not plain text.
    pub fn tags(&mut self, instance: &str) -> Result<BTreeMap<String, String>, Failure> {
        let mut tags = BTreeMap::new();
        self.read_pages("DescribeTags", &filters(&[("resource-id", instance)]), &mut |page| {
            for item in items(page, "tagSet") {
                match tag(item) {
                    Some((key, Ok(value))) => drop(tags.insert(key, value)),
                    Some((key, Err(error))) if imds::is_ours(&key) => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        })?;
        Ok(tags)
    }

    /// The numbers of an instance type; `None` if EC2 does not have the type or its numbers.
    ///
    /// # Errors
    /// Fails when the call fails.
    pub fn instance_type(&mut self, name: &str) -> Result<Option<TypeNumbers>, Failure> {
        const ACTION: &str = "DescribeInstanceTypes";
        let body = match self.query(Service::Ec2, ACTION, &[("InstanceType.1".to_owned(), name.to_owned())]) {
            Err(failure) if failure.code.as_deref() == Some("InvalidInstanceType") => return Ok(None),
            other => other?,
        };
        let document = parse(&Service::Ec2.call(ACTION), ACTION, &body)?;
        let mut types = items(document.root_element(), "instanceTypeSet");
        Ok(types.find(|item| text(*item, "instanceType") == Some(name)).and_then(numbers))
    }

    /// The wanted instances, in no order.
    ///
    /// # Errors
    /// Fails when the call fails, or an answer has another form.
    pub fn peers(&mut self, wanted: Wanted<'_>) -> Result<Vec<Peer>, Failure> {
        let key = format!("tag:{}", wanted.tag);
        let mut conditions = vec![(key.as_str(), wanted.value), ("instance-state-name", "running")];
        conditions.extend(wanted.vpc_id.map(|id| ("vpc-id", id)));
        let mut parameters = filters(&conditions);
        parameters.push(("MaxResults".into(), "100".into()));
        let mut peers = Vec::new();
        self.read_pages("DescribeInstances", &parameters, &mut |page| {
            for reservation in items(page, "reservationSet") {
                for instance in items(reservation, "instancesSet") {
                    peers.extend(peer(instance)?);
                }
            }
            Ok(())
        })?;
        Ok(peers)
    }

    /// Calls an action, and again for each further page.
    fn read_pages(
        &mut self,
        action: &str,
        parameters: &[(String, String)],
        read: &mut dyn FnMut(Node<'_, '_>) -> Result<()>,
    ) -> Result<(), Failure> {
        let what = Service::Ec2.call(action);
        let mut parameters = parameters.to_vec();
        for _ in 0..MOST_PAGES {
            let body = self.query(Service::Ec2, action, &parameters)?;
            let document = parse(&what, action, &body)?;
            read(document.root_element())?;
            let Some(next) = text(document.root_element(), "nextToken") else { return Ok(()) };
            parameters.retain(|(name, _)| name != "NextToken");
            parameters.push(("NextToken".into(), next.into()));
        }
        Err(Error::config(format!("{what} returned an answer that does not end"))
            .cause(format!("after {MOST_PAGES} pages there is one more"))
            .into())
    }
}

/// Parameters `Filter.1.Name=…`, each with one value.
fn filters(conditions: &[(&str, &str)]) -> Vec<(String, String)> {
    let filter = |(n, (name, value)): (usize, &(&str, &str))| {
        [
            (format!("Filter.{}.Name", n + 1), (*name).to_owned()),
            (format!("Filter.{}.Value.1", n + 1), (*value).to_owned()),
        ]
    };
    conditions.iter().enumerate().flat_map(filter).collect()
}

/// The direct child with this name.
fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.tag_name().name() == name)
}

/// The text of the direct child with this name, if it has one.
fn text<'a>(node: Node<'a, 'a>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim).filter(|text| !text.is_empty())
}

/// The items of the set with this name that is a direct child of a node.
fn items<'a>(node: Node<'a, 'a>, set: &str) -> impl Iterator<Item = Node<'a, 'a>> {
    child(node, set).into_iter().flat_map(|set| set.children()).filter(|item| item.tag_name().name() == "item")
}

/// The key of a tag, and its value if that is plain text.
fn tag(item: Node<'_, '_>) -> Option<(String, Result<String>)> {
    let key = child(item, "key")?.text().filter(|key| !key.trim().is_empty() && !key.contains(char::is_control))?;
    let value = child(item, "value").and_then(|value| value.text()).unwrap_or_default();
    let value = Form::Text.read("", value.as_bytes()).map_err(|error| {
        Error { what: format!("the instance's tag {key} cannot be used"), ..error }.fix("change the instance's tag")
    });
    Some((key.to_owned(), value))
}

/// For [`crate::parsers`].
pub(crate) fn read_as_any_answer(bytes: &[u8]) -> crate::claims::Claim {
    use crate::claims::{holds, sound};
    let config = |error: Error| sound(&error, crate::error::Kind::Config, "EC2");
    let reply = Reply::new(400, bytes);
    for action in ["DescribeTags", "DescribeInstanceTypes", "DescribeInstances"] {
        let document = match parse("EC2", action, &reply.body) {
            Ok(document) => document,
            Err(error) => {
                config(error)?;
                continue;
            }
        };
        let page = document.root_element();
        for (key, value) in items(page, "tagSet").filter_map(tag) {
            holds(!key.contains(char::is_control), || format!("the tag {key:?}"))?;
            value.map(drop).or_else(|error| sound(&error, crate::error::Kind::Config, "tag"))?;
        }
        for numbers in items(page, "instanceTypeSet").filter_map(numbers) {
            holds(numbers.max_enis > 0 && numbers.ipv4_per_eni > 0, || format!("{numbers:?}"))?;
        }
        let instances = items(page, "reservationSet").flat_map(|reservation| items(reservation, "instancesSet"));
        for peer in instances.map(peer) {
            peer.map(drop).or_else(config)?;
        }
    }
    let _ = http_date(&reply.body);
    config(refused(Service::Ec2, "EC2", "DescribeTags", "eu-west-1", &reply).error)
}

fn numbers(item: Node<'_, '_>) -> Option<TypeNumbers> {
    let network = child(item, "networkInfo")?;
    let number = |node, name| text(node, name)?.parse::<u32>().ok();
    let some = |number: &u32| *number > 0;
    let default = number(network, "defaultNetworkCardIndex").unwrap_or(0);
    let card = items(network, "networkCards").find(|card| number(*card, "networkCardIndex").unwrap_or(0) == default);
    let of_card = card.and_then(|card| number(card, "maximumNetworkInterfaces"));
    let gbps = card.and_then(|card| text(card, "baselineBandwidthInGbps")?.parse::<f64>().ok());
    Some(TypeNumbers {
        max_enis: of_card.or_else(|| number(network, "maximumNetworkInterfaces")).filter(some)?,
        ipv4_per_eni: number(network, "ipv4AddressesPerInterface").filter(some)?,
        network_mbps: gbps.map(|gbps| (gbps * 1000.0).round() as u32).filter(some),
    })
}

/// The data of an instance; `None` if it has no IPv4 address, because it is then useless in a cluster.
fn peer(instance: Node<'_, '_>) -> Result<Option<Peer>> {
    if text(instance, "privateIpAddress").is_none() {
        return Ok(None);
    }
    let read = |form: Form, name: &str| {
        let refuse = |error| Error { what: format!("the EC2 API (DescribeInstances): {name} cannot be used"), ..error };
        form.read(name, text(instance, name).unwrap_or_default().as_bytes()).map_err(refuse)
    };
    let attachments = items(instance, "networkInterfaceSet").filter_map(|interface| child(interface, "attachment"));
    let first = attachments.into_iter().find(|attachment| text(*attachment, "deviceIndex") == Some("0"));
    let launched = first.and_then(|first| text(first, "attachTime")).or_else(|| text(instance, "launchTime"));
    Ok(Some(Peer {
        id: read(Form::Id("i"), "instanceId")?,
        address: read(Form::Ipv4, "privateIpAddress")?,
        launched: launched.unwrap_or_default().to_owned(),
        tags: items(instance, "tagSet").filter_map(tag).filter_map(|(key, value)| Some((key, value.ok()?))).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_numbered_from_one() {
        let made = filters(&[("vpc-id", "vpc-1"), ("tag:titus:role", "prereqs")]);
        let shown: Vec<String> = made.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            shown,
            [
                "Filter.1.Name=vpc-id",
                "Filter.1.Value.1=vpc-1",
                "Filter.2.Name=tag:titus:role",
                "Filter.2.Value.1=prereqs"
            ]
        );
    }

    #[test]
    fn numbers_are_those_of_the_default_card() {
        let of = |inner: &str| {
            let text = format!("<a><networkInfo>{inner}</networkInfo></a>");
            numbers(roxmltree::Document::parse(&text).unwrap().root_element())
        };
        let cards = "<defaultNetworkCardIndex>1</defaultNetworkCardIndex><maximumNetworkInterfaces>60</maximumNetworkInterfaces>\
            <ipv4AddressesPerInterface>50</ipv4AddressesPerInterface><networkCards>\
            <item><networkCardIndex>0</networkCardIndex><maximumNetworkInterfaces>7</maximumNetworkInterfaces></item>\
            <item><networkCardIndex>1</networkCardIndex><maximumNetworkInterfaces>15</maximumNetworkInterfaces>\
            <baselineBandwidthInGbps>0.75</baselineBandwidthInGbps></item></networkCards>";
        assert_eq!(of(cards), Some(TypeNumbers { max_enis: 15, ipv4_per_eni: 50, network_mbps: Some(750) }));
        let old = "<maximumNetworkInterfaces>2</maximumNetworkInterfaces><ipv4AddressesPerInterface>10</ipv4AddressesPerInterface>";
        assert_eq!(of(old), Some(TypeNumbers { max_enis: 2, ipv4_per_eni: 10, network_mbps: None }));
        assert_eq!(of("<maximumNetworkInterfaces>2</maximumNetworkInterfaces>"), None);
        assert_eq!(of(&old.replace(">10<", ">0<")), None);
        assert_eq!(of("<maximumNetworkInterfaces>-2</maximumNetworkInterfaces>"), None);
    }
}
