//! Failures as a person on call sees them: the first ten lines of `status` and of the boot unit's errors have the cause and
//! the fix, docs/troubleshooting.md shows them as they are, and the fix leads to a converged node. Where a failure is one at a
//! deadline, that is short here.

use crate::harness::agent::{self, SETTINGS};
use crate::harness::deb::install;
use crate::harness::debs::{Deb, PLAIN};
use crate::harness::image;
use crate::harness::node::Node;
use crate::harness::prereqs;
use crate::harness::registry::{self, Registry};
use crate::harness::wait_for;
use crate::support::troubleshooting::shows;

const UNIT: &str = "titus-bootstrap";
const ERRORS: &str = "journalctl -p err -b -u titus-bootstrap";

/// An operator's drop-in of the agent's role.
const DROP_IN: &str = "/etc/titus-bootstrap/roles/agent.d/50-audit.toml";

/// The script that writes it, with one step.
fn drop_in(place: &str, work: &str) -> String {
    let step = format!("[[step]]\nid = 'audit'\nphase = 'boot'\n{place}\n{work}\n");
    format!("mkdir -p $(dirname {DROP_IN}); cat > {DROP_IN} << 'END'\n{step}END\n")
}

/// A node on which the test causes failures, one after the other.
struct Ward<'a> {
    node: &'a Node,
    /// Its settings when it is well.
    settings: String,
}

impl<'a> Ward<'a> {
    fn new(node: &'a Node) -> Ward<'a> {
        let ward = Ward { node, settings: node.read(SETTINGS) };
        ward.run(0);
        ward
    }

    /// A run of the boot unit.
    #[track_caller]
    fn run(&self, code: i32) {
        // These are more starts than systemd allows in so short a time, and after a 75 there would be another.
        self.node.shell(&format!("systemctl stop titus-bootstrap-retry.timer; systemctl reset-failed {UNIT} || true"));
        let run = self.node.run(&["systemctl", "start", UNIT]);
        let said = || self.node.shell(&format!("journalctl --boot --unit {UNIT} --output cat --lines 80 --no-pager"));
        assert!(run.code == code, "the boot unit ended with {}:\n{}", run.code, said());
    }

    /// Makes a failure, and looks at what a person would see; `words`: its cause and its fix.
    #[track_caller]
    fn sees(&self, heading: &str, words: &[&str], make: impl FnOnce()) {
        let now = self.node.shell("date +%s.%6N");
        make();
        let status = self.node.bootstrap(&["status"]).out;
        let errors = self.node.shell(&format!("journalctl --sync; {ERRORS} --no-pager --since @{now}"));
        shows(heading, words, &[("titus-bootstrap status", &status), (ERRORS, &errors)]);
    }

    /// The same where no run failed: what `status` says of the node after `make`, a script. A run makes it good.
    #[track_caller]
    fn drifts(&self, heading: &str, make: &str, words: &[&str]) {
        self.node.shell(make);
        let status = self.node.bootstrap(&["status"]).ends_with(1).out;
        shows(heading, words, &[("titus-bootstrap status", &status)]);
        self.run(0);
    }

    /// The same of a run that fails after `make`, a script; after `fix`, another one, the next run converges.
    #[track_caller]
    fn fails(&self, heading: &str, make: &str, words: &[&str], fix: &str) {
        self.fails_within("", heading, make, words, fix);
    }

    /// The same, with a deadline: `unit = "6s"`.
    #[track_caller]
    fn fails_within(&self, timeout: &str, heading: &str, make: &str, words: &[&str], fix: &str) {
        self.sees(heading, words, || {
            self.node.write(SETTINGS, &self.within(timeout));
            self.node.shell(make);
            self.run(1);
        });
        self.node.shell(fix);
        self.node.write(SETTINGS, &self.settings);
        self.run(0);
    }

    /// Its settings with a deadline.
    fn within(&self, timeout: &str) -> String {
        if timeout.is_empty() { self.settings.clone() } else { format!("timeouts.{timeout}\n{}", self.settings) }
    }

    /// The same of settings that `change` makes of those of a node that is well.
    #[track_caller]
    fn misset(&self, heading: &str, change: impl FnOnce(&str) -> String, words: &[&str]) {
        let changed = change(&self.settings);
        assert_ne!(changed, self.settings);
        self.node.write(SETTINGS, &changed);
        self.sees(heading, words, || self.run(1));
        self.node.write(SETTINGS, &self.settings);
        self.run(0);
    }
}

/// An agent that a run made, with the deb and its boot unit.
fn agent_node() -> Node {
    let mut node = Node::off_without_program(&image::converged().image, None);
    // It would run a minute after the boot, when a test may be refusing it the metadata.
    node.put(
        "/etc/systemd/system/titus-vpc-gc.timer.d/50-test.conf",
        0o644,
        "[Timer]\nOnBootSec=\nOnUnitActiveSec=\nOnBootSec=1d\n",
    );
    node.switch_on();
    node.await_network();
    install(&node);
    agent::settings_with(&node, "titus-log-bucket-terraform-example", "reboot = \"never\"");
    node
}

#[test]
fn an_agent_in_trouble() {
    let node = agent_node();
    let services = agent::services(&node);
    node.await_boot();
    let ward = Ward::new(&node);
    services_in_trouble(&ward);
    packages_in_trouble(&ward);

    // What the metadata service says.
    let metadata = &services.metadata;
    let tag = "meta-data/tags/instance/titus:role";
    metadata.set(tag, Some(b"agnet".to_vec()));
    ward.sees("The tag names an unknown role", &["agnet", "fix:"], || ward.run(1));
    metadata.set(tag, Some(b"agent".to_vec()));
    metadata.set("meta-data/instance-type", Some(b"t2.large".to_vec()));
    ward.sees("An instance type that cannot be an agent", &["t2.large", "fix:"], || ward.run(1));
    metadata.set("meta-data/instance-type", Some(b"m4.large".to_vec()));
    metadata.require_tokens(true);
    ward.run(0);
    shows(
        "The instance demands IMDSv2",
        &["IMDSv2", "--http-tokens optional"],
        &[("titus-bootstrap status", &node.bootstrap(&["status"]).out)],
    );
    metadata.require_tokens(false);

    // What the timer writes of a node that is well.
    node.shell("systemctl start titus-bootstrap-drift");
    let metrics = node.read("/var/lib/prometheus/node-exporter/titus-bootstrap.prom");
    for line in ["last_run_success 1", "status_success 1", "drifted_steps 0"] {
        assert!(metrics.contains(&format!("titus_bootstrap_{line}\n")), "{metrics}");
    }
    assert_eq!(node.run(&["systemctl", "is-enabled", "titus-bootstrap-drift.timer"]).out, "disabled\n");

    node.shell("systemctl mask titus-bootstrap; cp /run/titus-bootstrap/status.json /root/; rm /run/titus-bootstrap/status.json");
    let masked = node.bootstrap(&["status"]).out;
    shows(
        "Nothing ran at boot",
        &["no run since this boot", "titus-bootstrap.service is masked", "systemctl unmask titus-bootstrap"],
        &[("titus-bootstrap status", &masked)],
    );
    node.shell("systemctl unmask titus-bootstrap; cp /root/status.json /run/titus-bootstrap/");
    drop(services);
    node.write(SETTINGS, &ward.within("facts = \"2s\""));
    ward.sees("The metadata service is off", &["169.254.169.254", "fix:"], || ward.run(1));
}

fn services_in_trouble(ward: &Ward) {
    let agent = "/usr/sbin/mesos-agent";
    let broken = |script: &str| {
        format!("cp {agent} /root/mesos-agent; systemctl stop mesos-agent; printf '#!/bin/sh\\n{script}\\n' > {agent}")
    };
    let whole = format!("systemctl stop mesos-agent; cp /root/mesos-agent {agent}");
    // systemd starts it again long after the deadline, and the run finds it when it has ended once, however fast this machine is.
    let ended = "systemctl start mesos-agent
        until [ \"$(systemctl show --value --property=SubState mesos-agent)\" = auto-restart ]; do sleep 0.1; done";
    let slow = "/etc/systemd/system/mesos-agent.service.d/50-mine.conf";
    ward.node.write(slow, "[Service]\nRestartSec=60\n");
    ward.node.shell("systemctl daemon-reload");
    ward.fails_within(
        "unit = \"6s\"",
        "The agent crash-loops",
        &format!("{}; {ended}", broken("echo no disk is left for me >&2; exit 7")),
        &["mesos-agent.service", "exit status 7", "no disk is left for me", "fix:"],
        &whole,
    );
    ward.fails_within(
        "wait = \"4s\"",
        "The agent runs, and does not answer",
        &broken("echo I listen to nobody; exec sleep infinity"),
        &["5051", "mesos-agent.service", "I listen to nobody", "fix:"],
        &whole,
    );
    ward.node.shell(&format!("rm {slow}; systemctl daemon-reload"));
    ward.fails_within(
        "unit = \"6s\"",
        "Docker does not start",
        "systemctl stop docker.service; echo '{\"debug\": maybe}' > /etc/docker/daemon.json",
        &["/etc/docker/daemon.json", "line 1, column", "fix:"],
        "rm /etc/docker/daemon.json",
    );
    ward.fails_within(
        "unit = \"6s\"",
        "A port is taken",
        "systemctl stop docker-tcp-proxy.socket docker-tcp-proxy.service
         systemd-run --quiet --unit other-port systemd-socket-activate --accept --listen 127.0.0.1:4243 /bin/cat
         until grep -q ' 0100007F:1093 00000000:0000 0A ' /proc/net/tcp; do sleep 0.1; done",
        &["4243", "fix:"],
        "systemctl stop other-port",
    );
    ward.fails(
        "A drop-in of somebody else",
        "mkdir -p /etc/systemd/system/docker.service.d
         printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/dockerd -H tcp://0.0.0.0:2375\\n' \
         > /etc/systemd/system/docker.service.d/override.conf",
        &["override.conf:3", "fix:"],
        "rm /etc/systemd/system/docker.service.d/override.conf",
    );
    ward.fails(
        "A unit of somebody else",
        "printf '[Service]\\nExecStart=/bin/sleep 1000\\n' > /etc/systemd/system/mesos-agent.service",
        &["/etc/systemd/system/mesos-agent.service", "fix:"],
        "rm /etc/systemd/system/mesos-agent.service",
    );
    ward.fails(
        "A full disk",
        "mkdir -p /etc/titus-executor; mount -t tmpfs -o size=4k,mode=0755 tmpfs /etc/titus-executor
         head -c 4096 /dev/zero > /etc/titus-executor/large",
        &["No space left", "/etc/titus-executor", "fix:"],
        "umount /etc/titus-executor",
    );
    ward.fails(
        "A read-only file system",
        "echo x >> /etc/titus-executor/config.json
         mount --bind /etc/titus-executor /etc/titus-executor; mount -o remount,bind,ro /etc/titus-executor",
        &["/etc/titus-executor", "read-only", "fix:"],
        "umount /etc/titus-executor",
    );
    ward.fails(
        "An immutable file",
        "echo x >> /etc/titus-shared.env; chattr +i /etc/titus-shared.env",
        &["/etc/titus-shared.env", "chattr -i /etc/titus-shared.env"],
        "chattr -i /etc/titus-shared.env",
    );
    ward.fails(
        "A directory in the place of a file",
        "mv /etc/titus-shared.env /root/; mkdir /etc/titus-shared.env",
        &["/etc/titus-shared.env", "fix:"],
        "rmdir /etc/titus-shared.env",
    );
    ward.fails(
        "Two lines of one group",
        "gpasswd --delete ubuntu docker; echo docker:x:4712: >> /etc/group",
        &["/etc/group", "docker:x:4712:", "fix:"],
        "sed -i '/^docker:x:4712:$/d' /etc/group",
    );
    let settings = &ward.settings;
    ward.misset(
        "A misspelt setting",
        |text| text.replace("log_bucket", "log_buket"),
        &["log_buket", "log_bucket", "fix:"],
    );
    ward.misset(
        "A setting with a wrong value",
        |text| format!("timeouts.wait = \"soon\"\n{text}"),
        &["soon", "timeouts.wait", "fix:"],
    );
    ward.misset("Settings that are not TOML", |text| text.replace("[agent]", "[agent"), &["config.toml", "fix:"]);
    ward.misset(
        "A required setting is missing",
        |text| text.replace("log_bucket = \"titus-log-bucket-terraform-example\"", ""),
        &["agent.log_bucket", "fix:"],
    );
    assert_eq!(&ward.node.read(SETTINGS), settings);
    ward.drifts(
        "Somebody masked a unit",
        "systemctl mask mesos-agent; systemctl stop mesos-agent",
        &["mesos-agent", "unmask"],
    );
    let command =
        "command = { check = ['false'], argv = ['sh', '-c', 'echo the audit server refused us >&2; exit 3'] }";
    ward.fails(
        "A step of an operator's drop-in fails",
        &drop_in("after = 'mesos-agent-port'", command),
        &["audit", "the audit server refused us", "fix:"],
        &format!("rm {DROP_IN}"),
    );
    ward.fails(
        "A mistake in a drop-in",
        &drop_in("after = 'mesos-port'", command),
        &[DROP_IN, "mesos-port", "fix:"],
        &format!("rm {DROP_IN}"),
    );
    killed_and_stopped(ward);
}

/// Runs that end before their end: killed, stopped, and kept out by another one.
fn killed_and_stopped(ward: &Ward) {
    let node = ward.node;
    let held = "/root/hold";
    node.shell(&format!("rm -f {held}; mkfifo {held}"));
    let hold =
        drop_in("after = 'mesos-agent-port'", &format!("command = {{ check = ['false'], argv = ['cat', '{held}'] }}"));
    let at_work = || {
        node.shell(&hold);
        node.shell("systemctl start --no-block titus-bootstrap");
        // Until systemd begins the start it shows the step of the run before.
        wait_for("the run to be at its step", || {
            let is_starting = node.property("titus-bootstrap.service", "ActiveState") == "activating";
            (is_starting && node.property("titus-bootstrap.service", "StatusText").contains("audit")).then_some(())
        });
        node.await_process("cat");
    };
    let status = || node.bootstrap(&["status"]).out;
    at_work();
    node.shell("systemctl kill --signal KILL titus-bootstrap");
    wait_for("its end", || (node.property("titus-bootstrap.service", "ActiveState") == "failed").then_some(()));
    shows("A run was killed", &["killed", "fix:"], &[("titus-bootstrap status", &status())]);
    ward.sees("Somebody stopped a run", &["cat /root/hold", "fix:"], || {
        at_work();
        node.shell("systemctl stop titus-bootstrap");
    });
    at_work();
    let second = node.bootstrap(&["apply"]).ends_with(75).err;
    let printed = [("titus-bootstrap apply", second.as_str()), ("titus-bootstrap status", &status())];
    shows("Another run is at work", &["process "], &printed);
    node.shell(&format!("systemctl kill --signal KILL titus-bootstrap; rm {DROP_IN}"));
    wait_for("its end", || (node.property("titus-bootstrap.service", "ActiveState") == "failed").then_some(()));
    ward.run(0);
}

fn packages_in_trouble(ward: &Ward) {
    let node = ward.node;
    let remove = "dpkg --remove titus-executor";
    node.shell(remove);
    let elsewhere = |text: &str| text.replace("file:/srv/repo", "http://127.0.0.1:9/debian");
    ward.misset("The package repository is down", elsewhere, &["127.0.0.1:9", "fix:"]);
    node.shell(remove);
    node.write("/root/other.asc", include_str!("../../data/key.asc"));
    ward.misset(
        "The repository is signed with another key",
        |text| text.replace("/srv/repo/key.asc", "/root/other.asc"),
        &["NO_PUBKEY", "fix:"],
    );
    ward.misset(
        "No source has the package",
        |text| text.replace("[packages]", "[packages]\nexecutor = [\"titus-executor-of-nobody\"]"),
        &["titus-executor-of-nobody", "fix:"],
    );
    ward.fails(
        "The clock is wrong",
        &format!("{remove}; echo 'Acquire::Max-FutureTime \"-1000000000\";' > /etc/apt/apt.conf.d/99clock"),
        &["not valid yet", "clock", "fix:"],
        "rm /etc/apt/apt.conf.d/99clock",
    );
    ward.fails(
        "Another source of packages is broken",
        &format!("{remove}; echo 'deb http://theirs.invalid' > /etc/apt/sources.list.d/theirs.list"),
        &["/etc/apt/sources.list.d/theirs.list", "fix:"],
        "rm /etc/apt/sources.list.d/theirs.list",
    );
    ward.fails(
        "A pin keeps a package away",
        &format!("{remove}; printf 'Package: titus-executor\\nPin: release *\\nPin-Priority: -1\\n' > /etc/apt/preferences.d/never"),
        &["titus-executor", "apt-cache policy", "fix:"],
        "rm /etc/apt/preferences.d/never",
    );
    ward.drifts(
        "dpkg was interrupted",
        "sed -i '/^Package: titus-executor$/,/^$/ s/^Status: .*/Status: install reinstreq half-installed/' /var/lib/dpkg/status",
        &["agent-packages", "titus-executor"],
    );
    let own = Deb { version: "0.0.2-1", control: "Depends: nobody-has-this\n", scripts: &[], ..PLAIN };
    own.put(node, "/root/own.deb");
    let purge = "dpkg --purge --force-remove-reinstreq titus-server-master";
    ward.fails(
        "A package of somebody else is broken",
        &format!("{remove}; dpkg --install /root/own.deb || true"),
        &["nobody-has-this", purge],
        purge,
    );
    let deb = format!("deb = {{ source = {{ path = '/root/own.deb', sha256 = '{}' }} }}", "0".repeat(64));
    ward.fails(
        "The checksum of a deb is wrong",
        &drop_in("after = 'mesos-agent-port'", &deb),
        &["/root/own.deb", "sha256", "fix:"],
        &format!("rm {DROP_IN}"),
    );
    // Another dpkg runs.
    node.shell(remove);
    let holder = node.spawn(&["sh", "-c", "exec dpkg --install /srv/repo/pool/slow-package_1_all.deb"]);
    wait_for("dpkg to be at work", || node.exists("/run/slow-package-started").then_some(()));
    ward.sees("Another dpkg holds its lock", &["dpkg --install", "fix:"], || {
        node.write(SETTINGS, &ward.within("apt_lock = \"2s\""));
        ward.run(1);
    });
    node.write(SETTINGS, &ward.settings);
    node.write("/run/slow-package-go", "");
    holder.end().ends_with(0);
    ward.run(0);
}

#[test]
fn a_prereqs_node_in_trouble() {
    let node = Node::without_program();
    install(&node);
    let mut services = prereqs::services(&node);
    prereqs::settings(&node, "reboot = \"never\"");
    let ward = Ward::new(&node);
    ward.fails(
        "A container's port is taken",
        "docker stop zookeeper
         systemd-run --quiet --unit other-port systemd-socket-activate --accept --listen 0.0.0.0:2181 /bin/cat
         until grep -q ' 00000000:0885 ' /proc/net/tcp; do sleep 0.1; done",
        &["port 2181", "fix:"],
        "systemctl stop other-port",
    );
    let direct = |text: &str| {
        let image = "[images]\nzookeeper = \"127.0.0.1:5000/jplock/zookeeper:nope\"\n";
        format!("timeouts.pull = \"4s\"\n{}", text.replace("[packages]", &format!("{image}[packages]")))
    };
    ward.misset("The registry does not have the image", direct, &["nope", "images.zookeeper", "fix:"]);
    services.registry = None;
    ward.misset("The registry is down", direct, &["127.0.0.1:5000", "fix:"]);
    services.registry = Some(Registry::serve_private(&node, registry::ADDRESS));
    ward.misset("The registry denies the pull", direct, &["fix:"]);
    services.registry = None;
}
