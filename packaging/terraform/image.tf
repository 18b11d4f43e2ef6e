# The one image of all nodes, pinned: by its id, or by a name without wildcards.

locals {
  image_is_id = startswith(var.image, "ami-")
}

data "aws_ami" "node" {
  owners = [var.image_owner]

  filter {
    name   = local.image_is_id ? "image-id" : "name"
    values = [var.image]
  }

  lifecycle {
    # ../packer writes this tag. Tags of an image that another account shares are not visible.
    postcondition {
      condition     = length(setsubtract(["prereqs", "master", "gateway", "agent"], split(" ", lookup(self.tags, "titus:roles", "prereqs master gateway agent")))) == 0
      error_message = "This image is baked for the roles ${lookup(self.tags, "titus:roles", "")} only; the nodes here need one for prereqs, master, gateway and agent."
    }
  }
}

data "aws_ami" "bastion" {
  count       = var.session_manager ? 0 : 1
  most_recent = true             # of the bastion only: see ignore_changes there
  owners      = ["099720109477"] # Canonical

  filter {
    name   = "name"
    values = ["ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-*"]
  }
}
