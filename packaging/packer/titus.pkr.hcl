# An image of a Titus node: an AMI (amazon-ebs.titus), or a container image of the same
# (docker.titus), which the tests use. Both run provision.sh. See README.md.

variable "roles" {
  type        = list(string)
  description = "The roles that the image is for: prereqs, master, gateway, agent. An instance's tag titus:role chooses one of them."

  validation {
    condition     = length(var.roles) > 0
    error_message = "Give at least one role, as in -var 'roles=[\"agent\"]'."
  }
}

variable "binary" {
  type        = string
  default     = "dist/titus-bootstrap"
  description = "The program, as packaging/build makes it, or its deb, which brings the boot unit along."
}

variable "settings" {
  type        = string
  description = "The image's /etc/titus-bootstrap/config.toml."
}

# For amazon-ebs.titus.

variable "region" {
  type    = string
  default = "eu-west-1"
}

variable "instance_type" {
  type        = string
  default     = "m5.large"
  description = "Of the builder only: what is baked is the same for every instance type."
}

variable "subnet_id" {
  type        = string
  default     = ""
  description = "Empty: one of the default VPC."
}

variable "source_ami_name" {
  type        = string
  default     = "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-*"
  description = "The newest AMI of this name is the base."
}

variable "source_ami_owner" {
  type        = string
  default     = "099720109477" # Canonical
  description = "Without an owner anybody's AMI of that name would do."
}

# For docker.titus.

variable "base_image" {
  type        = string
  default     = "node"
  description = "An image with systemd that the engine has already; it is not pulled."
}

variable "docker_run" {
  type = list(string)
  default = [
    "--privileged", "--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw",
    "--tmpfs", "/run", "--tmpfs", "/tmp:exec,mode=1777", "--env", "container=docker",
  ]
  description = "Options of docker run with which systemd and a Docker Engine work in the container."
}

variable "image_repository" {
  type    = string
  default = "titus-node"
}

variable "image_tag" {
  type    = string
  default = "latest"
}

source "amazon-ebs" "titus" {
  region        = var.region
  instance_type = var.instance_type
  subnet_id     = var.subnet_id
  ssh_username  = "ubuntu"

  source_ami_filter {
    filters = {
      name                = var.source_ami_name
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    owners      = [var.source_ami_owner]
    most_recent = true
  }

  ami_name     = "titus-${join("-", var.roles)}-${formatdate("YYYYMMDD-hhmmss", timestamp())}"
  encrypt_boot = true
  tags         = { Name = "titus ${join(" ", var.roles)}" }
  run_tags     = { Name = "titus image builder" }

  # The key that Packer makes for itself must not stay in the image.
  ssh_clear_authorized_keys = true
}

source "docker" "titus" {
  image       = var.base_image
  pull        = false
  commit      = true
  run_command = concat(["--detach"], var.docker_run, ["{{ .Image }}", "/lib/systemd/systemd", "--system"])

  # Packer mounts a directory here. Below /run, which each boot makes anew, it leaves nothing.
  container_dir = "/run/packer"
  # One docker exec less: where systemd has moved its processes to other control groups, it fails.
  fix_upload_owner = false
}

build {
  sources = ["source.amazon-ebs.titus", "source.docker.titus"]

  # To /var/tmp: on EC2 Packer is not root, and in a container /tmp is not what docker cp sees.
  provisioner "file" {
    source      = var.binary
    destination = "/var/tmp/titus-bootstrap"
  }
  provisioner "file" {
    source      = var.settings
    destination = "/var/tmp/titus-bootstrap.toml"
  }
  provisioner "shell" {
    script           = "${path.root}/provision.sh"
    environment_vars = ["ROLES=${join(" ", var.roles)}"]
    remote_folder    = "/var/tmp"
    skip_clean       = true # it removes itself: its last command must be the seal
  }

  post-processor "docker-tag" {
    only       = ["docker.titus"]
    repository = var.image_repository
    tags       = [var.image_tag]
  }
}
