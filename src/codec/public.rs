//! The public topics: model types to bytes with CloudEvents headers, and back from any encoding that Lockstep ever wrote.
//!
//! A writer picks JSON or Avro, as the target declares; a reader looks at the bytes. Avro is framed with the registry's schema
//! id where there is a registry, else by single-object encoding. A worker written by others may use either.

use super::avro::{
    Framed, ReadError, SchemaError, SchemaId, WriterSchema, registered_frame, single_object_frame, sniff,
};
use super::cloudevents;
use super::document::{
    self, AlertDocument, CommandDocument, DeadLetterDocument, DecisionDocument, DocumentError, OperationDocument,
    ResultDocument,
};
use super::registry::{Registry, RegistryError};
use super::schemas::Document;
use crate::model::envelope::seal;
use crate::model::{Alert, Command, DeadLetter, Decision, Headers, Operation, ResultEvent};
use crate::rules::PublicFormat;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use uuid::Uuid;

/// What a document in JSON is made room for: most commands have less.
const TYPICAL_JSON_BYTES: usize = 1536;

/// A record's value and headers; its key is for the writer to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub value: Vec<u8>,
    pub headers: Headers,
}

#[derive(Debug, thiserror::Error)]
pub enum PublicError {
    #[error("neither JSON nor framed Avro")]
    Unframed,
    /// The position only: the decoder's words may quote a value.
    #[error("not a {document} in JSON: line {line}, column {column}")]
    Json { document: &'static str, line: usize, column: usize },
    #[error("not a {document} in Avro: {reason}")]
    Avro { document: &'static str, reason: ReadError },
    #[error("not a {document} of this release: {reason}")]
    Document { document: &'static str, reason: DocumentError },
    #[error(
        "written by the Avro schema with fingerprint {0}, which no release of Lockstep had; use a schema from schemas/"
    )]
    UnknownFingerprint(String),
    #[error("written with schema id {0}, but no registry is configured: set registry.url in lockstep.yaml")]
    NoRegistry(SchemaId),
    #[error("the schema with id {id} can't be used: {reason}")]
    Schema { id: SchemaId, reason: SchemaError },
    /// The record may be well: it is the registry that could not be asked.
    #[error(transparent)]
    Registry(RegistryError),
}

impl PublicError {
    /// Whether the same bytes may be readable later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Registry(error) if error.is_transient())
    }
}

/// A model type that has a public topic.
pub trait Public: Sized + Serialize {
    const DOCUMENT: Document;
    type Shape<'a>: Serialize
    where
        Self: 'a;
    type Read: DeserializeOwned + TryInto<Self, Error = DocumentError>;

    fn shape(&self) -> Self::Shape<'_>;
    fn attributes(&self) -> cloudevents::Attributes<'_>;
}

/// Encodes and decodes; one a process, shared by its threads.
#[derive(Clone, Debug)]
pub struct PublicCodec {
    registry: Option<Arc<Registry>>,
}

impl PublicCodec {
    pub fn new(registry: Option<Arc<Registry>>) -> Self {
        Self { registry }
    }

    /// Registers the topic's schema, so that `encode` never waits for the registry. To be called at start for each topic
    /// that will be written as Avro.
    pub fn prepare(&self, topic: &str, document: Document) -> Result<(), PublicError> {
        self.frame(topic, document).map(|_| ())
    }

    /// # Errors
    /// With Avro and a registry only, when the topic was not prepared and the registry can't be asked.
    pub fn encode<T: Public>(&self, format: PublicFormat, topic: &str, value: &T) -> Result<Encoded, PublicError> {
        let (value_bytes, content_type) = match format {
            PublicFormat::Json => {
                let mut json = Vec::with_capacity(TYPICAL_JSON_BYTES);
                serde_json::to_writer(&mut json, &value.shape()).expect("a document is valid JSON");
                (json, cloudevents::JSON)
            }
            PublicFormat::Avro => (self.encode_avro(topic, value)?, cloudevents::AVRO),
        };
        Ok(Encoded { value: value_bytes, headers: cloudevents::headers(value.attributes(), content_type) })
    }

    fn encode_avro<T: Public>(&self, topic: &str, value: &T) -> Result<Vec<u8>, PublicError> {
        static WRITERS: LazyLock<HashMap<Document, GenericDatumWriter<'static>>> = LazyLock::new(|| {
            let writer = |document: Document| {
                GenericDatumWriter::builder(document.schema().schema())
                    .human_readable(false)
                    .build()
                    .expect("the schemas that ship are sound")
            };
            Document::ALL.into_iter().map(|document| (document, writer(document))).collect()
        });
        let mut bytes = self.frame(topic, T::DOCUMENT)?;
        WRITERS[&T::DOCUMENT].write_ser(&mut bytes, &value.shape()).expect("a document has the shape of its schema");
        Ok(bytes)
    }

    /// What comes before the body.
    fn frame(&self, topic: &str, document: Document) -> Result<Vec<u8>, PublicError> {
        Ok(match &self.registry {
            None => single_object_frame(document.schema().fingerprint()),
            Some(registry) => {
                let id = registry.register_for_topic(topic, document.schema_text()).map_err(PublicError::Registry)?;
                registered_frame(id)
            }
        })
    }

    /// # Errors
    /// That bytes are unreadable is for good, unless the error `is_transient`.
    pub fn decode<T: Public>(&self, bytes: &[u8]) -> Result<T, PublicError> {
        let document = T::DOCUMENT.as_str();
        let read: T::Read = match sniff(bytes) {
            Framed::Json(bytes) => serde_json::from_slice(bytes).map_err(|e| PublicError::Json {
                document,
                line: e.line(),
                column: e.column(),
            })?,
            Framed::SingleObject { fingerprint, body } => {
                let writer = T::DOCUMENT
                    .known(fingerprint)
                    .ok_or_else(|| PublicError::UnknownFingerprint(fingerprint.to_string()))?;
                read_body::<T>(writer, body)?
            }
            Framed::Registered { id, body } => {
                let registry = self.registry.as_ref().ok_or(PublicError::NoRegistry(id))?;
                read_body::<T>(&*registry.by_id(id).map_err(|e| unusable(id, e))?, body)?
            }
            Framed::Unknown => return Err(PublicError::Unframed),
        };
        read.try_into().map_err(|reason| PublicError::Document { document, reason })
    }
}

fn unusable(id: SchemaId, error: RegistryError) -> PublicError {
    match error {
        RegistryError::Schema { reason, .. } => PublicError::Schema { id, reason },
        other => PublicError::Registry(other),
    }
}

/// Straight into the document where our own schema wrote it, else through Avro's schema resolution.
fn read_body<T: Public>(writer: &WriterSchema, body: &[u8]) -> Result<T::Read, PublicError> {
    let current = T::DOCUMENT.schema();
    let read = if writer.fingerprint() == current.fingerprint() {
        current.read(body)
    } else {
        writer.read_as(body, current.schema())
    };
    read.map_err(|reason| PublicError::Avro { document: T::DOCUMENT.as_str(), reason })
}

/// An id that the same content has again: a replayed step writes the same event. A UUID of version 8 from its SHA-256 (RFC 9562,
/// appendix B.2), which processors have instructions for.
fn content_id<T: Serialize>(value: &T) -> String {
    let hash: [u8; 32] = Sha256::digest(seal(value)).into();
    let (id, _) = hash.split_first_chunk().expect("it has 32 bytes");
    Uuid::new_v8(*id).to_string()
}

fn source(tenant: &str) -> String {
    cloudevents::source_uri(&["lockstep", tenant])
}

impl Public for Command {
    const DOCUMENT: Document = Document::Command;
    type Shape<'a> = CommandDocument<'a>;
    type Read = CommandDocument<'static>;

    fn shape(&self) -> CommandDocument<'_> {
        self.into()
    }

    fn attributes(&self) -> cloudevents::Attributes<'_> {
        cloudevents::Attributes {
            id: self.idempotency_key(),
            r#type: format!("lockstep.command.{}.v1", self.op),
            source: source(&self.tenant.0),
            subject: Some(&self.account.0),
            time: self.issued,
            traceparent: self.cause.traceparent.as_deref(),
        }
    }
}

impl Public for ResultEvent {
    const DOCUMENT: Document = Document::Result;
    type Shape<'a> = ResultDocument<'a>;
    type Read = ResultDocument<'static>;

    fn shape(&self) -> ResultDocument<'_> {
        self.into()
    }

    fn attributes(&self) -> cloudevents::Attributes<'_> {
        cloudevents::Attributes {
            id: content_id(self),
            r#type: format!("lockstep.result.{}.v1", self.outcome.as_str()),
            source: source(&self.tenant.0),
            subject: Some(&self.account.0),
            time: self.at,
            traceparent: self.traceparent.as_deref(),
        }
    }
}

impl Public for DeadLetter {
    const DOCUMENT: Document = Document::DeadLetter;
    type Shape<'a> = DeadLetterDocument<'a>;
    type Read = DeadLetterDocument<'static>;

    fn shape(&self) -> DeadLetterDocument<'_> {
        self.into()
    }

    fn attributes(&self) -> cloudevents::Attributes<'_> {
        cloudevents::Attributes {
            id: content_id(self),
            r#type: format!("lockstep.dead-letter.{}.v1", self.error),
            source: source(&self.command.tenant.0),
            subject: Some(&self.command.account.0),
            time: self.at,
            traceparent: self.command.cause.traceparent.as_deref(),
        }
    }
}

impl Public for Decision {
    const DOCUMENT: Document = Document::Decision;
    type Shape<'a> = DecisionDocument<'a>;
    type Read = DecisionDocument<'static>;

    fn shape(&self) -> DecisionDocument<'_> {
        self.into()
    }

    fn attributes(&self) -> cloudevents::Attributes<'_> {
        let account = self.account.as_ref().map(|id| id.as_str());
        cloudevents::Attributes {
            id: content_id(self),
            r#type: format!("lockstep.decision.{}.v1", document::kind_name(&self.kind)),
            source: source(&self.tenant.0),
            subject: account.or(self.identity.as_ref().map(|id| id.as_str())),
            time: self.at,
            traceparent: None,
        }
    }
}

impl Public for Alert {
    const DOCUMENT: Document = Document::Alert;
    type Shape<'a> = AlertDocument<'a>;
    type Read = AlertDocument<'static>;

    fn shape(&self) -> AlertDocument<'_> {
        self.into()
    }

    fn attributes(&self) -> cloudevents::Attributes<'_> {
        let (kind, state) = (document::alert_kind_name(self.kind), document::alert_state_name(self.state));
        let account = self.account.as_ref().map(|id| id.as_str());
        cloudevents::Attributes {
            id: content_id(self),
            r#type: format!("lockstep.alert.{kind}.{state}.v1"),
            source: source(&self.tenant.0),
            subject: account.or(self.identity.as_ref().map(|id| id.as_str())),
            time: self.at,
            traceparent: None,
        }
    }
}

impl Public for Operation {
    const DOCUMENT: Document = Document::Operation;
    type Shape<'a> = OperationDocument<'a>;
    type Read = OperationDocument<'static>;

    fn shape(&self) -> OperationDocument<'_> {
        self.into()
    }

    fn attributes(&self) -> cloudevents::Attributes<'_> {
        cloudevents::Attributes {
            id: self.id.clone(),
            r#type: format!("lockstep.operation.{}.v1", document::action_name(&self.action)),
            source: source(&self.tenant.0),
            subject: document::action_account(&self.action).map(|id| id.as_str()),
            time: self.at,
            traceparent: None,
        }
    }
}

#[cfg(test)]
mod tests;
