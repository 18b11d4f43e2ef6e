# A public subnet for the way in and for NAT, and private ones for everything else: in each zone one for the servers, whose
# addresses are fixed, and one for agents. Containers get addresses of the agents' subnet, so they never take a server's.

data "aws_availability_zones" "available" {
  #checkov:skip=CKV_AWS_394:A zone that AWS adds moves no subnet; see aws_subnet.server.
  state = "available"

  filter {
    name   = "zone-type"
    values = ["availability-zone"]
  }
}

# Some zones of a region lack some instance types.
data "aws_ec2_instance_type_offerings" "node" {
  for_each      = toset([for role, type in var.instance_types : type if role != "bastion"])
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [each.key]
  }
}

locals {
  offering = setintersection(
    data.aws_availability_zones.available.names,
    [for offerings in data.aws_ec2_instance_type_offerings.node : offerings.locations]...
  )
  zones = var.zones == null ? sort(local.offering) : var.zones

  # Terraform knows them before it makes anything, and a replaced node keeps its address. AWS reserves the first four of a subnet.
  prereqs_addresses = [for place in range(var.prereqs_count) : cidrhost(local.server_blocks[place], 11)]
  master_address    = cidrhost(local.server_blocks[0], 12)
  gateway_address   = cidrhost(local.server_blocks[0], 13)

  vpc_block     = "30.0.0.0/16" # as in the proof of concept; its README's ssh settings say 30.0.*
  server_blocks = [for place in range(var.prereqs_count) : cidrsubnet(local.vpc_block, 8, 100 + place)]
  agent_blocks  = [for place in range(var.prereqs_count) : cidrsubnet(local.vpc_block, 4, 8 + place)]
}

resource "aws_vpc" "titus" {
  #checkov:skip=CKV2_AWS_11:Flow logs cost by the amount of traffic; turn them on if you run this for long.
  cidr_block           = local.vpc_block
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# Without rules. Titus makes network interfaces in it, and gives them a job's groups afterwards.
resource "aws_default_security_group" "titus" {
  vpc_id = aws_vpc.titus.id
}

# A subnet stays in its zone, with all that is in it, whichever zones AWS offers later.

resource "aws_subnet" "public" {
  vpc_id            = aws_vpc.titus.id
  cidr_block        = cidrsubnet(local.vpc_block, 8, 1)
  availability_zone = aws_subnet.server[0].availability_zone # traffic to NAT in another zone costs extra
  tags              = { Name = "${var.name} public" }
}

resource "aws_subnet" "server" {
  count             = var.prereqs_count
  vpc_id            = aws_vpc.titus.id
  cidr_block        = local.server_blocks[count.index]
  availability_zone = try(local.zones[count.index], null)
  tags              = { Name = "${var.name} servers ${count.index}" }

  lifecycle {
    ignore_changes = [availability_zone]

    precondition {
      condition     = length(setsubtract(slice(local.zones, 0, min(length(local.zones), var.prereqs_count)), local.offering)) == 0 && length(local.zones) >= var.prereqs_count
      error_message = "Only these zones offer all instance types: ${join(", ", sort(local.offering))}. Choose other instance_types, zones or prereqs_count, or another region. Types: ${join(", ", distinct(values(var.instance_types)))}."
    }
  }
}

resource "aws_subnet" "agent" {
  count             = var.prereqs_count
  vpc_id            = aws_vpc.titus.id
  cidr_block        = local.agent_blocks[count.index]
  availability_zone = aws_subnet.server[count.index].availability_zone
  tags              = { Name = "${var.name} agents ${count.index}" }
}

resource "aws_internet_gateway" "titus" {
  vpc_id = aws_vpc.titus.id
  tags   = { Name = var.name }
}

resource "aws_eip" "nat" {
  domain     = "vpc"
  tags       = { Name = "${var.name} nat" }
  depends_on = [aws_internet_gateway.titus]
}

# One for all zones. It is the way out of the VPC only: servers and agents reach each other without it.
resource "aws_nat_gateway" "titus" {
  allocation_id = aws_eip.nat.id
  subnet_id     = aws_subnet.public.id
  tags          = { Name = var.name }
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.titus.id

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.titus.id
  }

  tags = { Name = "${var.name} public" }
}

resource "aws_route_table_association" "public" {
  subnet_id      = aws_subnet.public.id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.titus.id

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.titus.id
  }

  tags = { Name = "${var.name} private" }
}

resource "aws_route_table_association" "server" {
  count          = var.prereqs_count
  subnet_id      = aws_subnet.server[count.index].id
  route_table_id = aws_route_table.private.id
}

resource "aws_route_table_association" "agent" {
  count          = var.prereqs_count
  subnet_id      = aws_subnet.agent[count.index].id
  route_table_id = aws_route_table.private.id
}
