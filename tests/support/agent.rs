//! The files that the proof of concept's agent script writes, and those that replace them.

/// The line of attributes.
pub const ATTRIBUTES: &str = "MESOS_ATTRIBUTES=\"region:eu-west-1;zone:eu-west-1a;id:i-0123456789abcdef0;asg:titusagent;\
                          stack:mainvpc;itype:m4.large;ports:[7150-7200];res:ResourceSet-ENIs-2-10\"\n";

/// The drop-in of a unit that waits for a run.
const READY: &[&str] = &["[Unit]", "ConditionPathExists=/run/titus-bootstrap/ready"];

/// Every file: its mode, and its lines without comments. docs/migration.md explains the differences from the scripts.
pub const FILES: [(&str, u32, &[&str]); 24] = [
    ("/etc/titus-shared.env", 0o644, &["SHORT_CIRCUIT_QUITELITE=true"]),
    ("/etc/disable-atlas-titus-agent", 0o644, &[]),
    ("/etc/tmpfiles.d/titus-bootstrap.conf", 0o644, &["f /run/titus.env 0644 root root -"]),
    (
        "/etc/systemd/system/docker.service.d/10-docker-config.conf",
        0o644,
        &[
            "[Service]",
            "ExecStart=",
            "ExecStart=/usr/bin/dockerd --log-level=info -H fd:// --init-path=/apps/titus-executor/bin/tini-static \
             --iptables=false --storage-driver=overlay2",
            "Environment=DOCKER_MIN_API_VERSION=1.24",
            "Restart=always",
            "StartLimitInterval=0",
            "RestartSec=5",
        ],
    ),
    (
        "/lib/systemd/system/docker-tcp-proxy.service",
        0o644,
        &[
            "[Unit]",
            "Description=Docker Unix Socket TCP Proxy",
            "Requires=docker.socket docker-tcp-proxy.socket",
            "After=docker.socket docker-tcp-proxy.socket",
            "[Service]",
            "ExecStart=/lib/systemd/systemd-socket-proxyd /var/run/docker.sock",
            "[Install]",
            "WantedBy=multi-user.target",
        ],
    ),
    (
        "/lib/systemd/system/docker-tcp-proxy.socket",
        0o644,
        &[
            "[Unit]",
            "Requires=docker.socket",
            "After=docker.socket",
            "[Socket]",
            "ListenStream=127.0.0.1:4243",
            "[Install]",
            "WantedBy=sockets.target",
        ],
    ),
    (
        "/lib/systemd/system/mesos-agent.service",
        0o644,
        &[
            "[Unit]",
            "Description=Mesos",
            "Wants=docker.service",
            "After=docker.service",
            "Conflicts=halt.target shutdown.target sigpwr.target",
            "[Service]",
            "ExecStartPre=/bin/mkdir -p /var/lib/mesos",
            "EnvironmentFile=/etc/mesos-agent.config",
            "ExecStart=/usr/sbin/mesos-agent",
            "ExecStopPost=/bin/rm -rf /var/lib/mesos/meta/slaves/latest",
            "Restart=always",
            "StartLimitInterval=0",
            "RestartSec=5",
            "LimitNOFILE=65535",
            "KillMode=mixed",
            "KillSignal=SIGUSR1",
            "[Install]",
            "WantedBy=multi-user.target",
        ],
    ),
    ("/etc/systemd/system/titus-setup-networking.timer.d/10-titus-bootstrap.conf", 0o644, READY),
    ("/etc/systemd/system/titus-reaper.service.d/10-titus-bootstrap.conf", 0o644, READY),
    ("/etc/systemd/system/titus-darion.service.d/10-titus-bootstrap.conf", 0o644, READY),
    ("/etc/systemd/system/titus-launchguard.service.d/10-titus-bootstrap.conf", 0o644, READY),
    ("/etc/systemd/system/titus-vpc-gc.timer.d/10-titus-bootstrap.conf", 0o644, READY),
    ("/etc/systemd/system/mesos-agent.service.d/10-titus-bootstrap.conf", 0o644, READY),
    (
        "/etc/profile.d/titus_environment.sh",
        0o755,
        &[
            "export METATRON_ENABLED=false",
            "export TITUS_LOG_BUCKET=titus-log-bucket-terraform-example",
            "export TITUS_REGISTRY=docker.io",
            "export NETFLIX_ACCOUNT=no-one",
            "export EC2_LOCAL_IPV4=30.0.100.140",
        ],
    ),
    (
        "/etc/titus-executor/config.sh",
        0o644,
        &[
            "export SHORT_CIRCUIT_QUITELITE=true",
            "export NETFLIX_STACK=mainvpc",
            "export EC2_INSTANCE_ID=i-0123456789abcdef0",
            "export EC2_REGION=eu-west-1",
            "export EC2_AVAILABILITY_ZONE=eu-west-1a",
            "export EC2_OWNER_ID=123456789012",
            "export EC2_VPC_ID=vpc-0123456789abcdef0",
            "export EC2_RESERVATION_ID=r-0123456789abcdef0",
        ],
    ),
    (
        "/etc/mesos-attributes.sh",
        0o755,
        &[
            "attributes=(",
            "region:eu-west-1",
            "zone:eu-west-1a",
            "id:i-0123456789abcdef0",
            "asg:titusagent",
            "stack:mainvpc",
            "itype:m4.large",
            "'ports:[7150-7200]'",
            "res:ResourceSet-ENIs-2-10",
            ")",
            "IFS=';'",
            "printf 'MESOS_ATTRIBUTES=\"%s\"\\n' \"${attributes[*]}\"",
        ],
    ),
    (
        "/etc/mesos-agent.config",
        0o644,
        &[
            "MESOS_MASTER=zk://30.0.100.194:2181/titus/mainvpc/mesos",
            "MESOS_PORT=5051",
            "MESOS_IP=30.0.100.140",
            "MESOS_HOSTNAME=30.0.100.140",
            "MESOS_RECOVER=reconnect",
            "MESOS_WORK_DIR=/var/lib/mesos",
            "MESOS_STRICT=false",
            "MESOS_RESOURCES=mem:6912;disk:20480;network:450",
            ATTRIBUTES.trim_ascii_end(),
        ],
    ),
    ("/etc/systemd/network/10-ens3.network", 0o644, &primary_network("Name=ens3")),
    ("/etc/systemd/network/10-eth0.network", 0o644, &primary_network("Name=eth0")),
    ("/etc/systemd/network/05-titus-primary.network", 0o644, &primary_network("MACAddress=0a:1b:2c:3d:4e:5f")),
    (
        "/etc/systemd/network/20-else.network",
        0o644,
        &[
            "[Match]",
            "Name=eth* ens*",
            "[Link]",
            "RequiredForOnline=no",
            "[Network]",
            "DHCP=ipv4",
            "ConfigureWithoutCarrier=true",
            "[DHCP]",
            "RouteMetric=100",
            "UseDNS=no",
            "UseRoutes=no",
        ],
    ),
    (
        "/etc/default/grub.d/90-titus-bootstrap.cfg",
        0o644,
        &["GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX net.ifnames=0\""],
    ),
    ("/metatron", 0o644, &[]),
    ("/etc/titus-executor/config.json", 0o644, &[]),
];

/// A .network file of the primary interface.
const fn primary_network(matched: &str) -> [&str; 8] {
    [
        "[Match]",
        matched,
        "[Network]",
        "DHCP=ipv4",
        "ConfigureWithoutCarrier=true",
        "[DHCP]",
        "RouteMetric=10",
        "UseDomains=yes",
    ]
}
