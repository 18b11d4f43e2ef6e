//! The Auto Scaling group's side of a run: what is put off in a warm pool, and what the group is told at the
//! end of a run that nobody attends.
//!
//! Only runs of the boot unit and from user data tell it anything: a typo at a prompt must not cost a node.

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

/// Starts the boot unit again a minute later; systemd/titus-bootstrap-retry.timer.
const RETRY: &str = "titus-bootstrap-retry.timer";

/// A run that ends sooner needs no heartbeat. EC2 has needed some 15 s until here, and a hook's timeout is 30 s at
/// least ("PutLifecycleHook", EC2 Auto Scaling API reference).
const FIRST_BEAT: Duration = Duration::from_secs(10);

/// How often from then on, and up to so much later: a hook's timeout is not known to the instance, and one of a
/// minute bears the loss of one heartbeat. 200 nodes that start together make 9 calls a second.
const BEAT: Duration = Duration::from_secs(20);
const JITTER: Duration = Duration::from_secs(5);

/// At most so seldom where no hook holds the instance, or does not yet.
const SELDOM: Duration = Duration::from_secs(300);

/// How long a heartbeat may take, and so the stop of them.
const BEAT_LIMIT: Duration = Duration::from_secs(10);

/// How long the group is told how a run ended.
const TELL_LIMIT: Duration = Duration::from_secs(60);

/// A machine that runs no longer than this, or has left its warm pool no longer ago, may be ahead of its group,
/// which learns from EC2 that the instance runs, and only then has the hook hold it. Its profile may be as late.
const YOUNG: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(5);

/// A node that has these is never asked to be replaced: an ensemble may have no other copy.
const ZOOKEEPER_DATA: &str = "/var/lib/zookeeper/version-2";

/// What the Auto Scaling API is called for.
trait Calls {
    fn complete(&mut self, hook: &Lifecycle, outcome: Outcome) -> Result<bool, Failure>;
    fn heartbeat(&mut self, hook: &Lifecycle) -> Result<bool, Failure>;
    fn mark_unhealthy(&mut self, instance: &str) -> Result<(), Failure>;
}

impl Calls for Api {
    fn complete(&mut self, hook: &Lifecycle, outcome: Outcome) -> Result<bool, Failure> {
        self.allow(TELL_LIMIT);
        Api::complete(self, hook, outcome)
    }

    fn heartbeat(&mut self, hook: &Lifecycle) -> Result<bool, Failure> {
        self.allow(BEAT_LIMIT);
        Api::heartbeat(self, hook)
    }

    fn mark_unhealthy(&mut self, instance: &str) -> Result<(), Failure> {
        self.allow(TELL_LIMIT);
        Api::mark_unhealthy(self, instance)
    }
}

/// Has the boot unit tried again a minute later: an instance may leave a warm pool without a boot.
///
/// # Errors
/// When systemd refuses.
pub fn try_again(host: &Host) -> Result<()> {
    let queued = host.queue_job(Job::Restart(RETRY));
    queued.map_err(|error| error.at("nothing will look whether this instance has left its warm pool"))
}

/// The Auto Scaling group of an instance, as a run knows it.
pub struct Group {
    /// The hook to be completed; none: no hook is asked for, or this run must tell nothing.
    hook: Option<Lifecycle>,
    /// The instance that is to be replaced after a failure.
    mark: Option<String>,
    warm: bool,
    /// Whether the run before this one was still in a warm pool.
    pub left_pool: bool,
    /// Whether the hook has let go of the instance since this boot.
    pub is_done: bool,
    region: String,
    proxy: Proxy,
    beats: Option<Beats>,
    /// Whether the hook was completed, or that was tried: then nothing more is told.
    told: bool,
}

impl Group {
    /// The group, and the beginning of heartbeats if a hook is to be completed.
    pub fn new(host: &Host, facts: &Facts, settings: &Settings, trigger: Trigger, phases: Phases) -> Group {
        let mut group = Group::whole(facts, settings);
        if !host.is_live() || !trigger.informs_group() || phases == Phases::Bake {
            (group.hook, group.mark) = (None, None);
        } else if let (Some(hook), None) = (&settings.lifecycle.hook, &group.hook) {
            let why = format!(
                "lifecycle.hook is {hook:?}, and no tag {} tells the group of this instance: no hook is completed",
                GROUP_TAG
            );
            // Settings may be shared with nodes of no group.
            if is_in_group(facts) { tracing::warn!("{why}") } else { tracing::debug!("{why}") }
        }
        if group.mark.is_some() && matches!(host.entry(ZOOKEEPER_DATA), Ok(Some(_))) {
            tracing::debug!("{ZOOKEEPER_DATA} is there: the group is not asked to replace this instance");
            group.mark = None;
        }
        group.beats = group.hook.clone().and_then(|hook| group.begin_beats(hook));
        group
    }

    /// With all that there is to tell, whoever started the run.
    fn whole(facts: &Facts, settings: &Settings) -> Group {
        let instance = facts.instance.as_ref();
        let name = instance.and_then(|instance| instance.autoscaling_group.clone());
        let id = instance.map(|instance| instance.id.clone()).unwrap_or_default();
        let named = settings.lifecycle.hook.clone().zip(name);
        Group {
            hook: named.map(|(hook, group)| Lifecycle { group, hook, instance: id.clone() }),
            mark: (is_in_group(facts) && settings.on_failure.mark_unhealthy).then_some(id),
            warm: instance.is_some_and(|instance| instance.warm_pool().is_some()),
            left_pool: false,
            is_done: false,
            region: instance.map(|instance| instance.region.clone()).unwrap_or_default(),
            proxy: layers::proxy(&settings.proxy),
            beats: None,
            told: false,
        }
    }

    /// The same after a failure so early that no group was known; none: nor is one now.
    pub fn of_early_failure(request: &Request, trigger: Trigger) -> Option<Group> {
        let host = request.host().ok()?;
        let gathered = prepare::gather(request, &host).ok()?;
        let settings = gathered.merged.settings().ok()?;
        Some(Group::new(&host, &gathered.facts, &settings, trigger, request.phases))
    }

    fn api(&self) -> Result<Api> {
        Ok(Api::new(&imds::Endpoint::from_env()?, &self.region, &self.proxy, TELL_LIMIT))
    }

    fn begin_beats(&self, hook: Lifecycle) -> Option<Beats> {
        let begun = self.api().and_then(|mut api| {
            api.quiet = true;
            Beats::begin(api, hook)
        });
        begun.inspect_err(|error| tracing::warn!("no heartbeats are sent: {error}")).ok()
    }

    /// After a good run that no reboot follows: the role's health checks are asked until they are satisfied, then
    /// the hook lets the instance into service. In a warm pool, and where no hook holds it, none is asked.
    ///
    /// # Errors
    /// 1 when a check is not satisfied in time, or the call not allowed; 75 when the API does not answer.
    pub fn finish(&mut self, host: &Host, prepared: &Prepared) -> Result<()> {
        let Some(hook) = self.hook.clone() else { return Ok(()) };
        let mut api = self.api()?;
        host.tell_systemd(&format!("{}: the lifecycle hook {}", prepared.role.name, hook.hook));
        // One call at a time, also of these.
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
        self.told = true;
        let place = format!("{}: all steps are done, and the Auto Scaling group is not told", prepared.role.name);
        self.is_done = go_on(&mut api, &hook).map_err(|error| error.at(place))?;
        Ok(())
    }

    /// After a failure: the hook lets go of the instance, or the group is asked to replace it. What fails now is
    /// said, and no more: the run has failed already.
    pub fn give_up(&mut self) {
        if self.told || (self.hook.is_none() && self.mark.is_none()) {
            return;
        }
        self.stop_beats();
        self.told = true;
        match self.api() {
            Ok(mut api) => give_up(&mut api, self.hook.as_ref(), self.mark.as_deref(), &self.may_be_early()),
            Err(error) => tracing::error!("the Auto Scaling group is not told: {error}"),
        }
    }

    /// Asks whether the group may not have come to this instance yet.
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

/// Whether the instance is in an Auto Scaling group: only then it has the second, tags or not.
fn is_in_group(facts: &Facts) -> bool {
    let instance = facts.instance.as_ref();
    instance.is_some_and(|instance| instance.autoscaling_group.is_some() || instance.lifecycle_state.is_some())
}

/// Whether an error is this node's: not one that the retry timer, or whoever stopped the run, will see to.
pub fn is_final(error: &Error) -> bool {
    use Kind::{Interrupted, NoRole, NotPermitted, NotYet, TemporaryFailure, Usage};
    !matches!(error.kind, TemporaryFailure | NotYet | Interrupted | NoRole | NotPermitted | Usage)
        && !signals::interrupted()
        && !goes_down()
}

/// Whether the machine is shutting down: what fails then fails for that, and cloud-init's children get no signal.
fn goes_down() -> bool {
    Host::live(Default::default()).is_stopping()
}

/// How long the machine runs; unknown: long.
fn uptime() -> Duration {
    let text = Host::live(Default::default()).read_text("/proc/uptime").ok().flatten().unwrap_or_default();
    let seconds = text.split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(u64::MAX))
}

/// Whether the hook holds the instance; while it may be early, the group is asked again. It also gives what
/// follows the hook's whole timeout. An answer that does not come is no answer: then the hook may hold it.
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
            // After a signal nothing is early any more: the next answer is the last.
            Ok(false) | Err(_) => drop(deadline.pause(pause)),
        }
    }
}

/// Lets the instance into service; `false`: the hook does not hold it any more.
fn go_on(calls: &mut impl Calls, hook: &Lifecycle) -> Result<bool> {
    match calls.complete(hook, Outcome::Continue) {
        Ok(true) => {
            tracing::info!("told the Auto Scaling group {} to go on (lifecycle hook {})", hook.group, hook.hook);
            Ok(true)
        }
        Ok(false) => {
            tracing::debug!("the lifecycle hook {} does not hold this instance any more", hook.hook);
            Ok(false)
        }
        Err(failure) => {
            let mut error = failure.error;
            // 75 is tried again. What the API refused it will refuse in a minute too.
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
                    "told the Auto Scaling group {} to abandon this instance (lifecycle hook {})",
                    hook.group,
                    hook.hook
                );
                return;
            }
            Ok(false) => tracing::debug!("the lifecycle hook {} does not hold this instance", hook.hook),
            Err(failure) => tracing::error!("the Auto Scaling group is not told of the failure: {}", failure.error),
        }
    }
    if let Some(instance) = mark {
        match calls.mark_unhealthy(instance) {
            Ok(()) => tracing::warn!("asked the Auto Scaling group to replace this instance, {instance}"),
            Err(failure) => {
                tracing::error!("the Auto Scaling group is not asked to replace this instance: {}", failure.error)
            }
        }
    }
}

/// A thread that keeps a hook from running out.
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

    /// Returns when no call is under way any more.
    fn stop(self) {
        drop(self.stop);
        // A thread that has ended for another reason is as good.
        let _ = self.thread.join();
    }
}

/// Sends heartbeats while `pause` says to go on. None of them fails a run.
fn beat(calls: &mut impl Calls, hook: &Lifecycle, pause: &mut dyn FnMut(Duration) -> bool) {
    let (mut next, mut told) = (FIRST_BEAT, false);
    while pause(next) {
        next = match calls.heartbeat(hook) {
            Ok(true) => BEAT,
            Ok(false) => (next * 2).clamp(BEAT, SELDOM),
            Err(failure) => {
                if !std::mem::replace(&mut told, true) {
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

    /// An API that answers as it is told, and `true` when it was told nothing.
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
        assert!(go_on(&mut fake, &hook()).unwrap());
        assert_eq!(fake.called(), ["Continue titusagent launch i-1"]);
        assert!(!go_on(&mut Fake::new([Ok(false)]), &hook()).unwrap());
    }

    #[test]
    fn a_call_that_may_go_better_is_tried_again_and_one_that_is_denied_is_a_failure() {
        let code = |answer| go_on(&mut Fake::new([Err(answer)]), &hook()).unwrap_err();
        assert_eq!(code("late").kind.exit_code(), 75);
        assert_eq!(code("stopped").kind, Kind::Interrupted);
        let denied = code("AccessDenied");
        assert_eq!((denied.kind.exit_code(), denied.fix.as_deref()), (1, Some("a statement")));
        assert_eq!(code("ValidationError").kind.exit_code(), 1);
    }

    #[test]
    fn after_a_failure_the_hook_lets_go_or_else_the_instance_is_marked() {
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
    fn a_group_that_may_come_later_is_asked_again() {
        let held = |answers: &[Result<bool, &'static str>], early: bool| {
            let mut fake = Fake::new(answers.iter().copied());
            (is_held(&mut fake, &hook(), &|| early, Duration::ZERO), fake.called().len())
        };
        assert_eq!(held(&[Ok(false), Ok(false), Ok(true)], true), (true, 3));
        assert_eq!(held(&[Ok(false), Ok(true)], false), (false, 1));
        // Its profile comes late, too.
        assert_eq!(held(&[Err("NoInstanceProfile"), Ok(true)], true), (true, 2));
        // It is not known: the hook may hold it.
        assert_eq!(held(&[Err("NoInstanceProfile")], false), (true, 1));
        assert_eq!(held(&[Err("late")], true), (true, 1));
    }

    #[test]
    fn heartbeats_come_often_enough_for_a_timeout_of_a_minute_and_seldom_where_there_is_no_hook() {
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
    fn the_end_of_heartbeats_is_waited_for() {
        let fake = Fake::default();
        Beats::begin(fake.clone(), hook()).unwrap().stop();
        assert_eq!(Arc::strong_count(&fake.calls), 1, "the thread is still there");
    }

    fn told(
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
    fn only_a_run_that_nobody_attends_tells_the_group() {
        for trigger in [Trigger::Boot, Trigger::UserData] {
            let (hook, mark) = told("", trigger, Phases::All, |_| {});
            let hook = hook.unwrap();
            assert_eq!((hook.group.as_str(), hook.hook.as_str(), mark), ("titusagent", "launch", true));
            assert!(told("", trigger, Phases::Boot, |_| {}).1);
            assert_eq!(told("", trigger, Phases::Bake, |_| {}), (None, false));
        }
        for trigger in [Trigger::Person, Trigger::Script] {
            assert_eq!(told("", trigger, Phases::All, |_| {}), (None, false));
        }
    }

    #[test]
    fn the_group_is_the_instance_s_own_and_not_what_the_agent_says() {
        let none = told("agent.asg = 'other'", Trigger::Boot, Phases::All, |facts| {
            let instance = facts.instance.as_mut().unwrap();
            (instance.autoscaling_group, instance.lifecycle_state) = (None, None);
        });
        assert_eq!(none, (None, false));
        // Without tags its name is not known, but that it has one.
        let unnamed =
            told("", Trigger::Boot, Phases::All, |facts| facts.instance.as_mut().unwrap().autoscaling_group = None);
        assert_eq!(unnamed, (None, true));
    }

    #[test]
    fn a_failure_is_this_node_s_unless_it_is_tried_again_or_was_stopped() {
        for kind in [Kind::Failed, Kind::Unavailable, Kind::Config] {
            assert!(is_final(&Error::new(kind, "")), "{kind:?}");
        }
        for kind in [Kind::TemporaryFailure, Kind::NotYet, Kind::Interrupted, Kind::NoRole] {
            assert!(!is_final(&Error::new(kind, "")), "{kind:?}");
        }
    }
}
