//! Entities that can't take an event: set aside with it and with all that comes for them after, in order, so that the rest
//! of the partition goes on.
//!
//! What waits is tried again from time to time, and when an operator asks. Nothing is passed over: the first message that
//! fails holds the others. Only an operator gives one up, and it goes to `source-dead-letters` then. A quarantine is rows
//! like everything else (`~q`, `~w/…`, a timer), so it outlives the process; a row of it that can't be read is mended from
//! the others or keeps its entity aside, and never ends a turn.

use super::batch::View;
use super::partition::{Emitted, Partition};
use crate::entity::{self, Emission, Rows, key};
use crate::model::envelope::{self, EnvelopeError};
use crate::model::{
    Action, Address, Alert, AlertKind, AlertState, Body, Cause, Decision, DecisionKind, EntityKey, IdentityId,
    InboxRecord, Message, PartitionId, RoutingKey, Timestamp,
};
use crate::store::StoreError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smol_str::SmolStr;
use std::borrow::Cow;
use std::time::Duration;

/// Messages that wait for one quarantined entity; what comes after is handed out as undeliverable.
const MAX_WAITING: u64 = 10_000;
/// Waiting messages that one turn tries: its transaction stays one that commits in time.
const TRIED_A_TURN: usize = 100;
/// How long until a quarantined entity is tried again: a release or a rule may have mended it.
const QUARANTINE_RETRY: Duration = Duration::from_secs(300);
/// The timer by which a quarantined entity is tried again; each has exactly one.
pub(super) const RETRY_TIMER: &str = "~retry";
/// Of a key's SHA-256, the bytes that name a quarantined entity: two among thousands never meet.
const ID_BYTES: usize = 8;
/// What stands before a routing key that only says which partition is meant. No source can send it: a tenant comes first there.
const STAND_IN: &str = "\u{1}partition/";

/// The row that marks an entity as quarantined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    pub to: Address,
    pub reason: String,
    pub since: Timestamp,
    /// The number of the first waiting message, and the one that the next to come gets.
    pub first: u64,
    pub next: u64,
}

impl Quarantined {
    pub fn waiting(&self) -> u64 {
        self.next.saturating_sub(self.first)
    }
}

/// By what a quarantined entity is named where its key can't be shown: an index entry's holds a correlation value.
pub fn quarantine_id(of: &EntityKey) -> String {
    let digest = Sha256::digest(key::entity(of));
    hex::encode(&digest[..ID_BYTES])
}

/// A message that will not be handled, and why.
pub struct Undeliverable {
    pub to: Address,
    /// As it would lie in the inbox.
    pub record: Vec<u8>,
    pub why: Why,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    QuarantineFull,
    /// An operator gave it up.
    Skipped,
    /// Its address is none that Lockstep makes.
    Unreadable,
}

impl Why {
    pub const ALL: [Self; 3] = [Self::QuarantineFull, Self::Skipped, Self::Unreadable];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::QuarantineFull => "quarantine_full",
            Self::Skipped => "skipped",
            Self::Unreadable => "unreadable",
        }
    }
}

impl Partition {
    /// Carries out an operator's word about a quarantine, which goes to no step; what follows from it comes back.
    pub(super) fn order(&mut self, message: &Message, emitted: &mut Emitted) -> Result<Vec<Message>, StoreError> {
        let Body::Operation(operation) = &message.body else { return Ok(Vec::new()) };
        let Some(mut marked) = self.quarantined(&message.to)? else { return Ok(Vec::new()) };
        let (entity, id) = (message.to.entity.to_string(), operation.id.clone());
        match operation.action {
            Action::QuarantineRetry { .. } => {
                self.audit(message, DecisionKind::QuarantineRetried { entity, operation: id }, emitted);
            }
            Action::QuarantineSkip { position, .. } if position == marked.first => {
                let Some((row, record)) = self.first_waiting(&message.to)? else { return Ok(Vec::new()) };
                self.written.put(key::row(&message.to.entity, &row), None);
                marked.first += 1;
                self.mark(&marked);
                let (to, detail) = (message.to.clone(), format!("{entity}: {}", marked.reason));
                emitted.undeliverable.push(Undeliverable { to, record, why: Why::Skipped, detail });
                self.audit(message, DecisionKind::QuarantineSkipped { entity, operation: id }, emitted);
            }
            _ => return Ok(Vec::new()),
        }
        self.retry(&message.to, emitted)
    }

    /// Whether the entity is set aside. A mark that can't be read is written anew from what waits.
    pub(super) fn quarantined(&mut self, of: &Address) -> Result<Option<Quarantined>, StoreError> {
        // Asked for every message: the disk is not.
        if self.aside.is_empty() || !self.aside.contains(&key::row(&of.entity, key::QUARANTINE)) {
            return Ok(None);
        }
        let Some(row) = self.look(&of.entity, |view| view.get(key::QUARANTINE).map(Cow::into_owned))? else {
            return Ok(None);
        };
        match envelope::open(&row) {
            Ok(marked) => Ok(Some(marked)),
            Err(error) => self.mark_anew(of, &error).map(Some),
        }
    }

    fn mark_anew(&mut self, of: &Address, error: &EnvelopeError) -> Result<Quarantined, StoreError> {
        let limit = usize::try_from(MAX_WAITING).expect("a few thousand") + 1;
        let names = |view: &View| view.scan(key::WAITING, limit).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let waiting = self.look(&of.entity, names)?;
        let number = |row: Option<&SmolStr>| {
            row.and_then(|name| u64::from_str_radix(name.trim_start_matches(key::WAITING), 16).ok())
        };
        let marked = Quarantined {
            to: of.clone(),
            reason: format!("its quarantine row can't be read: {error}"),
            since: self.clock,
            first: number(waiting.first()).unwrap_or_default(),
            next: number(waiting.last()).map_or(0, |last| last + 1),
        };
        tracing::error!(entity = %of.entity, %error, "its quarantine row can't be read; written anew");
        self.mark(&marked);
        self.set_retry(of, self.clock.plus(QUARANTINE_RETRY));
        Ok(marked)
    }

    /// The runtime's own timer: the entity's rows, which may be what can't be read, are left alone.
    fn set_retry(&mut self, of: &Address, due: Timestamp) {
        self.written.put_timer(of, &key::timer(RETRY_TIMER), due);
    }

    fn mark(&mut self, marked: &Quarantined) {
        let row = key::row(&marked.to.entity, key::QUARANTINE);
        self.aside.insert(row.clone());
        self.written.put(row, Some(envelope::seal(marked)));
    }

    /// Sets an entity aside with the message that it can't take.
    pub(super) fn set_aside(&mut self, message: Message, reason: String, emitted: &mut Emitted) {
        let to = message.to.clone();
        tracing::error!(entity = %to.entity, reason, "quarantined; its later events wait");
        let marked = Quarantined { to: to.clone(), reason: reason.clone(), since: self.clock, first: 0, next: 0 };
        self.set_retry(&to, self.clock.plus(QUARANTINE_RETRY));
        self.alert(&to, &reason, self.clock, AlertState::Raised, emitted);
        self.audit(&message, DecisionKind::Quarantined { entity: to.entity.to_string(), reason }, emitted);
        self.wait(message, marked, emitted);
    }

    pub(super) fn wait(&mut self, message: Message, mut marked: Quarantined, emitted: &mut Emitted) {
        let to = message.to.clone();
        if marked.waiting() >= MAX_WAITING
            && let Body::Timer { name, .. } = &message.body
        {
            // Nobody sends it again: it is set anew, so that it is there when the entity takes events again.
            self.written.set_timer(&to, &key::timer(name), self.clock.plus(QUARANTINE_RETRY));
            return;
        }
        let record = envelope::seal(&InboxRecord::Message(message));
        if marked.waiting() >= MAX_WAITING {
            let detail = format!("{}: {}", to.entity, marked.reason);
            emitted.undeliverable.push(Undeliverable { to, record, why: Why::QuarantineFull, detail });
            return;
        }
        self.written.put(key::row(&to.entity, &waiting_row(marked.next)), Some(record));
        marked.next += 1;
        if is_stand_in(&marked.to.routing_key) {
            marked.to = to;
        }
        self.mark(&marked);
    }

    /// Tries a quarantined entity again: first what made it stop, then what waits, in order and a bounded number. What these
    /// send comes back, to be delivered as it would have been; what comes for the entity meanwhile waits behind the others.
    pub(super) fn retry(&mut self, to: &Address, emitted: &mut Emitted) -> Result<Vec<Message>, StoreError> {
        let Some(mut marked) = self.quarantined(to)? else { return Ok(Vec::new()) };
        let mut sends = Vec::new();
        for _ in 0..TRIED_A_TURN {
            let Some((row, record)) = self.first_waiting(to)? else {
                self.lift(&marked, emitted);
                return Ok(sends);
            };
            let tried = match self.opened(&record)? {
                Ok(message) => self.try_step(&message)?.map(|transition| (message, transition)),
                Err(reason) => Err(reason),
            };
            let (message, transition) = match tried {
                Ok(taken) => taken,
                Err(reason) => {
                    emitted.steps.push((to.entity.kind(), "quarantined"));
                    marked.reason = reason;
                    self.mark(&marked);
                    self.set_retry(to, self.clock.plus(QUARANTINE_RETRY));
                    return Ok(sends);
                }
            };
            emitted.steps.push((to.entity.kind(), "done"));
            self.written.put(key::row(&to.entity, &row), None);
            marked.first += 1;
            sends.extend(self.carry_out(&message.to, message.cause, transition, emitted)?);
        }
        // There may be more: it goes on with the next turn, and until then whatever comes waits behind.
        self.mark(&marked);
        self.set_retry(to, self.clock);
        Ok(sends)
    }

    fn lift(&mut self, marked: &Quarantined, emitted: &mut Emitted) {
        let to = &marked.to;
        let row = key::row(&to.entity, key::QUARANTINE);
        self.aside.remove(&row);
        self.written.put(row, None);
        self.written.put(key::row(&to.entity, &key::timer(RETRY_TIMER)), None);
        tracing::info!(entity = %to.entity, "out of quarantine");
        self.alert(to, "it takes events again", marked.since, AlertState::Resolved, emitted);
    }

    fn first_waiting(&self, of: &Address) -> Result<Option<(SmolStr, Vec<u8>)>, StoreError> {
        let first = |view: &View| view.scan(key::WAITING, 1).pop().map(|(row, record)| (row, record.into_owned()));
        self.look(&of.entity, first)
    }

    /// A waiting message, or why it can't be one: it stays where it is, for the release that wrote it.
    fn opened(&self, record: &[u8]) -> Result<Result<Message, String>, StoreError> {
        let mut message = match envelope::open(record) {
            Ok(InboxRecord::Message(message)) => message,
            Ok(InboxRecord::Switch { .. } | InboxRecord::Mark) => {
                return Ok(Err("what waits is no message".to_owned()));
            }
            Err(error) => return Ok(Err(format!("the message that waits can't be read: {error}"))),
        };
        if is_stand_in(&message.to.routing_key) {
            message.to.routing_key = self.routing_key_of(&message.to.entity)?;
        }
        Ok(Ok(message))
    }

    /// By which key an entity is routed, where nothing says it but its rows beside: a quarantine row knows it, and in the state of
    /// a former release an identity's head. Where neither can be read, a key that leads to this partition.
    pub(super) fn routing_key_of(&self, of: &EntityKey) -> Result<RoutingKey, StoreError> {
        let (marked, head) = self.look(of, |view| {
            (view.get(key::QUARANTINE).map(Cow::into_owned), view.get(key::HEAD).map(Cow::into_owned))
        })?;
        let head = head.and_then(|row| envelope::open::<entity::IdentityHead>(&row).ok()).map(|head| head.routing_key);
        let marked = marked.and_then(|row| envelope::open::<Quarantined>(&row).ok()).map(|row| row.to.routing_key);
        Ok(head.or(marked).unwrap_or_else(|| stand_in(self.id, self.count)))
    }

    fn look<T>(&self, of: &EntityKey, look: impl FnOnce(&View) -> T) -> Result<T, StoreError> {
        let view = View::beside(self.store.as_ref(), &self.written, of);
        let seen = look(&view);
        match view.failure.into_inner() {
            Some(error) => Err(error),
            None => Ok(seen),
        }
    }

    fn alert(&self, to: &Address, reason: &str, since: Timestamp, state: AlertState, emitted: &mut Emitted) {
        emitted.emissions.push(Emission::Alert(Alert {
            key: format!("quarantine/{}", quarantine_id(&to.entity)),
            kind: AlertKind::Quarantined,
            state,
            tenant: to.entity.tenant().clone(),
            identity: identity_of(&to.entity),
            target: None,
            account: None,
            message: format!("{}: {reason}; see `lockstep quarantine list`", to.entity),
            since,
            at: self.clock,
        }));
    }

    fn audit(&self, message: &Message, kind: DecisionKind, emitted: &mut Emitted) {
        let Cause { event, time, .. } = &message.cause;
        emitted.emissions.push(Emission::Decision(Decision {
            tenant: message.to.entity.tenant().clone(),
            identity: identity_of(&message.to.entity),
            target: None,
            account: None,
            generation: None,
            kind,
            cause: event.clone(),
            source_time: *time,
            at: self.clock,
        }));
    }
}

/// Whether a message is for the runtime and not for its entity's step.
pub(super) fn is_order(body: &Body) -> bool {
    let Body::Operation(operation) = body else { return false };
    matches!(operation.action, Action::QuarantineRetry { .. } | Action::QuarantineSkip { .. })
}

fn waiting_row(number: u64) -> String {
    format!("{}{number:016x}", key::WAITING)
}

fn identity_of(entity: &EntityKey) -> Option<IdentityId> {
    match entity {
        EntityKey::Identity { identity, .. } => Some(identity.clone()),
        _ => None,
    }
}

pub(super) fn is_stand_in(key: &RoutingKey) -> bool {
    key.as_str().starts_with(STAND_IN)
}

/// A routing key of this partition: one of `count` is, on average.
fn stand_in(id: PartitionId, count: u32) -> RoutingKey {
    let mut keys = (0u64..).map(|number| RoutingKey::new(format!("{STAND_IN}{number}")));
    keys.find(|key| key.partition(count) == id).expect("a hash leaves no partition out for ever")
}
