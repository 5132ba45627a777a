//! What the contract doesn't say of the embedded bus: compaction, retention, turns, waiting, faults. In memory, at a virtual time.

use super::*;
use crate::bus::{CommitError, Poll, Transaction};
use std::collections::VecDeque;

const LIMIT: BatchLimit = BatchLimit::new(100, 1 << 20);
const NOW: Timestamp = Timestamp(1_000_000);

fn bus() -> (EmbeddedBus, VirtualClock) {
    let clock = VirtualClock::at(NOW);
    (EmbeddedBus::memory(Arc::new(clock.clone())), clock)
}

fn faulty(faults: &[Fault]) -> EmbeddedBus {
    let mut faults = VecDeque::from(faults.to_vec());
    let ask = move |_: FaultPoint<'_>| faults.pop_front().unwrap_or(Fault::None);
    EmbeddedBus::memory_with_faults(Arc::new(VirtualClock::at(NOW)), Box::new(ask))
}

fn make(bus: &EmbeddedBus, name: &str, partitions: u32, settings: &[(&str, &str)]) {
    let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    bus.create(&[TopicSpec { name: name.to_owned(), partitions, replicas: None, settings }]).unwrap();
}

fn record(topic: &str, partition: u32, key: &str, value: Option<&str>) -> Outgoing {
    Outgoing {
        topic: topic.into(),
        partition: Some(partition),
        key: Some(key.into()),
        value: value.map(|value| value.to_owned().into()),
        headers: vec![],
    }
}

fn put(bus: &EmbeddedBus, topic: &str, key: &str, value: Option<&str>) {
    bus.append(vec![record(topic, 0, key, value)]).unwrap();
}

fn member(instance: &str, topic: &str) -> Membership {
    Membership { group: "group".into(), instance: instance.into(), topics: vec![topic.into()] }
}

fn joined(bus: &EmbeddedBus, topic: &str) -> Box<dyn Session> {
    let mut session = bus.join(&member("one", topic)).unwrap();
    assert!(matches!(session.poll(LIMIT, Duration::ZERO).unwrap(), Poll::Assigned(_)));
    session
}

fn batch(session: &mut dyn Session) -> Vec<Incoming> {
    match session.poll(LIMIT, Duration::from_secs(5)).unwrap() {
        Poll::Batch(records) => records,
        other => panic!("{other:?}"),
    }
}

fn commit_to(offset: i64) -> Transaction {
    Transaction { outputs: vec![], offsets: [(("t".to_owned(), 0), offset)].into() }
}

/// What is left of partition 0: offset, key and value.
fn left(bus: &EmbeddedBus, topic: &str) -> Vec<(i64, String, Option<String>)> {
    let mut reader = bus.reader().unwrap();
    reader.seek(topic, 0, 0).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let records = reader.poll(10_000, Duration::ZERO).unwrap();
    assert_eq!(reader.position(topic, 0).unwrap(), bus.ends(topic, 0).unwrap().end, "gaps at the end are passed");
    records.into_iter().map(|r| (r.offset, text(r.key.unwrap()), r.value.map(|value| text(value.into())))).collect()
}

fn row(offset: i64, key: &str, value: Option<&str>) -> (i64, String, Option<String>) {
    (offset, key.to_owned(), value.map(str::to_owned))
}

#[test]
fn a_compacted_topic_keeps_the_newest_record_of_each_key_and_leaves_gaps() {
    let (bus, _) = bus();
    make(&bus, "t", 1, &[("cleanup.policy", "compact")]);
    put(&bus, "t", "a", Some("1"));
    put(&bus, "t", "b", Some("1"));
    bus.append(vec![record("t", 0, "a", Some("2")), record("t", 0, "a", Some("3"))]).unwrap();
    assert_eq!(left(&bus, "t"), [row(1, "b", Some("1")), row(3, "a", Some("3"))]);
    assert_eq!(bus.ends("t", 0).unwrap(), Ends { start: 0, end: 4 });
    let keyless = Outgoing { key: None, ..record("t", 0, "", Some("x")) };
    assert!(bus.append(vec![keyless]).unwrap_err().to_string().contains("needs a key"));
}

#[test]
fn a_tombstone_ends_its_key_at_once_and_goes_after_delete_retention() {
    let (bus, clock) = bus();
    make(&bus, "t", 1, &[("cleanup.policy", "compact"), ("delete.retention.ms", "60000")]);
    put(&bus, "t", "a", Some("1"));
    put(&bus, "t", "a", None);
    put(&bus, "t", "b", None);
    put(&bus, "t", "b", Some("again"));
    assert_eq!(left(&bus, "t"), [row(1, "a", None), row(3, "b", Some("again"))]);

    clock.set(NOW.plus(Duration::from_secs(59)));
    put(&bus, "t", "c", Some("1"));
    assert_eq!(left(&bus, "t").len(), 3, "it has a second left");
    clock.set(NOW.plus(Duration::from_secs(61)));
    put(&bus, "t", "d", Some("1"));
    assert_eq!(left(&bus, "t"), [row(3, "b", Some("again")), row(4, "c", Some("1")), row(5, "d", Some("1"))]);
    // Its index entry is gone with it.
    put(&bus, "t", "a", Some("2"));
    assert_eq!(left(&bus, "t").last(), Some(&row(6, "a", Some("2"))));
}

#[test]
fn a_topic_that_becomes_compacted_is_compacted() {
    let (bus, clock) = bus();
    make(&bus, "t", 1, &[]);
    for n in 0..3000 {
        put(&bus, "t", &(n % 10).to_string(), (n < 2995).then_some("v"));
    }
    bus.configure("t", &[("cleanup.policy".to_owned(), "compact".to_owned())].into()).unwrap();
    let expected: Vec<_> = (2990..3000).map(|n| row(n, &(n % 10).to_string(), (n < 2995).then_some("v"))).collect();
    assert_eq!(left(&bus, "t"), expected);
    clock.set(NOW.plus(Duration::from_secs(25 * 3600)));
    put(&bus, "t", "0", Some("new"));
    let keys: Vec<String> = left(&bus, "t").into_iter().map(|(_, key, _)| key).collect();
    assert_eq!(keys, ["1", "2", "3", "4", "0"], "tombstones of before are swept as well");
}

#[test]
fn retention_cuts_old_records_but_none_that_a_group_has_yet_to_read() {
    let (bus, clock) = bus();
    make(&bus, "t", 1, &[("retention.ms", "60000")]);
    for n in 0..10 {
        put(&bus, "t", &n.to_string(), Some("v"));
    }
    let mut session = joined(&bus, "t");
    assert_eq!(batch(session.as_mut()).len(), 10);
    session.commit(commit_to(4)).unwrap();

    clock.set(NOW.plus(Duration::from_secs(61)));
    put(&bus, "t", "later", Some("v"));
    assert_eq!(bus.ends("t", 0).unwrap(), Ends { start: 4, end: 11 });
    assert_eq!(left(&bus, "t").len(), 7);

    session.commit(commit_to(11)).unwrap();
    clock.set(NOW.plus(Duration::from_secs(63)));
    put(&bus, "t", "later", Some("v"));
    assert_eq!(bus.ends("t", 0).unwrap(), Ends { start: 10, end: 12 }, "the younger ones stay");
}

#[test]
fn a_group_that_joined_keeps_what_it_has_not_read() {
    let (bus, clock) = bus();
    make(&bus, "t", 1, &[("retention.ms", "1000")]);
    drop(joined(&bus, "t"));
    for n in 0..100 {
        clock.set(NOW.plus(Duration::from_secs(2 * n)));
        put(&bus, "t", &n.to_string(), Some("v"));
    }
    assert_eq!(bus.ends("t", 0).unwrap().start, 0);
    assert_eq!(batch(joined(&bus, "t").as_mut()).len(), 100);
}

#[test]
fn a_backlog_of_old_records_shrinks_a_few_at_a_time() {
    let (bus, clock) = bus();
    make(&bus, "t", 1, &[("retention.ms", "1000")]);
    bus.append((0..1000).map(|n| record("t", 0, &n.to_string(), Some("v"))).collect()).unwrap();
    let mut starts = vec![0];
    for second in 1..12 {
        clock.set(NOW.plus(Duration::from_secs(2 * second)));
        put(&bus, "t", "more", Some("v"));
        starts.push(bus.ends("t", 0).unwrap().start);
    }
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] <= 128), "{starts:?}");
    assert!(*starts.last().unwrap() >= 1000, "{starts:?}");
    assert_eq!(left(&bus, "t").first().unwrap().0, *starts.last().unwrap());
}

#[test]
fn partitions_take_turns_and_each_keeps_its_order() {
    let (bus, _) = bus();
    make(&bus, "t", 3, &[]);
    let many = (0..1000).map(|n| record("t", 0, "k", Some(&n.to_string()))).collect();
    bus.append(many).unwrap();
    bus.append(vec![record("t", 1, "k", Some("x")), record("t", 2, "k", Some("y"))]).unwrap();
    let mut session = joined(&bus, "t");
    let first = batch(session.as_mut());
    assert_eq!(first.len(), 100, "the busy partition takes what room the others leave");
    assert_eq!(first.iter().filter(|r| r.partition != 0).count(), 2);
    let mut offsets: Vec<i64> = first.iter().filter(|r| r.partition == 0).map(|r| r.offset).collect();
    while offsets.len() < 1000 {
        offsets.extend(batch(session.as_mut()).iter().map(|r| r.offset));
    }
    assert_eq!(offsets, (0..1000).collect::<Vec<_>>());

    // With room for one record at a time no partition is passed over.
    bus.append((0..6).map(|n| record("t", n % 3, "k", Some("z"))).collect()).unwrap();
    let one = BatchLimit::new(1, 1 << 20);
    let turns: Vec<u32> = (0..6)
        .map(|_| match session.poll(one, Duration::ZERO).unwrap() {
            Poll::Batch(records) => records[0].partition,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
}

#[test]
fn a_group_has_one_member_and_another_is_told_which() {
    let (bus, _) = bus();
    make(&bus, "t", 1, &[]);
    let first = joined(&bus, "t");
    let refused = bus.join(&member("two", "t")).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("group group") && refused.contains("one is in it"), "{refused}");
    first.leave().unwrap();
    bus.join(&member("two", "t")).unwrap();
}

#[test]
fn virtual_time_does_not_wait_and_real_time_waits_until_something_comes() {
    let (still, _) = bus();
    make(&still, "t", 1, &[]);
    let started = Instant::now();
    assert!(batch(joined(&still, "t").as_mut()).is_empty());
    assert!(started.elapsed() < Duration::from_secs(1));

    let bus = Arc::new(EmbeddedBus::memory(Arc::new(WallClock)));
    make(&bus, "t", 1, &[]);
    let mut session = joined(&bus, "t");
    let waiter = std::thread::spawn(move || {
        let records = batch(session.as_mut());
        (records.len(), Instant::now(), session)
    });
    std::thread::sleep(Duration::from_millis(100));
    let written = Instant::now();
    put(&bus, "t", "k", Some("v"));
    let (count, woken, mut session) = waiter.join().unwrap();
    assert_eq!(count, 1);
    assert!(woken - written < Duration::from_millis(500), "{:?}", woken - written);

    // One that waits learns at once that it was replaced.
    let fenced = std::thread::spawn(move || session.poll(LIMIT, Duration::from_secs(60)).map(|_| ()));
    std::thread::sleep(Duration::from_millis(50));
    let _second = bus.join(&member("one", "t")).unwrap();
    assert!(matches!(fenced.join().unwrap(), Err(BusError::Fenced(_))));
}

#[test]
fn a_refused_commit_leaves_nothing_and_gives_its_records_again() {
    let bus = faulty(&[Fault::None, Fault::Refuse]);
    make(&bus, "t", 1, &[]);
    put(&bus, "t", "k", Some("v"));
    let mut session = joined(&bus, "t");
    let records = batch(session.as_mut());
    assert!(matches!(session.commit(commit_to(1)), Err(CommitError::Rewound(_))));
    assert_eq!(batch(session.as_mut()), records);
    session.commit(commit_to(1)).unwrap();
    assert!(batch(session.as_mut()).is_empty());
}

#[test]
fn after_a_simulated_crash_the_session_is_dead_and_the_next_one_finds_what_was_committed() {
    for (fault, found) in [(Fault::CrashBefore, 1), (Fault::CrashAfter, 0)] {
        let bus = faulty(&[Fault::None, fault]);
        make(&bus, "t", 1, &[]);
        put(&bus, "t", "k", Some("v"));
        let mut session = joined(&bus, "t");
        assert_eq!(batch(session.as_mut()).len(), 1);
        assert!(matches!(session.commit(commit_to(1)), Err(CommitError::Bus(BusError::Failed { .. }))), "{fault:?}");
        assert!(matches!(session.poll(LIMIT, Duration::ZERO), Err(BusError::Fenced(_))), "{fault:?}");
        assert!(matches!(session.commit(commit_to(1)), Err(CommitError::Bus(BusError::Fenced(_)))), "{fault:?}");
        let mut next = bus.join(&member("elsewhere", "t")).unwrap();
        next.poll(LIMIT, Duration::ZERO).unwrap();
        assert_eq!(batch(next.as_mut()).len(), found, "{fault:?}");
    }
}

#[test]
fn an_append_that_is_not_acknowledged_may_have_taken_place() {
    for (fault, found) in [(Fault::Refuse, 0), (Fault::CrashBefore, 0), (Fault::CrashAfter, 1)] {
        let bus = faulty(&[fault]);
        make(&bus, "t", 1, &[]);
        let outcome = bus.append(vec![record("t", 0, "k", Some("v"))]);
        assert!(matches!(outcome, Err(BusError::Retriable { .. })), "{fault:?}");
        assert_eq!(left(&bus, "t").len(), found, "{fault:?}");
    }
}

#[test]
fn records_without_a_key_go_round_the_partitions() {
    let (bus, _) = bus();
    make(&bus, "t", 3, &[]);
    let keyless = || Outgoing { partition: None, key: None, ..record("t", 0, "", Some("v")) };
    bus.append(vec![keyless(), keyless()]).unwrap();
    bus.append(vec![keyless(), keyless()]).unwrap();
    let counts: Vec<i64> = (0..3).map(|p| bus.ends("t", p).unwrap().end).collect();
    assert_eq!(counts, [2, 1, 1]);
}
