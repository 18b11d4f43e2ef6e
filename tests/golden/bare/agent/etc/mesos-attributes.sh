#!/bin/bash
# Written by titus-bootstrap. Prints the line of /etc/mesos-agent.config that says what this agent is.
attributes=(
    region:eu-central-1
    zone:eu-central-1b
    id:i-12345678
    asg:agents
    stack:mainvpc
    itype:r4.8xlarge
    'ports:[7150-7200]'
    res:ResourceSet-ENIs-8-30
)
IFS=';'
printf 'MESOS_ATTRIBUTES="%s"\n' "${attributes[*]}"
