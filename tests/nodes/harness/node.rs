//! A node: a container with systemd as PID 1.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::disk::Disk;
use super::docker::{docker, label};
use super::image;
use super::machine;
use super::running::Running;
use super::services;
use super::{wait_for, wait_for_or};
use crate::support::outcome::Outcome;

/// Its own address, that of its metadata, on its only interface.
pub const ADDRESS: &str = "30.0.100.140";
/// The address of that interface's hardware.
pub const MAC: &str = "0a:1b:2c:3d:4e:5f";
/// The host of ZooKeeper and of the Mesos master: the node's loopback.
pub const PREREQS: &str = "30.0.100.194";

/// systemd, mounts, and a network; each is one that systemd or Docker needs.
const CAPABILITIES: [&str; 15] = [
    "SYS_ADMIN",
    "NET_ADMIN",
    "NET_RAW",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_MODULE",
    "DAC_READ_SEARCH",
    "MKNOD",
    "SYS_NICE",
    "SYS_TTY_CONFIG",
    "AUDIT_CONTROL",
    "LEASE",
    "SETFCAP",
    "SYSLOG",
    "IPC_LOCK",
];

/// A running node; dropped, it is removed.
pub struct Node {
    /// The container's id.
    pub id: String,
    /// Its PID 1, as this process sees it.
    pub init: i32,
    /// Its address, on its only interface.
    pub address: String,
}

/// How one variable of the state of a unit is called: `ActiveState`.
pub type Property<'a> = &'a str;

impl Node {
    /// A node on which nothing ever ran.
    pub fn fresh() -> Node {
        Node::start(&image::fresh().image, "eth0")
    }

    /// A node on which only Docker was installed.
    pub fn with_engine() -> Node {
        Node::start(&image::fresh().engine, "eth0")
    }

    /// The `n`-th of several nodes; a network has to join them.
    pub fn one_of_several(image: &str, n: usize) -> Node {
        let (address, mac) = place(n);
        Node::start_at(image, "eth0", &address, &mac)
    }

    /// A node that a run has made an agent, after a reboot and the first part of the boot unit: its files are
    /// those of this instance, and the agent that waited for them runs. It had metadata for a while to set up its
    /// network interfaces.
    pub fn converged() -> Node {
        let mut node = Node::off(&image::converged().image);
        node.switch_on();
        node.await_network();
        let _metadata = services::metadata(&node, services::items());
        node.await_boot();
        node.shell(
            "mkdir /run/titus-bootstrap; touch /run/titus-bootstrap/ready
             systemctl start mesos-agent titus-setup-networking.service titus-setup-networking.timer \
             titus-reaper titus-darion titus-launchguard titus-vpc-gc.timer",
        );
        // systemd reports it as started before it listens.
        wait_for("the agent", || services::listens(&node, &format!("{ADDRESS}:5051")).then_some(()));
        node
    }

    /// A node on which nothing ever ran and that lacks the program, so that its deb can be installed:
    /// dpkg cannot replace a file that is a mount.
    pub fn without_program() -> Node {
        let mut node = Node::off_without_program(&image::fresh().image, None);
        node.boot();
        node
    }

    /// A node from `image` that was never switched on and lacks the program: alone, or the `n`-th of several.
    pub fn off_without_program(image: &str, n: Option<usize>) -> Node {
        let (address, mac) = n.map_or_else(|| (ADDRESS.to_owned(), MAC.to_owned()), place);
        Node::off_with(image, "eth0", &address, &mac, &[])
    }

    /// A node from `image`, whose only interface is `interface`.
    pub fn start(image: &str, interface: &str) -> Node {
        Node::start_at(image, interface, ADDRESS, MAC)
    }

    /// A node from `image` that was never switched on.
    pub fn off(image: &str) -> Node {
        Node::off_at(image, "eth0", ADDRESS, MAC)
    }

    /// The `n`-th of several such nodes.
    pub fn off_of_several(image: &str, n: usize) -> Node {
        let (address, mac) = place(n);
        Node::off_at(image, "eth0", &address, &mac)
    }

    fn start_at(image: &str, interface: &str, address: &str, mac: &str) -> Node {
        let mut node = Node::off_at(image, interface, address, mac);
        node.boot();
        node
    }

    fn off_at(image: &str, interface: &str, address: &str, mac: &str) -> Node {
        let binary = format!("{}:/usr/bin/titus-bootstrap:ro", image::program());
        Node::off_with(image, interface, address, mac, &["--volume", &binary])
    }

    fn off_with(image: &str, interface: &str, address: &str, mac: &str, more: &[&str]) -> Node {
        let repository = format!("{}:/srv/repo:ro", image::fresh().repository.display());
        let mut options = Node::options(interface, address, mac);
        options.extend(["--volume".to_owned(), repository]);
        let mut arguments = vec!["create"];
        arguments.extend(options.iter().map(String::as_str).chain(more.iter().copied()));
        arguments.extend([image, "/lib/systemd/systemd", "--system"]);
        Node { id: docker(&arguments), init: 0, address: address.into() }
    }

    /// A node from an image that has the program, without any repository. It has its addresses, and is
    /// still booting.
    pub fn begin(image: &str, address: &str, mac: &str) -> Node {
        let options = Node::options("eth0", address, mac);
        let mut arguments = vec!["create"];
        arguments.extend(options.iter().map(String::as_str));
        arguments.extend([image, "/lib/systemd/systemd", "--system"]);
        let mut node = Node { id: docker(&arguments), init: 0, address: address.into() };
        node.switch_on();
        node.await_network();
        node
    }

    /// A node whose root is the disk of a machine, all of it, with the machine's address and its /proc/meminfo. Its
    /// first process does what an initramfs does, and waits for [`Node::boot_disk`] before that, so that a test can
    /// serve the metadata.
    pub fn on_disk(disk: &Disk, memory: &str) -> Node {
        let mount = disk.mount();
        let root = format!("{}:/mnt", mount.directory.display());
        let options = Node::options("eth0", machine::ADDRESS, MAC);
        let mut arguments = vec!["create", "--volume", &root];
        arguments.extend(options.iter().map(String::as_str));
        let wait = "until [ -e /run/boot ]; do sleep 0.1; done; exec switch_root /mnt /lib/systemd/systemd --system";
        arguments.extend([image::fresh().image.as_str(), "sh", "-c", wait]);
        let mut node = Node { id: docker(&arguments), init: 0, address: machine::ADDRESS.into() };
        docker(&["start", &node.id]);
        node.init = node.first_process();
        // From here the disk is mounted in the container alone, and as long as that runs.
        drop(mount);
        // Nobody serves DHCP here: the interface has its address already, also for networkd, and what the machine's
        // DHCP client knew of name servers is no longer true.
        let address = machine::ADDRESS;
        // The other end of the interface would answer the question whether somebody has this address.
        let network = format!(
            "[Match]\nName=eth0\n[Network]\nGateway=169.254.0.1\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n\
             [Address]\nAddress={address}/24\nDuplicateAddressDetection=none\n"
        );
        node.write("/run/systemd/network/05-test.network", &network);
        node.write("/run/meminfo", memory);
        node.shell(&format!(
            "mount --bind /run/meminfo /proc/meminfo
             ip link set lo up
             ip address add 169.254.169.254/32 dev lo
             ip link add eth0 address {MAC} type veth peer name gateway0
             ip link set gateway0 up
             ip link set eth0 up
             ip address add {address}/24 brd + dev eth0
             ip route add default via 169.254.0.1
             echo 'nameserver 127.0.0.1' > /mnt/etc/resolv.conf"
        ));
        node
    }

    /// Boots such a node.
    pub fn boot_disk(&self) {
        self.shell("touch /run/boot");
        self.await_systemd();
    }

    /// The options of `docker create` and `docker run` that make a container a node.
    pub fn options(interface: &str, address: &str, mac: &str) -> Vec<String> {
        let mut options = vec!["--label".to_owned(), label()];
        let mut add = |words: &[&str]| options.extend(words.iter().map(|word| (*word).to_owned()));
        add(&["--network", "none", "--cgroupns", "host", "--stop-signal", "SIGRTMIN+3"]);
        CAPABILITIES.iter().for_each(|capability| add(&["--cap-add", capability]));
        add(&["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]);
        add(&["--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--volume", "/var/lib/docker"]);
        add(&["--tmpfs", "/run", "--tmpfs", "/tmp:exec,mode=1777", "--env", "container=docker"]);
        let hostname = format!("ip-{}", address.replace('.', "-"));
        // As cloud-init's manage_etc_hosts has it on Debian.
        add(&["--hostname", &hostname, "--add-host", &format!("{hostname}:127.0.1.1")]);
        for variable in
            [format!("NODE_INTERFACE={interface}"), format!("NODE_ADDRESS={address}"), format!("NODE_MAC={mac}")]
        {
            add(&["--env", &variable]);
        }
        options
    }

    /// Its host name.
    pub fn hostname(&self) -> String {
        format!("ip-{}", self.address.replace('.', "-"))
    }

    /// Stops it, as a machine that is shut down.
    pub fn stop(&self) {
        docker(&["stop", "--time", "20", &self.id]);
    }

    /// Starts it, and waits for the end of its boot.
    pub fn boot(&mut self) {
        self.switch_on();
        self.await_boot();
    }

    /// Starts it, and no more: systemd has just begun.
    pub fn switch_on(&mut self) {
        docker(&["start", &self.id]);
        self.init = self.first_process();
        self.await_systemd();
    }

    /// Waits until systemd answers.
    pub fn await_systemd(&self) {
        wait_for("systemd", || {
            let state = self.run(&["systemctl", "is-system-running"]).out;
            ["initializing", "starting", "running", "degraded"].contains(&state.trim()).then_some(())
        });
    }

    /// Waits until the boot has come to a unit, and systemd has examined its conditions.
    pub fn await_turn(&self, unit: &str) {
        wait_for(&format!("the turn of {unit}"), || {
            let moment = self.property(unit, "ConditionTimestampMonotonic");
            moment.parse::<u64>().is_ok_and(|moment| moment > 0).then_some(())
        });
    }

    /// Waits until a process with this name runs.
    pub fn await_process(&self, name: &str) {
        let search = format!("grep -qx {name} /proc/[0-9]*/comm");
        wait_for(name, || (self.run(&["sh", "-c", &search]).code == 0).then_some(()));
    }

    /// Waits until it has its addresses, which is long before the end of its boot.
    pub fn await_network(&self) {
        wait_for("the node's network", || {
            (self.property("test-network.service", "ActiveState") == "active").then_some(())
        });
    }

    /// Puts a file into a node that is off.
    pub fn put(&self, path: &str, mode: u32, contents: impl AsRef<[u8]>) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(contents.as_ref().len() as u64);
        self.unpack(|archive| archive.append_data(&mut header, path.trim_start_matches('/'), contents.as_ref()));
    }

    /// Puts a symbolic link into a node that is off.
    pub fn put_link(&self, path: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        self.unpack(|archive| archive.append_link(&mut header, path.trim_start_matches('/'), target));
    }

    fn unpack(&self, pack: impl FnOnce(&mut tar::Builder<Vec<u8>>) -> std::io::Result<()>) {
        let mut archive = tar::Builder::new(Vec::new());
        pack(&mut archive).unwrap();
        let mut command = Command::new("docker");
        command.args(["cp", "-", &format!("{}:/", self.id)]).stdin(Stdio::piped());
        let mut copy = command.spawn().unwrap();
        copy.stdin.take().unwrap().write_all(&archive.into_inner().unwrap()).unwrap();
        assert!(copy.wait().unwrap().success(), "nothing can be put into the node");
    }

    /// Restarts it: for systemd a reboot. What was served to it must be served again.
    pub fn reboot(&mut self) {
        self.begin_reboot();
        self.await_boot();
    }

    /// Restarts it and waits until it has its addresses, no longer: units may be starting.
    pub fn begin_reboot(&mut self) {
        docker(&["restart", "--time", "20", &self.id]);
        self.init = self.first_process();
        self.await_network();
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        docker(&["inspect", "--format", "{{.State.Running}}", &self.id]) == "true"
    }

    fn first_process(&self) -> i32 {
        docker(&["inspect", "--format", "{{.State.Pid}}", &self.id]).parse().unwrap()
    }

    /// Waits until no unit is starting any more; none may have failed.
    #[track_caller]
    pub fn await_boot(&self) {
        if let Err(failed) = self.booted() {
            panic!("{failed}");
        }
    }

    /// Waits until no unit is starting any more. The network interfaces of tasks can be set up only with metadata,
    /// which a test may serve late; their timer tries that again until it succeeds.
    ///
    /// # Errors
    /// Units failed: which, and the journal's end.
    ///
    /// # Panics
    /// When units are still starting after [`super::PATIENCE`]; it names them.
    #[track_caller]
    pub fn booted(&self) -> Result<(), String> {
        let failed = wait_for_or(
            "the node's boot",
            || self.unfinished(),
            || {
                let state = self.run(&["systemctl", "is-system-running"]).out;
                let failed = self.failed();
                let retried = failed.lines().all(|line| line.starts_with("titus-setup-networking.service "));
                match state.trim() {
                    "running" => Some(String::new()),
                    "degraded" => (!retried || failed.is_empty()).then_some(failed),
                    _ => None,
                }
            },
        );
        if failed.is_empty() {
            return Ok(());
        }
        Err(format!("units failed at boot:\n{failed}\n{}", self.journal_end()))
    }

    /// What keeps its boot from its end: systemd's jobs, the units that have failed, and the journal's end.
    pub fn unfinished(&self) -> String {
        let jobs = self.run(&["systemctl", "list-jobs", "--no-legend", "--no-pager"]).out;
        let (failed, journal) = (self.failed(), self.journal_end());
        format!("{}: jobs of systemd:\n{jobs}\nfailed units:\n{failed}\n{journal}", self.hostname())
    }

    /// The journal's end, and that of each unit that has failed: others may have said much since.
    fn journal_end(&self) -> String {
        let mut text = self.run(&["journalctl", "--boot", "--lines", "60", "--no-pager"]).out;
        for unit in self.failed().lines().filter_map(|line| line.split_whitespace().next()) {
            let its = ["journalctl", "--boot", "--unit", unit, "--lines", "40", "--no-pager"];
            text.push_str(&format!("\n{unit}:\n{}", self.run(&its).out));
        }
        text
    }

    /// The units that have failed, a line each.
    pub fn failed(&self) -> String {
        self.run(&["systemctl", "--failed", "--no-legend", "--plain"]).out
    }

    /// What a command in the node begins with. nsenter, because `docker exec` fails once systemd has
    /// moved its processes between control groups.
    pub fn enter(&self) -> Vec<String> {
        let init = self.init.to_string();
        let nsenter = ["nsenter", "-t", &init, "-m", "-u", "-i", "-n", "-p", "-r", "-w", "--"];
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        nsenter.into_iter().chain(["env", "-i", path, "HOME=/root"]).map(str::to_owned).collect()
    }

    /// `argv` in the node.
    pub fn command(&self, argv: &[&str]) -> Command {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(argv).stdin(Stdio::null());
        command
    }

    /// Runs `argv` in the node to its end.
    pub fn run(&self, argv: &[&str]) -> Outcome {
        let outcome = Outcome::new(&argv.join(" "), self.command(argv).output().unwrap());
        crate::support::schemas::check(&argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), &outcome);
        outcome
    }

    /// Runs a shell script in the node; it must succeed.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.run(&["bash", "-euc", script]).ends_with(0).out
    }

    /// Runs `titus-bootstrap ARGUMENTS` in the node to its end.
    pub fn bootstrap(&self, arguments: &[&str]) -> Outcome {
        self.run(&[&["titus-bootstrap"], arguments].concat())
    }

    /// Starts `argv` in the node; it goes on while the test looks.
    pub fn spawn(&self, argv: &[&str]) -> Running {
        let mut command = self.command(argv);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::start(argv.join(" "), command)
    }

    /// Where `path` of the node lies for this process. No part of it may be an
    /// absolute symbolic link: that would lead out of the node.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// A file's text.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Whether something is there, be it a dangling link.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Writes a file as an editor would that keeps its inode, with its parents.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// One property of a unit, in the form that `systemctl show` prints.
    pub fn property(&self, unit: &str, property: Property) -> String {
        self.run(&["systemctl", "show", "--value", "--property", property, unit]).out.trim().to_string()
    }
}

/// The addresses of the `n`-th of several nodes, of its interface and of the interface's hardware.
fn place(n: usize) -> (String, String) {
    (format!("30.0.100.1{n}"), format!("0a:1b:2c:3d:4e:{n:02x}"))
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", "--volumes", &self.id]).output();
    }
}
