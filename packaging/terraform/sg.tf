# Who may reach whom. One group for each kind of node, and "app" for the containers.

locals {
  groups = {
    bastion = "The way in"
    prereqs = "ZooKeeper and the Mesos master"
    master  = "The Titus master"
    gateway = "The Titus gateway"
    agent   = "Titus agents"
    app     = "Containers whose job names no group"
  }

  # An ensemble of ZooKeeper servers also needs 2888 and 3888 from prereqs to prereqs. The Docker API
  # of an agent listens on its loopback, so 4243 is not here.
  ports = {
    zookeeper    = { on = "prereqs", port = 2181, from = ["master", "agent"] }
    mesos-master = { on = "prereqs", port = 5050, from = ["master", "agent"] }
    mesos-agent  = { on = "agent", port = 5051, from = ["prereqs", "master"] }
    titus-http   = { on = "master", port = 7001, from = ["gateway"] }
    titus-grpc   = { on = "master", port = 7104, from = ["gateway"] }
    gateway-http = { on = "gateway", port = 7001, from = ["bastion"] }
    ssh-prereqs  = { on = "prereqs", port = 22, from = ["bastion"] }
    ssh-master   = { on = "master", port = 22, from = ["bastion"] }
    ssh-gateway  = { on = "gateway", port = 22, from = ["bastion"] }
    ssh-agent    = { on = "agent", port = 22, from = ["bastion"] }
    ssh-app      = { on = "app", port = 22, from = ["bastion"] }
    http-app     = { on = "app", port = 80, from = ["bastion"] }
    # Mesos calls the Titus master back, on a port that libmesos takes from Linux's ephemeral range;
    # and the Titus master sends to an agent directly once it knows one.
    libprocess = { on = "master", port = 32768, last = 60999, from = ["prereqs", "agent"] }
  }

  # One entry for each pair: "zookeeper from agent".
  flows = merge([
    for name, rule in local.ports : {
      for from in rule.from : "${name} from ${from}" => merge({ last = rule.port }, rule, { from = from })
    }
  ]...)

  nodes = setsubtract(keys(local.groups), ["app"])
}

resource "aws_security_group" "titus" {
  #checkov:skip=CKV2_AWS_5:All are attached, by for_each in ec2.tf; "app" by Titus to a container's interface.
  for_each    = local.groups
  name        = "titus${each.key}"
  description = each.value
  vpc_id      = aws_vpc.titus.id
  tags        = { Name = "titus${each.key}" }
}

resource "aws_vpc_security_group_ingress_rule" "flow" {
  for_each                     = local.flows
  description                  = each.key
  security_group_id            = aws_security_group.titus[each.value.on].id
  referenced_security_group_id = aws_security_group.titus[each.value.from].id
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.last
}

resource "aws_vpc_security_group_ingress_rule" "bastion" {
  description       = "SSH from where you are"
  security_group_id = aws_security_group.titus["bastion"].id
  cidr_ipv4         = var.trusted_cidr
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

# The other end of every flow above has an ingress rule, so one rule is enough here.
resource "aws_vpc_security_group_egress_rule" "vpc" {
  for_each          = local.nodes
  description       = "To other nodes"
  security_group_id = aws_security_group.titus[each.key].id
  cidr_ipv4         = aws_vpc.titus.cidr_block
  ip_protocol       = "-1"
}

resource "aws_vpc_security_group_egress_rule" "https" {
  for_each          = local.nodes
  description       = "AWS, registries, package sources"
  security_group_id = aws_security_group.titus[each.key].id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "http" {
  for_each          = local.nodes
  description       = "Package sources, whose content is signed"
  security_group_id = aws_security_group.titus[each.key].id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
}

resource "aws_vpc_security_group_egress_rule" "app" {
  #checkov:skip=CKV_AWS_382:What a container may reach is up to its application; a job can name other groups.
  description       = "Everywhere"
  security_group_id = aws_security_group.titus["app"].id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}
