//! The role's health checks. What cannot be reached is a failure, never skipped.

use std::time::Duration;

use crate::ec2::api::{Api, Bucket, Failure};
use crate::ec2::imds;
use crate::error::{Error, Result};
use crate::host::wait::Deadline;
use crate::host::{Host, signals};
use crate::prepare::Prepared;
use crate::step::health::{Check, Question};
pub use crate::titus::checks::Finding;
use crate::titus::checks::{registered, vpc_tool};

const TRY: Duration = Duration::from_secs(10);

/// Between two rounds of checks that are waited for.
const PAUSE: Duration = Duration::from_secs(2);

/// Asks a role's checks again and again, until each has been satisfied once.
///
/// # Errors
/// When the deadline for waits is over, with those that are not; or a signal came.
pub fn wait(host: &Host, prepared: &Prepared) -> Result<()> {
    let mut checks = prepared.checks()?;
    let mut deadline = Deadline::new("the role's health checks", host.deadlines.wait);
    loop {
        host.forget_units();
        let mut failing = Vec::new();
        for check in checks {
            match ask(host, &check.question)? {
                Finding::Good(_) => {}
                Finding::Warning(text) => tracing::warn!("{}: {text}", check.id),
                Finding::Bad(text) => failing.push((check, text)),
            }
        }
        if failing.is_empty() {
            return Ok(());
        }
        if !deadline.pause(PAUSE)? {
            return Err(not_satisfied(&failing, host.deadlines.wait));
        }
        checks = failing.into_iter().map(|(check, _)| check).collect();
    }
}

fn not_satisfied(failing: &[(Check, String)], waited: Duration) -> Error {
    let ids: Vec<&str> = failing.iter().map(|(check, _)| check.id.as_str()).collect();
    let texts: Vec<String> = failing.iter().map(|(check, text)| format!("{}: {text}", check.id)).collect();
    let waited = humantime::format_duration(waited);
    Error::failed(format!("waited {waited} for its health checks; still failing: {}", ids.join(", ")))
        .cause(texts.join("\n"))
        .fix("mend the cause, and see titus-bootstrap verify; the setting timeouts.wait gives them longer")
}

/// Asks one check.
///
/// # Errors
/// When it cannot be asked at all.
pub fn ask(host: &Host, question: &Question) -> Result<Finding> {
    let finding = match question {
        Question::Kept(kept) => kept.ask(host)?,
        Question::MesosAgent { masters, address, port } => registered(host, masters, address, *port),
        Question::VpcTool(ours) => vpc_tool(host, ours),
        Question::DriverMetadata(finding) => finding.clone(),
        Question::LogBucket { name, region } => {
            let asked = imds::Endpoint::from_env()
                .map(|imds| Api::new(&imds, region, &host.proxy, TRY))
                .map_err(Failure::from)
                .and_then(|mut api| api.bucket(name));
            log_bucket(name, region, asked)
        }
    };
    // What was not answered because of a signal is not an answer.
    signals::check()?;
    Ok(finding)
}

/// Never a failure: the agent runs without, but the logs of its containers have no place.
fn log_bucket(name: &str, region: &str, asked: Result<Bucket, Failure>) -> Finding {
    let lost = "the logs of containers will be lost";
    match asked {
        Ok(Bucket::There) => Finding::Good(format!("the bucket {name} is there")),
        Ok(Bucket::Forbidden) => Finding::Good(format!(
            "the bucket {name} is there, or another account's: this instance may not list it, and need not"
        )),
        Ok(Bucket::Missing) => {
            Finding::Warning(format!("there is no bucket {name} (setting agent.log_bucket): {lost}"))
        }
        Ok(Bucket::Elsewhere) => {
            Finding::Warning(format!("the bucket {name} (setting agent.log_bucket) is in another region than {region}"))
        }
        // There is nobody to sign for.
        Err(failure) if failure.is_denied() => {
            Finding::Good(format!("the bucket {name} was not asked for: this instance has no credentials"))
        }
        Err(failure) => {
            let cause = failure.error.cause.map_or(String::new(), |cause| format!(": {cause}"));
            Finding::Warning(format!(
                "whether the bucket {name} is there is not known, and if it is not, {lost}: {}{cause}",
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
        has(Ok(Bucket::Forbidden), "good", "need not");
        has(Ok(Bucket::Missing), "warning", "logs of containers will be lost");
        has(Ok(Bucket::Elsewhere), "warning", "another region than eu-west-1");
        has(Err(failure(Some("NoInstanceProfile"))), "good", "no credentials");
        has(Err(failure(None)), "warning", "S3 gave no answer within 10s: no way there");
    }
}
