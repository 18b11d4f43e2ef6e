//! An emulated machine, with its own kernel, disk and boot. Its reboots are real, and a test can cut
//! its power.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::agent;
use super::disk::{Disk, Entry, unmount_all};
use super::image;
use super::nbd::{Cut, Loss, Recording};
use super::node::MAC;
use super::services;
use super::{mortal, random};
use crate::support::metadata::Metadata;
use crate::support::tree::{Tree, contents};

/// The address that it has from the emulator's DHCP server; the metadata service has to be in the same network.
pub const ADDRESS: &str = "169.254.0.15";

/// The name of a machine's directory, beside its parts; the test process's id follows.
const PREFIX: &str = "running-";

/// The boot unit.
const UNIT: &str = "titus-bootstrap.service";
const RETRY: &str = "titus-bootstrap-retry.timer";

/// For a boot, and for all that a run does. An emulated processor is slow, and a busy machine ten times as slow.
const PATIENCE: Duration = Duration::from_secs(900);

/// The program's own limits, for the same reason.
const PATIENT: &str = "timeouts.unit = \"15m\"\ntimeouts.facts = \"15m\"\ntimeouts.wait = \"15m\"\n";

/// How a boot came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The machine went down for a reboot.
    Reboot,
    /// The boot unit ended with this exit code, and no reboot is due.
    Unit(i32),
}

/// A machine. Dropping it cuts its power and removes it.
pub struct Machine {
    power: Option<Power>,
    /// The metadata service; what it says can be changed.
    pub metadata: Metadata,
    /// An argument that its boot loader does not hand over.
    pub lost_argument: Option<&'static str>,
    /// Whether it boots with cgroup v1, whatever its grub.cfg has; Debian 12 by itself boots with v2.
    pub has_v1: bool,
    /// The processor time that the emulator used until the machine went down: how far it came, on a
    /// busy host too.
    pub worked: Duration,
    /// The directory with the disk and the files beside it.
    directory: tempfile::TempDir,
}

/// A running emulator.
struct Power {
    emulator: Child,
    /// The second serial port, where a shell answers.
    line: BufReader<UnixStream>,
    /// The line that has come in part.
    part: Vec<u8>,
    ready: bool,
}

impl Machine {
    /// A machine that was never on, whose tag says `agent`.
    pub fn fresh() -> Machine {
        let machine = Machine::from_copy(&parts().join("disk"));
        let disk = machine.disk();
        let program = machine.path("program");
        let strip = Command::new("strip").arg("-o").arg(&program).arg(image::program()).status().unwrap();
        assert!(strip.success(), "strip: {strip}");
        let [unit, retry] = [UNIT, RETRY].map(|name| {
            let path = format!("{}/systemd/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
        });
        disk.put(&[
            Entry::Program("/usr/bin/titus-bootstrap", &program),
            Entry::Text(agent::SETTINGS, &agent::settings_text("titus-log-bucket-terraform-example", PATIENT)),
            Entry::Text(&format!("/usr/lib/systemd/system/{UNIT}"), &unit),
            Entry::Text(&format!("/usr/lib/systemd/system/{RETRY}"), &retry),
            Entry::Link(
                &format!("/etc/systemd/system/multi-user.target.wants/{UNIT}"),
                &format!("/lib/systemd/system/{UNIT}"),
            ),
        ]);
        machine
    }

    /// A machine with a copy of this disk.
    pub fn from_copy(disk: &Path) -> Machine {
        Machine::from_disk(|place| Disk::copy(disk, place))
    }

    /// A machine with the disk that `make` makes at a path.
    pub fn from_disk(make: impl FnOnce(&Path) -> Disk) -> Machine {
        let directory = directory();
        let mut items = services::items();
        items.insert("meta-data/local-ipv4".into(), ADDRESS.into());
        let metadata = Metadata::start(items);
        metadata.require_tokens(false);
        let machine =
            Machine { power: None, metadata, lost_argument: None, has_v1: false, worked: Duration::ZERO, directory };
        make(&machine.path("disk"));
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its disk, as the power's end left it.
    pub fn disk(&self) -> Disk {
        Disk::new(&self.path("disk"))
    }

    /// Its disk as the next boot will find it; the machine itself keeps the other.
    pub fn recovered(&self) -> Disk {
        self.disk().recovered(&self.path("recovered"))
    }

    /// How all files on it look.
    pub fn tree(&self) -> Tree {
        contents(&self.recovered().mount().directory)
    }

    /// All that its console has shown, of every boot.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("console")).unwrap_or_default()).into_owned()
    }

    /// Switches it on: the emulator hands the kernel what GRUB would find in grub.cfg.
    pub fn start(&mut self) {
        // What the machine has written is safe once the emulator has it: that is killed, not its host.
        self.start_from(&format!("file={},format=raw,cache=unsafe", self.path("disk").display()));
    }

    /// Switches it on with a disk that has a cache, and takes the disk as power cuts at random moments of this boot
    /// would leave it, one of each loss. The machine itself goes on; the answer comes when it has gone down.
    pub fn start_with_power_cuts(&mut self, losses: Vec<Loss>) -> JoinHandle<Vec<(Duration, Cut)>> {
        let recording = Recording::start(&self.path("disk"), directory());
        // Each flush of the machine's reaches the server.
        self.start_from(&format!("file=nbd:unix:{},format=raw,cache=writeback", recording.socket().display()));
        let emulator = self.power.as_ref().unwrap().emulator.id();
        std::thread::spawn(move || power_cuts(emulator, &recording, &losses))
    }

    fn start_from(&mut self, drive: &str) {
        assert!(self.power.is_none(), "the machine is on");
        let arguments = self.kernel_arguments();
        let (stream, far_end) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let port = self.metadata.endpoint().rsplit(':').next().unwrap().to_owned();
        let network = format!(
            "user,id=n0,net=169.254.0.0/16,host=169.254.0.1,dhcpstart={ADDRESS},\
             guestfwd=tcp:169.254.169.254:80-cmd:socat - TCP:127.0.0.1:{port}"
        );
        let mut command = mortal("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-m", "2048", "-nodefaults", "-display", "none"]);
        command.args(["-no-reboot", "-smbios", "type=1,manufacturer=Amazon EC2,product=m4.large"]);
        command.arg("-kernel").arg(parts().join("vmlinuz")).arg("-initrd").arg(parts().join("initrd"));
        command.args(["-append", &arguments]);
        // A request that the emulator loses hangs a virtio disk forever. The driver of this one repeats it.
        command.args(["-drive", &format!("{drive},if=none,id=d0"), "-device", "nvme,drive=d0,serial=titus,addr=4"]);
        command.args(["-netdev", &network]);
        // At this place its interface is ens3, as the machine's image expects it.
        command.args(["-device", &format!("virtio-net-pci,netdev=n0,addr=3,mac={MAC}"), "-device", "virtio-rng-pci"]);
        command.args(["-chardev", &format!("file,id=c0,append=on,path={}", self.path("console").display())]);
        command.args(["-chardev", "stdio,id=c1,signal=off", "-serial", "chardev:c0", "-serial", "chardev:c1"]);
        let said = std::fs::File::create(self.path("emulator")).unwrap();
        let [stdin, stdout] = [far_end.try_clone().unwrap(), far_end].map(OwnedFd::from);
        let emulator = command.stdin(stdin).stdout(stdout).stderr(said).spawn().unwrap();
        // Its ends of the line, which would keep it open.
        drop(command);
        self.power = Some(Power { emulator, line: BufReader::new(stream), part: Vec::new(), ready: false });
    }

    /// The arguments of the first `linux` line of grub.cfg. GRUB does not replay the file system's
    /// journal, so neither is it done here.
    fn kernel_arguments(&self) -> String {
        let text = self.disk().read("/boot/grub/grub.cfg").unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().map(str::trim).find(|line| line.starts_with("linux\t") || line.starts_with("linux "));
        let line = line.unwrap_or_else(|| panic!("no kernel in grub.cfg:\n{text}"));
        let kept = line.split_whitespace().skip(2).filter(|argument| Some(*argument) != self.lost_argument);
        kept.chain(self.has_v1.then_some("systemd.unified_cgroup_hierarchy=0")).collect::<Vec<_>>().join(" ")
    }

    /// Starts the boot unit once more.
    pub fn start_unit(&mut self) -> End {
        self.ask(&format!("systemctl start {UNIT}"), Instant::now() + PATIENCE);
        self.end_of_boot()
    }

    /// Waits until the boot unit has ended or the machine goes down.
    pub fn end_of_boot(&mut self) -> End {
        let deadline = Instant::now() + PATIENCE;
        // When the machine goes down, its shell may be gone long before it.
        while let Some((_, said)) = self.ask(&look(), deadline) {
            if let Some(code) = exit_code(&said) {
                return End::Unit(code);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        self.await_off(deadline);
        End::Reboot
    }

    /// Runs a shell script in it; it must succeed.
    #[track_caller]
    pub fn shell(&mut self, script: &str) -> String {
        let answer = self.ask(script, Instant::now() + PATIENCE);
        let (code, said) = answer.unwrap_or_else(|| panic!("the machine went down\n{}", self.output("console")));
        assert_eq!(code, 0, "{script}\n{said}");
        said
    }

    /// Shuts it down.
    pub fn power_off(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        self.ask("systemctl --no-block poweroff", deadline);
        self.await_off(deadline);
    }

    /// The end of what it, or its emulator, has said.
    fn output(&self, name: &str) -> String {
        let text = std::fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }

    fn await_off(&mut self, deadline: Instant) {
        let mut power = self.power.take().unwrap();
        self.worked = Duration::ZERO;
        while power.emulator.try_wait().unwrap().is_none() {
            self.worked = work(power.emulator.id()).unwrap_or(self.worked);
            assert!(Instant::now() < deadline, "the machine does not go down\n{}", self.output("console"));
            std::thread::sleep(Duration::from_millis(50));
        }
        let status = power.emulator.wait().unwrap();
        assert!(status.success(), "the emulator: {status}\n{}", self.output("emulator"));
    }

    /// The exit code of a script and what it said; `None` when the machine has gone down.
    fn ask(&mut self, script: &str, deadline: Instant) -> Option<(i32, String)> {
        let console = self.path("console");
        let power = self.power.as_mut().unwrap();
        if !power.ready {
            assert_eq!(power.line(deadline, &console)?, "ready");
            power.ready = true;
        }
        let question = format!("{}\n", STANDARD.encode(script));
        power.line.get_mut().write_all(question.as_bytes()).ok()?;
        let answer = power.line(deadline, &console)?;
        let (code, said) = answer.split_once(' ').unwrap_or_else(|| panic!("answered {answer:?}"));
        let said = String::from_utf8_lossy(&STANDARD.decode(said).unwrap()).into_owned();
        Some((code.parse().unwrap(), said))
    }
}

/// A shell script that prints how far the boot is.
pub fn look() -> String {
    // A look at the units is a second's work for an emulated processor: it waits by itself first.
    format!(
        "timeout 60 systemctl is-system-running --wait > /dev/null || true
         systemctl show --property=ActiveState,ExecMainExitTimestampMonotonic,ExecMainStatus {UNIT}
         systemctl list-jobs --no-legend --plain"
    )
}

/// The exit code of the boot unit, from the output of [`look`]; `None` while it works or a reboot is due.
pub fn exit_code(output: &str) -> Option<i32> {
    let value = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let ended = value("ExecMainExitTimestampMonotonic").is_some_and(|time| time != "0");
    let settled = value("ActiveState") != Some("activating") && !output.contains("reboot.target");
    (ended && settled).then(|| value("ExecMainStatus").and_then(|code| code.parse().ok()).unwrap())
}

/// How long an emulator has worked; `None` when it has ended.
fn work(emulator: u32) -> Option<Duration> {
    // proc_pid_stat(5): fields 3, 14 and 15, the last two in ticks of 10 ms; the name in brackets may have blanks.
    let stat = std::fs::read_to_string(format!("/proc/{emulator}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11..13)?.iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    (fields[0] != "Z").then_some(Duration::from_millis(10 * ticks))
}

/// Power cuts at random moments of an emulator's work, which each came after so much of it.
fn power_cuts(emulator: u32, recording: &Arc<Recording>, losses: &[Loss]) -> Vec<(Duration, Cut)> {
    // Each tenth of a second of its work is as likely as any other, if the cut takes something then.
    let mut moments: Vec<(Duration, usize)> = Vec::new();
    while let Some(work) = work(emulator) {
        if moments.last().is_none_or(|(last, _)| work >= *last + Duration::from_millis(100)) {
            moments.push((work, recording.len()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let cut = |loss: &Loss| {
        let cuts = moments.iter().map(|(work, n)| (*work, Cut::new(recording, *n, *loss, random(1 << 16))));
        let mut cuts: Vec<_> = cuts.filter(|(_, cut)| *loss == Loss::Nothing || cut.at_risk() > 0).collect();
        cuts.swap_remove(random(cuts.len()))
    };
    losses.iter().map(cut).collect()
}

impl Power {
    /// The next line from the machine, or its end.
    fn line(&mut self, deadline: Instant, console: &Path) -> Option<String> {
        loop {
            match self.line.read_until(b'\n', &mut self.part) {
                Ok(_) if self.part.ends_with(b"\n") => {
                    let line = String::from_utf8_lossy(&std::mem::take(&mut self.part)).trim().to_owned();
                    return Some(line);
                }
                Ok(_) => return None,
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
                Err(_) => return None,
            }
            if Instant::now() > deadline {
                let output = std::fs::read(console).unwrap_or_default();
                let output = String::from_utf8_lossy(&output[output.len().saturating_sub(4000)..]);
                panic!("the machine does not answer\n{output}");
            }
        }
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        // setpriv has become the emulator.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// A directory for a machine or its disk, beside the parts: it is on the same file system.
fn directory() -> tempfile::TempDir {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(parts()).unwrap()
}

/// The directory with kernel, initramfs and disk; made when it does not exist yet.
fn parts() -> &'static Path {
    static PARTS: OnceLock<PathBuf> = OnceLock::new();
    PARTS.get_or_init(|| {
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodes/machine/build");
        let repository = &image::fresh().repository;
        let output = Command::new(build).arg(repository).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{build} failed: {}", output.status);
        let parts = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        remove_abandoned(&parts);
        parts
    })
}

/// Removes machines whose test process is gone.
fn remove_abandoned(parts: &Path) {
    for entry in std::fs::read_dir(parts).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
        if owner.is_some_and(|(owner, _)| !Path::new("/proc").join(owner).exists()) {
            unmount_all(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
