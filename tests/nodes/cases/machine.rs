//! A machine with its own kernel. One reboot gives its interface the name that Titus wants. The program does
//! not repeat one that does not help forever. A power cut at any moment costs nothing but time.
//! `SOAK=N` makes it N/20 power cuts of each kind of disk: one that has no cache, one that loses its cache, and one
//! that writes it in a different order.

use std::collections::BTreeSet;
use std::time::Duration;

use titus_bootstrap::run::journal::{Event, JOURNAL};

use super::killed::kills;
use crate::harness::agent::files;
use crate::harness::disk::{Disk, Entry};
use crate::harness::machine::{ADDRESS, End, Machine};
use crate::harness::nbd::{Cut, Loss};
use crate::harness::random;
use crate::support::tree::{Tree, differences};

/// There is nothing to do, and all services run.
const CHECK: &str = "test -z \"$(dpkg --audit)\"
    systemctl is-active docker.service
    systemctl is-active mesos-agent.service
    titus-bootstrap plan --detailed-exitcode";

/// How many power cuts of a kind there are in one boot.
const CUTS: usize = 5;

/// What a cut takes of the cache of a disk that reorders what it writes; a piece is a sector, or a block.
const REORDERS: [Loss; 2] = [Loss::Some(512), Loss::Some(4096)];

/// What is there with cgroup v2 alone.
const V2: &str = "/sys/fs/cgroup/cgroup.controllers";

/// The result of an undisturbed first boot.
struct Undisturbed {
    tree: Tree,
    files: Vec<(Option<Vec<u8>>, String)>,
}

/// One test, for all of it needs what an undisturbed machine came to.
#[test]
fn soak_of_machines() {
    let mut machine = Machine::fresh();
    let (wanted, cuts) = an_agent_after_one_reboot(&mut machine);
    std::thread::scope(|scope| {
        scope.spawn(|| a_reboot_that_does_not_help_is_not_repeated(machine));
        cuts.iter().for_each(|cut| a_power_cut(&wanted, cut));
        let (mut count, mut left) = (cuts.len(), (kills() as usize / 20).saturating_sub(1));
        while left > 0 {
            let mut machine = Machine::fresh();
            let of_each = (0..left.min(CUTS)).flat_map(|n| [Loss::Nothing, Loss::All, REORDERS[n % 2]]).collect();
            let cuts = machine.start_with_power_cuts(of_each);
            assert_eq!(machine.end_of_boot(), End::Reboot);
            let cuts = cuts.join().unwrap();
            cuts.iter().for_each(|cut| a_power_cut(&wanted, cut));
            (count, left) = (count + cuts.len(), left.saturating_sub(CUTS));
        }
        println!("soak of machines: {count} power cuts in a first boot; all converged");
    });
}

fn an_agent_after_one_reboot(machine: &mut Machine) -> (Undisturbed, Vec<(Duration, Cut)>) {
    let cuts = machine.start_with_power_cuts(vec![Loss::All, REORDERS[random(2)]]);
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
    machine.power_off();

    let disk = machine.recovered();
    let files: Vec<_> = files().into_iter().map(|(path, _)| (disk.read(&path), path)).collect();
    for (file, path) in &files {
        assert!(file.is_some(), "{path} is not there");
    }
    (Undisturbed { tree: machine.tree(), files }, cuts.join().unwrap())
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
fn a_power_cut(wanted: &Undisturbed, (work, cut): &(Duration, Cut)) {
    let mut machine = Machine::from_disk(|place| cut.write(place));
    // One reboot was shown; that this machine does without makes it quicker.
    machine.has_v1 = true;
    machine.metadata.set("user-data", Some("#titus-bootstrap\nreboot = \"never\"\n".into()));
    let what = format!("a power cut after {work:?} of work, which takes {:?} of {} bytes", cut.loss, cut.at_risk());

    let left = machine.recovered();
    nothing_is_half_written(wanted, &left, &what);
    let before = events(&left);

    machine.start();
    assert_eq!(machine.end_of_boot(), End::Unit(0), "{what}\n{}", machine.console());
    machine.shell(CHECK);
    machine.power_off();
    let mut differences = differences(&wanted.tree, &machine.tree());
    differences.retain(|line| !line.starts_with("/var/lib/dhcp/"));
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
    the_journal_says(&before, &events(&machine.recovered()), &what);
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

/// The journal on a disk; a line that is torn would show as one that is missing later.
fn events(disk: &Disk) -> Vec<Event> {
    let text = disk.read(JOURNAL).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
