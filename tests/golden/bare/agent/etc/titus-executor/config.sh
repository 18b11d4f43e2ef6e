# Written by titus-bootstrap. titus-executor's start script sources this file.
# Mesos gives an executor a clean environment: titus-shared.env does not reach it.
export SHORT_CIRCUIT_QUITELITE=true
export NETFLIX_STACK=mainvpc
export EC2_INSTANCE_ID=i-12345678
export EC2_REGION=eu-central-1
export EC2_AVAILABILITY_ZONE=eu-central-1b
