use super::*;
use crate::facts::{TypeNumbers, sample};
use crate::host::Host;
use crate::role::Role;
use crate::settings::Layer;

/// An agent with these settings in addition to the sample's.
struct Agent {
    facts: Facts,
    merged: Merged,
    settings: Settings,
    values: Values,
}

fn agent(facts: Facts, text: &str) -> Agent {
    let mut merged = Merged::default();
    let role = Role::load(&Host::temporary().1, "agent").unwrap();
    let layers = [
        Layer::built_in().cloned(),
        role.defaults(),
        Layer::parse(Source::Sample, sample::SETTINGS),
        Layer::parse(Source::File("file".into()), text),
    ];
    layers.into_iter().for_each(|layer| merged.add(&layer.unwrap()));
    let settings = merged.settings().unwrap();
    let values = Values::derive_agent(&settings, facts.instance.as_ref().unwrap()).unwrap();
    Agent { facts, merged, settings, values }
}

impl Agent {
    fn ask(&self, name: &str) -> Vec<Explanation> {
        KnownValues::new(&self.facts, &self.merged, &self.settings, &self.values).ask(name)
    }

    fn explain(&self, name: &str) -> String {
        self.ask(name).iter().map(Explanation::to_string).collect()
    }
}

#[test]
fn what_is_derived_is_reported_down_to_its_sources() {
    let agent = agent(sample::facts(), "agent.resource_set = 'schedulable'");
    let sample = "the built-in sample";
    assert_eq!(
        agent.explain("titus.resources"),
        format!(
            "titus.resources = mem:6912;disk:20480;network:450\n  \
             from mem 6912: instance.memory_mib 7982 ({sample}), less agent.reserve.mem 1024 (role agent), in steps of 256\n  \
             from disk 20480: instance.disk_mib 30720 ({sample}), less agent.reserve.disk 10240 (role agent), in steps of 1024\n  \
             from network 450: network_mbps 450 (built-in table, row m4.large)\n"
        )
    );
    let set = "agent.resource_set schedulable (file), max_enis 2 (built-in table, row m4.large), \
               ipv4_per_eni 10 (built-in table, row m4.large), interfaces 2 (the VPC driver's table of 2018-05, row m4.large), \
               ipv4 10 (the VPC driver's table of 2018-05, row m4.large), the smaller of both, without the node's own \
               interface";
    assert_eq!(
        agent.explain("titus.resource_set"),
        format!("titus.resource_set = ResourceSet-ENIs-1-10\n  from {set}\n")
    );
    assert_eq!(
        agent.explain("res"),
        format!("res = ResourceSet-ENIs-1-10\n  in titus.attributes\n  from titus.resource_set: {set}\n")
    );
    assert_eq!(
        agent.explain("mesos.masters"),
        "mesos.masters = [\"30.0.100.194:5050\"]\n  from prereqs in sample\n",
        "as prereqs says them"
    );
}

#[test]
fn every_value_of_an_agent_is_what_its_parts_make() {
    let text = "agent.resources = { gpus = 2 }\nagent.attributes = { rack = 'r1' }\nagent.asg = 'group'";
    let agent = agent(sample::facts(), text);
    let joined = |whole: &str| -> Vec<String> {
        let parts = agent.values.parts[whole].iter();
        parts.map(|part| format!("{}:{}", part.name, part.value)).collect()
    };
    assert_eq!(agent.values.resources, Some(joined("resources").join(";")));
    assert_eq!(agent.values.attributes, Some(joined("attributes")));
    assert_eq!(agent.explain("gpus"), "gpus = 2\n  in titus.resources\n  from agent.resources.gpus 2 (file)\n");
    assert_eq!(agent.explain("rack"), "rack = r1\n  in titus.attributes\n  from agent.attributes.rack r1 (file)\n");
    assert_eq!(agent.explain("asg"), "asg = group\n  in titus.attributes\n  from agent.asg group (file)\n");
}

#[test]
fn numbers_come_from_the_settings_the_table_or_ec2() {
    let mut facts = sample::facts();
    let instance = facts.instance.as_mut().unwrap();
    instance.instance_type = "m4.new".into();
    instance.type_numbers = Some(TypeNumbers { max_enis: 9, ipv4_per_eni: 8, network_mbps: Some(7) });
    facts.sources.insert("instance.type_numbers".into(), "EC2 API DescribeInstanceTypes".into());
    let text = "agent.vpc_driver = 'any'\n[instance_types.\"m4.new\"]\nmax_enis = 5\n";
    let agent = agent(facts, text);
    assert_eq!(
        agent.explain("titus.resource_set").lines().last().unwrap(),
        "  from agent.resource_set instance (role agent), instance_types.m4.new.max_enis 5 (file), \
         instance.type_numbers.ipv4_per_eni 8 (EC2 API DescribeInstanceTypes)"
    );
    assert!(
        agent.explain("network").contains("from instance.type_numbers.network_mbps 7 (EC2 API DescribeInstanceTypes)")
    );
}

#[test]
fn each_name_that_is_known_has_an_answer() {
    let agent = agent(sample::facts(), "gateway.activate_instance_groups = []");
    let known = KnownValues::new(&agent.facts, &agent.merged, &agent.settings, &agent.values);
    let mut count = 0;
    for name in known.names().iter().filter(|name| !name.is_empty()) {
        let answers = known.ask(name);
        assert!(!answers.is_empty(), "{name}");
        assert!(
            answers.iter().all(|answer| !answer.source.to_string().is_empty() && !answer.to_string().is_empty()),
            "{name}"
        );
        count += 1;
    }
    assert!(count > 100, "{count}");
}

#[test]
fn no_secret_is_printed() {
    let text = "proxy.http = 'http://user:hunter2@proxy:1'\nagent.attributes = { token = 'hunter2' }\n\
                master.properties = { 'db.password' = 'hunter2', url = 'https://u:hunter2@h' }\n\
                gateway.properties = { a = 'token=hunter2' }";
    let mut facts = sample::facts();
    let tags = facts.instance.as_mut().unwrap().tags.as_mut().unwrap();
    tags.insert("db-password".into(), "hunter2".into());
    let agent = agent(facts, text);
    let known = KnownValues::new(&agent.facts, &agent.merged, &agent.settings, &agent.values);
    let mut seen = 0;
    for answer in known.names().iter().flat_map(|name| known.ask(name)) {
        let (json, text) = (serde_json::to_string(&answer).unwrap(), answer.to_string());
        assert!(!json.contains("hunter2") && !text.contains("hunter2"), "{text}");
        seen += usize::from(text.contains("***"));
    }
    assert!(seen > 6, "{seen}");
}

#[test]
fn an_answer_keeps_its_lines() {
    let answer = Explanation {
        name: "a".into(),
        value: json!("b\nc = d\u{1b}[2J"),
        source: Provenance::place("x\ny"),
        ..Explanation::default()
    };
    assert_eq!(answer.to_string(), "a = b\\nc = d\\u{1b}[2J\n  from x\\ny\n");
}

proptest::proptest! {
    #[test]
    fn any_name_is_answered(name in "\\PC{0,40}|(instance|titus|agent)(\\.[a-z_.]{0,9}){0,3}") {
        agent(sample::facts(), "").explain(&name);
    }
}
