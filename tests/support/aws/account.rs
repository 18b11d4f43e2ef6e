//! The contents of an account, and how EC2, Auto Scaling and S3 describe them.

use std::collections::{BTreeMap, BTreeSet};

use titus_bootstrap::facts::{TypeNumbers, sample as built_in};

/// Keys to values.
pub type Tags = BTreeMap<String, String>;

/// An instance in the form of DescribeInstances.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    /// The id, e.g. `i-0123456789abcdef0`.
    pub id: String,
    /// The private address.
    pub address: String,
    /// The state: `running`, `terminated`.
    pub state: String,
    /// The VPC.
    pub vpc: String,
    /// The time when its first interface was attached; `launchTime` is always later here.
    pub attached: String,
    /// The tags.
    pub tags: Tags,
}

/// A bucket as HeadBucket describes it.
#[derive(Debug, Clone)]
pub enum Bucket {
    /// The caller may list it.
    There,
    /// The caller may not list it.
    Forbidden,
    /// It is in this other region: 301.
    In(String),
    /// It is in this other region, and the signature is for the caller's: 400.
    Malformed(String),
}

/// The contents.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// Tags by resource id.
    pub tags: BTreeMap<String, Tags>,
    /// The instance types that EC2 knows.
    pub types: BTreeMap<String, TypeNumbers>,
    /// Instances.
    pub instances: Vec<Instance>,
    /// The buckets of all accounts.
    pub buckets: BTreeMap<String, Bucket>,
    /// The instances that lifecycle hooks hold: group, hook, instance.
    pub held: BTreeSet<[String; 3]>,
    /// The instances that were reported as unhealthy.
    pub unhealthy: BTreeSet<String>,
    /// The maximum number of items per page; 0 means as many as requested.
    pub page: usize,
}

/// An error in an API's answer.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// The code, e.g. `InvalidParameterValue`.
    pub code: &'static str,
    /// The message for people.
    pub message: String,
}

/// Creates an error.
pub fn refuse(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { status, code, message: message.into() }
}

/// An account with the sample instance and its tags.
pub fn sample() -> Account {
    let instance = built_in::facts().instance.unwrap();
    let tags = instance.tags.unwrap_or_default();
    let own = Instance {
        id: instance.id.clone(),
        address: instance.local_ipv4,
        state: "running".into(),
        vpc: instance.vpc_id.unwrap_or_default(),
        attached: "2026-11-25T02:00:00.000Z".into(),
        tags: tags.clone(),
    };
    Account { tags: [(instance.id, tags)].into(), instances: vec![own], ..Account::default() }
}

impl Account {
    /// The document that answers an action.
    pub fn answer(&mut self, service: &str, action: &str, parameters: &Tags) -> Result<String, Refusal> {
        let inner = match (service, action) {
            ("ec2", "DescribeTags") => self.describe_tags(parameters)?,
            ("ec2", "DescribeInstanceTypes") => self.describe_types(parameters)?,
            ("ec2", "DescribeInstances") => self.describe_instances(parameters)?,
            ("autoscaling", "CompleteLifecycleAction" | "RecordLifecycleActionHeartbeat" | "SetInstanceHealth") => {
                self.notify_group(action, parameters)?
            }
            _ => {
                let message = format!("The action {action} is not valid for this web service.");
                return Err(refuse(400, "InvalidAction", message));
            }
        };
        let (version, request) = match service {
            "ec2" => ("2016-11-15", "<requestId>7a62c49f-347e-4fc4-9331-6e8eEXAMPLE</requestId>"),
            _ => ("2011-01-01", "<ResponseMetadata><RequestId>7c6e177f-EXAMPLE</RequestId></ResponseMetadata>"),
        };
        Ok(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response \
             xmlns=\"http://{service}.amazonaws.com/doc/{version}/\">\n    {request}{inner}\n</{action}Response>"
        ))
    }

    fn describe_tags(&self, parameters: &Tags) -> Result<String, Refusal> {
        let mut found = Vec::new();
        for (resource, tags) in &self.tags {
            for (key, value) in tags {
                let of_resource = |name: &str, wanted: &[String]| match name {
                    "resource-id" => Some(wanted.contains(resource)),
                    "key" => Some(wanted.contains(key)),
                    _ => None,
                };
                if passes(parameters, of_resource)? {
                    let place = format!("<resourceId>{resource}</resourceId><resourceType>instance</resourceType>");
                    found.push(format!("<item>{place}{}</item>", tag(key, value)));
                }
            }
        }
        let (found, next) = self.page(found, parameters)?;
        Ok(format!("<tagSet>{}</tagSet>{next}", found.concat()))
    }

    fn describe_types(&self, parameters: &Tags) -> Result<String, Refusal> {
        let name = parameters.get("InstanceType.1").cloned().unwrap_or_default();
        let Some(numbers) = self.types.get(&name) else {
            let message = format!("The following supplied instance types do not exist: [{name}]");
            return Err(refuse(400, "InvalidInstanceType", message));
        };
        let gbps = numbers
            .network_mbps
            .map(|mbps| format!("<baselineBandwidthInGbps>{}</baselineBandwidthInGbps>", f64::from(mbps) / 1000.0));
        Ok(format!(
            "<instanceTypeSet><item><instanceType>{name}</instanceType><networkInfo>\
             <defaultNetworkCardIndex>0</defaultNetworkCardIndex>\
             <ipv4AddressesPerInterface>{}</ipv4AddressesPerInterface><networkCards><item>{}\
             <maximumNetworkInterfaces>{}</maximumNetworkInterfaces><networkCardIndex>0</networkCardIndex>\
             </item></networkCards></networkInfo></item></instanceTypeSet>",
            numbers.ipv4_per_eni,
            gbps.unwrap_or_default(),
            numbers.max_enis,
        ))
    }

    fn describe_instances(&self, parameters: &Tags) -> Result<String, Refusal> {
        let mut found = Vec::new();
        for instance in &self.instances {
            let is = |name: &str, wanted: &[String]| match name {
                "instance-state-name" => Some(wanted.contains(&instance.state)),
                "vpc-id" => Some(wanted.contains(&instance.vpc)),
                "instance-id" => Some(wanted.contains(&instance.id)),
                name => name.strip_prefix("tag:").map(|key| instance.tags.get(key).is_some_and(|v| wanted.contains(v))),
            };
            if passes(parameters, is)? {
                found.push(described(instance));
            }
        }
        let (found, next) = self.page(found, parameters)?;
        // Some were launched together.
        let reservations = found.chunks(2).map(|some| {
            format!("<item><reservationId>r-1</reservationId><instancesSet>{}</instancesSet></item>", some.concat())
        });
        Ok(format!("<reservationSet>{}</reservationSet>{next}", reservations.collect::<String>()))
    }

    fn notify_group(&mut self, action: &str, parameters: &Tags) -> Result<String, Refusal> {
        let of = |name: &str| parameters.get(name).cloned().unwrap_or_default();
        let instance = of("InstanceId");
        if action == "SetInstanceHealth" {
            if of("HealthStatus") != "Unhealthy" {
                return Err(refuse(400, "ValidationError", "Valid instance health states are: [Healthy, Unhealthy]."));
            }
            self.unhealthy.insert(instance);
            return Ok(String::new());
        }
        let lifecycle = [of("AutoScalingGroupName"), of("LifecycleHookName"), instance.clone()];
        let completes = action == "CompleteLifecycleAction";
        let held = if completes { self.held.remove(&lifecycle) } else { self.held.contains(&lifecycle) };
        if held {
            Ok(format!("<{action}Result/>"))
        } else {
            let message = format!("No active Lifecycle Action found with instance ID {instance}");
            Err(refuse(400, "ValidationError", message))
        }
    }

    /// The items of the requested page, and the element that names the next page.
    fn page(&self, items: Vec<String>, parameters: &Tags) -> Result<(Vec<String>, String), Refusal> {
        let number = |name: &str| parameters.get(name).map(|text| text.parse::<usize>());
        let asked = match number("MaxResults") {
            None => 1000,
            Some(Ok(asked)) if (5..=1000).contains(&asked) => asked,
            Some(_) => return Err(refuse(400, "InvalidParameterValue", "Value for parameter maxResults is invalid.")),
        };
        let most = if self.page == 0 { asked } else { asked.min(self.page) };
        let start = match parameters.get("NextToken").map(|token| token.strip_prefix("eyJ2+/").map(str::parse)) {
            None => 0,
            Some(Some(Ok(start))) => start,
            Some(_) => return Err(refuse(400, "InvalidParameterValue", "Unable to parse pagination token")),
        };
        let next = if start + most < items.len() {
            format!("<nextToken>eyJ2+/{}</nextToken>", start + most)
        } else {
            String::new()
        };
        Ok((items.into_iter().skip(start).take(most).collect(), next))
    }
}

/// Whether an item passes all filters. The predicate returns `None` for an unknown filter.
fn passes(parameters: &Tags, is: impl Fn(&str, &[String]) -> Option<bool>) -> Result<bool, Refusal> {
    for number in 1.. {
        let Some(name) = parameters.get(&format!("Filter.{number}.Name")) else { break };
        let start = format!("Filter.{number}.Value.");
        let values = parameters.iter().filter(|(name, _)| name.starts_with(&start));
        let values: Vec<String> = values.map(|(_, value)| value.clone()).collect();
        match is(name, &values) {
            None => return Err(refuse(400, "InvalidParameterValue", format!("The filter '{name}' is invalid"))),
            Some(false) => return Ok(false),
            Some(true) => {}
        }
    }
    Ok(true)
}

fn described(instance: &Instance) -> String {
    let tags: String = instance.tags.iter().map(|(key, value)| format!("<item>{}</item>", tag(key, value))).collect();
    let interface = |index: u32, time: &str| {
        format!(
            "<item><networkInterfaceId>eni-{index}</networkInterfaceId><attachment><deviceIndex>{index}</deviceIndex>\
             <status>attached</status><attachTime>{time}</attachTime></attachment></item>"
        )
    };
    format!(
        "<item><instanceId>{}</instanceId><imageId>ami-0</imageId><instanceState><code>16</code><name>{}</name>\
         </instanceState><launchTime>2027-01-01T00:00:00.000Z</launchTime><privateIpAddress>{}</privateIpAddress>\
         <vpcId>{}</vpcId><tagSet>{tags}</tagSet><networkInterfaceSet>{}{}</networkInterfaceSet></item>",
        instance.id,
        instance.state,
        instance.address,
        instance.vpc,
        interface(1, "2026-12-31T00:00:00.000Z"),
        interface(0, &instance.attached),
    )
}

fn tag(key: &str, value: &str) -> String {
    format!("<key>{}</key><value>{}</value>", escaped(key), escaped(value))
}

/// Escapes text for XML; control characters become references.
pub fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '&' => "&amp;".into(),
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            c if c.is_control() => format!("&#{};", u32::from(c)),
            c => c.to_string(),
        })
        .collect()
}
