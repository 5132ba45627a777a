//! A whole installation on a cluster of three brokers, under a steady load, while brokers and processes are killed, hung, cut
//! off and restarted. What is there in the end is what is there without any of it.

use crate::cluster::{BROKERS, Cluster};
use crate::fault::{BrokerFault, Plan, ProcessFault};
use crate::fleet::Fleet;
use crate::ledger;
use crate::load::{DEADLINE_S, Load};
use crate::stage::{Feeder, Stage};
use crate::{number, seed};
use lockstep::model::{AlertKind, AlertState};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TARGETS: [&str; 2] = ["directory", "wiki"];
const PEOPLE: usize = 400;
/// Some 40 events a second.
const PACE: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 8;

/// How often each was done.
type Counts = BTreeMap<&'static str, usize>;

#[test]
#[ignore = "needs three Kafka brokers, toxiproxy, PostgreSQL: tests/run chaos"]
fn an_installation_in_a_storm_loses_and_doubles_nothing() {
    let (seed, minutes) = (seed(), number("LOCKSTEP_CHAOS_MINUTES", 0));
    println!("seed {seed}: one fault of each kind, and on for {minutes} minutes");
    let began = Instant::now();
    let cluster = Cluster::join();
    let stage = Stage::set("storm", &cluster.place(), &TARGETS);
    let mut fleet = Fleet::start(&stage, true);
    println!("{:?}: all processes are ready", began.elapsed());
    let feeder = Feeder::start(&stage, Load::new(seed, PEOPLE), AT_ONCE, PACE);
    let storm = Instant::now();
    let until = storm + Duration::from_secs(60 * minutes);
    let counts = std::thread::scope(|scope| {
        let brokers = scope.spawn(|| disturb_brokers(&cluster, seed, storm, until));
        let mut counts = disturb_processes(&cluster, &stage, &mut fleet, seed, storm, until);
        counts.extend(brokers.join().unwrap());
        counts
    });
    let lasted = storm.elapsed();
    fleet.wait_until_ready();
    let (load, events) = feeder.stop();
    println!("{:?}: the storm is over after {lasted:?}, {} events", began.elapsed(), events.len());

    let undisturbed = Stage::set("calm", &cluster.place(), &TARGETS);
    let _processes = undisturbed.run_undisturbed(&events, &load);
    println!("{:?}: the run without kills is done", began.elapsed());
    fleet.wait_until_ready();
    stage.settle(&load);
    stage.quiet();
    undisturbed.quiet();
    let done = counts.values().sum::<usize>();
    fleet.supervise();
    let ledgers = stage.audit(&load, &undisturbed);
    let overdue = no_access_past_its_deadline_without_an_alert(&stage);
    println!("{}", stage.logs());
    println!(
        "seed {seed}, {lasted:?} of storm: {done} faults, {counts:?}; processes that ended by themselves: {:?}",
        fleet.own_ends()
    );
    println!(
        "the auditor finds nothing lost, doubled or overtaken in {} events and {} commands; {overdue} removals were late, \
         each with its alert; took {:?}",
        events.len(),
        ledgers.iter().map(|ledger| ledger.commands).sum::<usize>(),
        began.elapsed()
    );
}

/// A round of faults at least, and on until it is time.
fn disturb_brokers(cluster: &Cluster, seed: u64, storm: Instant, until: Instant) -> Counts {
    let (mut plan, mut counts, mut round) = (Plan::for_brokers(seed), Counts::new(), 0);
    while round == 0 || Instant::now() < until {
        let planned = plan.next();
        std::thread::sleep(planned.pause);
        println!("{:7.1?}  {:?}", storm.elapsed(), planned.fault);
        let (what, times) = match planned.fault {
            BrokerFault::Kill(broker, down) => {
                cluster.kill(broker);
                std::thread::sleep(down);
                cluster.start(broker);
                ("brokers killed", 1)
            }
            BrokerFault::KillController(down) => {
                let broker = cluster.controller();
                cluster.kill(broker);
                std::thread::sleep(down);
                cluster.start(broker);
                ("controllers killed", 1)
            }
            BrokerFault::Roll => {
                for broker in BROKERS {
                    cluster.stop(broker);
                    cluster.start(broker);
                }
                ("brokers restarted in turn", BROKERS.len())
            }
        };
        *counts.entry(what).or_default() += times;
        round += usize::from(plan.is_between_rounds());
    }
    counts
}

fn disturb_processes(
    cluster: &Cluster,
    stage: &Stage,
    fleet: &mut Fleet<'_>,
    seed: u64,
    storm: Instant,
    until: Instant,
) -> Counts {
    let (mut plan, mut counts, mut round) = (Plan::for_processes(seed), Counts::new(), 0);
    while round == 0 || Instant::now() < until {
        let planned = plan.next();
        std::thread::sleep(planned.pause);
        println!("{:7.1?}  {:?}", storm.elapsed(), planned.fault);
        fleet.supervise();
        let (what, times) = match planned.fault {
            ProcessFault::KillProcessor(n, down) => {
                fleet.processors[n].kill(stage, down);
                fleet.processors[n].wait_until_ready(stage);
                ("processors killed", 1)
            }
            ProcessFault::KillWorker(n, down) => {
                fleet.workers[n].kill(stage, down);
                fleet.workers[n].wait_until_ready(stage);
                ("workers killed", 1)
            }
            ProcessFault::HangProcessor(n, how_long) => {
                fleet.processors[n].hang(stage, how_long);
                ("processors hung and woken", 1)
            }
            ProcessFault::ReplaceHungProcessor(n, after) => {
                fleet.processors[n].hang_and_replace(stage, after);
                ("processors hung, replaced, woken and fenced", 1)
            }
            ProcessFault::HangWorker(n, how_long) => {
                fleet.workers[n].hang(stage, how_long);
                ("workers hung and woken", 1)
            }
            ProcessFault::Cut(brokers, cut, how_long) => {
                cluster.cut(&brokers, cut);
                std::thread::sleep(how_long);
                cluster.mend();
                ("networks cut", 1)
            }
            ProcessFault::RollProcessors => {
                let away = fleet.roll_processors();
                ("processors restarted in turn", away.len())
            }
        };
        *counts.entry(what).or_default() += times;
        round += usize::from(plan.is_between_rounds());
    }
    counts
}

/// By the times of the source's records and of the changes in the target itself: who was out and could still get in when the
/// deadline was over has an alert of then, and every alert is resolved. Gives how many were late.
fn no_access_past_its_deadline_without_an_alert(stage: &Stage) -> usize {
    let alerts = ledger::alerts(stage.bus.as_ref(), &stage.names);
    let mut open: BTreeMap<&str, &lockstep::model::Alert> = BTreeMap::new();
    for alert in &alerts {
        assert_eq!(alert.kind, AlertKind::DeprovisionOverdue, "nothing else is to be alerted on: {alert:?}");
        let all_of_it = || {
            let own = alerts.iter().filter(|one| one.key == alert.key);
            own.map(|one| format!("\n{} {:?}: {}", one.at, one.state, one.message)).collect::<String>()
        };
        match alert.state {
            AlertState::Raised => {
                assert!(open.insert(&alert.key, alert).is_none(), "raised twice: {alert:?}{}", all_of_it());
            }
            AlertState::Resolved => {
                assert!(open.remove(alert.key.as_str()).is_some(), "never raised: {alert:?}{}", all_of_it());
            }
        }
    }
    assert!(open.is_empty(), "never resolved: {open:?}");

    let changes = stage.targets["directory"].changes_of_access();
    let mut late = 0;
    for (number, out) in times_out(stage) {
        let Some((account, changes)) = changes.get(&number) else { continue };
        for (from, to) in out {
            let deadline = from + i64::try_from(DEADLINE_S * 1_000).unwrap();
            let in_at_deadline = changes.iter().rfind(|(at, _)| *at <= deadline).is_some_and(|(_, active)| *active);
            let removed = changes.iter().find(|(at, active)| !active && *at > deadline && *at < to);
            let (true, Some((removed, _))) = (in_at_deadline, removed) else { continue };
            late += 1;
            let alerted = alerts.iter().any(|alert| {
                alert.account.as_ref().is_some_and(|id| id.to_string() == *account)
                    && alert.state == AlertState::Raised
                    && alert.at.0 >= deadline
            });
            assert!(
                alerted,
                "{account} was to be out by {deadline} and was {} ms later, without an alert\n{}",
                removed - deadline,
                stage.logs()
            );
        }
    }
    late
}

/// When each person was out, by number: from the time of the source's record to that of the one that let them in again.
fn times_out(stage: &Stage) -> BTreeMap<String, Vec<(i64, i64)>> {
    let mut sequences: BTreeMap<String, u64> = BTreeMap::new();
    let mut out: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
    for record in ledger::read_all(stage.bus.as_ref(), stage.source()) {
        let event: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        let number = event["worker"]["employeeNumber"].as_str().unwrap().to_owned();
        let sequence = event["sequence"].as_u64().unwrap();
        let newest = sequences.entry(number.clone()).or_default();
        if sequence <= *newest {
            continue; // Redelivered.
        }
        *newest = sequence;
        let times = out.entry(number).or_default();
        let is_out = times.last().is_some_and(|(_, to)| *to == i64::MAX);
        match (is_out, event["worker"]["status"] == "active") {
            (false, false) => times.push((record.timestamp.0, i64::MAX)),
            (true, true) => times.last_mut().unwrap().1 = record.timestamp.0,
            _ => {}
        }
    }
    out
}

/// What a processor says whenever the group has assigned it partitions.
const TAKEN_UP: [&str; 2] = ["assigned and restored", "partitions taken up"];

/// Static members keep their partitions over a restart within the session time-out.
#[test]
#[ignore = "needs three Kafka brokers, toxiproxy, PostgreSQL: tests/run chaos"]
fn a_rolling_restart_of_three_processors_moves_no_partition() {
    let cluster = Cluster::join();
    let stage = Stage::set("rolling", &cluster.place(), &TARGETS[..1]);
    let mut fleet = Fleet::start(&stage, false);
    let feeder = Feeder::start(&stage, Load::new(seed(), PEOPLE), AT_ONCE, PACE);
    let group = format!("{}processor", stage.names.prefix);
    let held = cluster.partitions_of(&group);
    assert_eq!(held.len(), 3, "each has some: {held:?}");
    let assignments = |stage: &Stage| -> Vec<usize> {
        let log = |n: usize| stage.log(&format!("processor-{n}"));
        (1..=3).map(|n| TAKEN_UP.iter().map(|said| log(n).matches(said).count()).sum()).collect()
    };
    let before = assignments(&stage);
    let away = fleet.roll_processors();
    let after = assignments(&stage);
    println!("away for {away:?}; assignments before {before:?}, after {after:?}");
    let expected: Vec<usize> = before.iter().map(|count| count + 1).collect();
    assert_eq!(after, expected, "each is assigned its own once, when it is back, and nobody else is\n{}", stage.logs());
    assert_eq!(cluster.partitions_of(&group), held, "each has what it had");
    let (load, _) = feeder.stop();
    stage.settle(&load);
}
