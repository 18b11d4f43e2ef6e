//! A role's health checks. `verify` runs them; a run does not.

use serde::Deserialize;

use super::container::{is_ours, tag_in_registry};
use super::forms::{ContainerName, UnitName};
use super::instance_group::{self, InstanceGroups};
use super::unit::timer_service;
use super::wait::{self, Wait};
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::host::Host;
use crate::host::systemd::Active;
use crate::settings::Settings;
use crate::settings::forms::texts;
use crate::template::{Renderer, Templated};
use crate::titus::checks::{Finding, check_groups};
use crate::titus::vpc_driver;

/// A check in a role file: an id and exactly one question.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCheck {
    id: String,
    unit: Option<Templated<UnitName>>,
    units: Option<Templated<Vec<UnitName>>>,
    wait: Option<wait::RawWait>,
    container: Option<Templated<ContainerName>>,
    instance_group: Option<instance_group::RawInstanceGroup>,
    #[serde(default)]
    mesos_agent: bool,
    #[serde(default)]
    vpc_tool: bool,
    #[serde(default)]
    driver_metadata: bool,
    #[serde(default)]
    log_bucket: bool,
}

/// A health check of a role.
#[derive(Debug, Clone)]
pub struct Check {
    /// Its id.
    pub id: String,
    /// Its question.
    pub question: Question,
}

/// A question about something that a step keeps in place.
#[derive(Debug, Clone)]
pub enum Kept {
    /// The unit is active.
    UnitActive(String),
    /// Those of the units that exist are active.
    UnitsActive(Vec<String>),
    /// A service that a step waits for answers.
    Answers(Wait),
    /// The container was created by the program, and runs.
    Container(String),
    /// The groups are all Active.
    InstanceGroups(InstanceGroups),
}

/// The question of a health check.
#[derive(Debug, Clone)]
pub enum Question {
    /// A question about something that a step keeps in place.
    Kept(Kept),
    /// A Mesos master knows this agent.
    MesosAgent {
        /// The masters, each `host:port`.
        masters: Vec<String>,
        /// The agent's own address.
        address: String,
        /// The agent's own port.
        port: u16,
    },
    /// titus-vpc-tool agrees with our resource set.
    VpcTool(String),
    /// The metadata service answers Titus's VPC driver, according to the facts.
    DriverMetadata(Finding),
    /// The bucket for container logs exists; if not, that is only a warning.
    LogBucket {
        /// Its name.
        name: String,
        /// The instance's own region.
        region: String,
    },
}

impl RawCheck {
    /// Whether the question goes to the Mesos masters.
    pub fn asks_mesos(&self) -> bool {
        self.mesos_agent
    }

    /// Checks that there is exactly one question.
    ///
    /// # Errors
    /// Fails when there is none or more than one.
    pub fn check(&self) -> Result<()> {
        let asked = [
            self.unit.is_some(),
            self.units.is_some(),
            self.wait.is_some(),
            self.container.is_some(),
            self.instance_group.is_some(),
            self.mesos_agent,
            self.vpc_tool,
            self.driver_metadata,
            self.log_bucket,
        ];
        match asked.iter().filter(|is| **is).count() {
            1 => Ok(()),
            _ => Err(self.not_one()),
        }
    }

    fn not_one(&self) -> Error {
        Error::config(format!("check {} must ask exactly one question", self.id))
    }

    /// Renders the check.
    ///
    /// # Errors
    /// Fails when there is not exactly one question, or when a value is missing.
    pub fn resolve(&self, renderer: &Renderer, settings: &Settings, facts: &Facts) -> Result<Check> {
        let address = facts.instance.as_ref().map(|i| i.local_ipv4.clone()).unwrap_or_default();
        let masters = texts(&settings.mesos.masters);
        let mut asked = Vec::new();
        if let Some(unit) = &self.unit {
            asked.push(Question::Kept(Kept::UnitActive(unit.get(renderer)?.0)));
        }
        if let Some(units) = &self.units {
            asked.push(Question::Kept(Kept::UnitsActive(
                units.get(renderer)?.into_iter().map(|UnitName(name)| name).collect(),
            )));
        }
        if let Some(wait) = &self.wait {
            asked.push(Question::Kept(Kept::Answers(wait.resolve(renderer)?)));
        }
        if let Some(name) = &self.container {
            asked.push(Question::Kept(Kept::Container(name.get(renderer)?.0)));
        }
        if let Some(groups) = &self.instance_group {
            asked.push(Question::Kept(Kept::InstanceGroups(groups.resolve(renderer)?)));
        }
        if self.mesos_agent {
            let port = Templated::Template("{{ agent.port }}".to_owned()).get(renderer)?;
            asked.push(Question::MesosAgent { masters, address, port });
        }
        if self.vpc_tool {
            asked.push(Question::VpcTool(renderer.render_text("{{ titus.resource_set }}")?));
        }
        if self.driver_metadata {
            let instance = facts.instance.clone().unwrap_or_default();
            asked.push(Question::DriverMetadata(vpc_driver::check_metadata(settings, &instance)));
        }
        if self.log_bucket {
            let region = facts.instance.as_ref().map(|i| i.region.clone()).unwrap_or_default();
            asked.push(Question::LogBucket { name: renderer.render_text("{{ agent.log_bucket }}")?, region });
        }
        let [question] = <[Question; 1]>::try_from(asked).map_err(|_| self.not_one())?;
        Ok(Check { id: self.id.clone(), question })
    }
}

impl Kept {
    /// Runs the check.
    ///
    /// # Errors
    /// Fails when it cannot be run at all.
    pub fn ask(&self, host: &Host) -> Result<Finding> {
        Ok(match self {
            Kept::UnitActive(name) => unit(host, name)?,
            Kept::UnitsActive(names) => units(host, names)?,
            Kept::Answers(wait) => match wait.ask(host)? {
                Ok(()) => Finding::Good(format!("asked {}: it does", wait.what())),
                Err(answer) => Finding::Bad(format!("asked {}: {}", wait.what(), answer.describe())),
            },
            Kept::Container(name) => container(host, name)?,
            Kept::InstanceGroups(groups) => match groups.states(host) {
                Ok(states) => check_groups(&states),
                Err(error) => Finding::Bad(error.to_string()),
            },
        })
    }
}

impl Question {
    /// Whether the check concerns a unit or a container.
    pub fn is_about_unit(&self) -> bool {
        matches!(self, Question::Kept(Kept::UnitActive(_) | Kept::UnitsActive(_) | Kept::Container(_)))
    }

    /// Whether the check waits for an answer, from the unit or container that the role's file checks before it.
    pub fn is_wait(&self) -> bool {
        matches!(self, Question::Kept(Kept::Answers(_)))
    }

    /// Adds the registry's answer about the image of a good container. The result of the check does not depend on it.
    ///
    /// # Errors
    /// Fails with `Interrupted` after a signal.
    pub fn with_registry(&self, host: &Host, finding: Finding) -> Result<Finding> {
        let (Question::Kept(Kept::Container(name)), Finding::Good(text)) = (self, &finding) else {
            return Ok(finding);
        };
        let Ok(engine) = host.engine()? else { return Ok(finding) };
        let Ok(Some(found)) = engine.container(name) else { return Ok(finding) };
        let (words, has_moved) = tag_in_registry(host, engine, &found);
        let text = format!("{text} ({words})");
        Ok(if has_moved { Finding::Warning(text) } else { Finding::Good(text) })
    }
}

/// Checks that a unit is active; if it is a timer, also that the unit it starts did not fail last time.
fn unit(host: &Host, name: &str) -> Result<Finding> {
    let unit = host.unit(name)?;
    let text = format!("{name} is {} ({})", unit.active, unit.sub);
    if !unit.is_active() || unit.is_just_restarted(host.deadlines.settle) {
        return Ok(Finding::Bad(host.unit_words(name)));
    }
    // The unit runs, but it would not start again correctly.
    if let Some(mask) = host.masks_of(name)?.first() {
        return Ok(Finding::Bad(format!("{text}, but {mask} masks it: systemctl unmask {name}, or rm {mask}")));
    }
    if ["bad-setting", "error"].contains(&unit.load.as_str()) {
        return Ok(Finding::Bad(format!("{text}, but systemd cannot load it: systemd-analyze verify {name}")));
    }
    if unit.needs_reload {
        let fix = "systemctl daemon-reload, or run titus-bootstrap";
        return Ok(Finding::Bad(format!("{text}, but its files changed since systemd read them: {fix}")));
    }
    let Some(service) = timer_service(name) else { return Ok(Finding::Good(text)) };
    Ok(match host.unit(&service)?.active {
        Active::Failed => {
            Finding::Bad(format!("{text}, but {service} failed last time\n{}", host.unit_words(&service)))
        }
        _ => Finding::Good(text),
    })
}

/// Checks units that some releases of a package lack. At least one must exist.
fn units(host: &Host, names: &[String]) -> Result<Finding> {
    let (mut good, mut bad, mut lacking) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        if host.unit_file(name)?.is_none() {
            lacking.push(name.as_str());
            continue;
        }
        match unit(host, name)? {
            Finding::Bad(text) => bad.push(text),
            Finding::Good(text) | Finding::Warning(text) | Finding::NotAsked(text) => good.push(text),
        }
    }
    if !lacking.is_empty() {
        good.push(format!("not there: {}", lacking.join(", ")));
    }
    Ok(match (bad.is_empty(), lacking.len() == names.len() && !names.is_empty()) {
        (false, _) => Finding::Bad(bad.join("\n")),
        (true, true) => Finding::Bad(format!("none of these units exists: {}", lacking.join(", "))),
        (true, false) => Finding::Good(good.join(", ")),
    })
}

fn container(host: &Host, name: &str) -> Result<Finding> {
    let found = match host.engine()? {
        Ok(engine) => engine.container(name).map_err(|error| error.to_string()),
        Err(answer) => Err(answer),
    };
    Ok(match found {
        Ok(Some(found)) if found.is_running() && is_ours(&found) => {
            Finding::Good(format!("the container {name} is running, from {}", found.image))
        }
        Ok(Some(found)) if found.is_running() => {
            Finding::Bad(format!("the container {name} is running, but titus-bootstrap did not create it"))
        }
        Ok(Some(found)) => Finding::Bad(format!("the container {name} is {}", found.state_words())),
        Ok(None) => Finding::Bad(format!("the container {name} does not exist")),
        Err(answer) => Finding::Bad(answer),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(question: &str) -> RawCheck {
        toml::from_str(&format!("id = 'x'\n{question}")).unwrap()
    }

    #[test]
    fn a_check_asks_exactly_one_question() {
        let one = [
            "unit = 'x.service'",
            "units = ['x.service']",
            "wait = { tcp = 'h:1' }",
            "container = 'x'",
            "instance_group = { names = [] }",
            "mesos_agent = true",
            "vpc_tool = true",
            "driver_metadata = true",
            "log_bucket = true",
        ];
        for question in one {
            raw(question).check().unwrap();
        }
        for (n, question) in one.iter().enumerate() {
            let both = format!("{question}\n{}", one[(n + 1) % one.len()]);
            for wrong in [&both, "mesos_agent = false", ""] {
                let error = raw(wrong).check().unwrap_err();
                assert_eq!(error.kind.exit_code(), 78);
                assert_eq!(error.what, "check x must ask exactly one question", "{wrong}");
            }
        }
    }

    #[test]
    fn only_the_check_of_the_agent_needs_the_mesos_masters() {
        assert!(raw("mesos_agent = true").asks_mesos());
        assert!(!raw("mesos_agent = false").asks_mesos());
        assert!(!raw("unit = 'mesos-agent.service'").asks_mesos());
    }
}
