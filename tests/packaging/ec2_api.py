"""moto's server for `terraform apply`: two images, and what moto 5.2.5 lacks of the API that our files use.

    ec2_api.py PORT
"""

import json
import os
import sys
import tempfile

NODE, OTHER, BASTION = "ami-0123456789abcdef0", "ami-0123456789abcdef1", "ami-0123456789abcdef2"
IMAGES = [
    (NODE, "titus-1", "123456789012"),
    (OTHER, "titus-2", "123456789012"),
    (BASTION, "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20260101", "099720109477"),
]

with tempfile.NamedTemporaryFile("w", suffix=".json") as images:
    json.dump(
        [
            {
                "ami_id": ami, "name": name, "owner_id": owner, "description": "", "public": False,
                "virtualization_type": "hvm", "architecture": "x86_64", "state": "available", "platform": None,
                "image_type": "machine", "image_location": name, "hypervisor": "xen",
                "root_device_name": "/dev/sda1", "root_device_type": "ebs", "sriov": "simple",
            }
            for ami, name, owner in IMAGES
        ],
        images,
    )
    images.flush()
    os.environ["MOTO_AMIS_PATH"] = images.name
    from moto.autoscaling.responses import AutoScalingResponse
    from moto.core.responses import ActionResult
    from moto.core.types import Base64EncodedString
    from moto.ec2.models.instances import Instance
    from moto.ec2.models.launch_templates import LaunchTemplateVersion
    from moto.ec2.models.security_groups import SecurityGroupRule
    from moto.ec2.responses.instances import InstanceResponse
    from moto.server import main

# A volume has the size of its image if the request names none.
parse = InstanceResponse._parse_block_device_mapping


def parse_with_sizes(self):
    for mapping in self._get_param("BlockDeviceMappings", []):
        mapping.setdefault("Ebs", {}).setdefault("VolumeSize", 8)
    return parse(self)


InstanceResponse._parse_block_device_mapping = parse_with_sizes
InstanceResponse._validate_block_device_mapping = staticmethod(lambda mapping: None)

# Rules that name a group have a description, too.
SecurityGroupRule.description = property(
    lambda rule: rule.ip_range.get("Description") or rule.source_group.get("Description")
)

# An instance that is launched with an interface has the interface's groups.
prepare = Instance.prep_nics


def prepare_with_groups(instance, *arguments, **named):
    prepare(instance, *arguments, **named)
    if not instance.security_groups and instance.nics:
        instance.security_groups = list(instance.nics[0].group_set)


Instance.prep_nics = prepare_with_groups

# A later version of a launch template has user data, too.
def encoded_user_data(version):
    data = version.data.get("UserData")
    return Base64EncodedString(data) if isinstance(data, str) else data


LaunchTemplateVersion.user_data = property(encoded_user_data)

# The address of a terminated instance is free again.
terminate = Instance.terminate


def terminate_and_free(instance):
    if instance.subnet_id:
        instance.ec2_backend.get_subnet(instance.subnet_id).del_subnet_ip(instance.private_ip)
    return terminate(instance)


Instance.terminate = terminate_and_free

# An instance refresh: new instances at once, and the end is reported by the second answer.
refreshes = {}


def start_instance_refresh(self):
    name = self._get_param("AutoScalingGroupName")
    backend = self.autoscaling_backend
    for state in list(backend.autoscaling_groups[name].instance_states):
        backend.terminate_instance(state.instance.id, should_decrement=False)
    known = refreshes.setdefault(name, [])
    known.insert(0, {"InstanceRefreshId": f"refresh-{len(known)}", "AutoScalingGroupName": name, "Status": "Pending"})
    return ActionResult({"InstanceRefreshId": known[0]["InstanceRefreshId"]})


def describe_instance_refreshes(self):
    known = refreshes.get(self._get_param("AutoScalingGroupName"), [])
    answer = ActionResult({"InstanceRefreshes": [dict(refresh) for refresh in known]})
    for refresh in known:
        refresh["Status"] = {"Pending": "InProgress", "InProgress": "Successful"}.get(refresh["Status"], refresh["Status"])
    return answer


AutoScalingResponse.start_instance_refresh = start_instance_refresh
AutoScalingResponse.describe_instance_refreshes = describe_instance_refreshes

main(["--host", "127.0.0.1", "--port", sys.argv[1]])
