variable "name" {
  type        = string
  default     = "titus"
  description = "Prefix of all names. Give each cluster of one account its own."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}$", var.name))
    error_message = "Use at most 20 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "image" {
  type        = string
  description = "The nodes' AMI: its id, or its exact name. It must be baked for all four roles; see ../packer."

  validation {
    condition     = can(regex("^[A-Za-z0-9()\\[\\] ./'@_-]{3,128}$", var.image)) && (!startswith(var.image, "ami-") || can(regex("^ami-([0-9a-f]{8}|[0-9a-f]{17})$", var.image)))
    error_message = "Give one AMI: an id as in ami-0123456789abcdef0, or an exact name. A pattern would start nodes from another image at a later apply."
  }
}

variable "image_owner" {
  type        = string
  default     = "self"
  description = "The account that the AMI belongs to: self, or the account that shares it with you."

  validation {
    condition     = can(regex("^(self|[0-9]{12})$", var.image_owner))
    error_message = "Either self or an account number of twelve digits."
  }
}

variable "prereqs_count" {
  type        = number
  default     = 1
  description = "Servers of ZooKeeper, each in an availability zone of its own: 1, 3 or 5. See README.md before you change it."

  validation {
    condition     = contains([1, 3, 5], var.prereqs_count)
    error_message = "ZooKeeper needs an odd number of servers: 1, 3 or 5."
  }
}

variable "prereqs_volume_size" {
  type        = number
  default     = 20
  description = "Size of the data volume of each prereqs node, GiB. It can grow, but not shrink."

  validation {
    condition     = var.prereqs_volume_size >= 1 && var.prereqs_volume_size <= 16384 && floor(var.prereqs_volume_size) == var.prereqs_volume_size
    error_message = "A volume of type gp3 has 1 to 16384 GiB."
  }
}

variable "agents" {
  type        = number
  default     = 1
  description = "How many agents the Auto Scaling group has."

  validation {
    condition     = var.agents >= 0 && floor(var.agents) == var.agents
    error_message = "Give a whole number, 0 or more."
  }
}

variable "agent_asg_name" {
  type        = string
  default     = null
  description = "Name of the agents' Auto Scaling group; in Titus, of their instance group. Default: the prefix and \"agent\", as in titusagent."

  validation {
    condition     = var.agent_asg_name == null || can(regex("^[A-Za-z0-9._-]{1,128}$", var.agent_asg_name))
    error_message = "Use at most 128 letters, digits, dots, hyphens and underscores: it is a name of an Auto Scaling group and of an IAM resource, and a tag."
  }
}

variable "instance_types" {
  type = object({
    bastion = optional(string, "t3.nano")
    prereqs = optional(string, "t3.large")
    master  = optional(string, "t3.micro")
    gateway = optional(string, "t3.micro")
    agent   = optional(string, "m4.large")
  })
  default     = {}
  description = "Instance types. That of an agent must be one that Titus's VPC driver knows (families m4, m5, r4, p2, c5); m4 does not exist in newer regions."

  validation {
    condition     = alltrue([for type in values(var.instance_types) : can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9-]+$", type))])
    error_message = "An instance type looks like m5.large."
  }
}

variable "zones" {
  type        = list(string)
  default     = null
  description = "Availability zones, one for each prereqs node. Default: the first that offer all instance types. Subnets stay in the zone in which they were made."

  validation {
    condition     = var.zones == null || try(length(var.zones) == var.prereqs_count && length(distinct(var.zones)) == var.prereqs_count, false)
    error_message = "Name as many different zones as prereqs_count."
  }
}

variable "s3_log_bucket_name" {
  type        = string
  description = "Bucket for the tasks' logs. Names are unique among all accounts, so choose your own."

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.s3_log_bucket_name)) && !can(regex("^(xn--|sthree-|amzn-s3-demo-)|(-s3alias|--ol-s3|--x-s3)$", var.s3_log_bucket_name))
    error_message = "Use 3 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends, and none of the prefixes and suffixes that S3 reserves."
  }
}

variable "session_manager" {
  type        = bool
  default     = false
  description = "Reach the nodes with Session Manager: no bastion, no SSH key, no open port. The image must have the SSM agent, as Ubuntu's AMIs do."
}

variable "trusted_cidr" {
  type        = string
  default     = null
  description = "From where the bastion may be reached, as in 203.0.113.7/32. Without session_manager you must give it: an open bastion should be nobody's accident."

  validation {
    condition     = var.session_manager ? var.trusted_cidr == null : try(cidrsubnet(var.trusted_cidr, 0, 0) == var.trusted_cidr && can(regex("[.]", var.trusted_cidr)), false)
    error_message = "Give an IPv4 block such as 203.0.113.7/32 with no bits set behind its prefix; your own address is one with /32 behind it. With session_manager leave it out: there is no bastion."
  }
}

variable "public_key" {
  type        = string
  default     = "~/.ssh/id_rsa.pub"
  description = "File with the SSH public key that opens all nodes. With session_manager nothing reads it."

  validation {
    condition     = var.session_manager || can(regex("^(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+", file(pathexpand(var.public_key))))
    error_message = "This is not a file with a public key that EC2 takes: one line that begins with ssh-rsa or ssh-ed25519."
  }
}

variable "await_refresh" {
  type        = bool
  default     = true
  description = "Whether `terraform apply` waits until all agents are replaced after a change. Needs the AWS CLI where Terraform runs."
}

variable "titus_http_tokens" {
  type        = string
  default     = "optional"
  description = <<-EOT
    IMDSv2 on master, gateway and agent: optional or required. Titus of that time has AWS SDKs that know
    IMDSv1 only (the master's is 1.11.313 for Java, of April 2018), and without it finds no credentials.
    titus-bootstrap itself speaks IMDSv2, so set "required" once your Titus does too.
  EOT

  validation {
    condition     = contains(["optional", "required"], var.titus_http_tokens)
    error_message = "Either optional or required."
  }
}
