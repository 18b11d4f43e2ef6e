#!/bin/bash
# Packer runs this on the builder. It makes an image of the roles in ROLES, and seals it.
set -euo pipefail

# On EC2 Packer logs in as a user with sudo rights.
[ "$(id -u)" = 0 ] || exec sudo ROLES="$ROLES" bash "$0"
# No file of Packer may be left when `seal` runs.
rm -f "$0"
cd /var/tmp

# On EC2 cloud-init may still be at work; in a container systemd has only just begun.
state=
for ((left = 300; left > 0; left--)); do
    state=$(systemctl is-system-running 2>&1) || true
    case $state in running | degraded) break ;; esac
    sleep 1
done
[ "$left" -gt 0 ] || { echo "the builder did not boot in 5 min: $state" >&2; exit 1; }

# apt waits for other package managers, because a new machine may run some.
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
    -o DPkg::Lock::Timeout=900 -o Dpkg::Options::=--force-confold ./titus-bootstrap.deb
# Only root may read it: a proxy in it may have a password.
install -D -m 0600 titus-bootstrap.toml /etc/titus-bootstrap/config.toml
rm -f titus-bootstrap.deb titus-bootstrap.toml

read -ra each <<< "$ROLES"
titus-bootstrap apply --phase bake "${each[@]/#/--role=}"
# The last command removes what a builder leaves, and fails if something remains.
titus-bootstrap seal
