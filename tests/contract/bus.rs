//! The contract of `lockstep::bus`, one list of tests for every implementation.
//!
//! A test gets a `Bed`: a bus, and what this bus is able to do. It makes its own topics, so tests may run side by side on
//! one broker. An implementation joins by `contract_suite!(module, open, ignore = "why")`, where `open()` gives its `Bed`.

mod broker;
mod copying;
mod embedded;
mod kafka;
mod processors;
mod reading;

pub use copying::*;
use lockstep::bus::{
    BatchLimit, Bus, BusError, CommitError, Incoming, Membership, Outgoing, Poll, Session, TopicSpec, Transaction,
};
use lockstep::model::RoutingKey;
pub use reading::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a test waits for what has to happen: several session time-outs of a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a test watches that nothing happens.
const QUIET: Duration = Duration::from_millis(1500);
pub const LIMIT: BatchLimit = BatchLimit::new(1000, 1 << 20);

/// A bus under test.
pub trait Bed {
    fn bus(&self) -> &dyn Bus;
    /// Whether several members may share a group's partitions.
    fn shares(&self) -> bool;
    /// The size of a value that must not be sent.
    fn too_large(&self) -> usize;
    /// Does what a member does that dies between producing and committing: leaves `outputs` written in an open transaction.
    /// False where that can't be, as commits are atomic by nature.
    fn die_mid_commit(&self, member: &Membership, outputs: &[Outgoing]) -> bool;
}

/// Every test of the contract, as a module of `#[test]`s for one implementation.
macro_rules! contract_suite {
    ($module:ident, $open:path $(, ignore = $why:literal)?) => {
        contract_suite!(@tests $module, [$($why)?], $open,
            outputs_and_offsets_become_visible_together,
            what_is_sent_before_a_commit_goes_with_it_or_not_at_all,
            a_commit_of_part_of_a_batch_goes_on_behind_it,
            records_that_were_not_committed_come_again,
            a_member_that_dies_mid_commit_leaves_nothing_and_loses_nothing,
            a_second_member_of_the_same_name_fences_the_first,
            members_share_partitions_without_loss_or_doubling,
            a_commit_without_offsets_is_visible_and_moves_nothing,
            a_commit_without_a_partition_is_refused,
            a_session_gives_offsets_in_order_and_within_the_limit,
            a_poll_waits_no_longer_than_it_is_told,
            a_paused_partition_gives_nothing_loses_nothing_and_holds_up_no_other,
            a_commit_of_many_outputs_arrives_whole,
            a_reader_sees_only_what_is_committed_and_reaches_the_end,
            a_reader_reaches_ends_that_move_again_and_again,
            a_reader_moves_where_it_is_told,
            a_reader_of_many_partitions_keeps_them_apart,
            the_newest_value_of_a_key_wins_and_a_tombstone_ends_it,
            keys_values_headers_and_times_come_back_as_they_went,
            a_key_goes_to_the_partition_that_java_would_choose,
            what_is_too_large_is_refused_and_the_batch_stays_open,
            append_writes_all_or_nothing,
            a_topic_that_is_not_there_is_named,
            ends_of_an_empty_topic_are_equal,
            topics_are_made_and_set_as_told
        );
    };
    (@tests $module:ident, $why:tt, $open:path, $($test:ident),+) => {
        mod $module {
            use super::*;
            $(contract_suite!(@test $why, $open, $test);)+
        }
    };
    (@test [], $open:path, $test:ident) => {
        #[test]
        fn $test() { crate::bus::$test(&$open()); }
    };
    (@test [$why:literal], $open:path, $test:ident) => {
        #[test]
        #[ignore = $why]
        fn $test() { crate::bus::$test(&$open()); }
    };
}
pub(crate) use contract_suite;

// --- one commit ------------------------------------------------------------------------------------------------------

pub fn outputs_and_offsets_become_visible_together(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output, changelog) = (topic(bus, "in", 1), topic(bus, "out", 1), topic(bus, "changelog", 1));
    append_numbers(bus, &input, 0..3);
    let member = member("together", &[&input]);

    let mut session = bus.join(&member).unwrap();
    let mut taken = Vec::new();
    while taken.len() < 3 {
        let batch = next_batch(session.as_mut());
        let outputs = batch.iter().flat_map(|r| [copy_to(&output, r), copy_to(&changelog, r)]).collect();
        assert_eq!(read_all(bus, &output).len(), taken.len(), "nothing of this batch may be visible before its commit");
        session.commit(Transaction { outputs, offsets: offsets_after(&batch) }).unwrap();
        taken.extend(values(&batch));
        assert_eq!(values(&read_all(bus, &output)), taken);
        assert_eq!(values(&read_all(bus, &changelog)), taken);
    }
    session.leave().unwrap();

    let mut session = bus.join(&member).unwrap();
    expect_quiet(session.as_mut(), "records whose offsets were committed came again");
    session.leave().unwrap();
    assert_eq!(values(&read_all(bus, &output)), ["0", "1", "2"]);
}

pub fn what_is_sent_before_a_commit_goes_with_it_or_not_at_all(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 1), topic(bus, "out", 1));
    append_numbers(bus, &input, 0..1);
    let member = member("sends", &[&input]);
    let mut session = bus.join(&member).unwrap();
    let batch = next_batch(session.as_mut());
    session.send(vec![copy_to(&output, &batch[0])]).unwrap();
    drop(session);

    let mut session = bus.join(&member).unwrap();
    assert!(read_all(bus, &output).is_empty(), "sent, and never committed");
    for turn in ["a", "b"] {
        let before = values(&read_all(bus, &output));
        let batch = next_batch(session.as_mut());
        let one = |n: u32| record(&output, "k", &format!("{turn}{n}"));
        session.send(vec![one(0), one(1)]).unwrap();
        session.send(Vec::new()).unwrap();
        session.send(vec![one(2)]).unwrap();
        assert_eq!(values(&shown(bus, &output)), before, "nothing may be visible before the commit");
        match session.commit(Transaction {
            outputs: vec![one(3), record(&output, "k", &"z".repeat(bed.too_large()))],
            offsets: offsets_after(&batch),
        }) {
            Err(CommitError::Bus(BusError::TooLarge { .. })) => {}
            other => panic!("expected TooLarge, got {other:?}"),
        }
        session.commit(Transaction { outputs: vec![one(4)], offsets: offsets_after(&batch) }).unwrap();
        let now = ["0", "1", "2", "4"].map(|n| format!("{turn}{n}"));
        assert_eq!(values(&read_all(bus, &output)), [before, now.to_vec()].concat(), "in the order of their sending");
        append_numbers(bus, &input, 1..2);
    }
}

pub fn a_commit_of_part_of_a_batch_goes_on_behind_it(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 1), topic(bus, "out", 1));
    append_numbers(bus, &input, 0..10);
    let member = member("part", &[&input]);
    let mut session = bus.join(&member).unwrap();
    let batch = next_batch(session.as_mut());
    session.commit(Transaction { outputs: vec![], offsets: offsets_after(&batch[..1]) }).unwrap();
    drop(session);

    let rest = process(bus, &member, &output, 9);
    assert_eq!(rest, (1..10).map(|n| n.to_string()).collect::<Vec<_>>());
}

pub fn records_that_were_not_committed_come_again(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 2), topic(bus, "out", 1));
    append_numbers(bus, &input, 0..20);
    let member = member("again", &[&input]);
    for _ in 0..3 {
        let mut session = bus.join(&member).unwrap();
        assert!(!next_batch(session.as_mut()).is_empty());
        drop(session);
    }
    let mut seen = process(bus, &member, &output, 20);
    seen.sort_by_key(|v| v.parse::<u32>().unwrap());
    assert_eq!(seen, (0..20).map(|n| n.to_string()).collect::<Vec<_>>(), "each once, none lost");
    assert_eq!(read_all(bus, &output).len(), 20);
}

pub fn a_member_that_dies_mid_commit_leaves_nothing_and_loses_nothing(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 1), topic(bus, "out", 1));
    append_numbers(bus, &input, 0..5);
    let member = member("dies", &[&input]);
    let mut session = bus.join(&member).unwrap();
    let batch = next_batch(session.as_mut());
    drop(session);
    let half: Vec<Outgoing> = batch.iter().map(|r| copy_to(&output, r)).collect();
    if !bed.die_mid_commit(&member, &half) {
        return;
    }

    let started = Instant::now();
    let seen = process(bus, &member, &output, 5);
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
    assert!(started.elapsed() < Duration::from_secs(9), "the open transaction was waited for, not aborted at once");
    assert_eq!(values(&read_all(bus, &output)), ["0", "1", "2", "3", "4"], "what the dead member wrote must not show");
}

pub fn a_second_member_of_the_same_name_fences_the_first(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 1), topic(bus, "out", 1));
    append_numbers(bus, &input, 0..3);
    let member = member("twins", &[&input]);
    let mut first = bus.join(&member).unwrap();
    let batch = next_batch(first.as_mut());

    let mut second = match bus.join(&member) {
        Ok(second) => second,
        // A bus of one process may turn the second away instead: then the first goes on.
        Err(_) if !bed.shares() => {
            first.commit(Transaction { outputs: vec![], offsets: offsets_after(&batch) }).unwrap();
            return;
        }
        Err(e) => panic!("the second member could not join: {e}"),
    };
    let outputs = batch.iter().map(|r| copy_to(&output, r)).collect();
    match first.commit(Transaction { outputs, offsets: offsets_after(&batch) }) {
        Err(CommitError::Bus(BusError::Fenced(_))) => {}
        other => panic!("the first member's commit had to be fenced: {other:?}"),
    }
    let again = next_batch(second.as_mut());
    assert_eq!(values(&again)[0], "0");
    assert!(read_all(bus, &output).is_empty(), "a fenced commit must not show");
    assert!(matches!(first.poll(LIMIT, QUIET), Err(BusError::Fenced(_))), "a fenced session stays fenced");
}

pub fn members_share_partitions_without_loss_or_doubling(bed: &dyn Bed) {
    if !bed.shares() {
        return;
    }
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 6), topic(bus, "out", 1));
    let one = member("shared", &[&input]);
    let two = Membership { instance: "two".into(), ..one.clone() };
    const ROUND: usize = 300;
    append_numbers(bus, &input, 0..ROUND);

    let mut first = Worker::new(bus, &one, &output);
    first.until("the first member has all", |w| w.held.len() == 6 && w.done >= ROUND / 2);
    let second_joined = std::thread::scope(|threads| {
        // The second joins while the first is at work; both must poll for the group to settle.
        let second = threads.spawn(|| {
            let mut second = Worker::new(bus, &two, &output);
            second.until("the second has its share", |w| w.held.len() == 3);
            append_numbers(bus, &input, ROUND..2 * ROUND);
            second.until_quiet();
            (second.done, second.held.clone())
        });
        first.until("the first has given half away", |w| w.held.len() == 3);
        first.until_quiet();
        while !second.is_finished() {
            first.turn();
        }
        second.join().unwrap()
    });
    assert!(second_joined.0 > 0, "the second member got nothing to do");
    // The second is gone (dropped): its partitions come back, and what is new in them is handled.
    append_numbers(bus, &input, 2 * ROUND..3 * ROUND);
    first.until("the first has all again", |w| w.held.len() == 6);
    first.until_quiet();

    let mut seen: Vec<u32> = values(&read_all(bus, &output)).iter().map(|v| v.parse().unwrap()).collect();
    let total = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(total, seen.len(), "some were handled twice");
    assert_eq!(seen.len(), 3 * ROUND, "some were lost");
}

pub fn a_commit_without_offsets_is_visible_and_moves_nothing(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 2), topic(bus, "out", 1));
    let member = member("timers", &[&input]);
    let mut session = bus.join(&member).unwrap();
    wait_assigned(session.as_mut());
    for n in 0..3 {
        let outputs = vec![record(&output, "timer", &n.to_string())];
        session.commit(Transaction { outputs, offsets: BTreeMap::new() }).unwrap();
    }
    assert_eq!(values(&read_all(bus, &output)), ["0", "1", "2"]);
    append_numbers(bus, &input, 0..2);
    drop(session);
    let done = topic(bus, "done", 1);
    assert_eq!(process(bus, &member, &done, 2).len(), 2);
}

pub fn a_commit_without_a_partition_is_refused(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 1), topic(bus, "out", 1));
    let mut session = bus.join(&member("early", &[&input])).unwrap();
    // Before the first `Assigned` this member holds nothing by which it could be fenced.
    let outcome = session.commit(Transaction { outputs: vec![record(&output, "k", "v")], offsets: BTreeMap::new() });
    assert!(outcome.is_err(), "a commit that nothing fences must not go through");
    assert!(read_all(bus, &output).is_empty());
}

// --- polling ---------------------------------------------------------------------------------------------------------

pub fn a_session_gives_offsets_in_order_and_within_the_limit(bed: &dyn Bed) {
    let bus = bed.bus();
    let input = topic(bus, "in", 3);
    append_numbers(bus, &input, 0..500);
    let mut session = bus.join(&member("order", &[&input])).unwrap();
    let mut last: BTreeMap<u32, (i64, u32)> = BTreeMap::new();
    let (mut count, until) = (0, Instant::now() + PATIENCE);
    while count < 500 {
        assert!(Instant::now() < until, "only {count} of 500 records came");
        let limit = BatchLimit::new(7, 1 << 20);
        if let Poll::Batch(batch) = session.poll(limit, Duration::from_millis(200)).unwrap() {
            assert!(batch.len() <= 7, "{} records in a batch of at most 7", batch.len());
            for r in &batch {
                let value: u32 = text(r).parse().unwrap();
                if let Some((offset, before)) = last.insert(r.partition, (r.offset, value)) {
                    assert!(offset < r.offset && before < value, "partition {} went back", r.partition);
                }
            }
            count += batch.len();
            if !batch.is_empty() {
                session.commit(Transaction { outputs: vec![], offsets: offsets_after(&batch) }).unwrap();
            }
        }
    }
    assert_eq!(count, 500);

    // A batch ends by bytes as well; one record always fits.
    append(bus, (0..4).map(|_| Outgoing { partition: Some(0), ..record(&input, "k", &"x".repeat(1000)) }).collect());
    let (mut count, until) = (0, Instant::now() + PATIENCE);
    while count < 4 {
        assert!(Instant::now() < until, "only {count} of 4 records came");
        if let Poll::Batch(batch) = session.poll(BatchLimit::new(100, 10), Duration::from_millis(200)).unwrap() {
            assert!(batch.len() <= 1, "{} records of 1,000 bytes in a batch of 10 bytes", batch.len());
            count += batch.len();
        }
    }
}

pub fn a_poll_waits_no_longer_than_it_is_told(bed: &dyn Bed) {
    let bus = bed.bus();
    let input = topic(bus, "in", 1);
    let mut session = bus.join(&member("waits", &[&input])).unwrap();
    wait_assigned(session.as_mut());
    for wait in [0, 20, 300] {
        let wait = Duration::from_millis(wait);
        let mut shortest = Duration::MAX;
        for _ in 0..3 {
            let started = Instant::now();
            match session.poll(LIMIT, wait).unwrap() {
                Poll::Batch(batch) => assert!(batch.is_empty()),
                other => panic!("nothing had to happen: {other:?}"),
            }
            shortest = shortest.min(started.elapsed());
        }
        assert!(shortest < wait + Duration::from_millis(200), "waited {shortest:?} instead of {wait:?}");
    }
    // And no longer than it must: a record ends the wait.
    append_numbers(bus, &input, 0..1);
    let started = Instant::now();
    assert_eq!(next_batch(session.as_mut()).len(), 1);
    assert!(started.elapsed() < Duration::from_secs(3));
}

pub fn a_paused_partition_gives_nothing_loses_nothing_and_holds_up_no_other(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 2), topic(bus, "out", 1));
    let (held, other) = ((input.clone(), 0), (input.clone(), 1));
    let both = |values: &[&str]| {
        let to = |partition| Outgoing { partition: Some(partition), ..record(&input, "k", "") };
        let records = (0..2).flat_map(|partition| {
            values
                .iter()
                .map(move |v| (partition, v))
                .map(|(p, v)| Outgoing { value: Some((*v).to_owned().into()), ..to(p) })
        });
        append(bus, records.collect());
    };
    both(&["0", "1"]);
    let member = member("pauses", &[&held.0]);
    let mut session = bus.join(&member).unwrap();
    assert_eq!(wait_assigned(session.as_mut()).len(), 2);
    // At once, as one does whose state is not there yet; and a partition that isn't this member's is passed over.
    session.pause(&[held.clone(), ("elsewhere".to_owned(), 7)]).unwrap();
    let take = |session: &mut dyn Session, count: usize| {
        let mut taken = Vec::new();
        while taken.len() < count {
            let batch = next_batch(session);
            session.commit(Transaction { outputs: vec![], offsets: offsets_after(&batch) }).unwrap();
            taken.extend(batch);
        }
        taken
    };
    let of = |records: &[Incoming], partition: u32| {
        values(&records.iter().filter(|r| r.partition == partition).cloned().collect::<Vec<_>>())
    };
    let taken = take(session.as_mut(), 2);
    assert_eq!((of(&taken, 0), of(&taken, 1)), (vec![], vec!["0".to_owned(), "1".to_owned()]));
    expect_quiet_on(session.as_mut(), "a paused partition gave a record");
    session.resume(std::slice::from_ref(&held)).unwrap();
    assert_eq!(of(&take(session.as_mut(), 2), 0), ["0", "1"], "what waited comes, from where it stood");

    // Paused in the middle of what was fetched ahead, and again after a batch that was not committed.
    both(&["2", "3", "4"]);
    let first = match session.poll(BatchLimit::new(1, 1 << 20), PATIENCE).unwrap() {
        Poll::Batch(batch) => batch,
        other => panic!("expected a batch, got {other:?}"),
    };
    session.commit(Transaction { outputs: vec![], offsets: offsets_after(&first) }).unwrap();
    session.pause(&[held.clone(), other.clone()]).unwrap();
    expect_quiet_on(session.as_mut(), "paused partitions gave a record");
    session.resume(&[other, held.clone()]).unwrap();
    let mut taken = first;
    taken.extend(take(session.as_mut(), 5));
    for partition in 0..2 {
        assert_eq!(of(&taken, partition), ["2", "3", "4"], "of partition {partition}, each once");
    }
    // A pause ends with the assignment: whoever takes up the partition next is not held back by it.
    session.pause(std::slice::from_ref(&held)).unwrap();
    both(&["5"]);
    drop(session);
    let mut rest = process(bus, &member, &output, 2);
    rest.sort();
    assert_eq!(rest, ["5", "5"]);
}

pub fn a_commit_of_many_outputs_arrives_whole(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 1), topic(bus, "out", 3));
    append_numbers(bus, &input, 0..1);
    let mut session = bus.join(&member("many", &[&input])).unwrap();
    let batch = next_batch(session.as_mut());
    let outputs = (0..20_000).map(|n| record(&output, &n.to_string(), &"y".repeat(200))).collect();
    session.commit(Transaction { outputs, offsets: offsets_after(&batch) }).unwrap();
    let keys: BTreeSet<Vec<u8>> = read_all(bus, &output).into_iter().filter_map(|r| r.key).collect();
    assert_eq!(keys.len(), 20_000);
}

// --- records ---------------------------------------------------------------------------------------------------------

pub fn keys_values_headers_and_times_come_back_as_they_went(bed: &dyn Bed) {
    let bus = bed.bus();
    let output = topic(bus, "out", 1);
    let header = |k: &str, v: &[u8]| (k.into(), v.to_vec().into());
    let plain = Outgoing { topic: output.clone(), partition: Some(0), key: None, value: None, headers: vec![] };
    let sent = vec![
        Outgoing { key: Some(b"k".to_vec()), value: Some("v".into()), ..plain.clone() },
        Outgoing { key: Some(b"tombstone".to_vec()), ..plain.clone() },
        Outgoing { key: Some(b"empty value".to_vec()), value: Some("".into()), ..plain.clone() },
        Outgoing { value: Some("no key".into()), ..plain.clone() },
        Outgoing { key: Some(vec![]), value: Some("empty key".into()), ..plain.clone() },
        Outgoing {
            key: Some(vec![0, 255, 1]),
            value: Some((0..=255).collect()),
            headers: vec![
                header("ce_id", b"1"),
                header("empty", b""),
                header("ce_id", b"the same name again"),
                header("bytes", &[0, 159, 146, 150]),
            ],
            ..plain
        },
    ];
    let now = || i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let before = now();
    append(bus, sent.clone());
    let after = now();
    let got = read_all(bus, &output);
    assert_eq!(got.len(), sent.len());
    for (got, sent) in got.iter().zip(&sent) {
        assert_eq!((&got.key, &got.value, &got.headers), (&sent.key, &sent.value, &sent.headers));
        assert!((before - 1000..=after + 1000).contains(&got.timestamp.0), "{} is not now", got.timestamp);
    }

    // A session gives the same.
    let mut session = bus.join(&member("headers", &[&output])).unwrap();
    let mut again = Vec::new();
    while again.len() < sent.len() {
        again.extend(next_batch(session.as_mut()));
    }
    assert_eq!(again, got);
}

pub fn a_key_goes_to_the_partition_that_java_would_choose(bed: &dyn Bed) {
    let bus = bed.bus();
    let output = topic(bus, "out", 7);
    let keys: Vec<String> = (0..200).map(|n| format!("worker-{n}")).chain(["".into(), "21".into()]).collect();
    append(bus, keys.iter().map(|k| record(&output, k, "v")).collect());
    let got = read_all(bus, &output);
    assert_eq!(got.len(), keys.len());
    for r in &got {
        let key = RoutingKey::of(&"acme".into(), str::from_utf8(r.key.as_ref().unwrap()).unwrap());
        assert_eq!(r.partition, key.partition(7).0, "key {key}");
    }
    assert_eq!(got.iter().map(|r| r.partition).collect::<BTreeSet<_>>().len(), 7);
}

pub fn what_is_too_large_is_refused_and_the_batch_stays_open(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 1), topic(bus, "out", 1));
    append_numbers(bus, &input, 0..1);
    let member = member("large", &[&input]);
    let mut session = bus.join(&member).unwrap();
    let batch = next_batch(session.as_mut());
    let outputs = vec![record(&output, "k", "small"), record(&output, "k", &"z".repeat(bed.too_large()))];
    match session.commit(Transaction { outputs, offsets: offsets_after(&batch) }) {
        Err(CommitError::Bus(BusError::TooLarge { topic, bytes, limit })) => {
            assert_eq!(topic, output);
            assert!(bytes > limit, "{bytes} is not more than {limit}");
        }
        other => panic!("expected TooLarge, got {other:?}"),
    }
    assert!(read_all(bus, &output).is_empty());
    // The same batch can be committed otherwise, without reading it again.
    let outputs = vec![record(&output, "k", "said that it was too large")];
    session.commit(Transaction { outputs, offsets: offsets_after(&batch) }).unwrap();
    assert_eq!(values(&read_all(bus, &output)), ["said that it was too large"]);
    expect_quiet(session.as_mut(), "the batch came again");
}

pub fn append_writes_all_or_nothing(bed: &dyn Bed) {
    let bus = bed.bus();
    let (one, two) = (topic(bus, "one", 3), topic(bus, "two", 1));
    append(bus, vec![record(&one, "a", "1"), record(&two, "a", "1"), record(&one, "b", "2")]);
    assert_eq!(read_all(bus, &one).len(), 2);
    assert_eq!(values(&read_all(bus, &two)), ["1"]);

    let large = bus.append(vec![record(&one, "a", "3"), record(&two, "a", &"z".repeat(bed.too_large()))]);
    assert!(matches!(large, Err(BusError::TooLarge { .. })), "{large:?}");
    let unknown = bus.append(vec![record(&one, "a", "4"), record(&unique("never-made"), "a", "4")]);
    assert!(matches!(unknown, Err(BusError::Failed { .. })), "{unknown:?}");
    let partition = bus.append(vec![record(&one, "a", "5"), Outgoing { partition: Some(9), ..record(&two, "a", "5") }]);
    assert!(matches!(partition, Err(BusError::Failed { .. })), "{partition:?}");
    assert_eq!(read_all(bus, &one).len(), 2, "of a refused append nothing may show");
    assert_eq!(read_all(bus, &two).len(), 1);

    append(bus, vec![]);
    append(bus, vec![record(&two, "a", "6")]);
    assert_eq!(values(&read_all(bus, &two)), ["1", "6"], "a refusal doesn't spoil the next append");
}

// --- topics ----------------------------------------------------------------------------------------------------------

pub fn a_topic_that_is_not_there_is_named(bed: &dyn Bed) {
    let bus = bed.bus();
    let (missing, input) = (unique("missing"), topic(bus, "in", 1));
    assert_eq!(bus.partitions(&missing).unwrap(), None);
    assert_eq!(bus.describe(std::slice::from_ref(&missing)).unwrap()[0].found, None);
    let names = |error: BusError| assert!(error.to_string().contains(&missing), "{error}");
    names(bus.ends(&missing, 0).unwrap_err());
    names(bus.join(&member("missing", &[&input, &missing])).map(|_| ()).unwrap_err());
    names(bus.append(vec![record(&missing, "k", "v")]).unwrap_err());
    assert!(bus.ends(&input, 5).is_err(), "a partition that is not there has no ends");

    append_numbers(bus, &input, 0..1);
    let mut session = bus.join(&member("missing", &[&input])).unwrap();
    let batch = next_batch(session.as_mut());
    let outputs = vec![record(&missing, "k", "v")];
    match session.commit(Transaction { outputs, offsets: offsets_after(&batch) }) {
        Err(CommitError::Bus(error)) => names(error),
        other => panic!("expected an error that names the topic, got {other:?}"),
    }
    assert_eq!(bus.partitions(&missing).unwrap(), None, "asking must not make it");
}

pub fn ends_of_an_empty_topic_are_equal(bed: &dyn Bed) {
    let bus = bed.bus();
    let empty = topic(bus, "empty", 2);
    for p in 0..2 {
        let ends = bus.ends(&empty, p).unwrap();
        assert_eq!((ends.start, ends.end), (0, 0));
    }
    assert!(read_all(bus, &empty).is_empty());
}

pub fn topics_are_made_and_set_as_told(bed: &dyn Bed) {
    let bus = bed.bus();
    let name = topic_with(bus, "settings", 3, &[("cleanup.policy", "compact"), ("max.message.bytes", "300000")]);
    assert_eq!(bus.partitions(&name).unwrap(), Some(3));
    let found = |name: &str| bus.describe(&[name.to_owned()]).unwrap().remove(0).found.unwrap();
    let state = found(&name);
    assert_eq!(state.partitions, 3);
    assert_eq!(state.settings["cleanup.policy"], "compact");
    assert_eq!(state.settings["max.message.bytes"], "300000");

    bus.configure(&name, &[("delete.retention.ms".to_owned(), "123456".to_owned())].into()).unwrap();
    let until = Instant::now() + PATIENCE;
    while found(&name).settings["delete.retention.ms"] != "123456" {
        assert!(Instant::now() < until, "the setting did not arrive");
    }
    assert_eq!(found(&name).settings["max.message.bytes"], "300000", "what was not named stays as it was");

    let again = bus.create(&[TopicSpec { name, partitions: 5, replicas: None, settings: BTreeMap::new() }]);
    assert!(again.is_err(), "a topic that is there is not made anew");
}
