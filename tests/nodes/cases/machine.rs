//! A machine with its own kernel. One reboot gives its interface the name that Titus wants. The program does
//! not repeat one that does not help forever. A power cut at any moment costs nothing but time.
//! There are three kinds of disk: one that has no cache, one that loses its cache, and one that writes it in a
//! different order. `SOAK=N` makes it N/20 power cuts of each. One disk boots in the emulator again, with a kernel that
//! replays its journal. The others boot in containers, which have the whole disk, but the kernel and the network of the
//! test's host: that takes seconds, not minutes.

use std::collections::BTreeSet;
use std::time::Duration;

use titus_bootstrap::run::journal::{Event, JOURNAL};

use super::killed::kills;
use crate::harness::agent::files;
use crate::harness::disk::{Disk, Entry};
use crate::harness::machine::{ADDRESS, End, Machine, exit_code, look};
use crate::harness::nbd::{Cut, Loss};
use crate::harness::node::Node;
use crate::harness::{random, services, wait_for_or};
use crate::support::tree::{Tree, contents, differences};

/// There is nothing to do, and all services run.
const CHECK: &str = "test -z \"$(dpkg --audit)\"
    systemctl is-active docker.service
    systemctl is-active mesos-agent.service
    titus-bootstrap plan --detailed-exitcode";

/// The most power cuts of a kind in one boot.
const CUTS: usize = 10;

/// The power cuts of a kind without `SOAK`.
const FEW_CUTS: usize = 3;

/// What a cut takes of the cache of a disk that reorders what it writes; a piece is a sector, or a block.
const REORDERS: [Loss; 2] = [Loss::Some(512), Loss::Some(4096)];

/// What may differ after a power cut, because neither the role nor a package has it: what DHCP clients write, of which
/// containers have none, and the copy of its key that Docker was writing, whose name is random.
const OF_OTHERS: [&str; 3] = ["/var/lib/dhcp/", "/etc/resolv.conf:", "/etc/docker/.tmp-key.json"];

/// The user data of a machine after a power cut.
const WITHOUT_REBOOT: &str = "#titus-bootstrap\nreboot = \"never\"\n";

/// What is there with cgroup v2 alone.
const V2: &str = "/sys/fs/cgroup/cgroup.controllers";

/// The result of an undisturbed first boot.
struct Undisturbed {
    tree: Tree,
    files: Vec<(Option<Vec<u8>>, String)>,
    /// Its /proc/meminfo: what an agent offers depends on it.
    memory: String,
}

/// Boots a machine after a power cut that the text describes; the disk is the machine's, recovered.
type Boot = fn(&Undisturbed, &mut Machine, &Disk, &str) -> Booted;

/// What a boot after a power cut leaves.
struct Booted {
    tree: Tree,
    journal: Vec<Event>,
}

/// One test, for all of it needs what an undisturbed machine came to.
#[test]
fn soak_of_machines() {
    let of_each = (kills() as usize / 20).max(FEW_CUTS);
    let losses: Vec<Loss> = (0..of_each).flat_map(|n| [Loss::Nothing, Loss::All, REORDERS[n % 2]]).collect();
    let mut boots = losses.chunks(3 * CUTS);
    let mut machine = Machine::fresh();
    let of_first = [&[REORDERS[random(2)]], boots.next().unwrap()].concat();
    let (wanted, cuts) = an_agent_after_one_reboot(&mut machine, of_first);
    std::thread::scope(|scope| {
        scope.spawn(|| a_reboot_that_does_not_help_is_not_repeated(machine));
        a_power_cut(&wanted, &cuts[0], boot_in_emulator);
        power_cuts(&wanted, &cuts[1..]);
        for losses in boots {
            let mut machine = Machine::fresh();
            let cuts = machine.start_with_power_cuts(losses.to_vec());
            assert_eq!(machine.end_of_boot(), End::Reboot);
            power_cuts(&wanted, &cuts.join().unwrap());
        }
    });
    println!("soak of machines: {of_each} power cuts of each of three kinds, and one in the emulator; all converged");
}

/// What follows each of these power cuts, in containers, two at a time.
fn power_cuts(wanted: &Undisturbed, cuts: &[(Duration, Cut)]) {
    for pair in cuts.chunks(2) {
        std::thread::scope(|scope| {
            pair.iter().for_each(|cut| drop(scope.spawn(|| a_power_cut(wanted, cut, boot_in_container))));
        });
    }
}

fn an_agent_after_one_reboot(machine: &mut Machine, losses: Vec<Loss>) -> (Undisturbed, Vec<(Duration, Cut)>) {
    let cuts = machine.start_with_power_cuts(losses);
    machine.shell(&format!("test -e {V2}"));
    let first_boot = machine.shell("cat /proc/sys/kernel/random/boot_id");
    let interface = machine.shell("until ip -4 -o address show dev ens3 2> /dev/null | grep inet; do sleep 0.2; done");
    assert_eq!(machine.end_of_boot(), End::Reboot);
    println!("a first boot, until its reboot: {:?} of work", machine.worked);
    // systemd stops the run that asked for it, which is not a failure.
    assert!(!machine.console().contains("stopped by a signal"), "{}", machine.console());

    machine.start();
    assert_eq!(machine.end_of_boot(), End::Unit(0), "{}", machine.console());
    assert_ne!(machine.shell("cat /proc/sys/kernel/random/boot_id"), first_boot);
    let renamed = machine.shell("ip -4 -o address show dev eth0; networkctl --no-pager status eth0");
    for address in [&interface, &renamed] {
        assert!(address.contains(&format!("inet {ADDRESS}/")), "{address}");
    }
    assert!(renamed.contains("05-titus-primary.network"), "{renamed}");
    // The agent's stand-in, as the real one, does not start without v1.
    let console = machine.console();
    assert!(console.contains("was started without net.ifnames=0 systemd.unified_cgroup_hierarchy=0 "), "{console}");
    machine.shell(&format!("test ! -e {V2} && test -d /sys/fs/cgroup/systemd && test -d /sys/fs/cgroup/pids"));
    machine.shell(CHECK);
    assert_eq!(machine.start_unit(), End::Unit(0));
    let counted = machine.shell("cat /var/lib/titus-bootstrap/reboots.json");
    assert_eq!(counted.matches("boot_id").count(), 1, "{counted}");
    let memory = machine.shell("cat /proc/meminfo");
    machine.power_off();

    let disk = machine.recovered();
    let files: Vec<_> = files().into_iter().map(|(path, _)| (disk.read(&path), path)).collect();
    for (file, path) in &files {
        assert!(file.is_some(), "{path} is not there");
    }
    (Undisturbed { tree: machine.tree(), files, memory }, cuts.join().unwrap())
}

fn a_reboot_that_does_not_help_is_not_repeated(mut machine: Machine) {
    machine.lost_argument = Some("titus.lost=1");
    let settings = "agent.kernel_arguments = [\"net.ifnames=0\", \"titus.lost=1\"]\n";
    machine.disk().put(&[Entry::Text("/etc/titus-bootstrap/config.d/50-lost.toml", settings)]);
    for _ in 0..2 {
        machine.start();
        assert_eq!(machine.end_of_boot(), End::Reboot, "{}", machine.console());
    }
    machine.start();
    assert_eq!(machine.end_of_boot(), End::Unit(1), "{}", machine.console());
    let output = machine.shell("journalctl --boot --unit titus-bootstrap --no-pager");
    assert!(output.contains("2 reboots have not fixed it") && output.contains("titus.lost=1"), "{output}");
    assert!(machine.console().contains("2 reboots have not fixed it"), "the console does not say it");
    // It goes on as an agent, and says it again.
    assert_eq!(machine.shell("systemctl is-active mesos-agent").trim(), "active");
    assert_eq!(machine.start_unit(), End::Unit(1));
}

/// What follows a power cut in the first boot.
fn a_power_cut(wanted: &Undisturbed, (work, cut): &(Duration, Cut), boot: Boot) {
    let what = format!("a power cut after {work:?} of work, which takes {:?} of {} bytes", cut.loss, cut.at_risk());
    let mut machine = Machine::from_disk(|place| cut.write(place));
    let left = machine.recovered();
    nothing_is_half_written(wanted, &left, &what);
    let before = events(&left);

    let after = boot(wanted, &mut machine, &left, &what);
    let mut differences = differences(&wanted.tree, &after.tree);
    differences.retain(|line| !OF_OTHERS.iter().any(|path| line.starts_with(path)));
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
    the_journal_says(&before, &after.journal, &what);
}

/// Boots the machine, whose kernel recovers the disk itself.
fn boot_in_emulator(_: &Undisturbed, machine: &mut Machine, _: &Disk, what: &str) -> Booted {
    // One reboot was shown; that this machine does without makes it quicker.
    machine.has_v1 = true;
    machine.metadata.set("user-data", Some(WITHOUT_REBOOT.into()));
    machine.start();
    assert_eq!(machine.end_of_boot(), End::Unit(0), "{what}\n{}", machine.console());
    machine.shell(CHECK);
    machine.power_off();
    Booted { tree: machine.tree(), journal: events(&machine.recovered()) }
}

/// Boots the recovered disk in a container.
fn boot_in_container(wanted: &Undisturbed, _: &mut Machine, disk: &Disk, what: &str) -> Booted {
    let node = Node::on_disk(disk, &wanted.memory);
    let mut items = services::items();
    items.insert("meta-data/local-ipv4".into(), ADDRESS.into());
    items.insert("user-data".into(), WITHOUT_REBOOT.into());
    let _metadata = services::metadata(&node, items);
    node.boot_disk();
    let explain = || format!("{what}\n{}", node.unfinished());
    let code = wait_for_or("the boot unit", explain, || exit_code(&node.shell(&look())));
    assert_eq!(code, 0, "{}", explain());
    let check = node.run(&["bash", "-euc", CHECK]);
    assert_eq!(check.code, 0, "{what}\n{}", check.transcript());
    Booted { tree: contents(&node.path("/")), journal: parse(node.read(JOURNAL).as_bytes()) }
}

/// Each file of the role is whole or not there, and so is each line of the journal but the last.
fn nothing_is_half_written(wanted: &Undisturbed, left: &Disk, what: &str) {
    for (whole, path) in &wanted.files {
        let found = left.read(path);
        assert!(found.is_none() || found == *whole, "{what}: {path} is {found:?}");
    }
    let journal = left.read(JOURNAL).unwrap_or_default();
    let lines = String::from_utf8_lossy(&journal);
    let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        assert!(serde_json::from_str::<Event>(line).is_ok(), "{what}: the journal has the line {line:?}");
    }
}

/// The journal still shows what was on the disk at the cut, as a run without an end; the last run converged.
fn the_journal_says(before: &[Event], after: &[Event], what: &str) {
    let texts = |events: &[Event]| events.iter().map(|e| serde_json::to_string(e).unwrap()).collect::<Vec<_>>();
    let (before_lines, after_lines) = (texts(before), texts(after));
    assert!(after_lines.starts_with(&before_lines), "{what}: {before_lines:#?}\n{after_lines:#?}");
    let boots: BTreeSet<&str> = after.iter().map(|event| event.boot_id.as_str()).collect();
    let end = after
        .iter()
        .rfind(|event| event.event == "ended")
        .unwrap_or_else(|| panic!("{what}: no end\n{after_lines:#?}"));
    assert_eq!(end.lines, ["converged"], "{what}: {after_lines:#?}");
    println!("{what}: {} events before it, {} in all, of {} boots", before.len(), after.len(), boots.len());
}

/// The journal on a disk.
fn events(disk: &Disk) -> Vec<Event> {
    parse(&disk.read(JOURNAL).unwrap_or_default())
}

/// The events of a journal; a line that is torn would show as one that is missing later.
fn parse(journal: &[u8]) -> Vec<Event> {
    String::from_utf8_lossy(journal).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
