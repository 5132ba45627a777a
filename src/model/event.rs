//! What comes in from a source, after intake has decoded it.

use super::id::{BundleHash, EventId, RecordId, RoutingKey, SourceName, TenantId};
use super::time::Timestamp;
use super::value::Attributes;
use serde::{Deserialize, Serialize};

/// One change of one record, decoded and routed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceEvent {
    pub tenant: TenantId,
    pub source: SourceName,
    pub record: RecordId,
    pub routing_key: RoutingKey,
    pub id: EventId,
    /// The source's own order of this record's events (sequence, version, or time in ms); None: order of arrival.
    pub order: Option<i64>,
    /// When it happened at the source; the broker's timestamp where the source doesn't say.
    pub time: Timestamp,
    pub change: RecordChange,
    pub origin: Origin,
    /// W3C Trace Context `traceparent`, as it came.
    pub traceparent: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RecordChange {
    /// The whole record: what is not there is gone.
    Replace(Attributes),
    /// Some attributes: null removes one only where the source says so (intake has left out the others).
    Merge(Attributes),
    /// The record is gone, by an explicit event.
    Remove,
}

/// Where an event stood on the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub topic: String,
    pub partition: u32,
    pub offset: i64,
}

/// Why something happened; goes with every message and command that an event leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The source event's id, or `timer:<name>`, `operation:<id>`, `bundle:<hash>`.
    pub event: EventId,
    /// Where it came from: a source, or `lockstep` for timers, operations and rule changes.
    pub source: SourceName,
    /// The source event's time: the start of every latency that is reported.
    pub time: Timestamp,
    pub bundle: Option<BundleHash>,
    pub traceparent: Option<String>,
}

impl Cause {
    /// A cause of Lockstep's own.
    pub fn own(event: String, time: Timestamp) -> Self {
        Self {
            event: EventId(event.into()),
            source: SourceName::from("lockstep"),
            time,
            bundle: None,
            traceparent: None,
        }
    }
}

impl From<&SourceEvent> for Cause {
    fn from(event: &SourceEvent) -> Self {
        Self {
            event: event.id.clone(),
            source: event.source.clone(),
            time: event.time,
            bundle: None,
            traceparent: event.traceparent.clone(),
        }
    }
}
