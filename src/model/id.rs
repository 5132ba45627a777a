//! Identifiers as types of their own, so that a record id can't be passed where an account id belongs.
//!
//! Ids that Lockstep mints are UUIDs of version 5 (RFC 9562, section 5.5): the same facts give the same id on every
//! machine and after every restart, so a replayed step never mints a second one.

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use smol_str::SmolStr;
use std::fmt;
use uuid::Uuid;

/// The namespace of every id that Lockstep mints.
const NAMESPACE: Uuid = Uuid::from_u128(0x7f1d_0c6e_52a4_4f0e_9d2b_6c6f_636b_7374);

macro_rules! text_ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub SmolStr);

        impl $name {
            pub fn new(text: impl Into<SmolStr>) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
    )+};
}

text_ids! {
    /// A client whose people, rules and limits are kept apart from every other's.
    TenantId,
    /// A system of record, as named in `sources/*.yaml`.
    SourceName,
    /// A system in which accounts are provisioned, as named in `targets/*.yaml`.
    TargetName,
    /// One entry of a source, by the source's own id.
    RecordId,
    /// The person or non-human identity that records are linked to.
    IdentityId,
    /// An identity's presence in one target for one intent.
    AccountId,
    /// What makes a source event itself: a redelivery has the same one.
    EventId,
    /// Decides the inbox partition; records of one person share it where the source promises so.
    RoutingKey,
    /// Why an identity has an account: `default` or `admin`.
    Intent,
    /// The SHA-256 of a rule bundle, in hex.
    BundleHash,
}

/// Counts the commands of one account from 1, never restarted: the fence against anything older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition of the inbox, and so of `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Intent {
    pub fn default_intent() -> Self {
        Self(SmolStr::new_static("default"))
    }
}

impl IdentityId {
    /// The identity that an anchor's record mints.
    pub fn of_anchor(tenant: &TenantId, source: &SourceName, record: &RecordId) -> Self {
        Self(mint(&["identity", &tenant.0, &source.0, &record.0]))
    }
}

impl AccountId {
    /// The account of an identity at a target for an intent.
    pub fn of(tenant: &TenantId, target: &TargetName, identity: &IdentityId, intent: &Intent) -> Self {
        Self(mint(&["account", &tenant.0, &target.0, &identity.0, &intent.0]))
    }

    /// `<account>@<generation>`: what makes a command itself.
    pub fn idempotency_key(&self, generation: Generation) -> String {
        format!("{}@{}", self.0, generation.0)
    }
}

impl RoutingKey {
    /// Routing keys of two tenants never meet, whatever their records are called.
    pub fn of(tenant: &TenantId, value: &str) -> Self {
        Self(smol_str::format_smolstr!("{}/{}", tenant.0, value))
    }

    /// The inbox partition: by what is behind the tenant, as Kafka's Java client does it. A source topic with as many partitions,
    /// whose keys are those values, agrees with it: what lies there is delivered without the inbox.
    pub fn partition(&self, count: u32) -> PartitionId {
        let value = self.0.split_once('/').map_or(self.0.as_str(), |(_, value)| value);
        PartitionId((murmur2(value.as_bytes()) & 0x7fff_ffff) % count.max(1))
    }
}

/// A UUID of version 5 (RFC 9562, section 5.5), by the processor's own instructions for SHA-1 where it has them. Length-prefixed
/// parts, so that ("ab", "c") and ("a", "bc") differ.
fn mint(parts: &[&str]) -> SmolStr {
    let mut hash = Sha1::new_with_prefix(NAMESPACE);
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash: [u8; 20] = hash.finalize().into();
    let (bytes, _) = hash.split_first_chunk().expect("it has 20 bytes");
    let uuid = uuid::Builder::from_sha1_bytes(*bytes).into_uuid();
    uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).into()
}

/// Kafka's `org.apache.kafka.common.utils.Utils.murmur2`, seed 0x9747b28c.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut hash: u32 = 0x9747_b28c ^ bytes.len() as u32;
    let (chunks, tail) = bytes.as_chunks::<4>();
    for chunk in chunks {
        let mut k = u32::from_le_bytes(*chunk).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_what_the_java_client_gives() {
        // From Apache Kafka's UtilsTest.testMurmur2.
        for (text, expected) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, expected, "{text}");
        }
    }

    #[test]
    fn a_routing_key_lies_where_a_producer_puts_its_value() {
        for (tenant, value) in [("a", "21"), ("b", "21"), ("a", "foo/bar")] {
            let key = RoutingKey::of(&tenant.into(), value);
            assert_eq!(key.partition(64).0, (murmur2(value.as_bytes()) & 0x7fff_ffff) % 64);
        }
    }

    #[test]
    fn ids_depend_on_every_part_and_on_its_borders() {
        let t = TenantId::from("a");
        let one = IdentityId::of_anchor(&t, &"hr".into(), &"12".into());
        assert_eq!(one, IdentityId::of_anchor(&t, &"hr".into(), &"12".into()));
        // What every release has minted: state and commands are known by it.
        assert_eq!(one.as_str(), "7c225ed4-ab63-52e2-b276-f615c21ac0db");
        assert_ne!(one, IdentityId::of_anchor(&t, &"hr1".into(), &"2".into()));
        assert_ne!(one, IdentityId::of_anchor(&"b".into(), &"hr".into(), &"12".into()));
    }
}
