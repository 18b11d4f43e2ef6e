//! Signature Version 4 (AWS, "Signature Version 4 signing process"), by aws-sigv4.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings};
use aws_sigv4::sign::v4;

/// The scope of a signature.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// `eu-west-1`.
    pub region: &'a str,
    /// The service's name in signatures: `ec2`.
    pub service: &'a str,
    /// The time of the server's clock.
    pub time: SystemTime,
}

/// The parts of a request that a signature covers.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    /// `POST`.
    pub method: &'a str,
    /// The whole address.
    pub url: &'a str,
    /// Headers to cover in addition to `host`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The whole body.
    pub body: &'a [u8],
}

/// Signs a request, and returns the headers with the signature.
///
/// # Errors
/// Fails with a message when the request cannot be signed.
pub fn sign(
    request: Unsigned<'_>,
    scope: Scope<'_>,
    credentials: &Credentials,
) -> Result<Vec<(String, String)>, String> {
    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    // Only S3 requires the digest of the body in a header.
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
