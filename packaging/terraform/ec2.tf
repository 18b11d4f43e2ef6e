# The nodes. Each reads its role from its tags, through its metadata; the image of ../packer has all the rest.
# Settings that a tag must not set, e.g. the rights of jobs, are below the first line of user data.

locals {
  # A server's place in this list is its number. It keeps that number.
  zookeeper_servers = join(",", [for address in local.prereqs_addresses : "${address}:2181"])

  # What titus-bootstrap completes when an agent serves.
  lifecycle_hook = "titus-bootstrap"

  titus_user_data = <<-EOT
    #!/usr/bin/titus-bootstrap
    [master]
    default_iam_role = "${aws_iam_role.app["appwiths3"].arn}"
    default_security_groups = "${aws_security_group.titus["app"].id}"
  EOT
}

resource "aws_key_pair" "titus" {
  count      = var.session_manager ? 0 : 1
  key_name   = "${var.name}_deployer"
  public_key = file(pathexpand(var.public_key))
}

resource "aws_instance" "bastion" {
  #checkov:skip=CKV_AWS_126:A figure each minute costs money; one in five minutes will do here.
  #checkov:skip=CKV_AWS_88:The one node that you reach from outside.
  #checkov:skip=CKV2_AWS_41:It asks nothing of AWS.
  count                       = var.session_manager ? 0 : 1
  ami                         = data.aws_ami.bastion[0].id
  instance_type               = var.instance_types.bastion
  key_name                    = aws_key_pair.titus[0].key_name
  subnet_id                   = aws_subnet.public.id
  vpc_security_group_ids      = [aws_security_group.titus["bastion"].id]
  associate_public_ip_address = true
  ebs_optimized               = true

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = "required"
    instance_metadata_tags = "enabled"
  }

  root_block_device {
    encrypted = true
  }

  tags = { Name = "${var.name} bastion" }

  lifecycle {
    ignore_changes = [ami] # Canonical's newest: a new one is no reason for another bastion
  }
}

# What ZooKeeper and the Mesos master know, apart from the instance. Nothing here ever destroys it.
resource "aws_ebs_volume" "prereqs" {
  #checkov:skip=CKV_AWS_189:The account's own key for EBS will do here.
  #checkov:skip=CKV2_AWS_9:Several servers have the data; back up a single one that runs for long.
  count             = var.prereqs_count
  availability_zone = aws_subnet.server[count.index].availability_zone
  size              = var.prereqs_volume_size
  type              = "gp3"
  encrypted         = true
  tags              = { Name = "${var.name} prereqs ${count.index}" }

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_volume_attachment" "prereqs" {
  count                          = var.prereqs_count
  device_name                    = "/dev/sdf"
  volume_id                      = aws_ebs_volume.prereqs[count.index].id
  instance_id                    = aws_instance.prereqs[count.index].id
  stop_instance_before_detaching = true
}

resource "aws_instance" "prereqs" {
  #checkov:skip=CKV_AWS_126:A figure each minute costs money; one in five minutes will do here.
  count                  = var.prereqs_count
  ami                    = data.aws_ami.node.id
  instance_type          = var.instance_types.prereqs
  key_name               = one(aws_key_pair.titus[*].key_name)
  subnet_id              = aws_subnet.server[count.index].id
  private_ip             = local.prereqs_addresses[count.index]
  vpc_security_group_ids = [aws_security_group.titus["prereqs"].id]
  iam_instance_profile   = aws_iam_instance_profile.node["node"].name
  ebs_optimized          = true
  user_data              = templatefile("${path.module}/prereqs-user-data.tftpl", { volume = aws_ebs_volume.prereqs[count.index].id })

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = "required"
    instance_metadata_tags = "enabled"
  }

  root_block_device {
    encrypted = true
  }

  tags = {
    Name                      = "${var.name} prereqs ${count.index}"
    "titus:role"              = "prereqs"
    "titus:zookeeper.servers" = local.zookeeper_servers
  }

  lifecycle {
    # A new image, or other user data, never replaces or stops a node with data: README.md, "Change it".
    ignore_changes = [ami, user_data]

    precondition {
      condition     = length(distinct(aws_subnet.server[*].availability_zone)) == var.prereqs_count
      error_message = "Two prereqs nodes would be in one availability zone. Name the zones of those that are there, in their order, and new ones, in the variable zones."
    }
  }
}

resource "aws_instance" "master" {
  #checkov:skip=CKV_AWS_126:A figure each minute costs money; one in five minutes will do here.
  #checkov:skip=CKV_AWS_79:IMDSv1 for Titus's old AWS SDK, see titus_http_tokens.
  ami                    = data.aws_ami.node.id
  instance_type          = var.instance_types.master
  key_name               = one(aws_key_pair.titus[*].key_name)
  subnet_id              = aws_subnet.server[0].id
  private_ip             = local.master_address
  vpc_security_group_ids = [aws_security_group.titus["master"].id]
  iam_instance_profile   = aws_iam_instance_profile.node["master"].name
  ebs_optimized          = true
  user_data              = local.titus_user_data

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = var.titus_http_tokens
    instance_metadata_tags = "enabled"
  }

  root_block_device {
    encrypted = true
  }

  tags = {
    Name                      = "${var.name} master"
    "titus:role"              = "master"
    "titus:zookeeper.servers" = local.zookeeper_servers
  }
}

resource "aws_instance" "gateway" {
  #checkov:skip=CKV_AWS_126:A figure each minute costs money; one in five minutes will do here.
  #checkov:skip=CKV_AWS_79:IMDSv1 for Titus's old AWS SDK, see titus_http_tokens.
  ami                    = data.aws_ami.node.id
  instance_type          = var.instance_types.gateway
  key_name               = one(aws_key_pair.titus[*].key_name)
  subnet_id              = aws_subnet.server[0].id
  private_ip             = local.gateway_address
  vpc_security_group_ids = [aws_security_group.titus["gateway"].id]
  iam_instance_profile   = aws_iam_instance_profile.node["node"].name
  ebs_optimized          = true
  user_data              = local.titus_user_data

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = var.titus_http_tokens
    instance_metadata_tags = "enabled"
  }

  root_block_device {
    encrypted = true
  }

  tags = {
    Name                   = "${var.name} gateway"
    "titus:role"           = "gateway"
    "titus:master.address" = local.master_address
    "titus:agent.asg"      = local.agent_asg_name # the instance group that it keeps active
  }
}

# A template, not a launch configuration, because only a template can put tags into the metadata. Titus rc.57
# accepts that. A Titus that is built with the AWS connector ignores a group without a launch configuration.
resource "aws_launch_template" "agent" {
  #checkov:skip=CKV_AWS_79:IMDSv1 for Titus's old AWS SDK, see titus_http_tokens.
  name                   = local.agent_asg_name
  image_id               = data.aws_ami.node.id
  instance_type          = var.instance_types.agent
  key_name               = one(aws_key_pair.titus[*].key_name)
  vpc_security_group_ids = [aws_security_group.titus["agent"].id]
  ebs_optimized          = true

  user_data = base64encode(<<-EOT
    #!/usr/bin/titus-bootstrap
    lifecycle.hook = "${local.lifecycle_hook}"
    on_failure.mark_unhealthy = true
  EOT
  )

  iam_instance_profile {
    name = aws_iam_instance_profile.node["agent"].name
  }

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = var.titus_http_tokens
    instance_metadata_tags = "enabled"
  }

  block_device_mappings {
    device_name = "/dev/sda1"

    ebs {
      volume_size = 30
      volume_type = "gp3"
      encrypted   = true
    }
  }

  tag_specifications {
    resource_type = "instance"

    tags = {
      Name                      = "${var.name} agent"
      "titus:role"              = "agent"
      "titus:zookeeper.servers" = local.zookeeper_servers
      "titus:agent.asg"         = local.agent_asg_name
      "titus:agent.log_bucket"  = aws_s3_bucket.log.bucket
    }
  }
}

resource "aws_autoscaling_group" "agent" {
  #checkov:skip=CKV_AWS_153:Its instances get their tags from the launch template.
  name                      = local.agent_asg_name
  min_size                  = var.agents
  desired_capacity          = var.agents
  max_size                  = var.agents
  vpc_zone_identifier       = aws_subnet.agent[*].id
  force_delete              = true  # Titus's containers do not hold up `terraform destroy`
  wait_for_capacity_timeout = "30m" # until all are in service, which the hook below delays until they serve

  launch_template {
    id      = aws_launch_template.agent.id
    version = aws_launch_template.agent.latest_version
  }

  # An agent is in service when titus-bootstrap says that it serves. Otherwise the group replaces it.
  initial_lifecycle_hook {
    name                 = local.lifecycle_hook
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    default_result       = "ABANDON"
    heartbeat_timeout    = 600
  }

  # A change of the launch template replaces the agents: the new one serves before an old one goes.
  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage = 100
      max_healthy_percentage = 200
    }
  }

  # An agent needs these from its first second.
  depends_on = [
    aws_iam_role_policy.node,
    aws_instance.master,
    aws_route_table_association.agent,
    aws_volume_attachment.prereqs,
    aws_vpc_security_group_egress_rule.http,
    aws_vpc_security_group_egress_rule.https,
    aws_vpc_security_group_egress_rule.vpc,
    aws_vpc_security_group_ingress_rule.flow,
  ]
}

# The provider starts an instance refresh and does not wait for its end.
resource "terraform_data" "agents_replaced" {
  count            = var.await_refresh ? 1 : 0
  triggers_replace = [aws_launch_template.agent.latest_version]

  provisioner "local-exec" {
    command = "'${path.module}/await-refresh.sh' '${aws_autoscaling_group.agent.name}' '${local.region}'"
  }
}
