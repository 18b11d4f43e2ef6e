# Written by titus-bootstrap. titus-executor's start script sources this file.
# Mesos gives an executor a clean environment: titus-shared.env does not reach it.
export SHORT_CIRCUIT_QUITELITE=true
export NETFLIX_STACK={{ stack }}
{% if agent.environment is defined %}
export NETFLIX_ENVIRONMENT={{ agent.environment }}
{% endif %}
export EC2_INSTANCE_ID={{ instance.id }}
export EC2_REGION={{ instance.region }}
export EC2_AVAILABILITY_ZONE={{ instance.zone }}
{% if instance.account_id is defined %}
export EC2_OWNER_ID={{ instance.account_id }}
{% endif %}
{% if instance.vpc_id is defined %}
export EC2_VPC_ID={{ instance.vpc_id }}
{% endif %}
{% if instance.reservation_id is defined %}
export EC2_RESERVATION_ID={{ instance.reservation_id }}
{% endif %}
{% for name, value in agent.labels | items %}
export {{ name }}={{ value }}
{% endfor %}
