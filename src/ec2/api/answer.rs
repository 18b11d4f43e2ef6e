//! The answers of AWS's APIs: their errors and their XML.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, RETRY_AFTER};
use roxmltree::Document;

use super::{Service, difference};
use crate::ec2::exchange::Answer;
use crate::ec2::imds::CREDENTIALS;
use crate::ec2::retry::Verdict;
use crate::error::{Error, Result};

/// Our error code for an instance without a profile, which has no identity to sign for.
pub(super) const NO_PROFILE: &str = "NoInstanceProfile";

/// Our error code for a lifecycle hook that does not hold the instance; Auto Scaling has none.
pub(super) const NOT_HELD: &str = "NoActiveLifecycleAction";

/// A failed call.
#[derive(Debug)]
pub struct Failure {
    /// The API's error code, e.g. `UnauthorizedOperation`; `None` if the API sent none.
    pub code: Option<String>,
    /// The error for the user.
    pub error: Error,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { code: None, error }
    }
}

impl Failure {
    /// Whether the call will fail until somebody changes the instance's profile: the instance has none, or its policy
    /// does not allow the call.
    pub fn is_denied(&self) -> bool {
        self.is_without_profile() || self.code.as_deref().is_some_and(is_denial)
    }

    /// Whether the instance has no profile.
    pub fn is_without_profile(&self) -> bool {
        self.code.as_deref() == Some(NO_PROFILE)
    }
}

/// What AWS may still have to propagate for a new instance before a refused call succeeds ("Eventual consistency in the
/// Amazon EC2 API", "Changes that I make are not always immediately visible" in the IAM user guide).
fn awaits(reply: &Reply, region: &str) -> Option<&'static str> {
    match reply.code.as_str() {
        "InvalidInstanceID.NotFound" => Some("the instance"),
        code if is_denial(code) => Some("the right to call AWS's APIs"),
        _ => reply.is_stale(region).then_some(CREDENTIALS),
    }
}

fn is_denial(code: &str) -> bool {
    ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"].contains(&code)
}

/// Whether an error code means that the clock is wrong or the credentials are out of date.
fn is_stale(code: &str) -> bool {
    const STALE: [&str; 10] = [
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
        "RequestInTheFuture",
        "InvalidSignatureException",
        "AuthFailure",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
    ];
    STALE.contains(&code)
}

/// The reply to a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Status code.
    pub status: u16,
    /// The body.
    pub body: String,
    /// The time of the server's clock.
    pub date: Option<SystemTime>,
    /// How long the server asks clients to wait.
    pub retry_after: Duration,
    /// The region of the bucket, if S3 sent it.
    pub bucket_region: Option<String>,
    /// The error code; empty if the reply is not an error.
    pub code: String,
    /// The error message; may be empty.
    pub message: String,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Reply {
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let time = |name: &str| header(name).and_then(http_date);
        // Both times are from the server's clock, so this machine's clock does not matter.
        let (until, date) = (time(RETRY_AFTER.as_str()), time(DATE.as_str()));
        let until = until.zip(date).and_then(|(until, date)| until.duration_since(date).ok());
        Reply {
            date,
            retry_after: until.unwrap_or_else(|| answer.retry_after()),
            bucket_region: header("x-amz-bucket-region").map(str::to_owned),
            ..Reply::new(answer.status.as_u16(), &answer.body)
        }
    }
}

impl Reply {
    pub(super) fn new(status: u16, body: &[u8]) -> Reply {
        let body = String::from_utf8_lossy(body).into_owned();
        let (code, message) = parse_error(&body).unwrap_or_default();
        Reply { status, body, date: None, retry_after: Duration::ZERO, bucket_region: None, code, message }
    }

    /// Decides about another try. `now` is the time in the signature.
    pub fn judge(self, region: &str, now: SystemTime) -> Verdict<Reply> {
        // S3 answers HEAD with a bare 403, even if the clock is wrong.
        let has_wrong_clock = || self.date.is_some_and(|theirs| difference(theirs, now).abs() > 5 * 60);
        if self.is_stale(region) || (self.status == 403 && self.body.is_empty() && has_wrong_clock()) {
            Verdict::Stale(self)
        } else if self.is_temporary() {
            Verdict::Temporary(self.name(), self.retry_after)
        } else {
            Verdict::Final(self)
        }
    }

    /// Whether the call may succeed with new credentials or another time in the signature.
    fn is_stale(&self, region: &str) -> bool {
        // A reply to HEAD has no body, and so no code. S3 sends 400 for an expired token and for a bucket in another
        // region, but only the latter with that region.
        let silent = self.status == 400 && self.body.is_empty() && !self.is_elsewhere(region);
        silent || is_stale(&self.code)
    }

    /// Whether the bucket is in another region, according to S3.
    pub fn is_elsewhere(&self, region: &str) -> bool {
        self.bucket_region.as_deref().is_some_and(|other| other != region)
    }

    /// Whether a later try may succeed ("Common errors" of the services).
    fn is_temporary(&self) -> bool {
        const THROTTLED: [&str; 7] = [
            "RequestLimitExceeded",
            "Throttling",
            "ThrottlingException",
            "RequestThrottled",
            "EC2ThrottledException",
            "SlowDown",
            "RequestTimeout",
        ];
        self.status >= 500 || self.status == 429 || THROTTLED.contains(&self.code.as_str())
    }

    /// `503 RequestLimitExceeded`.
    fn name(&self) -> String {
        format!("{} {}", self.status, self.code).trim_end().to_owned()
    }
}

/// The code and the message of an error document, which EC2 wraps in `Response` and S3 does not.
fn parse_error(body: &str) -> Option<(String, String)> {
    let document = document(body).ok()?;
    let is_error = ["Response", "ErrorResponse", "Error"].contains(&document.root_element().tag_name().name());
    let text = |name: &str| {
        let found = document.descendants().find(|node| node.tag_name().name() == name);
        found.and_then(|node| node.text()).map(plain).unwrap_or_default()
    };
    let code = text("Code");
    // EC2's message can contain an encoded text of several KiB.
    let message = text("Message");
    let message = message.split("Encoded authorization failure message").next().unwrap_or_default();
    // Only the message of a ValidationError says what is wrong: "No active Lifecycle Action found with instance ID …".
    let is_held = code != "ValidationError" || !message.starts_with("No active Lifecycle Action");
    let code = if is_held { code } else { NOT_HELD.to_owned() };
    (is_error && !code.is_empty()).then(|| (code, message.trim().chars().take(400).collect()))
}

/// The longest tag of a document, bytes. The parser compares all attributes of a tag with each other.
const TAG: usize = 1 << 10;

/// The most tags and attributes. A page of a hundred instances has about 25,000.
const MARKS: usize = 60_000;

/// Parses XML whose tree needs at most a few MiB.
///
/// # Errors
/// Fails with a message when it is not XML, or would need more memory.
fn document(body: &str) -> Result<Document<'_>, String> {
    let marks = memchr::memchr2_iter(b'<', b'=', body.as_bytes()).count();
    let longest = body.split('<').skip(1).filter_map(|tag| tag.find('>').or(Some(tag.len()))).max();
    if marks > MARKS || longest > Some(TAG) {
        return Err(format!("it has more than {MARKS} tags, or one of more than {TAG} bytes"));
    }
    Document::parse(body).map_err(|e| format!("it is not XML ({e})"))
}

fn plain(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The failure for a reply that is not a success.
pub(super) fn refused(service: Service, what: &str, action: &str, region: &str, reply: &Reply) -> Failure {
    let message = if reply.message.is_empty() { reply.name() } else { format!("{}: {}", reply.code, reply.message) };
    let error = if is_denial(&reply.code) {
        Error::config(format!("{what} is not allowed for this instance")).cause(message).fix(format!(
            "add this statement to the policy of the instance profile's role:\n{}",
            statement(service, action)
        ))
    } else if reply.is_stale(region) {
        Error::config(format!("{what} does not accept this instance's signature"))
            .cause(message)
            .fix("see whether the clock is right (date --utc), and whether the instance profile's role still exists")
    } else if reply.code.is_empty() {
        unexpected_response(what, &format!("status {}", reply.status), reply.body.as_bytes())
    } else {
        Error::config(format!("{what} refused the call")).cause(message)
    };
    let error = Error { awaits: awaits(reply, region), ..error };
    Failure { code: (!reply.code.is_empty()).then(|| reply.code.clone()), error }
}

/// The statement of a policy that allows an action.
pub fn statement(service: Service, action: &str) -> String {
    format!("{{ \"Effect\": \"Allow\", \"Action\": \"{}:{action}\", \"Resource\": \"*\" }}", service.name())
}

/// Parses the answer of an action. An answer with another form comes from another service.
pub(super) fn parse<'a>(what: &str, action: &str, body: &'a str) -> Result<Document<'a>> {
    let wrong = |why: String| unexpected_response(what, &why, body.as_bytes());
    let document = document(body).map_err(wrong)?;
    let name = document.root_element().tag_name().name().to_owned();
    if name == format!("{action}Response") {
        Ok(document)
    } else {
        Err(wrong(format!("it is a document {:?}", plain(&name))))
    }
}

/// The error for an answer that comes from another service.
pub(super) fn unexpected_response(what: &str, why: &str, body: &[u8]) -> Error {
    let start: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(100).collect();
    Error::config(format!("{what} returned an unexpected response"))
        .cause(format!("{why}; the answer begins with {start:?}"))
        .fix("look for a proxy or another service at that address")
}

/// `Tue, 25 Nov 2026 02:30:00 GMT` (RFC 9110, `IMF-fixdate`).
pub(super) fn http_date(text: &str) -> Option<SystemTime> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|known| known == month)? + 1;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::StatusCode;
    use reqwest::header::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn an_error_is_read_in_the_shape_of_each_service() {
        let ec2 = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>UnauthorizedOperation</Code>\
            <Message>You are not authorized. Encoded authorization failure message: 4GIO_x</Message></Error></Errors>\
            <RequestID>ea966190</RequestID></Response>";
        let query = "<ErrorResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"><Error><Type>Sender</Type>\
            <Code>ValidationError</Code><Message>No active\nLifecycle Action</Message></Error></ErrorResponse>";
        let s3 = "<Error><Code>SlowDown</Code><Message/></Error>";
        let parsed = |body: &str| {
            let reply = Reply::new(400, body.as_bytes());
            (reply.code, reply.message)
        };
        assert_eq!(parsed(ec2), ("UnauthorizedOperation".into(), "You are not authorized.".into()));
        assert_eq!(parsed(query), (NOT_HELD.into(), "No active Lifecycle Action".into()));
        assert_eq!(parsed(s3), ("SlowDown".into(), String::new()));
        // Not errors, although they have a code.
        assert_eq!(parsed("<DescribeTagsResponse><Code>RequestExpired</Code></DescribeTagsResponse>").0, "");
        assert_eq!(parsed("<html><Code>SlowDown</Code></html>").0, "");
    }

    #[test]
    fn an_answer_has_the_name_of_its_action() {
        parse("EC2", "DescribeTags", "<DescribeTagsResponse/>").unwrap();
        for other in ["", "<html/>", "<DescribeInstancesResponse/>", "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>"] {
            let error = parse("EC2", "DescribeTags", other).unwrap_err();
            assert_eq!(error.what, "EC2 returned an unexpected response");
        }
        let attributes: String = (0..MARKS).map(|n| format!(" a{n}=''")).collect();
        for large in ["<a>".repeat(1 << 20), "<a/>".repeat(1 << 20), "<a".repeat(1 << 20), format!("<a{attributes}/>")]
        {
            let error = parse("EC2", "DescribeTags", &large).unwrap_err();
            assert!(error.cause.unwrap().contains("more than"));
        }
        // Deep but not large: the parser has its own limit.
        let deep = "<a>".repeat(MARKS / 2) + &"</a>".repeat(MARKS / 2);
        parse("EC2", "DescribeTags", &deep).unwrap_err();
    }

    #[test]
    fn only_a_valid_date_is_read() {
        let date = http_date("Wed, 25 Nov 2026 02:30:00 GMT").unwrap();
        assert_eq!(humantime::format_rfc3339(date).to_string(), "2026-11-25T02:30:00Z");
        for other in ["", "25 Nov 2026 02:30:00 GMT", "Wed, 25 Nun 2026 02:30:00 GMT", "Wed, 25 Nov 2026 02:30:00 CET"]
        {
            assert_eq!(http_date(other), None);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_time_of_the_same_clock() {
        let date = "Wed, 25 Nov 2026 02:30:00 GMT";
        for (after, seconds) in [
            (&b""[..], 0),
            (b"7", 7),
            (b" 31536000", 31_536_000),
            (b"18446744073709551615", u64::MAX),
            (b"99999999999999999999", 0),
            (b"-1", 0),
            (b"1.5", 0),
            (b"\xff", 0),
            (b"Wed, 25 Nov 2026 02:30:05 GMT", 5),
            (b"Wed, 25 Nov 2026 02:29:00 GMT", 0),
            (b"Fri, 25 Nov 2089 02:30:00 GMT", 1_988_150_400),
            (b"soon", 0),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, HeaderValue::from_static(date));
            headers.insert(RETRY_AFTER, HeaderValue::from_bytes(after).unwrap());
            let reply = Reply::from(Answer { status: StatusCode::SERVICE_UNAVAILABLE, headers, body: Vec::new() });
            assert_eq!(reply.retry_after.as_secs(), seconds, "{:?}", String::from_utf8_lossy(after));
        }
    }

    #[test]
    fn status_and_code_decide_whether_another_try_may_succeed() {
        let error = |code: &str| format!("<Response><Errors><Error><Code>{code}</Code></Error></Errors></Response>");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let page = "<html/>".to_owned();
        let (past, soon) = (now - Duration::from_secs(301), now + Duration::from_secs(299));
        for (status, body, date, bucket_region, expected) in [
            (200, page.clone(), None, None, "final"),
            (302, page.clone(), None, None, "final"),
            (404, page.clone(), None, None, "final"),
            (400, error("InvalidInstanceType"), None, None, "final"),
            (403, error("UnauthorizedOperation"), None, None, "final"),
            (429, String::new(), None, None, "429"),
            (500, String::new(), None, None, "500"),
            (503, page.clone(), None, None, "503"),
            (503, error("RequestLimitExceeded"), None, None, "503 RequestLimitExceeded"),
            (400, error("Throttling"), None, None, "400 Throttling"),
            (400, error("RequestExpired"), None, None, "stale"),
            (400, error("RequestInTheFuture"), None, None, "stale"),
            (403, error("InvalidSignatureException"), None, None, "stale"),
            (403, error("RequestTimeTooSkewed"), None, None, "stale"),
            (401, error("AuthFailure"), None, None, "stale"),
            (403, error("SignatureDoesNotMatch"), Some(now), None, "stale"),
            // A reply to HEAD has only a status.
            (400, String::new(), None, None, "stale"),
            (400, String::new(), None, Some("eu-west-1"), "stale"),
            (400, String::new(), None, Some("us-east-1"), "final"),
            (403, String::new(), None, None, "final"),
            (403, String::new(), Some(soon), None, "final"),
            (403, String::new(), Some(past), None, "stale"),
            (403, page, Some(past), None, "final"),
        ] {
            let bucket_region = bucket_region.map(str::to_owned);
            let reply = Reply { date, bucket_region, ..Reply::new(status, body.as_bytes()) };
            let judged = match reply.judge("eu-west-1", now) {
                Verdict::Final(_) => "final".to_owned(),
                Verdict::Stale(_) => "stale".to_owned(),
                Verdict::Temporary(answer, _) => answer,
            };
            assert_eq!(judged, expected, "{status} {body} {date:?}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_judged(status in 100u16..600, bytes in proptest::collection::vec(any::<u8>(), 0..200), date in ".*") {
            let reply = Reply::new(status, &bytes);
            let failure = refused(Service::Ec2, "EC2", "DescribeTags", "eu-west-1", &reply);
            let _ = (reply.judge("eu-west-1", SystemTime::now()), http_date(&date));
            prop_assert!(!failure.error.to_string().chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
