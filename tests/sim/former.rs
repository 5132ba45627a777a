//! State as the former release wrote it: a row of its own for each of an entity's rows, without what was added since.

use crate::bus::Table;
use lockstep::bus::Outgoing;
use lockstep::entity::pack::Pack;
use lockstep::entity::{IdentityHead, Link, RecordHead, Route, key};
use lockstep::model::{Address, Attributes, EntityKey, EventId, RoutingKey, Timestamp, envelope};
use lockstep::rules::Phase;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// `entity::RecordHead` of version 0.1.
#[derive(Serialize)]
struct FormerRecord {
    order: Option<i64>,
    recent: VecDeque<EventId>,
    present: bool,
    attributes: Attributes,
    time: Timestamp,
    route: Route,
    epoch: u64,
    values: BTreeMap<String, String>,
    answers: BTreeMap<String, Vec<Address>>,
    link: Link,
}

/// `entity::IdentityHead` of version 0.1.
#[derive(Serialize)]
struct FormerIdentity {
    routing_key: RoutingKey,
    kind: String,
    phase: Option<Phase>,
    ended: Option<Timestamp>,
    since: Timestamp,
    epoch: u64,
    failing: BTreeSet<String>,
}

/// What turns the state topic into one of the former release.
pub fn state(topic: &str, rows: &Table) -> Vec<Outgoing> {
    let mut records = BTreeMap::new();
    for ((partition, row_key), row) in rows {
        let mut put = |key: Vec<u8>, value: Option<Vec<u8>>| drop(records.insert((*partition, key), value));
        if key::pack_of(row_key).is_some() {
            put(row_key.clone(), None);
            for (entity, rows) in Pack::open(row).expect("a pack").entities() {
                let (of, _) = key::parse(entity).expect("an entity's key");
                for (name, row) in rows.filter(|(name, _)| !name.starts_with('~')) {
                    put(key::formerly(&of, name), Some(former(&of, name, row)));
                }
            }
        } else if key::open_of(row_key).is_some() || *row_key == key::meta("format") {
            put(row_key.clone(), None);
        } else if let Some((of, name)) = key::parse(row_key) {
            if name == key::QUARANTINE {
                put(row_key.clone(), None);
                put(key::formerly(&of, &name), Some(row.clone()));
                continue;
            }
            let now = if name.starts_with(key::TIMER) { row[..8].to_vec() } else { former(&of, &name, row) };
            put(row_key.clone(), Some(now));
        }
    }
    let record = |((partition, key), value): (_, Option<Vec<u8>>)| Outgoing {
        topic: topic.to_owned(),
        partition: Some(partition),
        key: Some(key),
        value: value.map(Into::into),
        headers: Vec::new(),
    };
    records.into_iter().map(record).collect()
}

fn former(of: &EntityKey, name: &str, row: &[u8]) -> Vec<u8> {
    match of {
        EntityKey::Record { .. } if name == key::HEAD => {
            let RecordHead { order, recent, present, attributes, time, route, epoch, values, answers, link, .. } =
                envelope::open(row).expect("a record's head");
            let former = FormerRecord { order, recent, present, attributes, time, route, epoch, values, answers, link };
            envelope::seal(&former)
        }
        EntityKey::Identity { .. } if name == key::HEAD => {
            let IdentityHead { routing_key, kind, phase, ended, since, epoch, failing, .. } =
                envelope::open(row).expect("an identity's head");
            envelope::seal(&FormerIdentity { routing_key, kind, phase, ended, since, epoch, failing })
        }
        _ => row.to_vec(),
    }
}
