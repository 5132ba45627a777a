//! Topics, targets and configs of a test's own on a real Kafka, the processes on them, and the load that is fed to them.

use crate::ledger::{self, Ledger};
use crate::load::{Load, write_config};
use crate::process::Process;
use crate::table::Tables;
use lockstep::bus::kafka::{KafkaBus, KafkaSettings};
use lockstep::bus::{Bus, Outgoing, topics};
use lockstep::model::topic::TopicNames;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A process that isn't ready by then will not be: it may wait for a broker to be replaced, and for a transaction of a
/// process that was killed to time out.
pub const READY: Duration = Duration::from_secs(90);
/// After this a call that was left behind has arrived or never will: a read and a change, of each the target's time-out (2 s)
/// and what the worker adds before it gives up on an answer (2 s).
pub const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// How long targets may take to show everything once nothing more is done to the processes.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long a record may take to be appended while brokers are down.
const APPEND_PATIENCE: Duration = Duration::from_secs(120);

/// A Kafka to run on.
#[derive(Clone)]
pub struct Place {
    pub bootstrap: String,
    pub replicas: u16,
    /// What clients of the second config are to reach it by.
    pub far: Option<String>,
}

impl Place {
    pub fn one_broker() -> Self {
        let bootstrap = std::env::var("LOCKSTEP_TEST_KAFKA").expect("LOCKSTEP_TEST_KAFKA is host:port of a Kafka");
        Self { bootstrap, replicas: 1, far: None }
    }
}

pub struct Stage {
    dir: tempfile::TempDir,
    pub bus: Arc<KafkaBus>,
    pub names: TopicNames,
    source: String,
    /// By name.
    pub targets: BTreeMap<&'static str, Tables>,
}

impl Stage {
    /// `directory` is a schema in PostgreSQL, `wiki` (where it is asked for) an SQLite file.
    pub fn set(name: &str, place: &Place, targets: &[&'static str]) -> Self {
        let database = std::env::var("LOCKSTEP_TEST_POSTGRES").expect("LOCKSTEP_TEST_POSTGRES is a database's url");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let unique = format!("{name}{now}");
        let schema = format!("chaos_{unique}");
        let dir = tempfile::tempdir().unwrap();
        let (prefix, source) = (format!("{unique}."), format!("{unique}-hr"));
        let mut made = BTreeMap::new();
        let mut urls = Vec::new();
        for target in targets {
            let (tables, url) = match *target {
                "directory" => {
                    let url = format!("{database}?options=-csearch_path%3D{schema}");
                    (Tables::postgres(&database, &schema), url)
                }
                _ => {
                    let file = dir.path().join(format!("{target}.db"));
                    (Tables::sqlite(&file), format!("sqlite:{}", file.display()))
                }
            };
            tables.make();
            made.insert(*target, tables);
            urls.push((*target, url));
        }
        let urls: Vec<(&str, &str)> = urls.iter().map(|(name, url)| (*name, url.as_str())).collect();
        for (folder, bootstrap) in [("config", Some(&place.bootstrap)), ("config-far", place.far.as_ref())] {
            let Some(bootstrap) = bootstrap else { continue };
            let replicas = place.replicas;
            let bus = format!("  prefix: {prefix}\n  kafka: {{ bootstrap: \"{bootstrap}\", replicas: {replicas} }}");
            write_config(&dir.path().join(folder), &bus, &source, &urls);
        }
        let settings = KafkaSettings {
            bootstrap: place.bootstrap.clone(),
            properties: BTreeMap::new(),
            client_id: "chaos".to_owned(),
            max_record_bytes: 900_000,
        };
        let bus = Arc::new(KafkaBus::connect(settings).unwrap());
        let mut topic = topics::source(&source, 6);
        topic.replicas = Some(place.replicas);
        bus.create(&[topic]).unwrap();
        let stage = Self { dir, bus, names: TopicNames::new(prefix), source, targets: made };
        let applied = stage.start("topics", "config", "data", &["topics", "apply"]).end(READY);
        assert!(applied.success(), "topics apply: {applied}\n{}", stage.logs());
        stage
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// Starts the binary with one of the stage's configs and data folders; its log is `<name>.log`.
    pub fn start(&self, name: &str, config: &str, data: &str, what: &[&str]) -> Process {
        let (config, data) = (self.path(config), self.path(data));
        let common = ["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
        Process::start(&[what, &common].concat(), &self.path(&format!("{name}.log")))
    }

    pub fn processor(&self) -> Process {
        let args = ["processor", "--instance", "p1", "--listen", "127.0.0.1:0"];
        self.start("processor", "config", "data", &args)
    }

    pub fn worker(&self, target: &str) -> Process {
        let args = ["worker", "--target", target, "--instance", "w1", "--listen", "127.0.0.1:0"];
        self.start(&format!("worker-{target}"), "config", "data", &args)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a process has said so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Errors and warnings of the processes, for whoever looks into a failure.
    pub fn logs(&self) -> String {
        const SHOWN: usize = 30;
        let mut names: Vec<String> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".log").map(str::to_owned))
            .collect();
        names.sort();
        let mut shown = String::new();
        for name in names {
            let text = self.log(&name);
            let lines: Vec<&str> =
                text.lines().filter(|line| ["WARN", "ERROR", "error:"].iter().any(|w| line.contains(w))).collect();
            let from = lines.len().saturating_sub(SHOWN);
            shown.push_str(&format!(
                "--- {name}: {} warnings and errors, the last:\n{}\n",
                lines.len(),
                lines[from..].join("\n")
            ));
        }
        shown
    }

    /// Appends events to the source topic. What may have been written is written again, as by any sender that got no
    /// answer: what was taken in already changes nothing.
    pub fn append(&self, events: &[String]) {
        append(self.bus.as_ref(), &self.source, events);
    }

    /// Everything from here on without a kill: processes, all events at once, until every target shows `load`'s answer.
    pub fn run_undisturbed(&self, events: &[String], load: &Load) -> Vec<Process> {
        let mut processes = vec![self.processor()];
        processes.extend(self.targets.keys().map(|target| self.worker(target)));
        for chunk in events.chunks(1_000) {
            self.append(chunk);
        }
        for process in &mut processes {
            assert!(process.ready(READY).is_some(), "a process of the run without kills is not ready\n{}", self.logs());
        }
        self.settle(load);
        processes
    }

    /// Waits until the targets show `load`'s answer, and gives how long that took.
    pub fn settle(&self, load: &Load) -> Duration {
        let began = Instant::now();
        for (target, tables) in &self.targets {
            let answer = load.answer(target);
            while tables.rows() != answer && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(200));
            }
            assert_eq!(tables.rows(), answer, "{target} shows the rules' answer within {PATIENCE:?}\n{}", self.logs());
        }
        began.elapsed()
    }

    /// Waits until nothing is written any more. The last accounts to settle may be those that are out.
    pub fn quiet(&self) {
        let mut topics = vec![self.names.results(), self.names.inbox()];
        topics.extend(self.targets.keys().map(|target| self.names.commands(&(*target).into())));
        let ends = || -> Vec<i64> {
            let bus = self.bus.as_ref();
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

    /// The auditor: rows, audit and topics of every target, against the rules' answer and a run without kills.
    pub fn audit(&self, load: &Load, undisturbed: &Self) -> Vec<Ledger> {
        let mut ledgers = Vec::new();
        for (target, tables) in &self.targets {
            let rows = tables.rows();
            assert_eq!(rows, load.answer(target), "{target}: the rules' answer\n{}", self.logs());
            assert_eq!(rows, undisturbed.targets[target].rows(), "{target}: the run without kills\n{}", self.logs());
            let changes = tables.check_audit();
            undisturbed.targets[target].check_audit();
            let ledger = ledger::check(self.bus.as_ref(), &self.names, target);
            let without = ledger::check(undisturbed.bus.as_ref(), &undisturbed.names, target);
            for check in [&ledger, &without] {
                check.every_change_has_one_command(&load.versions(target));
            }
            println!("{target}: {} active accounts, {changes} changes made in it, {ledger}", rows.len());
            println!("{target}, in the run without kills: {without}");
            ledgers.push(ledger);
        }
        ledgers
    }
}

fn append(bus: &dyn Bus, topic: &str, events: &[String]) {
    let key = |event: &str| {
        let event: serde_json::Value = serde_json::from_str(event).unwrap();
        event["worker"]["workerId"].as_str().unwrap().as_bytes().to_vec()
    };
    let record = |event: &String| Outgoing {
        topic: topic.to_owned(),
        partition: None,
        key: Some(key(event)),
        value: Some(event.clone().into()),
        headers: Vec::new(),
    };
    let until = Instant::now() + APPEND_PATIENCE;
    while let Err(error) = bus.append(events.iter().map(record).collect()) {
        assert!(Instant::now() < until, "events can't be appended: {error}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// In every so many rounds a source sends again what it has sent: more than a batch of the processor steps at once.
const FLOOD_EVERY: usize = 50;
const FLOOD: usize = 2_000;

/// Appends the load's events at a steady pace until it is stopped.
pub struct Feeder {
    load: Arc<Mutex<Load>>,
    enough: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Feeder {
    pub fn start(stage: &Stage, load: Load, at_once: usize, pace: Duration) -> Self {
        let (load, enough) = (Arc::new(Mutex::new(load)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (load, enough) = (Arc::clone(&load), Arc::clone(&enough));
            let (bus, source) = (Arc::clone(&stage.bus), stage.source.clone());
            move || {
                let mut all = Vec::new();
                for round in 1.. {
                    if enough.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut load = load.lock().unwrap();
                    let mut events = load.next(at_once);
                    if round % FLOOD_EVERY == 0 {
                        events.extend(load.again(FLOOD));
                        events.extend(load.next(at_once));
                    }
                    drop(load);
                    append(bus.as_ref(), &source, &events);
                    all.extend(events);
                    std::thread::sleep(pace);
                }
                all
            }
        });
        Self { load, enough, thread }
    }

    /// The load as it stands at the end, and all its events.
    pub fn stop(self) -> (Load, Vec<String>) {
        self.enough.store(true, Ordering::Relaxed);
        let events = self.thread.join().unwrap();
        (Arc::into_inner(self.load).unwrap().into_inner().unwrap(), events)
    }
}
