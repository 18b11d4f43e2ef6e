//! Metadata options that require tokens, which titus-executor of 2018 does not know.

use crate::harness::agent;
use crate::harness::node::Node;

#[test]
fn metadata_that_demand_tokens_are_a_notice_and_then_a_failed_check_with_the_fix() {
    let node = Node::converged();
    let services = agent::services(&node);
    agent::apply(&node);
    agent::check(&node);
    let fix = "aws ec2 modify-instance-metadata-options --region eu-west-1 --instance-id i-0123456789abcdef0 \
               --http-tokens optional";
    assert!(!node.bootstrap(&["plan"]).ends_with(0).out.contains(fix));

    services.metadata.require_tokens(true);
    for command in ["plan", "apply"] {
        let run = node.bootstrap(&[command]).ends_with(0);
        assert!(run.out.contains(fix), "{command}: {}", run.out);
    }
    let verified = node.bootstrap(&["verify"]).ends_with(1);
    let line = |check: &str| verified.out.lines().find(|line| line.contains(check)).unwrap();
    assert!(line("vpc-metadata").starts_with("failed") && line("vpc-metadata").contains(fix), "{}", verified.out);
    // The tool's own words, and of those the ones that say why.
    assert!(line("vpc-tool").starts_with("failed") && line("vpc-tool").contains("401"), "{}", verified.out);

    services.metadata.require_tokens(false);
    node.bootstrap(&["verify"]).ends_with(0);
}
