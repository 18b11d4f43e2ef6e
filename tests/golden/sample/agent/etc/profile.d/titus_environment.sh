#!/bin/bash
export METATRON_ENABLED=false
export TITUS_LOG_BUCKET=titus-log-bucket-terraform-example
export TITUS_REGISTRY=docker.io
export NETFLIX_ACCOUNT=no-one
export EC2_LOCAL_IPV4=30.0.100.140
