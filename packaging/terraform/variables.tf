terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.40"
    }
  }
}

variable "public_key" {
  type        = string
  default     = "~/.ssh/id_rsa.pub"
  description = "File with the SSH public key that opens all nodes."
}

variable "trusted_cidr" {
  type        = string
  description = "From where the bastion may be reached, as in 203.0.113.7/32. No default: an open bastion should be nobody's accident."

  validation {
    condition     = can(cidrhost(var.trusted_cidr, 0))
    error_message = "This is no CIDR block; your own address is one with /32 behind it."
  }
}

variable "agent_asg_name" {
  type        = string
  default     = "titusagent"
  description = "Name of the agents' Auto Scaling group; in Titus, of their instance group."
}

variable "s3_log_bucket_name" {
  type        = string
  default     = "titus-log-bucket-terraform-example"
  description = "Bucket for the tasks' logs. Names are unique among all accounts, so choose your own."
}

variable "image_name" {
  type        = string
  default     = "titus-*"
  description = "The nodes start from your newest AMI of this name. It must be baked for all four roles; see ../packer."
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
