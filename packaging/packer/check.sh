#!/bin/bash
# Packer runs this first on the builder. It refuses settings that a run would refuse, before it installs anything.
set -euo pipefail

rm -f "$0"
cd /var/tmp
# Not /tmp, because a container that boots may mount another one over it.
program=$(mktemp --directory --tmpdir=/var/tmp)
trap 'rm -rf "$program"' EXIT
dpkg-deb --fsys-tarfile titus-bootstrap.deb | tar -x -C "$program" ./usr/bin/titus-bootstrap
# Made-up values for what an instance gets from its tags and user data; the check covers all that the image sets.
given=(
    --set prereqs=192.0.2.1
    --set master.address=192.0.2.2
    --set master.default_iam_role=arn:aws:iam::123456789012:role/any
    --set master.default_security_groups=sg-0123456789abcdef0
    --set agent.log_bucket=any
)
read -ra each <<< "$ROLES"
"$program/usr/bin/titus-bootstrap" check ./titus-bootstrap.toml "${each[@]/#/--role=}" "${given[@]}"
