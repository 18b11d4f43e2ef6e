//! apt with other sources next to those of the settings, and apt's messages about a list that it cannot get.

use titus_bootstrap::error::Kind;

use crate::support::door::{listen, serve_http};
use crate::support::simulated::Machine;

const LIST: &str = "/etc/apt/sources.list.d/docker.list";
const OURS: &str = "/etc/apt/sources.list.d/titus-bootstrap-x.sources";

/// A source of packages, and a package.
const ROLE: &str = "[[step]]\nid = 'sources'\nphase = 'bake'\n\
    apt_source = { distribution = 'debian', codename = 'bookworm', sources = [{ name = 'x', uris = ['http://d.example/debian'], suites = ['x'], \
    components = ['main'], key = '/key.asc' }] }\n\
    [[step]]\nid = 'packages'\nphase = 'bake'\npackage = { names = ['jq'], setting = 'packages.base' }\n";

fn machine() -> Machine {
    let machine = Machine::new();
    machine.root.write("/key.asc", include_str!("../../data/key.asc"));
    machine.offer("jq", "1.6");
    machine
}

#[test]
fn a_repository_of_another_file_is_refused_or_taken_over() {
    for theirs in [
        "deb [signed-by=/docker.asc] http://d.example/debian x main",
        "deb-src [signed-by=/docker.asc] https://d.example/debian/ x main",
        "deb [trusted=yes] http://user:secret@d.example/debian x main",
    ] {
        let mut machine = machine();
        let list = format!("# theirs\n{theirs}\ndeb http://other x main\n");
        machine.root.write(LIST, &list);
        let steps = machine.steps(ROLE);
        for run in [machine.plan(&steps), machine.apply(&steps)] {
            let words = run.fails().to_string();
            assert_eq!(run.fails().kind, Kind::Unavailable);
            assert!(words.contains(LIST) && words.contains("d.example/debian"), "{words}");
            assert!(words.contains("--set apt.take_over=true") && !words.contains("secret"), "{words}");
            assert!(!machine.root.at(OURS).exists());
        }
        machine.host.apt.take_over = true;
        // The run reads the lists for the future files.
        machine.prepend("apt-get", "case \"$*\" in *update*) cp $ROOT/var/cache/titus-bootstrap/apt/etc/apt/sources.list.d/docker.list $ROOT/seen;; esac");
        let lines = machine.plan(&steps).ends_well().lines();
        let line = lines.iter().find(|line| line.contains("apt.take_over")).unwrap();
        assert!(line.contains("d.example/debian") && line.contains(LIST), "{line}");
        assert_eq!(machine.root.read(LIST), list, "a plan changes nothing");
        assert_eq!(machine.apply(&steps).ends_well().lines(), lines);
        let taken = format!("# theirs\n#titus-bootstrap: {theirs}\ndeb http://other x main\n");
        assert_eq!((machine.root.read(LIST), machine.root.read("/seen")), (taken.clone(), taken));
        assert_eq!(machine.apply(&steps).ends_well().states(), ["sources in_sync", "packages in_sync"]);
        // The undo command in the plan works.
        let undo = line.split("to undo: ").nth(1).unwrap().trim_end_matches(')');
        let undo = undo.replace(LIST, &machine.root.at(LIST).display().to_string());
        assert!(std::process::Command::new("sh").args(["-c", &undo]).status().unwrap().success());
        assert_eq!(machine.root.read(LIST), list);
    }
}

#[test]
fn disabled_and_ignored_sources_contradict_nothing_and_a_stanza_of_several_is_left_alone() {
    let stanza = "Types: deb\nURIs: http://d.example/debian\nSuites: x\nComponents: main\nSigned-By: /docker.asc\n";
    for (name, text, ends_well) in [
        ("docker.sources", format!("{stanza}Enabled: no\n"), true),
        ("docker.sources.disabled", stanza.to_owned(), true),
        ("my docker.sources", stanza.to_owned(), true),
        ("docker.sources", stanza.to_owned(), true),
        ("docker.sources", stanza.replace("Suites: x", "Suites: x y"), false),
    ] {
        let mut machine = machine();
        machine.host.apt.take_over = true;
        machine.root.write(&format!("/etc/apt/sources.list.d/{name}"), text);
        let run = machine.apply(&machine.steps(ROLE));
        if ends_well {
            run.ends_well();
        } else {
            let words = run.fails().to_string();
            assert!(
                words.contains("the same stanza names http://d.example/debian/ y, so apt.take_over does not change it"),
                "{words}"
            );
        }
    }
}

#[test]
fn a_source_that_breaks_apt_is_undone() {
    let machine = machine();
    machine.root.write(OURS, "# of an earlier run\n");
    machine.root.write("/etc/apt/sources.list.d/titus-bootstrap-old.sources", "# old\n");
    let broken = format!(
        "case \"$*\" in indextargets) if grep -q d.example $ROOT{OURS}; then \
         echo 'E: Malformed stanza 1 in source list {OURS} (URI parse)'; echo 'E: The list of sources could not be read.'; exit 100; fi;; esac"
    );
    machine.prepend("apt-get", &broken);
    let run = machine.apply(&machine.steps(ROLE));
    let words = run.fails().to_string();
    assert!(words.contains("so the run removed them again") && words.contains("Malformed stanza 1"), "{words}");
    assert_eq!(machine.root.read(OURS), "# of an earlier run\n");
    assert_eq!(machine.root.read("/etc/apt/sources.list.d/titus-bootstrap-old.sources"), "# old\n");
    assert!(!machine.root.at("/etc/apt/keyrings/titus-bootstrap-x.gpg").exists());
}

#[test]
fn sources_that_apt_cannot_read_are_refused_with_the_operator_s_file() {
    let machine = machine();
    machine.root.write(LIST, "deb http://other\n");
    let malformed = |place: &str| {
        format!(
            "echo 'E: Malformed entry 1 in list file {place}{LIST} (Suite)' >&2; echo 'E: The list of sources could not be read.' >&2; exit 100"
        )
    };
    let private = malformed("/var/cache/titus-bootstrap/apt");
    machine.prepend("apt-get", &format!("case \"$*\" in indextargets) {};; *update) {private};; esac", malformed("")));
    let all = machine.steps(ROLE);
    let (sources, package) = all.split_at(1);
    for run in
        [machine.plan(&all), machine.apply(&all), machine.plan(sources), machine.apply(sources), machine.apply(package)]
    {
        let words = run.fails().to_string();
        assert_eq!(run.fails().kind, Kind::Unavailable, "{words}");
        assert!(words.contains(&format!("Malformed entry 1 in list file {LIST} (Suite)")), "{words}");
        assert!(!words.contains("/var/cache") && !words.contains("removed them again"), "{words}");
    }
    assert!(!machine.root.at(OURS).exists());
}

const UNREADABLE: &str =
    "E: Malformed entry 1 in list file /etc/apt/sources.list.d/x (Suite)\nE: The list of sources could not be read.\n";

#[test]
fn an_own_source_that_breaks_apt_is_removed_if_it_is_no_longer_wanted() {
    let machine = machine();
    let old = "/etc/apt/sources.list.d/titus-bootstrap-old.sources";
    machine.root.write(old, "no source\n");
    machine.root.write("/words", UNREADABLE);
    machine.prepend("apt-get", &format!("if test -e $ROOT{old}; then cat $ROOT/words >&2; exit 100; fi"));
    let steps = machine.steps(ROLE);
    let lines = machine.plan(&steps[..1]).ends_well().lines();
    assert_eq!(lines[1], format!("remove {old}"));
    assert_eq!(machine.apply(&steps[..1]).ends_well().lines(), lines);
    assert!(machine.root.at(OURS).exists() && !machine.root.at(old).exists());
}

#[test]
fn a_source_is_written_where_apt_is_not_installed() {
    let machine = machine();
    std::fs::remove_file(machine.root.at("/usr/bin/apt-get")).unwrap();
    machine.root.write("/words", UNREADABLE);
    machine.command("apt-get", "cat $ROOT/words >&2; exit 100");
    let steps = machine.steps(ROLE);
    machine.plan(&steps[..1]).ends_well();
    assert_eq!(machine.apply(&steps[..1]).ends_well().states(), ["sources changed"]);
    assert!(machine.root.at(OURS).exists());
}

#[test]
fn a_source_is_for_all_users_unless_its_address_has_a_password() {
    use std::os::unix::fs::PermissionsExt;
    let machine = machine();
    let mode = |path: &str| machine.root.at(path).metadata().unwrap().permissions().mode() & 0o7777;
    for (address, expected) in [("http://d.example/debian", 0o644), ("http://user:secret@d.example/debian", 0o600)] {
        let steps = machine.steps(&ROLE.replace("http://d.example/debian", address));
        machine.apply(&steps).ends_well();
        assert_eq!((mode(OURS), mode("/etc/apt/keyrings/titus-bootstrap-x.gpg")), (expected, 0o644), "{address}");
        std::fs::set_permissions(machine.root.at(OURS), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(machine.apply(&steps).ends_well().states(), ["sources changed", "packages in_sync"], "{address}");
        assert_eq!(mode(OURS), expected, "{address}");
    }
}

#[test]
fn a_downloaded_key_must_match_its_pin() {
    let machine = machine();
    let listener = listen(0);
    let address = listener.local_addr().unwrap();
    let _server = serve_http(listener, |_| (200, String::new(), include_str!("../../data/key.asc")));
    let with_sum = |sum: &str| {
        let key = format!("key = {{ url = 'http://{address}/key.asc', sha256 = '{sum}' }}");
        machine.steps(&ROLE.replace("key = '/key.asc'", &key))
    };
    let run = machine.apply(&with_sum(&"0".repeat(64))[..1]);
    let words = run.fails().to_string();
    assert_eq!(run.fails().kind, Kind::Config, "{words}");
    assert!(words.contains("apt.sources: key of x does not match its pin"), "{words}");
    assert!(!machine.root.at(OURS).exists());
    // The message has the sum of the key.
    let sum = words.split_whitespace().find(|word| word.len() == 64).unwrap();
    assert_eq!(machine.apply(&with_sum(sum)[..1]).ends_well().states(), ["sources changed"]);
    assert_eq!(machine.apply(&with_sum(sum)[..1]).ends_well().states(), ["sources in_sync"]);
}

#[test]
fn a_configuration_or_preferences_that_apt_cannot_read_are_refused() {
    for (command, asked, line) in [
        ("apt-get", "*update", "E: Syntax error /etc/apt/apt.conf.d/99x:1: Extra junk after value"),
        ("apt-cache", "*", "E: Invalid record in the preferences file /etc/apt/preferences.d/x, no Package header"),
    ] {
        let machine = machine();
        machine.prepend(command, &format!("case \"$*\" in {asked}) echo '{line}' >&2; exit 100;; esac"));
        let run = machine.apply(&machine.steps(ROLE));
        let words = run.fails().to_string();
        assert_eq!((run.fails().kind, run.events.len()), (Kind::Unavailable, 0), "{words}");
        assert!(words.contains(line), "{words}");
    }
}

#[test]
fn the_line_of_apt_that_decides_is_shown_and_decides_the_exit_code() {
    const UNSIGNED: &str = "E: The repository http://d.example x InRelease is not signed.";
    for (line, kind, fix) in [
        (
            "W: GPG error: http://d.example x InRelease: The following signatures were invalid: EXPKEYSIG 8C94AF24AB41BDE2 a",
            Kind::Config,
            "set its key in apt.sources",
        ),
        (
            "W: GPG error: http://d.example x InRelease: NO_PUBKEY 8515DBB55FD21F33",
            Kind::Config,
            "set its key in apt.sources",
        ),
        (
            "W: http://d.example x InRelease: The key(s) in the keyring /var/cache/titus-bootstrap/apt/etc/apt/keyrings/titus-bootstrap-x.gpg are ignored as the file is not readable",
            Kind::Config,
            "set its key",
        ),
        (
            "E: Release file for http://d.example is not valid yet (invalid for another 5h).",
            Kind::TemporaryFailure,
            "check the clock",
        ),
        (
            "E: Release file for http://d.example is expired (invalid since 5d).",
            Kind::TemporaryFailure,
            "check the clock",
        ),
        (
            "E: Failed to fetch http://d.example/InRelease  Could not connect to d.example:80",
            Kind::TemporaryFailure,
            "proxy.*",
        ),
        (
            "W: GPG error: http://d.example x InRelease: Could not create temporary file /tmp/apt.conf.k3PXqs for passing config to apt-key",
            Kind::Unavailable,
            "mkdir -m 1777 /tmp",
        ),
    ] {
        let machine = machine();
        machine.root.write("/srv/sources", "");
        machine.prepend("apt-get", &format!("case \"$*\" in *update) printf 'Get:1 x\\nErr:1 x\\n'; echo '{line}'; echo '{UNSIGNED}'; exit 100;; esac"));
        let run = machine.apply(&machine.steps(ROLE));
        let words = run.fails().to_string();
        assert_eq!(run.fails().kind, kind, "{words}");
        assert!(
            words.contains(&line.replace("/var/cache/titus-bootstrap/apt", "")) && words.contains(UNSIGNED),
            "{words}"
        );
        assert!(words.contains(fix) && !words.contains("/var/cache") && !words.contains("Get:1"), "{words}");
        assert!(!machine.root.at(OURS).exists());
    }
}

/// A package alone.
const PACKAGE: &str =
    "[[step]]\nid = 'packages'\nphase = 'bake'\npackage = { names = ['jq'], setting = 'packages.base' }\n";

#[test]
fn a_package_is_removed_only_if_a_setting_names_it() {
    // In a simulation apt reports the removal; in an installation it removes if it may.
    const CONFLICT: &str = "case \"$*\" in \
         *--simulate*) if grep -q ^theirs $DPKG; then echo 'Remv theirs [1]'; fi; exit 0;; \
         *--no-remove*' install -- '*) printf 'The following packages will be REMOVED:\n  theirs\nE: Packages need to be removed but remove is disabled.\n'; exit 100;; \
         *' install -- '*) sed -i '/^theirs/d' $DPKG;; esac";
    let mut machine = machine();
    machine.install("theirs", "1", "installed");
    machine.prepend("apt-get", CONFLICT);
    let steps = machine.steps(PACKAGE);
    for allowed in [&[][..], &["other"]] {
        machine.host.apt.may_remove = allowed.iter().map(|name| (*name).to_owned()).collect();
        let run = machine.apply(&steps);
        let words = run.fails().to_string();
        assert_eq!((run.fails().kind, run.events.len()), (Kind::Unavailable, 0), "{words}");
        assert!(words.contains("apt would remove theirs to install jq"), "{words}");
        assert!(words.contains("--set 'apt.may_remove=[\"theirs\"]'"), "{words}");
        assert_eq!(machine.installed("theirs"), "1 installed install");
    }
    machine.host.apt.may_remove = vec!["theirs".into()];
    let lines = ["install jq (is not installed)", "remove theirs, which conflicts with them (apt.may_remove)"];
    assert_eq!(machine.plan(&steps).ends_well().lines(), lines);
    assert_eq!(machine.apply(&steps).ends_well().lines(), lines);
    assert_eq!((machine.installed("theirs").as_str(), machine.installed("jq").as_str()), ("", "1.6 installed install"));
    // If apt does not know, the plan lists the possible removals.
    let mut machine = self::machine();
    machine.host.apt.may_remove = vec!["theirs".into(), "gone".into()];
    machine.install("theirs", "1", "installed");
    machine.prepend("apt-get", "case \"$*\" in *--simulate*) echo 'E: Unable to locate package jq'; exit 100;; esac");
    let lines = machine.plan(&machine.steps(PACKAGE)).ends_well().lines();
    assert_eq!(lines[1], "remove theirs, if apt requires it (apt.may_remove)");
}

#[test]
fn another_s_package_that_fails_matters_only_if_what_is_wanted_is_not_there() {
    const FAILED: &str =
        "Errors were encountered while processing:\n theirs\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n";
    const AGAIN: &str = "E: The package theirs needs to be reinstalled, but I can't find an archive for it.\n";
    const UNMET: &str =
        "The following packages have unmet dependencies:\n theirs : Depends: nothing but it is not installable\n";
    for (words, installs, state) in [
        (FAILED, true, "half-configured"),
        (FAILED, false, "half-configured"),
        (AGAIN, false, "half-installed"),
        (UNMET, false, "installed"),
    ] {
        let machine = machine();
        machine.install("theirs", "1", state);
        machine.root.write("/words", words);
        let install = if installs { "printf 'jq\t1.6\tinstalled\tinstall\n' >>$DPKG;" } else { "" };
        let fails =
            format!("case \"$*\" in *--simulate*) ;; *' install '*) {install} cat $ROOT/words; exit 100;; esac");
        machine.prepend("apt-get", &fails);
        let run = machine.apply(&machine.steps(PACKAGE));
        if installs {
            assert_eq!(run.ends_well().states(), ["packages changed"]);
            continue;
        }
        let error = run.fails().to_string();
        assert!(error.contains("apt failed because of theirs, which this run did not ask for"), "{error}");
        assert!(error.contains("dpkg --purge --force-remove-reinstreq theirs"), "{error}");
        assert!(error.contains(words.lines().last().unwrap().trim()), "{error}");
    }
    // A package that the run itself asked for counts as its own.
    let machine = machine();
    machine.root.write("/words", FAILED.replace("theirs", "jq"));
    machine.prepend("apt-get", "case \"$*\" in *--simulate*) ;; *' install '*) printf 'jq\t1.6\thalf-configured\tinstall\n' >>$DPKG; cat $ROOT/words; exit 100;; esac");
    let run = machine.apply(&machine.steps(PACKAGE));
    assert!(run.fails().to_string().contains("`apt-get --yes"), "{}", run.fails());
}

#[test]
fn what_is_wrong_with_the_directory_of_temporary_files_is_named() {
    use std::os::unix::fs::PermissionsExt;
    const LINE: &str = "W: GPG error: http://d.example x InRelease: Could not create temporary file /tmp/apt.conf.k3PXqs for passing config to apt-key";
    let machine = machine();
    machine.root.write("/srv/sources", "");
    machine.prepend("apt-get", &format!("case \"$*\" in *update) echo '{LINE}'; exit 100;; esac"));
    let steps = machine.steps(ROLE);
    let tmp = machine.root.at("/tmp");
    let set = |mode| std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(mode)).unwrap();
    type Make<'a> = (&'a dyn Fn(), &'a str);
    let makes: [Make<'_>; 4] = [
        (&|| (), "mkdir -m 1777 /tmp"),
        (
            &|| {
                std::fs::create_dir(&tmp).unwrap();
                set(0o755);
            },
            "chmod 1777 /tmp",
        ),
        (&|| set(0o1777), "df /tmp"),
        (
            &|| {
                std::fs::remove_dir(&tmp).unwrap();
                machine.root.write("/tmp", "a file");
            },
            "df /tmp",
        ),
    ];
    for (make, fix) in makes {
        make();
        let words = machine.plan(&steps).fails().to_string();
        assert!(words.contains("apt cannot create temporary files in /tmp, so it cannot check signatures"), "{words}");
        assert!(words.contains(fix), "{words}");
    }
}
