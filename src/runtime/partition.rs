//! One inbox partition in work: its store, its rules, its clock, and the delivery of messages to its entities.

use super::batch::{self, View, Written, open_due};
use super::fit;
use super::quarantine::{self, RETRY_TIMER, Undeliverable, Why};
use crate::bus::Outgoing;
use crate::entity::{self, Effect, Emission, Stamped, Transition, key};
use crate::model::envelope;
use crate::model::{Address, Body, Cause, InboxRecord, Message, PartitionId, Timestamp};
use crate::rules::Bundle;
use crate::store::{Store, StoreError, Write};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Longest chain of messages within one partition that one inbox record sets off; what follows goes through the inbox, where a
/// later message of the same sender could overtake it. A step emits `MAX_EFFECTS` at most, who is reached by them answers with
/// a few, and 10,000 may have waited for a quarantined entity: a longer chain is a bug.
const MAX_LOCAL_DELIVERIES: usize = 50_000;

const META_BUNDLE: &str = "bundle";
const META_CLOCK: &str = "clock";
const META_SWEEP: &str = "sweep";
/// The bundle that the partition was told to switch to and could not.
const META_REFUSED: &str = "refused";

/// What a batch has made of a partition, for the runtime to publish.
#[derive(Default)]
pub struct Emitted {
    pub emissions: Vec<Emission>,
    /// Messages for entities of other partitions.
    pub sends: Vec<Message>,
    /// Messages that will not be handled.
    pub undeliverable: Vec<Undeliverable>,
    pub steps: Vec<(&'static str, &'static str)>,
}

pub struct Partition {
    pub id: PartitionId,
    pub count: u32,
    pub store: Box<dyn Store>,
    pub written: Written,
    pub bundle: Arc<Bundle>,
    /// Every message takes the way through the inbox.
    pub through_inbox: bool,
    /// Newest time that any step of this partition has seen: it never goes back.
    pub(super) clock: Timestamp,
    /// Largest record that Lockstep's own topics take.
    record_bytes: usize,
    /// The identity key from which the sweep after a rule change goes on.
    sweep: Option<Vec<u8>>,
    /// What it was told to switch to and could not: it decides by the rules it had.
    refused: Option<String>,
}

impl Partition {
    /// Takes up where the store stands. `bundle_of` finds the rules by the hash that the partition had switched to, if this
    /// release can use them; where it can't, those of the process decide, and every identity is brought up to them.
    pub fn open<E: From<StoreError>>(
        id: PartitionId,
        count: u32,
        record_bytes: usize,
        store: Box<dyn Store>,
        current: &Arc<Bundle>,
        mut bundle_of: impl FnMut(&str) -> Result<Option<Arc<Bundle>>, E>,
    ) -> Result<Self, E> {
        let text = |name: &str| -> Result<Option<String>, StoreError> {
            Ok(store.get(&key::meta(name))?.map(|value| String::from_utf8_lossy(&value).into_owned()))
        };
        let (switched, refused) = (text(META_BUNDLE)?, text(META_REFUSED)?);
        let bundle = match &switched {
            Some(hash) => bundle_of(hash)?,
            None => Some(Arc::clone(current)),
        };
        let wanted = match &refused {
            Some(hash) => bundle_of(hash)?,
            None => None,
        };
        let clock = store.get(&key::meta(META_CLOCK))?.as_deref().and_then(open_due).unwrap_or_default();
        let sweep = store.get(&key::meta(META_SWEEP))?;
        let usable = bundle.is_some();
        let bundle = bundle.unwrap_or_else(|| Arc::clone(current));
        let written = Written::default();
        let mut partition =
            Self { id, count, store, written, bundle, through_inbox: false, clock, record_bytes, sweep, refused };
        // A release that can use what the former one could not, or one that can't use what that did.
        match wanted {
            Some(wanted) => partition.switch(wanted),
            None if !usable => partition.switch(Arc::clone(current)),
            None => {}
        }
        Ok(partition)
    }

    /// The partition's time: the wall clock, unless it has gone back.
    pub fn tick(&mut self, wall: Timestamp) -> Timestamp {
        if wall > self.clock {
            self.clock = wall;
        }
        self.clock
    }

    /// From here on this bundle decides; a sweep brings every identity up to it.
    pub fn switch(&mut self, bundle: Arc<Bundle>) {
        if self.refused.take().is_some() {
            self.written.put(key::meta(META_REFUSED), None);
        }
        let stands = self.store.get(&key::meta(META_BUNDLE)).ok().flatten();
        let hash = bundle.hash().as_str();
        if stands.as_deref() == Some(hash.as_bytes()) && self.bundle.hash().as_str() == hash {
            return;
        }
        let first = stands.is_none();
        self.written.put(key::meta(META_BUNDLE), Some(hash.as_bytes().to_vec()));
        self.bundle = bundle;
        if !first {
            self.set_sweep(Some(key::identities(None)));
        }
    }

    /// It was told to switch to rules that this release can't use: it goes on by those it has, and switches when a process can.
    pub fn refuse(&mut self, hash: &str) {
        self.written.put(key::meta(META_REFUSED), Some(hash.as_bytes().to_vec()));
        self.refused = Some(hash.to_owned());
    }

    /// Whether it decides by other rules than it was told to.
    pub fn is_behind_its_rules(&self) -> bool {
        self.refused.is_some()
    }

    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Re-evaluates up to `share` identities by the current rules.
    pub fn sweep(&mut self, share: usize, emitted: &mut Emitted) -> Result<(), StoreError> {
        let Some(from) = self.sweep.clone() else { return Ok(()) };
        let prefix = key::identities(None);
        let rows = self.store.scan(&prefix, &from, share * 8)?;
        let mut last = None;
        let mut swept = 0;
        for (row_key, value) in &rows {
            if swept == share {
                break;
            }
            last = Some(row_key.clone());
            if let Some((of, row)) = key::parse(row_key)
                && row == key::HEAD
            {
                swept += 1;
                // One whose head can't be read is told as well: so it is set aside and seen, and not passed over.
                let routing_key = match envelope::open::<entity::IdentityHead>(value) {
                    Ok(head) => head.routing_key,
                    Err(_) => self.routing_key_of(&of)?,
                };
                let cause = Cause::own(format!("bundle:{}", self.bundle.hash()), self.clock);
                let to = Address { routing_key, entity: of };
                self.deliver(Message { to, body: Body::Reevaluate, cause }, emitted)?;
            }
        }
        let next = last.map(|mut key| {
            key.push(0);
            key
        });
        let ended = rows.len() < share * 8 && swept < share;
        self.set_sweep(if ended { None } else { next });
        Ok(())
    }

    fn set_sweep(&mut self, to: Option<Vec<u8>>) {
        self.written.put(key::meta(META_SWEEP), to.clone());
        self.sweep = to;
    }

    /// Fires what is due, a bounded number; true if there may be more.
    pub fn fire_timers(&mut self, limit: usize, emitted: &mut Emitted) -> Result<bool, StoreError> {
        let timers = batch::due(self.store.as_ref(), &self.written, self.clock, limit)?;
        let more = timers.len() == limit;
        for timer in timers {
            self.written.put(timer.key.clone(), None);
            let Some((of, row)) = key::parse(&timer.key) else { continue };
            let name = row.trim_start_matches(key::TIMER).to_owned();
            let routing_key = self.routing_key_of(&of)?;
            let to = Address { routing_key, entity: of };
            if name == RETRY_TIMER {
                let sends = self.retry(&to, emitted)?;
                self.deliver_all(sends.into(), emitted)?;
                continue;
            }
            let cause = Cause::own(format!("timer:{name}"), timer.due);
            self.deliver(Message { to, body: Body::Timer { name, due: timer.due }, cause }, emitted)?;
        }
        Ok(more)
    }

    /// Delivers a message, and in the same transaction all that it leads to within this partition.
    pub fn deliver(&mut self, message: Message, emitted: &mut Emitted) -> Result<(), StoreError> {
        self.deliver_all(VecDeque::from([message]), emitted)
    }

    /// In order; none of them counts as delivered yet.
    fn deliver_all(&mut self, mut queue: VecDeque<Message>, emitted: &mut Emitted) -> Result<(), StoreError> {
        let mut delivered = 0;
        while let Some(message) = queue.pop_front() {
            delivered += 1;
            let local = delivered < MAX_LOCAL_DELIVERIES && !self.through_inbox;
            for message in self.handle(message, emitted)? {
                if local && message.to.routing_key.partition(self.count) == self.id && !is_continue(&message) {
                    queue.push_back(message);
                } else {
                    emitted.sends.push(message);
                }
            }
        }
        Ok(())
    }

    /// One step of one entity; what it sends comes back.
    fn handle(&mut self, message: Message, emitted: &mut Emitted) -> Result<Vec<Message>, StoreError> {
        if !key::is_sound(&message.to.entity) {
            let (to, record) = (message.to.clone(), envelope::seal(&InboxRecord::Message(message)));
            let detail = "its address is longer than any that Lockstep makes".to_owned();
            emitted.undeliverable.push(Undeliverable { to, record, why: Why::Unreadable, detail });
            return Ok(Vec::new());
        }
        if quarantine::is_order(&message.body) {
            return self.order(&message, emitted);
        }
        if let Some(marked) = self.quarantined(&message.to)? {
            self.wait(message, marked, emitted);
            return Ok(Vec::new());
        }
        let kind = message.to.entity.kind();
        match self.try_step(&message)? {
            Ok(transition) => {
                emitted.steps.push((kind, "done"));
                Ok(self.carry_out(&message.to, message.cause, transition, emitted))
            }
            Err(reason) => {
                emitted.steps.push((kind, "quarantined"));
                self.set_aside(message, reason, emitted);
                Ok(Vec::new())
            }
        }
    }

    pub(super) fn try_step(&self, message: &Message) -> Result<Result<Transition, String>, StoreError> {
        let view = View::new(self.store.as_ref(), &self.written, &message.to.entity);
        let stamped = Stamped { now: self.clock, body: message.body.clone(), cause: message.cause.clone() };
        // A step is pure: whatever it had in hand when it panicked is gone with it.
        let stepped = catch_unwind(AssertUnwindSafe(|| entity::step(&message.to, &view, &self.bundle, stamped)));
        if let Some(error) = view.failure.into_inner() {
            return Err(error);
        }
        Ok(match stepped {
            Ok(Ok(transition)) => fit::check(&transition, &message.cause, self.record_bytes).map(|()| transition),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("its step panicked; the log has the place".to_owned()),
        })
    }

    pub(super) fn carry_out(
        &mut self,
        of: &Address,
        cause: Cause,
        transition: Transition,
        emitted: &mut Emitted,
    ) -> Vec<Message> {
        for (row, value) in transition.writes {
            self.written.put(key::row(&of.entity, &row), value);
        }
        let mut sends = Vec::new();
        for effect in transition.effects {
            match effect {
                Effect::Send { to, body } => sends.push(Message { to, body, cause: cause.clone() }),
                Effect::Emit(emission) => emitted.emissions.push(emission),
                Effect::SetTimer { name, due } => self.set_timer(of, &name, due),
                Effect::ClearTimer { name } => self.clear_timer(of, &name),
            }
        }
        sends
    }

    pub(super) fn set_timer(&mut self, of: &Address, name: &str, due: Timestamp) {
        self.written.put_timer(key::row(&of.entity, &format!("{}{name}", key::TIMER)), due);
    }

    pub(super) fn clear_timer(&mut self, of: &Address, name: &str) {
        let row = format!("{}{name}", key::TIMER);
        let view = View::new(self.store.as_ref(), &self.written, &of.entity);
        if entity::Rows::get(&view, &row).is_some() {
            self.written.put(key::row(&of.entity, &row), None);
        }
    }

    /// The changelog records of the batch. The partition's own time goes along, so that a restart never runs behind it.
    pub fn changelog(&mut self, topic: &str) -> Vec<Outgoing> {
        if self.written.is_empty() {
            return Vec::new();
        }
        self.written.put(key::meta(META_CLOCK), Some(batch::seal_due(self.clock)));
        self.written
            .writes()
            .into_iter()
            .map(|write| Outgoing {
                topic: topic.to_owned(),
                partition: Some(self.id.0),
                key: Some(write.key),
                value: write.value,
                headers: Vec::new(),
            })
            .collect()
    }

    /// The batch is committed: the store follows. `position` is where a replay would have to begin. Gives what was written.
    pub fn settle(&mut self, position: i64) -> Result<Vec<Write>, StoreError> {
        let writes = std::mem::take(&mut self.written).writes();
        if !writes.is_empty() {
            self.store.apply(&writes, position)?;
        }
        Ok(writes)
    }
}

/// A Continue gives way to live traffic: it always takes the way through the inbox.
fn is_continue(message: &Message) -> bool {
    matches!(message.body, Body::Continue { .. })
}
