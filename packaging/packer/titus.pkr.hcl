# An image of a Titus node: an AMI (amazon-ebs.titus), or a container image of the same
# (docker.titus), which the tests use. Both run check.sh and provision.sh. See README.md.

variable "roles" {
  type        = list(string)
  description = "The roles that the image is for: prereqs, master, gateway, agent. An instance's tag titus:role chooses one of them."

  validation {
    condition     = length(var.roles) > 0
    error_message = "Give at least one role, as in -var 'roles=[\"agent\"]'."
  }

  validation {
    condition     = length([for role in var.roles : role if !contains(["prereqs", "master", "gateway", "agent"], role)]) == 0
    error_message = "Only prereqs, master, gateway and agent are roles."
  }
}

variable "deb" {
  type        = string
  description = "The program's deb, as packaging/deb/build makes it. It brings the unit that runs the program at every boot."

  validation {
    condition     = regex_replace(var.deb, "[.]deb$", "") != var.deb
    error_message = "Give the deb: without the boot unit that it brings, the services of the image would never start."
  }
}

variable "settings" {
  type        = string
  description = "The image's /etc/titus-bootstrap/config.toml."
}

# For amazon-ebs.titus.

variable "region" {
  type        = string
  default     = ""
  description = "Empty: that of the environment (AWS_REGION or AWS_DEFAULT_REGION) or of the profile."
}

variable "profile" {
  type        = string
  default     = ""
  description = "The profile in ~/.aws/config whose credentials build the image. Empty: those of the environment."
}

variable "instance_type" {
  type        = string
  default     = "m5.large"
  description = "Of the builder only: what is baked is the same for every instance type."
}

variable "vpc_id" {
  type        = string
  default     = ""
  description = "Empty: the default VPC, or that of subnet_id."
}

variable "subnet_id" {
  type        = string
  default     = ""
  description = "Empty: one of the default VPC."
}

variable "instance_profile" {
  type        = string
  default     = ""
  description = "The builder's instance profile: for Session Manager, or for a bucket or registry that the settings name. Empty: none."
}

variable "ssh_interface" {
  type        = string
  default     = ""
  description = "How Packer reaches the builder: public_ip, private_ip, public_dns, private_dns or session_manager (with instance_profile). Empty: by its public name, or else its private one."

  validation {
    condition     = contains(["", "public_ip", "private_ip", "public_dns", "private_dns", "session_manager"], var.ssh_interface)
    error_message = "One of public_ip, private_ip, public_dns, private_dns and session_manager."
  }
}

variable "ssh_username" {
  type        = string
  default     = "ubuntu"
  description = "The user of the base AMI; admin on Debian's."
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

variable "root_device" {
  type        = string
  default     = "/dev/sda1"
  description = "The root device of the base AMI; /dev/xvda on Debian's."
}

variable "volume_size" {
  type        = number
  default     = 16
  description = "Size of the image's root volume, GiB."
}

variable "kms_key_id" {
  type        = string
  default     = ""
  description = "The key that encrypts the image. Empty: the account's own for EBS, with which an image can be shared with nobody."
}

variable "ami_users" {
  type        = list(string)
  default     = []
  description = "Accounts that may start instances from the image; they also need the right to use kms_key_id."
}

variable "ami_regions" {
  type        = list(string)
  default     = []
  description = "Further regions that the image is copied to. With kms_key_id see region_kms_key_ids."
}

variable "region_kms_key_ids" {
  type        = map(string)
  default     = {}
  description = "For each of ami_regions the key that encrypts the copy there; an empty text is the account's own."
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
  region               = var.region
  profile              = var.profile
  instance_type        = var.instance_type
  vpc_id               = var.vpc_id
  subnet_id            = var.subnet_id
  iam_instance_profile = var.instance_profile
  ssh_username         = var.ssh_username
  ssh_interface        = var.ssh_interface

  source_ami_filter {
    filters = {
      name                = var.source_ami_name
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    owners      = [var.source_ami_owner]
    most_recent = true
  }

  # The builder's metadata service asks for a token, and an instance's does unless its launch says otherwise.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  imds_support = "v2.0"

  launch_block_device_mappings {
    device_name           = var.root_device
    volume_size           = var.volume_size
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = 125 # these two are what gp3 has anyway; Packer 1.6.6 asks for them
    delete_on_termination = true
  }

  ami_name           = "titus-${join("-", var.roles)}-${formatdate("YYYYMMDD-hhmmss", timestamp())}"
  ami_users          = var.ami_users
  ami_regions        = var.ami_regions
  encrypt_boot       = true
  kms_key_id         = var.kms_key_id
  region_kms_key_ids = var.region_kms_key_ids
  run_tags           = { Name = "titus image builder" }

  # ../terraform reads the second.
  tags = {
    Name          = "titus ${join(" ", var.roles)}"
    "titus:roles" = join(" ", var.roles)
  }

  # The key that Packer makes for itself must not stay in the image.
  ssh_clear_authorized_keys = true
}

source "docker" "titus" {
  image       = var.base_image
  pull        = false
  commit      = true
  run_command = concat(["--detach"], var.docker_run, ["{{ .Image }}", "/lib/systemd/systemd", "--system"])

  # Packer mounts a directory here. Below /run, which each boot creates again, it leaves nothing.
  container_dir = "/run/packer"
  # Avoids a docker exec, which fails if systemd has moved its processes to other control groups.
  fix_upload_owner = false
}

build {
  sources = ["source.amazon-ebs.titus", "source.docker.titus"]

  # To /var/tmp: on EC2 Packer is not root, and in a container docker cp sees another /tmp.
  provisioner "file" {
    source      = var.deb
    destination = "/var/tmp/titus-bootstrap.deb"
  }
  provisioner "file" {
    source      = var.settings
    destination = "/var/tmp/titus-bootstrap.toml"
  }
  # Before it installs anything, the build checks these settings and roles for what a run would refuse.
  provisioner "shell" {
    script           = "${path.root}/check.sh"
    environment_vars = ["ROLES=${join(" ", var.roles)}"]
    remote_folder    = "/var/tmp"
    skip_clean       = true
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
