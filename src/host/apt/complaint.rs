//! What apt and dpkg print when they cannot do what they are asked, as far as a run decides by it. They have one exit
//! status for all of it.

/// The sorts of complaints in an output; one that failed may have several, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Complaints {
    /// Another process has a lock, or changed dpkg's status while apt read it: a later try may do.
    pub busy: bool,
    /// dpkg was stopped in the middle of its work, or a package lacks what it depends on: a repair comes first.
    pub broken: bool,
    /// It would have removed a package, which it must not.
    pub removal: bool,
    /// No source has what a package depends on.
    pub unmet: bool,
}

impl Complaints {
    /// Those of an output in the C locale.
    pub fn of(output: &str) -> Complaints {
        let has = |words: &[&str]| words.iter().any(|words| output.contains(words));
        Complaints {
            // Of apt: "Could not get lock …", "Cache is out of sync, can't x-ref a package file", "Package file … is out
            // of sync."; of dpkg: "… is locked by another process", since 1.20 "… was locked by another process".
            busy: has(&["Could not get lock", "locked by another process", "is out of sync"]),
            broken: has(&["dpkg --configure -a", "--fix-broken"]),
            removal: has(&["remove is disabled"]),
            unmet: has(&["unmet dependencies", "dependency problems"]),
        }
    }
}

/// The packages that apt would remove, as it lists them, in one line.
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
    fn words_of_apt_and_dpkg_are_told_apart() {
        const NONE: Complaints = Complaints { busy: false, broken: false, removal: false, unmet: false };
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
        ] {
            assert_eq!(Complaints::of(output), complaints, "{output}");
        }
    }
}
