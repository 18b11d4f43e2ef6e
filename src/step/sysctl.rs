//! These kernel parameters are in a drop-in of sysctl.d(5), and in the running kernel.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::file::File;
use super::forms::SysctlFile;
use super::properties::{render_values, text};
use super::{Change, Claim, Contents, Planned, RawKind, State, ValueOrigin, Work};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::secrets::shown;
use crate::settings::values::is_word;
use crate::template::{Renderer, Templated, is_template};

const DROP_INS: &str = "/etc/sysctl.d";
const KERNEL: &str = "/proc/sys";

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSysctl {
    /// The drop-in's file name; systemd-sysctl(8) reads drop-ins in the order of their names.
    file: Templated<SysctlFile>,
    /// Parameters with their values, which are templates.
    set: Map<String, Json>,
}

/// Kernel parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Sysctl {
    file: File,
    parameters: Vec<Parameter>,
}

#[derive(Debug, Clone, PartialEq)]
struct Parameter {
    /// The name, e.g. `net.ipv4.ip_forward`.
    key: String,
    /// The path, e.g. `/proc/sys/net/ipv4/ip_forward`.
    path: String,
    value: String,
}

impl RawKind for RawSysctl {
    fn refuse(&self) -> Result<()> {
        self.set.iter().try_for_each(|(key, value)| {
            let is_known = !value.as_str().is_some_and(is_template);
            let value = if is_known { text(key, value.clone())? } else { "1".to_owned() };
            Parameter::new(key, &value).map(drop)
        })
    }

    fn origin(&self, key: &str) -> Option<ValueOrigin<'_>> {
        Some(ValueOrigin::Value(self.set.get(key).and_then(Json::as_str).unwrap_or_default()))
    }

    fn can_restart(&self) -> bool {
        true
    }
}

impl RawSysctl {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Sysctl> {
        let SysctlFile(name) = self.file.get(renderer)?;
        let parameters = render_values(&self.set, renderer)?;
        let parameters = parameters.into_iter().map(|(key, value)| Parameter::new(&key, &text(&key, value)?));
        let parameters = parameters.collect::<Result<Vec<_>>>()?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = parameters.iter().find(|parameter| !seen.insert(&parameter.path)) {
            return Err(Error::config(format!("the kernel parameter {} is given twice", twice.key)));
        }
        let lines = parameters.iter().map(|Parameter { key, value, .. }| format!("{key} = {value}\n"));
        let contents = format!("# Written by titus-bootstrap.\n{}", lines.collect::<String>());
        Ok(Sysctl { file: File::new(format!("{DROP_INS}/{name}"), contents, 0o644), parameters })
    }
}

impl Parameter {
    fn new(key: &str, value: &str) -> Result<Parameter> {
        let path = parameter_path(key).ok_or_else(|| {
            Error::config(format!("{key:?} is not a kernel parameter"))
                .fix("write its name like sysctl(8): net.ipv4.ip_forward; replace a dot within a part with a slash: net.ipv4.conf.eth0/100.forwarding")
        })?;
        let is_plain = !value.chars().any(|c| c.is_control() && c != '\t');
        let value = words(value);
        if value.is_empty() || !is_plain {
            return Err(Error::config(format!("kernel parameter {key}: its value must be one line of text"))
                .fix("write, for example, \"1\" or \"4096 87380 6291456\""));
        }
        Ok(Parameter { key: key.to_owned(), path, value })
    }

    /// The value in the running kernel.
    fn is(&self, host: &Host) -> Result<Option<String>> {
        Ok(host.read_text(&self.path)?.map(|text| words(&text)))
    }
}

/// Normalizes blanks: the kernel separates numbers with tabs, and accepts blanks.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The file of a parameter. If its first separator is a dot, dots and slashes are exchanged (sysctl.d(5)).
fn parameter_path(key: &str) -> Option<String> {
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let path: String = match key.chars().find(|c| ['.', '/'].contains(c))? {
        '.' => key.chars().map(swapped).collect(),
        _ => key.to_owned(),
    };
    let is_part = |part: &str| is_word(part, "_-.:@+") && ![".", ".."].contains(&part);
    // A name that begins with a dash may fail silently.
    (!key.starts_with('-') && path.split('/').all(is_part)).then(|| format!("{KERNEL}/{path}"))
}

impl Sysctl {
    /// The parameters with another value in the running kernel, each with that value.
    fn find_differences(&self, host: &Host) -> Result<Vec<(&Parameter, Option<String>)>> {
        let all = self.parameters.iter().map(|parameter| Ok((parameter, parameter.is(host)?)));
        let all: Vec<_> = all.collect::<Result<_>>()?;
        Ok(all.into_iter().filter(|(parameter, is)| is.as_ref() != Some(&parameter.value)).collect())
    }
}

impl Work for Sysctl {
    fn explain(&self) -> Vec<String> {
        let parameters: Vec<String> = self.parameters.iter().map(|one| format!("{}={}", one.key, one.value)).collect();
        let path = &self.file.path;
        vec![format!("Keeps kernel parameters in {path}, and in the running kernel: {}.", parameters.join(", "))]
    }

    fn refuse(&self, host: &Host) -> Result<()> {
        let differing = if host.is_live() { self.find_differences(host)? } else { Vec::new() };
        let Some((Parameter { key, path, .. }, _)) = differing.iter().find(|(_, is)| is.is_none()) else {
            return Ok(());
        };
        Err(Error::unavailable(format!("this kernel has no parameter {key}"))
            .cause(format!("{path} does not exist"))
            .fix("check its name; if a module provides it, load the module first (modules-load.d(5))"))
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        let mut changes = self.file.changes(host)?;
        if !host.is_live() && changes.is_empty() {
            return Ok(State::Deferred("the running kernel is not examined with --root".into()));
        }
        if host.is_live() {
            changes.extend(self.find_differences(host)?.into_iter().map(|(Parameter { key, value, .. }, is)| {
                let is = is.map_or_else(|| "not there".to_owned(), |is| shown(key, &is));
                Change::new(format!("set {key} = {} (it is {is})", shown(key, value)))
            }));
        }
        Ok(State::from_changes(changes))
    }

    /// Sets the running kernel first: a value that it refuses must not take effect at the next boot.
    fn converge(&self, host: &Host) -> Result<()> {
        let differing = if host.is_live() { self.find_differences(host)? } else { Vec::new() };
        for (Parameter { key, path, value }, _) in differing {
            let place = |error: Error| error.at(format!("{key} = {}", shown(key, value)));
            host.write_to_kernel(path, value).map_err(place)?;
        }
        self.file.converge(host)
    }

    fn planned(&self, host: &Host, planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        self.file.planned(host, planned)
    }

    fn written(&self) -> Option<(&str, Contents)> {
        let pairs = self.parameters.iter().map(|parameter| (parameter.key.clone(), parameter.value.clone()));
        Some((&self.file.path, Contents::Pairs(pairs.collect())))
    }

    fn file(&self) -> Option<&str> {
        self.file.file()
    }

    fn claims(&self) -> Vec<Claim> {
        let of_parameter = |Parameter { path, value, .. }: &Parameter| Claim::new(path, format!("the value {value}"));
        self.file.claims().into_iter().chain(self.parameters.iter().map(of_parameter)).collect()
    }

    fn paths(&self) -> Vec<String> {
        self.file.paths()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::host::fs::Owner;
    use crate::host::systemd::pid1::Pid1;

    const FILE: &str = "/etc/sysctl.d/60-titus.conf";

    fn resolve(set: &str) -> Result<Sysctl> {
        let raw: RawSysctl = crate::step::loaded(&format!("file = '60-titus.conf'\nset = {{ {set} }}"))?;
        raw.resolve(&Renderer::new(json!({ "memory": 4096 })))
    }

    fn lines(state: State) -> Vec<String> {
        match state {
            State::Changes(changes) => changes.into_iter().map(|change| change.line).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn below_a_root_only_the_file_is_written() {
        let (_directory, host) = Host::temporary();
        host.write("/proc/sys/net/ipv4/ip_forward", b"0\n", 0o644, Owner::ROOT).unwrap();
        let step = resolve("'net.ipv4.ip_forward' = 1, 'net.ipv4.tcp_rmem' = \"{{ memory }}\t1  2\"").unwrap();
        step.refuse(&host).unwrap();
        let explained = step.explain().join("\n");
        let parameters = "net.ipv4.ip_forward=1, net.ipv4.tcp_rmem=4096 1 2.";
        assert!(explained.contains(FILE) && explained.ends_with(parameters), "{explained}");
        let observe = || step.observe(&host, &Planned::new()).unwrap();
        assert_eq!(lines(observe()), [format!("create {FILE} (0644, 3 lines)")]);
        let text = "# Written by titus-bootstrap.\nnet.ipv4.ip_forward = 1\nnet.ipv4.tcp_rmem = 4096 1 2\n";
        let planned = step.planned(&host, &Planned::new()).unwrap().unwrap();
        assert_eq!(planned, (FILE.to_owned(), text.as_bytes().to_vec()), "a plan knows the file that will be there");
        step.converge(&host).unwrap();
        assert!(matches!(observe(), State::Deferred(_)));
        assert_eq!(host.read_text(FILE).unwrap().unwrap(), text);
        assert_eq!(host.read("/proc/sys/net/ipv4/ip_forward").unwrap().unwrap(), b"0\n");
        host.set_attributes(FILE, 0o600, Owner::ROOT).unwrap();
        assert_eq!(lines(observe()), [format!("{FILE}: mode 0600 -> 0644")]);
    }

    /// A live machine in a directory, with these files in /proc/sys.
    fn live(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::simulated(directory.path(), Path::new("/nowhere"), Box::<Pid1>::default()).unwrap();
        for (path, text) in files {
            host.write(&format!("{KERNEL}/{path}"), text.as_bytes(), 0o644, Owner::ROOT).unwrap();
        }
        (directory, host)
    }

    #[test]
    fn the_running_kernel_is_observed_and_set() {
        let (_directory, host) =
            live(&[("net/ipv4/tcp_rmem", "4096\t87380\t6291456\n"), ("net/ipv4/ip_forward", "0\n")]);
        let step = resolve("'net.ipv4.ip_forward' = 1, 'net/ipv4/tcp_rmem' = '4096 87380 6291456'").unwrap();
        let observe = || step.observe(&host, &Planned::new()).unwrap();
        let untouched = host.entry("/proc/sys/net/ipv4/tcp_rmem").unwrap();
        step.refuse(&host).unwrap();
        let in_kernel = "set net.ipv4.ip_forward = 1 (it is 0)".to_owned();
        assert_eq!(lines(observe()), [format!("create {FILE} (0644, 3 lines)"), in_kernel.clone()]);
        step.converge(&host).unwrap();
        assert_eq!(observe(), State::InSync(None));
        assert_eq!(host.read("/proc/sys/net/ipv4/ip_forward").unwrap().unwrap(), b"1\n");
        assert_eq!(host.entry("/proc/sys/net/ipv4/tcp_rmem").unwrap(), untouched, "it was right");
        // Somebody resets it: a correct file alone is not enough.
        host.write("/proc/sys/net/ipv4/ip_forward", b"0\n", 0o644, Owner::ROOT).unwrap();
        assert_eq!(lines(observe()), [in_kernel]);
        step.converge(&host).unwrap();
        assert_eq!(observe(), State::InSync(None));
    }

    #[test]
    fn a_parameter_that_the_kernel_does_not_have_is_refused() {
        let (_directory, host) = live(&[("net/ipv4/ip_forward", "1\n")]);
        let step = resolve("'net.ipv4.ip_forward' = 1, 'net.ipv4.ip_forwrad' = 1").unwrap();
        let refused = step.refuse(&host).unwrap_err();
        assert_eq!(refused.what, "this kernel has no parameter net.ipv4.ip_forwrad");
        assert_eq!(refused.kind.exit_code(), 69);
        // A value that the kernel refuses is not left for the next boot.
        step.converge(&host).unwrap_err();
        assert_eq!(host.entry(FILE).unwrap(), None);
    }

    #[test]
    fn a_parameter_that_is_a_secret_is_not_shown() {
        let (_directory, host) = live(&[("net/ipv6/conf/all/stable_secret", "old\n")]);
        let step = resolve("'net.ipv6.conf.all.stable_secret' = 'new'").unwrap();
        let changes = lines(step.observe(&host, &Planned::new()).unwrap());
        assert_eq!(changes.last().unwrap(), "set net.ipv6.conf.all.stable_secret = *** (it is ***)");
    }

    #[test]
    fn names_lead_below_proc_sys_and_nowhere_else() {
        for (key, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ] {
            assert_eq!(parameter_path(key), Some(format!("{KERNEL}/{path}")));
        }
        for key in [
            "",
            "kernel",
            ".kernel.x",
            "/kernel/x",
            "-kernel.x",
            "kernel..x",
            "kernel.x.",
            "kernel/../../etc/passwd",
            "kernel/./x",
            "kernel.//.x",
            "kernel.x y",
            "kernel.x=1",
            "net.ipv4.conf.*.forwarding",
            "kernel.x\n",
            "kernel.é",
        ] {
            assert_eq!(parameter_path(key), None, "{key}");
        }
    }

    #[test]
    fn what_must_not_be_written_is_refused() {
        for (set, words) in [
            ("'kernel' = 1", "\"kernel\""),
            ("net.ipv4.ip_forward = 1", "quotes"),
            ("'net.ipv4.ip_forward' = 1, 'net/ipv4/ip_forward' = 0", "twice"),
            ("'kernel.x' = ''", "kernel.x"),
            ("'kernel.x' = \"1\\n2\"", "one line"),
            ("'kernel.x' = \"\\u0000\"", "one line"),
            ("'kernel.x' = [1]", "\"kernel.x\""),
        ] {
            let refused = resolve(set).unwrap_err();
            assert!(refused.to_string().contains(words), "{set}: {refused}");
            assert_eq!(refused.kind.exit_code(), 78);
        }
        // A value that is written out is refused with the role, even if a condition leaves the step out.
        for (value, is_good) in [("1", true), ("'{{ unknown }}'", true), ("''", false), ("[1]", false)] {
            let raw: RawSysctl = toml::from_str(&format!("file = 'x.conf'\nset = {{ 'kernel.x' = {value} }}")).unwrap();
            assert_eq!(raw.refuse().is_ok(), is_good, "{value}");
        }
        for name in ["60-titus", "../x.conf", ".conf", "a b.conf", ""] {
            let loaded = crate::step::loaded::<RawSysctl>(&format!("file = '{name}'\nset = {{}}"));
            loaded.and_then(|raw| raw.resolve(&Renderer::new(json!({})))).unwrap_err();
        }
    }

    proptest::proptest! {
        #[test]
        fn no_name_leads_out_of_proc_sys(key in "([a-z./-]|\\PC){0,20}") {
            let parts = parameter_path(&key).unwrap_or_default();
            proptest::prop_assert!(parts.split('/').skip(1).all(|part| !["", ".", ".."].contains(&part)), "{parts}");
        }
    }
}
