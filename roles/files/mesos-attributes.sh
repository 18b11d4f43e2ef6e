#!/bin/bash
# Written by titus-bootstrap. Prints the line of /etc/mesos-agent.config that says what this agent is.
attributes=(
{% for attribute in titus.attributes %}
    {{ attribute }}
{% endfor %}
)
IFS=';'
printf 'MESOS_ATTRIBUTES="%s"\n' "${attributes[*]}"
