//! Titus instance groups are Active; see [`crate::titus::instance_groups`].

use serde::Deserialize;

use super::{Change, Planned, RawKind, State, Work};
use crate::error::Result;
use crate::host::Host;
use crate::template::{Renderer, Templated};
use crate::titus::instance_groups::{ACTIVE, activate, state};

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawInstanceGroup {
    names: Templated<Vec<String>>,
}

/// Instance groups.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceGroups {
    names: Vec<String>,
}

impl RawInstanceGroup {
    /// Renders the names of the groups.
    ///
    /// # Errors
    /// Fails when a value is missing.
    pub fn resolve(&self, renderer: &Renderer) -> Result<InstanceGroups> {
        Ok(InstanceGroups { names: self.names.get(renderer)? })
    }
}

impl InstanceGroups {
    /// Each name with its state; `None` if no agent of the group has registered yet.
    ///
    /// # Errors
    /// Fails for the reasons of [`state`].
    pub fn states(&self, host: &Host) -> Result<Vec<(&str, Option<String>)>> {
        self.names.iter().map(|name| Ok((name.as_str(), state(host, name)?))).collect()
    }
}

impl RawKind for RawInstanceGroup {}

impl Work for InstanceGroups {
    fn explain(&self) -> Vec<String> {
        vec![match self.names.as_slice() {
            [] => "Keeps no Titus instance group: the settings name none.".to_owned(),
            names => format!(
                "Keeps these Titus instance groups Active, through the gateway of this node: {}.",
                names.join(", ")
            ),
        }]
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        if !host.is_live() {
            return Ok(State::Deferred("there is no gateway to ask with --root".into()));
        }
        let states = self.states(host)?;
        let changes: Vec<Change> = states
            .iter()
            .filter_map(|(name, state)| Some((name, state.as_ref().filter(|state| *state != ACTIVE)?)))
            .map(|(name, state)| Change::new(format!("activate the instance group {name} (it is {state})")))
            .collect();
        let unknown: Vec<&str> = states.iter().filter(|(_, state)| state.is_none()).map(|(name, _)| *name).collect();
        Ok(match (changes.is_empty(), unknown.is_empty()) {
            (true, false) => State::InSync(Some(format!("not yet: no agent of {} has registered", unknown.join(", ")))),
            _ => State::from_changes(changes),
        })
    }

    fn converge(&self, host: &Host) -> Result<()> {
        for (name, state) in self.states(host)? {
            if state.is_some_and(|state| state != ACTIVE) {
                activate(host, name)?;
            }
        }
        Ok(())
    }

    fn defer(&mut self) -> bool {
        true
    }
}
