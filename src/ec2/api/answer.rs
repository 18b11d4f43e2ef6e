//! What AWS's APIs answer: their errors in words, and their XML.

use std::time::SystemTime;

use reqwest::header::DATE;
use roxmltree::Document;

use super::{Service, difference};
use crate::ec2::exchange::Answer;
use crate::ec2::retry::Verdict;
use crate::error::{Error, Result};

/// As if an API had said it: there is nobody to sign for.
pub(super) const NO_PROFILE: &str = "NoInstanceProfile";

/// As if Auto Scaling had a code for it: the hook does not hold the instance.
pub(super) const NOT_HELD: &str = "NoActiveLifecycleAction";

/// A call that brought no answer.
#[derive(Debug)]
pub struct Failure {
    /// The API's word for it: `UnauthorizedOperation`; none where the API said nothing.
    pub code: Option<String>,
    /// The same for people.
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
    /// Whether it will fail for as long as nobody changes the instance's profile: it has none, or a policy
    /// that does not allow the call.
    pub fn is_denied(&self) -> bool {
        self.is_without_profile() || self.code.as_deref().is_some_and(is_denial)
    }

    /// Whether the instance has no profile.
    pub fn is_without_profile(&self) -> bool {
        self.code.as_deref() == Some(NO_PROFILE)
    }
}

fn is_denial(code: &str) -> bool {
    ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"].contains(&code)
}

/// The error codes that tell of a clock, or of credentials, that were right a while ago.
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

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Status code.
    pub status: u16,
    /// The body.
    pub body: String,
    /// The time by the other side's clock.
    pub date: Option<SystemTime>,
    /// The region of the bucket, where S3 says it.
    pub bucket_region: Option<String>,
    /// The error's code; empty in an answer that is no error.
    pub code: String,
    /// What it says of it; may be empty.
    pub message: String,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Reply {
        let header = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
        Reply {
            date: header(DATE.as_str()).and_then(http_date),
            bucket_region: header("x-amz-bucket-region").map(str::to_owned),
            ..Reply::new(answer.status.as_u16(), &answer.body)
        }
    }
}

impl Reply {
    pub(super) fn new(status: u16, body: &[u8]) -> Reply {
        let body = String::from_utf8_lossy(body).into_owned();
        let (code, message) = error_of(&body).unwrap_or_default();
        Reply { status, body, date: None, bucket_region: None, code, message }
    }

    /// What it means for another try. `now` is the time that the request was signed for.
    pub fn judge(self, region: &str, now: SystemTime) -> Verdict<Reply> {
        // S3 says no more than 403 to HEAD, also of a clock that is wrong.
        let astray = || self.date.is_some_and(|theirs| difference(theirs, now).abs() > 5 * 60);
        if self.is_stale(region) || (self.status == 403 && self.body.is_empty() && astray()) {
            Verdict::Stale(self)
        } else if self.is_passing() {
            Verdict::Passing(self.name())
        } else {
            Verdict::Final(self)
        }
    }

    /// Whether other credentials, or another time in the signature, may bring another answer.
    fn is_stale(&self, region: &str) -> bool {
        // An answer to HEAD has no body, and so no code: S3 says 400 of a token that has expired, as it does of
        // a bucket elsewhere, but then it says where.
        let silent = self.status == 400 && self.body.is_empty() && !self.is_elsewhere(region);
        silent || is_stale(&self.code)
    }

    /// Whether S3 says that the bucket is in another region.
    pub fn is_elsewhere(&self, region: &str) -> bool {
        self.bucket_region.as_deref().is_some_and(|other| other != region)
    }

    /// Whether a later try may go better ("Common errors" of the services).
    fn is_passing(&self) -> bool {
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

/// Code and message of an error's document: EC2 has it in `Response`, S3 bare.
fn error_of(body: &str) -> Option<(String, String)> {
    let document = document(body).ok()?;
    let is_error = ["Response", "ErrorResponse", "Error"].contains(&document.root_element().tag_name().name());
    let text = |name: &str| {
        let found = document.descendants().find(|node| node.tag_name().name() == name);
        found.and_then(|node| node.text()).map(plain).unwrap_or_default()
    };
    let code = text("Code");
    // EC2's message may hold an encoded text of some KiB.
    let message = text("Message");
    let message = message.split("Encoded authorization failure message").next().unwrap_or_default();
    // Of a ValidationError the message alone says what it is: "No active Lifecycle Action found with instance ID …".
    let is_held = code != "ValidationError" || !message.starts_with("No active Lifecycle Action");
    let code = if is_held { code } else { NOT_HELD.to_owned() };
    (is_error && !code.is_empty()).then(|| (code, message.trim().chars().take(400).collect()))
}

/// The longest tag of a document, bytes: its attributes are compared with one another.
const TAG: usize = 1 << 10;

/// The most tags and attributes. A page of a hundred instances has some 25,000.
const MARKS: usize = 60_000;

/// Reads XML whose tree needs no more than some MiB.
///
/// # Errors
/// When it is not XML, or would need more; in words.
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

/// An answer that is not what was asked for.
pub(super) fn refused(service: Service, what: &str, action: &str, region: &str, reply: &Reply) -> Failure {
    let told = if reply.message.is_empty() { reply.name() } else { format!("{}: {}", reply.code, reply.message) };
    let error = if is_denial(&reply.code) {
        Error::config(format!("{what} is not allowed to this instance")).cause(told).fix(format!(
            "add this statement to the policy of the instance profile's role:\n{}",
            statement(service, action)
        ))
    } else if reply.is_stale(region) {
        Error::config(format!("{what} does not accept this instance's signature"))
            .cause(told)
            .fix("see whether the clock is right (date --utc), and whether the instance profile's role still exists")
    } else if reply.code.is_empty() {
        foreign(what, &format!("status {}", reply.status), reply.body.as_bytes())
    } else {
        Error::config(format!("{what} refused the call")).cause(told)
    };
    Failure { code: (!reply.code.is_empty()).then(|| reply.code.clone()), error }
}

/// What a policy needs for an action.
pub fn statement(service: Service, action: &str) -> String {
    format!("{{ \"Effect\": \"Allow\", \"Action\": \"{}:{action}\", \"Resource\": \"*\" }}", service.name())
}

/// Reads an action's answer; one that has another form came from something else.
pub(super) fn parse<'a>(what: &str, action: &str, body: &'a str) -> Result<Document<'a>> {
    let wrong = |why: String| foreign(what, &why, body.as_bytes());
    let document = document(body).map_err(wrong)?;
    let name = document.root_element().tag_name().name().to_owned();
    if name == format!("{action}Response") {
        Ok(document)
    } else {
        Err(wrong(format!("it is a document {:?}", plain(&name))))
    }
}

/// An answer that came from something else.
pub(super) fn foreign(what: &str, why: &str, body: &[u8]) -> Error {
    let start: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(100).collect();
    Error::config(format!("{what} gave an answer that is none of its own"))
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
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_is_read_in_the_shape_of_each_service() {
        let ec2 = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>UnauthorizedOperation</Code>\
            <Message>You are not authorized. Encoded authorization failure message: 4GIO_x</Message></Error></Errors>\
            <RequestID>ea966190</RequestID></Response>";
        let query = "<ErrorResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"><Error><Type>Sender</Type>\
            <Code>ValidationError</Code><Message>No active\nLifecycle Action</Message></Error></ErrorResponse>";
        let s3 = "<Error><Code>SlowDown</Code><Message/></Error>";
        let told = |body: &str| {
            let reply = Reply::new(400, body.as_bytes());
            (reply.code, reply.message)
        };
        assert_eq!(told(ec2), ("UnauthorizedOperation".into(), "You are not authorized.".into()));
        assert_eq!(told(query), (NOT_HELD.into(), "No active Lifecycle Action".into()));
        assert_eq!(told(s3), ("SlowDown".into(), String::new()));
        // No error, whatever it holds.
        assert_eq!(told("<DescribeTagsResponse><Code>RequestExpired</Code></DescribeTagsResponse>").0, "");
        assert_eq!(told("<html><Code>SlowDown</Code></html>").0, "");
    }

    #[test]
    fn an_answer_has_the_action_s_own_name() {
        parse("EC2", "DescribeTags", "<DescribeTagsResponse/>").unwrap();
        for other in ["", "<html/>", "<DescribeInstancesResponse/>", "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>"] {
            let error = parse("EC2", "DescribeTags", other).unwrap_err();
            assert_eq!(error.what, "EC2 gave an answer that is none of its own");
        }
        let attributes: String = (0..MARKS).map(|n| format!(" a{n}=''")).collect();
        for large in ["<a>".repeat(1 << 20), "<a/>".repeat(1 << 20), "<a".repeat(1 << 20), format!("<a{attributes}/>")]
        {
            let error = parse("EC2", "DescribeTags", &large).unwrap_err();
            assert!(error.cause.unwrap().contains("more than"));
        }
        // Deep and not large: the parser has a limit of its own.
        let deep = "<a>".repeat(MARKS / 2) + &"</a>".repeat(MARKS / 2);
        parse("EC2", "DescribeTags", &deep).unwrap_err();
    }

    #[test]
    fn a_date_is_read_or_none() {
        let date = http_date("Wed, 25 Nov 2026 02:30:00 GMT").unwrap();
        assert_eq!(humantime::format_rfc3339(date).to_string(), "2026-11-25T02:30:00Z");
        for other in ["", "25 Nov 2026 02:30:00 GMT", "Wed, 25 Nun 2026 02:30:00 GMT", "Wed, 25 Nov 2026 02:30:00 CET"]
        {
            assert_eq!(http_date(other), None);
        }
    }

    #[test]
    fn status_and_code_decide_whether_another_try_may_go_better() {
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
            // To HEAD nothing but a status comes.
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
                Verdict::Passing(answer) => answer,
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
