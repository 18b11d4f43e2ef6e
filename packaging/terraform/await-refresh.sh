#!/bin/bash
# Waits until the last instance refresh of an Auto Scaling group has ended, and fails if the refresh failed. ec2.tf
# runs this. A group without a refresh is new, with its agents in service.
#
#   await-refresh.sh GROUP REGION
set -euo pipefail

command -v aws > /dev/null || {
    echo "The AWS CLI is missing, so nothing says whether the agents of $1 are replaced. Install it, or set await_refresh = false." >&2
    exit 1
}
while :; do
    IFS=$'\t' read -r status percent reason < <(
        aws autoscaling describe-instance-refreshes --auto-scaling-group-name "$1" --region "$2" --max-records 1 \
            --query 'InstanceRefreshes[0].[Status, PercentageComplete, StatusReason]' --output text
    ) || { echo "The instance refresh of $1 cannot be asked for; see above." >&2; exit 1; }
    case $status in
    None | Successful) exit 0 ;;
    Pending | InProgress | Baking | Cancelling)
        echo "The agents of $1 are being replaced: $status, ${percent/None/0} % so far"
        sleep "${AWAIT_REFRESH_INTERVAL:-15}"
        ;;
    *)
        echo "The agents of $1 were not replaced: $status. ${reason/#None/}" >&2
        echo "On an agent that failed, \`titus-bootstrap status\` says why, and so does its system log in EC2." >&2
        exit 1
        ;;
    esac
done
