//! Messages of apt and dpkg about failures that a run must distinguish. Both have only one exit status for all
//! failures.

use crate::host::command::Output;

/// The most packages, or lines about them, that are read from an output.
const MOST: usize = 1000;

/// The kinds of complaints in an output; a failed command may have several, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Complaints {
    /// Another process has a lock, or changed dpkg's status while apt read it: a later try may succeed.
    pub busy: bool,
    /// dpkg was interrupted, or a dependency of an installed package is missing: a repair must come first.
    pub broken: bool,
    /// The command would have removed a package, which is not allowed.
    pub removal: bool,
    /// No source has a dependency of a package.
    pub unmet: bool,
    /// dpkg did not configure a package, because it was interrupted while it unpacked the package.
    pub reinstall: bool,
}

impl Complaints {
    /// Finds the complaints in an output in the C locale.
    pub fn find(output: &str) -> Complaints {
        let has = |words: &[&str]| words.iter().any(|words| output.contains(words));
        Complaints {
            // apt: "Could not get lock …", "Cache is out of sync, can't x-ref a package file", "Package file … is out
            // of sync."; dpkg: "… is locked by another process", since 1.20 "… was locked by another process".
            busy: has(&["Could not get lock", "locked by another process", "is out of sync"]),
            broken: has(&["dpkg --configure -a", "--fix-broken"]),
            removal: has(&["remove is disabled"]),
            unmet: has(&["unmet dependencies", "dependency problems"]),
            reinstall: has(&["very bad inconsistent state"]),
        }
    }
}

/// Why apt could not update a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The network, or a repository that may be available later.
    Network,
    /// The period of validity of a repository, or the node's clock.
    Date,
    /// A signature that the source's key does not verify.
    Key,
    /// apt could not create a temporary file, so it checked no signature.
    Temporary,
}

/// apt's messages about lists that it could not update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The lines about these lists.
    pub lines: String,
    /// The reason; another try may help if one of the lines is about the network.
    pub fault: Fault,
}

/// The messages of `apt-get update` about lists that it could not update. Its exit status does not show that, because
/// it is 0 if there are old lists.
pub fn refused_lists(output: &Output) -> Option<Refused> {
    let lines: Vec<&str> = output.both.lines().filter(|line| has_reason(line)).map(without_stack).collect();
    if lines.is_empty() && output.status.success() {
        return None;
    }
    Some(Refused { fault: first_fault(&lines), lines: lines.join("\n") })
}

/// apt's messages about files in /etc/apt that it cannot read: its sources, configuration or preferences.
pub fn unreadable_files(output: &str) -> Vec<&str> {
    let errors: Vec<&str> = output.lines().filter(|line| line.starts_with("E: ")).take(MOST).collect();
    let signs = ["The list of sources could not be read", "Syntax error ", "preferences file ", "/etc/apt/preferences"];
    if !errors.iter().any(|line| signs.iter().any(|sign| line.contains(sign))) {
        return Vec::new();
    }
    errors.into_iter().filter(|line| !line.contains(signs[0])).collect()
}

/// Whether a line of `apt-get update` has the reason why a list was not updated. Many lines only follow from another
/// one.
fn has_reason(line: &str) -> bool {
    // apt 3.0, of Debian 13, verifies signatures with sqv instead of gpgv, and has other words for it.
    const STARTS: [&str; 6] = [
        "W: GPG error",
        "W: OpenPGP signature verification failed",
        "W: Failed",
        "W: An error occurred",
        "W: Couldn't",
        "W: Could not",
    ];
    let is_cause = STARTS.iter().any(|start| line.starts_with(start));
    line.starts_with("E: ") || is_cause || (line.starts_with("W: ") && line.contains("keyring"))
}

/// The line without the stack that sqv adds to some of its messages.
fn without_stack(line: &str) -> &str {
    line.split_once("  Stack backtrace:").map_or(line, |(message, _)| message.trim_end())
}

fn first_fault(lines: &[&str]) -> Fault {
    let faults: Vec<Fault> = lines.iter().filter_map(|line| fault_of(line)).collect();
    // Faults that a later try may fix come first, because the others may belong to another source than the missing one.
    let order = [Fault::Network, Fault::Date, Fault::Temporary, Fault::Key];
    order.into_iter().find(|fault| faults.contains(fault)).unwrap_or(Fault::Network)
}

fn fault_of(line: &str) -> Option<Fault> {
    let has = |words: &[&str]| words.iter().any(|words| line.contains(words));
    if has(&["temporary file", "Unable to mkstemp", "Splitting up"]) {
        Some(Fault::Temporary)
    } else if has(&["is expired", "is not valid yet", "Not live until"]) {
        Some(Fault::Date)
    } else if has(&["NOSPLIT"]) {
        // A captive portal answered instead of the repository.
        Some(Fault::Network)
    } else if has(&[
        "NO_PUBKEY",
        "KEYSIG",
        "BADSIG",
        "KEYEXPIRED",
        "invalid signature",
        "signatures were invalid",
        "couldn't be verified",
        "keyring",
        "GPG error",
        "OpenPGP signature verification failed",
        "sqv returned an error code",
        "is not signed",
        "is no longer signed",
    ]) {
        Some(Fault::Key)
    } else if has(&["index files failed to download"]) {
        None
    } else {
        Some(Fault::Network)
    }
}

/// The packages that dpkg could not configure, unpack or remove; dpkg and apt list them at the end.
pub fn failed_packages(output: &str) -> Vec<&str> {
    let lines = output.lines().skip_while(|line| *line != "Errors were encountered while processing:").skip(1);
    let names = lines.take_while(|line| line.starts_with(' ')).map(str::trim);
    names.map(|name| name.split(':').next().unwrap_or(name)).take(MOST).collect()
}

/// Packages that prevent apt from working: those that failed, that apt cannot reinstall, or whose dependencies are
/// missing.
pub fn blockers(output: &str) -> Vec<String> {
    let to_reinstall = |line: &str| -> Option<String> {
        let (name, _) = line.strip_prefix("E: The package ")?.split_once(" needs to be reinstalled")?;
        Some(name.to_owned())
    };
    let start = "The following packages have unmet dependencies:";
    let unmet = output.lines().skip_while(|line| *line != start).skip(1).take_while(|line| line.starts_with(' '));
    let unmet = unmet.filter_map(|line| Some(line.split_once(" : ")?.0.trim()));
    let names = failed_packages(output)
        .into_iter()
        .chain(unmet)
        .map(str::to_owned)
        .chain(output.lines().filter_map(to_reinstall));
    names.map(|name| name.split(':').next().unwrap_or_default().to_owned()).take(MOST).collect()
}

/// The packages that `apt-get --simulate` would remove: `Remv docker.io [20.10]`.
pub fn removals(output: &str) -> Vec<String> {
    let name = |line: &str| Some(line.strip_prefix("Remv ")?.split([' ', ':']).next()?.to_owned());
    output.lines().filter_map(name).take(MOST).collect()
}

/// apt's list of packages that it would remove, in one line.
pub fn to_be_removed(output: &str) -> String {
    let lines = output.lines().skip_while(|line| *line != "The following packages will be REMOVED:").skip(1);
    let names = lines.take_while(|line| line.starts_with(' ')).flat_map(str::split_whitespace);
    let names: Vec<&str> = names.map(|name| name.trim_end_matches('*')).collect();
    if names.is_empty() { "other packages".to_owned() } else { names.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_removed_is_named() {
        let output = "Reading…\nThe following packages will be REMOVED:\n  docker.io runc*\n  containerd\nThe following NEW packages will be installed:\n  docker-ce\n";
        assert_eq!(to_be_removed(output), "docker.io runc containerd");
        assert_eq!(to_be_removed("E: x"), "other packages");
    }

    #[test]
    fn the_line_with_the_reason_is_found_and_only_a_network_fault_allows_another_try() {
        // Output of apt 2.6 and dpkg 1.21.
        const NO_KEY: &str = "W: GPG error: http://d x InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 8515DBB55FD21F33";
        const UNSIGNED: &str = "E: The repository 'http://d x InRelease' is not signed.";
        const MISSING_KEY: &str = "W: OpenPGP signature verification failed: http://d x InRelease: Sub-process /usr/bin/sqv returned an error code (1), error message is: Missing key 4276222F3A76DBE217113B2ECC7808C8BEB6F99E, which is needed to verify signature.";
        const FETCH: &str = "E: Failed to fetch http://e/x/Packages  Could not connect to e:80";
        for (lines, fault) in [
            (vec![NO_KEY, UNSIGNED], Fault::Key),
            (
                vec![
                    "W: GPG error: http://d x InRelease: The following signatures were invalid: EXPKEYSIG 8C94 a",
                    UNSIGNED,
                ],
                Fault::Key,
            ),
            (
                vec![
                    "W: An error occurred during the signature verification. The repository is not updated and the previous index files will be used. GPG error: http://d x InRelease: The following signatures were invalid: BADSIG 8515",
                    "W: Some index files failed to download. They have been ignored, or old ones used instead.",
                ],
                Fault::Key,
            ),
            (vec!["E: The repository 'http://d x Release' is not signed."], Fault::Key),
            (vec![UNSIGNED], Fault::Key),
            (
                vec![
                    "W: http://d/InRelease: The key(s) in the keyring /k.gpg are ignored as the file is not readable by user '_apt'",
                    NO_KEY,
                ],
                Fault::Key,
            ),
            (vec![NO_KEY, UNSIGNED, FETCH], Fault::Network),
            (vec![FETCH], Fault::Network),
            (
                vec![
                    "E: Failed to fetch http://d/InRelease  Clearsigned file isn't valid, got 'NOSPLIT' (does the network require authentication?)",
                    UNSIGNED,
                ],
                Fault::Network,
            ),
            (vec!["E: The repository 'http://d x Release' does not have a Release file."], Fault::Network),
            (
                vec![
                    "E: Release file for http://d/InRelease is expired (invalid since 5d 2h). Updates for this repository will not be applied.",
                ],
                Fault::Date,
            ),
            (
                vec![
                    "E: Release file for http://d/InRelease is not valid yet (invalid for another 5h). Updates for this repository will not be applied.",
                ],
                Fault::Date,
            ),
            (
                vec![
                    "W: GPG error: http://d x InRelease: Couldn't create temporary file /tmp/apt.conf.k3PXqs for passing config to apt-key",
                    UNSIGNED,
                ],
                Fault::Temporary,
            ),
            (
                vec![
                    "W: GPG error: http://d x InRelease: Splitting up /var/lib/apt/lists/partial/x into data and signature failed",
                    UNSIGNED,
                ],
                Fault::Temporary,
            ),
            // Output of apt 3.0.
            (vec![MISSING_KEY, UNSIGNED], Fault::Key),
            (
                vec![
                    "W: OpenPGP signature verification failed: http://d x InRelease: Sub-process /usr/bin/sqv returned an error code (1), error message is: Verifying signature:            Message has been manipulated",
                    UNSIGNED,
                ],
                Fault::Key,
            ),
            (
                vec![
                    "W: OpenPGP signature verification failed: http://d x InRelease: Sub-process /usr/bin/sqv returned an error code (1), error message is: Error: Failed to parse keyring \"/k.asc\"  Caused by:     0: Reading \"/k.asc\": EOF     1: EOF",
                    UNSIGNED,
                ],
                Fault::Key,
            ),
            (
                vec![
                    "W: An error occurred during the signature verification. The repository is not updated and the previous index files will be used. OpenPGP signature verification failed: http://d x InRelease: Sub-process /usr/bin/sqv returned an error code (1), error message is: Missing key EC72, which is needed to verify signature.",
                    "W: Failed to fetch http://d/InRelease  Sub-process /usr/bin/sqv returned an error code (1), error message is: Missing key EC72, which is needed to verify signature.",
                    "W: Some index files failed to download. They have been ignored, or old ones used instead.",
                ],
                Fault::Key,
            ),
            (
                vec![
                    "W: OpenPGP signature verification failed: http://d x InRelease: Sub-process /usr/bin/sqv returned an error code (1), error message is: Verifying signature:            Not live until 2030-12-30T23:30:00Z",
                    UNSIGNED,
                ],
                Fault::Date,
            ),
            (
                vec![
                    "W: OpenPGP signature verification failed: http://d x InRelease: Unable to mkstemp /tmp/apt.sig.yoGBdq - GetTempFile (2: No such file or directory)",
                    UNSIGNED,
                ],
                Fault::Temporary,
            ),
            (
                vec![
                    "W: OpenPGP signature verification failed: http://d x InRelease: Splitting up /var/lib/apt/lists/partial/x into data and signature failed",
                    UNSIGNED,
                ],
                Fault::Temporary,
            ),
            (
                vec![
                    "W: OpenPGP signature verification failed: http://d x InRelease: Internal error: Cannot find gpgv",
                    UNSIGNED,
                ],
                Fault::Key,
            ),
            (vec![], Fault::Network),
        ] {
            assert!(
                lines.iter().filter(|line| !line.contains("index files")).all(|line| has_reason(line)),
                "{lines:?}"
            );
            assert_eq!(first_fault(&lines), fault, "{lines:?}");
        }
        for line in [
            "Get:1 http://d x InRelease",
            "W: Target Packages is configured multiple times",
            "Reading package lists...",
        ] {
            assert!(!has_reason(line), "{line}");
        }
        let stack = "error message is: Error: Failed to parse keyring \"/k\"  Caused by:     0: EOF  Stack backtrace:    0: <unknown>";
        assert!(without_stack(stack).ends_with("Caused by:     0: EOF"));
        assert_eq!(without_stack(MISSING_KEY), MISSING_KEY);
    }

    #[test]
    fn what_apt_cannot_read_is_found() {
        for (output, lines) in [
            (
                "E: Malformed entry 1 in list file /x (Suite)\nE: The list of sources could not be read.",
                &["E: Malformed entry 1 in list file /x (Suite)"][..],
            ),
            (
                "E: Syntax error /etc/apt/apt.conf.d/99x:1: Extra junk after value",
                &["E: Syntax error /etc/apt/apt.conf.d/99x:1: Extra junk after value"],
            ),
            (
                "jq:\nE: Invalid record in the preferences file /etc/apt/preferences.d/x, no Package header",
                &["E: Invalid record in the preferences file /etc/apt/preferences.d/x, no Package header"],
            ),
            ("E: Failed to fetch http://d", &[]),
            ("W: Did not understand pin type releas", &[]),
        ] {
            assert_eq!(unreadable_files(output), lines);
        }
    }

    #[test]
    fn what_dpkg_could_not_do_is_named() {
        let output = "dpkg: error processing package theirs (--configure):\n x\nErrors were encountered while processing:\n theirs\n lib:amd64\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n";
        assert_eq!(failed_packages(output), ["theirs", "lib"]);
        assert_eq!(failed_packages("E: x"), [""; 0]);
        assert_eq!(blockers(output), ["theirs", "lib"]);
        let unmet = "The following packages have unmet dependencies:\n theirs : Depends: nothing but it is not installable\n          Depends: x\n lib:amd64 : Depends: y\nE: Unmet dependencies.";
        assert_eq!(blockers(unmet), ["theirs", "lib"]);
        assert_eq!(
            blockers("E: The package theirs needs to be reinstalled, but I can't find an archive for it."),
            ["theirs"]
        );
        assert_eq!(removals("Inst a (1 x)\nRemv docker.io [20.10]\nRemv lib:amd64 [1]\nConf a"), ["docker.io", "lib"]);
    }

    #[test]
    fn messages_of_apt_and_dpkg_are_distinguished() {
        const NONE: Complaints =
            Complaints { busy: false, broken: false, removal: false, unmet: false, reinstall: false };
        for (output, complaints) in [
            ("", NONE),
            ("E: Unable to locate package x", NONE),
            (
                "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt-get)",
                Complaints { busy: true, ..NONE },
            ),
            ("dpkg: error: dpkg status database is locked by another process", Complaints { busy: true, ..NONE }),
            (
                "dpkg: error: dpkg frontend lock was locked by another process with pid 7",
                Complaints { busy: true, ..NONE },
            ),
            ("E: Cache is out of sync, can't x-ref a package file", Complaints { busy: true, ..NONE }),
            ("E: Package file /var/lib/dpkg/status is out of sync.", Complaints { busy: true, ..NONE }),
            (
                "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.",
                Complaints { broken: true, ..NONE },
            ),
            (
                "You might want to run 'apt --fix-broken install' to correct these.\nThe following packages have unmet dependencies:",
                Complaints { broken: true, unmet: true, ..NONE },
            ),
            ("E: Packages need to be removed but remove is disabled.", Complaints { removal: true, ..NONE }),
            ("dpkg: dependency problems prevent configuration of x:", Complaints { unmet: true, ..NONE }),
            (
                "dpkg: error processing package x (--configure):\n package is in a very bad inconsistent state; you should\n reinstall it before attempting configuration",
                Complaints { reinstall: true, ..NONE },
            ),
        ] {
            assert_eq!(Complaints::find(output), complaints, "{output}");
        }
    }
}
