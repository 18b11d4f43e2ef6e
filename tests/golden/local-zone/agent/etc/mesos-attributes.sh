#!/bin/bash
# Written by titus-bootstrap. Prints the line of /etc/mesos-agent.config that says what this agent is.
attributes=(
    region:us-west-2
    zone:us-west-2-lax-1a
    id:i-0fedcba9876543210
    asg:titus-agents-lax
    stack:blue
    itype:m5.xlarge
    'ports:[7150-7300]'
    res:ResourceSet-ENIs-3-15
    cluster:batch
    distcodename:bookworm
    distrelease:12
)
IFS=';'
printf 'MESOS_ATTRIBUTES="%s"\n' "${attributes[*]}"
