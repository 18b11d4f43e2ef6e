#!/bin/bash
# Written by titus-bootstrap. Prints the line of /etc/mesos-agent.config that says what this agent is.
attributes=(
    region:eu-west-1
    zone:eu-west-1a
    id:i-0123456789abcdef0
    asg:titusagent
    stack:mainvpc
    itype:m4.large
    'ports:[7150-7200]'
    res:ResourceSet-ENIs-2-10
)
IFS=';'
printf 'MESOS_ATTRIBUTES="%s"\n' "${attributes[*]}"
