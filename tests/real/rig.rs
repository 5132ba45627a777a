//! An installation on a real Kafka: a config folder, the built binary as processes of their own, and what is on the topics.
//!
//! Every wait has an end, and says what it waits for. When a test fails the ends of all processes' logs are printed.

use lockstep::bus::kafka::{KafkaBus, KafkaSettings};
use lockstep::bus::{Bus, Incoming, Outgoing, topics};
use lockstep::codec::public::{Public, PublicCodec};
use lockstep::codec::registry::Registry;
use lockstep::config::Config;
use lockstep::model::topic::TopicNames;
use lockstep::model::{Command, TargetName};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

/// The part `serve`, `poll` and the loops stop within: calls under way end first.
const STOP_WITHIN: Duration = Duration::from_secs(10);
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Lines of each log that a failed test shows.
const TAIL: usize = 25;

/// These tests share a SCIM server and the machine's cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub struct Rig {
    dir: TempDir,
    /// What the processes find in their environment.
    pub env: BTreeMap<&'static str, String>,
    processes: Vec<Process>,
    pub id: String,
    pub runtime: Runtime,
    pub http: reqwest::Client,
    pub bus: Arc<dyn Bus>,
    pub registry: Arc<Registry>,
    pub codec: PublicCodec,
    pub names: TopicNames,
    _alone: MutexGuard<'static, ()>,
}

struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a command that ended has said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name}: run tests/run real"))
}

impl Rig {
    /// With the config of an example in a folder of its own, which `adapt` changes file by file; its topics are its own.
    pub fn new(example: &str, adapt: impl Fn(&str, String) -> String) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let id = Uuid::new_v4().simple().to_string()[..8].to_owned();
        let dir = tempfile::tempdir().unwrap();
        let own = |path: &str, text: String| match path {
            "lockstep.yaml" => replaced(&text, "  kafka:\n", &format!("  prefix: real-{id}.\n  kafka:\n"))
                .replace("log: json", "log: text"),
            "sources/hr.yaml" | "sources/idp.yaml" => replaced(&text, "\ntopic: ", &format!("\ntopic: real-{id}.")),
            _ => text,
        };
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
        for path in files(&example) {
            let text = std::fs::read_to_string(example.join(&path)).unwrap();
            write(&dir.path().join("config").join(&path), &own(&path, adapt(&path, text)));
        }
        let registry = Arc::new(Registry::new(&var("LOCKSTEP_TEST_REGISTRY")).unwrap());
        let settings = KafkaSettings {
            bootstrap: var("LOCKSTEP_TEST_KAFKA"),
            properties: BTreeMap::new(),
            client_id: "real".into(),
            max_record_bytes: 1_000_000,
        };
        let env = BTreeMap::from([
            ("LOCKSTEP_KAFKA", var("LOCKSTEP_TEST_KAFKA")),
            ("LOCKSTEP_REGISTRY", var("LOCKSTEP_TEST_REGISTRY")),
        ]);
        Self {
            dir,
            env,
            processes: Vec::new(),
            runtime: Runtime::new().unwrap(),
            http: reqwest::Client::new(),
            bus: Arc::new(KafkaBus::connect(settings).unwrap()),
            codec: PublicCodec::new(Some(registry.clone())),
            registry,
            names: TopicNames::new(format!("real-{id}.")),
            id,
            _alone: alone,
        }
    }

    /// The quickstart on Kafka, its topics made.
    pub fn quickstart() -> Self {
        let kafka = format!("bus:\n  kafka:\n    bootstrap: {}\ntenants: [acme]\n", var("LOCKSTEP_TEST_KAFKA"));
        let rig = Self::new("quickstart", |path, text| match path {
            "lockstep.yaml" => kafka.clone(),
            _ => text,
        });
        rig.make_source_topics();
        rig.done(&["topics", "apply"]);
        rig
    }

    pub fn config_dir(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn config(&self) -> Config {
        Config::load(&self.config_dir()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Adds a file to the config, or writes it anew.
    pub fn write_config(&self, path: &str, text: &str) {
        write(&self.config_dir().join(path), text);
    }

    /// The users' own topics, which nobody makes for them.
    pub fn make_source_topics(&self) {
        let sources = topics::Layout::of(&self.config()).source_topics;
        self.bus.create(&sources.iter().map(|name| topics::source(name, 4)).collect::<Vec<_>>()).unwrap();
    }

    // --- processes

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command
            .args(args)
            .arg("--config")
            .arg(self.config_dir())
            .arg("--data")
            .arg(self.data())
            .env_clear()
            .envs(&self.env)
            .env("NO_COLOR", "1")
            .current_dir(self.dir.path());
        command
    }

    /// Runs one to its end.
    pub fn run(&self, args: &[&str]) -> Said {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The same, and it has to succeed.
    pub fn done(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "lockstep {}\n{}{}", args.join(" "), said.out, said.err);
        said.out
    }

    /// Starts one that runs until it is stopped.
    pub fn spawn(&mut self, name: &str, args: &[&str]) {
        let log = self.dir.path().join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let child =
            self.command(args).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        self.processes.push(Process { name: name.to_owned(), child, log });
    }

    /// Those that serve HTTP, on a free port each.
    pub fn spawn_serving(&mut self, name: &str, args: &[&str]) {
        self.spawn(name, &[args, &["--listen", "127.0.0.1:0"]].concat());
    }

    /// Waits until these say that they are ready.
    pub fn wait_ready(&mut self, names: &[&str]) {
        let began = Instant::now();
        for name in names {
            self.until(&format!("{name} is ready"), READY_WITHIN, |rig| {
                let url = rig.url(name).ok_or_else(|| "not listening yet".to_owned())?;
                let asked = rig.get(&format!("{url}/readyz"));
                if asked.starts_with("200") { Ok(()) } else { Err(asked) }
            });
        }
        println!("{} ready after {:.1} s", names.join(", "), began.elapsed().as_secs_f64());
    }

    /// Where the last start of it listens.
    pub fn url(&self, name: &str) -> Option<String> {
        let log = std::fs::read_to_string(&self.process(name).log).unwrap();
        let line = log.lines().rev().find(|line| line.starts_with("metrics ") || line.starts_with("status page "))?;
        let url = &line[line.find("http://")?..];
        Some(url.trim_end_matches("/metrics").trim_end_matches('/').to_owned())
    }

    /// Status and body.
    pub fn get(&self, url: &str) -> String {
        let get = async {
            let response = self.http.get(url).send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>(format!("{status} {}", response.text().await?))
        };
        self.runtime.block_on(get).unwrap_or_else(|error| error.to_string())
    }

    fn process(&self, name: &str) -> &Process {
        self.processes.iter().rfind(|process| process.name == name).expect("it was started")
    }

    /// SIGTERM: it has to end by itself, with exit 0 and soon.
    pub fn stop(&mut self, name: &str) {
        let at = self.processes.iter().rposition(|process| process.name == name).expect("it was started");
        let mut process = self.processes.remove(at);
        let began = Instant::now();
        signal(&process.child, "TERM");
        let ended = ended_within(&mut process.child, STOP_WITHIN);
        let tail = process.tail();
        let Some(status) = ended else {
            let _ = process.child.kill();
            panic!("{name} did not end within {} s of SIGTERM\n{tail}", STOP_WITHIN.as_secs());
        };
        assert!(status.success(), "{name} ended with {status} on SIGTERM\n{tail}");
        println!("{name} ended {:.1} s after SIGTERM", began.elapsed().as_secs_f64());
    }

    // --- waits

    /// Asks until the answer is `Ok`; an `Err` says how far it is.
    pub fn until<T>(&mut self, what: &str, limit: Duration, ask: impl Fn(&Self) -> Result<T, String>) -> T {
        let began = Instant::now();
        let mut said = began;
        loop {
            let asked = Instant::now();
            let progress = match ask(self) {
                Ok(answer) => return answer,
                Err(progress) => progress,
            };
            // A question that costs something is asked less often.
            let pause = LOOK_EVERY.max(asked.elapsed());
            for process in &mut self.processes {
                if let Some(status) = process.child.try_wait().unwrap() {
                    panic!("{} ended by itself with {status}, while waiting until {what}", process.name);
                }
            }
            assert!(began.elapsed() < limit, "not within {} s: {what}: {progress}", limit.as_secs());
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                println!("{:5.0} s waiting until {what}: {progress}", began.elapsed().as_secs_f64());
            }
            std::thread::sleep(pause);
        }
    }

    // --- topics

    pub fn append(&self, topic: &str, events: Vec<(String, Vec<u8>)>) {
        // Batches that one transaction takes within its time-out on a busy machine.
        const AT_ONCE: usize = 500;
        for batch in events.chunks(AT_ONCE) {
            let record = |(key, value): &(String, Vec<u8>)| Outgoing {
                topic: topic.to_owned(),
                partition: None,
                key: Some(key.clone().into_bytes()),
                value: Some(value.clone().into()),
                headers: Vec::new(),
            };
            self.bus.append(batch.iter().map(record).collect()).unwrap();
        }
    }

    /// All that is committed on a topic now, by partition and offset.
    pub fn records(&self, topic: &str) -> Vec<Incoming> {
        let partitions = self.bus.partitions(topic).unwrap().unwrap_or_else(|| panic!("no topic {topic}"));
        let mut reader = self.bus.reader().unwrap();
        let mut ends = Vec::new();
        for partition in 0..partitions {
            ends.push((partition, self.bus.ends(topic, partition).unwrap().end));
            reader.seek(topic, partition, 0).unwrap();
        }
        let (mut records, until) = (Vec::new(), Instant::now() + READY_WITHIN);
        while !ends.iter().all(|(partition, end)| reader.position(topic, *partition).unwrap() >= *end) {
            assert!(Instant::now() < until, "topic {topic} could not be read to its end");
            records.extend(reader.poll(10_000, LOOK_EVERY).unwrap());
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    pub fn documents<T: Public>(&self, topic: &str) -> Vec<T> {
        let records = self.records(topic);
        records.iter().filter_map(|r| r.value.as_deref()).map(|value| self.codec.decode(value).unwrap()).collect()
    }

    /// A target's commands by account, in the order of the topic. Generations have to be 1, 2, 3, …, each once.
    pub fn commands(&self, target: &str) -> BTreeMap<String, Vec<Command>> {
        let mut by_account: BTreeMap<String, Vec<Command>> = BTreeMap::new();
        for command in self.documents::<Command>(&self.names.commands(&TargetName::from(target))) {
            by_account.entry(command.account.0.to_string()).or_default().push(command);
        }
        for (account, commands) in &by_account {
            let generations: Vec<u64> = commands.iter().map(|command| command.generation.0).collect();
            let expected: Vec<u64> = (1..=commands.len() as u64).collect();
            assert_eq!(generations, expected, "generations of {target} account {account}");
        }
        by_account
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
            if std::thread::panicking() {
                println!("{}", process.tail());
            }
        }
    }
}

impl Process {
    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let mut tail = format!("--- the end of the log of {}", self.name);
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            let _ = write!(tail, "\n{line}");
        }
        tail
    }
}

fn signal(child: &Child, name: &str) {
    let status = std::process::Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name}");
}

fn ended_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        match child.try_wait().unwrap() {
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            ended => return ended,
        }
    }
}

/// Replaces what has to be there: an example that was changed says so here.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "examples/kafka has no `{from}` any more");
    text.replacen(from, to, 1)
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The YAML files of a config folder, by their paths in it.
fn files(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for folder in ["", "sources/", "targets/"] {
        for entry in std::fs::read_dir(dir.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".yaml") {
                files.push(format!("{folder}{name}"));
            }
        }
    }
    files
}
