//! A role's health checks: `verify` asks them, and a run does not.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::settings::Settings;
use crate::template::Renderer;

/// As a role file has it: an id and exactly one question.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    id: String,
    unit: Option<String>,
    docker: Option<String>,
    #[serde(default)]
    mesos_agent: bool,
    #[serde(default)]
    vpc_tool: bool,
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
    /// A Docker Engine answers there.
    Docker(String),
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
        let question = match (&self.unit, &self.docker, self.mesos_agent, self.vpc_tool) {
            (Some(unit), None, false, false) => Question::UnitActive(renderer.render_text(unit)?),
            (None, Some(docker), false, false) => Question::Docker(renderer.render_text(docker)?),
            (None, None, true, false) => Question::MesosAgent {
                masters: settings.mesos.masters.clone(),
                address: facts.instance.as_ref().map(|i| i.local_ipv4.clone()).unwrap_or_default(),
                port: settings.agent.port.unwrap_or(5051),
            },
            (None, None, false, true) => Question::VpcTool(renderer.render_text("{{ titus.resource_set }}")?),
            _ => return Err(Error::config(format!("check {} asks not exactly one thing", self.id))),
        };
        Ok(Check { id: self.id.clone(), question })
    }
}
