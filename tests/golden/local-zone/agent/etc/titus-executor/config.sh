# Written by titus-bootstrap. titus-executor's start script sources this file.
# Mesos gives an executor a clean environment: titus-shared.env does not reach it.
export SHORT_CIRCUIT_QUITELITE=true
export NETFLIX_STACK=blue
export NETFLIX_ENVIRONMENT=test
export EC2_INSTANCE_ID=i-0fedcba9876543210
export EC2_REGION=us-west-2
export EC2_AVAILABILITY_ZONE=us-west-2-lax-1a
export EC2_OWNER_ID=210987654321
export EC2_VPC_ID=vpc-0fedcba9876543210
export EC2_RESERVATION_ID=r-0fedcba9876543210
export TEAM=media
export note_1='it'\''s $HOME; \ "x"'
