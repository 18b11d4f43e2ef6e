//! Steps on an instance in a warm pool: everything on disk is made ready, but nothing joins a cluster.
//!
//! An Auto Scaling group keeps such an instance ready. The run converges it and pulls its images, but no
//! cluster may count on it before the group puts it into service.

use super::{Planned, State, Step};
use crate::error::Result;
use crate::host::Host;

/// A role creates this empty file when everything that depends on the instance is written. Services with
/// a drop-in for it do not start before.
pub const READY: &str = "/run/titus-bootstrap/ready";

/// The one unit that starts anyway: it pulls images, and does not join anything by itself.
pub(super) const ENGINE: &str = "docker.service";

impl Step {
    /// Defers what the step starts or waits for; `why` is reported instead.
    pub fn defer(mut self, why: &str) -> Step {
        if self.deferral.is_some() {
            return self;
        }
        let joins = self.kind.work_mut().defer();
        self.deferral = joins.then(|| why.to_owned());
        self
    }

    /// Observes the part of a deferred step that is still done, if any.
    pub(super) fn observe_deferred(&self, why: &str, host: &Host, planned: &Planned) -> Result<State> {
        let is_partly_done = self.kind.work().is_partly_done();
        match if is_partly_done { self.kind.work().observe(host, planned)? } else { State::InSync(None) } {
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
    use crate::step::{Change, RawStep};
    use crate::template::Renderer;

    const WHY: &str = "in a warm pool";

    fn defer(toml: &str) -> Step {
        let raw: RawStep = toml::from_str(&format!("id = 'step'\nphase = 'boot'\n{toml}")).unwrap();
        let files = BTreeMap::from([("config".to_owned(), "/etc/x".to_owned())]);
        raw.resolve(&Renderer::new(serde_json::json!({})), &files).unwrap().defer(WHY)
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
            assert_eq!(defer(joins).deferral.as_deref(), Some(WHY), "{joins}");
        }
        for on_disk in [
            "file = { path = '/etc/x', content = '' }",
            "directory = { path = '/var/lib/x' }",
            "image = { name = 'x:1' }",
            "unit = { name = 'docker.service', enabled = true, active = true, restart_on = ['config'] }",
            "unit = { name = 'x.service', enabled = true }",
            "unit = { name = 'x.service', masked = true }",
        ] {
            assert_eq!(defer(on_disk).deferral, None, "{on_disk}");
        }
    }

    #[test]
    fn a_unit_is_enabled_and_then_says_why_it_is_not_started() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let text = b"[Install]\nWantedBy=multi-user.target\n";
        host.write("/etc/systemd/system/x.service", text, 0o644, Owner::ROOT).unwrap();
        let step = defer("unit = { name = 'x.service', enabled = true, active = true, restart_on = ['config'] }");
        let look = || step.observe(&host, &Planned::new()).unwrap();
        assert_eq!(look(), State::Changes(vec![Change::new("enable x.service")]));
        step.work().converge(&host).unwrap();
        assert_eq!(look(), State::Deferred(WHY.into()));
    }

    #[test]
    fn the_file_that_services_wait_for_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let step = defer("file = { path = '/run/titus-bootstrap/ready', content = '' }");
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::Deferred(WHY.into()));
        assert!(step.work().planned(&host, &Planned::new()).is_ok() && host.entry(READY).unwrap().is_none());
    }
}
