# `terraform test`: what the variables make of the nodes, and what they refuse. It contacts no account: the provider is a mock.
# Needs Terraform 1.11. It applies nothing, because prevent_destroy would keep what a test makes.

mock_provider "aws" {
  override_during = plan

  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-west-1a", "eu-west-1b", "eu-west-1c"] }
  }
  mock_data "aws_ec2_instance_type_offerings" {
    defaults = { locations = ["eu-west-1c", "eu-west-1b", "eu-west-1a"] }
  }
  mock_data "aws_ami" {
    defaults = { id = "ami-0123456789abcdef0", tags = { "titus:roles" = "prereqs master gateway agent" } }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_resource "aws_vpc" {
    defaults = { arn = "arn:aws:ec2:eu-west-1:123456789012:vpc/vpc-0123456789abcdef0" }
  }
  mock_resource "aws_subnet" {
    defaults = { arn = "arn:aws:ec2:eu-west-1:123456789012:subnet/subnet-0123456789abcdef0" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/titusappwiths3InstanceProfile" }
  }
  mock_resource "aws_security_group" {
    defaults = { id = "sg-0123456789abcdef0" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_ebs_volume" {
    defaults = { id = "vol-0123456789abcdef0" }
  }
}

variables {
  image              = "ami-0123456789abcdef0"
  s3_log_bucket_name = "my-titus-logs"
  trusted_cidr       = "203.0.113.7/32"
  public_key         = "tests/key.pub"
  await_refresh      = false
}

run "one_of_each" {
  command = plan

  assert {
    condition     = output.prereqs_ips == ["30.0.100.11"] && output.master_ip == "30.0.100.12" && output.gateway_ip == "30.0.100.13"
    error_message = "The servers' addresses are not fixed."
  }
  assert {
    condition     = aws_instance.master.tags["titus:zookeeper.servers"] == "30.0.100.11:2181" && aws_instance.gateway.tags["titus:master.address"] == "30.0.100.12"
    error_message = "A node is pointed elsewhere."
  }
  assert {
    condition     = output.agent_asg_name == "titusagent" && aws_iam_role.node["master"].name == "titusmasterInstanceProfile"
    error_message = "The names are not those of the proof of concept."
  }
  assert {
    condition     = alltrue([for data in [aws_instance.prereqs[0].user_data, local.titus_user_data, base64decode(aws_launch_template.agent.user_data)] : alltrue([for line in split("\n", data) : length(line) <= 127 if startswith(line, "#!")])])
    error_message = "Linux before 5.1 reads 127 characters of a #! line."
  }
  assert {
    condition     = one(aws_autoscaling_group.agent.initial_lifecycle_hook).default_result == "ABANDON" && strcontains(base64decode(aws_launch_template.agent.user_data), "lifecycle.hook = \"${one(aws_autoscaling_group.agent.initial_lifecycle_hook).name}\"")
    error_message = "Nobody completes the group's lifecycle hook."
  }
}

run "three_in_three_zones" {
  command = plan

  variables {
    prereqs_count = 3
    name          = "second"
  }
  assert {
    condition     = output.prereqs_ips == ["30.0.100.11", "30.0.101.11", "30.0.102.11"]
    error_message = "Not three servers."
  }
  assert {
    condition     = aws_subnet.server[*].availability_zone == ["eu-west-1a", "eu-west-1b", "eu-west-1c"] && aws_ebs_volume.prereqs[*].availability_zone == aws_subnet.server[*].availability_zone
    error_message = "Not one in each zone, with its volume."
  }
  assert {
    condition     = alltrue([for node in aws_instance.prereqs : node.tags["titus:zookeeper.servers"] == "30.0.100.11:2181,30.0.101.11:2181,30.0.102.11:2181"])
    error_message = "They do not know each other."
  }
  assert {
    condition     = output.agent_asg_name == "secondagent" && aws_iam_role.node["agent"].name == "secondagentInstanceProfile" && aws_security_group.titus["agent"].name == "secondagent" && aws_key_pair.titus[0].key_name == "second_deployer"
    error_message = "Two clusters of one account would have one name."
  }
}

run "session_manager" {
  command = plan

  variables {
    session_manager = true
    trusted_cidr    = null
    public_key      = "nowhere"
  }
  assert {
    condition     = length(aws_instance.bastion) == 0 && length(aws_key_pair.titus) == 0 && length(aws_vpc_security_group_ingress_rule.bastion) == 0 && !contains(keys(aws_security_group.titus), "bastion")
    error_message = "There is a bastion all the same."
  }
  assert {
    condition     = length([for name, flow in aws_vpc_security_group_ingress_rule.flow : name if flow.from_port == 22]) == 0
    error_message = "SSH is open."
  }
}

run "a_pattern_is_no_image" {
  command = plan
  variables {
    image = "titus-*"
  }
  expect_failures = [var.image]
}

run "an_id_that_lacks_digits_is_no_image" {
  command = plan
  variables {
    image = "ami-123"
  }
  expect_failures = [var.image]
}

run "an_image_of_one_role" {
  command = plan
  override_data {
    target = data.aws_ami.node
    values = { id = "ami-0123456789abcdef0", tags = { "titus:roles" = "agent" } }
  }
  expect_failures = [data.aws_ami.node]
}

run "two_servers" {
  command = plan
  variables {
    prereqs_count = 2
  }
  expect_failures = [var.prereqs_count]
}

run "a_region_without_the_type" {
  command = plan
  override_data {
    target = data.aws_ec2_instance_type_offerings.node["m4.large"]
    values = { locations = [] }
  }
  expect_failures = [aws_subnet.server[0]]
}

run "fewer_zones_than_servers" {
  command = plan
  variables {
    prereqs_count = 3
    zones         = ["eu-west-1a", "eu-west-1b"]
  }
  expect_failures = [var.zones]
}

run "one_zone_twice" {
  command = plan
  variables {
    prereqs_count = 3
    zones         = ["eu-west-1a", "eu-west-1b", "eu-west-1a"]
  }
  expect_failures = [var.zones]
}

run "a_zone_of_another_region" {
  command = plan
  variables {
    zones = ["us-east-1a"]
  }
  expect_failures = [aws_subnet.server[0]]
}

run "no_cidr" {
  command = plan
  variables {
    trusted_cidr = null
  }
  expect_failures = [var.trusted_cidr]
}

run "an_address_is_no_block" {
  command = plan
  variables {
    trusted_cidr = "203.0.113.7"
  }
  expect_failures = [var.trusted_cidr]
}

run "bits_behind_the_prefix" {
  command = plan
  variables {
    trusted_cidr = "203.0.113.7/24"
  }
  expect_failures = [var.trusted_cidr]
}

run "a_block_of_ipv6" {
  command = plan
  variables {
    trusted_cidr = "2001:db8::/64"
  }
  expect_failures = [var.trusted_cidr]
}

run "a_block_that_nothing_uses" {
  command = plan
  variables {
    session_manager = true
  }
  expect_failures = [var.trusted_cidr]
}

run "a_file_that_is_no_key" {
  command = plan
  variables {
    public_key = "image.toml"
  }
  expect_failures = [var.public_key]
}

run "a_bucket_with_capitals" {
  command = plan
  variables {
    s3_log_bucket_name = "MyLogs"
  }
  expect_failures = [var.s3_log_bucket_name]
}

run "a_bucket_name_that_s3_reserves" {
  command = plan
  variables {
    s3_log_bucket_name = "my-logs-s3alias"
  }
  expect_failures = [var.s3_log_bucket_name]
}

run "a_name_that_is_too_long" {
  command = plan
  variables {
    name = "a-very-long-name-of-a-cluster"
  }
  expect_failures = [var.name]
}

run "a_group_with_a_blank" {
  command = plan
  variables {
    agent_asg_name = "my agents"
  }
  expect_failures = [var.agent_asg_name]
}

run "a_type_that_is_no_type" {
  command = plan
  variables {
    instance_types = { agent = "m5" }
  }
  expect_failures = [var.instance_types]
}

run "half_an_agent" {
  command = plan
  variables {
    agents = 0.5
  }
  expect_failures = [var.agents]
}

run "no_volume" {
  command = plan
  variables {
    prereqs_volume_size = 0
  }
  expect_failures = [var.prereqs_volume_size]
}
