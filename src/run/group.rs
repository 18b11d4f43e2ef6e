//! The Auto Scaling group's side of a run: what a run defers in a warm pool, and how an unattended run notifies the group at
//! its end.
//!
//! Only runs of the boot unit and from user data notify the group: a typo at a prompt must not cost a node.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::health;
use super::trigger::Trigger;
use crate::ec2::api::{Api, Failure, Lifecycle, Outcome};
use crate::ec2::{imds, up_to};
use crate::error::{Error, Kind, Result};
use crate::facts::{Facts, GROUP_TAG};
use crate::host::net::Proxy;
use crate::host::systemd::Job;
use crate::host::wait::Deadline;
use crate::host::{Host, signals};
use crate::prepare::{self, Phases, Prepared, Request, layers};
use crate::settings::Settings;

/// Starts the boot unit again a minute later; see systemd/titus-bootstrap-retry.timer.
const RETRY: &str = "titus-bootstrap-retry.timer";

/// A run that ends sooner needs no heartbeat. EC2 takes some 15 s to get here, and a hook's timeout is at least 30 s
/// ("PutLifecycleHook", EC2 Auto Scaling API reference).
const FIRST_BEAT: Duration = Duration::from_secs(10);

/// The interval between later heartbeats, plus a random delay of up to `JITTER`. The instance does not know its hook's
/// timeout, and a timeout of a minute survives the loss of one heartbeat. 200 nodes that start together make 9 calls a
/// second.
const BEAT: Duration = Duration::from_secs(20);
const JITTER: Duration = Duration::from_secs(5);

/// The longest interval, if no hook holds the instance, or not yet.
const SELDOM: Duration = Duration::from_secs(300);

/// How long one heartbeat may take, and so how long it may take to stop them.
const BEAT_LIMIT: Duration = Duration::from_secs(10);

/// How long to try to notify the group of a run's result.
const NOTIFY_LIMIT: Duration = Duration::from_secs(60);

/// A machine that has run, or been out of its warm pool, for less than this may be ahead of its group. The group learns from
/// EC2 that the instance runs, and only then does the hook hold it. The instance profile may be as late.
const YOUNG: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(5);

/// A run never asks to replace a node that has this directory: the ensemble may have no other copy.
const ZOOKEEPER_DATA: &str = "/var/lib/zookeeper/version-2";

/// The calls of the Auto Scaling API that a run makes.
trait Calls {
    fn complete(&mut self, hook: &Lifecycle, outcome: Outcome) -> Result<bool, Failure>;
    fn heartbeat(&mut self, hook: &Lifecycle) -> Result<bool, Failure>;
    fn mark_unhealthy(&mut self, instance: &str) -> Result<(), Failure>;
}

impl Calls for Api {
    fn complete(&mut self, hook: &Lifecycle, outcome: Outcome) -> Result<bool, Failure> {
        self.set_limit(NOTIFY_LIMIT);
        Api::complete(self, hook, outcome)
    }

    fn heartbeat(&mut self, hook: &Lifecycle) -> Result<bool, Failure> {
        self.set_limit(BEAT_LIMIT);
        Api::heartbeat(self, hook)
    }

    fn mark_unhealthy(&mut self, instance: &str) -> Result<(), Failure> {
        self.set_limit(NOTIFY_LIMIT);
        Api::mark_unhealthy(self, instance)
    }
}

/// Starts the boot unit again a minute later, because an instance may leave a warm pool without a boot.
///
/// # Errors
/// Fails when systemd refuses.
pub fn try_again(host: &Host) -> Result<()> {
    let queued = host.queue_job(Job::Restart(RETRY));
    queued.map_err(|error| error.at("no run will check whether this instance has left its warm pool"))
}

/// The Auto Scaling group of an instance, as a run knows it.
pub struct Group {
    /// The hook to complete; none: the settings name no hook, or this run must not notify the group.
    hook: Option<Lifecycle>,
    /// Why the group of the hook is unknown, if the settings name a hook.
    unnamed: Option<String>,
    /// The instance to replace after a failure.
    mark: Option<String>,
    warm: bool,
    /// Whether the run before this one was still in a warm pool.
    pub left_pool: bool,
    /// Whether the hook has let go of the instance since this boot.
    pub is_done: bool,
    region: String,
    proxy: Proxy,
    beats: Option<Beats>,
    /// Whether the hook was completed, or this run tried to. The run then sends no more notifications.
    is_notified: bool,
}

impl Group {
    /// Returns the group, and starts heartbeats if there is a hook to complete.
    pub fn new(host: &Host, facts: &Facts, settings: &Settings, trigger: Trigger, phases: Phases) -> Group {
        let mut group = Group::from_settings(facts, settings);
        if !host.is_live() || !trigger.informs_group() || phases == Phases::Bake {
            (group.hook, group.mark) = (None, None);
        } else if let (Some(hook), None) = (&settings.lifecycle.hook, &group.hook) {
            let why = format!(
                "lifecycle.hook is {hook:?}, and no tag {} names the group of this instance: the run completes no hook",
                GROUP_TAG
            );
            // Nodes without a group may have the same settings.
            if is_in_group(facts) && !host.is_young() {
                tracing::warn!("{why}")
            } else {
                tracing::debug!("{why}")
            }
            group.unnamed = Some(why);
        }
        if group.mark.is_some() && matches!(host.entry(ZOOKEEPER_DATA), Ok(Some(_))) {
            tracing::debug!("{ZOOKEEPER_DATA} is there: the run never asks the group to replace this instance");
            group.mark = None;
        }
        group.beats = group.hook.clone().and_then(|hook| group.begin_beats(hook));
        group
    }

    /// The group as facts and settings have it, regardless of who started the run.
    fn from_settings(facts: &Facts, settings: &Settings) -> Group {
        let instance = facts.instance.as_ref();
        let name = instance.and_then(|instance| instance.autoscaling_group.clone());
        let id = instance.map(|instance| instance.id.clone()).unwrap_or_default();
        let named = settings.lifecycle.hook.clone().zip(name);
        Group {
            unnamed: None,
            hook: named.map(|(hook, group)| Lifecycle { group, hook: hook.into(), instance: id.clone() }),
            mark: (is_in_group(facts) && settings.on_failure.mark_unhealthy).then_some(id),
            warm: instance.is_some_and(|instance| instance.warm_pool().is_some()),
            left_pool: false,
            is_done: false,
            region: instance.map(|instance| instance.region.clone()).unwrap_or_default(),
            proxy: layers::proxy(&settings.proxy),
            beats: None,
            is_notified: false,
        }
    }

    /// Finds the group after a failure so early that the run did not know it yet; none: it is still unknown.
    pub fn after_early_failure(request: &Request, trigger: Trigger) -> Option<Group> {
        let mut host = request.host().ok()?;
        let gathered = prepare::gather(request, &mut host).ok()?;
        let settings = gathered.merged.settings().ok()?;
        Some(Group::new(&host, &gathered.facts, &settings, trigger, request.phases))
    }

    fn api(&self) -> Result<Api> {
        Ok(Api::new(&imds::Endpoint::from_env()?, &self.region, &self.proxy, NOTIFY_LIMIT))
    }

    fn begin_beats(&self, hook: Lifecycle) -> Option<Beats> {
        let begun = self.api().and_then(|mut api| {
            api.quiet = true;
            Beats::begin(api, hook)
        });
        begun.inspect_err(|error| tracing::warn!("cannot send heartbeats: {error}")).ok()
    }

    /// After a good run that no reboot follows, waits until the role's health checks are satisfied, then lets the hook put
    /// the instance into service. In a warm pool, or if no hook holds the instance, it runs no checks.
    ///
    /// # Errors
    /// Fails with 1 when a check is not satisfied in time, or the call is not allowed; with 75 when the API does not
    /// respond, or the group of a young machine is unknown.
    pub fn finish(&mut self, host: &Host, prepared: &Prepared) -> Result<()> {
        let Some(hook) = self.hook.clone() else {
            let not_yet = self.unnamed.take().filter(|_| host.is_young());
            return not_yet.map_or(Ok(()), |why| Err(Error::config(why).awaiting("the Auto Scaling group")));
        };
        let mut api = self.api()?;
        host.notify_systemd(&format!("{}: the lifecycle hook {}", prepared.role.name, hook.hook));
        // The API gets one call at a time, heartbeats included.
        self.stop_beats();
        if !is_held(&mut api, &hook, &self.may_be_early(), PAUSE) {
            tracing::debug!("the lifecycle hook {} does not hold this instance", hook.hook);
            return Ok(());
        }
        if !self.warm {
            self.beats = self.begin_beats(hook.clone());
            health::wait(host, prepared).map_err(|error| error.at(&prepared.role.name))?;
            self.stop_beats();
        }
        self.is_notified = true;
        let place = format!("{}: all steps are done, but the Auto Scaling group is not notified", prepared.role.name);
        self.is_done = complete(&mut api, &hook).map_err(|error| error.at(place))?;
        Ok(())
    }

    /// After a failure, abandons the instance at its hook, or asks the group to replace it. An error here is only logged:
    /// the run has already failed.
    pub fn give_up(&mut self) {
        if self.is_notified || (self.hook.is_none() && self.mark.is_none()) {
            return;
        }
        self.stop_beats();
        self.is_notified = true;
        match self.api() {
            Ok(mut api) => give_up(&mut api, self.hook.as_ref(), self.mark.as_deref(), &self.may_be_early()),
            Err(error) => tracing::error!("the Auto Scaling group is not notified: {error}"),
        }
    }

    /// Whether the group may not know this instance yet.
    fn may_be_early(&self) -> impl Fn() -> bool {
        let (began, left_pool, is_done) = (Instant::now(), self.left_pool, self.is_done);
        move || {
            let early = if left_pool { began.elapsed() < YOUNG } else { !is_done && uptime() < YOUNG };
            early && !signals::interrupted()
        }
    }

    fn stop_beats(&mut self) {
        if let Some(beats) = self.beats.take() {
            beats.stop();
        }
    }
}

/// Whether the instance is in an Auto Scaling group. Only then does it have a lifecycle state, with or without tags.
fn is_in_group(facts: &Facts) -> bool {
    let instance = facts.instance.as_ref();
    instance.is_some_and(|instance| instance.autoscaling_group.is_some() || instance.lifecycle_state.is_some())
}

/// Returns an error if only one of the two facts that each instance of a group has is known. The other one will come, and
/// with it the other tags.
pub fn half_known(facts: &Facts) -> Option<Error> {
    let instance = facts.instance.as_ref()?;
    let (tag, state) = (instance.autoscaling_group.as_deref(), instance.lifecycle_state.as_deref());
    match (tag, state) {
        (None, Some(state)) if instance.tags.is_some() => {
            let what = format!("the lifecycle state is {state}, and there is no tag {GROUP_TAG} yet");
            Some(Error::config(what).awaiting("the instance's tags"))
        }
        // Until the state is known, the instance may be in a warm pool.
        (Some(group), None) => {
            let what =
                format!("the tag {GROUP_TAG} is {group}, and instance metadata has no target-lifecycle-state yet");
            Some(Error::config(what).awaiting("the lifecycle state"))
        }
        _ => None,
    }
}

/// Whether an error is final for this node, so that neither the retry timer nor the person who stopped the run will deal
/// with it.
pub fn is_final(error: &Error) -> bool {
    use Kind::{Interrupted, NoRole, NotPermitted, NotYet, TemporaryFailure, Usage};
    !matches!(error.kind, TemporaryFailure | NotYet | Interrupted | NoRole | NotPermitted | Usage)
        && !signals::interrupted()
        && !is_shutting_down()
}

/// Whether the machine is shutting down. That can make a run fail, and cloud-init's children get no signal.
fn is_shutting_down() -> bool {
    Host::live(Default::default()).is_stopping()
}

/// How long the machine has been running. If unknown, assume a long time.
fn uptime() -> Duration {
    Host::live(Default::default()).uptime().unwrap_or(Duration::MAX)
}

/// Whether the hook holds the instance. While the group may not know the instance yet, asks it again. A positive answer also
/// restarts the hook's timeout. Without an answer, the hook may hold the instance.
fn is_held(calls: &mut impl Calls, hook: &Lifecycle, may_be_early: &dyn Fn() -> bool, pause: Duration) -> bool {
    let mut deadline = Deadline::new(format!("the lifecycle hook {}", hook.hook), YOUNG);
    loop {
        match calls.heartbeat(hook) {
            Ok(true) => return true,
            Ok(false) if !may_be_early() => return false,
            Err(failure) if !failure.is_denied() || !may_be_early() => {
                tracing::debug!("no heartbeat: {}", failure.error);
                return true;
            }
            // After a signal the machine no longer counts as early, so the next answer is the last.
            Ok(false) | Err(_) => drop(deadline.pause(pause)),
        }
    }
}

/// Puts the instance into service. Returns false if the hook no longer holds it.
fn complete(calls: &mut impl Calls, hook: &Lifecycle) -> Result<bool> {
    match calls.complete(hook, Outcome::Continue) {
        Ok(true) => {
            tracing::info!("notified the Auto Scaling group {}: CONTINUE (lifecycle hook {})", hook.group, hook.hook);
            Ok(true)
        }
        Ok(false) => {
            tracing::debug!("the lifecycle hook {} does not hold this instance any more", hook.hook);
            Ok(false)
        }
        Err(failure) => {
            let mut error = failure.error;
            // The run is tried again after 75. A call that the API refused would be refused again.
            if !matches!(error.kind, Kind::TemporaryFailure | Kind::Interrupted) {
                error.kind = Kind::Failed;
            }
            Err(error)
        }
    }
}

fn give_up(calls: &mut impl Calls, hook: Option<&Lifecycle>, mark: Option<&str>, may_be_early: &dyn Fn() -> bool) {
    if let Some(hook) = hook
        && is_held(calls, hook, may_be_early, PAUSE)
    {
        match calls.complete(hook, Outcome::Abandon) {
            Ok(true) => {
                tracing::warn!(
                    "notified the Auto Scaling group {}: ABANDON this instance (lifecycle hook {})",
                    hook.group,
                    hook.hook
                );
                return;
            }
            Ok(false) => tracing::debug!("the lifecycle hook {} does not hold this instance", hook.hook),
            Err(failure) => tracing::error!("the Auto Scaling group is not notified of the failure: {}", failure.error),
        }
    }
    if let Some(instance) = mark {
        match calls.mark_unhealthy(instance) {
            Ok(()) => tracing::warn!("asked the Auto Scaling group to replace this instance, {instance}"),
            Err(failure) => {
                tracing::error!("cannot ask the Auto Scaling group to replace this instance: {}", failure.error)
            }
        }
    }
}

/// A thread that keeps a hook from timing out.
struct Beats {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Beats {
    fn begin(mut calls: impl Calls + Send + 'static, hook: Lifecycle) -> Result<Beats> {
        let (stop, stopped) = mpsc::channel();
        let work = move || {
            beat(&mut calls, &hook, &mut |pause| {
                stopped.recv_timeout(pause + up_to(JITTER)) == Err(RecvTimeoutError::Timeout)
            });
        };
        let thread = std::thread::Builder::new().name("heartbeats".into()).spawn(work);
        let thread = thread.map_err(|e| Error::failed("a thread cannot be started").cause(e))?;
        Ok(Beats { stop, thread })
    }

    /// Returns when no call is in progress any more.
    fn stop(self) {
        drop(self.stop);
        // It does not matter here why the thread ended.
        let _ = self.thread.join();
    }
}

/// Sends heartbeats until `pause` returns false. A failed heartbeat never fails a run.
fn beat(calls: &mut impl Calls, hook: &Lifecycle, pause: &mut dyn FnMut(Duration) -> bool) {
    let (mut next, mut has_warned) = (FIRST_BEAT, false);
    while pause(next) {
        next = match calls.heartbeat(hook) {
            Ok(true) => BEAT,
            Ok(false) => (next * 2).clamp(BEAT, SELDOM),
            Err(failure) => {
                if !std::mem::replace(&mut has_warned, true) {
                    tracing::warn!("no heartbeat for the lifecycle hook {}: {}", hook.hook, failure.error);
                }
                if failure.is_denied() { (next * 2).clamp(BEAT, SELDOM) } else { BEAT }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::facts::sample;

    /// An API that gives the prepared answers, and then `true`.
    #[derive(Clone, Default)]
    struct Fake {
        answers: Arc<Mutex<VecDeque<Result<bool, &'static str>>>>,
        calls: Arc<Mutex<Vec<String>>>,
    }

    impl Fake {
        fn new(answers: impl IntoIterator<Item = Result<bool, &'static str>>) -> Fake {
            let fake = Fake::default();
            fake.answers.lock().unwrap().extend(answers);
            fake
        }

        fn called(&self) -> Vec<String> {
            self.calls.lock().unwrap().clone()
        }

        fn call(&self, what: String) -> Result<bool, Failure> {
            self.calls.lock().unwrap().push(what);
            let answer = self.answers.lock().unwrap().pop_front().unwrap_or(Ok(true));
            answer.map_err(|code| match code {
                "late" => Error::new(Kind::TemporaryFailure, "no answer").into(),
                "stopped" => signals::interruption().into(),
                code => Failure { code: Some(code.into()), error: Error::config(code).fix("a statement") },
            })
        }
    }

    impl Calls for Fake {
        fn complete(&mut self, hook: &Lifecycle, outcome: Outcome) -> Result<bool, Failure> {
            self.call(format!("{outcome:?} {} {} {}", hook.group, hook.hook, hook.instance))
        }

        fn heartbeat(&mut self, _: &Lifecycle) -> Result<bool, Failure> {
            self.call("heartbeat".into())
        }

        fn mark_unhealthy(&mut self, instance: &str) -> Result<(), Failure> {
            self.call(format!("unhealthy {instance}")).map(drop)
        }
    }

    fn hook() -> Lifecycle {
        Lifecycle { group: "titusagent".into(), hook: "launch".into(), instance: "i-1".into() }
    }

    #[test]
    fn a_good_run_goes_on() {
        let mut fake = Fake::default();
        assert!(complete(&mut fake, &hook()).unwrap());
        assert_eq!(fake.called(), ["Continue titusagent launch i-1"]);
        assert!(!complete(&mut Fake::new([Ok(false)]), &hook()).unwrap());
    }

    #[test]
    fn a_call_that_got_no_answer_is_tried_again_and_one_that_was_denied_is_a_failure() {
        let code = |answer| complete(&mut Fake::new([Err(answer)]), &hook()).unwrap_err();
        assert_eq!(code("late").kind.exit_code(), 75);
        assert_eq!(code("stopped").kind, Kind::Interrupted);
        let denied = code("AccessDenied");
        assert_eq!((denied.kind.exit_code(), denied.fix.as_deref()), (1, Some("a statement")));
        assert_eq!(code("ValidationError").kind.exit_code(), 1);
    }

    #[test]
    fn after_a_failure_the_hook_abandons_the_instance_or_the_instance_is_marked() {
        let called = |answers: &[Result<bool, &'static str>], hook: Option<&Lifecycle>, mark: Option<&str>| {
            let mut fake = Fake::new(answers.iter().copied());
            give_up(&mut fake, hook, mark, &|| false);
            fake.called()
        };
        let hook = hook();
        let (abandon, mark) = ("Abandon titusagent launch i-1", "unhealthy i-1");
        assert_eq!(called(&[], Some(&hook), Some("i-1")), ["heartbeat", abandon]);
        assert_eq!(called(&[Ok(false)], Some(&hook), Some("i-1")), ["heartbeat", mark]);
        assert_eq!(called(&[Ok(true), Ok(false)], Some(&hook), Some("i-1")), ["heartbeat", abandon, mark]);
        let denied = Err("AccessDenied");
        assert_eq!(called(&[denied, denied, denied], Some(&hook), Some("i-1")), ["heartbeat", abandon, mark]);
        assert_eq!(called(&[], None, Some("i-1")), [mark]);
        assert_eq!(called(&[Ok(false)], Some(&hook), None), ["heartbeat"]);
    }

    #[test]
    fn the_group_of_a_young_instance_is_asked_again() {
        let held = |answers: &[Result<bool, &'static str>], early: bool| {
            let mut fake = Fake::new(answers.iter().copied());
            (is_held(&mut fake, &hook(), &|| early, Duration::ZERO), fake.called().len())
        };
        assert_eq!(held(&[Ok(false), Ok(false), Ok(true)], true), (true, 3));
        assert_eq!(held(&[Ok(false), Ok(true)], false), (false, 1));
        // The instance profile may be late, too.
        assert_eq!(held(&[Err("NoInstanceProfile"), Ok(true)], true), (true, 2));
        // Without an answer the hook may hold the instance.
        assert_eq!(held(&[Err("NoInstanceProfile")], false), (true, 1));
        assert_eq!(held(&[Err("late")], true), (true, 1));
    }

    #[test]
    fn heartbeats_are_frequent_enough_for_a_timeout_of_a_minute_and_rare_without_a_hook() {
        let pauses = |answers: &[Result<bool, &'static str>], most: usize| {
            let (mut fake, mut pauses) = (Fake::new(answers.iter().copied()), Vec::new());
            beat(&mut fake, &hook(), &mut |pause| {
                pauses.push(pause.as_secs());
                pauses.len() <= most
            });
            (pauses, fake.called().len())
        };
        assert_eq!(pauses(&[], 3), (vec![10, 20, 20, 20], 3));
        assert_eq!(pauses(&[Err("late")], 2), (vec![10, 20, 20], 2));
        assert_eq!(pauses(&[Ok(false); 6], 6).0, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(pauses(&[Ok(false)], 2).0, [10, 20, 20]);
        assert_eq!(pauses(&[Err("AccessDenied"); 2], 2).0, [10, 20, 40]);
        assert!(2 * (BEAT + JITTER) < Duration::from_secs(60));
    }

    #[test]
    fn stop_waits_for_the_last_heartbeat() {
        let fake = Fake::default();
        Beats::begin(fake.clone(), hook()).unwrap().stop();
        assert_eq!(Arc::strong_count(&fake.calls), 1, "the thread is still there");
    }

    fn notifies(
        more: &str,
        trigger: Trigger,
        phases: Phases,
        change: impl FnOnce(&mut Facts),
    ) -> (Option<Lifecycle>, bool) {
        let settings = format!("lifecycle.hook = 'launch'\non_failure.mark_unhealthy = true\n{more}");
        let settings: Settings = toml::from_str(&settings).unwrap();
        let mut facts = sample::facts();
        change(&mut facts);
        let group = Group::new(&Host::live(Default::default()), &facts, &settings, trigger, phases);
        (group.hook.clone(), group.mark.is_some())
    }

    #[test]
    fn only_an_unattended_run_notifies_the_group() {
        for trigger in [Trigger::Boot, Trigger::UserData] {
            let (hook, mark) = notifies("", trigger, Phases::All, |_| {});
            let hook = hook.unwrap();
            assert_eq!((hook.group.as_str(), hook.hook.as_str(), mark), ("titusagent", "launch", true));
            assert!(notifies("", trigger, Phases::Boot, |_| {}).1);
            assert_eq!(notifies("", trigger, Phases::Bake, |_| {}), (None, false));
        }
        for trigger in [Trigger::Person, Trigger::Script] {
            assert_eq!(notifies("", trigger, Phases::All, |_| {}), (None, false));
        }
    }

    #[test]
    fn the_group_comes_from_the_instance_and_not_from_agent_asg() {
        let none = notifies("agent.asg = 'other'", Trigger::Boot, Phases::All, |facts| {
            let instance = facts.instance.as_mut().unwrap();
            (instance.autoscaling_group, instance.lifecycle_state) = (None, None);
        });
        assert_eq!(none, (None, false));
        // Without tags the group's name is unknown, but not that there is a group.
        let unnamed =
            notifies("", Trigger::Boot, Phases::All, |facts| facts.instance.as_mut().unwrap().autoscaling_group = None);
        assert_eq!(unnamed, (None, true));
    }

    #[test]
    fn a_failure_is_final_unless_the_run_is_tried_again_or_was_stopped() {
        for kind in [Kind::Failed, Kind::Unavailable, Kind::Config] {
            assert!(is_final(&Error::new(kind, "")), "{kind:?}");
        }
        for kind in [Kind::TemporaryFailure, Kind::NotYet, Kind::Interrupted, Kind::NoRole] {
            assert!(!is_final(&Error::new(kind, "")), "{kind:?}");
        }
    }
}
