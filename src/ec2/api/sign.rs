//! Signature Version 4 (AWS, "Signature Version 4 signing process"), by aws-sigv4.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings};
use aws_sigv4::sign::v4;

/// What a signature speaks for.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// `eu-west-1`.
    pub region: &'a str,
    /// The service's name in signatures: `ec2`.
    pub service: &'a str,
    /// When, by the clock of whoever checks it.
    pub time: SystemTime,
}

/// A request as it is signed.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    /// `POST`.
    pub method: &'a str,
    /// The whole address.
    pub url: &'a str,
    /// Headers that the signature covers beside `host`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The whole body.
    pub body: &'a [u8],
}

/// The headers that a request needs to be believed.
///
/// # Errors
/// When it cannot be signed; in words.
pub fn headers(
    request: Unsigned<'_>,
    scope: Scope<'_>,
    credentials: &Credentials,
) -> Result<Vec<(String, String)>, String> {
    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    // S3 alone asks for the body's digest in a header.
    if scope.service == "s3" {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(scope.region)
        .name(scope.service)
        .time(scope.time)
        .settings(settings)
        .build()
        .map_err(|e| e.to_string())?
        .into();
    let body = SignableBody::Bytes(request.body);
    let signable = SignableRequest::new(request.method, request.url, request.headers.iter().copied(), body)
        .map_err(|e| e.to_string())?;
    let signed = aws_sigv4::http_request::sign(signable, &parameters).map_err(|e| e.to_string())?;
    let (instructions, _) = signed.into_parts();
    Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
