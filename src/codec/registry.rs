//! A client of a schema registry that speaks Confluent's API (Confluent, Karapace, Apicurio's `ccompat/v7`).
//!
//! Subjects are named by topic (TopicNameStrategy): `<topic>-value`. A subject that Lockstep is the first to register is set
//! to FULL_TRANSITIVE: dead letters and decisions are kept over many releases, and workers of other teams are updated on a day
//! of their own, so every schema must go with every former one, both ways round. One that is there already is left as its
//! owner has set it.
//!
//! Calls block, on any thread: they are made by one thread of this client's own, so that neither a plain thread nor a task of
//! a runtime ever drives a runtime itself. Schemas are cached; a cache that is full is emptied and fills again by need.
//! The crate schema_registry_converter was looked at: its caches have no bound, it remembers failures until told otherwise,
//! and it can't set compatibility.

use super::avro::{SchemaError, SchemaId, WriterSchema};
use reqwest::{Client, Method};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One call, from connecting to the last byte. A registry answers from memory in milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A caller waits for those before it too.
const WAIT: Duration = Duration::from_secs(15);
/// Calls that wait at once: some for each thread of a process.
const QUEUE: usize = 64;
/// Schemas kept by id. Sources have a few each; an id is four bytes that anyone may write into a record.
const MOST_SCHEMAS: usize = 1_000;
/// Topics whose schema is registered: a target has three, so hundreds of targets fit.
const MOST_TOPICS: usize = 1_000;
/// For how long an id that is not there, or of no use, is not asked for again: a flood of bad records is not a flood of calls.
const FAILURE_KEPT: Duration = Duration::from_secs(10);
/// A schema of more is no schema of identity events.
const MOST_ANSWER_BYTES: usize = 1024 * 1024;
const COMPATIBILITY: &str = "FULL_TRANSITIVE";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error("registry.url in lockstep.yaml is not a URL of a schema registry ({0})")]
    Url(String),
    #[error(
        "could not {doing}: the schema registry at {url} did not answer ({reason}); is it up, and is registry.url right?"
    )]
    Unreachable { doing: String, url: String, reason: String },
    #[error("could not {doing}: the schema registry at {url} has a fault (status {status})")]
    Faulty { doing: String, url: String, status: u16 },
    #[error(
        "could not {doing}: the schema registry at {url} refused it (status {status}: {message}); check its credentials and permissions"
    )]
    Refused { doing: String, url: String, status: u16, message: String },
    #[error(
        "could not {doing}: the schema registry at {url} refused what it was asked (status {status}: {message}); \
         is registry.url right?"
    )]
    Rejected { doing: String, url: String, status: u16, message: String },
    #[error("could not {doing}: the answer of the schema registry at {url} can't be used: {reason}")]
    Unusable { doing: String, url: String, reason: String },
    #[error(
        "the schema of this release does not go with those of subject {subject} ({message}); see what was registered there, \
         and by whom"
    )]
    Incompatible { subject: String, message: String },
    #[error("the schema registry at {url} knows no schema with id {id}; was the record written with another registry?")]
    UnknownId { id: SchemaId, url: String },
    #[error("the schema with id {id} can't be used: {reason}")]
    Schema { id: SchemaId, reason: SchemaError },
    #[error("could not {doing}: {QUEUE} calls to the schema registry at {url} are waiting already")]
    Busy { doing: String, url: String },
}

impl RegistryError {
    /// Whether the same call may succeed later without anybody doing anything to what was asked.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Faulty { .. } | Self::Refused { .. } | Self::Busy { .. } => true,
            Self::Url(_)
            | Self::Rejected { .. }
            | Self::Unusable { .. }
            | Self::Incompatible { .. }
            | Self::UnknownId { .. }
            | Self::Schema { .. } => false,
        }
    }
}

/// How a schema goes with what is registered for a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is: the first record registers it.
    New,
    Fits,
}

/// A registry, by its base URL.
pub struct Registry {
    /// Without credentials.
    url: String,
    calls: SyncSender<Call>,
    by_id: Mutex<HashMap<SchemaId, Known>>,
    /// By topic: the schema text that was registered last, and its id.
    by_topic: Mutex<HashMap<String, (String, SchemaId)>>,
}

#[derive(Clone)]
enum Known {
    Schema(Arc<WriterSchema>),
    Failed { error: RegistryError, at: Instant },
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registry {}", self.url)
    }
}

impl Registry {
    /// Makes the client; calls nobody yet. User and password may stand in the URL.
    pub fn new(url: &str) -> Result<Self, RegistryError> {
        let mut shown = reqwest::Url::parse(url).map_err(|e| RegistryError::Url(e.to_string()))?;
        if !matches!(shown.scheme(), "http" | "https") {
            return Err(RegistryError::Url("it must begin with http:// or https://".to_owned()));
        }
        let base = url.trim_end_matches('/').to_owned();
        // Neither fails on a URL that has a host, and http URLs have one.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        let (calls, queue) = sync_channel(QUEUE);
        thread::Builder::new()
            .name("schema-registry".to_owned())
            .spawn(move || serve(&base, &queue))
            .map_err(|e| RegistryError::Url(format!("no thread for its client: {e}")))?;
        Ok(Self {
            url: shown.as_str().trim_end_matches('/').to_owned(),
            calls,
            by_id: Mutex::default(),
            by_topic: Mutex::default(),
        })
    }

    /// The id under which the topic's values are written; registers the schema the first time.
    pub fn register_for_topic(&self, topic: &str, schema: &str) -> Result<SchemaId, RegistryError> {
        if let Some((text, id)) = lock(&self.by_topic).get(topic)
            && text == schema
        {
            return Ok(*id);
        }
        let subject = format!("{topic}-value");
        let new = self.is_new(&subject)?;
        let id = self.register(&subject, schema)?;
        if new {
            self.protect(&subject);
        }
        let mut topics = lock(&self.by_topic);
        if topics.len() >= MOST_TOPICS {
            topics.clear();
        }
        topics.insert(topic.to_owned(), (schema.to_owned(), id));
        Ok(id)
    }

    /// Asks whether the schema could be registered for the topic's values; registers nothing.
    pub fn standing(&self, topic: &str, schema: &str) -> Result<Standing, RegistryError> {
        #[derive(Deserialize)]
        struct Judged {
            is_compatible: bool,
        }
        let subject = format!("{topic}-value");
        let doing = format!("compare the schema of subject {subject}");
        if self.is_new(&subject)? {
            return Ok(Standing::New);
        }
        let path = format!("/compatibility/subjects/{}/versions/latest", encoded(&subject));
        let answer = self.call(&doing, Method::POST, path, Some(json!({"schema": schema, "schemaType": "AVRO"})))?;
        match answer.status {
            200 if self.parsed::<Judged>(&doing, &answer)?.is_compatible => Ok(Standing::Fits),
            200 => Err(RegistryError::Incompatible { subject, message: "it says so".to_owned() }),
            _ => Err(self.failed(doing, &answer)),
        }
    }

    /// Registers a schema, or finds it where it is registered already.
    pub fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, RegistryError> {
        #[derive(Deserialize)]
        struct Registered {
            id: u32,
        }
        let doing = format!("register the schema of subject {subject}");
        let path = format!("/subjects/{}/versions", encoded(subject));
        let answer = self.call(&doing, Method::POST, path, Some(json!({"schema": schema, "schemaType": "AVRO"})))?;
        match answer.status {
            200 => self.parsed::<Registered>(&doing, &answer).map(|registered| SchemaId(registered.id)),
            409 => Err(RegistryError::Incompatible { subject: subject.to_owned(), message: answer.said() }),
            _ => Err(self.failed(doing, &answer)),
        }
    }

    /// The schema that has the id, parsed.
    pub fn by_id(&self, id: SchemaId) -> Result<Arc<WriterSchema>, RegistryError> {
        match lock(&self.by_id).get(&id) {
            Some(Known::Schema(schema)) => return Ok(schema.clone()),
            Some(Known::Failed { error, at }) if at.elapsed() < FAILURE_KEPT => return Err(error.clone()),
            _ => {}
        }
        let found = self.fetch(id);
        let known = match &found {
            Ok(schema) => Known::Schema(schema.clone()),
            Err(error) if error.is_transient() => return found,
            Err(error) => Known::Failed { error: error.clone(), at: Instant::now() },
        };
        let mut schemas = lock(&self.by_id);
        if schemas.len() >= MOST_SCHEMAS {
            schemas.clear();
        }
        schemas.insert(id, known);
        found
    }

    fn fetch(&self, id: SchemaId) -> Result<Arc<WriterSchema>, RegistryError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            schema: String,
            schema_type: Option<String>,
            #[serde(default)]
            references: Option<Vec<serde::de::IgnoredAny>>,
        }
        let doing = format!("read the schema with id {id}");
        let answer = self.call(&doing, Method::GET, format!("/schemas/ids/{id}"), None)?;
        let found: Found = match answer.status {
            200 => self.parsed(&doing, &answer)?,
            404 => return Err(RegistryError::UnknownId { id, url: self.url.clone() }),
            _ => return Err(self.failed(doing, &answer)),
        };
        let unusable = |reason| RegistryError::Schema { id, reason };
        if let Some(other) = found.schema_type.filter(|kind| kind != "AVRO") {
            return Err(unusable(SchemaError::NotAvro(format!("it is of type {other}"))));
        }
        if found.references.is_some_and(|references| !references.is_empty()) {
            return Err(unusable(SchemaError::References));
        }
        WriterSchema::parse(&found.schema).map(Arc::new).map_err(unusable)
    }

    fn is_new(&self, subject: &str) -> Result<bool, RegistryError> {
        let doing = format!("look for subject {subject}");
        let answer = self.call(&doing, Method::GET, format!("/subjects/{}/versions", encoded(subject)), None)?;
        match answer.status {
            200 => Ok(false),
            404 => Ok(true),
            _ => Err(self.failed(doing, &answer)),
        }
    }

    /// Only a safeguard: where it can't be set that is said, and no more.
    fn protect(&self, subject: &str) {
        let path = format!("/config/{}", encoded(subject));
        let doing = format!("set the compatibility of subject {subject}");
        match self.call(&doing, Method::PUT, path, Some(json!({"compatibility": COMPATIBILITY}))) {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => tracing::warn!(subject, "{}", self.failed(doing, &answer)),
            Err(error) => tracing::warn!(subject, "{error}"),
        }
    }

    fn call(
        &self,
        doing: &str,
        method: Method,
        path: String,
        body: Option<serde_json::Value>,
    ) -> Result<Answer, RegistryError> {
        let unreachable =
            |reason: String| RegistryError::Unreachable { doing: doing.to_owned(), url: self.url.clone(), reason };
        let (reply, answer) = sync_channel(1);
        match self.calls.try_send(Call { method, path, body, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(RegistryError::Busy { doing: doing.to_owned(), url: self.url.clone() });
            }
            Err(TrySendError::Disconnected(_)) => return Err(unreachable("the client could not start".to_owned())),
        }
        match answer.recv_timeout(WAIT) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(NoAnswer::Unreachable(reason))) => Err(unreachable(reason)),
            Ok(Err(NoAnswer::TooLarge)) => {
                Err(self.unusable(doing, format!("it has more than {MOST_ANSWER_BYTES} bytes")))
            }
            Err(RecvTimeoutError::Timeout) => Err(unreachable(format!("no answer within {} s", WAIT.as_secs()))),
            Err(RecvTimeoutError::Disconnected) => Err(unreachable("the client could not start".to_owned())),
        }
    }

    /// An answer that is JSON is the registry's own, and the next one would be the same; anything else may be of a proxy.
    fn parsed<T: for<'de> Deserialize<'de>>(&self, doing: &str, answer: &Answer) -> Result<T, RegistryError> {
        serde_json::from_slice(&answer.body).map_err(|_| {
            if serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_ok() {
                return self.unusable(doing, "it lacks what such an answer has".to_owned());
            }
            RegistryError::Unreachable {
                doing: doing.to_owned(),
                url: self.url.clone(),
                reason: "what answers there is not a schema registry".to_owned(),
            }
        })
    }

    fn unusable(&self, doing: &str, reason: String) -> RegistryError {
        RegistryError::Unusable { doing: doing.to_owned(), url: self.url.clone(), reason }
    }

    /// Credentials that are refused concern every call, and are mended without the records. What else the registry itself refuses
    /// it refuses of the one schema, for good.
    fn failed(&self, doing: String, answer: &Answer) -> RegistryError {
        let (url, status, message) = (self.url.clone(), answer.status, answer.said());
        match status {
            408 | 429 | 500.. => RegistryError::Faulty { doing, url, status },
            400..500 if !matches!(status, 401 | 403 | 407) && answer.message().is_some() => {
                RegistryError::Rejected { doing, url, status, message }
            }
            _ => RegistryError::Refused { doing, url, status, message },
        }
    }
}

/// A path segment: topic names are letters, digits, `.`, `_` and `-`, but a subject may come from elsewhere.
fn encoded(segment: &str) -> String {
    super::cloudevents::source_uri(&[segment]).split_off(1)
}

/// A panic of a thread that held a cache leaves at worst an entry out.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Call {
    method: Method,
    path: String,
    body: Option<serde_json::Value>,
    reply: SyncSender<Result<Answer, NoAnswer>>,
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

enum NoAnswer {
    Unreachable(String),
    TooLarge,
}

impl Answer {
    /// What the registry says of a failure, in its own words; None: it isn't the registry that speaks.
    fn message(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Failure {
            message: String,
        }
        const MOST_CHARS: usize = 300;
        let failure: Failure = serde_json::from_slice(&self.body).ok()?;
        Some(failure.message.chars().take(MOST_CHARS).collect())
    }

    fn said(&self) -> String {
        self.message().unwrap_or_else(|| "no message".to_owned())
    }
}

/// The client's thread: ends when the `Registry` is dropped.
fn serve(base: &str, queue: &Receiver<Call>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let client = Client::builder().timeout(CALL_TIMEOUT).connect_timeout(CALL_TIMEOUT).build();
    let (Ok(runtime), Ok(client)) = (runtime, client) else {
        return;
    };
    while let Ok(call) = queue.recv() {
        let answer = runtime.block_on(send(&client, base, call.method, &call.path, call.body));
        // The caller may have stopped waiting.
        let _ = call.reply.send(answer);
    }
}

async fn send(
    client: &Client,
    base: &str,
    method: Method,
    path: &str,
    body: Option<serde_json::Value>,
) -> Result<Answer, NoAnswer> {
    const JSON: &str = "application/vnd.schemaregistry.v1+json";
    let mut request = client.request(method, format!("{base}{path}")).header(reqwest::header::ACCEPT, JSON);
    if let Some(body) = body {
        request = request.header(reqwest::header::CONTENT_TYPE, JSON).body(body.to_string());
    }
    let mut response = request.send().await.map_err(reason)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reason)? {
        if body.len() + chunk.len() > MOST_ANSWER_BYTES {
            return Err(NoAnswer::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: response.status().as_u16(), body })
}

/// The innermost cause, without the URL: that may hold a password.
fn reason(error: reqwest::Error) -> NoAnswer {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    NoAnswer::Unreachable(match error.is_timeout() {
        true => format!("no answer within {} s", CALL_TIMEOUT.as_secs()),
        false => innermost.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_none_is_refused_and_a_password_is_never_shown() {
        assert!(matches!(Registry::new("127.0.0.1:8081"), Err(RegistryError::Url(_))));
        assert!(matches!(Registry::new("file:///x"), Err(RegistryError::Url(_))));
        let registry = Registry::new("https://me:secret@registry.example:8081/apis/ccompat/v7/").unwrap();
        assert_eq!(format!("{registry:?}"), "registry https://registry.example:8081/apis/ccompat/v7");
    }

    #[test]
    fn subjects_are_one_path_segment() {
        assert_eq!(encoded("lockstep.results-value"), "lockstep.results-value");
        assert_eq!(encoded("a/../b c"), "a%2F..%2Fb%20c");
    }

    /// A registry that gives every call this answer, one after the other.
    fn answering(status: u16, body: &str) -> Registry {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer =
            format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // A call is one small packet.
                let _ = std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
                let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
            }
        });
        Registry::new(&url).unwrap()
    }

    /// What only one schema has is for good, so that its records don't hold up the others; what all would get passes.
    #[test]
    fn a_registry_that_refuses_one_schema_is_told_from_one_that_answers_nobody() {
        let large = format!(r#"{{"schema":"{}"}}"#, "x".repeat(MOST_ANSWER_BYTES));
        let page = "<html>Sign in</html>";
        let said = r#"{"error_code":1,"message":"no"}"#;
        for (status, body, transient) in [
            (422, said, false),
            (400, said, false),
            (405, said, false),
            (200, large.as_str(), false),
            (200, said, false),
            (200, r#"{"schema":"nonsense"}"#, false),
            (200, r#"{"schema":"\"string\"","schemaType":"JSON"}"#, false),
            (404, said, false),
            (401, said, true),
            (403, said, true),
            (407, said, true),
            (408, said, true),
            (429, said, true),
            (500, said, true),
            (400, page, true),
            (302, page, true),
            (200, page, true),
        ] {
            let error = answering(status, body).by_id(SchemaId(7)).unwrap_err();
            assert_eq!(error.is_transient(), transient, "{status}: {error}");
        }
        let error = answering(422, said).by_id(SchemaId(7)).unwrap_err().to_string();
        assert!(error.contains("refused what it was asked (status 422: no)"), "{error}");
    }
}
