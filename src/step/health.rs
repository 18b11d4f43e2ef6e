//! A role's health checks: `verify` asks them, and a run does not.

use serde::Deserialize;

use super::container::{is_ours, tag_in_registry};
use super::instance_group::{self, InstanceGroups};
use super::unit::service_of;
use super::wait::{self, Wait};
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::host::Host;
use crate::host::systemd::Active;
use crate::settings::Settings;
use crate::template::{Renderer, Templated};
use crate::titus::checks::{Finding, active};
use crate::titus::vpc_driver;

/// As a role file has it: an id and exactly one question.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    id: String,
    unit: Option<String>,
    units: Option<Templated<Vec<String>>>,
    wait: Option<wait::Raw>,
    container: Option<String>,
    instance_group: Option<instance_group::Raw>,
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
    /// Names it.
    pub id: String,
    /// What it asks.
    pub question: Question,
}

/// What a health check asks of something that a step keeps true.
#[derive(Debug, Clone)]
pub enum Kept {
    /// The unit is active.
    UnitActive(String),
    /// Those of the units that are there are active.
    UnitsActive(Vec<String>),
    /// What a step waits for answers.
    Answers(Wait),
    /// The container is ours and runs.
    Container(String),
    /// The groups are all Active.
    InstanceGroups(InstanceGroups),
}

/// What a health check asks.
#[derive(Debug, Clone)]
pub enum Question {
    /// Something that a step keeps true.
    Kept(Kept),
    /// A Mesos master knows this agent.
    MesosAgent {
        /// `host:port` of each.
        masters: Vec<String>,
        /// The agent's own address.
        address: String,
        /// The agent's own port.
        port: u16,
    },
    /// titus-vpc-tool agrees with our resource set.
    VpcTool(String),
    /// Titus's VPC driver has answers from the metadata service; facts say it.
    DriverMetadata(Finding),
    /// The bucket for the logs of containers is there; that it is not is only a warning.
    LogBucket {
        /// Its name.
        name: String,
        /// The instance's own region.
        region: String,
    },
}

impl Raw {
    /// Whether it needs the Mesos masters.
    pub fn asks_mesos(&self) -> bool {
        self.mesos_agent
    }

    /// The check with its values.
    ///
    /// # Errors
    /// When it asks nothing, or several things, or a value is missing.
    pub fn resolve(&self, renderer: &Renderer, settings: &Settings, facts: &Facts) -> Result<Check> {
        let address = facts.instance.as_ref().map(|i| i.local_ipv4.clone()).unwrap_or_default();
        let masters = settings.mesos.masters.clone();
        let mut asked = Vec::new();
        if let Some(unit) = &self.unit {
            asked.push(Question::Kept(Kept::UnitActive(renderer.render_text(unit)?)));
        }
        if let Some(units) = &self.units {
            asked.push(Question::Kept(Kept::UnitsActive(units.get(renderer)?)));
        }
        if let Some(wait) = &self.wait {
            asked.push(Question::Kept(Kept::Answers(wait.resolve(renderer)?)));
        }
        if let Some(name) = &self.container {
            asked.push(Question::Kept(Kept::Container(renderer.render_text(name)?)));
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
            asked.push(Question::DriverMetadata(vpc_driver::metadata(settings, &instance)));
        }
        if self.log_bucket {
            let region = facts.instance.as_ref().map(|i| i.region.clone()).unwrap_or_default();
            asked.push(Question::LogBucket { name: renderer.render_text("{{ agent.log_bucket }}")?, region });
        }
        let [question] = <[Question; 1]>::try_from(asked)
            .map_err(|_| Error::config(format!("check {} asks not exactly one thing", self.id)))?;
        Ok(Check { id: self.id.clone(), question })
    }
}

impl Kept {
    /// Asks it.
    ///
    /// # Errors
    /// When it cannot be asked at all.
    pub fn ask(&self, host: &Host) -> Result<Finding> {
        Ok(match self {
            Kept::UnitActive(name) => unit(host, name)?,
            Kept::UnitsActive(names) => units(host, names)?,
            Kept::Answers(wait) => match wait.ask(host)? {
                Ok(()) => Finding::Good(format!("asked {}: it does", wait.what())),
                Err(answer) => Finding::Bad(format!("asked {}: {}", wait.what(), answer.told())),
            },
            Kept::Container(name) => container(host, name)?,
            Kept::InstanceGroups(groups) => match groups.states(host) {
                Ok(states) => active(&states),
                Err(error) => Finding::Bad(error.to_string()),
            },
        })
    }
}

impl Question {
    /// What the registry says of the image of a container that is good; nobody depends on its answer.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
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

/// A unit is good if it is active, and what it starts, if it is a timer, did not fail last time.
fn unit(host: &Host, name: &str) -> Result<Finding> {
    let unit = host.unit(name)?;
    let text = format!("{name} is {} ({})", unit.active, unit.sub);
    if !unit.is_active() || unit.is_just_restarted(host.deadlines.settle) {
        return Ok(Finding::Bad(host.unit_words(name)));
    }
    // It runs, but would not start again as it should.
    if let Some(mask) = host.masks_of(name)?.first() {
        return Ok(Finding::Bad(format!("{text}, and {mask} masks it: systemctl unmask {name}, or rm {mask}")));
    }
    if ["bad-setting", "error"].contains(&unit.load.as_str()) {
        return Ok(Finding::Bad(format!("{text}, and systemd cannot load it: systemd-analyze verify {name}")));
    }
    if unit.needs_reload {
        let fix = "systemctl daemon-reload, or run titus-bootstrap";
        return Ok(Finding::Bad(format!("{text}, and its files changed since systemd read them: {fix}")));
    }
    let Some(service) = service_of(name) else { return Ok(Finding::Good(text)) };
    Ok(match host.unit(&service)?.active {
        Active::Failed => {
            Finding::Bad(format!("{text}, and {service} failed last time\n{}", host.unit_words(&service)))
        }
        _ => Finding::Good(text),
    })
}

/// Units that a release of a package may lack; that all are lacking is not good.
fn units(host: &Host, names: &[String]) -> Result<Finding> {
    let (mut good, mut bad, mut lacking) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        if host.unit_file(name)?.is_none() {
            lacking.push(name.as_str());
            continue;
        }
        match unit(host, name)? {
            Finding::Bad(text) => bad.push(text),
            Finding::Good(text) | Finding::Warning(text) => good.push(text),
        }
    }
    if !lacking.is_empty() {
        good.push(format!("not there: {}", lacking.join(", ")));
    }
    Ok(match (bad.is_empty(), lacking.len() == names.len() && !names.is_empty()) {
        (false, _) => Finding::Bad(bad.join("\n")),
        (true, true) => Finding::Bad(format!("none of these is there: {}", lacking.join(", "))),
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
            Finding::Bad(format!("a container {name} is running that titus-bootstrap did not make"))
        }
        Ok(Some(found)) => Finding::Bad(format!("the container {name} is {}", found.told())),
        Ok(None) => Finding::Bad(format!("there is no container {name}")),
        Err(answer) => Finding::Bad(answer),
    })
}
