//! Messages between entities, and what an inbox record holds.

use super::envelope;
use super::event::{Cause, SourceEvent};
use super::id::{AccountId, BundleHash, IdentityId, RecordId, RoutingKey, SourceName, TargetName, TenantId};
use super::operation::Operation;
use super::report::ResultEvent;
use super::time::Timestamp;
use super::value::Attributes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// One value of the inbox topic.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are messages")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InboxRecord {
    /// For one entity of this partition.
    Message(Message),
    /// From this offset on the partition evaluates by this rule bundle.
    Switch { bundle: BundleHash },
    /// By the loop that serves this partition, for itself: what was before it is read.
    Mark,
}

/// An inbox record's bytes, without taking the message for it.
pub fn seal_message(message: &Message) -> Vec<u8> {
    /// Encodes as `InboxRecord`, whose first variant it is.
    #[derive(Serialize)]
    enum Lent<'a> {
        Message(&'a Message),
    }
    envelope::seal(&Lent::Message(message))
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub to: Address,
    pub body: Body,
    pub cause: Cause,
}

/// Where an entity lives: its routing key decides the partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    pub routing_key: RoutingKey,
    pub entity: EntityKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EntityKey {
    Record {
        tenant: TenantId,
        source: SourceName,
        record: RecordId,
        /// By which route it comes: where a source breaks its promise and a record turns up under another one, both are kept
        /// apart, whether or not they fall into one partition.
        route: RoutingKey,
    },
    Identity {
        tenant: TenantId,
        identity: IdentityId,
    },
    /// Who holds a correlation value.
    Index {
        tenant: TenantId,
        attribute: String,
        value: String,
    },
    Guard {
        tenant: TenantId,
    },
    /// Which route a record id came in by, for sources with `route_by`.
    Route {
        tenant: TenantId,
        source: SourceName,
        record: RecordId,
    },
}

/// What a message says. What is large lies beside it: messages go through many hands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    // to a Record
    Source(Arc<SourceEvent>),
    /// An Index's answer to a `Find`: who holds the value now. `epoch` is the asker's.
    Holders {
        attribute: String,
        value: String,
        epoch: u64,
        holders: Vec<Address>,
    },
    /// A Route's answer to `Claim`, its word that the record id has moved to another route, and what two records that dispute it tell one another.
    Routed {
        verdict: RouteVerdict,
    },

    // to an Index
    Hold {
        holder: Address,
    },
    Release {
        holder: Address,
    },
    /// Answer at once, and again whenever the holders change, until `Forget`.
    Find {
        asker: Address,
        epoch: u64,
    },
    Forget {
        asker: Address,
    },

    // to a Route
    Claim {
        record: Address,
        /// An anchor's record can't move: its identity, with all its accounts, lives by its routing key.
        movable: bool,
    },

    // to an Identity
    RecordChanged {
        source: SourceName,
        record: RecordId,
        attributes: Attributes,
        time: Timestamp,
        /// The record's own route: after a move, what the old one still says is not heard.
        route: RoutingKey,
    },
    RecordGone {
        source: SourceName,
        record: RecordId,
        time: Timestamp,
        route: RoutingKey,
    },
    /// The Guard's answer. `epoch` is that of the request.
    Permit {
        target: TargetName,
        epoch: u64,
        answer: PermitAnswer,
    },
    Result(Box<ResultEvent>),
    /// Decide again: the rules have changed.
    Reevaluate,

    // to the Guard
    PermitRequest {
        asker: Box<Address>,
        target: TargetName,
        account: AccountId,
        /// The source whose event removes the access: the Guard counts by it.
        source: SourceName,
        epoch: u64,
        urgent: bool,
    },
    Withdraw {
        account: AccountId,
        epoch: u64,
    },

    // to a Guard or an Identity
    Operation(Box<Operation>),
    // to any entity, from its own timers; never through the inbox
    Timer {
        name: String,
        due: Timestamp,
    },
    /// Go on with what a bounded step left over.
    Continue {
        job: String,
        cursor: String,
    },
}

impl Body {
    /// What it is, in a word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Source(_) => "source",
            Self::Holders { .. } => "holders",
            Self::Routed { .. } => "routed",
            Self::Hold { .. } => "hold",
            Self::Release { .. } => "release",
            Self::Find { .. } => "find",
            Self::Forget { .. } => "forget",
            Self::Claim { .. } => "claim",
            Self::RecordChanged { .. } => "record_changed",
            Self::RecordGone { .. } => "record_gone",
            Self::Permit { .. } => "permit",
            Self::Result(_) => "result",
            Self::Reevaluate => "reevaluate",
            Self::PermitRequest { .. } => "permit_request",
            Self::Withdraw { .. } => "withdraw",
            Self::Operation(_) => "operation",
            Self::Timer { .. } => "timer",
            Self::Continue { .. } => "continue",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteVerdict {
    Granted,
    /// The record id now comes by this route: what was told of it under the old one is void.
    MovedTo(RoutingKey),
    /// Another route holds the record id and can't give it up.
    Disputed {
        holder: RoutingKey,
    },
    /// To the holder, by whom it is disputed with: that one claims the record id as well, by an event of this order.
    Contested {
        by: Address,
        order: Option<i64>,
    },
    /// The holder's word to whom it was disputed with: its source told of the record under the holder's route again, or removed it.
    Settled {
        holder: RoutingKey,
        order: Option<i64>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PermitAnswer {
    Granted,
    Held,
    Released { operation: String },
    Rejected { operation: String },
}

impl Address {
    pub fn identity(routing_key: RoutingKey, tenant: TenantId, identity: IdentityId) -> Self {
        Self { routing_key, entity: EntityKey::Identity { tenant, identity } }
    }

    pub fn record(routing_key: RoutingKey, tenant: TenantId, source: SourceName, record: RecordId) -> Self {
        let route = routing_key.clone();
        Self { routing_key, entity: EntityKey::Record { tenant, source, record, route } }
    }

    /// An index entry is routed by its value: where records are routed by the attribute they correlate on, the entry lies
    /// beside them and a lookup takes no hop.
    pub fn index(tenant: TenantId, attribute: &str, value: &str) -> Self {
        Self {
            routing_key: RoutingKey::of(&tenant, value),
            entity: EntityKey::Index { tenant, attribute: attribute.to_owned(), value: value.to_owned() },
        }
    }

    /// The Guards of many tenants are spread over the partitions.
    pub fn guard(tenant: TenantId) -> Self {
        let routing_key = RoutingKey::of(&tenant, &format!("\u{1}guard/{tenant}"));
        Self { routing_key, entity: EntityKey::Guard { tenant } }
    }

    pub fn route(tenant: TenantId, source: SourceName, record: RecordId) -> Self {
        Self { routing_key: RoutingKey::of(&tenant, &record.0), entity: EntityKey::Route { tenant, source, record } }
    }
}

impl EntityKey {
    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Record { tenant, .. }
            | Self::Identity { tenant, .. }
            | Self::Index { tenant, .. }
            | Self::Guard { tenant }
            | Self::Route { tenant, .. } => tenant,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Record { .. } => "record",
            Self::Identity { .. } => "identity",
            Self::Index { .. } => "index",
            Self::Guard { .. } => "guard",
            Self::Route { .. } => "route",
        }
    }
}

impl EntityKey {
    /// The key as one text, for documents: its kind and its parts with slashes between, each part percent-encoded.
    pub fn path(&self) -> String {
        let parts = match self {
            Self::Record { tenant, source, record, route } => {
                vec![tenant.as_str(), source.as_str(), record.as_str(), route.as_str()]
            }
            Self::Identity { tenant, identity } => vec![tenant.as_str(), identity.as_str()],
            Self::Index { tenant, attribute, value } => vec![tenant.as_str(), attribute.as_str(), value.as_str()],
            Self::Guard { tenant } => vec![tenant.as_str()],
            Self::Route { tenant, source, record } => vec![tenant.as_str(), source.as_str(), record.as_str()],
        };
        let mut path = self.kind().to_owned();
        for part in parts {
            path.push('/');
            path.push_str(&percent_encoded(part));
        }
        path
    }

    /// Back from `path`.
    pub fn from_path(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let kind = parts.next()?;
        let parts: Vec<String> = parts.map(percent_decoded).collect::<Option<_>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Some(match (kind, parts.as_slice()) {
            ("record", [tenant, source, record, route]) => Self::Record {
                tenant: TenantId::new(*tenant),
                source: SourceName::new(*source),
                record: RecordId::new(*record),
                route: RoutingKey::new(*route),
            },
            ("identity", [tenant, identity]) => {
                Self::Identity { tenant: TenantId::new(*tenant), identity: IdentityId::new(*identity) }
            }
            ("index", [tenant, attribute, value]) => Self::Index {
                tenant: TenantId::new(*tenant),
                attribute: (*attribute).to_owned(),
                value: (*value).to_owned(),
            },
            ("guard", [tenant]) => Self::Guard { tenant: TenantId::new(*tenant) },
            ("route", [tenant, source, record]) => Self::Route {
                tenant: TenantId::new(*tenant),
                source: SourceName::new(*source),
                record: RecordId::new(*record),
            },
            _ => return None,
        })
    }
}

/// RFC 3986, section 2.1: all but unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// For people and logs. An index entry shows its attribute only: the value may be personal data.
impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { tenant, source, record, .. } => write!(f, "record {tenant}/{source}/{record}"),
            Self::Identity { tenant, identity } => write!(f, "identity {tenant}/{identity}"),
            Self::Index { tenant, attribute, .. } => write!(f, "index {tenant}/{attribute}"),
            Self::Guard { tenant } => write!(f, "guard {tenant}"),
            Self::Route { tenant, source, record } => write!(f, "route {tenant}/{source}/{record}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Action;

    /// The envelope's format describes nothing by itself: a type whose reading depends on what comes would not come back.
    #[test]
    fn whatever_one_entity_says_to_another_comes_back_from_the_inbox_as_it_was() {
        let holder = Address::identity("acme/1".into(), "acme".into(), "i".into());
        let (target, account) = (TargetName::from("wiki"), AccountId::from("a"));
        let place = || (target.clone(), account.clone(), IdentityId::from("i"), RoutingKey::from("acme/1"));
        let operation = |action| {
            let (id, tenant, actor) = ("o".to_owned(), "acme".into(), "cli".to_owned());
            Body::Operation(Operation { id, tenant, actor, at: Timestamp(1), action }.into())
        };
        let ((t, a, i, r), (t2, a2, i2, r2)) = (place(), place());
        let bodies = [
            Body::Hold { holder: holder.clone() },
            Body::Claim { record: holder.clone(), movable: true },
            Body::Routed { verdict: RouteVerdict::Disputed { holder: "acme/2".into() } },
            Body::Routed { verdict: RouteVerdict::Contested { by: holder.clone(), order: None } },
            Body::Routed { verdict: RouteVerdict::Settled { holder: "acme/2".into(), order: Some(8) } },
            Body::Permit { target: target.clone(), epoch: 3, answer: PermitAnswer::Rejected { operation: "o".into() } },
            Body::Reevaluate,
            Body::Continue { job: "{}".into(), cursor: "1".into() },
            operation(Action::GuardRelease { target: Some(target.clone()), account: None }),
            operation(Action::GuardReject { target: None, account: Some(account.clone()) }),
            operation(Action::Redrive { target: t, account: a, identity: i, routing_key: r }),
            operation(Action::Drop { target: t2, account: a2, identity: i2, routing_key: r2 }),
            operation(Action::QuarantineRetry { entity: holder.entity.clone(), routing_key: "acme/1".into() }),
        ];
        for body in bodies {
            let cause = Cause::own("test".to_owned(), Timestamp(1));
            let record = InboxRecord::Message(Message { to: holder.clone(), body, cause });
            let InboxRecord::Message(message) = &record else { unreachable!() };
            assert_eq!(seal_message(message), envelope::seal(&record));
            assert_eq!(envelope::open::<InboxRecord>(&envelope::seal(&record)), Ok(record));
        }
    }

    #[test]
    fn an_entitys_key_comes_back_from_its_path_whatever_its_parts_hold() {
        let keys = [
            EntityKey::Record { tenant: "a".into(), source: "hr".into(), record: "1/2 %".into(), route: "a/1".into() },
            EntityKey::Identity { tenant: "acme".into(), identity: "68d44a56-a91f".into() },
            EntityKey::Index { tenant: "acme".into(), attribute: "mail".into(), value: "ü@x".into() },
            EntityKey::Guard { tenant: "".into() },
            EntityKey::Route { tenant: "acme".into(), source: "hr".into(), record: "\u{1}~".into() },
        ];
        for key in keys {
            assert_eq!(EntityKey::from_path(&key.path()).as_ref(), Some(&key), "{}", key.path());
        }
        let guard = EntityKey::Guard { tenant: "acme".into() };
        assert_eq!(guard.path(), "guard/acme");
        for wrong in
            ["", "guard", "guard/a/b", "identity/a", "person/a/b", "guard/%", "guard/%zz", "guard/%+1", "guard/%ff"]
        {
            assert_eq!(EntityKey::from_path(wrong), None, "{wrong}");
        }
    }
}
