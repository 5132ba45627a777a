//! What the topics say: which commands were issued, and what came of them.

use lockstep::bus::{Bus, Incoming};
use lockstep::codec::public::PublicCodec;
use lockstep::model::topic::TopicNames;
use lockstep::model::{Command, Outcome, ResultEvent, TargetName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// All records of a topic, partition by partition.
pub fn read_all(bus: &dyn Bus, topic: &str) -> Vec<Incoming> {
    let mut records = Vec::new();
    for partition in 0..bus.partitions(topic).unwrap().unwrap_or(0) {
        let mut reader = bus.reader().unwrap();
        let end = bus.ends(topic, partition).unwrap();
        reader.seek(topic, partition, end.start).unwrap();
        while reader.position(topic, partition).unwrap() < end.end {
            records.extend(reader.poll(1_000, Duration::from_millis(200)).unwrap());
        }
    }
    records
}

/// Counts of what was issued for a target and what came of it.
#[derive(Debug, Default)]
pub struct Ledger {
    pub accounts: usize,
    pub commands: usize,
    pub verified: usize,
    pub superseded: usize,
    pub parked: usize,
}

/// Every account's generations are 1, 2, 3 … in this order, each verified or superseded once, the last verified, and none
/// verified after a newer one. (That one is superseded may be said before the one before it, which is being carried out, is verified.)
pub fn check(bus: &dyn Bus, names: &TopicNames, target: &str) -> Ledger {
    let codec = PublicCodec::new(None);
    let target = TargetName::from(target);
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let mut ledger = Ledger::default();
    for record in read_all(bus, &names.commands(&target)) {
        let command: Command = codec.decode(record.value.as_deref().unwrap()).unwrap();
        let generation = newest.entry(command.account.to_string()).or_default();
        assert_eq!(command.generation.0, *generation + 1, "{} at {}", command.account, record.offset);
        *generation += 1;
        ledger.commands += 1;
    }
    ledger.accounts = newest.len();
    let mut settled: BTreeSet<(String, u64)> = BTreeSet::new();
    let mut verified: BTreeMap<String, u64> = BTreeMap::new();
    for record in read_all(bus, &names.results()) {
        let result: ResultEvent = codec.decode(record.value.as_deref().unwrap()).unwrap();
        if result.target != target {
            continue;
        }
        let (account, generation) = (result.account.0.clone(), result.generation.0);
        match result.outcome {
            Outcome::Verified => {
                ledger.verified += 1;
                let before = verified.insert(account.to_string(), generation).unwrap_or_default();
                assert!(before < generation, "{account}: generation {generation} is verified after {before}");
            }
            Outcome::Superseded => ledger.superseded += 1,
            Outcome::Parked => {
                ledger.parked += 1;
                continue;
            }
            outcome => panic!("{} of {account}: {}", outcome.as_str(), result.message.unwrap_or_default()),
        }
        assert!(settled.insert((account.to_string(), generation)), "{account}: two results of generation {generation}");
    }
    assert_eq!(verified, newest, "the newest command of every account is verified");
    assert_eq!(settled.len(), ledger.commands, "every command has a result");
    for topic in [names.source_dead_letters(), names.dead_letters(&target)] {
        assert_eq!(read_all(bus, &topic).len(), 0, "{topic} is empty");
    }
    ledger
}
