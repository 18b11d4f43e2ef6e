//! What a step is on an instance in a warm pool: all that is on disk is made so, and nothing joins.
//!
//! An Auto Scaling group keeps such an instance ready. It is converged, its images are pulled, but no
//! cluster may count on it before it is put into service.

use super::{Planned, State, Step};
use crate::error::Result;
use crate::host::Host;

/// A role makes this file, empty, when all that depends on the instance is written. Services whose
/// drop-in names it do not start before.
pub const READY: &str = "/run/titus-bootstrap/ready";

/// The one unit that is started all the same: images are pulled into it, and by itself it joins nothing.
pub(super) const ENGINE: &str = "docker.service";

impl Step {
    /// The step with what it starts, or what it waits for, put off; `why` is said instead.
    pub fn put_off(mut self, why: &str) -> Step {
        if self.put_off.is_some() {
            return self;
        }
        let joins = self.kind.work_mut().put_off();
        self.put_off = joins.then(|| why.to_owned());
        self
    }

    /// Looks at what is left of a step that is put off, if anything is.
    pub(super) fn observe_put_off(&self, why: &str, host: &Host, planned: &Planned) -> Result<State> {
        let is_done_in_part = self.kind.work().is_done_in_part();
        match if is_done_in_part { self.kind.work().observe(host, planned)? } else { State::InSync(None) } {
            State::InSync(_) => Ok(State::Deferred(why.to_owned())),
            state => Ok(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::fs::Owner;
    use crate::step::{Change, Raw};
    use crate::template::Renderer;

    const WHY: &str = "in a warm pool";

    fn put_off(toml: &str) -> Step {
        let raw: Raw = toml::from_str(&format!("id = 'step'\nphase = 'boot'\n{toml}")).unwrap();
        let files = BTreeMap::from([("config".to_owned(), "/etc/x".to_owned())]);
        raw.resolve(&Renderer::new(serde_json::json!({})), &files).unwrap().put_off(WHY)
    }

    #[test]
    fn what_joins_is_put_off_and_nothing_else() {
        for joins in [
            "container = { name = 'zookeeper', image = 'x:1' }",
            "wait = { tcp = 'localhost:1' }",
            "instance_group = { names = '{{ [] }}' }",
            "file = { path = '/run/titus-bootstrap/ready', content = '' }",
            "unit = { name = 'mesos-agent.service', enabled = true, active = true }",
            "unit = { name = 'x.service', restart_on = ['config'] }",
        ] {
            assert_eq!(put_off(joins).put_off.as_deref(), Some(WHY), "{joins}");
        }
        for on_disk in [
            "file = { path = '/etc/x', content = '' }",
            "directory = { path = '/var/lib/x' }",
            "image = { name = 'x:1' }",
            "unit = { name = 'docker.service', enabled = true, active = true, restart_on = ['config'] }",
            "unit = { name = 'x.service', enabled = true }",
            "unit = { name = 'x.service', masked = true }",
        ] {
            assert_eq!(put_off(on_disk).put_off, None, "{on_disk}");
        }
    }

    #[test]
    fn a_unit_is_enabled_and_then_says_why_it_is_not_started() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let text = b"[Install]\nWantedBy=multi-user.target\n";
        host.write("/etc/systemd/system/x.service", text, 0o644, Owner::ROOT).unwrap();
        let step = put_off("unit = { name = 'x.service', enabled = true, active = true, restart_on = ['config'] }");
        let look = || step.observe(&host, &Planned::new()).unwrap();
        assert_eq!(look(), State::Changes(vec![Change::new("enable x.service")]));
        step.work().converge(&host).unwrap();
        assert_eq!(look(), State::Deferred(WHY.into()));
    }

    #[test]
    fn the_file_that_services_wait_for_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let step = put_off("file = { path = '/run/titus-bootstrap/ready', content = '' }");
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::Deferred(WHY.into()));
        assert!(step.work().planned(&host, &Planned::new()).is_ok() && host.entry(READY).unwrap().is_none());
    }
}
