//! The Auto Scaling API and S3 in a node's own network, for the sample instance.

use std::sync::{Arc, Mutex};

use super::node::Node;
use super::services::listen;
use crate::support::aws::account::{Account, Bucket};
use crate::support::aws::{Aws, Fault, Keys};
use crate::support::metadata::Items;

/// What the API does with the calls that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The hook holds the instance until it is completed.
    Held,
    /// No policy allows the call.
    Denied,
}

/// Where both are.
pub const ENDPOINT: &str = "http://30.0.100.194:4566";

const ACTIONS: [&str; 3] = ["CompleteLifecycleAction", "RecordLifecycleActionHeartbeat", "SetInstanceHealth"];

/// The API; it lives as long as one of these.
#[derive(Clone)]
pub struct AutoScaling {
    aws: Aws,
    /// How many calls the test has read.
    seen: Arc<Mutex<usize>>,
}

impl AutoScaling {
    /// Serves it and gives the boot unit its address.
    pub fn serve(node: &Node) -> AutoScaling {
        let listener = listen(node, ENDPOINT.trim_start_matches("http://"));
        node.write(
            "/etc/systemd/system/titus-bootstrap.service.d/autoscaling.conf",
            &format!("[Service]\nEnvironment=AWS_ENDPOINT_URL_AUTO_SCALING={ENDPOINT}\n"),
        );
        node.shell("systemctl daemon-reload");
        let mut account = Account::default();
        account.buckets.insert("titus-log-bucket-terraform-example".into(), Bucket::There);
        account.buckets.insert("there".into(), Bucket::There);
        account.buckets.insert("another-s".into(), Bucket::Forbidden);
        let aws = Aws::serve(listener, "eu-west-1", account, &Keys::new(1));
        let api = AutoScaling { aws, seen: Arc::default() };
        api.answer(Answer::Held);
        api
    }

    /// From now on.
    pub fn answer(&self, answer: Answer) {
        self.aws.clear_faults();
        match answer {
            Answer::Held => {
                let held = ["titusagent", "launch", "i-0123456789abcdef0"].map(str::to_owned);
                self.aws.account(|account| account.held.insert(held));
            }
            Answer::Denied => ACTIONS.into_iter().for_each(|action| self.aws.fault(Fault::Deny(action))),
        }
    }

    /// The calls since the last question: `CompleteLifecycleAction titusagent launch CONTINUE`.
    pub fn calls(&self) -> Vec<String> {
        let calls = self.new_calls();
        *self.seen.lock().unwrap() += calls.len();
        calls
    }

    /// How many calls of this action have come since then.
    pub fn count(&self, action: &str) -> usize {
        self.new_calls().iter().filter(|call| call.starts_with(action)).count()
    }

    fn new_calls(&self) -> Vec<String> {
        let names = ["AutoScalingGroupName=", "LifecycleHookName=", "LifecycleActionResult=", "HealthStatus="];
        let calls = self.aws.requests().into_iter().filter(|call| !call.starts_with("HEAD "));
        let short = |call: String| {
            let value = |name: &str| call.split(' ').find_map(|word| word.strip_prefix(name)).map(str::to_owned);
            let action = call.split(' ').next().unwrap().to_owned();
            std::iter::once(action).chain(names.into_iter().filter_map(value)).collect::<Vec<_>>().join(" ")
        };
        calls.map(short).skip(*self.seen.lock().unwrap()).collect()
    }
}

/// Metadata of an instance that may call it.
pub fn with_profile(mut items: Items) -> Items {
    items.extend(Keys::new(1).items());
    items
}
