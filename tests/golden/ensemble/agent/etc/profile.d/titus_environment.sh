#!/bin/bash
export METATRON_ENABLED=false
export TITUS_LOG_BUCKET=logs
export TITUS_REGISTRY=docker.io
export NETFLIX_ACCOUNT=no-one
export EC2_LOCAL_IPV4=10.20.30.40
