//! Records of a topic, as they are written and as they are read: the bus carries them, the codec looks inside.

use super::time::Timestamp;

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: String,
    /// None: by the key's hash (murmur2, as Kafka's Java client).
    pub partition: Option<u32>,
    pub key: Option<Vec<u8>>,
    /// None is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
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
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}
