output "bastion_ip" {
  value       = aws_instance.bastion.public_ip
  description = "The only node that can be reached from outside."
}

output "prereqs_ip" {
  value       = aws_instance.prereqs.private_ip
  description = "ZooKeeper and the Mesos master."
}

output "master_ip" {
  value       = aws_instance.master.private_ip
  description = "The Titus master."
}

output "gateway_ip" {
  value       = aws_instance.gateway.private_ip
  description = "The Titus gateway, whose API jobs are sent to."
}

output "default_role_arn" {
  value       = aws_iam_role.app["titusappwiths3InstanceProfile"].arn
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
