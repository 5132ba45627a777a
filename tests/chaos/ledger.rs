//! What the topics say: which commands were issued, what came of them, and what was alerted on.

use lockstep::bus::{Bus, Incoming};
use lockstep::codec::public::PublicCodec;
use lockstep::model::topic::TopicNames;
use lockstep::model::{Alert, Command, Outcome, ResultEvent, TargetName, Value};
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

/// What was issued for a target and what came of it.
#[derive(Debug, Default)]
pub struct Ledger {
    pub accounts: usize,
    pub commands: usize,
    pub verified: usize,
    pub superseded: usize,
    pub parked: usize,
    /// By user name: the attribute `version` of every command, in their order.
    versions: BTreeMap<String, Vec<u64>>,
}

impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { accounts, commands, verified, superseded, parked, .. } = self;
        write!(
            f,
            "{commands} commands for {accounts} accounts: {verified} verified, {superseded} superseded, {parked} parked"
        )
    }
}

impl Ledger {
    /// Of people who were in all the time every change has its command, once: nothing was lost between an event and its
    /// command, and nothing was decided twice. Only what comes in before the record has its route is told as one. `changes`:
    /// how often each changed, by number.
    pub fn every_change_has_one_command(&self, changes: &BTreeMap<String, u64>) {
        let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (name, versions) in &self.versions {
            let number = name.chars().skip(name.len().saturating_sub(NUMBER_LENGTH)).collect();
            seen.entry(number).or_default().extend(versions);
        }
        for (number, count) in changes {
            let mut versions = seen.remove(number).unwrap_or_default();
            versions.sort_unstable();
            let first = versions.first().copied().unwrap_or(1);
            assert_eq!(versions, (first..=*count).collect::<Vec<_>>(), "the commands of person {number}, by version");
        }
    }
}

/// Digits of a person's number, with which a user name ends.
const NUMBER_LENGTH: usize = 5;

/// All alerts, in their order.
pub fn alerts(bus: &dyn Bus, names: &TopicNames) -> Vec<Alert> {
    let codec = PublicCodec::new(None);
    let records = read_all(bus, &names.alerts());
    records.into_iter().map(|record| codec.decode(record.value.as_deref().unwrap()).unwrap()).collect()
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
        let text = |name: &str| command.desired.attributes.get(name).and_then(Value::as_text);
        if let (Some(name), Some(version)) = (text("userName"), text("version")) {
            ledger.versions.entry(name.to_owned()).or_default().push(version.parse().unwrap());
        }
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
    let open: Vec<String> = newest
        .iter()
        .flat_map(|(account, last)| (1..=*last).map(move |generation| (account.clone(), generation)))
        .filter(|command| !settled.contains(command))
        .map(|(account, generation)| format!("{account}@{generation}"))
        .collect();
    assert!(open.is_empty(), "every command has a result, but {}", open.join(", "));
    for topic in [names.source_dead_letters(), names.dead_letters(&target)] {
        assert_eq!(read_all(bus, &topic).len(), 0, "{topic} is empty");
    }
    ledger
}
