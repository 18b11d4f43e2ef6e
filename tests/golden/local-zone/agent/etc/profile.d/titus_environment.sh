#!/bin/bash
export METATRON_ENABLED=false
export TITUS_LOG_BUCKET=titus-logs.lax
export TITUS_REGISTRY=registry.titus.internal:5000
export NETFLIX_ACCOUNT=210987654321
export EC2_LOCAL_IPV4=10.20.30.40
