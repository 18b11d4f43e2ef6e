# The allowed connections. One group for each kind of node, and "app" for the containers.

locals {
  groups = merge(var.session_manager ? {} : { bastion = "The way in" }, {
    prereqs = "ZooKeeper and the Mesos master"
    master  = "The Titus master"
    gateway = "The Titus gateway"
    agent   = "Titus agents"
    app     = "Containers whose job names no group"
  })

  # The Docker API of an agent listens on its loopback, so 4243 is not here.
  ports = {
    zookeeper    = { on = "prereqs", port = 2181, from = ["prereqs", "master", "agent"] }
    quorum       = { on = "prereqs", port = 2888, from = ["prereqs"] }
    election     = { on = "prereqs", port = 3888, from = ["prereqs"] }
    mesos-master = { on = "prereqs", port = 5050, from = ["prereqs", "master", "agent"] }
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
    # Mesos calls the Titus master back, on a port that libmesos takes from Linux's ephemeral range.
    # The Titus master sends to an agent directly once it knows one.
    libprocess = { on = "master", port = 32768, last = 60999, from = ["prereqs", "agent"] }
  }

  # One entry for each pair: "zookeeper from agent".
  flows = merge([
    for name, rule in local.ports : {
      for from in rule.from : "${name} from ${from}" => merge({ last = rule.port }, rule, { from = from })
      if contains(keys(local.groups), from)
    }
  ]...)

  nodes = setsubtract(keys(local.groups), ["app"])
}

resource "aws_security_group" "titus" {
  #checkov:skip=CKV2_AWS_5:for_each in ec2.tf attaches all; Titus attaches "app" to a container's interface.
  for_each    = local.groups
  name        = "${var.name}${each.key}"
  description = each.value
  vpc_id      = aws_vpc.titus.id
  tags        = { Name = "${var.name}${each.key}" }
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
  count             = var.session_manager ? 0 : 1
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
