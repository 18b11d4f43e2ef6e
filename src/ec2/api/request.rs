//! One request: its address, its signature and its answer.

use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, Url};

use super::sign::{Scope, Unsigned, sign};
use super::{Api, Service, endpoint};
use crate::ec2::exchange::{Answer, Exchange, NoAnswer};
use crate::error::{Error, Result};
use crate::host::net::{self, Proxy};
use crate::host::wait::Deadline;

/// The size limit of an answer, bytes. A page of a hundred instances has about 300 KiB.
const LIMIT: usize = 2 << 20;

const PATIENCE: Duration = Duration::from_secs(10);

/// A request without address and signature.
pub(super) struct Request<'a> {
    pub service: Service,
    pub method: Method,
    pub path: Option<&'a str>,
    pub body: &'a str,
}

impl Api {
    /// The address of a request. Its domain is the partition's, which IMDS returned with the credentials.
    pub(super) fn address(&self, request: &Request<'_>) -> Result<Url> {
        let mut url = endpoint::service_url(request.service, &self.region, self.domain.as_deref(), &self.variable)?;
        if let Some(path) = request.path {
            url.set_path(path);
        }
        Ok(url)
    }

    /// Signs a request, and sends it once. The signature is valid for a few minutes.
    ///
    /// # Errors
    /// Fails when the request cannot be signed, or a signal arrives.
    pub(super) fn send(
        &mut self,
        what: &str,
        request: &Request<'_>,
        url: &Url,
        deadline: &mut Deadline,
    ) -> Result<Result<Answer, NoAnswer>> {
        let wrong = |why: String| Error::failed(format!("{what} at {} cannot be called", origin(url))).cause(why);
        let credentials = self.credentials.as_ref().ok_or_else(|| wrong("there are no credentials".into()))?;
        let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let fixed: &[(&str, &str)] = if request.method == Method::POST { &form } else { &[] };
        let scope = Scope { region: &self.region, service: request.service.name(), time: self.now() };
        let (method, body) = (request.method.as_str(), request.body.as_bytes());
        let unsigned = Unsigned { method, url: url.as_str(), headers: fixed, body };
        let signature = sign(unsigned, scope, credentials).map_err(wrong)?;
        let mut exchange = match self.exchange.take() {
            Some((scheme, exchange)) if scheme == url.scheme() => exchange,
            _ => exchange(&self.proxy, url).map_err(wrong)?,
        };
        let mut signed = exchange.request(request.method.clone(), url.clone()).body(request.body.to_owned());
        for (name, value) in fixed {
            signed = signed.header(*name, *value);
        }
        for (name, value) in signature {
            let mut value = HeaderValue::from_str(&value).map_err(|_| wrong("the credentials are not text".into()))?;
            value.set_sensitive(true);
            signed = signed.header(name, value);
        }
        let answer = exchange.send(signed, deadline);
        self.exchange = Some((url.scheme().to_owned(), exchange));
        answer
    }
}

/// The address without its path, which may be confidential.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn exchange(proxy: &Proxy, url: &Url) -> Result<Exchange, String> {
    let mut client = net::download_client(proxy)?.connect_timeout(Duration::from_secs(5));
    // Loading certificates takes about 20 ms, and an image may not have any.
    if url.scheme() == "http" && proxy.http.is_none() {
        client = client.tls_certs_only([]);
    }
    Exchange::new(client, PATIENCE, LIMIT)
}
