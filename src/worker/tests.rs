//! The lane loop on an embedded bus in memory, with calls that the test ends.

use super::{LaneLoop, LaneSettings, Newest, StartedCall};
use crate::bus::embedded::{Clock as _, EmbeddedBus, VirtualClock};
use crate::bus::{Bus, Outgoing, topics};
use crate::codec::public::PublicCodec;
use crate::lane::{self, Lane, RetryPolicy};
use crate::model::topic::TopicNames;
use crate::model::{AccountId, Command, Generation, Op, Timestamp, envelope};
use crate::rules::PublicFormat;
use crate::store::memory::MemoryStores;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

struct Bench {
    bus: Arc<EmbeddedBus>,
    names: TopicNames,
    codec: Arc<PublicCodec>,
    clock: VirtualClock,
}

impl Bench {
    fn new() -> Self {
        let clock = VirtualClock::at(Timestamp(1_000));
        let bus = Arc::new(EmbeddedBus::memory(Arc::new(clock.clone())));
        let names = TopicNames::new("lockstep.".to_owned());
        let wishes = topics::Wishes { command_partitions: 1, ..topics::Wishes::default() };
        bus.create(&topics::specs(&names, &["wiki".into()], &wishes)).unwrap();
        Self { bus, names, codec: Arc::new(PublicCodec::new(None)), clock }
    }

    fn worker(&self) -> LaneLoop {
        let settings = LaneSettings {
            topics: self.names.clone(),
            target: "wiki".into(),
            group: "wiki".into(),
            instance: "one".into(),
            format: PublicFormat::Json,
            policy: RetryPolicy::new(CALL_TIMEOUT, Instant::now()),
            concurrency: 4,
            dead_letter_bytes: 1 << 20,
        };
        LaneLoop::start(
            settings,
            Arc::clone(&self.bus) as Arc<dyn Bus>,
            // Each process has a disk of its own: what it knows it has from the changelog.
            Arc::new(MemoryStores::new()),
            Arc::clone(&self.codec),
            Arc::default(),
            Arc::new(Newest::new()),
            Arc::new(self.clock.clone()),
        )
        .unwrap()
    }

    fn send(&self, account: &str, generation: u64, op: Op) {
        let command = command(account, generation, op);
        let topic = self.names.commands(&"wiki".into());
        let encoded = self.codec.encode(PublicFormat::Json, &topic, &command).unwrap();
        self.append(topic, account, encoded.value);
    }

    fn append(&self, topic: String, account: &str, value: Vec<u8>) {
        let record = Outgoing {
            topic,
            partition: Some(0),
            key: Some(account.into()),
            value: Some(value.into()),
            headers: Vec::new(),
        };
        self.bus.append(vec![record]).unwrap();
    }

    fn damage(&self, account: &str) {
        self.append(self.names.lanes(&"wiki".into()), account, b"\xffno row".to_vec());
    }

    /// The newest row of the changelog, if it can be read.
    fn row(&self, account: &str) -> Option<Lane> {
        let topic = self.names.lanes(&"wiki".into());
        let mut reader = self.bus.reader().unwrap();
        reader.seek(&topic, 0, 0).unwrap();
        let rows = reader.poll(1_000, Duration::ZERO).unwrap();
        let newest = rows.iter().rev().find(|row| row.key.as_deref() == Some(account.as_bytes()))?;
        envelope::open(newest.value.as_deref()?).ok()
    }

    fn later(&self, by: Duration) {
        self.clock.set(self.clock.now().plus(by));
    }
}

fn command(account: &str, generation: u64, op: Op) -> Command {
    Command { account: AccountId::from(account), target: "wiki".into(), ..*lane::tests::command(generation, op) }
}

/// A few turns, in which nothing ends.
fn calls(worker: &mut LaneLoop) -> Vec<StartedCall> {
    (0..4).flat_map(|_| worker.turn(Vec::new(), Duration::ZERO).unwrap()).collect()
}

fn said(calls: &[StartedCall]) -> Vec<(&str, u64, Op, bool)> {
    calls
        .iter()
        .map(|started| {
            let call = &started.call;
            (call.command.account.as_str(), call.command.generation.0, call.op, call.read_first)
        })
        .collect()
}

#[test]
fn a_lane_whose_row_cannot_be_read_goes_on_with_its_newest_command() {
    let bench = Bench::new();
    bench.send("leaver", 1, Op::Create);
    bench.send("other", 1, Op::Create);
    bench.send("leaver", 2, Op::Disable);
    let mut first = bench.worker();
    // Both calls have begun when the process dies, and then one of the rows is lost.
    let begun = calls(&mut first);
    assert_eq!(said(&begun), [("leaver", 2, Op::Disable, false), ("other", 1, Op::Create, false)]);
    drop(first);
    bench.damage("leaver");

    let mut second = bench.worker();
    assert!(calls(&mut second).is_empty(), "a call of before may still arrive");
    assert_eq!(bench.row("leaver").map(|lane| lane.seen), Some(Generation(2)), "the next process need not look again");
    bench.later(CALL_TIMEOUT);
    let again = calls(&mut second);
    assert_eq!(said(&again), [("leaver", 2, Op::Disable, true), ("other", 1, Op::Create, true)], "both look first");
    // What was overtaken stays so: the fence is there again.
    bench.send("leaver", 1, Op::Create);
    assert!(calls(&mut second).is_empty());
}

#[test]
fn a_lane_that_stands_in_no_log_starts_anew_with_its_next_command() {
    let bench = Bench::new();
    bench.damage("leaver");
    let mut worker = bench.worker();
    assert!(calls(&mut worker).is_empty());
    assert_eq!(bench.row("leaver"), Some(Lane::default()));
    bench.send("leaver", 7, Op::Disable);
    assert_eq!(said(&calls(&mut worker)), [("leaver", 7, Op::Disable, false)]);
}
