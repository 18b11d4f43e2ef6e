# Roles of the nodes, and the two that containers assume. In the proof of concept the nodes' role
# was allowed everything.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  ec2         = "arn:${data.aws_partition.current.partition}:ec2:${data.aws_region.current.name}:${data.aws_caller_identity.current.account_id}"
  autoscaling = "arn:${data.aws_partition.current.partition}:autoscaling:${data.aws_region.current.name}:${data.aws_caller_identity.current.account_id}"

  # A list of its own, since a policy names roles, which must be there first.
  node_roles = ["titusnodeInstanceProfile", "titusmasterInstanceProfile", "titusagentInstanceProfile"]

  node_policies = {
    titusnodeInstanceProfile   = data.aws_iam_policy_document.node.json
    titusmasterInstanceProfile = data.aws_iam_policy_document.master.json
    titusagentInstanceProfile  = data.aws_iam_policy_document.agent.json
  }

  # What a container may do, by the role that its job names. The second has no S3, to see the difference.
  app_policies = {
    titusappwiths3InstanceProfile = data.aws_iam_policy_document.app_with_s3.json
    titusappnos3InstanceProfile   = data.aws_iam_policy_document.app_no_s3.json
  }
}

# What titus-bootstrap needs: the node's own tags, should they not be in its metadata, the numbers of a type that
# it does not know, and its peers where they are discovered. EC2 knows no permission for some of these only.
data "aws_iam_policy_document" "node" {
  statement {
    sid       = "Describe"
    actions   = ["ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeTags"]
    resources = ["*"]
  }
}

# The Titus master of rc.57 learns of instance groups from its agents. One that is built with Titus's
# AWS connector asks for them, resizes them, and detaches, tags and terminates their instances.
data "aws_iam_policy_document" "master" {
  source_policy_documents = [data.aws_iam_policy_document.node.json]

  # None of these can be had for some resources only.
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
    resources = ["${local.autoscaling}:autoScalingGroup:*:autoScalingGroupName/${var.agent_asg_name}"]
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
    resources = ["${local.autoscaling}:autoScalingGroup:*:autoScalingGroupName/${var.agent_asg_name}"]
  }

  # None of these can be had for some resources only.
  statement {
    sid       = "DescribeInterfaces"
    actions   = ["ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets"]
    resources = ["*"]
  }

  # A new interface is in no VPC yet; the subnet, which the call needs too, says in which it may be.
  statement {
    sid       = "CreateInterfaces"
    actions   = ["ec2:CreateNetworkInterface"]
    resources = ["${local.ec2}:network-interface/*", aws_subnet.private.arn]
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

  # With PutObjectAcl, since the executor names an ACL.
  statement {
    sid       = "WriteLogs"
    actions   = ["s3:PutObject", "s3:PutObjectAcl", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.log.arn}/*"]
  }
}

data "aws_iam_policy_document" "app_with_s3" {
  # For the `aws s3 ls` with which a newcomer tries the role; it cannot be had for some buckets only.
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
      identifiers = [aws_iam_role.node["titusagentInstanceProfile"].arn]
    }
  }
}

resource "aws_iam_role" "node" {
  for_each           = toset(local.node_roles)
  name               = each.key
  assume_role_policy = data.aws_iam_policy_document.by_ec2.json
}

resource "aws_iam_role_policy" "node" {
  for_each = local.node_policies
  name     = each.key
  role     = aws_iam_role.node[each.key].name
  policy   = each.value
}

resource "aws_iam_instance_profile" "node" {
  for_each = toset(local.node_roles)
  name     = each.key
  role     = aws_iam_role.node[each.key].name
}

resource "aws_iam_role" "app" {
  for_each           = toset(keys(local.app_policies))
  name               = each.key
  assume_role_policy = data.aws_iam_policy_document.by_agents.json
}

resource "aws_iam_role_policy" "app" {
  for_each = local.app_policies
  name     = each.key
  role     = aws_iam_role.app[each.key].name
  policy   = each.value
}
