#!/bin/bash
# Written by titus-bootstrap. Prints the line of /etc/mesos-agent.config that says what this agent is.
attributes=(
    region:us-west-2
    zone:us-west-2-lax-1a
    id:i-0fedcba9876543210
    asg:agents
    stack:mainvpc
    itype:m5.xlarge
    'ports:[7150-7200]'
    res:ResourceSet-ENIs-4-15
)
IFS=';'
printf 'MESOS_ATTRIBUTES="%s"\n' "${attributes[*]}"
