//! moto, a third party's EC2 API, and instances in it.

use std::process::{Child, Command, Stdio};

use super::{mortal, wait_for};
use crate::support::aws::Keys;
use crate::support::metadata::Items;

/// The directory of its programs; tests/nodes/prepare.sh installs it.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/nodes/moto-5.2.5/bin");

/// What every script begins with: a VPC with the addresses of the nodes.
const PRELUDE: &str = "import boto3, sys, os
ec2 = boto3.client('ec2', region_name='eu-west-1', endpoint_url=os.environ['MOTO'],
                   aws_access_key_id='test', aws_secret_access_key='test')
";

/// A server; dropped, it ends.
pub struct Moto {
    child: Child,
    /// Where it answers.
    pub url: String,
    /// Whose network it is in; none: this process's.
    network: Option<u32>,
    /// The subnet of all instances.
    subnet: String,
}

impl Moto {
    /// Serves at this address, in the network of this process or of that of `network`.
    pub fn serve(network: Option<u32>, address: &str, port: u16) -> Moto {
        let program = format!("{FOLDER}/moto_server");
        assert!(std::path::Path::new(&program).exists(), "{program} is not there: tests/run installs it");
        let mut command = in_network(network, &program);
        command.args(["--host", address, "--port", &port.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let url = format!("http://{address}:{port}");
        let mut moto = Moto { child, url, network, subnet: String::new() };
        wait_for("moto", || {
            let probe = in_network(network, "python3")
                .args(["-c", &format!("import socket; socket.create_connection(('{address}', {port}))")])
                .stderr(Stdio::null())
                .status();
            probe.unwrap().success().then_some(())
        });
        moto.subnet = moto.script(
            "vpc = ec2.create_vpc(CidrBlock='30.0.0.0/16')['Vpc']['VpcId']
print(ec2.create_subnet(VpcId=vpc, CidrBlock='30.0.100.0/24')['Subnet']['SubnetId'])",
            &[],
        );
        moto
    }

    /// Launches an instance at this address with these tags; its id.
    pub fn launch(&self, address: &str, tags: &[(&str, &str)]) -> String {
        let tags: Vec<String> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut words = vec![self.subnet.as_str(), address];
        words.extend(tags.iter().map(String::as_str));
        self.script(
            "tags = [dict(zip(('Key', 'Value'), tag.split('=', 1))) for tag in sys.argv[3:]]
more = {'TagSpecifications': [{'ResourceType': 'instance', 'Tags': tags}]} if tags else {}
made = ec2.run_instances(ImageId='ami-12c6146b', MinCount=1, MaxCount=1, SubnetId=sys.argv[1],
                         PrivateIpAddress=sys.argv[2], **more)
print(made['Instances'][0]['InstanceId'])",
            &words,
        )
    }

    /// Ends an instance.
    pub fn terminate(&self, id: &str) {
        self.script("ec2.terminate_instances(InstanceIds=[sys.argv[1]])", &[id]);
    }

    /// Tags an instance.
    pub fn tag(&self, id: &str, key: &str, value: &str) {
        self.script(
            "ec2.create_tags(Resources=[sys.argv[1]], Tags=[{'Key': sys.argv[2], 'Value': sys.argv[3]}])",
            &[id, key, value],
        );
    }

    /// The id of the VPC that all instances are in.
    pub fn vpc(&self) -> String {
        self.script("print(ec2.describe_subnets(SubnetIds=[sys.argv[1]])['Subnets'][0]['VpcId'])", &[&self.subnet])
    }

    fn script(&self, script: &str, words: &[&str]) -> String {
        let mut command = in_network(self.network, &format!("{FOLDER}/python3"));
        command.arg("-c").arg(format!("{PRELUDE}{script}")).args(words).env("MOTO", &self.url);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // setpriv and nsenter have become it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_network(network: Option<u32>, program: &str) -> Command {
    let Some(pid) = network else { return mortal(program) };
    let mut command = mortal("nsenter");
    command.args(["-t", &pid.to_string(), "-n", program]);
    command
}

/// Metadata of an instance whose tags are off, with the credentials of a profile.
pub fn without_tags(items: Items, instance: &str, vpc: &str) -> Items {
    let mut items: Items = items.into_iter().filter(|(path, _)| !path.starts_with("meta-data/tags/")).collect();
    let mut set = |path: &str, value: &str| items.insert(path.into(), value.into());
    set("meta-data/instance-id", instance);
    let mac = String::from_utf8(items["meta-data/mac"].clone()).unwrap();
    items.insert(format!("meta-data/network/interfaces/macs/{mac}/vpc-id"), vpc.into());
    // moto looks at no signature.
    items.extend(Keys::new(1).items());
    items
}
