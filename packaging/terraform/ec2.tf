# The nodes. Each is told what it is by its tags, which it reads from its metadata, so one line is the
# whole user data. An image from ../packer has all the rest.

data "aws_ami" "node" {
  most_recent = true
  owners      = ["self"]

  filter {
    name   = "name"
    values = [var.image_name]
  }
}

data "aws_ami" "bastion" {
  most_recent = true
  owners      = ["099720109477"] # Canonical

  filter {
    name   = "name"
    values = ["ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-*"]
  }
}

resource "aws_key_pair" "titus" {
  key_name   = "titus_deployer"
  public_key = file(pathexpand(var.public_key))
}

resource "aws_instance" "bastion" {
  #checkov:skip=CKV_AWS_126:A figure each minute costs money; one in five minutes will do here.
  #checkov:skip=CKV_AWS_88:The one node that is reached from outside.
  #checkov:skip=CKV2_AWS_41:It asks nothing of AWS.
  ami                         = data.aws_ami.bastion.id
  instance_type               = "t3.nano"
  key_name                    = aws_key_pair.titus.key_name
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

  tags = { Name = "titus bastion" }
}

resource "aws_instance" "prereqs" {
  #checkov:skip=CKV_AWS_126:A figure each minute costs money; one in five minutes will do here.
  ami                    = data.aws_ami.node.id
  instance_type          = "t3.large"
  key_name               = aws_key_pair.titus.key_name
  subnet_id              = aws_subnet.private.id
  vpc_security_group_ids = [aws_security_group.titus["prereqs"].id]
  iam_instance_profile   = aws_iam_instance_profile.node["titusnodeInstanceProfile"].name
  ebs_optimized          = true
  user_data              = "#!/usr/bin/titus-bootstrap\n"

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = "required"
    instance_metadata_tags = "enabled"
  }

  root_block_device {
    encrypted = true
  }

  tags = {
    Name         = "titus prereqs"
    "titus:role" = "prereqs"
  }
}

# A tag must not say which rights jobs get, so for the master two settings stand on the line. Linux
# before 5.1 reads 127 characters of it, and it has some 175: there only the boot unit can use it.
resource "aws_instance" "master" {
  #checkov:skip=CKV_AWS_126:A figure each minute costs money; one in five minutes will do here.
  #checkov:skip=CKV_AWS_79:IMDSv1 for Titus's old AWS SDK, see titus_http_tokens.
  ami                    = data.aws_ami.node.id
  instance_type          = "t3.micro"
  key_name               = aws_key_pair.titus.key_name
  subnet_id              = aws_subnet.private.id
  vpc_security_group_ids = [aws_security_group.titus["master"].id]
  iam_instance_profile   = aws_iam_instance_profile.node["titusmasterInstanceProfile"].name
  ebs_optimized          = true
  user_data              = "#!/usr/bin/titus-bootstrap --set master.default_iam_role=${aws_iam_role.app["titusappwiths3InstanceProfile"].arn} --set master.default_security_groups=${aws_security_group.titus["app"].id}\n"

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = var.titus_http_tokens
    instance_metadata_tags = "enabled"
  }

  root_block_device {
    encrypted = true
  }

  tags = {
    Name            = "titus master"
    "titus:role"    = "master"
    "titus:prereqs" = aws_instance.prereqs.private_ip
  }
}

resource "aws_instance" "gateway" {
  #checkov:skip=CKV_AWS_126:A figure each minute costs money; one in five minutes will do here.
  #checkov:skip=CKV_AWS_79:IMDSv1 for Titus's old AWS SDK, see titus_http_tokens.
  ami                    = data.aws_ami.node.id
  instance_type          = "t3.micro"
  key_name               = aws_key_pair.titus.key_name
  subnet_id              = aws_subnet.private.id
  vpc_security_group_ids = [aws_security_group.titus["gateway"].id]
  iam_instance_profile   = aws_iam_instance_profile.node["titusnodeInstanceProfile"].name
  ebs_optimized          = true
  user_data              = "#!/usr/bin/titus-bootstrap --set master.default_iam_role=${aws_iam_role.app["titusappwiths3InstanceProfile"].arn} --set master.default_security_groups=${aws_security_group.titus["app"].id}\n"

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = var.titus_http_tokens
    instance_metadata_tags = "enabled"
  }

  root_block_device {
    encrypted = true
  }

  tags = {
    Name                   = "titus gateway"
    "titus:role"           = "gateway"
    "titus:master.address" = aws_instance.master.private_ip
    "titus:agent.asg"      = var.agent_asg_name # the instance group that it keeps active
  }
}

# A template, not a launch configuration: only it can put tags into the metadata. Titus of rc.57 does
# not mind. One that is built with Titus's AWS connector sees no group without a launch configuration.
resource "aws_launch_template" "agent" {
  #checkov:skip=CKV_AWS_79:IMDSv1 for Titus's old AWS SDK, see titus_http_tokens.
  name                   = var.agent_asg_name
  image_id               = data.aws_ami.node.id
  instance_type          = "m4.large" # of a family that Titus's VPC driver knows
  key_name               = aws_key_pair.titus.key_name
  vpc_security_group_ids = [aws_security_group.titus["agent"].id]
  ebs_optimized          = true
  user_data              = base64encode("#!/usr/bin/titus-bootstrap\n")

  iam_instance_profile {
    name = aws_iam_instance_profile.node["titusagentInstanceProfile"].name
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
      Name                     = "titus agent"
      "titus:role"             = "agent"
      "titus:prereqs"          = aws_instance.prereqs.private_ip
      "titus:agent.asg"        = var.agent_asg_name
      "titus:agent.log_bucket" = aws_s3_bucket.log.bucket
    }
  }
}

resource "aws_autoscaling_group" "agent" {
  #checkov:skip=CKV_AWS_153:Its instances get their tags from the launch template.
  name                = var.agent_asg_name
  min_size            = 1
  desired_capacity    = 1
  max_size            = 1
  vpc_zone_identifier = [aws_subnet.private.id]
  force_delete        = true # Titus's containers do not hold up `terraform destroy`

  launch_template {
    id      = aws_launch_template.agent.id
    version = aws_launch_template.agent.latest_version
  }
}
