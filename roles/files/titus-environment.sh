#!/bin/bash
export METATRON_ENABLED=false
export TITUS_LOG_BUCKET={{ agent.log_bucket }}
export TITUS_REGISTRY={{ agent.registry }}
export NETFLIX_ACCOUNT={{ agent.account }}
export EC2_LOCAL_IPV4={{ instance.local_ipv4 }}
