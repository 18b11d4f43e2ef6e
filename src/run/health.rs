//! The role's health checks. If something cannot be reached, its check fails; it is never skipped.

use std::time::Duration;

use crate::ec2::api::{Api, Bucket, Failure};
use crate::ec2::imds;
use crate::error::{Error, Result};
use crate::host::wait::Deadline;
use crate::host::{Host, signals};
use crate::prepare::Prepared;
use crate::step::health::{Check, Question};
pub use crate::titus::checks::Finding;
use crate::titus::checks::{check_registration, check_vpc_tool};

const TRY: Duration = Duration::from_secs(10);

/// The pause after the first round of checks. Most checks that fail in it succeed a moment later, e.g. when the Mesos
/// masters have elected one. Each further pause is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Repeats a role's checks until each has been satisfied once.
///
/// # Errors
/// Fails when the time limit for waits is over, naming the checks that are not satisfied, or after a signal.
pub fn wait(host: &Host, prepared: &Prepared) -> Result<()> {
    let mut checks = prepared.checks()?;
    let mut deadline = Deadline::new("the role's health checks", host.deadlines.wait);
    let mut pause = FIRST_PAUSE;
    loop {
        host.forget_units();
        let mut failing = Vec::new();
        for check in checks {
            match ask(host, &check.question)? {
                Finding::Good(_) => {}
                Finding::Warning(text) => tracing::warn!("{}: {text}", check.id),
                Finding::NotAsked(text) => tracing::warn!("{}: not asked: {text}", check.id),
                Finding::Bad(text) => failing.push((check, text)),
            }
        }
        if failing.is_empty() {
            return Ok(());
        }
        if !deadline.pause(pause)? {
            return Err(not_satisfied(&failing, host.deadlines.wait));
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        checks = failing.into_iter().map(|(check, _)| check).collect();
    }
}

fn not_satisfied(failing: &[(Check, String)], waited: Duration) -> Error {
    let ids: Vec<&str> = failing.iter().map(|(check, _)| check.id.as_str()).collect();
    let texts: Vec<String> = failing.iter().map(|(check, text)| format!("{}: {text}", check.id)).collect();
    let waited = humantime::format_duration(waited);
    Error::failed(format!("waited {waited} for its health checks; still failing: {}", ids.join(", ")))
        .cause(texts.join("\n"))
        .fix("fix the cause, and see titus-bootstrap verify; the setting timeouts.wait gives them longer")
}

/// Runs one check.
///
/// # Errors
/// Fails when the check cannot run at all.
pub fn ask(host: &Host, question: &Question) -> Result<Finding> {
    let finding = match question {
        Question::Kept(kept) => kept.ask(host)?,
        Question::MesosAgent { masters, address, port } => check_registration(host, masters, address, *port),
        Question::VpcTool(ours) => check_vpc_tool(host, ours),
        Question::DriverMetadata(finding) => finding.clone(),
        Question::LogBucket { name, region } => {
            let asked = imds::Endpoint::from_env()
                .map(|imds| Api::new(&imds, region, &host.proxy, TRY))
                .map_err(Failure::from)
                .and_then(|mut api| api.bucket(name));
            log_bucket(name, region, asked)
        }
    };
    // An answer that is missing because of a signal is not a finding.
    signals::check()?;
    Ok(finding)
}

/// A missing log bucket is never a failure: the agent runs without it, but the logs of its containers are lost.
fn log_bucket(name: &str, region: &str, asked: Result<Bucket, Failure>) -> Finding {
    let lost = "the logs of containers will be lost";
    match asked {
        Ok(Bucket::There) => Finding::Good(format!("the bucket {name} is there")),
        Ok(Bucket::Forbidden) => Finding::Good(format!(
            "the bucket {name} is there, or belongs to another account: this instance is not allowed to list it, and does not need to"
        )),
        Ok(Bucket::Missing) => {
            Finding::Warning(format!("there is no bucket {name} (setting agent.log_bucket): {lost}"))
        }
        Ok(Bucket::Elsewhere) => {
            Finding::Warning(format!("the bucket {name} (setting agent.log_bucket) is in another region than {region}"))
        }
        // The instance has no credentials to sign the request with.
        Err(failure) if failure.is_denied() => Finding::Warning(format!(
            "this instance has no credentials for the bucket {name} (setting agent.log_bucket): {lost}, unless each job's IAM role may write there"
        )),
        Err(failure) => {
            let cause = failure.error.cause.map_or(String::new(), |cause| format!(": {cause}"));
            Finding::NotAsked(format!(
                "whether the bucket {name} is there is unknown, and if it is not, {lost}: {}{cause}",
                failure.error.what
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_log_bucket_that_is_not_there_is_a_warning_that_names_it() {
        let found = |asked| match log_bucket("my-logs", "eu-west-1", asked) {
            Finding::Good(text) => ("good", text),
            Finding::Warning(text) => ("warning", text),
            Finding::Bad(text) => ("failed", text),
            Finding::NotAsked(text) => ("not asked", text),
        };
        let has = |asked, word, words: &str| {
            let (state, text) = found(asked);
            assert!(state == word && text.contains("my-logs") && text.contains(words), "{state}: {text}");
        };
        let failure = |code: Option<&str>| Failure {
            code: code.map(str::to_owned),
            error: Error::new(Kind::TemporaryFailure, "S3 gave no answer within 10s").cause("no way there"),
        };
        has(Ok(Bucket::There), "good", "is there");
        has(Ok(Bucket::Forbidden), "good", "does not need to");
        has(Ok(Bucket::Missing), "warning", "logs of containers will be lost");
        has(Ok(Bucket::Elsewhere), "warning", "another region than eu-west-1");
        has(Err(failure(Some("NoInstanceProfile"))), "warning", "no credentials");
        has(Err(failure(None)), "not asked", "S3 gave no answer within 10s: no way there");
    }
}
