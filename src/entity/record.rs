//! Record: one entry of one source, and its way to the identity it belongs to.
//!
//! It keeps its position in the source's order and its content, so redelivered, out-of-order and empty changes go no
//! further. An anchor's record mints its identity and holds its correlation values in the Index; any other finds its identity
//! there, by the kind's keys in their order.

use super::key::HEAD;
use super::step::{Step, StepError};
use crate::model::envelope;
use crate::model::{
    Address, Alert, AlertKind, AlertState, Attributes, Body, DecisionKind, EventId, IdentityId, Origin, RecordChange,
    RecordId, RouteVerdict, RoutingKey, SourceEvent, SourceName, TenantId, Timestamp, Value,
};
use crate::rules::{Phase, SourceRules};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Event ids remembered for each record: enough for a producer's retries and a poller's overlap.
const REMEMBERED_EVENTS: usize = 16;
/// Longest correlation value, in bytes; a longer one is no key.
const MAX_VALUE_BYTES: usize = 1024;
/// What systems write when they have no value. Two people with the mail "n/a" are not one.
const NULL_LIKE: [&str; 9] = ["", "-", "n/a", "na", "null", "none", "nil", "unknown", "undefined"];

const ROUTE_DISPUTED: &str = "its routing attribute changed, which its source promised it never does; its identity stays with the \
    former value. restore the value at the source: under the new one only an end of access is heard";

/// 9999-12-31T23:59:59Z: after every date that a source can mean.
const LAST_DAY: Timestamp = Timestamp(253_402_300_799_000);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecordHead {
    pub order: Option<i64>,
    pub recent: VecDeque<EventId>,
    pub present: bool,
    pub attributes: Attributes,
    /// The source's time of the last change that was taken.
    pub time: Timestamp,
    pub route: Route,
    /// Rises with every new question to the Index; answers to older ones are not used.
    pub epoch: u64,
    /// Correlation values held (by an anchor's record) or asked for (by any other), by attribute.
    pub values: BTreeMap<String, String>,
    /// The Index's answers in this epoch, by attribute.
    pub answers: BTreeMap<String, Vec<Address>>,
    pub link: Link,
    /// Of the events at `order`, the one whose content stands; None where only a removal was seen there.
    #[serde(deserialize_with = "envelope::or_default")]
    pub standing: Option<EventId>,
    /// In partial updates: for each attribute that events at `order` set, the one whose value stands.
    #[serde(deserialize_with = "envelope::or_default")]
    pub set_by: BTreeMap<String, Rank>,
    /// Where the last event stood that counted, where removals without an order come another way.
    #[serde(deserialize_with = "envelope::or_default")]
    pub arrived: Option<Arrived>,
    /// Who claims this record's id by another route, and is disputed.
    #[serde(deserialize_with = "envelope::or_default")]
    pub contender: Option<Address>,
}

/// A place on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// A hash of topic and partition: their names would be most of it.
    at: u64,
    offset: i64,
}

/// Which of several events with one order stands: not the one that came last, for arrival must not bring a leaver back.
/// Content by which access ends stands above any other; among equals, the greater id (the longer one, then byte by byte, so
/// that counted ids stand in the order in which they were counted).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank {
    ends: bool,
    length: usize,
    id: String,
}

/// Whether this route may speak for the record id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Route {
    /// Not asked for: the source routes by the record id itself, or this is the first event.
    #[default]
    Free,
    Claimed,
    Granted,
    MovedTo(RoutingKey),
    Disputed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    #[default]
    Unlinked,
    Linked(Address),
    /// Several identities hold the value; the record stays with whom it had, if any.
    Disputed {
        kept: Option<Address>,
    },
}

impl Rank {
    fn of(ends: bool, id: &EventId) -> Self {
        Self { ends, length: id.as_str().len(), id: id.as_str().to_owned() }
    }
}

impl Arrived {
    fn of(origin: &Origin) -> Self {
        let at = xxhash_rust::xxh3::xxh3_64_with_seed(origin.topic.as_bytes(), origin.partition.into());
        Self { at, offset: origin.offset }
    }

    /// Of two partitions nobody knows.
    fn is_before(self, other: Self) -> bool {
        self.at == other.at && self.offset < other.offset
    }
}

impl Link {
    pub fn identity(&self) -> Option<&Address> {
        match self {
            Self::Linked(to) | Self::Disputed { kept: Some(to) } => Some(to),
            Self::Unlinked | Self::Disputed { kept: None } => None,
        }
    }
}

/// The record that this step is about.
struct Me<'a> {
    routing_key: &'a RoutingKey,
    tenant: &'a TenantId,
    source: &'a SourceName,
    record: &'a RecordId,
    anchor: bool,
    correlate: &'a [String],
}

pub(super) fn step(
    step: &mut Step,
    routing_key: &RoutingKey,
    tenant: &TenantId,
    source: &SourceName,
    record: &RecordId,
    body: Body,
) -> Result<(), StepError> {
    let Some(kind) = step.rules.kind_of(source) else {
        // The rules no longer know this source: what it says changes nobody. Its topic is not read either.
        return Ok(());
    };
    let (anchor, correlate) = (kind.anchor == *source, kind.correlate.as_slice());
    let me = Me { routing_key, tenant, source, record, anchor, correlate };
    let mut head = step.get::<RecordHead>(HEAD)?.unwrap_or_default();
    match body {
        Body::Source(event) => take(step, &me, &mut head, &event),
        Body::Holders { attribute, value, epoch, holders } => {
            if epoch == head.epoch && head.values.get(&attribute) == Some(&value) {
                head.answers.insert(attribute, holders);
                relink(step, &me, &mut head);
            }
        }
        Body::Routed { verdict } => routed(step, &me, &mut head, verdict),
        _ => {
            return Err(StepError::Misdirected {
                entity: "record",
                message: "anything but its source, index or route",
            });
        }
    }
    step.put(HEAD, &head);
    Ok(())
}

fn take(step: &mut Step, me: &Me, head: &mut RecordHead, event: &SourceEvent) {
    let id = remembered(&event.id);
    // State of a former release remembers the ids themselves.
    if head.recent.contains(&id) || head.recent.contains(&event.id) {
        return;
    }
    head.recent.push_back(id);
    if head.recent.len() > REMEMBERED_EVENTS {
        head.recent.pop_front();
    }
    let tied = match (event.order, head.order) {
        (Some(order), Some(last)) if order < last => return,
        (order, last) => order.is_some() && order == last,
    };
    if !tied && step.rules.source(me.source).is_some_and(SourceRules::removes_out_of_order) {
        let arrived = Arrived::of(&event.origin);
        let removes = event.change == RecordChange::Remove && event.order.is_none();
        if removes && head.arrived.is_some_and(|last| arrived.is_before(last)) {
            return; // It went by the Route, and what follows it in its partition was here before it.
        }
        head.arrived = Some(arrived);
    }
    if !tied {
        (head.standing, head.set_by) = (None, BTreeMap::new());
    }
    head.order = event.order.or(head.order);
    // A removal stands above whatever has its order.
    let present = event.change != RecordChange::Remove && (head.present || !tied);
    if event.origin != elsewhere() {
        settle(step, me, head);
    }
    let attributes = content(step, me, head, event, tied);
    // What it told as long as the record came this way is void where the record has moved since: the same again is news.
    let is_back = present && matches!(head.route, Route::MovedTo(_));
    if head.present == present && head.attributes == attributes && !is_back {
        return;
    }
    let time = if tied { head.time.max(event.time) } else { event.time };
    let was_present = std::mem::replace(&mut head.present, present);
    (head.attributes, head.time) = (attributes, time);
    match head.route {
        Route::Free if step.rules.source(me.source).is_some_and(|source| source.route_by.is_some()) => {
            claim(step, me, head);
        }
        Route::Free | Route::Granted => publish(step, me, head),
        // An old route that hears of the record again claims it back.
        Route::MovedTo(_) => claim(step, me, head),
        Route::Disputed => {
            match (was_present, present) {
                (true, false) => dispute(step, me, AlertState::Resolved, "its source removed it"),
                (false, true) => dispute(step, me, AlertState::Raised, ROUTE_DISPUTED),
                _ => {}
            }
            tell_holder_of_the_end(step, me, head);
        }
        Route::Claimed => {}
    }
}

fn claim(step: &mut Step, me: &Me, head: &mut RecordHead) {
    head.route = Route::Claimed;
    let route = Address::route(me.tenant.clone(), me.source.clone(), me.record.clone());
    step.send(route, Body::Claim { record: me.address(), movable: !me.anchor });
}

/// Whoever is disputed hears what its source says under this route: by the order it sees whether that is the newer word.
fn settle(step: &mut Step, me: &Me, head: &RecordHead) {
    if let Some(contender) = head.contender.clone() {
        let verdict = RouteVerdict::Settled { holder: me.routing_key.clone(), order: head.order };
        step.send(contender, Body::Routed { verdict });
    }
}

/// Whom a disputed record belongs to is for the source to say. That access ends is heard meanwhile: it ends for the identity that
/// holds the record's id, as if the record had been removed.
fn tell_holder_of_the_end(step: &mut Step, me: &Me, head: &RecordHead) {
    if head.present && !ends(step, me, &head.attributes) {
        return;
    }
    let removal = SourceEvent {
        tenant: me.tenant.clone(),
        source: me.source.clone(),
        record: me.record.clone(),
        routing_key: me.routing_key.clone(),
        id: step.cause.event.clone(),
        order: head.order,
        time: head.time,
        change: RecordChange::Remove,
        origin: elsewhere(),
        traceparent: step.cause.traceparent.clone(),
    };
    let route = Address::route(me.tenant.clone(), me.source.clone(), me.record.clone());
    step.send(route, Body::Source(removal.into()));
}

/// Where a removal comes from that a disputed record tells its holder of. Places are not compared with the holder's.
fn elsewhere() -> Origin {
    Origin { topic: String::new(), partition: 0, offset: 0 }
}

/// The record's content with this event, and which event it is from.
fn content(step: &Step, me: &Me, head: &mut RecordHead, event: &SourceEvent, tied: bool) -> Attributes {
    match &event.change {
        // The last content stays: who this was is still needed to find and disable the accounts.
        RecordChange::Remove => head.attributes.clone(),
        RecordChange::Replace(attributes) => {
            let stands = head.standing.as_ref().filter(|_| tied);
            let ranked = |of: &Attributes, id: &EventId| Rank::of(ends(step, me, of), id);
            if stands.is_some_and(|id| ranked(&head.attributes, id) > ranked(attributes, &event.id)) {
                return head.attributes.clone();
            }
            // State of a former release doesn't say which event it is from: who has left by it stays out.
            let unknown = tied && head.standing.is_none() && head.present;
            if unknown && ends(step, me, &head.attributes) && !ends(step, me, attributes) {
                return head.attributes.clone();
            }
            head.standing = event.order.map(|_| event.id.clone());
            attributes.clone()
        }
        RecordChange::Merge(changed) if event.order.is_none() => merge(&head.attributes, changed.clone()),
        RecordChange::Merge(changed) => {
            let rank = Rank::of(ends(step, me, changed), &event.id);
            let mut changed = changed.clone();
            for (name, standing) in &head.set_by {
                if *standing > rank {
                    changed.remove(name);
                }
            }
            for (name, _) in changed.iter() {
                head.set_by.insert(name.to_string(), rank.clone());
            }
            merge(&head.attributes, changed)
        }
    }
}

/// Whether access ends by this record's content alone, at once or on some day.
fn ends(step: &Step, me: &Me, attributes: &Attributes) -> bool {
    let Some(kind) = step.rules.kind_of(me.source) else { return false };
    let merged = kind.merge(&[(me.source, attributes)]);
    kind.lifecycle(&merged, LAST_DAY).is_ok_and(|lifecycle| lifecycle.phase == Phase::Ended)
}

/// What is remembered of an event's id: short ones as they are, of others a hash of 128 bits, behind a `#`. It takes no
/// allocation to read, and 16 ids of 36 bytes would be most of a record's row.
fn remembered(id: &EventId) -> EventId {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const LENGTH: usize = 22;
    if id.as_str().len() <= LENGTH {
        return id.clone();
    }
    let hash = xxhash_rust::xxh3::xxh3_128(id.as_str().as_bytes());
    let mut text = *b"#                      ";
    for (place, letter) in text[1..].iter_mut().enumerate() {
        *letter = LETTERS[(hash >> (6 * place) & 63) as usize];
    }
    EventId::from(std::str::from_utf8(&text).expect("letters only"))
}

fn merge(current: &Attributes, changed: Attributes) -> Attributes {
    let mut merged = current.clone();
    for (name, value) in changed {
        match value {
            Value::Null => merged.remove(&name),
            value => merged.insert(name, value),
        };
    }
    merged
}

fn routed(step: &mut Step, me: &Me, head: &mut RecordHead, verdict: RouteVerdict) {
    match verdict {
        RouteVerdict::Granted => {
            head.route = Route::Granted;
            if me.anchor && !head.present {
                // Removed while the Route was asked: as anybody else who left, they hold what they held.
                hold(step, me, head, correlation_values(me.correlate, &head.attributes), &me.minted());
            }
            publish(step, me, head);
        }
        RouteVerdict::MovedTo(to) => {
            head.route = Route::MovedTo(to);
            ask(step, me, head, BTreeMap::new());
            if let Some(identity) = head.link.identity().cloned() {
                step.send(identity, me.gone(head.time));
            }
            head.link = Link::Unlinked;
        }
        RouteVerdict::Disputed { holder } => {
            head.route = Route::Disputed;
            let holder = Address::record(holder, me.tenant.clone(), me.source.clone(), me.record.clone());
            let verdict = RouteVerdict::Contested { by: me.address(), order: head.order };
            step.send(holder, Body::Routed { verdict });
            if head.present {
                dispute(step, me, AlertState::Raised, ROUTE_DISPUTED);
            }
            tell_holder_of_the_end(step, me, head);
        }
        RouteVerdict::Contested { by, order } => {
            head.contender = Some(by);
            if order.is_some() && head.order > order {
                settle(step, me, head);
            }
        }
        RouteVerdict::Settled { holder, order } => {
            if head.route != Route::Disputed || (order.is_some() && order <= head.order) {
                return;
            }
            head.route = Route::MovedTo(holder);
            if head.present {
                dispute(
                    step,
                    me,
                    AlertState::Resolved,
                    "its source tells of it under the former value again, or removed it",
                );
            }
        }
    }
}

/// Tells the identity how the record is now, and keeps the Index in step with its correlation values.
fn publish(step: &mut Step, me: &Me, head: &mut RecordHead) {
    let values = correlation_values(me.correlate, &head.attributes);
    if me.anchor {
        let identity = me.minted();
        if head.link == Link::Unlinked {
            head.link = Link::Linked(identity.clone());
            if let crate::model::EntityKey::Identity { identity, .. } = &identity.entity {
                step.decide(me.tenant, Some(identity), DecisionKind::IdentityMinted);
            }
        }
        if head.present {
            hold(step, me, head, values, &identity);
        }
        let body = if head.present { me.changed(head) } else { me.gone(head.time) };
        step.send(identity, body);
        return;
    }
    if values != head.values {
        ask(step, me, head, values);
    }
    if let Some(identity) = head.link.identity().cloned() {
        let body = if head.present { me.changed(head) } else { me.gone(head.time) };
        step.send(identity, body);
    }
}

/// An anchor's record holds its values; what a leaver held stays held, so that their other records still find them.
fn hold(step: &mut Step, me: &Me, head: &mut RecordHead, values: BTreeMap<String, String>, identity: &Address) {
    for (attribute, value) in &values {
        if head.values.get(attribute) != Some(value) {
            step.send(Address::index(me.tenant.clone(), attribute, value), Body::Hold { holder: identity.clone() });
        }
    }
    for (attribute, value) in &head.values {
        if values.get(attribute) != Some(value) {
            step.send(Address::index(me.tenant.clone(), attribute, value), Body::Release { holder: identity.clone() });
        }
    }
    head.values = values;
}

/// Any other record asks who holds its values, under a new epoch.
fn ask(step: &mut Step, me: &Me, head: &mut RecordHead, values: BTreeMap<String, String>) {
    for (attribute, value) in &head.values {
        if values.get(attribute) != Some(value) {
            step.send(Address::index(me.tenant.clone(), attribute, value), Body::Forget { asker: me.address() });
        }
    }
    head.epoch += 1;
    head.answers.clear();
    head.values = values;
    for (attribute, value) in &head.values {
        let find = Body::Find { asker: me.address(), epoch: head.epoch };
        step.send(Address::index(me.tenant.clone(), attribute, value), find);
    }
}

/// Decides by the answers so far, in the order of the kind's keys: the first key that anybody holds counts.
fn relink(step: &mut Step, me: &Me, head: &mut RecordHead) {
    let mut found: Option<&Vec<Address>> = None;
    for attribute in me.correlate.iter().filter(|attribute| head.values.contains_key(*attribute)) {
        match head.answers.get(attribute) {
            None => return, // an earlier key has not been answered yet
            Some(holders) if holders.is_empty() => {}
            Some(holders) => {
                found = Some(holders);
                break;
            }
        }
    }
    let before = head.link.clone();
    let kept = before.identity().cloned();
    head.link = match found.map(Vec::as_slice) {
        None => Link::Unlinked,
        Some([only]) => Link::Linked(only.clone()),
        Some(several) => Link::Disputed { kept: kept.clone().filter(|kept| several.contains(kept)) },
    };
    if head.link == before {
        return;
    }
    match (&before, &head.link) {
        (Link::Disputed { .. }, Link::Disputed { .. }) => {}
        (_, Link::Disputed { .. }) => {
            dispute(
                step,
                me,
                AlertState::Raised,
                "several identities hold the value this record is correlated by; it is linked to none of \
                 them anew. correct the value at one of the sources",
            );
            step.decide(
                me.tenant,
                None,
                DecisionKind::RecordDisputed { source: me.source.0.to_string(), record: me.record.0.to_string() },
            );
        }
        (Link::Disputed { .. }, _) => dispute(step, me, AlertState::Resolved, "one identity holds the value now"),
        _ => {}
    }
    let now = head.link.identity().cloned();
    if now == kept {
        return;
    }
    if let Some(old) = kept {
        step.decide(
            me.tenant,
            identity_of(&old),
            DecisionKind::RecordUnlinked { source: me.source.0.to_string(), record: me.record.0.to_string() },
        );
        step.send(old, me.gone(head.time));
    }
    if let Some(new) = now {
        step.decide(
            me.tenant,
            identity_of(&new),
            DecisionKind::RecordLinked { source: me.source.0.to_string(), record: me.record.0.to_string() },
        );
        let body = if head.present { me.changed(head) } else { me.gone(head.time) };
        step.send(new, body);
    }
}

fn dispute(step: &mut Step, me: &Me, state: AlertState, message: &str) {
    step.alert(Alert {
        key: format!("dispute/{}/{}/{}", me.tenant, me.source, me.record),
        kind: AlertKind::RecordDisputed,
        state,
        tenant: me.tenant.clone(),
        identity: None,
        target: None,
        account: None,
        message: format!("record {}/{}: {message}", me.source, me.record),
        since: step.now,
        at: step.now,
    });
}

fn identity_of(address: &Address) -> Option<&IdentityId> {
    match &address.entity {
        crate::model::EntityKey::Identity { identity, .. } => Some(identity),
        _ => None,
    }
}

fn correlation_values(correlate: &[String], attributes: &Attributes) -> BTreeMap<String, String> {
    correlate
        .iter()
        .filter_map(|attribute| Some((attribute.clone(), normalised(attributes.get(attribute)?)?)))
        .collect()
}

/// As compared: trimmed, lower case. None where it is no value at all.
fn normalised(value: &Value) -> Option<String> {
    let text = match value {
        Value::Text(text) => text.trim().to_lowercase(),
        Value::Int(int) => int.to_string(),
        _ => return None,
    };
    (!NULL_LIKE.contains(&text.as_str()) && text.len() <= MAX_VALUE_BYTES).then_some(text)
}

impl Me<'_> {
    fn address(&self) -> Address {
        Address::record(self.routing_key.clone(), self.tenant.clone(), self.source.clone(), self.record.clone())
    }

    fn minted(&self) -> Address {
        let identity = IdentityId::of_anchor(self.tenant, self.source, self.record);
        Address::identity(self.routing_key.clone(), self.tenant.clone(), identity)
    }

    fn changed(&self, head: &RecordHead) -> Body {
        Body::RecordChanged {
            source: self.source.clone(),
            record: self.record.clone(),
            attributes: head.attributes.clone(),
            time: head.time,
            route: self.routing_key.clone(),
        }
    }

    fn gone(&self, time: Timestamp) -> Body {
        Body::RecordGone {
            source: self.source.clone(),
            record: self.record.clone(),
            time,
            route: self.routing_key.clone(),
        }
    }
}
