//! The processor and a worker as processes of their own on a real Kafka, their target a PostgreSQL: killed again and again
//! while events come in, and a worker killed while its target hangs.

use crate::ledger;
use crate::load::{Load, write_config};
use crate::process::Process;
use crate::random::Random;
use crate::table::Tables;
use crate::{number, seed};
use lockstep::bus::kafka::{KafkaBus, KafkaSettings};
use lockstep::bus::{Bus, Outgoing, topics};
use lockstep::model::topic::TopicNames;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const TARGET: &str = "directory";
/// After this a call that was left behind has arrived or never will: a read and a change, of each the target's time-out (2 s)
/// and what the worker adds before it gives up on an answer (2 s).
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// A process that isn't ready by then will not be.
const READY: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(180);
const PEOPLE: usize = 400;
/// Some 60 events a second.
const PACE: Duration = Duration::from_millis(150);
const AT_ONCE: usize = 9;

/// Topics, a schema and a config of a test's own, and the processes' folders.
struct Stage {
    dir: tempfile::TempDir,
    bus: Arc<KafkaBus>,
    names: TopicNames,
    source: String,
    target: Tables,
}

impl Stage {
    fn set(name: &str) -> Self {
        let bootstrap = std::env::var("LOCKSTEP_TEST_KAFKA").expect("LOCKSTEP_TEST_KAFKA is host:port of a Kafka");
        let database = std::env::var("LOCKSTEP_TEST_POSTGRES").expect("LOCKSTEP_TEST_POSTGRES is a database's url");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let unique = format!("{name}{now}");
        let schema = format!("chaos_{unique}");
        let target = Tables::postgres(&database, &schema);
        target.make();
        let dir = tempfile::tempdir().unwrap();
        let (prefix, source) = (format!("{unique}."), format!("{unique}-hr"));
        let bus = format!("  prefix: {prefix}\n  kafka: {{ bootstrap: \"{bootstrap}\", replicas: 1 }}");
        let url = format!("{database}?options=-csearch_path%3D{schema}");
        write_config(&dir.path().join("config"), &bus, &source, &[(TARGET, &url)]);
        let settings = KafkaSettings {
            bootstrap,
            properties: BTreeMap::new(),
            client_id: "chaos".to_owned(),
            max_record_bytes: 900_000,
        };
        let bus = Arc::new(KafkaBus::connect(settings).unwrap());
        bus.create(&[topics::source(&source, 6)]).unwrap();
        let stage = Self { dir, bus, names: TopicNames::new(prefix), source, target };
        let applied = stage.start("topics", &["topics", "apply"]).end(READY);
        assert!(applied.success(), "topics apply: {applied}");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, name: &str, what: &[&str]) -> Process {
        let (config, data) = (self.path("config"), self.path("data"));
        let common = ["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
        Process::start(&[what, &common].concat(), &self.path(&format!("{name}.log")))
    }

    fn processor(&self) -> Process {
        self.start("processor", &["processor", "--instance", "p1", "--listen", "127.0.0.1:0"])
    }

    fn worker(&self) -> Process {
        self.start("worker", &["worker", "--target", TARGET, "--instance", "w1", "--listen", "127.0.0.1:0"])
    }

    fn append(&self, events: Vec<String>) {
        append(self.bus.as_ref(), &self.source, events);
    }

    /// Errors and warnings of the processes, for whoever looks into a failure.
    fn logs(&self) -> String {
        let mut shown = String::new();
        for name in ["processor", "worker"] {
            let text = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> =
                text.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
            let from = lines.len().saturating_sub(30);
            shown.push_str(&format!(
                "--- {name}: {} warnings and errors, the last:\n{}\n",
                lines.len(),
                lines[from..].join("\n")
            ));
        }
        shown
    }
}

fn append(bus: &dyn Bus, topic: &str, events: Vec<String>) {
    let key = |event: &str| {
        let event: serde_json::Value = serde_json::from_str(event).unwrap();
        event["worker"]["workerId"].as_str().unwrap().as_bytes().to_vec()
    };
    let records = events.into_iter().map(|event| Outgoing {
        topic: topic.to_owned(),
        partition: None,
        key: Some(key(&event)),
        value: Some(event.into_bytes()),
        headers: Vec::new(),
    });
    bus.append(records.collect()).unwrap();
}

/// Kills and restarts; gives the process that runs in the end. Each fourth time it doesn't wait until the process is ready.
fn kill_and_restart(
    name: &str,
    kills: u64,
    chance: &mut Random,
    mut running: Process,
    start: impl Fn() -> Process,
) -> Process {
    let mut times = Vec::new();
    for kill in 0..kills {
        if kill % 4 != 3 {
            let ready = running.ready(READY).unwrap_or_else(|| panic!("the {name} is not ready after {READY:?}"));
            times.extend((kill > 0).then_some(ready));
        }
        std::thread::sleep(Duration::from_millis(chance.below(1_500)));
        running.kill();
        running = start();
    }
    times.push(running.ready(READY).unwrap_or_else(|| panic!("the {name} is not ready after {READY:?}")));
    times.sort();
    println!(
        "{name}: {kills} kills and restarts; ready after {:?} (p50), {:?} (max) in {} restarts that were waited for",
        times[times.len() / 2],
        times[times.len() - 1],
        times.len()
    );
    running
}

#[test]
#[ignore = "needs Kafka, PostgreSQL: tests/run chaos"]
fn processor_and_worker_killed_at_random_moments_lose_and_double_nothing() {
    let (seed, kills) = (seed(), number("LOCKSTEP_CHAOS_KILLS", 20));
    let began = Instant::now();
    let stage = Stage::set("kills");
    let (processor, worker) = (stage.processor(), stage.worker());
    let load = Arc::new(Mutex::new(Load::new(seed, PEOPLE)));
    let fed = Arc::new(AtomicBool::new(false));
    let feeder = std::thread::spawn({
        let (load, fed, bus, source) =
            (Arc::clone(&load), Arc::clone(&fed), Arc::clone(&stage.bus), stage.source.clone());
        move || {
            while !fed.load(Ordering::Relaxed) {
                append(bus.as_ref(), &source, load.lock().unwrap().next(AT_ONCE));
                std::thread::sleep(PACE);
            }
        }
    });
    let mut chance = Random::new(seed ^ 0xdead);
    let _processor = kill_and_restart("processor", kills, &mut chance, processor, || stage.processor());
    let _worker = kill_and_restart("worker", kills, &mut chance, worker, || stage.worker());
    fed.store(true, Ordering::Relaxed);
    feeder.join().unwrap();

    let load = load.lock().unwrap();
    let (answer, waiting) = (load.answer(TARGET), Instant::now());
    while stage.target.rows() != answer && waiting.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("{} events; all was there {:?} after the last", load.events, waiting.elapsed());
    assert_eq!(stage.target.rows(), answer, "the rules' answer (seed {seed})\n{}", stage.logs());
    quiet(&stage);
    let ledger = ledger::check(stage.bus.as_ref(), &stage.names, TARGET);
    println!("{} active accounts, {} changes, {ledger:?}", answer.len(), stage.target.check_audit());
    println!("{}took {:?}", stage.logs(), began.elapsed());
}

/// Waits until nothing is written any more. The last accounts to settle may be those that are out.
fn quiet(stage: &Stage) {
    let topics = [stage.names.results(), stage.names.commands(&TARGET.into()), stage.names.inbox()];
    let ends = || -> Vec<i64> {
        let bus = stage.bus.as_ref();
        let sum = |topic: &String| -> i64 {
            (0..bus.partitions(topic).unwrap().unwrap()).map(|p| bus.ends(topic, p).unwrap().end).sum()
        };
        topics.iter().map(sum).collect()
    };
    let (mut before, mut since) = (ends(), Instant::now());
    // Longer than what a killed worker's call is waited for.
    while since.elapsed() < CALL_TIMEOUT + Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(200));
        let now = ends();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
}

/// What becomes of a call that its killed worker has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The target carries it out after all, when the next worker runs already.
    CarriedOut,
    Dropped,
}

#[test]
#[ignore = "needs Kafka, PostgreSQL: tests/run chaos"]
fn a_worker_killed_during_a_call_waits_reads_and_makes_nothing_twice() {
    for left in [Left::CarriedOut, Left::Dropped] {
        let stage = Stage::set("hang");
        let (mut processor, mut worker) = (stage.processor(), stage.worker());
        assert!(processor.ready(READY).is_some() && worker.ready(READY).is_some(), "{}", stage.logs());
        // The check is put off to the commit: what hangs is the answer to the commit, whose outcome nobody knows then.
        let (schema, lock) = (stage.target.schema(), std::process::id());
        stage.target.run(&format!(
            "CREATE FUNCTION {schema}hang() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_advisory_xact_lock_shared({lock}); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER hang AFTER INSERT OR UPDATE ON {schema}accounts DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION {schema}hang()"
        ));
        let held = stage.target.hold(lock);
        let mut load = Load::new(seed(), 1);
        stage.append(load.next(1));
        let hanging = "SELECT CAST(pid AS TEXT) FROM pg_stat_activity WHERE wait_event = 'advisory'";
        let until = Instant::now() + READY;
        while stage.target.texts_as_they_are(hanging).is_empty() {
            assert!(Instant::now() < until, "no call hangs\n{}", stage.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
        let hung = Instant::now();
        worker.kill();
        let mut worker = stage.worker();
        assert!(worker.ready(READY).is_some(), "{}", stage.logs());
        let ready = hung.elapsed();
        if left == Left::Dropped {
            stage.target.texts_as_they_are(
                "SELECT CAST(pg_terminate_backend(pid) AS TEXT) FROM pg_stat_activity WHERE wait_event = 'advisory'",
            );
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(stage.target.rows().len(), 0, "nothing is done before the lock is free");
        drop(held);
        let results = || -> i64 { (0..6).map(|p| stage.bus.ends(&stage.names.results(), p).unwrap().end).sum() };
        let until = Instant::now() + READY;
        while results() == 0 {
            assert!(Instant::now() < until, "{left:?}: no result\n{}", stage.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
        let done = hung.elapsed();
        println!(
            "{left:?}: killed while the commit hung; the next worker was ready after {ready:?}, done after {done:?}"
        );
        // Its call began a moment before it was seen to hang.
        assert!(done + Duration::from_millis(500) > CALL_TIMEOUT, "{left:?}: done after {done:?}, without waiting");
        assert_eq!(stage.target.rows(), load.answer(TARGET), "{left:?}");
        assert_eq!(stage.target.check_audit(), 1, "{left:?}: one change, the insert");
        let ledger = ledger::check(stage.bus.as_ref(), &stage.names, TARGET);
        assert_eq!((ledger.commands, ledger.verified), (1, 1), "{left:?}");
    }
}
