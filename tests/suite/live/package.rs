//! Packages: installed together, refused if no source has them; the run starts apt only when no other program uses it.

use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use titus_bootstrap::error::Kind;
use titus_bootstrap::host::apt::{Keyring, Source};

use crate::support::simulated::Machine;

const OUT_OF_SYNC: &str = "E: Cache is out of sync, can't x-ref a package file";
const LOCK: &str = "/var/lib/dpkg/lock-frontend";

fn role(names: &str) -> String {
    format!("[[step]]\nid = 'packages'\nphase = 'bake'\npackage = {{ names = [{names}], setting = 'packages.base' }}\n")
}

fn optional(names: &str) -> String {
    role(names).replace("setting", "optional = true, setting")
}

/// apt's calls, without options, and without the simulations of an installation.
fn calls(machine: &Machine) -> Vec<String> {
    let plain = |line: &String| -> String {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.starts_with('-') && !word.contains("::")).collect();
        words.join(" ")
    };
    machine.calls().iter().filter(|line| line.starts_with("apt") && !line.contains("--simulate")).map(plain).collect()
}

#[test]
fn missing_packages_are_looked_up_and_installed_together() {
    let machine = Machine::new();
    for (name, version) in [("jq", "1.6"), ("mesos", "1.1"), ("mesos", "1.0"), ("curl", "7")] {
        machine.offer(name, version);
    }
    machine.install("curl", "7", "installed");
    let steps = machine.steps(&role("'jq', 'mesos=1.0', 'curl'"));
    let lines = ["install jq (is not installed)", "install mesos=1.0 (is not installed)"];
    assert_eq!(machine.plan(&steps).ends_well().lines(), lines);
    assert_eq!(
        calls(&machine),
        ["apt-get update", "apt-cache policy jq mesos"],
        "a plan asks apt as a run does, and installs nothing"
    );
    assert_eq!(machine.apply(&steps).ends_well().lines(), lines);
    assert_eq!(
        calls(&machine),
        ["apt-get update", "apt-cache policy jq mesos", "apt-get install jq mesos=1.0", "apt-mark hold mesos"]
    );
    assert_eq!(machine.installed("jq"), "1.6 installed install");
    assert_eq!(machine.installed("mesos"), "1.0 installed hold");
    assert!(!machine.root.at("/var/cache/titus-bootstrap").exists(), "the lists of the run are left");
    assert!(!machine.root.at("/var/lib/titus-bootstrap/no-candidate").exists());
    assert_eq!(machine.apply(&steps).ends_well().states(), ["packages in_sync"]);
    assert_eq!(calls(&machine), [""; 0], "a run that lacks nothing asks apt nothing");
    // A version that is installed but not held, and another version.
    machine.install("mesos", "1.0", "installed");
    assert_eq!(machine.apply(&steps).ends_well().lines(), ["install mesos=1.0 (is not on hold)"]);
    machine.install("mesos", "1.1", "installed");
    assert_eq!(machine.apply(&steps).ends_well().lines(), ["install mesos=1.0 (is 1.1)"]);
    assert!(machine.calls().iter().any(|call| call.contains("--allow-downgrades") && call.ends_with("-- mesos=1.0")));
}

#[test]
fn a_package_that_no_source_has_is_refused_before_anything_is_changed() {
    let machine = Machine::new();
    machine.offer("mesos", "1.1");
    let file = "[[step]]\nid = 'file'\nphase = 'bake'\nfile = { path = '/etc/x', content = 'x' }\n";
    for (names, what) in [("'mesos', 'jq'", "no source has the package jq"), ("'mesos=2'", "the package mesos=2")] {
        let steps = machine.steps(&format!("{file}{}", role(names)));
        for run in [machine.plan(&steps), machine.apply(&steps)] {
            let words = run.fails().to_string();
            assert_eq!(run.fails().kind, Kind::Unavailable);
            assert!(words.contains(what) && words.contains("check packages.base and apt.sources"), "{words}");
            assert!(!machine.root.at("/etc/x").exists() && !machine.root.at("/var/cache/titus-bootstrap").exists());
            assert!(calls(&machine).iter().all(|call| !call.contains("install")));
        }
    }
    // The message names each file that apt read.
    machine.root.write("/etc/apt/sources.list.d/b.list", "deb http://b ./\n");
    machine.root.write("/etc/apt/sources.list.d/a.sources", "Types: deb\nURIs: http://a\nSuites: ./\n");
    let run = machine.plan(&machine.steps(&role("'jq'")));
    let asked = "asked: /etc/apt/sources.list.d/a.sources, /etc/apt/sources.list.d/b.list\n";
    assert!(run.fails().to_string().contains(asked), "{}", run.fails());
    // A source that did not answer may have it.
    machine.command("apt-get", "echo 'E: Failed to fetch http://x  Connection failed'; exit 100");
    let steps = machine.steps(&role("'jq'"));
    for run in [machine.plan(&steps), machine.apply(&steps)] {
        assert_eq!(run.fails().kind, Kind::TemporaryFailure);
        assert!(run.fails().to_string().contains("Connection failed"), "{}", run.fails());
    }
}

#[test]
fn an_optional_package_that_no_source_has_is_not_asked_for_again_until_a_source_changes() {
    let machine = Machine::new();
    machine.offer("jq", "1.6");
    let steps = machine.steps(&optional("'jq', 'nobody'"));
    // A plan reports the same, and stores nothing.
    let (before, plan) = (machine.root.stamps(), machine.plan(&steps).ends_well());
    assert_eq!(plan.lines(), ["install jq (is not installed)"]);
    let kept = |path: &&String| !["/calls", "/run", "/var"].iter().any(|start| path.starts_with(start)) && *path != "/";
    let after = machine.root.stamps();
    assert!(after.keys().filter(kept).all(|path| before.get(path) == after.get(path)));
    assert!(!machine.root.at("/var/lib/titus-bootstrap").exists());
    let run = machine.apply(&steps).ends_well();
    assert_eq!(run.lines(), ["install jq (is not installed)"]);
    let note = "not installed, because no source has it and it is optional: nobody";
    assert_eq!(run.report.steps[0].note.as_deref(), Some(note));
    assert!(!calls(&machine).is_empty());
    for again in [machine.apply(&steps).ends_well(), machine.plan(&steps).ends_well()] {
        assert_eq!(again.states(), ["packages in_sync"]);
        assert_eq!(again.report.steps[0].note.as_deref(), Some(note));
    }
    assert_eq!(calls(&machine), [""; 0]);
    // It is not optional for a step that requires it.
    assert_eq!(machine.plan(&machine.steps(&role("'nobody'"))).fails().kind, Kind::Unavailable);
    calls(&machine);
    machine.root.write("/etc/apt/sources.list.d/new.list", "deb http://x ./\n");
    machine.offer("nobody", "1");
    assert_eq!(machine.apply(&steps).ends_well().lines(), ["install nobody (is not installed)"]);
    assert_eq!(machine.installed("nobody"), "1 installed install");
}

#[test]
fn an_unreachable_source_gives_up_nothing() {
    let machine = Machine::new();
    machine.command("apt-get", "echo 'W: Failed to fetch http://x'");
    let steps = machine.steps(&optional("'nobody'"));
    for _ in 0..2 {
        assert_eq!(machine.apply(&steps).ends_well().states(), ["packages in_sync"]);
        assert_eq!(calls(&machine), ["apt-get update", "apt-cache policy nobody"]);
    }
}

#[test]
fn apt_is_asked_again_when_dpkgs_status_changed_under_it() {
    for command in ["apt-cache", "apt-get"] {
        let machine = Machine::new();
        machine.offer("jq", "1.6");
        machine.fail_first(command, 2, OUT_OF_SYNC);
        assert_eq!(
            machine.apply(&machine.steps(&role("'jq'"))).ends_well().states(),
            ["packages changed"],
            "{command}"
        );
        assert_eq!(machine.installed("jq"), "1.6 installed install");
    }
    // Until the deadline; a busy machine asks the first time for longer than a short one.
    let again = (0..12).map(|n| Duration::from_millis(50 << n)).any(|deadline| {
        let mut machine = Machine::new();
        machine.offer("jq", "1.6");
        machine.host.deadlines.apt_lock = deadline;
        machine.command("apt-cache", &format!("echo \"{OUT_OF_SYNC}\" >&2; exit 100"));
        let run = machine.apply(&machine.steps(&role("'jq'")));
        assert!(run.fails().to_string().contains(OUT_OF_SYNC), "{}", run.fails());
        calls(&machine).iter().filter(|call| call.starts_with("apt-cache")).count() > 1
    });
    assert!(again, "the run started apt once, whatever the deadline");
    // Any other failure ends the run at once.
    let machine = Machine::new();
    machine.command("apt-cache", "echo 'E: no such option' >&2; exit 100");
    machine.apply(&machine.steps(&role("'jq'"))).fails();
    assert_eq!(calls(&machine), ["apt-get update", "apt-cache policy jq"]);
}

#[test]
fn nothing_of_apt_is_read_while_another_process_has_its_lock() {
    let mut machine = Machine::new();
    machine.offer("jq", "1.6");
    machine.root.write(LOCK, "");
    machine.host.deadlines.apt_lock = Duration::from_millis(50);
    let held = std::fs::File::options().write(true).open(machine.root.at(LOCK)).unwrap();
    let lock = |kind: i32| nix::libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // As unattended-upgrades holds it; of an open file, so that this process is another one.
    fcntl(&held, FcntlArg::F_OFD_SETLK(&lock(nix::libc::F_WRLCK))).unwrap();
    let steps = machine.steps(&role("'jq'"));
    let run = machine.apply(&steps);
    let words = run.fails().to_string();
    assert!(words.contains("could not be used within 50ms") && words.contains(LOCK), "{words}");
    assert_eq!(calls(&machine), [""; 0]);
    fcntl(&held, FcntlArg::F_OFD_SETLK(&lock(nix::libc::F_UNLCK))).unwrap();
    machine.apply(&steps).ends_well();
}

#[test]
fn what_an_interrupted_dpkg_left_is_completed_first() {
    let machine = Machine::new();
    machine.offer("jq", "1.6");
    machine.install("half", "1", "unpacked");
    // apt refuses the first installation; dpkg completes it.
    let refuses = "case \"$*\" in *' install -- '*) [ -e $ROOT/completed ] || { echo \"E: dpkg was interrupted, you must manually run 'dpkg --configure -a'\" >&2; exit 100; };; esac";
    machine.prepend("apt-get", refuses);
    machine.command("dpkg", "case \"$*\" in *'--configure -a') touch $ROOT/completed;; esac");
    machine.apply(&machine.steps(&role("'jq'"))).ends_well();
    let all = machine.calls();
    let changes: Vec<&str> = all
        .iter()
        .filter(|call| {
            !call.contains("update")
                && !call.contains("--simulate")
                && (call.starts_with("apt-get") || call.starts_with("dpkg --"))
        })
        .map(|call| call.rsplit_once("--no-install-recommends ").map_or(call.as_str(), |(_, rest)| rest))
        .collect();
    assert_eq!(
        changes,
        [
            "--no-remove install -- jq",
            "dpkg --force-confdef --force-confold --configure -a",
            "--no-remove --fix-broken install",
            "--no-remove install -- jq"
        ]
    );
}

#[test]
fn a_half_installed_package_that_apt_passes_over_is_installed_again() {
    let machine = Machine::new();
    for name in ["jq", "half"] {
        machine.offer(name, "1.6");
    }
    machine.install("half", "1", "half-installed");
    machine.apply(&machine.steps(&role("'jq'"))).ends_well();
    assert_eq!(machine.installed("half"), "1.6 installed install");
    assert!(machine.calls().iter().any(|call| call.ends_with("--reinstall install -- half")));
}

#[test]
fn a_package_that_dpkg_unpacked_and_does_not_trust_is_installed_again() {
    let machine = Machine::new();
    for name in ["jq", "other"] {
        machine.offer(name, "1.6");
    }
    machine.install("jq", "1.6", "unpacked");
    machine.prepend("dpkg-query", "[ \"$3\" = -- ] || { echo 'unpacked reinstreq jq'; exit; }");
    // dpkg configures the other package, and apt fails.
    let refuses = "case \"$*\" in *--simulate*) ;; *' --reinstall '*) touch $ROOT/again;; *' install '*) \
        [ -e $ROOT/again ] || { echo ' package is in a very bad inconsistent state; you should' >&2; exit 100; };; esac";
    machine.prepend("apt-get", refuses);
    machine.apply(&machine.steps(&role("'jq', 'other'"))).ends_well();
    let calls = machine.calls();
    let installs = calls.iter().filter_map(|call| call.split_once("--no-remove ")).map(|(_, rest)| rest);
    let again = ["install -- jq other", "--reinstall install -- jq", "install -- jq other"];
    assert_eq!(installs.collect::<Vec<_>>(), again);
}

#[test]
fn a_package_that_apt_did_not_install_did_not_converge() {
    let machine = Machine::new();
    machine.offer("jq", "1.6");
    machine.command("apt-get", "");
    let run = machine.apply(&machine.steps(&role("'jq'")));
    assert!(run.fails().to_string().contains("still to do: install jq (is not installed)"), "{}", run.fails());
    assert_eq!(run.events, ["started packages", "failed packages"]);
}

#[test]
fn sources_are_checked_in_their_future_form_and_credentials_stay_hidden() {
    let machine = Machine::new();
    machine.root.write("/etc/apt/sources.list.d/theirs.list", "deb http://theirs ./\n");
    machine.root.write("/etc/apt/sources.list.d/titus-bootstrap-old.sources", "old");
    machine.command("apt-get", "cp -r $ROOT/var/cache/titus-bootstrap/apt/etc/apt/sources.list.d $ROOT/seen");
    let source = Source {
        path: "/etc/apt/sources.list.d/titus-bootstrap-x.sources".into(),
        text: "Signed-By: /etc/apt/keyrings/x.gpg\n".into(),
        keyring: Some(Keyring { path: "/etc/apt/keyrings/x.gpg".into(), key: b"key".to_vec() }),
    };
    assert_eq!(machine.host.look_up_candidates(&[source], &["jq"]).unwrap(), None);
    assert_eq!(machine.root.read("/seen/theirs.list"), "deb http://theirs ./\n");
    let ours = machine.root.read("/seen/titus-bootstrap-x.sources");
    assert!(ours.contains("/var/cache/titus-bootstrap/apt/etc/apt/keyrings/x.gpg"), "{ours}");
    assert!(!machine.root.at("/seen/titus-bootstrap-old.sources").exists());
    assert!(!machine.root.at("/etc/apt/keyrings").exists());
}

#[test]
fn a_source_of_the_settings_is_asked_before_it_is_written() {
    let machine = Machine::new();
    machine.root.write("/etc/keys/x.asc", include_str!("../../data/key.asc"));
    let source = "{ name = 'x', uris = ['http://packages/{distribution}'], suites = ['{codename}'], \
                  components = ['main'], key = '/etc/keys/x.asc' }";
    let sources = format!(
        "[[step]]\nid = 'sources'\nphase = 'bake'\napt_source = {{ sources = [{source}], distribution = 'debian', codename = 'bookworm' }}\n"
    );
    let written = "/etc/apt/sources.list.d/titus-bootstrap-x.sources";
    // apt has the package only where it sees that source.
    machine.offer("jq", "1.6");
    machine.prepend(
        "apt-cache",
        "grep -q http://packages/debian $ROOT/var/cache/titus-bootstrap/apt/etc/apt/sources.list.d/*.sources || exit 0",
    );
    let run = machine.apply(&machine.steps(&role("'jq'")));
    assert!(run.fails().what.contains("no source has the package jq"), "{}", run.fails());
    let steps = machine.steps(&format!("{sources}{}", role("'jq'")));
    assert_eq!(machine.plan(&steps).ends_well().states(), ["sources changes", "packages changes"]);
    assert!(!machine.root.at(written).exists());
    machine.apply(&steps).ends_well();
    let text = machine.root.read(written);
    assert!(text.contains("URIs: http://packages/debian\nSuites: bookworm\nComponents: main\n"), "{text}");
    assert!(machine.root.at("/etc/apt/keyrings/titus-bootstrap-x.gpg").exists());
    assert_eq!(machine.apply(&steps).ends_well().states(), ["sources in_sync", "packages in_sync"]);
    // A source that is no longer in the settings is removed with its key.
    let without = sources.replace(source, "");
    machine.apply(&machine.steps(&without)).ends_well();
    assert!(!machine.root.at(written).exists() && !machine.root.at("/etc/apt/keyrings/titus-bootstrap-x.gpg").exists());
}

#[test]
fn what_another_process_installed_meanwhile_is_seen() {
    let machine = Machine::new();
    machine.offer("jq", "1.6");
    // Another apt installs it between the first question and the look-up.
    machine.fail_first("apt-cache", 1, OUT_OF_SYNC);
    machine.prepend("apt-cache", "printf 'jq\\t1.6\\tinstalled\\tinstall\\n' >$DPKG");
    assert_eq!(machine.apply(&machine.steps(&role("'jq'"))).ends_well().states(), ["packages in_sync"]);
    assert!(calls(&machine).iter().all(|call| !call.contains("install")));
}

#[test]
fn a_source_over_https_needs_what_apt_reads_it_with() {
    let machine = Machine::new();
    machine.offer("jq", "1.6");
    machine.root.write("/etc/keys/x.asc", include_str!("../../data/key.asc"));
    let with_source = |uri: &str| {
        let source = format!(
            "{{ name = 'x', uris = ['{uri}'], suites = ['x'], components = ['main'], key = '/etc/keys/x.asc' }}"
        );
        let sources =
            format!("apt_source = {{ sources = [{source}], distribution = 'debian', codename = 'bookworm' }}");
        machine.steps(&format!("[[step]]\nid = 'sources'\nphase = 'bake'\n{sources}\n{}", role("'jq'")))
    };
    let steps = with_source("https://packages/debian");
    for (path, package) in [
        ("/usr/lib/apt/methods/https", "apt-transport-https"),
        ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
    ] {
        for run in [machine.plan(&steps), machine.apply(&steps)] {
            let words = run.fails().to_string();
            assert_eq!((run.fails().kind, run.events.len()), (Kind::Unavailable, 0), "{words}");
            assert!(words.contains(&format!("{path} does not exist")), "{words}");
            assert!(words.contains(&format!("apt-get install {package}")), "{words}");
        }
        machine.plan(&with_source("http://packages/debian")).ends_well();
        machine.root.write(path, "");
    }
    machine.plan(&steps).ends_well();
}

#[test]
fn a_plan_during_a_run_says_that_it_did_not_ask_apt() {
    use titus_bootstrap::host::lock::LOCK;
    let machine = Machine::new();
    let steps = machine.steps(&role("'jq'"));
    {
        let _run = machine.next_host().lock(LOCK, Duration::ZERO, &mut |_| {}).unwrap();
        let plan = machine.plan(&steps).ends_well();
        let notice = "the plan did not ask apt whether it has the packages to install: a run is at work";
        assert_eq!(plan.report.notices, [notice]);
        assert_eq!(plan.lines(), ["install jq (is not installed)"]);
        assert_eq!(calls(&machine), [""; 0]);
    }
    assert!(machine.plan(&steps).fails().what.contains("no source has the package jq"));
    // Other failures of the lock are failures.
    std::fs::remove_file(machine.root.at(LOCK)).unwrap();
    std::fs::create_dir(machine.root.at(LOCK)).unwrap();
    assert!(machine.plan(&steps).fails().to_string().contains(LOCK), "{}", machine.plan(&steps).fails());
}
