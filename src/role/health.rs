//! A role's health checks: `verify` asks them, and a run does not.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::settings::Settings;
use crate::step::instance_group::{self, InstanceGroups};
use crate::step::wait::{self, Wait};
use crate::template::{Renderer, Templated};

/// As a role file has it: an id and exactly one question.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    id: String,
    unit: Option<String>,
    wait: Option<wait::Raw>,
    container: Option<String>,
    instance_group: Option<instance_group::Raw>,
    #[serde(default)]
    mesos_agent: bool,
    #[serde(default)]
    vpc_tool: bool,
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

/// What a health check asks.
#[derive(Debug, Clone)]
pub enum Question {
    /// The unit is active.
    UnitActive(String),
    /// What a step waits for answers.
    Answers(Wait),
    /// The container is ours and runs.
    Container(String),
    /// The groups are all Active.
    InstanceGroups(InstanceGroups),
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
            asked.push(Question::UnitActive(renderer.render_text(unit)?));
        }
        if let Some(wait) = &self.wait {
            asked.push(Question::Answers(wait.resolve(renderer)?));
        }
        if let Some(name) = &self.container {
            asked.push(Question::Container(renderer.render_text(name)?));
        }
        if let Some(groups) = &self.instance_group {
            asked.push(Question::InstanceGroups(groups.resolve(renderer)?));
        }
        if self.mesos_agent {
            let port = Templated::Template("{{ agent.port }}".to_owned()).get(renderer)?;
            asked.push(Question::MesosAgent { masters, address, port });
        }
        if self.vpc_tool {
            asked.push(Question::VpcTool(renderer.render_text("{{ titus.resource_set }}")?));
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
