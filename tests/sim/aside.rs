//! Entities that were set aside, held against the logs: who waits is alerted on for exactly as long, what waits for them waits in
//! the order in which it came, and the others go on.

use crate::auditor::rows_of;
use crate::faults::Counted;
use crate::rules::{HR_TOPIC, TENANT};
use crate::world::World;
use lockstep::codec::public::PublicCodec;
use lockstep::entity::{IdentityRecord, key};
use lockstep::model::{
    Alert, AlertKind, AlertState, Body, Decision, DecisionKind, EntityKey, IdentityId, InboxRecord, RoutingKey,
    envelope,
};
use lockstep::runtime::{Quarantined, quarantine_id};
use std::collections::{BTreeMap, BTreeSet};

/// An entity while it is set aside.
#[derive(Default)]
struct Aside {
    /// Keys under which there is a row that says so: a former release had another.
    marks: BTreeSet<Vec<u8>>,
    says: Option<Quarantined>,
    /// By number.
    waiting: BTreeMap<u64, Vec<u8>>,
    /// The highest number that ever waited, and by partition the last offset of its source.
    last: Option<u64>,
    offsets: BTreeMap<(String, u32), i64>,
}

/// What one commit says of it.
enum Said {
    Mark { of: EntityKey, key: Vec<u8>, row: Option<Vec<u8>> },
    Waiting { of: EntityKey, number: u64, row: Option<Vec<u8>> },
    Alert(Alert),
    Retried(String),
}

/// At every commit those who are set aside are those of whom an alert is open; their messages wait one behind the other, the first
/// to come is the first to go, and of one source's partition none overtakes another. In the end nobody is left.
pub fn kept(world: &World) -> Result<Counted, String> {
    let mut counted = Counted::new();
    let (mut aside, mut alerted) = (BTreeMap::<String, Aside>::new(), BTreeSet::<String>::new());
    for (commit, said) in said(world) {
        let mut touched = BTreeMap::new();
        let retried: BTreeSet<String> = said.iter().filter_map(Said::retried).collect();
        let mut count = |kind: &'static str| *counted.entry(kind).or_default() += 1;
        for said in said {
            match said {
                Said::Retried(_) => count("set aside and tried again by an operator"),
                Said::Alert(alert) if alert.state == AlertState::Raised => {
                    count(set_aside(&alert.message));
                    alerted.insert(alert.key);
                }
                Said::Alert(alert) => {
                    let of = alert.message.split(':').next().unwrap_or_default();
                    count(if retried.contains(of) { "released by an operator" } else { "released by its timer" });
                    alerted.remove(&alert.key);
                    // It may be set aside anew in the same commit.
                    if let Some(entity) = aside.get_mut(&alert.key) {
                        (entity.last, entity.offsets) = (None, BTreeMap::new());
                    }
                }
                Said::Mark { of, key, row } => {
                    let entity = aside.entry(alert_of(&of)).or_default();
                    match row {
                        Some(row) => {
                            entity.says = Some(envelope::open(&row).map_err(|error| format!("{of}: {error}"))?);
                            entity.marks.insert(key);
                        }
                        None => drop(entity.marks.remove(&key)),
                    }
                    touched.insert(alert_of(&of), of);
                }
                Said::Waiting { of, number, row } => {
                    let entity = aside.entry(alert_of(&of)).or_default();
                    match row {
                        // An update writes all rows once more.
                        Some(row) if entity.waiting.get(&number) == Some(&row) => {}
                        Some(row) => {
                            count("message waited");
                            entity.add(number, row).map_err(|fault| format!("commit {commit}: {of}: {fault}"))?;
                        }
                        None => drop(entity.waiting.remove(&number)),
                    }
                    touched.insert(alert_of(&of), of);
                }
            }
        }
        for (alert, of) in touched {
            aside[&alert].holds().map_err(|fault| format!("commit {commit}: {of}: {fault}"))?;
            if aside[&alert].marks.is_empty() {
                aside.remove(&alert);
            }
        }
        if !aside.keys().eq(alerted.iter()) {
            let aside: Vec<&String> = aside.keys().collect();
            return Err(format!("commit {commit}: {aside:?} are set aside, and alerts are open of {alerted:?}"));
        }
    }
    match aside.keys().next() {
        Some(of) => Err(format!("{of} is set aside for good")),
        None => Ok(counted),
    }
}

/// The key of the alert of an entity that is set aside.
pub fn alert_of(of: &EntityKey) -> String {
    format!("quarantine/{}", quarantine_id(of))
}

impl Said {
    fn retried(&self) -> Option<String> {
        match self {
            Self::Retried(entity) => Some(entity.clone()),
            _ => None,
        }
    }
}

impl Aside {
    fn add(&mut self, number: u64, row: Vec<u8>) -> Result<(), String> {
        if self.last.is_some_and(|last| number <= last) {
            return Err(format!("message {number} waits where {:?} waited before", self.last));
        }
        self.last = Some(number);
        if let Ok(InboxRecord::Message(message)) = envelope::open(&row)
            && let Body::Source(event) = &message.body
        {
            let of = (event.origin.topic.to_string(), event.origin.partition);
            let offset = event.origin.offset;
            if self.offsets.insert(of, offset).is_some_and(|before| before >= offset) {
                return Err(format!("event {} waits behind a later one of its source", event.id));
            }
        }
        self.waiting.insert(number, row);
        Ok(())
    }

    /// What waits has numbers without a gap, which its mark knows; nothing waits for one who isn't set aside.
    fn holds(&self) -> Result<(), String> {
        let numbers = self.waiting.keys().next().zip(self.waiting.keys().next_back());
        let (Some(says), false) = (&self.says, self.marks.is_empty()) else {
            return match numbers {
                Some(_) => Err(format!("{} messages wait, and nothing says so", self.waiting.len())),
                None => Ok(()),
            };
        };
        let found = numbers.map_or((says.next, says.next), |(first, last)| (*first, *last + 1));
        let dense = self.waiting.len() as u64 == found.1 - found.0;
        if dense && found == (says.first, says.next) {
            return Ok(());
        }
        Err(format!("messages {:?} wait, of {}..{}", self.waiting.keys(), says.first, says.next))
    }
}

fn set_aside(message: &str) -> &'static str {
    match message.split(' ').next().unwrap_or_default() {
        "record" => "record set aside",
        "route" => "route set aside",
        "index" => "index entry set aside",
        "identity" => "identity set aside",
        "guard" => "Guard set aside",
        other => panic!("{other} is no kind of entity"),
    }
}

/// What the state topic, the alerts and the audit say of those who are set aside, by commit.
fn said(world: &World) -> BTreeMap<usize, Vec<Said>> {
    let codec = PublicCodec::new(None);
    let rows = world.bus.by_commit(&world.topics.state(), |record| {
        let (key, row) = (record.key.clone()?, record.value.as_ref().map(|value| value.to_vec()));
        let (of, name) = key::parse(&key)?;
        if name == key::QUARANTINE {
            return Some(Said::Mark { of, key, row });
        }
        let number = u64::from_str_radix(name.strip_prefix(key::WAITING)?, 16).expect("a number");
        Some(Said::Waiting { of, number, row })
    });
    let decisions = world.bus.by_commit(&world.topics.decisions(), |record| {
        let decision: Decision = codec.decode(record.value.as_ref()?).expect("a decision");
        match decision.kind {
            DecisionKind::QuarantineRetried { entity, .. } => Some(Said::Retried(entity)),
            _ => None,
        }
    });
    let alerts = world.bus.by_commit(&world.topics.alerts(), |record| {
        let alert: Alert = codec.decode(record.value.as_ref()?).expect("an alert");
        (alert.kind == AlertKind::Quarantined).then_some(Said::Alert(alert))
    });
    let mut by_commit: BTreeMap<usize, Vec<Said>> = BTreeMap::new();
    for (commit, said) in alerts.into_iter().chain(decisions).chain(rows) {
        by_commit.entry(commit).or_default().push(said);
    }
    by_commit
}

/// On whom a worker's access depends: while one of them is set aside, an end of access may not be known yet.
pub fn depends_on(worker: &str) -> [EntityKey; 3] {
    let (tenant, source) = (TENANT.into(), "hr".into());
    let identity = IdentityId::of_anchor(&tenant, &source, &worker.into());
    let route = RoutingKey::of(&tenant, worker);
    [
        EntityKey::Record { tenant: tenant.clone(), source: source.clone(), record: worker.into(), route },
        EntityKey::Route { tenant: tenant.clone(), source, record: worker.into() },
        EntityKey::Identity { tenant, identity },
    ]
}

/// When all that was told is read, whoever is not set aside knows it.
pub fn others_go_on(world: &World) -> Result<(), String> {
    let aside: BTreeSet<EntityKey> =
        rows_of(world, |_, name| name == key::QUARANTINE).into_iter().map(|(of, ..)| of).collect();
    let rows = rows_of(world, |of, name| matches!(of, EntityKey::Identity { .. }) && name.starts_with("record/hr/"));
    let known: BTreeMap<EntityKey, Vec<u8>> = rows.into_iter().map(|(of, _, row)| (of, row)).collect();
    for (worker, facts) in &world.facts.workers {
        let depends_on = depends_on(worker);
        if depends_on.iter().any(|of| aside.contains(of) || world.is_damaged(of)) {
            continue;
        }
        let row = known.get(&depends_on[2]);
        if row.is_some() != facts.present {
            return Err(format!(
                "{HR_TOPIC} has {worker}: {}, and its identity knows {}",
                facts.present,
                row.is_some()
            ));
        }
        let Some(row) = row else { continue };
        let row: IdentityRecord = envelope::open(row).map_err(|error| format!("{worker}: {error}"))?;
        for name in ["name", "mail", "department", "status", "urgent"] {
            let knows = row.attributes.get(name).and_then(|value| value.as_text()).map(str::to_owned);
            if knows != facts.text(name) {
                return Err(format!("{worker} is not set aside: {name} is {:?}, not {knows:?}", facts.text(name)));
            }
        }
    }
    Ok(())
}
