# A public subnet for the bastion, a private one for everything else: containers get addresses of
# the agent's subnet, and only NAT at its border takes them to the internet and back.

resource "aws_vpc" "titus" {
  #checkov:skip=CKV2_AWS_11:Flow logs cost by the amount of traffic; who runs this for long turns them on.
  cidr_block           = "30.0.0.0/16" # as in the proof of concept; its README's ssh settings say 30.0.*
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = "titus" }
}

# Without rules. Titus makes network interfaces in it, and gives them a job's groups afterwards.
resource "aws_default_security_group" "titus" {
  vpc_id = aws_vpc.titus.id
}

resource "aws_subnet" "public" {
  vpc_id     = aws_vpc.titus.id
  cidr_block = "30.0.1.0/24"
  tags       = { Name = "titus public" }
}

resource "aws_subnet" "private" {
  vpc_id            = aws_vpc.titus.id
  cidr_block        = "30.0.100.0/24"
  availability_zone = aws_subnet.public.availability_zone # traffic to NAT in another zone costs extra
  tags              = { Name = "titus private" }
}

resource "aws_internet_gateway" "titus" {
  vpc_id = aws_vpc.titus.id
}

resource "aws_eip" "nat" {
  domain     = "vpc"
  depends_on = [aws_internet_gateway.titus]
}

resource "aws_nat_gateway" "titus" {
  allocation_id = aws_eip.nat.id
  subnet_id     = aws_subnet.public.id
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.titus.id

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.titus.id
  }
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
}

resource "aws_route_table_association" "private" {
  subnet_id      = aws_subnet.private.id
  route_table_id = aws_route_table.private.id
}
