# Roles of the nodes, and the two that containers assume. In the proof of concept the nodes' role
# allowed everything.

locals {
  # Partition, region and account: "arn:aws:ec2:eu-west-1:123456789012". The attribute of aws_region that has the region's
  # name is another one in version 6 of the provider.
  ec2         = join(":", slice(split(":", aws_vpc.titus.arn), 0, 5))
  autoscaling = replace(local.ec2, ":ec2:", ":autoscaling:")
  region      = split(":", aws_vpc.titus.arn)[3]

  agent_asg_name = coalesce(var.agent_asg_name, "${var.name}agent")

  # A separate list, because a policy names roles, which must exist first.
  node_roles = ["node", "master", "agent"]

  node_policies = {
    node   = data.aws_iam_policy_document.node.json
    master = data.aws_iam_policy_document.master.json
    agent  = data.aws_iam_policy_document.agent.json
  }

  # What a container may do, by the role that its job names. The second has no S3, to see the difference.
  app_policies = {
    appwiths3 = data.aws_iam_policy_document.app_with_s3.json
    appnos3   = data.aws_iam_policy_document.app_no_s3.json
  }
}

# What titus-bootstrap needs: the node's own tags, if its metadata lack them, the numbers of a type that it
# does not know, and its peers if it discovers them. EC2 cannot limit these permissions to certain resources.
data "aws_iam_policy_document" "node" {
  statement {
    sid       = "Describe"
    actions   = ["ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeTags"]
    resources = ["*"]
  }

  # What the SSM agent needs for Session Manager, and for nothing else of Systems Manager.
  dynamic "statement" {
    for_each = var.session_manager ? [1] : []

    content {
      sid = "SessionManager"
      actions = [
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
      ]
      resources = ["*"]
    }
  }
}

# The Titus master of rc.57 learns of instance groups from its agents. One that is built with Titus's
# AWS connector asks for them, resizes them, and detaches, tags and terminates their instances.
data "aws_iam_policy_document" "master" {
  source_policy_documents = [data.aws_iam_policy_document.node.json]

  # IAM cannot limit any of these to certain resources.
  statement {
    sid = "DescribeGroups"
    actions = [
      "autoscaling:DescribeAutoScalingGroups",
      "autoscaling:DescribeAutoScalingInstances",
      "autoscaling:DescribeLaunchConfigurations",
      "ec2:DescribeInstances",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "ResizeAgents"
    actions   = ["autoscaling:UpdateAutoScalingGroup", "autoscaling:DetachInstances"]
    resources = ["${local.autoscaling}:autoScalingGroup:*:autoScalingGroupName/${local.agent_asg_name}"]
  }

  statement {
    sid       = "TerminateAgents"
    actions   = ["ec2:CreateTags", "ec2:TerminateInstances"]
    resources = ["${local.ec2}:instance/*"]

    # A detached instance has lost aws:autoscaling:groupName, but not this tag.
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/titus:role"
      values   = ["agent"]
    }

    # Only this cluster, not another one in the account.
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/titus:agent.asg"
      values   = [local.agent_asg_name]
    }
  }
}

# What titus-executor and its VPC driver call, and how titus-bootstrap's run ended.
data "aws_iam_policy_document" "agent" {
  source_policy_documents = [data.aws_iam_policy_document.node.json]

  # For the settings lifecycle.hook and on_failure.mark_unhealthy.
  statement {
    sid = "TellGroup"
    actions = [
      "autoscaling:CompleteLifecycleAction",
      "autoscaling:RecordLifecycleActionHeartbeat",
      "autoscaling:SetInstanceHealth",
    ]
    resources = ["${local.autoscaling}:autoScalingGroup:*:autoScalingGroupName/${local.agent_asg_name}"]
  }

  # IAM cannot limit any of these to certain resources.
  statement {
    sid       = "DescribeInterfaces"
    actions   = ["ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets"]
    resources = ["*"]
  }

  # A new interface is in no VPC yet; the subnet, which the call needs too, says in which it may be.
  statement {
    sid       = "CreateInterfaces"
    actions   = ["ec2:CreateNetworkInterface"]
    resources = concat(["${local.ec2}:network-interface/*"], aws_subnet.agent[*].arn)
  }

  statement {
    sid = "ChangeInterfaces"
    actions = [
      "ec2:AssignPrivateIpAddresses",
      "ec2:AttachNetworkInterface",
      "ec2:DeleteNetworkInterface",
      "ec2:ModifyNetworkInterfaceAttribute",
      "ec2:UnassignPrivateIpAddresses",
    ]
    resources = ["${local.ec2}:network-interface/*"]

    condition {
      test     = "ArnEquals"
      variable = "ec2:Vpc"
      values   = [aws_vpc.titus.arn]
    }
  }

  # A new interface is in the VPC's default group until it gets the groups of a job.
  statement {
    sid       = "GroupsOfInterfaces"
    actions   = ["ec2:CreateNetworkInterface", "ec2:ModifyNetworkInterfaceAttribute"]
    resources = ["${local.ec2}:security-group/*"]

    condition {
      test     = "ArnEquals"
      variable = "ec2:Vpc"
      values   = [aws_vpc.titus.arn]
    }
  }

  statement {
    sid       = "AttachToAgents"
    actions   = ["ec2:AttachNetworkInterface", "ec2:ModifyNetworkInterfaceAttribute"]
    resources = ["${local.ec2}:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/titus:role"
      values   = ["agent"]
    }

    # Only this cluster, not another one in the account.
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/titus:agent.asg"
      values   = [local.agent_asg_name]
    }
  }

  # The driver marks interfaces that nobody uses before it deletes them.
  statement {
    sid       = "MarkInterfaces"
    actions   = ["ec2:CreateTags", "ec2:DeleteTags"]
    resources = ["${local.ec2}:network-interface/*"]

    condition {
      test     = "ArnEquals"
      variable = "ec2:Vpc"
      values   = [aws_vpc.titus.arn]
    }
  }

  statement {
    sid       = "AssumeAppRoles"
    actions   = ["sts:AssumeRole"]
    resources = [for name in keys(local.app_policies) : aws_iam_role.app[name].arn]
  }

  # With PutObjectAcl, because the executor names an ACL.
  statement {
    sid       = "WriteLogs"
    actions   = ["s3:PutObject", "s3:PutObjectAcl", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.log.arn}/*"]
  }
}

data "aws_iam_policy_document" "app_with_s3" {
  # For the `aws s3 ls` with which a newcomer tries the role; IAM cannot limit it to certain buckets.
  statement {
    sid       = "ListBuckets"
    actions   = ["s3:ListAllMyBuckets"]
    resources = ["*"]
  }

  statement {
    sid       = "ReadBucket"
    actions   = ["s3:ListBucket", "s3:GetObject"]
    resources = [aws_s3_bucket.log.arn, "${aws_s3_bucket.log.arn}/*"]
  }
}

data "aws_iam_policy_document" "app_no_s3" {
  statement {
    sid       = "Describe"
    actions   = ["ec2:DescribeInstances"]
    resources = ["*"]
  }
}

data "aws_iam_policy_document" "by_ec2" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "by_agents" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = [aws_iam_role.node["agent"].arn]
    }
  }
}

resource "aws_iam_role" "node" {
  for_each           = toset(local.node_roles)
  name               = "${var.name}${each.key}InstanceProfile"
  assume_role_policy = data.aws_iam_policy_document.by_ec2.json
}

resource "aws_iam_role_policy" "node" {
  for_each = local.node_policies
  name     = "${var.name}${each.key}InstanceProfile"
  role     = aws_iam_role.node[each.key].name
  policy   = each.value
}

resource "aws_iam_instance_profile" "node" {
  for_each = toset(local.node_roles)
  name     = "${var.name}${each.key}InstanceProfile"
  role     = aws_iam_role.node[each.key].name
}

resource "aws_iam_role" "app" {
  for_each           = toset(keys(local.app_policies))
  name               = "${var.name}${each.key}InstanceProfile"
  assume_role_policy = data.aws_iam_policy_document.by_agents.json
}

resource "aws_iam_role_policy" "app" {
  for_each = local.app_policies
  name     = "${var.name}${each.key}InstanceProfile"
  role     = aws_iam_role.app[each.key].name
  policy   = each.value
}
