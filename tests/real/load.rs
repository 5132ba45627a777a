//! Load: joiners, movers and leavers through a real Kafka to PostgreSQL and a SCIM server, every account held to the rules.
//!
//! `LOCKSTEP_LOAD=JOINERS,MOVERS,LEAVERS` sets the size; figures come from
//! `LOCKSTEP_LOAD=1000,1000,200 cargo test --release --test real load -- --include-ignored --nocapture`.

use crate::accounts::{Targets, staff, with_staff_groups};
use crate::rig::{Rig, replaced};
use crate::world::{Person, register_hr, settle};
use lockstep::bus::Reader;
use lockstep::model::{AccountId, Command, Decision, DecisionKind, Outcome, ResultEvent, TargetName};
use lockstep::rules::Bundle;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const DEFAULT: &str = "60,60,12";
/// For the default size on a busy machine, and for each person more.
const PATIENCE: Duration = Duration::from_secs(90);
const PATIENCE_EACH: Duration = Duration::from_millis(300);
/// Leavers come one after the other while the movers are still being worked off: each has to overtake them. Faster than the
/// SCIM server disables, and the figure would be of a queue in front of it.
const BETWEEN_LEAVERS: Duration = Duration::from_millis(200);
const FIRST: u32 = 30_000;
const TARGETS: [&str; 2] = ["directory", "staff"];

#[derive(Clone, Copy)]
struct Size {
    joiners: u32,
    movers: u32,
    leavers: u32,
}

impl Size {
    fn asked() -> Self {
        let text = std::env::var("LOCKSTEP_LOAD").unwrap_or_else(|_| DEFAULT.to_owned());
        let numbers: Vec<u32> = text.split(',').map(|number| number.trim().parse().unwrap()).collect();
        let [joiners, movers, leavers] = numbers[..] else {
            panic!("LOCKSTEP_LOAD=JOINERS,MOVERS,LEAVERS, not {text}")
        };
        assert!(movers <= joiners && leavers <= joiners, "who moves or leaves has joined");
        Self { joiners, movers, leavers }
    }

    fn patience(self) -> Duration {
        PATIENCE + PATIENCE_EACH * self.joiners
    }
}

/// Follows `results`: which commands have come to their end.
struct Ends {
    reader: Box<dyn Reader>,
    verified: BTreeSet<(AccountId, u64)>,
    others: BTreeMap<&'static str, u32>,
}

impl Ends {
    fn new(rig: &Rig) -> Self {
        let topic = rig.names.results();
        let mut reader = rig.bus.reader().unwrap();
        for partition in 0..rig.bus.partitions(&topic).unwrap().unwrap() {
            reader.seek(&topic, partition, 0).unwrap();
        }
        Self { reader, verified: BTreeSet::new(), others: BTreeMap::new() }
    }

    fn read(&mut self, rig: &Rig) {
        for record in self.reader.poll(100_000, Duration::from_millis(20)).unwrap() {
            let result: ResultEvent = rig.codec.decode(record.value.as_deref().unwrap()).unwrap();
            if result.outcome == Outcome::Verified {
                self.verified.insert((result.account, result.generation.0));
            } else {
                *self.others.entry(result.outcome.as_str()).or_default() += 1;
            }
        }
    }
}

struct Load {
    size: Size,
    rig: Rig,
    targets: Targets,
    people: Vec<Person>,
    frame: Vec<u8>,
    ends: RefCell<Ends>,
}

impl Load {
    fn begin(size: Size) -> Self {
        let mut rig = Rig::new("kafka", |path, text| match path {
            "sources/hr.yaml" => replaced(&text, "format: json", "format: avro").replace("  time: time\n", ""),
            "identity.yaml" => replaced(&text, "limit: 20", "limit: 100000"),
            "entitlements.yaml" => with_staff_groups(&text),
            _ => text,
        });
        rig.write_config("targets/staff.yaml", &staff("disable"));
        let targets = rig.runtime.block_on(Targets::new(&rig.id));
        rig.env.extend(targets.env());
        rig.done(&["topics", "apply"]);
        rig.make_source_topics();
        let frame = register_hr(&rig.registry, &format!("real-{}.hr.workers", rig.id));
        rig.spawn_serving("processor", &["processor"]);
        for target in TARGETS {
            rig.spawn_serving(&format!("worker-{target}"), &["worker", "--target", target]);
        }
        rig.wait_ready(&["processor", "worker-directory", "worker-staff"]);
        let people = (FIRST..FIRST + size.joiners).map(|number| {
            let mut person = Person::new(number);
            // All in departments that both targets know.
            if person.hr["department"] == "Finance" {
                person.set("department", "Sales");
            }
            person
        });
        let people = people.collect();
        let ends = RefCell::new(Ends::new(&rig));
        Self { size, rig, targets, people, frame, ends }
    }

    fn send(&mut self, kind: &str, who: std::ops::Range<usize>) {
        let topic = format!("real-{}.hr.workers", self.rig.id);
        let events = self.people[who].iter_mut().map(|person| person.event(kind, &self.frame)).collect();
        self.rig.append(&topic, events);
    }

    /// Until so many commands are verified; then every account is looked at.
    fn settled(&mut self, wave: &str, verified: usize, began: Instant) {
        let bundle = self.bundle();
        for (target, accounts) in &mut self.targets.expected {
            settle(&bundle, target, accounts, &self.people);
        }
        let ends = &self.ends;
        let what = format!("{verified} commands are verified after {wave}");
        self.rig.until(&what, self.size.patience(), |rig| {
            let mut ends = ends.borrow_mut();
            ends.read(rig);
            if ends.verified.len() >= verified { Ok(()) } else { Err(ends.verified.len().to_string()) }
        });
        let took = began.elapsed().as_secs_f64();
        self.targets.compare(&self.rig.runtime).unwrap_or_else(|wrong| panic!("after {wave}: {wrong}"));
        let accounts: usize = self.targets.expected.values().map(BTreeMap::len).sum();
        println!("{wave}: {took:.1} s; {accounts} accounts are as the rules say");
    }

    fn bundle(&self) -> Bundle {
        self.rig.config().bundle
    }
}

#[test]
#[ignore = "needs Kafka, a registry, PostgreSQL and a SCIM server: tests/run real"]
fn load_loses_nothing_and_doubles_nothing() {
    let size = Size::asked();
    let Size { joiners, movers, leavers } = size;
    println!(
        "{joiners} joiners, {movers} movers, {leavers} leavers, each with an account at {}",
        TARGETS.join(" and ")
    );
    let mut load = Load::begin(size);
    let began = Instant::now();
    load.send("hired", 0..joiners as usize);
    load.settled("joining", 2 * joiners as usize, began);

    let began = Instant::now();
    for person in load.people.iter_mut().take(movers as usize) {
        person.move_on();
    }
    load.send("changed", 0..movers as usize);
    // The last to move are the first to leave.
    for at in (0..joiners as usize).rev().take(leavers as usize) {
        load.people[at].set("status", "terminated");
        load.send("terminated", at..at + 1);
        std::thread::sleep(BETWEEN_LEAVERS);
    }
    let between = BETWEEN_LEAVERS.as_millis();
    println!(
        "a leaver every {between} ms, the last one's event {:.1} s after the movers'",
        began.elapsed().as_secs_f64()
    );
    load.leave_behind(began);

    load.check_commands();
    load.report();
    for name in ["worker-directory", "worker-staff", "processor"] {
        load.rig.stop(name);
    }
    load.rig.runtime.block_on(load.targets.directory.drop());
}

impl Load {
    /// A mover who leaves before the move was carried out is disabled as he was: what his account holds then depends on who
    /// was faster, that it is disabled does not.
    fn leave_behind(&mut self, began: Instant) {
        let leavers: BTreeSet<u32> = self
            .people
            .iter()
            .filter(|person| person.hr["status"] == "terminated")
            .map(|person| person.number)
            .collect();
        let all = usize::try_from(2 * (self.size.joiners + self.size.movers + self.size.leavers)).unwrap();
        let ends = &self.ends;
        let what = format!("{all} commands are verified or superseded");
        self.rig.until(&what, self.size.patience(), |rig| {
            let mut ends = ends.borrow_mut();
            ends.read(rig);
            let superseded = ends.others.get("superseded").copied().unwrap_or_default() as usize;
            let ended = ends.verified.len() + superseded;
            if ended >= all {
                Ok(())
            } else {
                Err(format!("{} verified, {superseded} superseded", ends.verified.len()))
            }
        });
        let took = began.elapsed().as_secs_f64();
        let people = self.people.clone();
        let bundle = self.bundle();
        let runtime = &self.rig.runtime;
        for (target, expected) in &mut self.targets.expected {
            settle(&bundle, target, expected, &people);
            let found = match *target {
                "directory" => runtime.block_on(self.targets.directory.accounts()),
                _ => runtime.block_on(self.targets.staff.accounts()),
            };
            for number in &leavers {
                assert!(!found[number].active, "{number} has left, and is active at {target}");
                expected.insert(*number, found[number].clone());
            }
        }
        self.targets.compare(&self.rig.runtime).unwrap_or_else(|wrong| panic!("after leaving: {wrong}"));
        let accounts: usize = self.targets.expected.values().map(BTreeMap::len).sum();
        println!("moving and leaving: {took:.1} s; {accounts} accounts are as the rules say");
    }

    /// Each change is one command at each target: none lost, none doubled, generations without a gap.
    fn check_commands(&self) {
        let Size { joiners, movers, leavers } = self.size;
        for target in TARGETS {
            let commands = self.rig.commands(target);
            let total: usize = commands.values().map(Vec::len).sum();
            assert_eq!(commands.len(), joiners as usize, "accounts commanded at {target}");
            assert_eq!(total, (joiners + movers + leavers) as usize, "commands to {target}");
            let records = self.rig.documents::<Command>(&self.rig.names.commands(&TargetName::from(target)));
            let keys: BTreeSet<String> = records.iter().map(Command::idempotency_key).collect();
            assert_eq!(keys.len(), records.len(), "each idempotency key once");
            println!("{target}: {total} commands to {} accounts: 0 lost, 0 doubled", commands.len());
        }
        let letters: usize = TARGETS
            .iter()
            .map(|target| self.rig.records(&self.rig.names.dead_letters(&TargetName::from(*target))).len())
            .sum();
        assert_eq!(letters, 0, "dead letters");
    }

    /// From the leaver's event (the broker's timestamp) to the verified disable, from the decisions.
    fn report(&mut self) {
        let (topic, all) = (self.rig.names.decisions(), 2 * self.size.leavers as usize);
        let limit = self.size.patience();
        let verified = self.rig.until("every deprovision is verified", limit, |rig| {
            let decisions: Vec<Decision> = rig.documents(&topic);
            let verified: Vec<(TargetName, u64)> = decisions
                .into_iter()
                .filter_map(|decision| match decision.kind {
                    DecisionKind::DeprovisionVerified { effective, verified } => {
                        let took = u64::try_from(verified.since(effective).as_millis()).unwrap();
                        Some((decision.target?, took))
                    }
                    _ => None,
                })
                .collect();
            if verified.len() == all { Ok(verified) } else { Err(format!("{} of {all}", verified.len())) }
        });
        println!("other results: {:?}", self.ends.borrow().others);
        let of = |target: Option<&str>| {
            let took = verified.iter().filter(|(name, _)| target.is_none_or(|target| name.as_str() == target));
            let mut took: Vec<u64> = took.map(|(_, took)| *took).collect();
            took.sort_unstable();
            took
        };
        for (name, target) in [("directory", Some("directory")), ("staff", Some("staff")), ("both", None)] {
            let took = of(target);
            let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
            println!(
                "leaver's event to verified disable, {name:<9}: p50 {} ms, p99 {} ms, max {} ms of {}",
                at(50),
                at(99),
                at(100),
                took.len()
            );
        }
    }
}
