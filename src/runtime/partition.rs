//! One inbox partition in work: its store, its rules, its clock, and the delivery of messages to its entities.

use super::batch::{self, Cache, Sealed, View, Written, open_due};
use super::fit;
use super::quarantine::{self, RETRY_TIMER, Undeliverable, Why};
use crate::bus::Outgoing;
use crate::entity::pack::{self, Pack, PackError};
use crate::entity::{self, AccountRow, Effect, Emission, Stamped, Transition, key};
use crate::model::envelope;
use crate::model::{Address, Body, Cause, EntityKey, InboxRecord, Message, PartitionId, RoutingKey, Timestamp};
use crate::rules::Bundle;
use crate::store::{Store, StoreError, Write};
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Longest chain of messages within one partition that one inbox record sets off; what follows goes through the inbox, where a
/// later message of the same sender could overtake it. A step emits `MAX_EFFECTS` at most, who is reached by them answers with
/// a few, and 10,000 may have waited for a quarantined entity: a longer chain is a bug.
const MAX_LOCAL_DELIVERIES: usize = 50_000;

const META_BUNDLE: &str = "bundle";
const META_CLOCK: &str = "clock";
const META_SWEEP: &str = "sweep";
/// Before the key, where the sweep goes a second time through what lies beside packs. No key of a row begins so.
const ONCE_MORE: &[u8] = &[0xff];
/// By which format the state was begun: without it, that of the release before packs.
const META_FORMAT: &str = "format";
/// Keys read at once while a partition is opened.
const SCAN: usize = 2_000;
/// Timers of a former release that are looked through for quarantined entities, of which each has one.
const MAX_TIMERS: usize = 1_000_000;
const RETRY_ROW: &str = "~t/~retry";
/// The bundle that the partition was told to switch to and could not.
const META_REFUSED: &str = "refused";

/// What a batch has made of a partition, for the runtime to publish.
#[derive(Default)]
pub struct Emitted {
    pub emissions: Vec<Emission>,
    /// Messages for entities of other partitions, and whatever else is not delivered on the spot.
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
    /// `written`, once it is encoded for a commit.
    sealed: Sealed,
    cache: Cache,
    /// Whether there is state here that a former release has written, row by row.
    formerly: bool,
    /// Keys of the quarantine rows, and of copies of account rows about which something is open: both are few.
    pub(super) aside: BTreeSet<Vec<u8>>,
    open: BTreeSet<Vec<u8>>,
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
        cache_bytes: usize,
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
        let mut written = Written::default();
        let format = store.get(&key::meta(META_FORMAT))?;
        let formerly = format.is_none() && switched.is_some();
        if format.is_none() && !formerly {
            written.put(key::meta(META_FORMAT), Some(vec![pack::VERSION]));
        }
        let (aside, open) = (keys_of(store.as_ref(), key::quarantined())?, keys_of(store.as_ref(), key::opens())?);
        let (sealed, cache) = (Sealed::default(), Cache::new(cache_bytes));
        let mut partition = Self {
            id,
            count,
            store,
            written,
            sealed,
            cache,
            formerly,
            aside,
            open,
            bundle,
            through_inbox: false,
            clock,
            record_bytes,
            sweep,
            refused,
        };
        if formerly {
            partition.take_over()?;
        }
        // A release that can use what the former one could not, or one that can't use what that did.
        match wanted {
            Some(wanted) => partition.switch(wanted)?,
            None if !usable => partition.switch(Arc::clone(current))?,
            None => {}
        }
        Ok(partition)
    }

    /// Quarantine rows and open accounts of a former release, which lay among the rows of their entities.
    fn take_over(&mut self) -> Result<(), StoreError> {
        let (prefix, mut from) = (key::identities(None), key::identities(None));
        loop {
            let rows = self.store.scan(&prefix, &from, SCAN)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (row_key, value) in rows {
                let Some((_, row)) = key::parse(&row_key) else { continue };
                let open = || envelope::open::<AccountRow>(&value).is_ok_and(|account| account.is_open());
                if row.starts_with("account/") && open() {
                    let open = key::open(&row_key, "");
                    self.open.insert(open.clone());
                    self.written.put(open, Some(value));
                }
            }
        }
        for timer in self.store.due(Timestamp(i64::MAX), MAX_TIMERS)? {
            let Some((of, row)) = key::parse(&timer.key) else { continue };
            let formerly = key::formerly(&of, key::QUARANTINE);
            if row == RETRY_ROW
                && let Some(mark) = self.store.get(&formerly)?
            {
                let now = key::row(&of, key::QUARANTINE);
                self.aside.insert(now.clone());
                self.written.put(now, Some(mark));
                self.written.put(formerly, None);
            }
        }
        Ok(())
    }

    /// Its share of the memory has changed.
    pub fn resize_cache(&mut self, bytes: usize) {
        self.cache.resize(bytes);
    }

    /// The partition's time: the wall clock, unless it has gone back.
    pub fn tick(&mut self, wall: Timestamp) -> Timestamp {
        if wall > self.clock {
            self.clock = wall;
        }
        self.clock
    }

    /// From here on this bundle decides; a sweep brings every identity up to it.
    pub fn switch(&mut self, bundle: Arc<Bundle>) -> Result<(), StoreError> {
        if self.refused.take().is_some() {
            self.written.put(key::meta(META_REFUSED), None);
        }
        // This batch may have switched before.
        let stands = self.written.row(self.store.as_ref(), &key::meta(META_BUNDLE))?;
        let hash = bundle.hash().as_str();
        if stands.as_deref() == Some(hash.as_bytes()) && self.bundle.hash().as_str() == hash {
            return Ok(());
        }
        let first = stands.is_none();
        self.written.put(key::meta(META_BUNDLE), Some(hash.as_bytes().to_vec()));
        self.bundle = bundle;
        if !first {
            self.set_sweep(Some(key::identities(None)));
        }
        Ok(())
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

    /// Re-evaluates up to `share` identities by the current rules: those whose rows lie beside, those in packs, and once more those
    /// beside, for one may have grown out of its pack before it was come to.
    pub fn sweep(&mut self, share: usize, emitted: &mut Emitted) -> Result<(), StoreError> {
        let Some(from) = self.sweep.clone() else { return Ok(()) };
        match from.strip_prefix(ONCE_MORE) {
            Some(from) => {
                let next = self.sweep_beside(from, share, emitted)?;
                self.set_sweep(next.map(|next| [ONCE_MORE, &next].concat()));
            }
            None if from.starts_with(&key::packs()) => self.sweep_packs(&from, share, emitted)?,
            None => {
                let next = self.sweep_beside(&from, share, emitted)?;
                self.set_sweep(Some(next.unwrap_or_else(key::packs)));
            }
        }
        Ok(())
    }

    fn sweep_packs(&mut self, from: &[u8], share: usize, emitted: &mut Emitted) -> Result<(), StoreError> {
        let packs = self.store.scan(&key::packs(), from, share)?;
        for (pack_key, bytes) in &packs {
            let Some(routing_key) = key::pack_of(pack_key) else { continue };
            let pack = match Pack::open(bytes) {
                Ok(pack) => pack,
                Err(error) => {
                    // Whose it is can't be seen: with their next event they are set aside.
                    tracing::error!(partition = %self.id, %error, "a pack can't be read; its identities are not swept");
                    continue;
                }
            };
            for (entity, _) in pack.entities() {
                let Some((entity @ EntityKey::Identity { .. }, _)) = key::parse(entity) else { continue };
                let cause = Cause::own(format!("bundle:{}", self.bundle.hash()), self.clock);
                let to = Address { routing_key: routing_key.clone(), entity };
                self.deliver(Message { to, body: Body::Reevaluate, cause }, emitted)?;
            }
        }
        let next = packs.last().map(|(last, _)| [last.as_slice(), &[0]].concat());
        self.set_sweep(Some(next.filter(|_| packs.len() == share).unwrap_or_else(|| ONCE_MORE.to_vec())));
        Ok(())
    }

    /// Gives where it goes on; None at the end.
    fn sweep_beside(
        &mut self,
        from: &[u8],
        share: usize,
        emitted: &mut Emitted,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let prefix = key::identities(None);
        let rows = self.store.scan(&prefix, from, share * 8)?;
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
        let next = last.map(|last| [last.as_slice(), &[0]].concat());
        let ended = rows.len() < share * 8 && swept < share;
        Ok(next.filter(|_| !ended))
    }

    fn set_sweep(&mut self, to: Option<Vec<u8>>) {
        self.written.put(key::meta(META_SWEEP), to.clone());
        self.sweep = to;
    }

    /// A timer has come to its time.
    pub fn is_due(&self) -> Result<bool, StoreError> {
        Ok(self.store.next_due()?.is_some_and(|due| due <= self.clock))
    }

    /// Fires what is due, a bounded number; true if there may be more. One that releases an entity may take many steps: after so
    /// many of them the others wait for the next turn.
    pub fn fire_timers(&mut self, limit: usize, steps: usize, emitted: &mut Emitted) -> Result<bool, StoreError> {
        let timers = batch::due(self.store.as_ref(), &self.written, self.clock, limit)?;
        let more = timers.len() == limit;
        let enough = emitted.steps.len() + steps;
        for timer in timers {
            if emitted.steps.len() >= enough {
                return Ok(true);
            }
            let set = self.store.get(&timer.key)?;
            self.written.put(timer.key.clone(), None);
            let Some((of, row)) = key::parse(&timer.key) else { continue };
            let name = row.trim_start_matches(key::TIMER).to_owned();
            let to = self.owner_of_timer(of, &row, set.as_deref())?;
            if name != RETRY_TIMER && self.load(&to)?.is_ok() {
                self.written.clear_timer(self.store.as_ref(), &to, &row)?;
            }
            if name == RETRY_TIMER {
                let sends = self.retry(&to, emitted)?;
                self.deliver_all(sends, 0, emitted)?;
                continue;
            }
            let cause = Cause::own(format!("timer:{name}"), timer.due);
            self.deliver(Message { to, body: Body::Timer { name, due: timer.due }, cause }, emitted)?;
        }
        Ok(more)
    }

    /// The address of the entity whose timer this is. A row that is damaged, or of a former release, doesn't say it.
    fn owner_of_timer(&mut self, of: EntityKey, row: &str, set: Option<&[u8]>) -> Result<Address, StoreError> {
        if row == RETRY_ROW || !key::is_packed(&of) {
            return Ok(Address { routing_key: self.routing_key_of(&of)?, entity: of });
        }
        if let Some(routing_key) = set.and_then(batch::routing_key_of_timer) {
            let to = Address { routing_key, entity: of.clone() };
            if self.load(&to)?.is_err() || self.written.has_note(&to, row) {
                return Ok(to);
            }
        }
        let routing_key = self.routing_key_of(&of)?;
        match quarantine::is_stand_in(&routing_key) {
            true => Ok(Address { routing_key: self.search(&of)?.unwrap_or(routing_key), entity: of }),
            false => Ok(Address { routing_key, entity: of }),
        }
    }

    /// The routing key of the pack that has this entity: a look at every pack, for a timer whose row is damaged.
    fn search(&self, of: &EntityKey) -> Result<Option<RoutingKey>, StoreError> {
        let (entity, prefix) = (key::entity(of), key::packs());
        let mut from = prefix.clone();
        loop {
            let packs = self.store.scan(&prefix, &from, SCAN)?;
            let Some((last, _)) = packs.last() else { return Ok(None) };
            from = [last.as_slice(), &[0]].concat();
            let has = |bytes: &[u8]| Pack::open(bytes).is_ok_and(|pack| pack.entities().any(|(key, _)| key == entity));
            if let Some((pack_key, _)) = packs.iter().find(|(_, bytes)| has(bytes)) {
                return Ok(key::pack_of(pack_key));
            }
        }
    }

    /// Delivers a message, and in the same transaction all that it leads to within this partition.
    pub fn deliver(&mut self, message: Message, emitted: &mut Emitted) -> Result<(), StoreError> {
        let sends = self.handle(message, emitted)?;
        self.deliver_all(sends, 1, emitted)
    }

    /// What was sent after so many deliveries, in order, and what follows from it.
    fn deliver_all(
        &mut self,
        mut sends: Vec<Message>,
        mut delivered: usize,
        emitted: &mut Emitted,
    ) -> Result<(), StoreError> {
        let mut queue = VecDeque::new();
        loop {
            let local = delivered < MAX_LOCAL_DELIVERIES && !self.through_inbox;
            for message in sends {
                if local && message.to.routing_key.partition(self.count) == self.id && !is_continue(&message) {
                    queue.push_back(message);
                } else {
                    emitted.sends.push(message);
                }
            }
            let Some(message) = queue.pop_front() else { return Ok(()) };
            delivered += 1;
            sends = self.handle(message, emitted)?;
        }
    }

    /// One step of one entity; what it sends comes back.
    fn handle(&mut self, message: Message, emitted: &mut Emitted) -> Result<Vec<Message>, StoreError> {
        if !key::is_sound(&message.to) {
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
                self.carry_out(&message.to, message.cause, transition, emitted)
            }
            Err(reason) => {
                emitted.steps.push((kind, "quarantined"));
                self.set_aside(message, reason, emitted);
                Ok(Vec::new())
            }
        }
    }

    fn load(&mut self, of: &Address) -> Result<Result<(), PackError>, StoreError> {
        self.written.load(of, self.store.as_ref(), &mut self.cache, self.formerly)
    }

    pub(super) fn try_step(&mut self, message: &Message) -> Result<Result<Transition, String>, StoreError> {
        if let Err(error) = self.load(&message.to)? {
            return Ok(Err(format!("its rows can't be read: {error}")));
        }
        let view = View::new(self.store.as_ref(), &self.written, &message.to);
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
    ) -> Result<Vec<Message>, StoreError> {
        let entity = key::entity(&of.entity);
        for (account, is_open) in &transition.accounts {
            let copy = key::open(&entity, account);
            if *is_open {
                let row = transition.writes.iter().find(|(row, _)| row == account);
                self.written.put(copy.clone(), row.and_then(|(_, value)| value.clone()));
                self.open.insert(copy);
            } else if self.open.remove(&copy) {
                self.written.put(copy, None);
            }
        }
        for (row, value) in transition.writes {
            self.written.write(of, &entity, &row, value);
        }
        let mut sends = Vec::new();
        for effect in transition.effects {
            match effect {
                Effect::Send { to, body } => sends.push(Message { to, body, cause: cause.clone() }),
                Effect::Emit(emission) => emitted.emissions.push(emission),
                Effect::SetTimer { name, due } => self.written.set_timer(of, &key::timer(&name), due),
                Effect::ClearTimer { name } => {
                    self.written.clear_timer(self.store.as_ref(), of, &key::timer(&name))?;
                }
            }
        }
        Ok(sends)
    }

    /// The changelog records of the batch. The partition's own time goes along, so that a restart never runs behind it.
    pub fn changelog(&mut self, topic: &str) -> Vec<Outgoing> {
        if self.written.is_empty() {
            // Packs that were only looked at.
            self.written = Written::default();
            return Vec::new();
        }
        self.written.put(key::meta(META_CLOCK), Some(batch::seal_due(self.clock)));
        self.sealed = std::mem::take(&mut self.written).seal();
        let record = |write: &Write| Outgoing {
            topic: topic.to_owned(),
            partition: Some(self.id.0),
            key: Some(write.key.clone()),
            value: write.value.clone(),
            headers: Vec::new(),
        };
        self.sealed.writes.iter().map(record).collect()
    }

    /// The batch is committed: the store follows. `position` is where a replay would have to begin. Gives what was written.
    pub fn settle(&mut self, position: i64) -> Result<Vec<Write>, StoreError> {
        let sealed = std::mem::take(&mut self.sealed);
        if !sealed.writes.is_empty() {
            self.store.apply(&sealed.writes, position)?;
            sealed.refresh(&mut self.cache);
        }
        Ok(sealed.writes)
    }
}

/// All keys that begin with `prefix`.
fn keys_of(store: &dyn Store, prefix: Vec<u8>) -> Result<BTreeSet<Vec<u8>>, StoreError> {
    let (mut keys, mut from) = (BTreeSet::new(), prefix.clone());
    loop {
        let rows = store.scan(&prefix, &from, SCAN)?;
        let Some((last, _)) = rows.last() else { return Ok(keys) };
        from = [last.as_slice(), &[0]].concat();
        keys.extend(rows.into_iter().map(|(key, _)| key));
    }
}

/// A Continue gives way to live traffic: it always takes the way through the inbox.
pub(super) fn is_continue(message: &Message) -> bool {
    matches!(message.body, Body::Continue { .. })
}
