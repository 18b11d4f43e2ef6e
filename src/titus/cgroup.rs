//! cgroup v1, which Mesos 1.0.1 and titus-executor of 2018 need: how a node gets it, and which nodes cannot have it.
//!
//! The executor looks up the mount points of v1's controllers (elsewhere: "mountpoint for pids not found"), and Mesos
//! 1.0.1 exits without /sys/fs/cgroup/systemd. `MESOS_SYSTEMD_ENABLE_SUPPORT=false` only helps Mesos, so the node
//! boots with v1 instead.

use super::Values;
use super::part::{Input, Part};
use crate::error::{Error, Result};
use crate::facts::{Cgroup, Image};
use crate::settings::Settings;
use crate::settings::forms::texts;

/// The first systemd that Debian (11) and Ubuntu (21.10, with 248) build with v2 as the default.
const V2_BY_DEFAULT: u32 = 247;

/// The first systemd without v1 (systemd's NEWS, "CHANGES WITH 258").
const WITHOUT_V1: u32 = 258;

/// kernel-command-line(7).
const HIERARCHY: &str = "systemd.unified_cgroup_hierarchy";

/// Arguments that make systemd boot with v1. From 256 on, systemd requires the second one (NEWS, "CHANGES WITH 256").
/// Older releases ignore it, so it is always present: a node then still boots after an upgrade of systemd.
const ARGUMENTS: [(&str, &str); 2] = [(HIERARCHY, "0"), ("SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE", "1")];

/// The name of a kernel argument.
fn name(argument: &str) -> &str {
    argument.split_once('=').map_or(argument, |(name, _)| name)
}

/// Whether the operator's arguments choose v2. The last one counts; without a value it means true.
fn chooses_v2(own: &[String]) -> bool {
    let chosen = own.iter().rfind(|argument| name(argument) == HIERARCHY);
    let value = chosen.map(|argument| argument.split_once('=').map_or("1", |(_, value)| value));
    value.is_some_and(|value| ["1", "yes", "y", "true", "t", "on"].contains(&value.to_lowercase().as_str()))
}

/// The operator's arguments, plus those with which a node boots with v1. The operator's override the others.
fn arguments(own: &[String], image: &Image) -> Vec<String> {
    let mut all = own.to_vec();
    if !chooses_v2(own) && image.systemd.is_some_and(|version| (V2_BY_DEFAULT..WITHOUT_V1).contains(&version)) {
        let lacking = ARGUMENTS.iter().filter(|(lacking, _)| own.iter().all(|argument| name(argument) != *lacking));
        all.extend(lacking.map(|(name, value)| format!("{name}={value}")));
    }
    all
}

/// The arguments that make the node boot with v1.
fn v1_arguments(all: &[String]) -> impl Iterator<Item = &str> {
    let is_ours = |argument: &&str| ARGUMENTS.iter().any(|(known, _)| *known == name(argument));
    all.iter().map(String::as_str).filter(is_ours)
}

/// Refuses an agent that cannot have v1. `running` is the command line of the running kernel; it is `None` when an image is
/// baked, because the builder's hierarchy does not matter.
///
/// # Errors
/// Fails with 69 when the node cannot have v1. The error names alternatives.
pub fn refuse(settings: &Settings, image: &Image, running: Option<&str>) -> Result<()> {
    let own = &texts(&settings.agent.kernel_arguments);
    if chooses_v2(own) {
        return Ok(());
    }
    let refusal = |cause: String| {
        Error::unavailable("titus-executor and Mesos 1.0.1 need cgroup v1, and this node cannot have it").cause(cause)
    };
    if let Some(version) = image.systemd.filter(|version| *version >= WITHOUT_V1) {
        return Err(refusal(format!("systemd {version} supports only cgroup v2; systemd dropped v1 in {WITHOUT_V1}"))
            .fix("use an image with an older systemd: Debian 11 to 13, Ubuntu 16.04 to 24.04\n\
                  or, if what runs on this node knows v2: agent.kernel_arguments = [\"net.ifnames=0\", \"systemd.unified_cgroup_hierarchy=1\"]"));
    }
    let (Some(running), Some(Cgroup::V2)) = (running, image.cgroup) else { return Ok(()) };
    let all = arguments(own, image);
    let mut wanted = v1_arguments(&all).peekable();
    if wanted.peek().is_none() {
        let version = image.systemd.map_or("of unknown version".into(), |version| version.to_string());
        return Err(refusal(format!("cgroup v2 is in force, but systemd {version} does not use it by default"))
            .fix("find out what enables v2 (cat /proc/cmdline), or override it: agent.kernel_arguments = [\"net.ifnames=0\", \"systemd.unified_cgroup_hierarchy=0\"]"));
    }
    let is_there = |argument: &str| running.split_whitespace().any(|word| word == argument);
    if wanted.all(is_there) {
        let started = v1_arguments(&all).collect::<Vec<_>>().join(" ");
        return Err(refusal(format!(
            "the running kernel was started with {started}, but cgroup v2 is in force anyway"
        ))
        .fix("check whether a later argument overrides it (cat /proc/cmdline), or use an image with another kernel"));
    }
    Ok(())
}

/// Why an agent cannot join yet: its services cannot run with the hierarchy in force.
pub fn defer(settings: &Settings, image: &Image) -> Option<String> {
    let lacks_v1 = image.cgroup == Some(Cgroup::V2) && !chooses_v2(&texts(&settings.agent.kernel_arguments));
    lacks_v1.then(|| "cgroup v2 is in force: this node joins after the reboot that brings v1".to_owned())
}

/// A notice for an operator who has chosen v2.
pub fn notice(settings: &Settings) -> Option<String> {
    chooses_v2(&texts(&settings.agent.kernel_arguments)).then(|| {
        format!(
            "agent.kernel_arguments has {HIERARCHY}: titus-executor of 2018 and Mesos 1.0.1 do not run with cgroup v2"
        )
    })
}

impl Values {
    /// Adds the kernel arguments, and which of them the running kernel has.
    pub fn add_kernel_arguments(mut self, settings: &Settings, image: &Image, running: Option<&str>) -> Values {
        let own = &texts(&settings.agent.kernel_arguments);
        let all = arguments(own, image);
        // While v1 is in force, the arguments for it need not be on the command line before the next boot.
        let in_force = v1_arguments(&all).filter(|_| image.cgroup == Some(Cgroup::V1) && !chooses_v2(own));
        let line = running.map(|line| std::iter::once(line).chain(in_force).collect::<Vec<_>>().join(" "));
        let mut part = Part::new("", all.join(" ")).add_input(Input::new("agent.kernel_arguments", own.join(" ")));
        if all != *own {
            part = part
                .add_input(Input::new("image.systemd", image.systemd.unwrap_or_default()))
                .operation("to boot with cgroup v1");
        }
        self.parts.insert("kernel_arguments", vec![part]);
        self.kernel_command_line = line;
        self.kernel_arguments = Some(all);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1";

    fn settings(own: &str) -> Settings {
        let mut settings = Settings::default();
        settings.agent.kernel_arguments = own.split_whitespace().map(|argument| argument.parse().unwrap()).collect();
        settings
    }

    fn image(systemd: Option<u32>, cgroup: Option<Cgroup>) -> Image {
        Image { systemd, cgroup, ..Image::default() }
    }

    #[test]
    fn an_image_that_boots_with_v2_gets_the_arguments_for_v1() {
        for (own, systemd, expected) in [
            ("a", None, "a".to_owned()),
            ("a", Some(229), "a".into()),
            ("a", Some(245), "a".into()),
            ("a", Some(247), format!("a {BOTH}")),
            ("", Some(252), BOTH.into()),
            ("a", Some(257), format!("a {BOTH}")),
            ("a", Some(258), "a".into()),
            // The operator's arguments override.
            ("systemd.unified_cgroup_hierarchy=1", Some(252), "systemd.unified_cgroup_hierarchy=1".into()),
            ("systemd.unified_cgroup_hierarchy", Some(252), "systemd.unified_cgroup_hierarchy".into()),
            (
                "systemd.unified_cgroup_hierarchy=no",
                Some(257),
                "systemd.unified_cgroup_hierarchy=no SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1".into(),
            ),
        ] {
            let made = arguments(&texts(&settings(own).agent.kernel_arguments), &image(systemd, None));
            assert_eq!(made.join(" "), expected, "{own} {systemd:?}");
        }
    }

    #[test]
    fn the_arguments_for_v1_come_from_the_version_of_systemd() {
        for (systemd, names, operation) in [
            (252, vec!["agent.kernel_arguments", "image.systemd"], "to boot with cgroup v1"),
            (229, vec!["agent.kernel_arguments"], ""),
        ] {
            let values = Values::default().add_kernel_arguments(&settings("a"), &image(Some(systemd), None), None);
            let part = &values.parts["kernel_arguments"][0];
            let inputs: Vec<&str> = part.inputs.iter().map(|input| input.name.as_str()).collect();
            assert_eq!((inputs, part.operation.as_str()), (names, operation), "{systemd}");
        }
    }

    #[test]
    fn with_v1_in_force_the_running_kernel_lacks_nothing_for_it() {
        for (own, cgroup, expected) in [
            ("a", Some(Cgroup::V1), format!("quiet {BOTH}")),
            ("a", Some(Cgroup::V2), "quiet".into()),
            ("a", None, "quiet".into()),
            ("systemd.unified_cgroup_hierarchy=1", Some(Cgroup::V1), "quiet".into()),
        ] {
            let values =
                Values::default().add_kernel_arguments(&settings(own), &image(Some(252), cgroup), Some("quiet"));
            assert_eq!(values.kernel_command_line.as_deref(), Some(expected.as_str()), "{own} {cgroup:?}");
        }
        let baked = Values::default().add_kernel_arguments(&settings("a"), &image(Some(252), Some(Cgroup::V2)), None);
        assert_eq!(baked.kernel_arguments.unwrap().join(" "), format!("a {BOTH}"));
        assert_eq!(baked.kernel_command_line, None);
    }

    #[test]
    fn a_node_joins_with_v1_alone_unless_its_operator_has_chosen_v2() {
        for (own, cgroup, expected) in [
            ("", Some(Cgroup::V1), false),
            ("", None, false),
            ("", Some(Cgroup::V2), true),
            ("systemd.unified_cgroup_hierarchy=1", Some(Cgroup::V2), false),
        ] {
            let (settings, image) = (settings(own), image(Some(252), cgroup));
            assert_eq!(defer(&settings, &image).is_some(), expected, "{own} {cgroup:?}");
            assert_eq!(notice(&settings).is_some(), !own.is_empty(), "{own}");
        }
    }

    #[test]
    fn a_node_that_cannot_have_v1_is_refused() {
        let (v1, v2) = (Some(Cgroup::V1), Some(Cgroup::V2));
        let own = "systemd.unified_cgroup_hierarchy=0";
        for (arguments, systemd, cgroup, running, expected) in [
            ("", Some(229), v1, Some("quiet"), None),
            ("", Some(252), v1, Some("quiet"), None),
            ("", Some(252), v2, Some("quiet"), None),
            ("", Some(257), v2, Some("quiet systemd.unified_cgroup_hierarchy=0"), None),
            ("", None, None, Some("quiet"), None),
            // For an image, only systemd counts.
            ("", None, v2, None, None),
            ("", Some(258), v2, None, Some("systemd 258 supports only cgroup v2")),
            ("", Some(259), v1, Some("quiet"), Some("systemd 259 supports only cgroup v2")),
            (own, Some(258), v2, Some(own), Some("systemd 258 supports only")),
            ("", Some(252), v2, Some(BOTH), Some("in force anyway")),
            ("", Some(245), v2, Some("quiet"), Some("systemd 245 does not use it by default")),
            ("", None, v2, Some("quiet"), Some("of unknown version")),
            (own, Some(245), v2, Some("quiet"), None),
            (own, Some(245), v2, Some(own), Some("in force anyway")),
            ("systemd.unified_cgroup_hierarchy=1", Some(258), v2, Some("quiet"), None),
        ] {
            let result = refuse(&settings(arguments), &image(systemd, cgroup), running);
            let what = format!("{arguments} {systemd:?} {cgroup:?} {running:?}: {result:?}");
            match (result, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => {
                    assert_eq!(error.kind.exit_code(), 69, "{what}");
                    assert!(error.cause.is_some_and(|cause| cause.contains(words)) && error.fix.is_some(), "{what}");
                }
                _ => panic!("{what}"),
            }
        }
    }
}
