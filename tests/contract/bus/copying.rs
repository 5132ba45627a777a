//! What the tests of the contract are made of: topics, records, members that copy.

use super::{LIMIT, PATIENCE, QUIET};
use lockstep::bus::{
    BatchLimit, Bus, CommitError, Incoming, Membership, Outgoing, Poll, Session, TopicPartition, TopicSpec, Transaction,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A name that no other test and no other run has.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("contract.{name}.{nanos:x}.{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn topic(bus: &dyn Bus, name: &str, partitions: u32) -> String {
    topic_with(bus, name, partitions, &[])
}

pub fn topic_with(bus: &dyn Bus, name: &str, partitions: u32, settings: &[(&str, &str)]) -> String {
    let name = unique(name);
    let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    bus.create(&[TopicSpec { name: name.clone(), partitions, replicas: None, settings }]).unwrap();
    name
}

pub fn member(group: &str, topics: &[&str]) -> Membership {
    Membership {
        group: unique(group),
        instance: "one".into(),
        topics: topics.iter().map(|t| (*t).to_owned()).collect(),
    }
}

pub fn record(topic: &str, key: &str, value: &str) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        partition: None,
        key: Some(key.as_bytes().to_vec()),
        value: Some(value.to_owned().into()),
        headers: vec![],
    }
}

pub fn copy_to(topic: &str, record: &Incoming) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        partition: Some(0),
        key: record.key.clone(),
        value: record.value.clone(),
        headers: vec![],
    }
}

pub fn append(bus: &dyn Bus, records: Vec<Outgoing>) {
    bus.append(records).unwrap();
}

/// Numbers as text, key and value.
pub fn append_numbers(bus: &dyn Bus, topic: &str, numbers: std::ops::Range<usize>) {
    append(bus, numbers.map(|n| record(topic, &n.to_string(), &n.to_string())).collect());
}

pub fn text(record: &Incoming) -> String {
    String::from_utf8(record.value.clone().unwrap().into()).unwrap()
}

pub fn values(records: &[Incoming]) -> Vec<String> {
    records.iter().map(text).collect()
}

pub fn offsets_after(batch: &[Incoming]) -> BTreeMap<TopicPartition, i64> {
    batch.iter().map(|r| ((r.topic.clone(), r.partition), r.offset + 1)).collect()
}

/// The next batch that isn't empty.
pub fn next_batch(session: &mut dyn Session) -> Vec<Incoming> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match session.poll(LIMIT, Duration::from_millis(200)).unwrap() {
            Poll::Batch(batch) if !batch.is_empty() => return batch,
            _ => {}
        }
    }
    panic!("no record came within {PATIENCE:?}");
}

pub fn wait_assigned(session: &mut dyn Session) -> Vec<TopicPartition> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Poll::Assigned(partitions) = session.poll(LIMIT, Duration::from_millis(200)).unwrap() {
            return partitions;
        }
    }
    panic!("no partition was assigned within {PATIENCE:?}");
}

pub fn expect_quiet(session: &mut dyn Session, otherwise: &str) {
    let (until, give_up) = (Instant::now() + QUIET, Instant::now() + PATIENCE);
    let mut assigned = false;
    while Instant::now() < until || !assigned {
        assert!(Instant::now() < give_up, "no partition was assigned within {PATIENCE:?}");
        match session.poll(LIMIT, Duration::from_millis(100)).unwrap() {
            Poll::Batch(batch) => {
                assert!(batch.is_empty(), "{otherwise}");
                assigned |= Instant::now() >= until;
            }
            Poll::Assigned(_) => assigned = true,
            Poll::Revoked(_) => {}
        }
    }
}

/// The same for one that has its partitions.
pub fn expect_quiet_on(session: &mut dyn Session, otherwise: &str) {
    let until = Instant::now() + QUIET;
    while Instant::now() < until {
        match session.poll(LIMIT, Duration::from_millis(100)).unwrap() {
            Poll::Batch(batch) => assert!(batch.is_empty(), "{otherwise}"),
            other => panic!("nothing had to happen: {other:?}"),
        }
    }
}

/// Copies `count` records to partition 0 of `output`, each batch in one commit, and leaves.
pub fn process(bus: &dyn Bus, member: &Membership, output: &str, count: usize) -> Vec<String> {
    let mut worker = Worker::new(bus, member, output);
    let mut seen = Vec::new();
    worker.until("all records came", |w| {
        seen.append(&mut w.seen);
        seen.len() >= count
    });
    worker.session.leave().unwrap();
    seen
}

/// Everything that is committed in a topic, from the start to the end as it is now; it must get there.
pub fn read_all(bus: &dyn Bus, topic: &str) -> Vec<Incoming> {
    let mut reader = bus.reader().unwrap();
    let mut all = Vec::new();
    for partition in 0..bus.partitions(topic).unwrap().unwrap() {
        let ends = bus.ends(topic, partition).unwrap();
        reader.seek(topic, partition, ends.start).unwrap();
        let until = Instant::now() + PATIENCE;
        while reader.position(topic, partition).unwrap() < ends.end {
            assert!(Instant::now() < until, "the reader of {topic} does not reach {}", ends.end);
            all.extend(reader.poll(1000, Duration::from_millis(200)).unwrap());
        }
    }
    assert!(all.is_sorted_by_key(|r| (r.partition, r.offset)));
    all
}

/// What a reader of the only partition sees by now: it waits for no transaction to end.
pub fn shown(bus: &dyn Bus, topic: &str) -> Vec<Incoming> {
    let mut reader = bus.reader().unwrap();
    reader.seek(topic, 0, 0).unwrap();
    let mut all = Vec::new();
    loop {
        match reader.poll(1000, Duration::from_millis(500)).unwrap() {
            none if none.is_empty() => return all,
            some => all.extend(some),
        }
    }
}

/// A member that copies what it gets to partition 0 of `output`, and is told when partitions come and go.
pub struct Worker {
    pub session: Box<dyn Session>,
    pub output: String,
    pub held: BTreeSet<TopicPartition>,
    pub seen: Vec<String>,
    pub done: usize,
    pub idle_since: Instant,
}

impl Worker {
    pub fn new(bus: &dyn Bus, member: &Membership, output: &str) -> Self {
        Self {
            session: bus.join(member).unwrap(),
            output: output.to_owned(),
            held: BTreeSet::new(),
            seen: Vec::new(),
            done: 0,
            idle_since: Instant::now(),
        }
    }

    pub fn turn(&mut self) {
        let limit = BatchLimit::new(20, 1 << 20);
        match self.session.poll(limit, Duration::from_millis(50)).unwrap() {
            Poll::Assigned(all) => self.held = all.into_iter().collect(),
            Poll::Revoked(gone) => gone.iter().for_each(|p| assert!(self.held.remove(p), "{p:?} was not held")),
            Poll::Batch(batch) if batch.is_empty() => return,
            Poll::Batch(batch) => {
                for r in &batch {
                    assert!(self.held.contains(&(r.topic.clone(), r.partition)), "a record of a partition not held");
                }
                let outputs = batch.iter().map(|r| copy_to(&self.output, r)).collect();
                match self.session.commit(Transaction { outputs, offsets: offsets_after(&batch) }) {
                    Ok(()) => {
                        self.done += batch.len();
                        self.seen.extend(values(&batch));
                    }
                    Err(CommitError::Rewound(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        self.idle_since = Instant::now();
    }

    pub fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !reached(self) {
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what} (held {:?})", self.held);
            self.turn();
        }
    }

    pub fn until_quiet(&mut self) {
        let until = Instant::now() + PATIENCE;
        self.idle_since = Instant::now();
        while self.idle_since.elapsed() < QUIET {
            assert!(Instant::now() < until, "records come again and again (held {:?})", self.held);
            self.turn();
        }
    }
}
