//! The read model: what the pages and the command line show, kept in memory by a thread that follows the topics.
//!
//! It is a copy and never asked by a step: it may lag a moment behind. It keeps the rows of `state` that are shown (of
//! identities, Guards and quarantines, as their encoded bytes), every dead letter, and the latest results. What it costs: per
//! identity about its stored rows (1 to 2 KiB with two records and two accounts) plus 200 bytes, so some 2 GiB for a million
//! identities. There is no bound but the number of identities, since leaving some out would show an operator less than
//! there is; who has more starts the api (`lockstep serve`) on a machine of its own, or does without.

use crate::bus::{Bus, BusError, Incoming, Reader};
use crate::codec::public::{Public, PublicCodec};
use crate::entity::pack::Pack;
use crate::entity::{AccountRow, key};
use crate::model::topic::TopicNames;
use crate::model::{AccountId, DeadLetter, EntityKey, ResultEvent, TargetName, envelope};
use crate::telemetry::{Condition, Health};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Results that are kept: a screenful of what happened last, several times over.
pub const RECENT_RESULTS: usize = 500;
/// Records taken at once while the lock is held: short enough that no query waits for long.
const BATCH: usize = 1000;
/// How long a poll waits for records: the most that a stop has to wait for.
const WAIT: Duration = Duration::from_millis(100);
/// How often topics that weren't there are looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long to leave the bus alone after an error, doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MOST: Duration = Duration::from_secs(10);
/// The longest a loop may be silent: an unreachable broker lets calls wait for up to a minute.
const MAX_SILENCE: Duration = Duration::from_secs(180);

pub struct ReadModel {
    rows: RwLock<Rows>,
    caught_up: Condition,
}

/// The rows, as far as they are read.
#[derive(Default)]
pub struct Rows {
    /// Of the state topic, by key: identities, Guards, quarantines.
    pub(super) state: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Keys of account rows whose deprovision clock runs.
    pub(super) clocks: BTreeSet<Vec<u8>>,
    /// Keys of quarantine rows.
    pub(super) quarantines: BTreeSet<Vec<u8>>,
    pub(super) dead_letters: BTreeMap<(TargetName, AccountId), DeadLetter>,
    /// The newest last.
    pub(super) results: VecDeque<ResultEvent>,
    caught_up: bool,
}

/// What a followed topic holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    State,
    DeadLetters(TargetName),
    Results,
}

impl ReadModel {
    /// An empty model, which `follow` fills.
    pub fn new(health: &Health) -> Arc<Self> {
        Arc::new(Self { rows: RwLock::default(), caught_up: health.condition("api: read model caught up") })
    }

    /// Follows the topics on a thread of its own until it is cancelled. Errors of the bus are logged and tried again; until
    /// then the model stays as it is and the process is not ready.
    pub fn follow(
        self: &Arc<Self>,
        bus: Arc<dyn Bus>,
        topics: &TopicNames,
        targets: &[TargetName],
        codec: Arc<PublicCodec>,
        health: &Health,
        cancel: CancellationToken,
    ) -> std::io::Result<JoinHandle<()>> {
        let mut contents = BTreeMap::from([(topics.state(), Content::State), (topics.results(), Content::Results)]);
        for target in targets {
            contents.insert(topics.dead_letters(target), Content::DeadLetters(target.clone()));
        }
        let heartbeat = health.heartbeat("api read model", MAX_SILENCE);
        let model = Arc::clone(self);
        std::thread::Builder::new().name("read-model".to_owned()).spawn(move || {
            let mut pause = PAUSE_FIRST;
            let mut tail =
                Tail { model, contents, codec, next: BTreeMap::new(), goals: BTreeMap::new(), unreadable: 0 };
            while !cancel.is_cancelled() {
                let began = Instant::now();
                let Err(error) = tail.run(bus.as_ref(), &cancel, &heartbeat) else { return };
                tail.model.not_caught_up(&error.to_string());
                tracing::warn!(%error, "the read model can't follow the topics; it tries again");
                if began.elapsed() > PAUSE_MOST {
                    pause = PAUSE_FIRST;
                }
                sleep(pause, &cancel);
                pause = (pause * 2).min(PAUSE_MOST);
            }
        })
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Rows> {
        // A write is whole rows: one that panicked leaves no half of one.
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all that was on the topics at the start is read. False: it took longer than that.
    pub fn wait(&self, at_most: Duration) -> bool {
        let began = Instant::now();
        while !self.read().caught_up {
            if began.elapsed() > at_most {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    fn change(&self, change: impl FnOnce(&mut Rows)) {
        change(&mut self.rows.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn caught_up(&self) {
        self.change(|rows| rows.caught_up = true);
        self.caught_up.met();
    }

    fn not_caught_up(&self, why: &str) {
        self.change(|rows| rows.caught_up = false);
        self.caught_up.waiting(why);
    }
}

impl Rows {
    /// Whether all that was on the topics when the model began to follow them is in it.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    fn put_state(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match (key::pack_of(&key), value) {
            (None, value) => self.put_row(key, value),
            // A pack whose entities are all gone held nothing that is shown: an identity never goes.
            (Some(_), None) => {}
            (Some(_), Some(value)) => match Pack::open(&value) {
                Ok(pack) => self.put_pack(&pack),
                Err(error) => {
                    tracing::warn!(%error, "the read model can't read a pack of the state topic");
                }
            },
        }
    }

    /// An entity in a pack is there with all its rows: others that were known of it are no more.
    fn put_pack(&mut self, pack: &Pack) {
        for (entity, rows) in pack.entities() {
            let former =
                self.state.range(entity.to_vec()..).map(|(key, _)| key).take_while(|key| key.starts_with(entity));
            let mut former: BTreeSet<Vec<u8>> = former.cloned().collect();
            for (row, value) in rows {
                let key = key::beside(entity, row);
                former.remove(&key);
                if self.state.get(&key).is_none_or(|known| known != value) {
                    self.put_row(key, Some(value.to_vec()));
                }
            }
            former.into_iter().for_each(|key| self.put_row(key, None));
        }
    }

    fn put_row(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let Some((entity, row)) = key::parse(&key) else { return };
        let quarantine = row == key::QUARANTINE;
        let shown = match entity {
            EntityKey::Identity { .. } | EntityKey::Guard { .. } => !row.starts_with('~'),
            EntityKey::Record { .. } | EntityKey::Index { .. } | EntityKey::Route { .. } => false,
        };
        if !quarantine && !shown {
            return;
        }
        let Some(value) = value else {
            self.state.remove(&key);
            self.clocks.remove(&key);
            self.quarantines.remove(&key);
            return;
        };
        if quarantine {
            self.quarantines.insert(key.clone());
        } else if row.starts_with("account/") {
            match envelope::open::<AccountRow>(&value).is_ok_and(|row| row.clock.is_some()) {
                true => self.clocks.insert(key.clone()),
                false => self.clocks.remove(&key),
            };
        }
        self.state.insert(key, value);
    }

    /// In the order of their times: what comes of several partitions at a start comes one partition after the other.
    fn put_result(&mut self, result: ResultEvent) {
        let place = self.results.partition_point(|other| other.at <= result.at);
        self.results.insert(place, result);
        if self.results.len() > RECENT_RESULTS {
            self.results.pop_front();
        }
    }
}

/// The thread's own: where it stands on each partition.
struct Tail {
    model: Arc<ReadModel>,
    contents: BTreeMap<String, Content>,
    codec: Arc<PublicCodec>,
    /// The next offset of each partition that is read.
    next: BTreeMap<(String, u32), i64>,
    /// What has to be read before the model has caught up.
    goals: BTreeMap<(String, u32), i64>,
    unreadable: u64,
}

impl Tail {
    /// Reads until it is cancelled. After an error it goes on from where it stood.
    fn run(
        &mut self,
        bus: &dyn Bus,
        cancel: &CancellationToken,
        heartbeat: &crate::telemetry::Heartbeat,
    ) -> Result<(), BusError> {
        let mut reader = bus.reader()?;
        for ((topic, partition), offset) in &self.next {
            reader.seek(topic, *partition, *offset)?;
        }
        let mut looked: Option<Instant> = None;
        while !cancel.is_cancelled() {
            heartbeat.beat();
            if looked.is_none_or(|at| at.elapsed() > LOOK_AGAIN) && self.is_missing_any() {
                self.look_for_topics(bus, reader.as_mut())?;
                looked = Some(Instant::now());
            }
            if self.next.is_empty() {
                sleep(WAIT, cancel);
                continue;
            }
            let records = reader.poll(BATCH, WAIT)?;
            self.take(records);
            self.advance(reader.as_ref())?;
        }
        Ok(())
    }

    fn is_missing_any(&self) -> bool {
        self.contents.keys().any(|topic| !self.next.contains_key(&(topic.clone(), 0)))
    }

    fn look_for_topics(&mut self, bus: &dyn Bus, reader: &mut dyn Reader) -> Result<(), BusError> {
        for (topic, content) in &self.contents {
            if self.next.contains_key(&(topic.clone(), 0)) {
                continue;
            }
            let Some(partitions) = bus.partitions(topic)? else {
                if *content == Content::State {
                    self.model.not_caught_up(&format!("topic {topic} isn't there yet"));
                }
                continue;
            };
            for partition in 0..partitions {
                let ends = bus.ends(topic, partition)?;
                let from = match content {
                    Content::State | Content::DeadLetters(_) => ends.start,
                    Content::Results => ends.start.max(ends.end - RECENT_RESULTS as i64),
                };
                reader.seek(topic, partition, from)?;
                self.next.insert((topic.clone(), partition), from);
                self.goals.insert((topic.clone(), partition), ends.end);
            }
        }
        Ok(())
    }

    fn take(&mut self, records: Vec<Incoming>) {
        if records.is_empty() {
            return;
        }
        let mut changes = Vec::with_capacity(records.len());
        for record in records {
            self.next.insert((record.topic.clone(), record.partition), record.offset + 1);
            let Some(content) = self.contents.get(&record.topic) else { continue };
            match read(content, record, &self.codec) {
                Ok(change) => changes.extend(change),
                Err(reason) => {
                    self.unreadable += 1;
                    // The first of each thousand: a topic full of them must not fill the log as well.
                    if self.unreadable % 1000 == 1 {
                        tracing::warn!(reason, count = self.unreadable, "the read model can't show some records");
                    }
                }
            }
        }
        self.model.change(|rows| changes.into_iter().for_each(|change| change.make(rows)));
    }

    /// Notes how far the reader is, gaps and transaction markers included, and says when the model has caught up.
    fn advance(&mut self, reader: &dyn Reader) -> Result<(), BusError> {
        if self.goals.is_empty() {
            if !self.model.read().caught_up && self.has_state() {
                self.model.caught_up();
            }
            return Ok(());
        }
        let mut behind = 0;
        let mut reached = Vec::new();
        for (place, goal) in &self.goals {
            let position = reader.position(&place.0, place.1)?;
            self.next.insert(place.clone(), position);
            match goal - position {
                ..=0 => reached.push(place.clone()),
                left => behind += left,
            }
        }
        for place in reached {
            self.goals.remove(&place);
        }
        if behind > 0 {
            self.model.not_caught_up(&format!("{behind} records behind"));
        }
        Ok(())
    }

    fn has_state(&self) -> bool {
        let state = self.contents.iter().find(|(_, content)| **content == Content::State);
        state.is_some_and(|(topic, _)| self.next.contains_key(&(topic.clone(), 0)))
    }
}

/// What a record changes; decoded before the lock is taken.
enum Change {
    State { key: Vec<u8>, value: Option<Vec<u8>> },
    DeadLetter { place: (TargetName, AccountId), letter: Option<Box<DeadLetter>> },
    Result(Box<ResultEvent>),
}

impl Change {
    fn make(self, rows: &mut Rows) {
        match self {
            Self::State { key, value } => rows.put_state(key, value),
            Self::DeadLetter { place, letter: Some(letter) } => drop(rows.dead_letters.insert(place, *letter)),
            Self::DeadLetter { place, letter: None } => drop(rows.dead_letters.remove(&place)),
            Self::Result(result) => rows.put_result(*result),
        }
    }
}

fn read(content: &Content, record: Incoming, codec: &PublicCodec) -> Result<Option<Change>, String> {
    let key = record.key.unwrap_or_default();
    match content {
        Content::State => Ok(Some(Change::State { key, value: record.value.map(Into::into) })),
        Content::Results => match record.value {
            Some(value) => Ok(Some(Change::Result(Box::new(decoded(codec, &value)?)))),
            None => Ok(None),
        },
        Content::DeadLetters(target) => {
            let account = String::from_utf8(key).map_err(|_| "a dead letter's key is not text".to_owned())?;
            let letter = record.value.map(|value| decoded(codec, &value)).transpose()?.map(Box::new);
            Ok(Some(Change::DeadLetter { place: (target.clone(), AccountId(account.into())), letter }))
        }
    }
}

fn decoded<T: Public>(codec: &PublicCodec, value: &[u8]) -> Result<T, String> {
    codec.decode(value).map_err(|error| error.to_string())
}

fn sleep(time: Duration, cancel: &CancellationToken) {
    let until = Instant::now() + time;
    while !cancel.is_cancelled() && Instant::now() < until {
        std::thread::sleep(WAIT.min(until.saturating_duration_since(Instant::now())));
    }
}
