//! One HTTP call to a service provider: the url, the headers, the time left, and what its answer means. Bodies are never logged.

use super::error::{Refused, broken, refused, retry_after};
use crate::connector::{CallError, Limits, OpenError};
use crate::model::ErrorClass;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, IF_MATCH, RETRY_AFTER};
use reqwest::{Method, Url};
use serde_json::Value as Json;
use std::time::{Duration, Instant};

/// Much more than a page of groups with all their members; an answer beyond it would be held in memory whole.
const BODY_LIMIT: usize = 32 * 1024 * 1024;
/// A target that takes longer to accept a connection is down.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Shorter than what servers and load balancers commonly keep, so that a call rarely meets a connection that was just closed.
const IDLE_LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    headers: HeaderMap,
}

pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// `/Users` or `/Groups`.
    pub(super) collection: &'static str,
    pub(super) id: Option<&'a str>,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<&'a Json>,
    /// The version that is to be changed, where the target has one.
    pub(super) version: Option<&'a str>,
}

impl Request<'_> {
    pub(super) fn new(method: Method, collection: &'static str) -> Self {
        Self { method, collection, id: None, query: &[], body: None, version: None }
    }
}

impl Client {
    pub(super) fn open(url: &str, token: Option<&str>, limits: Limits) -> Result<Self, OpenError> {
        let refused = |key: &str, reason: &str| OpenError::Rules {
            place: format!("connector.scim.{key}"),
            reason: reason.to_owned(),
        };
        let base = Url::parse(url.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| refused("url", "not a url; write https://host/scim/v2"))?;
        if base.query().is_some()
            || base.fragment().is_some()
            || !base.username().is_empty()
            || base.password().is_some()
        {
            return Err(refused(
                "url",
                "takes no user, query or fragment; write https://host/scim/v2 and the token under `token`",
            ));
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/scim+json, application/json"));
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .map_err(|_| refused("token", "has characters that a header can't hold"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            // A redirect would turn a POST into a GET, and show the token to another host.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT.min(limits.timeout))
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(limits.concurrency)
            .build()
            .map_err(|e| OpenError::Target(format!("no HTTP client could be made: {e}")))?;
        Ok(Self { http, base, headers })
    }

    fn url(&self, request: &Request<'_>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(request.collection.trim_start_matches('/')).extend(request.id);
        }
        if !request.query.is_empty() {
            // Form encoding writes a space as +, which not every server reads as one.
            let form =
                url.query_pairs_mut().extend_pairs(request.query).finish().query().map(|form| form.replace('+', "%20"));
            url.set_query(form.as_deref());
        }
        url
    }

    /// Sends, and reads the whole answer, before `deadline`: its body, null where there was none.
    pub(super) async fn send(&self, request: Request<'_>, deadline: Instant) -> Result<Json, Refused> {
        let (method, what) = (&request.method, request.collection);
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let message = format!("no time was left for {method} {what}; the target is slow");
            return Err(CallError::new(ErrorClass::Unreachable, message).into());
        }
        let mut builder =
            self.http.request(method.clone(), self.url(&request)).headers(self.headers.clone()).timeout(left);
        if let Some(body) = request.body {
            builder = builder.header(CONTENT_TYPE, "application/scim+json").body(body.to_string());
        }
        if let Some(version) = request.version.and_then(|version| HeaderValue::from_str(version).ok()) {
            builder = builder.header(IF_MATCH, version);
        }
        let mut response = builder.send().await.map_err(|e| broken(method, what, &e))?;
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let wait =
            header(RETRY_AFTER).and_then(|text| retry_after(&text, header(DATE).as_deref(), jiff::Timestamp::now()));
        let mut bytes = Vec::new();
        let whole = loop {
            match response.chunk().await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() <= BODY_LIMIT => bytes.extend_from_slice(&chunk),
                Ok(Some(_)) => {
                    let message = format!("the answer to {method} {what} is larger than {BODY_LIMIT} bytes");
                    break Err(CallError::new(ErrorClass::ServerFault, message));
                }
                Ok(None) => break Ok(()),
                Err(e) => break Err(broken(method, what, &e)),
            }
        };
        let body: Result<Json, _> = serde_json::from_slice(&bytes);
        if !status.is_success() {
            let scim_type = body.as_ref().ok().and_then(|body| body.get("scimType")).and_then(Json::as_str);
            return Err(refused(method, what, status, scim_type, wait));
        }
        whole?;
        match body {
            Ok(body) => Ok(body),
            // Changes may be answered by nothing (204), and are read back anyway.
            Err(_) if *method != Method::GET => Ok(Json::Null),
            Err(_) => Err(CallError::new(
                ErrorClass::ServerFault,
                format!(
                    "{method} {what} was answered {} with what is not JSON; check connector.scim.url",
                    status.as_u16()
                ),
            )
            .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { timeout: Duration::from_secs(1), concurrency: 1 };

    #[test]
    fn urls_are_joined_and_escaped() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for base in ["http://host/scim/v2", "http://host/scim/v2/"] {
            let client = Client::open(base, Some("t"), LIMITS).unwrap();
            let query = [("filter", r#"userName eq "a+b & c/ü""#)];
            let request = Request { id: Some("a/b ?"), query: &query, ..Request::new(Method::GET, "/Users") };
            assert_eq!(
                client.url(&request).as_str(),
                "http://host/scim/v2/Users/a%2Fb%20%3F?filter=userName%20eq%20%22a%2Bb%20%26%20c%2F%C3%BC%22"
            );
        }
        assert_eq!(
            Client::open("https://host", None, LIMITS).unwrap().url(&Request::new(Method::GET, "/Groups")).as_str(),
            "https://host/Groups"
        );
    }

    #[test]
    fn wrong_urls_and_tokens_are_refused_without_being_shown() {
        for (url, token) in [
            ("host/scim", None),
            ("ftp://host", None),
            ("http://u:secret@host", None),
            ("http://host", Some("secret\n\u{1}x")),
        ] {
            let Err(error) = Client::open(url, token, LIMITS) else { panic!("{url} was taken") };
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
