//! Merges the steps of several roles into those of one image.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::step::{Claim, Step};

/// The role and step that decided a thing, and the decision.
struct Decided<'a> {
    role: &'a str,
    step: String,
    wish: String,
}

/// Merges the roles' steps into one list: those of the first role, then those that each further role adds. Equal steps run
/// once.
///
/// # Errors
/// Fails when two roles decide one thing differently. The error names both.
pub fn merge(roles: &[(&str, Vec<Step>)]) -> Result<Vec<Step>> {
    let mut merged: Vec<Step> = Vec::new();
    let mut decided: BTreeMap<String, Decided> = BTreeMap::new();
    for (role, steps) in roles {
        for step in steps {
            for Claim { thing, wish, .. } in step.work().claims() {
                match decided.get(&thing) {
                    Some(other) if other.role != *role && other.wish != wish => {
                        return Err(disagreement(&thing, other, &Decided { role, step: step.id.clone(), wish }));
                    }
                    Some(_) => {}
                    None => {
                        decided.insert(thing, Decided { role, step: step.id.clone(), wish });
                    }
                }
            }
            add(&mut merged, role, step);
        }
    }
    Ok(merged)
}

fn add(merged: &mut Vec<Step>, role: &str, step: &Step) {
    if merged.iter().any(|there| there.kind == step.kind) || merged.iter_mut().any(|there| there.join(step)) {
        return;
    }
    let mut step = step.clone();
    if merged.iter().any(|there| there.id == step.id) {
        step.id = format!("{role}:{}", step.id);
    }
    merged.push(step);
}

fn disagreement(thing: &str, one: &Decided, other: &Decided) -> Error {
    let line = |who: &Decided| format!("role {}, step {}: {}", who.role, who.step, who.wish);
    Error::config(format!("the roles {} and {} cannot share an image: they disagree on {thing}", one.role, other.role))
        .cause(format!("{}\n{}", line(one), line(other)))
        .fix("bake an image for each role, or use one setting for both; steps of your own roles that differ must have phase = \"boot\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::{Phase, RawStep};
    use crate::template::Renderer;

    fn steps(toml: &[&str]) -> Vec<Step> {
        let resolve = |(n, text): (usize, &&str)| {
            let id = if text.contains("id =") { String::new() } else { format!("id = 'step-{n}'\n") };
            let raw: RawStep = toml::from_str(&format!("{id}phase = 'bake'\n{text}")).unwrap();
            raw.resolve(&Renderer::new(serde_json::json!({})), &BTreeMap::new()).unwrap()
        };
        toml.iter().enumerate().map(resolve).collect()
    }

    fn merged(one: &[&str], other: &[&str]) -> Result<Vec<Step>> {
        merge(&[("one", steps(one)), ("other", steps(other))])
    }

    const MASK: &str = "unit = { name = 'x.service', masked = true }";

    #[test]
    fn equal_steps_run_once_and_others_follow() {
        let file = "file = { path = '/etc/x', content = 'x' }";
        let more = "id = 'step-1'\nfile = { path = '/etc/y', content = 'y' }";
        let all = merged(&[MASK, file], &[file, more, MASK]).unwrap();
        let ids: Vec<&str> = all.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(ids, ["step-0", "step-1", "other:step-1"]);
        assert!(all.iter().all(|step| step.phase == Phase::Bake));
    }

    #[test]
    fn disagreement_names_both_roles_and_the_thing() {
        for (one, other, thing) in [
            ("file = { path = '/etc/x', content = 'x' }", "file = { path = '/etc/x', content = 'y' }", "/etc/x"),
            ("file = { path = '/etc/x', content = 'x' }", "file = { path = '/etc/x', absent = true }", "/etc/x"),
            (
                "file = { path = '/etc/x', content = '' }",
                "file = { path = '/etc/x', content = '', mode = '0600' }",
                "/etc/x",
            ),
            ("file = { path = '/etc/x', content = '' }", "directory = { path = '/etc/x' }", "/etc/x"),
            (MASK, "unit = { name = 'x.service', enabled = true }", "unit x.service"),
            (MASK, "file = { path = '/etc/systemd/system/x.service', content = '' }", "/etc/systemd/system/x.service"),
            ("package = { names = ['mesos=1.0.1'] }", "package = { names = ['jq', 'mesos'] }", "package mesos"),
            (
                "properties = { path = '/p', set = { a = 'secret' } }",
                "properties = { path = '/p', set = { a = 'b' } }",
                "the key a of /p",
            ),
            (
                "kernel_argument = { arguments = ['a'] }",
                "kernel_argument = { arguments = ['b'] }",
                "/etc/default/grub.d/90-titus-bootstrap.cfg",
            ),
        ] {
            let error = merged(&[one], &[other]).unwrap_err();
            assert_eq!(error.kind.exit_code(), 78);
            let message = error.to_string();
            assert!(
                message.contains("roles one and other") && message.contains(&format!("disagree on {thing}\n")),
                "{message}"
            );
            assert!(!message.contains("secret"), "{message}");
            // A role may have two alternative steps for one thing.
            merge(&[("one", steps(&[one, other]))]).unwrap();
        }
    }

    #[test]
    fn sources_are_one_step_so_that_none_removes_the_others() {
        let source = |name: &str, uri: &str| {
            format!(
                "apt_source = {{ distribution = 'd', codename = 'c', sources = [{{ name = '{name}', uris = ['{uri}'], suites = ['s'], key = '/key' }}] }}"
            )
        };
        let none = "apt_source = { distribution = 'd', codename = 'c', sources = [] }";
        let (docker, titus) = (source("docker", "https://a"), source("titus", "https://b"));
        let all = merge(&[("one", steps(&[&docker])), ("two", steps(&[none])), ("three", steps(&[&titus, &docker]))]);
        let message = format!("{:?}", all.unwrap());
        assert_eq!(message.matches("Step {").count(), 1, "{message}");
        assert_eq!(message.matches("AptSource {").count(), 2, "{message}");
        let other = source("docker", "https://other");
        assert!(merged(&[&docker], &[&other]).unwrap_err().what.ends_with("the apt source docker"));
    }
}
