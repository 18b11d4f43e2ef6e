# Written by titus-bootstrap. titus-executor's start script sources this file.
# Mesos gives an executor a clean environment: titus-shared.env does not reach it.
export SHORT_CIRCUIT_QUITELITE=true
export NETFLIX_STACK=mainvpc
export EC2_INSTANCE_ID=i-0123456789abcdef0
export EC2_REGION=eu-west-1
export EC2_AVAILABILITY_ZONE=eu-west-1a
export EC2_OWNER_ID=123456789012
export EC2_VPC_ID=vpc-0123456789abcdef0
export EC2_RESERVATION_ID=r-0123456789abcdef0
