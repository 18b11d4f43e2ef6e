//! One request: its address, its signature, and what comes back.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{DATE, HeaderValue};

use super::answer::{BODY_LIMIT, Reply, http_date};
use super::sign::{Scope, Unsigned, headers};
use super::{Api, Service, endpoint};
use crate::error::{Error, Result};
use crate::host::net::{self, Proxy};

/// A request, before it has an address and a signature.
pub(super) struct Request<'a> {
    pub service: Service,
    pub method: &'a str,
    pub path: Option<&'a str>,
    pub body: &'a str,
}

impl Api {
    /// Where a request goes. The partition's domain came with the credentials.
    pub(super) fn address(&self, request: &Request<'_>) -> Result<Url> {
        let mut url = endpoint::of(request.service, &self.region, self.domain.as_deref(), &self.variable)?;
        if let Some(path) = request.path {
            url.set_path(path);
        }
        Ok(url)
    }

    /// A request that can be sent, for some minutes.
    pub(super) fn signed(&mut self, what: &str, request: &Request<'_>, url: &Url) -> Result<reqwest::RequestBuilder> {
        let wrong = |why: String| Error::failed(format!("{what} at {} cannot be asked", origin(url))).cause(why);
        let credentials = self.credentials.as_ref().ok_or_else(|| wrong("there are no credentials".into()))?;
        let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let fixed: &[(&str, &str)] = if request.method == "POST" { &form } else { &[] };
        let scope = Scope { region: &self.region, service: request.service.name(), time: self.now() };
        let unsigned =
            Unsigned { method: request.method, url: url.as_str(), headers: fixed, body: request.body.as_bytes() };
        let signature = headers(unsigned, scope, credentials).map_err(wrong)?;
        let http = match self.http.take() {
            Some((scheme, http)) if scheme == url.scheme() => http,
            _ => client(&self.proxy, url).map_err(wrong)?,
        };
        let method = reqwest::Method::from_bytes(request.method.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let mut signed = http.request(method, url.clone()).body(request.body.to_owned());
        self.http = Some((url.scheme().to_owned(), http));
        for (name, value) in fixed {
            signed = signed.header(*name, *value);
        }
        for (name, value) in signature {
            let mut value = HeaderValue::from_str(&value).map_err(|_| wrong("the credentials are no text".into()))?;
            value.set_sensitive(true);
            signed = signed.header(name, value);
        }
        Ok(signed)
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// What happened instead of an answer, in words.
    pub(super) fn exchange(&self, signed: reqwest::RequestBuilder, patience: Duration) -> Result<Reply, String> {
        self.runtime.block_on(async {
            let exchange = async {
                let mut response = signed.send().await.map_err(|e| net::chain(&e.without_url()))?;
                let mut body = Vec::new();
                while let Some(chunk) = response.chunk().await.map_err(|e| net::chain(&e.without_url()))? {
                    body.extend_from_slice(&chunk);
                    // What is read of the rest decides nothing.
                    if body.len() > BODY_LIMIT {
                        break;
                    }
                }
                let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
                Ok(Reply {
                    date: header(DATE.as_str()).and_then(http_date),
                    bucket_region: header("x-amz-bucket-region").map(str::to_owned),
                    ..Reply::new(response.status().as_u16(), &body)
                })
            };
            let late = |_| Err(format!("nothing whole within {} s", patience.as_secs_f64().ceil()));
            tokio::time::timeout(patience, exchange).await.unwrap_or_else(late)
        })
    }
}

/// The address without what a path may tell.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn client(proxy: &Proxy, url: &Url) -> Result<reqwest::Client, String> {
    let mut builder = net::download_client(proxy)?;
    // Certificates cost some 20 ms, and an image may have none.
    if url.scheme() == "http" && proxy.http.is_none() {
        builder = builder.tls_certs_only([]);
    }
    builder
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .user_agent(concat!("titus-bootstrap/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| net::chain(&e))
}
