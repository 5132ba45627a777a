//! The embedded bus against the contract, on disk and in memory; and what only one that is on disk can show.

use super::{Bed, contract_suite, next_batch, offsets_after, read_all, record, values, wait_assigned};
use crate::killed;
use lockstep::bus::embedded::{EmbeddedBus, EmbeddedOptions, Fsync, WallClock};
use lockstep::bus::{BatchLimit, Bus, Membership, Outgoing, Poll, Session, TopicSpec, Transaction};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct EmbeddedBed {
    bus: EmbeddedBus,
    /// Removed with the bed.
    _data: Option<tempfile::TempDir>,
}

impl Bed for EmbeddedBed {
    fn bus(&self) -> &dyn Bus {
        &self.bus
    }

    fn shares(&self) -> bool {
        false
    }

    fn too_large(&self) -> usize {
        2 << 20
    }

    fn die_mid_commit(&self, _: &Membership, _: &[Outgoing]) -> bool {
        false
    }
}

pub fn on_disk() -> EmbeddedBed {
    let data = tempfile::tempdir().unwrap();
    EmbeddedBed { bus: open(data.path()), _data: Some(data) }
}

pub fn in_memory() -> EmbeddedBed {
    EmbeddedBed { bus: EmbeddedBus::memory(Arc::new(WallClock)), _data: None }
}

contract_suite!(disk, on_disk);
contract_suite!(memory, in_memory);

fn open(data: &Path) -> EmbeddedBus {
    EmbeddedBus::open(data, &EmbeddedOptions::default()).unwrap()
}

fn spec(name: &str, partitions: u32, settings: &[(&str, &str)]) -> TopicSpec {
    let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    TopicSpec { name: name.to_owned(), partitions, replicas: None, settings }
}

fn copier() -> Membership {
    Membership { group: "copiers".into(), instance: "one".into(), topics: vec!["in".into()] }
}

fn assigned(bus: &EmbeddedBus) -> Box<dyn Session> {
    let mut session = bus.join(&copier()).unwrap();
    wait_assigned(session.as_mut());
    session
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let bus = open(data.path());
    bus.create(&[spec("in", 2, &[]), spec("state", 1, &[("cleanup.policy", "compact")])]).unwrap();
    bus.append((0..10).map(|n| record("in", "k", &n.to_string())).collect()).unwrap();
    let mut session = assigned(&bus);
    let batch = next_batch(session.as_mut());
    let outputs = vec![record("state", "a", "1"), record("state", "b", "1"), record("state", "a", "2")];
    session.commit(Transaction { outputs, offsets: offsets_after(&batch[..7]) }).unwrap();
    let (topics, rows) = (bus.describe(&["in".into(), "state".into()]).unwrap(), read_all(&bus, "state"));
    let identity = bus.identity().unwrap();
    drop((session, bus));

    let bus = open(data.path());
    assert_eq!(bus.identity().unwrap(), identity);
    assert_ne!(open(tempfile::tempdir().unwrap().path()).identity().unwrap(), identity);
    assert_eq!(bus.describe(&["in".into(), "state".into()]).unwrap(), topics);
    assert_eq!(read_all(&bus, "state"), rows);
    assert_eq!(values(&rows), ["1", "2"]);
    assert_eq!(bus.ends("state", 0).unwrap().end, 3);
    assert_eq!(values(&next_batch(assigned(&bus).as_mut())), ["7", "8", "9"]);
    bus.append(vec![record("state", "a", "3")]).unwrap();
    assert_eq!(values(&read_all(&bus, "state")), ["1", "3"], "the index of the compacted topic is there, too");
}

#[test]
fn a_folder_in_use_is_refused_by_the_name_of_its_user() {
    let data = tempfile::tempdir().unwrap();
    let bus = open(data.path());
    let refused = EmbeddedBus::open(data.path(), &EmbeddedOptions::default()).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains(&format!("in use by process {}", std::process::id())), "{refused}");
    drop(bus);
    open(data.path());
}

#[test]
fn a_bus_that_syncs_every_commit_does_what_the_other_does() {
    let data = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { fsync: Fsync::EachCommit, ..EmbeddedOptions::default() };
    let bus = EmbeddedBus::open(data.path(), &options).unwrap();
    bus.create(&[spec("in", 1, &[])]).unwrap();
    bus.append(vec![record("in", "k", "v")]).unwrap();
    bus.sync().unwrap();
    assert_eq!(values(&read_all(&bus, "in")), ["v"]);
}

#[test]
fn a_bus_whose_last_commits_were_torn_goes_on_with_those_before() {
    let data = tempfile::tempdir().unwrap();
    let bus = open(data.path());
    bus.create(&[spec("in", 1, &[])]).unwrap();
    for n in 0..100 {
        bus.append(vec![record("in", "k", &format!("{n:0>500}"))]).unwrap();
    }
    drop(bus);
    // A page of zeros near the end, as if the power had failed before it was written.
    let journal = data.path().join("bus/0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written - 5000..written - 4700].fill(0);
    std::fs::write(&journal, bytes).unwrap();

    let bus = open(data.path());
    let numbers: Vec<usize> = values(&read_all(&bus, "in")).iter().map(|value| value.parse().unwrap()).collect();
    assert!((85..100).contains(&numbers.len()) && numbers.iter().copied().eq(0..numbers.len()), "{numbers:?}");
    assert_eq!(bus.ends("in", 0).unwrap().end, i64::try_from(numbers.len()).unwrap());
    bus.append(vec![record("in", "k", "1000")]).unwrap();
    drop(bus);
    assert_eq!(read_all(&open(data.path()), "in").len(), numbers.len() + 1);
}

/// Copies numbers from `in` to two partitions of `out` and a compacted changelog, until it is killed.
fn copy_until_killed(data: &Path) {
    let bus = open(data);
    bus.create(&[spec("in", 1, &[]), spec("out", 2, &[]), spec("state", 1, &[("cleanup.policy", "compact")])]).unwrap();
    let mut session = assigned(&bus);
    let ends = bus.ends("in", 0).unwrap();
    let mut next = ends.end;
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        let numbers = next..next + 20;
        bus.append(numbers.clone().map(|n| record("in", "k", &n.to_string())).collect()).unwrap();
        next = numbers.end;
        while let Poll::Batch(batch) = session.poll(BatchLimit::new(7, 1 << 20), Duration::ZERO).unwrap() {
            let Some(last) = batch.last() else { break };
            let mut outputs = Vec::new();
            for r in &batch {
                let number = String::from_utf8(r.value.clone().unwrap().into()).unwrap();
                outputs.extend((0..2).map(|p| Outgoing { partition: Some(p), ..record("out", "k", &number) }));
                outputs.push(record("state", &(r.offset % 10).to_string(), &number));
            }
            let offset = last.offset + 1;
            session.commit(Transaction { outputs, offsets: offsets_after(&batch) }).unwrap();
            killed::acknowledge(offset);
        }
    }
}

#[test]
fn after_kill_9_every_output_has_its_offset_and_every_offset_its_output() {
    if let Some(folder) = killed::child_folder() {
        return copy_until_killed(&folder);
    }
    let data = tempfile::tempdir().unwrap();
    let this = "bus::embedded::after_kill_9_every_output_has_its_offset_and_every_offset_its_output";
    let mut before = 0;
    for round in 0..6_u32 {
        let acknowledged =
            killed::run_and_kill(this, data.path(), Duration::from_millis(u64::from(round * round * 20)));
        let bus = open(data.path());
        let end = bus.ends("in", 0).unwrap().end;
        let committed = match assigned(&bus).poll(BatchLimit::new(1, 1), Duration::ZERO).unwrap() {
            Poll::Batch(batch) => batch.first().map_or(end, |record| record.offset),
            other => panic!("{other:?}"),
        };
        assert!(committed >= acknowledged, "{committed} is less than the {acknowledged} it acknowledged");
        assert!(acknowledged > before, "the process after the kill did not go on");
        before = committed;

        let numbers = |until: i64| (0..until).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(values(&read_all(&bus, "in")), numbers(end));
        let outputs = read_all(&bus, "out");
        for partition in 0..2 {
            let of_this: Vec<_> = outputs.iter().filter(|r| r.partition == partition).cloned().collect();
            assert_eq!(values(&of_this), numbers(committed), "round {round}, partition {partition}");
        }
        let state: BTreeMap<_, _> = read_all(&bus, "state").iter().map(|r| (r.key.clone(), r.value.clone())).collect();
        let newest = (committed - 10.min(committed)..committed)
            .map(|n| (Some((n % 10).to_string().into_bytes()), Some(n.to_string().into())));
        assert_eq!(state, newest.collect(), "round {round}");
        assert_eq!(read_all(&bus, "state").len(), state.len(), "one record a key");
    }
}

#[test]
fn a_bus_killed_while_it_is_made_is_made_by_the_next_process() {
    let child = "bus::embedded::after_kill_9_every_output_has_its_offset_and_every_offset_its_output";
    for step in 0..25 {
        let data = tempfile::tempdir().unwrap();
        killed::run_and_kill_early(child, data.path(), Duration::from_millis(2 * step));
        let bus = open(data.path());
        bus.create(&[spec("in", 1, &[])]).unwrap();
        bus.append(vec![record("in", "k", "v")]).unwrap();
        assert!(bus.ends("in", 0).unwrap().end > 0, "killed after {} ms", 2 * step);
    }
}

#[test]
fn writers_a_member_and_a_reader_at_once_lose_and_double_nothing() {
    const WRITERS: usize = 4;
    const EACH: usize = 500;
    let data = tempfile::tempdir().unwrap();
    let bus = open(data.path());
    bus.create(&[spec("in", 3, &[]), spec("out", 1, &[])]).unwrap();
    let copy = || {
        let mut session = assigned(&bus);
        let mut done = 0;
        while done < WRITERS * EACH {
            let batch = next_batch(session.as_mut());
            let outputs = batch.iter().map(|r| super::copy_to("out", r)).collect();
            session.commit(Transaction { outputs, offsets: offsets_after(&batch) }).unwrap();
            done += batch.len();
        }
    };
    let read = || {
        let mut reader = bus.reader().unwrap();
        reader.seek("out", 0, 0).unwrap();
        let (mut seen, until) = (Vec::new(), Instant::now() + super::PATIENCE);
        while seen.len() < WRITERS * EACH && Instant::now() < until {
            seen.extend(values(&reader.poll(100, Duration::from_secs(1)).unwrap()));
        }
        seen
    };
    let mut seen = std::thread::scope(|threads| {
        for writer in 0..WRITERS {
            let bus = &bus;
            threads.spawn(move || {
                for n in 0..EACH {
                    bus.append(vec![record("in", &format!("{writer}-{n}"), &format!("{writer}-{n}"))]).unwrap();
                }
            });
        }
        threads.spawn(copy);
        threads.spawn(read).join().unwrap()
    });
    assert_eq!(seen, values(&read_all(&bus, "out")));
    seen.sort_unstable();
    let mut expected: Vec<String> = (0..WRITERS).flat_map(|w| (0..EACH).map(move |n| format!("{w}-{n}"))).collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}
