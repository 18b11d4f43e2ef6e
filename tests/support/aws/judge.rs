//! Decides who may call, and with which answer: signatures, clocks, limits, rights, and each service's form of an error.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::super::metadata::Items;
use super::super::sigv4::{Authorization, Request};
use super::account::{Bucket, Refusal, escaped, refuse};
use super::{Fault, Reply, State, parameters};

const NOT_VALIDATED: &str = "AWS was not able to validate the provided access credentials";

/// Credentials of an instance profile.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The access key's id.
    pub id: String,
    /// The secret key.
    pub secret: String,
    /// The session's token.
    pub token: String,
    /// When they expire.
    pub expires: SystemTime,
}

impl Keys {
    /// Credentials with this number that are valid for six hours.
    pub fn new(number: u32) -> Keys {
        Keys {
            id: format!("ASIAEXAMPLE{number:04}"),
            secret: format!("{number}/wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            token: format!("IQoJb3JpZ2luX2VjEXAMPLETOKEN{number}//////////wEaCXVzLWVhc3QtMSJHMEUC+x=="),
            expires: SystemTime::now() + Duration::from_secs(6 * 3600),
        }
    }

    /// Credentials that are valid for this long from now on.
    pub fn lasting(self, time: Duration) -> Keys {
        Keys { expires: SystemTime::now() + time, ..self }
    }

    /// The item of a metadata service for an instance with this profile.
    pub fn items(&self) -> Items {
        let document = format!(
            "{{\n  \"Code\" : \"Success\",\n  \"LastUpdated\" : \"2026-11-25T00:00:00Z\",\n  \"Type\" : \"AWS-HMAC\",\n  \
             \"AccessKeyId\" : \"{}\",\n  \"SecretAccessKey\" : \"{}\",\n  \"Token\" : \"{}\",\n  \
             \"Expiration\" : \"{}\"\n}}",
            self.id,
            self.secret,
            self.token,
            humantime::format_rfc3339_seconds(self.expires),
        );
        [
            ("meta-data/iam/security-credentials/titus-node", document.as_str()),
            ("meta-data/services/domain", "amazonaws.com"),
        ]
        .map(|(path, value)| (path.to_owned(), value.as_bytes().to_vec()))
        .into()
    }
}

impl State {
    /// The answer to a request.
    pub(super) fn reply(&mut self, request: &Request) -> Reply {
        if let Some(Fault::Text(status, text)) = self.faults.iter().find(|f| matches!(f, Fault::Text(..))) {
            return Reply { status: *status, body: text.clone().into_bytes(), ..Reply::default() };
        }
        if self.spend(|fault| if let Fault::Unavailable(left) = fault { Some(left) } else { None }) {
            let page = "<html><body><b>Http/1.1 Service Unavailable</b></body> </html>";
            return Reply { status: 503, body: page.into(), ..Reply::default() };
        }
        let service = Authorization::parse(request).map(|a| a.service).unwrap_or_default();
        let throttled = self.spend(|fault| if let Fault::Throttle(left) = fault { Some(left) } else { None });
        if throttled || !self.within_rate() {
            return error(
                match service.as_str() {
                    "ec2" => refuse(503, "RequestLimitExceeded", "Request limit exceeded."),
                    "s3" => refuse(503, "SlowDown", "Please reduce your request rate."),
                    _ => refuse(400, "Throttling", "Rate exceeded"),
                },
                &service,
            );
        }
        if let Err(refusal) = self.believes(request) {
            return error(refusal, &service);
        }
        if request.method == "HEAD" {
            return self.head_bucket(request.path().trim_start_matches('/'));
        }
        let fields = parameters(request);
        let parameters: BTreeMap<String, String> = fields.iter().cloned().collect();
        if parameters.len() < fields.len() {
            return error(refuse(400, "MalformedQueryString", "A parameter is given twice."), &service);
        }
        let action = parameters.get("Action").cloned().unwrap_or_default();
        if let Err(refusal) = self.allows(&service, &action) {
            return error(refusal, &service);
        }
        let headers = "Content-Type: text/xml;charset=UTF-8\r\n".to_owned();
        match self.account.answer(&service, &action, &parameters) {
            Ok(document) => Reply { status: 200, headers, body: document.into_bytes() },
            Err(refusal) => error(refusal, &service),
        }
    }

    /// Whether a request is signed now with one of the keys, for this region.
    fn believes(&mut self, request: &Request) -> Result<(), Refusal> {
        let Some(authorization) = Authorization::parse(request) else {
            return Err(refuse(403, "MissingAuthenticationToken", "Request is missing Authentication Token"));
        };
        let of_service = |ec2: Refusal, s3: Refusal, other: Refusal| {
            Err(match authorization.service.as_str() {
                "ec2" => ec2,
                "s3" => s3,
                _ => other,
            })
        };
        let signed: Vec<&str> = authorization.signed.split(';').collect();
        for name in ["host", "x-amz-date", "x-amz-security-token"] {
            if !signed.contains(&name) {
                let message = format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.");
                return Err(refuse(400, "IncompleteSignature", message));
            }
        }
        let token = request.header("x-amz-security-token").unwrap_or_default();
        let Some(keys) = self.keys.iter().find(|keys| keys.id == authorization.id && keys.token == token).cloned()
        else {
            return of_service(
                refuse(401, "AuthFailure", NOT_VALIDATED),
                refuse(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
                refuse(403, "InvalidClientTokenId", "The security token included in the request is invalid."),
            );
        };
        let now = self.now();
        if self.spend(|fault| if let Fault::Expired(left) = fault { Some(left) } else { None }) || keys.expires < now {
            return of_service(
                refuse(400, "RequestExpired", "Request has expired."),
                refuse(400, "ExpiredToken", "The provided token has expired."),
                refuse(403, "ExpiredToken", "The security token included in the request is expired"),
            );
        }
        let stamp = request.header("x-amz-date").unwrap_or_default();
        let time = amz_time(stamp);
        let late = time.is_none_or(|time| now.duration_since(time).is_ok_and(|by| by > Duration::from_secs(300)));
        let early = time.is_some_and(|time| time.duration_since(now).is_ok_and(|by| by > Duration::from_secs(300)));
        if late || early || !stamp.starts_with(&authorization.day) {
            let word = if late { "Signature expired" } else { "Signature not yet current" };
            let message = "The difference between the request time and the current time is too large.";
            return of_service(
                if late {
                    refuse(400, "RequestExpired", "Request has expired.")
                } else {
                    refuse(400, "RequestInTheFuture", "The request is dated in the future.")
                },
                refuse(403, "RequestTimeTooSkewed", message),
                refuse(403, "SignatureDoesNotMatch", format!("{word}: {stamp} is now off by more than 5 min.")),
            );
        }
        if authorization.region != self.region
            || authorization.expected(request, &keys.secret) != authorization.signature
        {
            let message = "The request signature we calculated does not match the signature you provided. Check your \
                           AWS Secret Access Key and signing method. Consult the service documentation for details.";
            return of_service(
                refuse(401, "AuthFailure", NOT_VALIDATED),
                refuse(403, "SignatureDoesNotMatch", message),
                refuse(403, "SignatureDoesNotMatch", message),
            );
        }
        Ok(())
    }

    fn allows(&self, service: &str, action: &str) -> Result<(), Refusal> {
        if !self.has(|fault| matches!(fault, Fault::Deny(denied) if *denied == action)) {
            return Ok(());
        }
        let user = "arn:aws:sts::123456789012:assumed-role/titus-node/i-0123456789abcdef0";
        let why = format!(
            "User: {user} is not authorized to perform: {service}:{action} because no identity-based policy allows \
             the {service}:{action} action"
        );
        Err(match service {
            "ec2" => {
                let encoded = "4GIOHlTkIaWHQD0Q0m6XSnuUMCm-abcd".repeat(40);
                let words = "You are not authorized to perform this operation.";
                refuse(
                    403,
                    "UnauthorizedOperation",
                    format!("{words} {why}. Encoded authorization failure message: {encoded}"),
                )
            }
            _ => refuse(403, "AccessDenied", why),
        })
    }

    fn head_bucket(&self, name: &str) -> Reply {
        if self.has(|fault| matches!(fault, Fault::Deny("HeadBucket"))) {
            return Reply { status: 403, ..Reply::default() };
        }
        let (status, region) = match self.account.buckets.get(name) {
            Some(Bucket::There) => (200, Some(&self.region)),
            Some(Bucket::Forbidden) => (403, Some(&self.region)),
            Some(Bucket::In(region)) => (301, Some(region)),
            Some(Bucket::Malformed(region)) => (400, Some(region)),
            None => (404, None),
        };
        let headers = region.map(|region| format!("x-amz-bucket-region: {region}\r\n"));
        Reply { status, headers: headers.unwrap_or_default(), body: Vec::new() }
    }
}

/// The document of an error, in its service's form.
fn error(refusal: Refusal, service: &str) -> Reply {
    let Refusal { status, code, message } = refusal;
    let inner = format!("<Code>{code}</Code><Message>{}</Message>", escaped(&message));
    let xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    let body = match service {
        "ec2" => format!(
            "{xml}<Response><Errors><Error>{inner}</Error></Errors><RequestID>ea966190-f9aa-478e-9ede</RequestID></Response>"
        ),
        "s3" => format!("{xml}<Error>{inner}<RequestId>4442587FB7D0A2F9</RequestId></Error>"),
        _ => format!(
            "<ErrorResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\n  <Error>\n    \
             <Type>Sender</Type>{inner}</Error>\n  <RequestId>7c6e177f-f082-11e1-ac58</RequestId>\n</ErrorResponse>"
        ),
    };
    Reply { status, headers: "Content-Type: text/xml;charset=UTF-8\r\n".into(), body: body.into_bytes() }
}

/// `20150830T123600Z`.
fn amz_time(stamp: &str) -> Option<SystemTime> {
    let part = |range| stamp.get(range);
    let (date, time) = ([part(0..4)?, part(4..6)?, part(6..8)?], [part(9..11)?, part(11..13)?, part(13..15)?]);
    humantime::parse_rfc3339(&format!("{}T{}Z", date.join("-"), time.join(":"))).ok()
}

/// `Tue, 25 Nov 2026 02:30:00 GMT`.
pub(super) fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86400;
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let month = MONTHS[text[5..7].parse::<usize>().unwrap() - 1];
    format!("{}, {} {month} {} {} GMT", DAYS[(days % 7) as usize], &text[8..10], &text[..4], &text[11..19])
}
