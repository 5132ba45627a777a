//! Tokens for SASL OAUTHBEARER (KIP-255), fetched from a token endpoint by client credentials (RFC 6749, 4.4).
//!
//! librdkafka asks for a token through a client's queue, which a client that only answers questions, or is still initialising
//! its transactions, has nobody to poll; and its own fetching (`sasl.oauthbearer.method=oidc`) needs libcurl. So a client is
//! given its token when it is made, and again each time it asks (`renew`), which is at 80 % of what was left; connections sign in
//! anew at 90 %. What it gets is young, as the bus's care thread fetches ahead: no loop waits for a token endpoint but at its
//! start.
//! Neither the token nor the secret is in an error or a log line.

use super::client::describe;
use crate::bus::BusError;
use crate::codec::cloudevents::source_uri;
use crate::config::Secret;
use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use std::ffi::{CStr, CString};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One request, from connecting to the last byte.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A token is some KiB, with many roles some tens.
const MOST_ANSWER_BYTES: usize = 256 * 1024;
/// Where the endpoint doesn't say for how long (`expires_in` is only recommended).
const LIFE_UNSAID: Duration = Duration::from_secs(60);
/// A failure is remembered for this long: many clients that ask are not many requests.
const FAILURE_KEPT: Duration = Duration::from_secs(2);
/// An endpoint's code of refusal (RFC 6749, 5.2) is a word.
const MOST_CODE_CHARS: usize = 60;

/// How this process gets its tokens.
#[derive(Clone)]
pub struct TokenLogin {
    pub url: String,
    pub client_id: String,
    pub client_secret: Secret,
    pub scope: Option<String>,
    /// Who signed the endpoint's certificate, in PEM, beside whom the operating system trusts.
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("the token endpoint {url} did not answer ({reason})")]
    Unreachable { url: String, reason: String },
    #[error("the token endpoint {url} has a fault (status {status})")]
    Faulty { url: String, status: u16 },
    #[error("the token endpoint {url} refused the client {client} (status {status}, {code})")]
    Refused { url: String, client: String, status: u16, code: String },
    #[error("what answers at {url} is not a token endpoint")]
    NotOne { url: String },
    #[error("the file of authorities {}: {reason}", .path.display())]
    Authorities { path: PathBuf, reason: String },
}

/// The token of this process, kept until it is old.
pub(super) struct Tokens {
    login: TokenLogin,
    /// The lock is held while fetching: who asks meanwhile gets what comes of it.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    token: Option<Token>,
    failure: Option<(TokenError, Instant)>,
}

#[derive(Clone)]
struct Token {
    bearer: String,
    life: Duration,
    until: Instant,
    /// The same, as librdkafka wants it: ms since the epoch.
    until_ms: i64,
}

impl Token {
    /// Two thirds of its life are left: between a client's asking and its connections' signing in anew then lie seconds, even for
    /// a token of half a minute, and a client is served each second.
    fn is_young(&self) -> bool {
        self.until.saturating_duration_since(Instant::now()) > self.life / 3 * 2
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tokens of {} from {}", self.login.client_id, self.login.url)
    }
}

impl Tokens {
    pub(super) fn new(login: TokenLogin) -> Arc<Self> {
        Arc::new(Self { login, kept: Mutex::default() })
    }

    /// A token that is young; waits for the endpoint if there is none.
    fn current(&self) -> Result<Token, TokenError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = kept.token.as_ref().filter(|token| token.is_young()) {
            return Ok(token.clone());
        }
        if let Some((failure, at)) = &kept.failure
            && at.elapsed() < FAILURE_KEPT
        {
            return Err(failure.clone());
        }
        match fetched(&self.login) {
            Ok(token) => {
                *kept = Kept { token: Some(token.clone()), failure: None };
                Ok(token)
            }
            Err(error) => {
                kept.failure = Some((error.clone(), Instant::now()));
                Err(error)
            }
        }
    }

    /// Fetches the next token before anybody needs it; for a thread that may wait.
    pub(super) fn care(&self) {
        if let Err(error) = self.current() {
            tracing::warn!("kafka: {error}; tried again");
        }
    }

    /// For rdkafka's own callback.
    pub(super) fn generate(&self) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let token = self.current()?;
        // The principal stays in the client: brokers take theirs from the token.
        Ok(OAuthToken {
            token: token.bearer,
            principal_name: self.login.client_id.clone(),
            lifetime_ms: token.until_ms,
        })
    }

    fn error(&self, error: &TokenError) -> BusError {
        let (doing, reason) = ("kafka: signing in by OAUTHBEARER".to_owned(), error.to_string());
        match error {
            TokenError::Unreachable { .. } | TokenError::Faulty { .. } => BusError::Retriable { doing, reason },
            TokenError::Refused { .. } => BusError::Denied {
                doing,
                reason,
                remedy: "check `client_id`, `client_secret` and `scope` of `bus.kafka.sasl`, and that the client may use the \
                         grant client_credentials"
                    .to_owned(),
            },
            TokenError::NotOne { .. } => {
                BusError::Denied { doing, reason, remedy: "check `bus.kafka.sasl.token_url`".to_owned() }
            }
            TokenError::Authorities { .. } => {
                BusError::Denied { doing, reason, remedy: "check `bus.kafka.tls.ca`".to_owned() }
            }
        }
    }
}

/// Gives a new client its token, before anybody polls it. Without tokens there is nothing to do.
pub(super) fn authorize<C: ClientContext>(client: &Client<C>, tokens: Option<&Arc<Tokens>>) -> Result<(), BusError> {
    let Some(tokens) = tokens else { return Ok(()) };
    let token = tokens.current().map_err(|error| tokens.error(&error))?;
    set(client, &token, &tokens.login.client_id).map_err(|reason| BusError::Failed {
        doing: "kafka: signing in by OAUTHBEARER".to_owned(),
        reason: format!("the client does not take the token: {reason}"),
    })
}

/// The answer to a client that asks for a new token, where rdkafka's callback isn't used. A client without an answer asks
/// again after ten seconds.
pub(super) fn renew<C: ClientContext>(client: &Client<C>, tokens: Option<&Arc<Tokens>>) {
    let Some(tokens) = tokens else { return };
    let reason = match tokens.current() {
        Ok(token) => match set(client, &token, &tokens.login.client_id) {
            Ok(()) => return,
            Err(reason) => reason,
        },
        Err(error) => error.to_string(),
    };
    tracing::warn!("kafka: no new token: {reason}");
    if let Ok(reason) = CString::new(reason) {
        // SAFETY: the client is alive; librdkafka copies the text.
        unsafe { native::rd_kafka_oauthbearer_set_token_failure(client.native_ptr(), reason.as_ptr()) };
    }
}

fn set<C: ClientContext>(client: &Client<C>, token: &Token, principal: &str) -> Result<(), String> {
    const REASON_BYTES: usize = 512;
    let c_text = |text: &str| CString::new(text).map_err(|_| "a zero byte in it".to_owned());
    let (bearer, principal) = (c_text(&token.bearer)?, c_text(principal)?);
    let mut reason = [0; REASON_BYTES];
    // SAFETY: the client is alive; the texts and the buffer live through the call, and librdkafka copies what it keeps.
    let code = unsafe {
        native::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            bearer.as_ptr(),
            token.until_ms,
            principal.as_ptr(),
            std::ptr::null_mut(),
            0,
            reason.as_mut_ptr(),
            REASON_BYTES,
        )
    };
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        // That it is expired already, or has no token's form: the text names neither the token nor its parts.
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__INVALID_ARG => {
            // SAFETY: librdkafka ends what it writes into the buffer with a zero byte.
            Err(unsafe { CStr::from_ptr(reason.as_ptr()) }.to_string_lossy().into_owned())
        }
        code => Err(describe(&KafkaError::Global(code.into()))),
    }
}

/// On a thread of its own: whoever asks may be a task of a runtime, which must not drive another.
fn fetched(login: &TokenLogin) -> Result<Token, TokenError> {
    let unreachable = |reason: String| TokenError::Unreachable { url: login.url.clone(), reason };
    let own = login.clone();
    let fetching = thread::Builder::new().name("kafka-token".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| TokenError::Unreachable {
            url: own.url.clone(),
            reason: format!("no runtime to call it with: {error}"),
        })?;
        runtime.block_on(fetch(&own))
    });
    match fetching.map(thread::JoinHandle::join) {
        Ok(Ok(token)) => token,
        Ok(Err(_)) => Err(unreachable("the call ended in a bug: see the log".to_owned())),
        Err(error) => Err(unreachable(format!("no thread to call it from: {error}"))),
    }
}

async fn fetch(login: &TokenLogin) -> Result<Token, TokenError> {
    #[derive(Deserialize)]
    struct Granted {
        access_token: String,
        expires_in: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let url = || login.url.clone();
    let unreachable = |error: reqwest::Error| TokenError::Unreachable { url: url(), reason: reason(error) };
    let mut form = vec![("grant_type", "client_credentials")];
    form.extend(login.scope.as_deref().map(|scope| ("scope", scope)));
    // RFC 6749, 2.3.1: every server takes the client's name and secret so, each encoded before.
    let encoded = |text: &str| source_uri(&[text]).split_off(1);
    let (name, secret) = (encoded(&login.client_id), encoded(login.client_secret.expose()));
    let request = http(login)?.post(&login.url).form(&form).basic_auth(name, Some(secret));
    // Before the request: what is left of the token's life is then never overestimated.
    let (asked, asked_at) = (Instant::now(), SystemTime::now());
    let mut response = request.send().await.map_err(unreachable)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MOST_ANSWER_BYTES {
            return Err(TokenError::NotOne { url: url() });
        }
        body.extend_from_slice(&chunk);
    }
    match status {
        200 => {}
        408 | 429 | 500.. => return Err(TokenError::Faulty { url: url(), status }),
        _ => {
            let code = serde_json::from_slice::<Refusal>(&body).map_or_else(|_| "unexplained".to_owned(), |r| r.error);
            let code = code.chars().filter(|c| c.is_ascii_graphic()).take(MOST_CODE_CHARS).collect();
            return Err(TokenError::Refused { url: url(), client: login.client_id.clone(), status, code });
        }
    }
    let granted: Granted = serde_json::from_slice(&body).map_err(|_| TokenError::NotOne { url: url() })?;
    let life = granted.expires_in.map_or(LIFE_UNSAID, Duration::from_secs);
    let until_ms = (asked_at + life).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Ok(Token {
        bearer: granted.access_token,
        life,
        until: asked + life,
        until_ms: i64::try_from(until_ms).unwrap_or(i64::MAX),
    })
}

fn http(login: &TokenLogin) -> Result<reqwest::Client, TokenError> {
    let mut builder = reqwest::Client::builder().timeout(CALL_TIMEOUT).connect_timeout(CALL_TIMEOUT);
    if let Some(path) = &login.ca {
        let failed = |reason: String| TokenError::Authorities { path: path.clone(), reason };
        let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.to_string()))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| TokenError::Unreachable { url: login.url.clone(), reason: reason(error) })
}

/// The innermost cause.
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", CALL_TIMEOUT.as_secs());
    }
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// Against a real Keycloak and a broker that trusts it: `tests/secure`. Here is what no good endpoint does.
#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SECRET: &str = "hunter2/ü";

    /// An endpoint that gives these answers in turn, the last one for ever, and counts its requests.
    fn endpoint(answers: &'static [(u16, &'static str)]) -> (Tokens, Arc<AtomicUsize>, Arc<Mutex<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let (asked, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let (count, request) = (Arc::clone(&asked), Arc::clone(&last));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).unwrap();
                *request.lock().unwrap() = String::from_utf8_lossy(&bytes[..read]).into_owned();
                let (status, body) = answers[count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)];
                let head =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
        });
        let login = TokenLogin {
            url,
            client_id: "lockstep one".into(),
            client_secret: Secret::new(SECRET),
            scope: Some("kafka".into()),
            ca: None,
        };
        (Tokens { login, kept: Mutex::default() }, asked, last)
    }

    fn install_tls() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }

    #[test]
    fn a_token_is_fetched_once_and_again_when_it_is_no_longer_young() {
        install_tls();
        let (tokens, asked, request) = endpoint(&[
            (200, r#"{"access_token":"one","expires_in":3}"#),
            (200, r#"{"access_token":"two","expires_in":3600}"#),
        ]);
        assert_eq!(tokens.current().unwrap().bearer, "one");
        tokens.care();
        assert_eq!((tokens.current().unwrap().bearer.as_str(), asked.load(Ordering::SeqCst)), ("one", 1));
        // `lockstep%20one:hunter2%2F%C3%BC`, as RFC 6749 has it.
        let request = request.lock().unwrap().clone();
        assert!(request.contains("authorization: Basic bG9ja3N0ZXAlMjBvbmU6aHVudGVyMiUyRiVDMyVCQw=="), "{request}");
        let until = Instant::now() + Duration::from_secs(10);
        while tokens.current().unwrap().bearer == "one" {
            assert!(Instant::now() < until, "a token that is nearly over was never replaced");
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!((tokens.current().unwrap().bearer.as_str(), asked.load(Ordering::SeqCst)), ("two", 2));
    }

    #[test]
    fn failures_are_told_apart_remembered_for_a_moment_and_show_no_secret() {
        install_tls();
        type Case = (&'static [(u16, &'static str)], &'static str, bool);
        let cases: [Case; 4] = [
            (
                &[(401, r#"{"error":"invalid_client","error_description":"hunter2"}"#)],
                "refused the client lockstep one (status 401, invalid_client)",
                false,
            ),
            (&[(503, "")], "has a fault (status 503)", true),
            (&[(200, "<html>welcome hunter2")], "is not a token endpoint", false),
            (&[(400, "hunter2")], "(status 400, unexplained)", false),
        ];
        for (answers, expected, passes) in cases {
            let (tokens, asked, _) = endpoint(answers);
            let error = tokens.current().map(|token| token.life).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(tokens.current().is_err() && asked.load(Ordering::SeqCst) == 1, "asked again at once");
            let told = tokens.error(&error);
            assert_eq!(matches!(told, BusError::Retriable { .. }), passes, "{told}");
            let shown = format!("{told} {told:?} {tokens:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn an_endpoint_that_is_not_there_is_named() {
        install_tls();
        let login = TokenLogin {
            url: "http://127.0.0.1:1/token".into(),
            client_id: "lockstep".into(),
            client_secret: Secret::new(SECRET),
            scope: None,
            ca: Some("/nowhere/ca.pem".into()),
        };
        let tokens = Tokens { login: login.clone(), kept: Mutex::default() };
        let error = tokens.current().map(|token| token.life).unwrap_err().to_string();
        assert!(error.starts_with("the file of authorities /nowhere/ca.pem: "), "{error}");
        let tokens = Tokens { login: TokenLogin { ca: None, ..login }, kept: Mutex::default() };
        let error = tokens.current().map(|token| token.life).unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:1/token did not answer (Connection refused"), "{error}");
    }
}
