//! Records of a topic, as they are written and as they are read: the bus carries them, the codec looks inside.

use super::time::Timestamp;
use bytes::Bytes;
use smol_str::SmolStr;

/// By name; one name may stand several times. Nearly all are short or constant: they take no allocation.
pub type Headers = Vec<(SmolStr, Bytes)>;

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: String,
    /// None: by the key's hash (murmur2, as Kafka's Java client).
    pub partition: Option<u32>,
    pub key: Option<Vec<u8>>,
    /// None is a tombstone.
    pub value: Option<Bytes>,
    pub headers: Headers,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    pub topic: String,
    pub partition: u32,
    pub offset: i64,
    /// The broker's or the sender's, as the topic is set.
    pub timestamp: Timestamp,
    pub key: Option<Vec<u8>>,
    pub value: Option<Bytes>,
    pub headers: Headers,
}
