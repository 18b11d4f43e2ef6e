#!/bin/bash
# Leaves a node as the proof of concept's cloud-init leaves it after two boots from the
# same image: its files, its packages, its units, and every appended line twice.
set -eu
export DEBIAN_FRONTEND=noninteractive

# Its apt source, with a key that is trusted for every source.
cp /srv/repo/key.asc /etc/apt/trusted.gpg.d/docker.asc
echo 'deb [arch=amd64] file:/srv/repo test main' > /etc/apt/sources.list.d/docker.list
apt-get update > /dev/null
apt-get install --yes --no-install-recommends docker.io mesos titus-executor > /dev/null

echo SHORT_CIRCUIT_QUITELITE=true > /etc/titus-shared.env
: > /etc/disable-atlas-titus-agent
mkdir -p /etc/systemd/system/docker.service.d /etc/titus-executor /etc/systemd/network
cat > /etc/systemd/system/docker.service.d/10-docker-config.conf <<'EOF'
[Service]
ExecStart=
ExecStart=/usr/sbin/dockerd --log-level=debug -H fd:// --init-path=/apps/titus-executor/bin/tini-static --iptables=false --storage-driver=overlay2
Restart=always
StartLimitInterval=0
RestartSec=5
EOF
cat > /lib/systemd/system/docker-tcp-proxy.service <<'EOF'
[Unit]
Description=Docker Unix Socket TCP Proxy
Requires=docker.socket
Requires=docker-tcp-proxy.socket
After=docker.socket
After=docker-tcp-proxy.socket

[Service]
ExecStart=/lib/systemd/systemd-socket-proxyd /var/run/docker.sock

[Install]
WantedBy=multi-user.target
EOF
cat > /lib/systemd/system/docker-tcp-proxy.socket <<'EOF'
[Unit]
Requires=docker.socket
After=docker.socket

[Socket]
ListenStream=0.0.0.0:4243

[Install]
WantedBy=sockets.target
EOF
cat > /lib/systemd/system/mesos-agent.service <<'EOF'
# /lib/systemd/system/mesos-agent.service
[Unit]
Description=Mesos
Wants=docker.service
After=docker.service
Conflicts=halt.target shutdown.target sigpwr.target

[Service]
ExecStartPre=/bin/mkdir -p /var/lib/mesos
EnvironmentFile=/etc/mesos-agent.config
ExecStart=/usr/sbin/mesos-agent
ExecStopPost=/bin/rm -rf /var/lib/mesos/meta/slaves/latest
Restart=always
StartLimitInterval=0
RestartSec=5
LimitNOFILE=65535
KillMode=mixed
KillSignal=SIGUSR1

[Install]
WantedBy=multi-user.target
EOF
cat > /etc/profile.d/titus_environment.sh <<'EOF'
#!/bin/bash -x
export METATRON_ENABLED=false
export TITUS_LOG_BUCKET=titus-log-bucket-terraform-example
export TITUS_REGISTRY=docker.io
export NETFLIX_ACCOUNT=no-one
export EC2_LOCAL_IPV4=$(hostname --ip-address)
EOF
cat > /etc/mesos-attributes.sh <<'EOF'
#!/bin/bash -x

set -eu -o pipefail

AZ=$(curl http://169.254.169.254/latest/meta-data/placement/availability-zone)
REGION=${AZ::-1}
ATTRIB="region:${REGION};zone:${AZ}"
echo MESOS_ATTRIBUTES=\"${ATTRIB}\"
EOF
chmod 0755 /etc/profile.d/titus_environment.sh /etc/mesos-attributes.sh
network() {
    printf '[Match]\nName=%s\n\n[Network]\nDHCP=ipv4\nConfigureWithoutCarrier=true\n\n[DHCP]\n' "$1"
    shift
    printf '%s\n' "$@"
}
network ens3 RouteMetric=10 UseDomains=yes > /etc/systemd/network/10-ens3.network
network eth0 RouteMetric=10 UseDomains=yes > /etc/systemd/network/10-eth0.network
network '*' RouteMetric=100 UseDNS=no UseRoutes=no > /etc/systemd/network/20-else.network
# The first boot was killed while it wrote this one.
: > /etc/titus-executor/config.json

systemctl stop mesos-slave mesos-master
rm -f /lib/systemd/system/mesos-slave.service /lib/systemd/system/mesos-master.service
# Only this role's doings are compared, and the scripts had these started.
rm -rf /var/lib/mesos-standin
systemctl --quiet enable systemd-networkd docker-tcp-proxy
for _ in first second; do
    echo 'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyS0 net.ifnames=0"' >> /etc/default/grub.d/50-cloudimg-settings.cfg
    {
        echo MESOS_MASTER=zk://30.0.100.194:2181/titus/mainvpc/mesos
        echo MESOS_PORT=5051
        echo MESOS_RECOVER=reconnect
        echo MESOS_WORK_DIR=/var/lib/mesos
        echo MESOS_STRICT=false
        echo 'MESOS_RESOURCES=mem:8000;disk:8000;network:9000'
        echo 'MESOS_ATTRIBUTES="region:eu-west-1;zone:eu-west-1a;id:i-0aaaaaaaaaaaaaaaa;asg:titusagent;stack:mainvpc;itype:m4.large;ports:[7150-7200];res:ResourceSet-ENIs-2-10"'
    } >> /etc/mesos-agent.config
done
update-grub
mkdir -p /var/lib/titus-container-logs
systemctl --quiet enable mesos-agent
touch /metatron
gpasswd -a ubuntu docker > /dev/null

# And the reboot that ends the scripts.
systemctl daemon-reload
systemctl restart docker.service docker-tcp-proxy.socket mesos-agent.service
