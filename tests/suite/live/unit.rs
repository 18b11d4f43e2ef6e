//! Units: started, enabled, masked, and restarted when their files changed since their last start.

use std::time::{Duration, Instant, UNIX_EPOCH};

use titus_bootstrap::error::Kind;
use titus_bootstrap::host::systemd::{Active, Unit};

use crate::support::simulated::Machine;

const NAME: &str = "x.service";

/// A file that the unit reads, and the unit.
fn role(contents: &str) -> String {
    format!(
        "[[step]]\nid = 'config'\nphase = 'boot'\nfile = {{ path = '/etc/x.conf', content = '{contents}' }}\n\
         [[step]]\nid = 'x'\nphase = 'boot'\nunit = {{ name = '{NAME}', enabled = true, active = true, \
         restart_on = ['config'], restart_costs = 'tasks end' }}\n"
    )
}

fn machine() -> Machine {
    let machine = Machine::new();
    machine.unit_file(NAME);
    machine
}

/// Makes the unit run since long before its file was written, in systemd's output.
fn runs_since_long_ago(machine: &Machine) {
    machine.systemd.start(NAME);
    machine.systemd.change(NAME, |unit| unit.started = Some(UNIX_EPOCH + Duration::from_secs(1)));
}

/// Makes the unit report a start long after now, as after a clock was set back.
fn runs_since_the_future(machine: &Machine) {
    machine.systemd.start(NAME);
    machine.systemd.change(NAME, |unit| {
        unit.started = unit.started.map(|started| started + Duration::from_secs(3600));
    });
}

#[test]
fn started_once_and_restarted_when_its_file_changes() {
    let machine = machine();
    let one = machine.steps(&role("one"));
    assert_eq!(
        machine.plan(&one).ends_well().lines(),
        ["create /etc/x.conf (0644, 1 line)", "enable x.service", "start x.service (it is inactive)"]
    );
    assert_eq!(machine.apply(&one).ends_well().states(), ["config changed", "x changed"]);
    assert_eq!(machine.systemd.jobs(), ["start x.service"]);
    assert!(machine.root.at("/etc/systemd/system/multi-user.target.wants/x.service").is_symlink());

    assert_eq!(machine.apply(&one).ends_well().states(), ["config in_sync", "x in_sync"]);
    let two = machine.steps(&role("two"));
    let planned = machine.plan(&two).ends_well().lines();
    assert_eq!(planned[1], "restart x.service (its files will have changed; tasks end)");
    assert_eq!(machine.systemd.jobs(), [""; 0]);
    let made = machine.apply(&two).ends_well();
    assert_eq!(made.lines()[1], "restart x.service (its files changed since its last start; tasks end)");
    assert_eq!(machine.systemd.jobs(), ["restart x.service"]);
    assert_eq!(machine.apply(&two).ends_well().states(), ["config in_sync", "x in_sync"]);
}

#[test]
fn a_restart_is_planned_where_a_run_makes_it_and_nowhere_else() {
    use std::os::unix::fs::PermissionsExt;
    let machine = machine();
    std::fs::create_dir_all(machine.root.at("/dev")).unwrap();
    nix::unistd::mkfifo(&machine.root.at("/dev/null"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let one = machine.steps(&role("one"));
    machine.apply(&one).ends_well();
    machine.systemd.jobs();
    let chmod = |mode| {
        std::fs::set_permissions(machine.root.at("/etc/x.conf"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let started_anew = || machine.systemd.start(NAME);
    type Drift<'a> = (&'a str, &'a dyn Fn(), bool);
    let drifts: [Drift<'_>; 6] = [
        (
            "a device, since the start",
            &|| {
                std::fs::remove_file(machine.root.at("/etc/x.conf")).unwrap();
                std::os::unix::fs::symlink("/dev/null", machine.root.at("/etc/x.conf")).unwrap();
            },
            false,
        ),
        ("another mode", &|| chmod(0o600), false),
        ("a text that the unit does not have yet", &|| machine.root.write("/etc/x.conf", "other"), false),
        ("no file, since the start", &|| std::fs::remove_file(machine.root.at("/etc/x.conf")).unwrap(), false),
        (
            "a text that the unit has",
            &|| {
                machine.root.write("/etc/x.conf", "other");
                started_anew();
            },
            true,
        ),
        (
            "no file, and started without",
            &|| {
                std::fs::remove_file(machine.root.at("/etc/x.conf")).unwrap();
                started_anew();
            },
            true,
        ),
    ];
    for (name, drift, restarts) in drifts {
        drift();
        let plan = machine.plan(&one).ends_well().lines();
        let is_planned = plan.iter().any(|line| line.starts_with("restart x.service"));
        assert_eq!(is_planned, restarts, "{name}: {plan:?}");
        machine.apply(&one).ends_well();
        assert_eq!(machine.systemd.jobs().contains(&"restart x.service".to_owned()), restarts, "{name}");
        assert_eq!(machine.plan(&one).ends_well().states(), ["config in_sync", "x in_sync"], "{name}");
    }
}

#[test]
fn a_start_by_hand_with_the_same_files_needs_no_restart() {
    let machine = machine();
    let steps = machine.steps(&role("one"));
    machine.apply(&steps).ends_well();
    runs_since_long_ago(&machine);
    machine.systemd.jobs();
    assert_eq!(machine.apply(&steps).ends_well().states(), ["config in_sync", "x in_sync"]);
    assert_eq!(machine.systemd.jobs(), [""; 0]);
}

#[test]
fn a_file_that_was_changed_and_put_back_restarts_nothing() {
    let machine = machine();
    let steps = machine.steps(&role("one"));
    machine.apply(&steps).ends_well();
    machine.systemd.jobs();
    machine.root.write("/etc/x.conf", "by hand");
    assert_eq!(machine.apply(&steps).ends_well().states(), ["config changed", "x in_sync"]);
    assert_eq!(machine.systemd.jobs(), [""; 0]);
}

#[test]
fn a_file_younger_than_a_start_that_no_run_saw_restarts_the_unit() {
    let machine = machine();
    let steps = machine.steps(&role("one"));
    machine.root.write("/etc/x.conf", "one");
    runs_since_long_ago(&machine);
    assert_eq!(machine.apply(&steps).ends_well().states(), ["config in_sync", "x changed"]);
    assert_eq!(machine.systemd.jobs(), ["restart x.service"]);
}

#[test]
fn a_file_that_is_older_than_the_boot_restarts_nothing() {
    let machine = machine();
    let steps = machine.steps(&role("one"));
    loop {
        machine.root.write("/etc/x.conf", "one");
        let changed = machine.root.at("/etc/x.conf").metadata().unwrap();
        let changed = {
            use std::os::unix::fs::MetadataExt;
            UNIX_EPOCH + Duration::new(changed.ctime().unsigned_abs(), changed.ctime_nsec().unsigned_abs() as u32)
        };
        machine.systemd.start(NAME);
        machine.systemd.change(NAME, |unit| unit.started = Some(changed + Duration::from_millis(900)));
        // PID 1 began at 90 s of uptime, a little after the change.
        let began = Instant::now();
        let age = changed.elapsed().unwrap_or_default().saturating_sub(Duration::from_millis(50));
        machine.root.write("/proc/uptime", format!("{:.2} 1.00\n", 90.0 + age.as_secs_f64()));
        machine.root.write("/proc/1/stat", format!("1 (systemd) S {} 9000 1 2\n", ["0"; 18].join(" ")));
        let run = machine.apply(&steps).ends_well();
        // /proc gives the age of the boot. If this test paused for long, the boot is after the start.
        if began.elapsed() < Duration::from_secs(1) {
            assert_eq!(run.lines(), ["enable x.service"]);
            assert_eq!(machine.systemd.jobs(), [""; 0]);
            return;
        }
        machine.systemd.jobs();
        std::fs::remove_dir_all(machine.root.at("/run/titus-bootstrap")).unwrap();
    }
}

#[test]
fn a_change_before_a_run_fails_is_not_lost_even_if_the_clock_was_set_back() {
    let machine = machine();
    machine.root.write("/etc/x.conf", "one");
    runs_since_the_future(&machine);
    let broken = |contents: &str| {
        role(contents).replace(
            "[[step]]\nid = 'x'",
            "[[step]]\nid = 'more'\nphase = 'boot'\nfile = { path = '/etc/more', content = 'x' }\n\
             [[step]]\nid = 'broken'\nphase = 'boot'\nfile = { path = '/etc/taken', content = 'x' }\n\
             [[step]]\nid = 'x'",
        )
    };
    std::fs::create_dir(machine.root.at("/etc/taken")).unwrap();
    let steps = machine.steps(&broken("two"));
    machine.apply(&steps).fails();
    assert_eq!(machine.systemd.jobs(), [""; 0]);
    std::fs::remove_dir(machine.root.at("/etc/taken")).unwrap();
    machine.apply(&steps).ends_well();
    assert_eq!(machine.systemd.jobs(), ["restart x.service"], "the file's time stamp says that it is older");
}

#[test]
fn the_end_of_a_run_records_what_runs() {
    let machine = machine();
    let steps = machine.steps(&role("one"));
    machine.root.write("/etc/x.conf", "one");
    runs_since_the_future(&machine);
    let record = "/run/titus-bootstrap/units/x.service";
    assert_eq!(machine.apply(&steps[..1]).ends_well().states(), ["config in_sync"]);
    assert!(!machine.root.at(record).exists(), "of a step that is not there");
    // Enabled by this run, and running already.
    assert_eq!(machine.apply(&steps).ends_well().lines(), ["enable x.service"]);
    assert!(machine.root.read(record).contains("invocation-1"));
    machine.systemd.start(NAME);
    machine.apply(&steps).ends_well();
    assert!(machine.root.read(record).contains("invocation-2"), "{}", machine.root.read(record));
}

#[test]
fn a_run_waits_for_a_starting_unit_and_then_checks_it() {
    let machine = machine();
    machine.root.write("/etc/x.conf", "one");
    machine.systemd.set(NAME, Unit { active: Active::Activating, sub: "start".into(), ..Unit::default() });
    machine.apply(&machine.steps(&role("two"))).ends_well();
    assert_eq!(machine.systemd.jobs(), ["start x.service", "restart x.service"]);
    // The run starts one that started too often.
    machine.systemd.set(NAME, Unit { active: Active::Failed, result: "start-limit-hit".into(), ..Unit::default() });
    machine.apply(&machine.steps(&role("two"))).ends_well();
    assert_eq!(machine.systemd.jobs(), ["reset-failed x.service", "start x.service"]);
    // One that failed and waits for its next try is started at once.
    machine.systemd.set(NAME, Unit { active: Active::Activating, sub: "auto-restart".into(), ..Unit::default() });
    machine.apply(&machine.steps(&role("two"))).ends_well();
    assert_eq!(machine.systemd.jobs(), ["start x.service"]);
}

#[test]
fn unit_files_are_reloaded_once_and_before_the_start() {
    let machine = Machine::new();
    let steps = machine.steps(
        "[[step]]\nid = 'file'\nphase = 'boot'\nfile = { path = '/etc/systemd/system/x.service', content = 'y' }\n\
         [[step]]\nid = 'other'\nphase = 'boot'\nfile = { path = '/etc/systemd/system/x.service.d/a.conf', content = 'y' }\n\
         [[step]]\nid = 'x'\nphase = 'boot'\nunit = { name = 'x.service', active = true, restart_on = ['file', 'other'] }\n",
    );
    assert_eq!(machine.plan(&steps).ends_well().states(), ["file changes", "other changes", "x changes"]);
    machine.apply(&steps).ends_well();
    assert_eq!(machine.systemd.jobs(), ["daemon-reload", "start x.service"]);
    // A drop-in that no unit step is about is read at the end of the run.
    machine.apply(&machine.steps(
        "[[step]]\nid = 'f'\nphase = 'boot'\nfile = { path = '/etc/systemd/system/y.service.d/a.conf', content = 'y' }\n",
    ));
    assert_eq!(machine.systemd.jobs(), ["daemon-reload"]);
    machine.apply(&steps).ends_well();
    assert_eq!(machine.systemd.jobs(), [""; 0]);
    // Where an image is built, no systemd runs.
    std::fs::remove_dir(machine.root.at("/run/systemd/system")).unwrap();
    std::fs::remove_file(machine.root.at("/etc/systemd/system/x.service")).unwrap();
    machine.apply(&steps[..1]).ends_well();
    assert_eq!(machine.systemd.jobs(), [""; 0]);
}

#[test]
fn a_unit_that_ends_at_once_or_fails_is_a_failure() {
    let machine = machine();
    let steps = machine.steps(&role("one"));
    machine.systemd.end_at_once(NAME);
    let ended = machine.apply(&steps);
    assert!(ended.fails().to_string().contains("still to do: start x.service (it is inactive)"), "{}", ended.fails());
    assert!(!machine.root.at("/run/titus-bootstrap/units/x.service").exists());
    machine.systemd.fail(NAME, Kind::Failed);
    let failed = machine.apply(&steps);
    let words = failed.fails().to_string();
    for part in ["test: step 2/2 x: x.service: start failed", "the journal of x.service", "systemctl status x.service"]
    {
        assert!(words.contains(part), "{words}");
    }
}

#[test]
fn a_mask_stops_what_runs_and_keeps_what_is_in_its_way() {
    let machine = machine();
    machine.root.write("/etc/systemd/system/x.service", "mine");
    machine.root.link("/etc/systemd/system/multi-user.target.wants/x.service", "/lib/systemd/system/x.service");
    machine.systemd.start(NAME);
    let steps = machine.steps("[[step]]\nid = 'x'\nphase = 'boot'\nunit = { name = 'x.service', masked = true }\n");
    let lines = [
        "stop x.service",
        "remove /etc/systemd/system/multi-user.target.wants/x.service",
        "mask x.service (moves its file /etc/systemd/system/x.service aside)",
    ];
    assert_eq!(machine.plan(&steps).ends_well().lines(), lines);
    machine.apply(&steps).ends_well();
    assert_eq!(machine.systemd.jobs(), ["stop x.service", "daemon-reload"]);
    assert_eq!(machine.root.read("/etc/systemd/system/x.service.saved"), "mine");
    assert_eq!(machine.apply(&steps).ends_well().states(), ["x in_sync"]);
    // And back.
    let back = machine.steps(&role("one"));
    assert_eq!(machine.apply(&back).ends_well().lines()[1], "unmask x.service (remove /etc/systemd/system/x.service)");
    assert_eq!(machine.systemd.jobs(), ["daemon-reload", "start x.service"]);
}

#[test]
fn a_unit_whose_package_is_not_there_is_blocked() {
    let machine = Machine::new();
    let steps = machine.steps(&role("one"));
    assert_eq!(machine.plan(&steps).ends_well().states(), ["config changes", "x blocked"]);
    let failed = machine.apply(&steps);
    assert!(failed.fails().to_string().contains("x.service does not exist yet"), "{}", failed.fails());
    assert_eq!(failed.states(), ["config changed", "x failed"]);
    // Also if no boot should start it; if nothing should, it can stay away.
    for (wish, state) in [("enabled = false, active = true", "x blocked"), ("enabled = false", "x in_sync")] {
        let step = format!("[[step]]\nid = 'x'\nphase = 'boot'\nunit = {{ name = '{NAME}', {wish} }}\n");
        assert_eq!(machine.plan(&machine.steps(&step)).ends_well().states(), [state], "{wish}");
    }
}

#[test]
fn a_unit_that_may_be_missing_is_in_sync_once_all_packages_are_there() {
    let machine = Machine::new();
    machine.offer("jq", "1.6");
    let steps = machine.steps(
        "[[step]]\nid = 'packages'\nphase = 'boot'\npackage = { names = ['jq'] }\n\
         [[step]]\nid = 'x'\nphase = 'boot'\nunit = { name = 'x.service', active = true, if_present = true }\n",
    );
    // The package may bring it.
    assert_eq!(machine.plan(&steps).ends_well().states(), ["packages changes", "x blocked"]);
    for run in [machine.apply(&steps).ends_well(), machine.plan(&steps).ends_well()] {
        assert_eq!(run.states()[1], "x in_sync");
        assert_eq!(run.report.steps[1].note.as_deref(), Some("x.service does not exist"));
    }
    assert_eq!(machine.systemd.jobs(), [""; 0]);
}

#[test]
fn one_question_serves_all_units() {
    let machine = machine();
    machine.unit_file("y.service");
    for name in [NAME, "y.service"] {
        machine.systemd.start(name);
    }
    let steps = machine.steps(
        "[[step]]\nid = 'x'\nphase = 'boot'\nunit = { name = 'x.service', active = true }\n\
         [[step]]\nid = 'y'\nphase = 'boot'\nunit = { name = 'y.service', active = true }\n",
    );
    machine.apply(&steps).ends_well();
    assert_eq!(machine.systemd.questions(), ["x.service y.service"]);
}

#[test]
fn a_restart_for_what_writes_nothing_is_refused_when_the_role_is_loaded() {
    let machine = Machine::new();
    let role = |on: &str| {
        format!(
            "[[step]]\nid = 'directory'\nphase = 'boot'\ndirectory = {{ path = '/srv/x' }}\n\
             [[step]]\nid = 'config'\nphase = 'boot'\nfile = {{ path = '/etc/x.conf', content = '' }}\n\
             [[step]]\nid = 'x'\nphase = 'boot'\nunit = {{ name = 'x.service', restart_on = ['{on}'] }}\n"
        )
    };
    machine.try_steps(&role("config")).unwrap();
    let refused = machine.try_steps(&role("directory")).unwrap_err();
    assert_eq!(refused.kind, Kind::Config);
    let words = refused.to_string();
    assert!(
        words.contains("step x: restart_on names \"directory\", which does not write a file that a service reads"),
        "{words}"
    );
    assert!(words.contains("restart_on accepts these earlier steps: config"), "{words}");
    let unknown = machine.try_steps(&role("confg")).unwrap_err().to_string();
    assert!(
        unknown.contains("which is not an earlier step") && unknown.contains("did you mean `config`?"),
        "{unknown}"
    );
}

const OURS: &str = "/etc/systemd/system/x.service.d/10-ours.conf";

/// A drop-in of the role's for a unit of a package's, and a unit of the role's.
fn role_with_unit_files() -> String {
    format!(
        "[[step]]\nid = 'drop-in'\nphase = 'boot'\nfile = {{ path = '{OURS}', content = \"\"\"\n[Service]\nExecStart=\nExecStart=/ours\n\
         Environment=A=1\nRestartSec=5\n\"\"\" }}\n\
         [[step]]\nid = 'y-file'\nphase = 'boot'\nfile = {{ path = '/lib/systemd/system/y.service', content = \"\"\"\n[Service]\n\
         ExecStart=/y\nEnvironmentFile=/etc/y\n\"\"\" }}\n\
         [[step]]\nid = 'x'\nphase = 'boot'\nunit = {{ name = 'x.service', active = true, restart_on = ['drop-in'] }}\n\
         [[step]]\nid = 'y'\nphase = 'boot'\nunit = {{ name = 'y.service', active = true }}\n"
    )
}

#[test]
fn a_unit_that_was_started_with_a_file_of_others_is_restarted_once_that_is_gone() {
    use std::os::unix::fs::MetadataExt;

    use titus_bootstrap::run::engine;

    // systemd reports starts in whole seconds: a unit that started in the second of the change may have read the file.
    for (after, restarts) in [(5, true), (0, true), (-5, false)] {
        let machine = machine();
        let role = role_with_unit_files()
            .replace("'y.service', active = true", "'y.service', active = true, restart_on = ['y-file']");
        let steps = machine.steps(&role);
        machine.apply(&steps).ends_well();
        let path = "/etc/systemd/system/y.service";
        machine.root.write(path, "[Service]\nExecStart=/other\n");
        if after >= 0 {
            machine.systemd.start("y.service");
        }
        let changed = machine.root.at(path).metadata().unwrap().ctime();
        machine.systemd.change("y.service", |unit| {
            unit.started = Some(UNIX_EPOCH + Duration::from_secs((changed + after).unsigned_abs()));
        });
        machine.apply(&steps).fails();
        engine::note_refused(&machine.next_host(), &steps).unwrap();
        std::fs::remove_file(machine.root.at(path)).unwrap();
        machine.systemd.jobs();
        machine.apply(&steps).ends_well();
        let jobs = machine.systemd.jobs();
        assert_eq!(jobs.contains(&"restart y.service".to_owned()), restarts);
        assert!(!jobs.contains(&"restart x.service".to_owned()), "no file of others concerned it: {jobs:?}");
        assert!(machine.apply(&steps).ends_well().states().iter().all(|state| state.ends_with("in_sync")));
    }
}

#[test]
fn a_file_that_overrides_ours_is_refused_before_any_write_and_its_removal_is_enough() {
    for (path, contents, parts) in [
        (
            "/etc/systemd/system/x.service.d/99-mine.conf",
            "[Service]\nExecStart=\nExecStart=/mine\n",
            [
                "test: x: x.service: /etc/systemd/system/x.service.d/99-mine.conf:3 overrides",
                "ExecStart=/mine is in force",
            ],
        ),
        (
            "/run/systemd/system/x.service.d/99-mine.conf",
            "[Service]\nExecStart=/mine\n",
            ["99-mine.conf:2 overrides", "ExecStart=/mine is a second command"],
        ),
        (
            "/etc/systemd/system/service.d/50-all.conf",
            "[Service]\nEnvironment=A=2\n",
            ["50-all.conf:2 overrides", "the variable A has the value of Environment="],
        ),
        ("/etc/systemd/system.control/x.service.d/10-ours.conf", "[Service]\n", ["system.control", "same name"]),
        (
            "/etc/systemd/system/y.service",
            "[Service]\nExecStart=/other\n",
            ["/etc/systemd/system/y.service overrides /lib/systemd/system/y.service", "the same name"],
        ),
        (
            "/run/systemd/system/y.service.d/a.conf",
            "[Service]\nEnvironmentFile=\n",
            ["a.conf:2 overrides", "is in force"],
        ),
    ] {
        let machine = machine();
        machine.root.write(path, contents);
        let steps = machine.steps(&role_with_unit_files());
        for run in [machine.plan(&steps), machine.apply(&steps)] {
            let refusal = run.fails();
            assert_eq!(refusal.kind, Kind::Unavailable, "{refusal}");
            for part in parts {
                assert!(refusal.to_string().contains(part), "{path}: {part}: {refusal}");
            }
            assert!(refusal.fix.as_deref().unwrap().starts_with(&format!("rm {path}\n")), "{refusal}");
            assert!(run.events.is_empty() && !machine.root.at(OURS).exists(), "{path}");
        }
        std::fs::remove_file(machine.root.at(path)).unwrap();
        machine.apply(&steps).ends_well();
        // And on a machine that a run has converged before.
        machine.root.write(path, contents);
        assert_eq!(machine.plan(&steps).fails().kind, Kind::Unavailable, "{path}");
        std::fs::remove_file(machine.root.at(path)).unwrap();
        assert_eq!(machine.apply(&steps).ends_well().lines(), [""; 0], "{path}");
    }
    // A package's comes back with its next version.
    let machine = machine();
    machine.root.write("/lib/systemd/system/x.service.d/99-p.conf", "[Service]\nExecStart=/p\n");
    let steps = machine.steps(&role_with_unit_files());
    let fix = machine.plan(&steps).fails().fix.clone().unwrap();
    assert!(fix.contains("ln -s /dev/null /etc/systemd/system/x.service.d/99-p.conf"), "{fix}");
    machine.root.link("/etc/systemd/system/x.service.d/99-p.conf", "/dev/null");
    machine.apply(&steps).ends_well();
}

#[test]
fn what_systemd_does_not_read_for_a_unit_overrides_nothing() {
    // A file with the unit's name in another directory.
    let machine = machine();
    let file = "[[step]]\nid = 'file'\nphase = 'boot'\nfile = { path = '/srv/x.service', content = 'x' }\n";
    let unit = "[[step]]\nid = 'x'\nphase = 'boot'\nunit = { name = 'x.service', active = true }\n";
    machine.apply(&machine.steps(&format!("{file}{unit}"))).ends_well();
    // Drop-ins of a unit that is masked.
    machine.root.write("/etc/systemd/system/x.service.d/99-mine.conf", "[Service]\nExecStart=\nExecStart=/mine\n");
    let steps = role_with_unit_files().replacen("active = true, restart_on = ['drop-in']", "masked = true", 1);
    machine.apply(&machine.steps(&steps)).ends_well();
    assert!(machine.root.at("/etc/systemd/system/x.service").is_symlink());
}

#[test]
fn how_often_a_timer_elapses_is_the_operator_s() {
    let machine = machine();
    let drop_in = "/etc/systemd/system/t.timer.d/often.conf";
    machine.root.write(drop_in, "[Timer]\nOnActiveSec=\nOnActiveSec=1s\nOnUnitInactiveSec=3s\n");
    machine.unit_file("t.service");
    let role = "[[step]]\nid = 'file'\nphase = 'boot'\nfile = { path = '/lib/systemd/system/t.timer', content = \"\"\"\n[Timer]\n\
                OnActiveSec=1min\nOnUnitInactiveSec=1min\n\"\"\" }\n\
                [[step]]\nid = 'timer'\nphase = 'boot'\nunit = { name = 't.timer', active = true, restart_on = ['file'] }\n";
    let steps = machine.steps(role);
    machine.apply(&steps).ends_well();
    let note = machine.apply(&steps).ends_well().report.steps[1].note.clone().unwrap_or_default();
    assert!(note.contains("often.conf:2 (OnActiveSec= is in force, not ours)"), "{note}");
}

#[test]
fn a_drop_in_that_tunes_a_unit_is_the_operator_s() {
    let machine = machine();
    machine.root.write("/etc/systemd/system/x.service.d/99-mine.conf", "[Service]\nRestartSec=9\nLimitNOFILE=10\n");
    let steps = machine.steps(&role_with_unit_files());
    machine.apply(&steps).ends_well();
    let run = machine.apply(&steps).ends_well();
    let note = run.report.steps[2].note.clone().unwrap_or_default();
    assert!(note.contains("99-mine.conf:2 (RestartSec=9 is in force, not 5)"), "{note}");
    assert_eq!(run.lines(), [""; 0]);
}

#[test]
fn masks_of_all_sorts_are_removed() {
    let masks: [fn(&Machine, &str); 3] = [
        |machine, name| machine.root.link(&format!("/run/systemd/system/{name}"), "/dev/null"),
        |machine, name| machine.root.write(&format!("/etc/systemd/system/{name}"), ""),
        |machine, name| machine.root.link(&format!("/etc/systemd/system/{name}"), "../../../dev/null"),
    ];
    for mask in masks {
        let machine = machine();
        let steps = machine.steps(&role("one"));
        machine.apply(&steps).ends_well();
        mask(&machine, NAME);
        machine.systemd.change(NAME, |unit| unit.active = Active::Inactive);
        let planned = machine.plan(&steps).ends_well().lines();
        assert!(planned[0].starts_with("unmask x.service (remove /"), "{planned:?}");
        machine.apply(&steps).ends_well();
        assert_eq!(machine.apply(&steps).ends_well().lines(), [""; 0]);
    }
}

#[test]
fn an_empty_unit_file_of_a_package_is_named() {
    let machine = machine();
    machine.root.write("/lib/systemd/system/x.service", "");
    let steps = machine.steps(&role("one"));
    for run in [machine.plan(&steps), machine.apply(&steps)] {
        let words = run.fails().to_string();
        assert!(words.contains("/lib/systemd/system/x.service masks x.service: it is empty"), "{words}");
        assert!(words.contains("apt-get install --reinstall"), "{words}");
    }
    // It matters for a unit that should start at the next boot, and for no other.
    let wish = |wish: &str| {
        machine.steps(&format!("[[step]]\nid = 'x'\nphase = 'boot'\nunit = {{ name = '{NAME}', {wish} }}\n"))
    };
    assert_eq!(machine.plan(&wish("enabled = true")).fails().kind, Kind::Unavailable);
    assert_eq!(machine.plan(&wish("enabled = false")).ends_well().states(), ["x in_sync"]);
}

#[test]
fn files_that_someone_changed_are_read_and_what_systemd_refuses_is_named() {
    let machine = machine();
    let steps = machine.steps(&role("one"));
    machine.apply(&steps).ends_well();
    machine.systemd.change(NAME, |unit| unit.needs_reload = true);
    machine.systemd.jobs();
    let line = "daemon-reload (files of x.service changed since systemd read them)";
    assert_eq!(machine.plan(&steps).ends_well().lines(), [line]);
    assert_eq!(machine.apply(&steps).ends_well().lines(), [line]);
    assert_eq!(machine.systemd.jobs(), ["daemon-reload"]);
    for load in ["bad-setting", "error"] {
        machine.systemd.change(NAME, |unit| unit.load = load.into());
        for run in [machine.plan(&steps), machine.apply(&steps)] {
            let words = run.fails().to_string();
            for part in [load, "/lib/systemd/system/x.service", "systemd-analyze verify x.service"] {
                assert!(words.contains(part), "{words}");
            }
        }
        // What the role will do about it comes first.
        machine.systemd.change(NAME, |unit| unit.needs_reload = true);
        let file =
            "[[step]]\nid = 'file'\nphase = 'boot'\nfile = { path = '/etc/systemd/system/x.service', content = 'x' }\n";
        let lines = machine.plan(&machine.steps(&format!("{file}{}", role("one")))).ends_well().lines();
        assert_eq!(lines, ["create /etc/systemd/system/x.service (0644, 1 line)"], "{load}");
        let mask = machine.root.at("/etc/systemd/system/x.service");
        machine.root.link("/etc/systemd/system/x.service", "nowhere/dev/null");
        let lines = machine.plan(&steps).ends_well().lines();
        assert_eq!(lines, ["unmask x.service (remove /etc/systemd/system/x.service)", line], "{load}");
        std::fs::remove_file(mask).unwrap();
    }
}

#[test]
fn a_unit_that_runs_with_what_another_file_said_is_restarted_once_that_is_gone() {
    let machine = machine();
    let steps = machine.steps(&role("one"));
    machine.apply(&steps).ends_well();
    let theirs = "/run/systemd/system/x.service.d/99-mine.conf";
    machine.root.write(theirs, "[Service]\nExecStart=\nExecStart=/mine\n");
    machine.apply(&steps).ends_well();
    machine.systemd.start(NAME);
    std::fs::remove_file(machine.root.at(theirs)).unwrap();
    machine.systemd.jobs();
    machine.apply(&steps).ends_well();
    assert_eq!(machine.systemd.jobs(), ["restart x.service"]);
}

#[test]
fn a_unit_that_ends_and_is_started_again_is_waited_for_until_it_stays_up() {
    let mut machine = machine();
    machine.host.deadlines.settle = Duration::from_millis(300);
    let steps = machine.steps(&role("one"));
    machine.systemd.fall(NAME, 2);
    machine.apply(&steps).ends_well();
    assert!(machine.systemd.get(NAME).is_active());
    assert_eq!((machine.systemd.get(NAME).restarts, machine.systemd.jobs()), (Some(2), vec!["start x.service".into()]));
    assert_eq!(machine.apply(&steps).ends_well().lines(), [""; 0]);
    // One that never stays up.
    machine.host.deadlines.unit = Duration::from_millis(900);
    machine.systemd.fall(NAME, usize::MAX);
    let run = machine.apply(&machine.steps(&role("two")));
    let words = run.fails().to_string();
    let parts =
        ["step 2/2 x: x.service does not stay up", "restart", "the journal of x.service since this run started it"];
    for part in parts {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(run.events.last().unwrap(), "failed x");
}

#[test]
fn a_unit_that_a_later_step_stopped_stays_up_too() {
    let starts = |times: usize, stays: bool| {
        let mut machine = machine();
        machine.host.deadlines.settle = Duration::from_millis(300);
        machine.host.deadlines.unit = Duration::from_millis(900);
        machine.apply(&machine.steps(&role("one"))).ends_well();
        machine.unit_file("y.service");
        machine.systemd.conflict("y.service", NAME);
        machine.systemd.jobs();
        let other = "[[step]]\nid = 'y'\nphase = 'boot'\nunit = { name = 'y.service', active = true }\n";
        machine.systemd.fall(NAME, times);
        let run = machine.apply(&machine.steps(&format!("{}{other}", role("one"))));
        assert_eq!(machine.systemd.jobs(), ["start y.service", "start x.service"], "{times}");
        if stays {
            run.ends_well();
            assert!(machine.systemd.get(NAME).is_active());
        } else {
            let words = run.fails().to_string();
            assert!(words.contains("step 2/3 x: x.service does not stay up"), "{words}");
            assert_eq!(run.states(), ["config in_sync", "x failed", "y changed"]);
        }
    };
    starts(0, true);
    starts(3, true);
    starts(usize::MAX, false);
}

#[test]
fn the_unit_behind_a_port_is_named_with_its_end_its_restarts_and_its_words() {
    let mut machine = machine();
    machine.unit_file("y.service");
    machine.host.deadlines.wait = Duration::from_millis(400);
    let port = "127.0.0.1:9";
    let steps = machine.steps(&format!(
        "[[step]]\nid = 'y'\nphase = 'boot'\nunit = {{ name = 'y.service', active = true }}\n{}\
         [[step]]\nid = 'port'\nphase = 'boot'\nwait = {{ tcp = '{port}' }}\n",
        role("one")
    ));
    machine.systemd.fall(NAME, usize::MAX);
    let run = machine.apply(&steps);
    let words = run.fails().to_string();
    let parts = [
        "step 4/4 port",
        "x.service is ",
        "exit status 7",
        " restarts",
        "the journal of x.service since this run started it",
    ];
    for part in parts {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(!words.contains("y.service"), "y runs well: {words}");
    // All run well: the error names the last one, with the log of its start.
    machine.systemd.fall(NAME, 0);
    machine.systemd.set(NAME, Unit::default());
    machine.systemd.start(NAME);
    let invocation = machine.systemd.get(NAME).invocation;
    let words = machine.apply(&steps).fails().to_string();
    assert!(words.contains("x.service is active (running)"), "{words}");
    assert!(words.contains(&format!("the journal of x.service of {invocation}")), "{words}");
}

#[test]
fn a_start_limit_is_not_an_obstacle() {
    let machine = machine();
    let steps = machine.steps(&role("one"));
    machine.apply(&steps).ends_well();
    machine.systemd.jobs();
    // It was restarted by hand too often, and runs.
    machine.systemd.change(NAME, |unit| unit.result = "start-limit-hit".into());
    machine.apply(&machine.steps(&role("two"))).ends_well();
    assert_eq!(machine.systemd.jobs(), ["reset-failed x.service", "restart x.service"]);
    // The next client of the socket would start its service, whose limit takes the socket down.
    machine.unit_file("x.socket");
    let limit = |result: &str| Unit { active: Active::Failed, result: result.into(), ..Unit::default() };
    machine.systemd.set(NAME, limit("start-limit-hit"));
    machine.systemd.set("x.socket", limit("service-start-limit-hit"));
    let socket = "[[step]]\nid = 'socket'\nphase = 'boot'\nunit = { name = 'x.socket', active = true }\n";
    machine.apply(&machine.steps(socket)).ends_well();
    assert_eq!(machine.systemd.jobs(), ["reset-failed x.socket", "reset-failed x.service", "start x.socket"]);
}

/// A start that has not succeeded yet, because systemd is still starting the unit, or is about to start it again.
#[test]
fn a_start_is_followed_to_its_end() {
    let on_its_way = |active, sub: &str| Unit { active, sub: sub.into(), ..Unit::default() };
    for (unit, is_failure) in [
        (on_its_way(Active::Activating, "start"), false),
        (on_its_way(Active::Activating, "auto-restart"), true),
        (on_its_way(Active::Deactivating, "stop-post"), true),
    ] {
        let machine = self::machine();
        let steps = machine.steps(&role("one"));
        machine.systemd.next_start(NAME, unit.clone(), is_failure);
        // The unit comes up after a look at it.
        machine.systemd.fall(NAME, 0);
        machine.apply(&steps).ends_well();
        assert_eq!(machine.systemd.jobs(), ["start x.service"], "{unit:?}");
        assert!(machine.systemd.get(NAME).is_active(), "{unit:?}");

        // It never does.
        let mut machine = self::machine();
        machine.host.deadlines.unit = Duration::from_millis(100);
        machine.systemd.next_start(NAME, unit.clone(), is_failure);
        let words = machine.apply(&machine.steps(&role("one"))).fails().to_string();
        assert!(words.contains("x.service does not stay up: waited 100ms for x.service to stay up"), "{words}");
    }
    // One that has ended failed.
    let machine = machine();
    machine.systemd.next_start(NAME, on_its_way(Active::Failed, "failed"), true);
    assert!(machine.apply(&machine.steps(&role("one"))).fails().to_string().contains("job of x.service"));
}

#[test]
fn a_start_that_only_the_limit_refused_is_made_after_a_reset() {
    let machine = machine();
    let limit = Unit { active: Active::Failed, result: "start-limit-hit".into(), ..Unit::default() };
    machine.systemd.next_start(NAME, limit, true);
    machine.apply(&machine.steps(&role("one"))).ends_well();
    assert_eq!(machine.systemd.jobs(), ["start x.service", "reset-failed x.service", "start x.service"]);
}

#[test]
fn a_service_whose_socket_has_nothing_to_pass_on_is_started_with_it() {
    let machine = || {
        let machine = self::machine();
        machine.unit_file("x.socket");
        machine.systemd.start("x.socket");
        machine
    };
    let one = machine();
    one.systemd.next_start(NAME, Unit { active: Active::Failed, ..Unit::default() }, true);
    one.apply(&one.steps(&role("one"))).ends_well();
    let jobs = ["start x.service", "reset-failed x.service", "restart x.socket", "start x.service"];
    assert_eq!(one.systemd.jobs(), jobs);
    // It started, and ended at once; or the failed starts took the socket down, too.
    let one = machine();
    one.systemd.next_start(NAME, Unit::default(), false);
    one.apply(&one.steps(&role("one"))).ends_well();
    assert_eq!(one.systemd.jobs(), jobs);
    let one = machine();
    one.systemd.next_start(NAME, Unit { active: Active::Failed, ..Unit::default() }, true);
    one.systemd.set("x.socket", Unit { active: Active::Failed, ..Unit::default() });
    one.apply(&one.steps(&role("one"))).ends_well();
    assert!(one.systemd.jobs().contains(&"restart x.socket".to_owned()));
    // A socket that is off has nothing to do with it.
    let one = machine();
    one.systemd.set("x.socket", Unit::default());
    one.systemd.next_start(NAME, Unit { active: Active::Failed, ..Unit::default() }, true);
    one.apply(&one.steps(&role("one"))).fails();
    assert_eq!(one.systemd.jobs(), ["start x.service"]);
    // A signal ends the run.
    let other = machine();
    other.systemd.fail(NAME, Kind::Interrupted);
    assert_eq!(other.apply(&other.steps(&role("one"))).fails().kind, Kind::Interrupted);
    assert_eq!(other.systemd.jobs(), ["start x.service"]);
}

#[test]
fn the_service_of_a_timer_that_failed_last_time_is_started_again() {
    let machine = Machine::new();
    for name in ["x.timer", "x.service"] {
        machine.unit_file(name);
    }
    machine.systemd.start("x.timer");
    machine.systemd.set(NAME, Unit { active: Active::Failed, ..Unit::default() });
    let wish = |wish: &str| {
        machine.steps(&format!("[[step]]\nid = 'x'\nphase = 'boot'\nunit = {{ name = 'x.timer', {wish} }}\n"))
    };
    // The timer of such a step may be off.
    assert_eq!(machine.plan(&wish("enabled = false")).ends_well().lines(), [""; 0]);
    let steps = wish("active = true");
    let line = "start x.service, which x.timer starts and which failed last time";
    assert_eq!(machine.plan(&steps).ends_well().lines(), [line]);
    assert_eq!(machine.apply(&steps).ends_well().lines(), [line]);
    assert_eq!(machine.systemd.jobs(), ["reset-failed x.service", "start x.service"]);
    assert_eq!(machine.apply(&steps).ends_well().lines(), [""; 0]);
}

/// A file that the unit reads at its start and at a reload, and one that it reads at its start alone.
const RELOADED: &str = "[[step]]\nid = 'config'\nphase = 'boot'\nfile = { path = '/etc/x.conf', content = 'A=1' }\n\
     [[step]]\nid = 'flags'\nphase = 'boot'\nfile = { path = '/etc/x.env', content = 'B=1' }\n\
     [[step]]\nid = 'x'\nphase = 'boot'\nunit = { name = 'x.service', active = true, restart_on = ['flags'], reload_on = ['config'] }\n";

#[test]
fn a_unit_is_reloaded_where_its_role_says_so_and_restarted_otherwise() {
    let machine = Machine::new();
    let unit = "[Service]\nExecStart=/bin/true\nExecReload=/bin/kill -HUP $MAINPID\n";
    machine.root.write("/lib/systemd/system/x.service", unit);
    let apply = |role: &str| {
        let run = machine.apply(&machine.steps(role)).ends_well();
        (run.lines().last().cloned().unwrap_or_default(), machine.systemd.jobs())
    };
    assert_eq!(apply(RELOADED).1, ["start x.service"]);
    assert_eq!(apply(RELOADED).1, [""; 0]);
    let other = RELOADED.replace("A=1", "A=2");
    let planned = machine.plan(&machine.steps(&other)).ends_well().lines();
    assert_eq!(planned.last().unwrap(), "reload x.service (its files will have changed)");
    let due = "reload x.service (its files changed since its last start or reload)";
    assert_eq!(apply(&other), (due.to_owned(), vec!["reload x.service".to_owned()]));
    assert_eq!(apply(&other).1, [""; 0]);
    // A restart reads both.
    let both = other.replace("A=2", "A=3").replace("B=1", "B=2");
    assert_eq!(apply(&both).1, ["restart x.service"]);
    assert_eq!(apply(&both).1, [""; 0]);
    // The next run catches up on one that ends between the file and the reload.
    machine.root.write("/etc/x.conf", "A=4");
    let last = both.replace("A=3", "A=4");
    assert_eq!(apply(&last).1, ["reload x.service"]);
}

#[test]
fn a_unit_that_cannot_be_reloaded_is_refused_before_anything_is_changed() {
    let machine = Machine::new();
    machine.unit_file("x.service");
    let steps = machine.steps(RELOADED);
    for run in [machine.plan(&steps), machine.apply(&steps)] {
        let error = run.fails();
        assert_eq!(error.kind, Kind::Unavailable);
        assert!(error.what.contains("x.service cannot be reloaded: it has no ExecReload="), "{error}");
        assert!(error.fix.as_ref().unwrap().contains("restart_on"), "{error}");
    }
    assert!(!machine.root.at("/etc/x.conf").exists());
    // An earlier step can say how, in a drop-in.
    let drop_in = "[[step]]\nid = 'how'\nphase = 'boot'\n\
         file = { path = '/etc/systemd/system/x.service.d/50-how.conf', content = \"[Service]\\nExecReload=/bin/true\\n\" }\n";
    machine.apply(&machine.steps(&format!("{drop_in}{RELOADED}"))).ends_well();
    let notifies = drop_in.replace("ExecReload=/bin/true", "Type=notify-reload");
    machine.plan(&machine.steps(&format!("{notifies}{RELOADED}"))).ends_well();
    let notifies = drop_in.replace("ExecReload=/bin/true", "Type=notify");
    machine.plan(&machine.steps(&format!("{notifies}{RELOADED}"))).fails();
    // And take it away.
    let none = drop_in.replace("/bin/true", "");
    let words = machine.plan(&machine.steps(&format!("{none}{RELOADED}"))).fails().to_string();
    assert!(words.contains("it has no ExecReload="), "{words}");
    for (from, to, expected) in [
        ("['config']", "['flags']", "restart_on and reload_on both name \"flags\""),
        ("['config']", "['confg']", "reload_on names \"confg\""),
        ("'x.service'", "'x.timer'", "x.timer cannot be reloaded: it is not a service"),
        ("/etc/x.conf", "/etc/systemd/system/x.service", "and a reload does not change that"),
    ] {
        let error = machine.try_steps(&RELOADED.replace(from, to)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
