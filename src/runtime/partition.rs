//! One inbox partition in work: its store, its rules, its clock, and the delivery of messages to its entities.

use super::batch::{self, View, Written, open_due};
use super::fit;
use crate::bus::Outgoing;
use crate::entity::{self, Effect, Emission, Stamped, Transition, key};
use crate::model::envelope;
use crate::model::{
    Address, Alert, AlertKind, AlertState, Body, Cause, Decision, DecisionKind, InboxRecord, Message, PartitionId,
    Timestamp,
};
use crate::rules::Bundle;
use crate::store::{Store, StoreError, Write};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Longest chain of messages within one partition that one inbox record sets off; what follows goes through the inbox.
const MAX_LOCAL_DELIVERIES: usize = 1_000;
/// Messages that wait for one quarantined entity; what comes after is handed out as undeliverable.
const MAX_WAITING: usize = 10_000;
/// How long until a quarantined entity is tried again: a release or a rule may have mended it.
const QUARANTINE_RETRY: Duration = Duration::from_secs(300);
const RETRY_TIMER: &str = "~retry";

const META_BUNDLE: &str = "bundle";
const META_CLOCK: &str = "clock";
const META_SWEEP: &str = "sweep";

/// The row that marks an entity as quarantined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    pub to: Address,
    pub reason: String,
    pub since: Timestamp,
    /// The number that the next waiting message gets.
    pub next: u64,
}

/// What a batch has made of a partition, for the runtime to publish.
#[derive(Default)]
pub struct Emitted {
    pub emissions: Vec<Emission>,
    /// Messages for entities of other partitions.
    pub sends: Vec<Message>,
    /// Messages that a full quarantine could not keep.
    pub undeliverable: Vec<(Message, String)>,
    pub steps: Vec<(&'static str, &'static str)>,
}

pub struct Partition {
    pub id: PartitionId,
    pub count: u32,
    pub store: Box<dyn Store>,
    pub written: Written,
    pub bundle: Arc<Bundle>,
    /// Newest time that any step of this partition has seen: it never goes back.
    clock: Timestamp,
    /// Largest record that Lockstep's own topics take.
    record_bytes: usize,
    /// The identity key from which the sweep after a rule change goes on.
    sweep: Option<Vec<u8>>,
}

impl Partition {
    /// Takes up where the store stands. `bundle_of` finds the rules by the hash that the partition had switched to.
    pub fn open<E: From<StoreError>>(
        id: PartitionId,
        count: u32,
        record_bytes: usize,
        store: Box<dyn Store>,
        current: &Arc<Bundle>,
        mut bundle_of: impl FnMut(&str) -> Result<Arc<Bundle>, E>,
    ) -> Result<Self, E> {
        let text = |name: &str| -> Result<Option<String>, StoreError> {
            Ok(store.get(&key::meta(name))?.map(|value| String::from_utf8_lossy(&value).into_owned()))
        };
        let bundle = match text(META_BUNDLE)? {
            Some(hash) => bundle_of(&hash)?,
            None => Arc::clone(current),
        };
        let clock = store.get(&key::meta(META_CLOCK))?.as_deref().and_then(open_due).unwrap_or_default();
        let sweep = store.get(&key::meta(META_SWEEP))?;
        Ok(Self { id, count, store, written: Written::default(), bundle, clock, record_bytes, sweep })
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
        if *bundle.hash() == *self.bundle.hash()
            && self.store.get(&key::meta(META_BUNDLE)).is_ok_and(|row| row.is_some())
        {
            return;
        }
        let first = self.store.get(&key::meta(META_BUNDLE)).is_ok_and(|row| row.is_none());
        self.written.put(key::meta(META_BUNDLE), Some(bundle.hash().0.as_bytes().to_vec()));
        self.bundle = bundle;
        if !first {
            self.set_sweep(Some(key::identities(None)));
        }
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
                && let Ok(head) = envelope::open::<entity::IdentityHead>(value)
            {
                swept += 1;
                let cause = Cause::own(format!("bundle:{}", self.bundle.hash()), self.clock);
                let to = Address { routing_key: head.routing_key, entity: of };
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
                self.retry(&to, emitted)?;
                continue;
            }
            let cause = Cause::own(format!("timer:{name}"), timer.due);
            self.deliver(Message { to, body: Body::Timer { name, due: timer.due }, cause }, emitted)?;
        }
        Ok(more)
    }

    /// Timers belong to identities, whose heads know their routing key; a quarantine row knows it, too.
    fn routing_key_of(&self, of: &crate::model::EntityKey) -> Result<crate::model::RoutingKey, StoreError> {
        let view = View::new(self.store.as_ref(), &self.written, of);
        let marked = entity::Rows::get(&view, key::QUARANTINE).and_then(|row| envelope::open::<Quarantined>(&row).ok());
        let head =
            entity::Rows::get(&view, key::HEAD).and_then(|row| envelope::open::<entity::IdentityHead>(&row).ok());
        if let Some(error) = view.failure.into_inner() {
            return Err(error);
        }
        Ok(marked
            .map(|marked| marked.to.routing_key)
            .or(head.map(|head| head.routing_key))
            .unwrap_or_else(|| "".into()))
    }

    /// Delivers a message, and in the same transaction all that it leads to within this partition.
    pub fn deliver(&mut self, message: Message, emitted: &mut Emitted) -> Result<(), StoreError> {
        let mut queue = VecDeque::from([message]);
        let mut delivered = 0;
        while let Some(message) = queue.pop_front() {
            delivered += 1;
            let local = delivered < MAX_LOCAL_DELIVERIES;
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
        if let Some(marked) = self.quarantine(&message.to)? {
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
                self.set_quarantine(message, reason, emitted);
                Ok(Vec::new())
            }
        }
    }

    fn try_step(&self, message: &Message) -> Result<Result<Transition, String>, StoreError> {
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

    fn carry_out(&mut self, of: &Address, cause: Cause, transition: Transition, emitted: &mut Emitted) -> Vec<Message> {
        for (row, value) in transition.writes {
            self.written.put(key::row(&of.entity, &row), value);
        }
        let mut sends = Vec::new();
        for effect in transition.effects {
            match effect {
                Effect::Send { to, body } => sends.push(Message { to, body, cause: cause.clone() }),
                Effect::Emit(emission) => emitted.emissions.push(emission),
                Effect::SetTimer { name, due } => self.set_timer(of, &name, due),
                Effect::ClearTimer { name } => {
                    let timer = key::row(&of.entity, &format!("{}{name}", key::TIMER));
                    let view = View::new(self.store.as_ref(), &self.written, &of.entity);
                    if entity::Rows::get(&view, &format!("{}{name}", key::TIMER)).is_some() {
                        self.written.put(timer, None);
                    }
                }
            }
        }
        sends
    }

    fn set_timer(&mut self, of: &Address, name: &str, due: Timestamp) {
        self.written.put_timer(key::row(&of.entity, &format!("{}{name}", key::TIMER)), due);
    }

    fn quarantine(&self, of: &Address) -> Result<Option<Quarantined>, StoreError> {
        let view = View::new(self.store.as_ref(), &self.written, &of.entity);
        let row = entity::Rows::get(&view, key::QUARANTINE);
        if let Some(error) = view.failure.into_inner() {
            return Err(error);
        }
        Ok(row.map(|row| {
            envelope::open(&row).unwrap_or_else(|_| Quarantined {
                to: of.clone(),
                reason: "its quarantine row can't be read".to_owned(),
                since: self.clock,
                next: u64::from(u32::MAX),
            })
        }))
    }

    fn set_quarantine(&mut self, message: Message, reason: String, emitted: &mut Emitted) {
        let to = message.to.clone();
        tracing::error!(entity = %to.entity, reason, "quarantined; its later events wait");
        let marked = Quarantined { to: to.clone(), reason: reason.clone(), since: self.clock, next: 0 };
        self.set_timer(&to, RETRY_TIMER, self.clock.plus(QUARANTINE_RETRY));
        self.announce(&to, &message.cause, &reason, AlertState::Raised, emitted);
        self.wait(message, marked, emitted);
    }

    fn wait(&mut self, message: Message, mut marked: Quarantined, emitted: &mut Emitted) {
        if marked.next >= MAX_WAITING as u64 {
            emitted.undeliverable.push((message, marked.reason));
            return;
        }
        let to = message.to.clone();
        let waiting = format!("{}{:016x}", key::WAITING, marked.next);
        marked.next += 1;
        self.written.put(key::row(&to.entity, &waiting), Some(envelope::seal(&InboxRecord::Message(message))));
        self.written.put(key::row(&to.entity, key::QUARANTINE), Some(envelope::seal(&marked)));
    }

    /// Tries a quarantined entity again: first what made it stop, then what waits, in order.
    pub fn retry(&mut self, to: &Address, emitted: &mut Emitted) -> Result<(), StoreError> {
        let Some(mut marked) = self.quarantine(to)? else { return Ok(()) };
        loop {
            let view = View::new(self.store.as_ref(), &self.written, &to.entity);
            let first = entity::Rows::scan(&view, key::WAITING, 1).into_iter().next();
            let Some((name, value)) = first else { break };
            let Ok(InboxRecord::Message(message)) = envelope::open(&value) else { break };
            match self.try_step(&message)? {
                Ok(transition) => {
                    self.written.put(key::row(&to.entity, &name), None);
                    let sends = self.carry_out(to, message.cause, transition, emitted);
                    emitted.sends.extend(sends);
                }
                Err(reason) => {
                    marked.reason = reason;
                    self.written.put(key::row(&to.entity, key::QUARANTINE), Some(envelope::seal(&marked)));
                    self.set_timer(to, RETRY_TIMER, self.clock.plus(QUARANTINE_RETRY));
                    return Ok(());
                }
            }
        }
        self.written.put(key::row(&to.entity, key::QUARANTINE), None);
        tracing::info!(entity = %to.entity, "out of quarantine");
        let cause = Cause::own("timer:~retry".to_owned(), self.clock);
        self.announce(to, &cause, "it takes events again", AlertState::Resolved, emitted);
        Ok(())
    }

    fn announce(&self, to: &Address, cause: &Cause, reason: &str, state: AlertState, emitted: &mut Emitted) {
        let tenant = to.entity.tenant().clone();
        let entity = to.entity.to_string();
        let alert = Alert {
            key: format!("quarantine/{entity}"),
            kind: AlertKind::Quarantined,
            state,
            tenant: tenant.clone(),
            identity: None,
            target: None,
            account: None,
            message: format!("{entity}: {reason}"),
            since: self.clock,
            at: self.clock,
        };
        emitted.emissions.push(Emission::Alert(alert));
        if state == AlertState::Raised {
            let decision = Decision {
                tenant,
                identity: None,
                target: None,
                account: None,
                generation: None,
                kind: DecisionKind::Quarantined { entity, reason: reason.to_owned() },
                cause: cause.event.clone(),
                source_time: cause.time,
                at: self.clock,
            };
            emitted.emissions.push(Emission::Decision(decision));
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
