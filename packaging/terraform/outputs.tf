output "bastion_ip" {
  value       = one(aws_instance.bastion[*].public_ip)
  description = "The only node that can be reached from outside; none with session_manager."
}

output "prereqs_ips" {
  value       = aws_instance.prereqs[*].private_ip
  description = "ZooKeeper and the Mesos master; the same after a node was replaced."
}

output "master_ip" {
  value       = aws_instance.master.private_ip
  description = "The Titus master."
}

output "gateway_ip" {
  value       = aws_instance.gateway.private_ip
  description = "The Titus gateway, whose API jobs are sent to."
}

output "instance_ids" {
  value = merge(
    { for place, instance in aws_instance.prereqs : "prereqs-${place}" => instance.id },
    { master = aws_instance.master.id, gateway = aws_instance.gateway.id }
  )
  description = "For Session Manager. Agents belong to their Auto Scaling group."
}

output "default_role_arn" {
  value       = aws_iam_role.app["appwiths3"].arn
  description = "The role that a job gets if it names none."
}

output "default_sg_id" {
  value       = aws_security_group.titus["app"].id
  description = "The security group that a job gets if it names none."
}

output "agent_asg_name" {
  value       = aws_autoscaling_group.agent.name
  description = "The agents' Auto Scaling group, and Titus's name for it."
}

output "vpc_id" {
  value       = aws_vpc.titus.id
  description = "The VPC in which all of it is."
}
