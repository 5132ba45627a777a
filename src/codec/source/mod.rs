//! Events of sources: bytes of a user's topic to a `SourceEvent`, or a rejection that says why.
//!
//! Bytes become one JSON document, whatever they were (`envelope`); what the source declares is taken out of it (`mapping`).
//! Nothing here keeps state or knows what a record was before. A rejection names fields and types, never values. Whatever is
//! wrong with the bytes is a `Rejection` and goes to `source-dead-letters`; that the schema registry can't be asked is not
//! their fault: `DecodeError::Unavailable`, and the same record is to be tried again.

mod dead_letter;
mod envelope;
mod json;
mod mapping;

pub use dead_letter::{Letter, Part, dead_letter, join, short};

use super::avro::{Fingerprint, WriterSchema};
use super::cloudevents::{TRACEPARENT, header};
use super::registry::{Registry, RegistryError};
use crate::model::{Attributes, EventId, Incoming, Origin, RecordChange, RecordId, RoutingKey, SourceEvent, TenantId};
use crate::rules::{EventMeaning, EventPath, SourceFormat, SourceRules, TenantRule, Tombstones};

use json::Json;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// Ids are keys of state and parts of headers: one of more bytes is a document in the wrong field.
const MOST_ID_BYTES: usize = 512;
/// Elements of a list attribute: nobody is in more groups, and every rule that reads the list looks at each of them.
const MOST_LIST_ELEMENTS: usize = 10_000;
/// A traceparent has 55 characters (W3C Trace Context, version 00); later versions may be longer.
const MOST_TRACEPARENT_BYTES: usize = 128;

#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    Event(Arc<SourceEvent>),
    /// A removal that doesn't hold the attribute by which its record was routed: the record's Route knows where it is.
    Unrouted(Arc<SourceEvent>),
    /// The source says that events of this type, or tombstones, mean nothing.
    Ignored,
}

/// Why an event is bad input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A tombstone, on a source that does not say what one means.
    NoValue,
    NotJson,
    NotAvro,
    NotCloudEvent,
    UnknownSchema,
    NoId,
    NoRecordId,
    NoRoute,
    UnknownType,
    UnknownTenant,
    WrongType,
    MissingRequired,
    TooLarge,
    /// A record of one of Lockstep's own topics that this release can't read.
    Unreadable,
}

impl Reason {
    pub const ALL: [Self; 14] = [
        Self::NoValue,
        Self::NotJson,
        Self::NotAvro,
        Self::NotCloudEvent,
        Self::UnknownSchema,
        Self::NoId,
        Self::NoRecordId,
        Self::NoRoute,
        Self::UnknownType,
        Self::UnknownTenant,
        Self::WrongType,
        Self::MissingRequired,
        Self::TooLarge,
        Self::Unreadable,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoValue => "no_value",
            Self::NotJson => "not_json",
            Self::NotAvro => "not_avro",
            Self::NotCloudEvent => "not_cloud_event",
            Self::UnknownSchema => "unknown_schema",
            Self::NoId => "no_id",
            Self::NoRecordId => "no_record_id",
            Self::NoRoute => "no_route",
            Self::UnknownType => "unknown_type",
            Self::UnknownTenant => "unknown_tenant",
            Self::WrongType => "wrong_type",
            Self::MissingRequired => "missing_required",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Bad input, for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Rejection {
    pub reason: Reason,
    /// Which field, what was wanted and what was found there; never a value.
    pub detail: String,
}

impl Rejection {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// To be tried again: nothing is known of the record yet.
    #[error(transparent)]
    Unavailable(RegistryError),
}

/// Decodes the events of every source; one a process, shared by its threads.
#[derive(Debug)]
pub struct SourceDecoder {
    registry: Option<Arc<Registry>>,
    schemas: HashMap<Fingerprint, WriterSchema>,
    tenants: BTreeSet<TenantId>,
    event_bytes: usize,
}

impl SourceDecoder {
    /// `tenants` and `event_bytes` (the largest value of a record) are those of lockstep.yaml.
    pub fn new(registry: Option<Arc<Registry>>, tenants: BTreeSet<TenantId>, event_bytes: usize) -> Self {
        Self { registry, schemas: HashMap::new(), tenants, event_bytes }
    }

    /// Adds schemas of writers that use single-object encoding: their bytes hold only a fingerprint.
    #[must_use]
    pub fn with_schemas(mut self, schemas: impl IntoIterator<Item = WriterSchema>) -> Self {
        self.schemas.extend(schemas.into_iter().map(|schema| (schema.fingerprint(), schema)));
        self
    }

    pub fn decode(&self, rules: &SourceRules, incoming: &Incoming) -> Result<Decoded, DecodeError> {
        let Some(value) = &incoming.value else {
            return Ok(self.tombstone(rules, incoming)?);
        };
        if value.len() > self.event_bytes {
            let detail = format!("the event has {} bytes; at most {} are taken", value.len(), self.event_bytes);
            return Err(Rejection::new(Reason::TooLarge, detail).into());
        }
        let document = self.document(rules.format, value, &incoming.headers)?;
        Ok(self.event(rules, incoming, &document)?)
    }

    fn event(&self, rules: &SourceRules, incoming: &Incoming, document: &Json<'_>) -> Result<Decoded, Rejection> {
        let tenant = self.tenant(rules, incoming, Some(document))?;
        let id = mapping::id(document, &rules.event.id, Reason::NoId)?;
        let meaning = meaning(rules, document)?;
        if meaning == EventMeaning::Ignore {
            return Ok(Decoded::Ignored);
        }
        let record = mapping::id(document, &rules.record.id, Reason::NoRecordId)?;
        let remove = meaning == EventMeaning::Remove;
        let attributes = if remove { Attributes::default() } else { mapping::attributes(rules, document)? };
        let route = match &rules.route_by {
            None => Some(record.clone()),
            Some(name) => mapping::route(rules, name, document, remove)?,
        };
        let unrouted = route.is_none();
        let routing_key = RoutingKey::of(&tenant, route.as_ref().unwrap_or(&record));
        let time = match &rules.event.time {
            Some(path) => mapping::time(document, path)?,
            None => None,
        };
        let order = rules.event.order.as_ref().map(|path| mapping::order(document, path)).transpose()?;
        let event = Arc::new(SourceEvent {
            tenant,
            source: rules.name.clone(),
            record: RecordId(record),
            routing_key,
            id: EventId(id),
            order,
            time: time.unwrap_or(incoming.timestamp),
            change: match (remove, rules.record.partial) {
                (true, _) => RecordChange::Remove,
                (false, true) => RecordChange::Merge(attributes),
                (false, false) => RecordChange::Replace(attributes),
            },
            origin: origin(incoming),
            traceparent: traceparent(incoming, rules.format, document),
        });
        Ok(if unrouted { Decoded::Unrouted(event) } else { Decoded::Event(event) })
    }

    /// A record with a key and no value. Where it removes it stands in the order of arrival: it has no position of its own.
    fn tombstone(&self, rules: &SourceRules, incoming: &Incoming) -> Result<Decoded, Rejection> {
        match rules.record.tombstones {
            Tombstones::Ignore => return Ok(Decoded::Ignored),
            Tombstones::Remove => {}
            Tombstones::Reject => {
                let detail = "the record has no value, and the source does not say what that means: \
                              `record: { tombstones: remove | ignore }`";
                return Err(Rejection::new(Reason::NoValue, detail));
            }
        }
        let key = incoming.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| Rejection::new(Reason::NoRecordId, "the tombstone's key is no text"))?;
        if key.len() > MOST_ID_BYTES {
            return Err(Rejection::new(Reason::NoRecordId, format!("the tombstone's key has {} bytes", key.len())));
        }
        let tenant = self.tenant(rules, incoming, None)?;
        let origin = origin(incoming);
        let event = Arc::new(SourceEvent {
            routing_key: RoutingKey::of(&tenant, key),
            tenant,
            source: rules.name.clone(),
            record: RecordId::from(key),
            id: EventId(format!("{}/{}/{}", origin.topic, origin.partition, origin.offset).into()),
            order: None,
            time: incoming.timestamp,
            change: RecordChange::Remove,
            origin,
            traceparent: traceparent(incoming, rules.format, &Json::Null),
        });
        Ok(if rules.route_by.is_some() { Decoded::Unrouted(event) } else { Decoded::Event(event) })
    }

    fn tenant(
        &self,
        rules: &SourceRules,
        incoming: &Incoming,
        document: Option<&Json<'_>>,
    ) -> Result<TenantId, Rejection> {
        let (found, place) = match &rules.tenant {
            TenantRule::Constant(tenant) => (Some(tenant.clone()), "the source's `tenant`".to_owned()),
            TenantRule::Header(name) => (header(&incoming.headers, name).map(TenantId::from), format!("header {name}")),
            TenantRule::Field(path) => {
                let found = document.and_then(|document| document.find(path)).and_then(Json::as_str);
                (found.map(TenantId::from), format!("field {path}"))
            }
            TenantRule::Topic(pattern) => {
                (pattern.tenant(&incoming.topic), format!("the name of topic {}", incoming.topic))
            }
        };
        let unknown = |what| Rejection::new(Reason::UnknownTenant, format!("{place} {what}"));
        let tenant = found.ok_or_else(|| unknown("names no tenant"))?;
        if self.tenants.contains(&tenant) {
            Ok(tenant)
        } else {
            Err(unknown("names a tenant that is not among `tenants` of lockstep.yaml"))
        }
    }
}

/// The record id in an event that has come by HTTP, for the key it is stored under; None where the event will be rejected.
pub fn record_key(rules: &SourceRules, bytes: &[u8]) -> Option<String> {
    let document: Json<'_> = serde_json::from_slice(bytes).ok()?;
    mapping::id(&document, &rules.record.id, Reason::NoRecordId).ok().map(Into::into)
}

fn origin(incoming: &Incoming) -> Origin {
    Origin { topic: incoming.topic.clone(), partition: incoming.partition, offset: incoming.offset }
}

fn meaning(rules: &SourceRules, document: &Json<'_>) -> Result<EventMeaning, Rejection> {
    let path = rules.event.kind.as_ref();
    let found = path.and_then(|path| document.find(path));
    rules.event.meaning(found.and_then(Json::as_str)).ok_or_else(|| {
        let field = path.map(EventPath::to_string).unwrap_or_default();
        let detail = match found {
            Some(Json::String(_)) => format!("field {field} holds none of the types that the source declares"),
            other => format!("field {field}: text wanted, {} found", mapping::type_name(other)),
        };
        Rejection::new(Reason::UnknownType, detail)
    })
}

/// As a header of its own, or as CloudEvents' distributed tracing extension. What is none is left out.
fn traceparent(incoming: &Incoming, format: SourceFormat, document: &Json<'_>) -> Option<String> {
    let extension = (format == SourceFormat::CloudEvents).then(|| document.get(TRACEPARENT)).flatten();
    let found = header(&incoming.headers, TRACEPARENT).or(extension.and_then(Json::as_str))?;
    let fine = found.len() <= MOST_TRACEPARENT_BYTES && found.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    fine.then(|| found.to_owned())
}

#[cfg(test)]
mod tests;
