//! The bus of a simulated installation: the embedded bus over memory, with groups of several members, and commits that fail.
//!
//! A group behaves as Kafka's with the range assignor and static members: a member that comes or is missed makes all give
//! their partitions back, and nobody is assigned anything before all have. One that is gone keeps its partitions until it
//! comes back under its name or its session runs out. One whose session ran out while it hung commits nothing any more.

use crate::faults::Faults;
use lockstep::bus::{
    BatchLimit, Bus, BusError, CommitError, Ends, Incoming, Membership, Outgoing, Poll, Reader, Session,
    TopicPartition, TopicSpec, TopicState, Transaction,
};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Records of one poll: small ones bring the partitions' records into every order, large ones make batches.
const POLLS: [usize; 4] = [1, 3, 20, 2_000];

/// By partition and key.
pub type Table = BTreeMap<(u32, Vec<u8>), Vec<u8>>;

#[derive(Clone)]
pub struct SimBus {
    inner: Arc<dyn Bus>,
    shared: Arc<Mutex<Shared>>,
    faults: Faults,
}

struct Shared {
    groups: BTreeMap<String, Group>,
    epoch: u64,
    /// All that was ever committed, by topic: retention may take it from the bus.
    written: BTreeMap<String, Vec<Outgoing>>,
    /// In which commit each of them was, counted from 1.
    commits: BTreeMap<String, Vec<usize>>,
    last_commit: usize,
    /// Of compacted topics the newest value of each key.
    rows: BTreeMap<String, Table>,
    trace: DefaultHasher,
}

struct Group {
    /// Commits for all of them; that each commits only what it may is seen to here.
    session: Box<dyn Session>,
    partitions: Vec<TopicPartition>,
    committed: BTreeMap<TopicPartition, i64>,
    members: BTreeMap<String, Member>,
}

struct Member {
    /// Of the newest session under this name: an older one is fenced.
    epoch: u64,
    stage: Stage,
    assigned: Vec<TopicPartition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits until nobody has to give anything back.
    Joining,
    Owning,
    GivingBack,
    /// Its session ran out; it doesn't know yet.
    Lost,
}

impl SimBus {
    pub fn new(inner: Arc<dyn Bus>, faults: Faults) -> Self {
        let shared = Shared {
            groups: BTreeMap::new(),
            epoch: 0,
            written: BTreeMap::new(),
            commits: BTreeMap::new(),
            last_commit: 0,
            rows: BTreeMap::new(),
            trace: DefaultHasher::new(),
        };
        Self { inner, shared: Arc::new(Mutex::new(shared)), faults }
    }

    /// The session of a member runs out: others get what it had.
    pub fn expire(&self, group: &str, instance: &str) {
        let mut shared = self.lock();
        if let Some(group) = shared.groups.get_mut(group)
            && group.members.get(instance).is_some_and(|member| member.stage != Stage::Lost)
        {
            group.lose(instance);
        }
    }

    /// All that is there for a group has been read and committed.
    pub fn is_read(&self, group: &str) -> bool {
        let shared = self.lock();
        let Some(group) = shared.groups.get(group) else { return false };
        group
            .committed
            .iter()
            .all(|((topic, partition), next)| self.inner.ends(topic, *partition).is_ok_and(|ends| ends.end <= *next))
    }

    /// All that was ever written to a topic, in order, from the `from`th on.
    pub fn written(&self, topic: &str, from: usize) -> Vec<Outgoing> {
        self.lock().written.get(topic).map(|all| all[from.min(all.len())..].to_vec()).unwrap_or_default()
    }

    /// What `look` sees in all that was ever written to a topic, and in which commit it was.
    pub fn by_commit<T>(&self, topic: &str, look: impl Fn(&Outgoing) -> Option<T>) -> Vec<(usize, T)> {
        let shared = self.lock();
        let commits = shared.commits.get(topic).into_iter().flatten();
        let written = commits.zip(shared.written.get(topic).into_iter().flatten());
        written.filter_map(|(commit, record)| Some((*commit, look(record)?))).collect()
    }

    /// How many records were ever written to a topic.
    pub fn count(&self, topic: &str) -> usize {
        self.lock().written.get(topic).map_or(0, Vec::len)
    }

    /// One of them.
    pub fn record(&self, topic: &str, at: usize) -> Outgoing {
        self.lock().written[topic][at].clone()
    }

    /// Looks at the rows of a compacted topic.
    pub fn rows<T>(&self, topic: &str, look: impl FnOnce(&Table) -> T) -> T {
        let shared = self.lock();
        look(shared.rows.get(topic).unwrap_or(&Table::new()))
    }

    /// A hash over all that was ever written, and the order in which it was.
    pub fn trace(&self) -> u64 {
        self.lock().trace.finish()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    fn wrote(&self, shared: &mut Shared, records: Vec<Outgoing>) {
        shared.last_commit += 1;
        for record in records {
            (&record.topic, record.partition, &record.key, &record.value).hash(&mut shared.trace);
            if let Some(key) = &record.key
                && is_compacted(&record.topic)
            {
                let rows = shared.rows.entry(record.topic.clone()).or_default();
                // Only dead letters leave their partition to the bus, and there a key is in one of them.
                let place = (record.partition.unwrap_or_default(), key.clone());
                match &record.value {
                    Some(value) => drop(rows.insert(place, value.to_vec())),
                    None => drop(rows.remove(&place)),
                }
            }
            shared.commits.entry(record.topic.clone()).or_default().push(shared.last_commit);
            shared.written.entry(record.topic.clone()).or_default().push(record);
        }
    }
}

fn is_compacted(topic: &str) -> bool {
    ["state", "lanes.", "dead-letters."].iter().any(|name| topic.contains(name))
}

impl Bus for SimBus {
    fn join(&self, membership: &Membership) -> Result<Box<dyn Session>, BusError> {
        let mut shared = self.lock();
        shared.epoch += 1;
        let epoch = shared.epoch;
        if !shared.groups.contains_key(&membership.group) {
            let group = Group::new(self.inner.as_ref(), membership)?;
            shared.groups.insert(membership.group.clone(), group);
        }
        let group = shared.groups.get_mut(&membership.group).expect("it was just made");
        match group.members.get_mut(&membership.instance) {
            // A static member that comes back has what it had.
            Some(member) if member.stage != Stage::Lost => (member.epoch, member.stage) = (epoch, Stage::Joining),
            _ => {
                let member = Member { epoch, stage: Stage::Joining, assigned: Vec::new() };
                group.members.insert(membership.instance.clone(), member);
                group.rebalance();
            }
        }
        let reader = self.inner.reader()?;
        let paused = BTreeMap::new();
        Ok(Box::new(SimSession {
            bus: self.clone(),
            membership: membership.clone(),
            epoch,
            reader,
            paused,
            sent: Vec::new(),
        }))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, BusError> {
        Ok(Box::new(SimReader { inner: self.inner.reader()?, faults: self.faults.clone() }))
    }

    fn ends(&self, topic: &str, partition: u32) -> Result<Ends, BusError> {
        self.inner.ends(topic, partition)
    }

    fn commit_markers(&self) -> i64 {
        self.inner.commit_markers()
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>, BusError> {
        self.inner.partitions(topic)
    }

    fn append(&self, records: Vec<Outgoing>) -> Result<(), BusError> {
        let lost = || BusError::Retriable { doing: "append".to_owned(), reason: "simulated".to_owned() };
        if self.faults.happens("append lost", 30) {
            return Err(lost());
        }
        self.inner.append(records.clone())?;
        self.wrote(&mut self.lock(), records);
        if self.faults.happens("append done and not known", 30) { Err(lost()) } else { Ok(()) }
    }

    fn describe(&self, topics: &[String]) -> Result<Vec<TopicState>, BusError> {
        self.inner.describe(topics)
    }

    fn identity(&self) -> Result<String, BusError> {
        self.inner.identity()
    }

    fn create(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        self.inner.create(specs)
    }

    fn configure(&self, topic: &str, settings: &BTreeMap<String, String>) -> Result<(), BusError> {
        self.inner.configure(topic, settings)
    }
}

impl Group {
    fn new(inner: &dyn Bus, membership: &Membership) -> Result<Self, BusError> {
        let membership = Membership { instance: "all".to_owned(), ..membership.clone() };
        let mut session = inner.join(&membership)?;
        let Poll::Assigned(partitions) = session.poll(BatchLimit::new(1, 1), Duration::ZERO)? else {
            unreachable!("the first poll assigns all partitions");
        };
        let committed = session.positions();
        Ok(Self { session, partitions, committed, members: BTreeMap::new() })
    }

    fn rebalance(&mut self) {
        for member in self.members.values_mut().filter(|member| member.stage == Stage::Owning) {
            member.stage = Stage::GivingBack;
        }
    }

    fn lose(&mut self, instance: &str) {
        self.members.get_mut(instance).expect("a member").stage = Stage::Lost;
        self.rebalance();
    }

    /// By Kafka's range assignor: of each topic a contiguous share, in the order of the members' names.
    fn share(&self, instance: &str) -> Vec<TopicPartition> {
        let members: Vec<&String> =
            self.members.iter().filter(|(_, member)| member.stage != Stage::Lost).map(|(name, _)| name).collect();
        let at = members.iter().position(|name| *name == instance).expect("a member");
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        self.partitions.iter().for_each(|(topic, _)| *counts.entry(topic).or_default() += 1);
        let mine = |(topic, partition): &&TopicPartition| {
            let (each, more) = (counts[topic.as_str()] / members.len(), counts[topic.as_str()] % members.len());
            let first = each * at + at.min(more);
            (first..first + each + usize::from(at < more)).contains(&(*partition as usize))
        };
        self.partitions.iter().filter(mine).cloned().collect()
    }
}

struct SimSession {
    bus: SimBus,
    membership: Membership,
    epoch: u64,
    reader: Box<dyn Reader>,
    /// Not read for now, and where they go on.
    paused: BTreeMap<TopicPartition, i64>,
    /// For the next commit.
    sent: Vec<Outgoing>,
}

/// How a commit ends.
enum Fate {
    Takes,
    /// Nothing is written.
    Aborted,
    /// The process ends before or after it.
    Crash {
        written: bool,
    },
    /// Nobody knows whether it was written.
    Unknown {
        written: bool,
    },
    /// The session ran out while the process hung in the middle of it.
    Lost,
}

impl SimSession {
    fn fenced(&self) -> BusError {
        BusError::Fenced(format!("{} in group {}", self.membership.instance, self.membership.group))
    }

    fn fate(&self) -> Fate {
        let faults = &self.bus.faults;
        for (kind, usual, fate) in [
            ("commit aborted", 15, Fate::Aborted),
            ("crash before a commit", 10, Fate::Crash { written: false }),
            ("crash after a commit", 10, Fate::Crash { written: true }),
            ("commit unknown, not done", 10, Fate::Unknown { written: false }),
            ("commit unknown, done", 10, Fate::Unknown { written: true }),
            ("hung in a commit past the session", 8, Fate::Lost),
        ] {
            if faults.happens(kind, usual) {
                return fate;
            }
        }
        Fate::Takes
    }

    /// Reads on from what is committed.
    fn rewind(&mut self) -> Result<(), BusError> {
        let shared = self.bus.lock();
        let group = &shared.groups[&self.membership.group];
        for place in &group.members[&self.membership.instance].assigned {
            match self.paused.get_mut(place) {
                Some(next) => *next = group.committed[place],
                None => self.reader.seek(&place.0, place.1, group.committed[place])?,
            }
        }
        Ok(())
    }

    fn write(&self, transaction: Transaction) -> Result<(), CommitError> {
        let mut shared = self.bus.lock();
        let group = shared.groups.get_mut(&self.membership.group).expect("its group");
        let own: BTreeSet<_> = group.members[&self.membership.instance].assigned.iter().collect();
        for place in transaction.offsets.keys() {
            assert!(own.contains(place), "an offset of {place:?}, which is not this member's");
        }
        let (offsets, outputs) = (transaction.offsets.clone(), transaction.outputs.clone());
        group.session.commit(transaction)?;
        group.committed.extend(offsets);
        self.bus.wrote(&mut shared, outputs);
        Ok(())
    }
}

impl Session for SimSession {
    fn poll(&mut self, limit: BatchLimit, wait: Duration) -> Result<Poll, BusError> {
        let mut shared = self.bus.lock();
        let group = shared.groups.get_mut(&self.membership.group).expect("its group");
        let member = &group.members[&self.membership.instance];
        if member.epoch != self.epoch {
            return Err(self.fenced());
        }
        match member.stage {
            Stage::Lost | Stage::GivingBack => {
                let was_lost = member.stage == Stage::Lost;
                let member = group.members.get_mut(&self.membership.instance).expect("just found");
                member.stage = Stage::Joining;
                let had = std::mem::take(&mut member.assigned);
                if was_lost {
                    group.rebalance();
                }
                drop(shared);
                self.reader = self.bus.inner.reader()?;
                self.paused.clear();
                Ok(Poll::Revoked(had))
            }
            Stage::Joining if group.members.values().any(|member| member.stage == Stage::GivingBack) => {
                Ok(Poll::Batch(Vec::new()))
            }
            Stage::Joining => {
                let mine = group.share(&self.membership.instance);
                let member = group.members.get_mut(&self.membership.instance).expect("just found");
                (member.stage, member.assigned) = (Stage::Owning, mine.clone());
                drop(shared);
                self.reader = self.bus.inner.reader()?;
                self.rewind()?;
                Ok(Poll::Assigned(mine))
            }
            Stage::Owning => {
                drop(shared);
                let most = POLLS[self.bus.faults.below(POLLS.len() as u64) as usize];
                Ok(Poll::Batch(self.reader.poll(limit.records.min(most), wait)?))
            }
        }
    }

    fn send(&mut self, outputs: Vec<Outgoing>) -> Result<(), BusError> {
        self.sent.extend(outputs);
        Ok(())
    }

    fn commit(&mut self, mut transaction: Transaction) -> Result<(), CommitError> {
        transaction.outputs.splice(0..0, self.sent.drain(..));
        let stage = {
            let shared = self.bus.lock();
            let member = &shared.groups[&self.membership.group].members[&self.membership.instance];
            if member.epoch != self.epoch {
                return Err(self.fenced().into());
            }
            member.stage
        };
        let fate = if stage == Stage::Lost { Fate::Lost } else { self.fate() };
        let rewound = |why: &str| CommitError::Rewound(why.to_owned());
        match fate {
            Fate::Takes => self.write(transaction),
            Fate::Aborted => {
                self.rewind()?;
                Err(rewound("simulated"))
            }
            Fate::Crash { written } => {
                if written {
                    self.write(transaction)?;
                }
                let doing = format!("commit for group {}", self.membership.group);
                Err(BusError::Failed { doing, reason: "simulated crash".to_owned() }.into())
            }
            Fate::Unknown { written } => {
                if written {
                    self.write(transaction)?;
                }
                let mut shared = self.bus.lock();
                let group = shared.groups.get_mut(&self.membership.group).expect("its group");
                group.members.get_mut(&self.membership.instance).expect("its member").stage = Stage::GivingBack;
                Err(rewound("nobody knows"))
            }
            Fate::Lost => {
                self.bus.expire(&self.membership.group, &self.membership.instance);
                Err(rewound("the assignment is lost"))
            }
        }
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), BusError> {
        let own = self.positions();
        for place in partitions.iter().filter(|place| own.contains_key(*place)) {
            if let Ok(next) = self.reader.position(&place.0, place.1) {
                self.reader.leave(&place.0, place.1)?;
                self.paused.insert(place.clone(), next);
            }
        }
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), BusError> {
        for place in partitions {
            if let Some(next) = self.paused.remove(place) {
                self.reader.seek(&place.0, place.1, next)?;
            }
        }
        Ok(())
    }

    fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        let shared = self.bus.lock();
        let group = &shared.groups[&self.membership.group];
        let own = group.members[&self.membership.instance].assigned.iter();
        own.map(|place| (place.clone(), group.committed[place])).collect()
    }

    fn leave(self: Box<Self>) -> Result<(), BusError> {
        let mut shared = self.bus.lock();
        let group = shared.groups.get_mut(&self.membership.group).expect("its group");
        if group.members.get(&self.membership.instance).is_some_and(|member| member.epoch == self.epoch) {
            group.members.remove(&self.membership.instance);
            group.rebalance();
        }
        Ok(())
    }
}

struct SimReader {
    inner: Box<dyn Reader>,
    faults: Faults,
}

impl Reader for SimReader {
    fn leave(&mut self, topic: &str, partition: u32) -> Result<(), BusError> {
        self.inner.leave(topic, partition)
    }

    fn seek(&mut self, topic: &str, partition: u32, offset: i64) -> Result<(), BusError> {
        self.inner.seek(topic, partition, offset)
    }

    fn poll(&mut self, limit: usize, wait: Duration) -> Result<Vec<Incoming>, BusError> {
        if self.faults.happens("read failed", 20) {
            return Err(BusError::Retriable { doing: "read".to_owned(), reason: "simulated".to_owned() });
        }
        self.inner.poll(limit, wait)
    }

    fn position(&self, topic: &str, partition: u32) -> Result<i64, BusError> {
        self.inner.position(topic, partition)
    }
}
