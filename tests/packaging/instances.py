"""Prints what EC2 gives to the instances that Terraform made: a role each, with all that its metadata service knows of it
from Terraform. Ids are random, so each kind has one.

    instances.py GROUP
"""

import base64
import json
import re
import sys

import boto3

ec2, autoscaling = boto3.client("ec2"), boto3.client("autoscaling")
group = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[sys.argv[1]])["AutoScalingGroups"][0]
template = group["LaunchTemplate"]
launch = ec2.describe_launch_template_versions(
    LaunchTemplateId=template["LaunchTemplateId"], Versions=[template["Version"]]
)["LaunchTemplateVersions"][0]["LaunchTemplateData"]

made = {}
for reservation in ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running"]}])["Reservations"]:
    for instance in reservation["Instances"]:
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        role = tags.get("titus:role")
        if role is None:
            continue
        attribute = ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
        user_data, options = attribute["UserData"].get("Value"), instance["MetadataOptions"]
        if role == "agent":  # moto does not give an instance of a group what its launch template says
            user_data, options = launch["UserData"], launch["MetadataOptions"]
            tags.setdefault("aws:autoscaling:groupName", group["AutoScalingGroupName"])
        assert role not in made, f"two instances of role {role}"
        made[role] = {
            "instance_type": instance["InstanceType"],
            "local_ipv4": instance["PrivateIpAddress"],
            "http_tokens": options["HttpTokens"],
            "tags": tags,
            "user_data": base64.b64decode(user_data).decode(),
        }

text = json.dumps(made, indent=2, sort_keys=True)
print(re.sub(r"(?<![0-9a-z])(sg-|lt-|vol-?)[0-9a-f]{17}\b", r"\g<1>0123456789abcdef0", text))
