# Packer 1.7 and later get their builders as plugins: `packer init packaging/packer`. Debian's
# 1.6.6 has them built in and rejects this block, so give it titus.pkr.hcl alone.
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.0"
    }
    docker = {
      source  = "github.com/hashicorp/docker"
      version = ">= 1.0.0"
    }
  }
}
