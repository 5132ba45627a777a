//! `lockstep dev` on the embedded bus, killed again and again while events come in.

use crate::ledger;
use crate::load::{Load, write_config};
use crate::process::Process;
use crate::random::Random;
use crate::table::Tables;
use crate::{number, seed};
use lockstep::bus::embedded::{EmbeddedBus, EmbeddedOptions};
use lockstep::model::topic::TopicNames;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const TARGETS: [&str; 2] = ["directory", "wiki"];
/// Between a start and its kill, at most: some fall into the start, some into the first commits, some into quiet.
const LONGEST_LIFE_MS: u64 = 1_800;
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with a config, events to play and two databases, and what runs on them.
struct Stage {
    dir: tempfile::TempDir,
    targets: Vec<Tables>,
}

impl Stage {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["data", "events"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let urls = TARGETS.map(|target| format!("sqlite:${{data}}/{target}.db"));
        let targets: Vec<(&str, &str)> = TARGETS.into_iter().zip(urls.iter().map(String::as_str)).collect();
        write_config(&dir.path().join("config"), "  embedded: {}", "hr.workers", &targets);
        let tables = TARGETS.map(|target| {
            let tables = Tables::sqlite(&dir.path().join("data").join(format!("{target}.db")));
            tables.make();
            tables
        });
        Self { dir, targets: tables.into() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn add(&self, events: &[String]) {
        let mut file = std::fs::File::options().create(true).append(true).open(self.path("events/hr.jsonl")).unwrap();
        file.write_all((events.join("\n") + "\n").as_bytes()).unwrap();
    }

    fn dev(&self, once: bool) -> Process {
        let folder = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let (config, data, events) = (folder("config"), folder("data"), folder("events"));
        let mut args = vec!["dev", "--config", &config, "--data", &data, "--events", &events];
        if once {
            args.push("--once");
        }
        Process::start(&args, &self.path("log"))
    }

    fn finish(&self) {
        let ended = self.dev(true).end(PATIENCE);
        assert!(ended.success(), "{ended}; the end of its log:\n{}", tail(&self.path("log")));
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
}

#[test]
fn dev_killed_at_random_moments_ends_where_a_run_without_kills_does() {
    let (seed, kills) = (seed(), number("LOCKSTEP_CHAOS_KILLS", 5));
    let began = Instant::now();
    let stage = Stage::set();
    let mut load = Load::new(seed, 200);
    let mut chance = Random::new(seed ^ 0xdead);
    let per_life = (600 / (kills as usize + 1)).max(40);
    let mut all = Vec::new();
    for _ in 0..kills {
        let events = load.next(per_life);
        stage.add(&events);
        all.extend(events);
        let mut dev = stage.dev(false);
        std::thread::sleep(Duration::from_millis(chance.below(LONGEST_LIFE_MS)));
        dev.kill();
    }
    let events = load.next(per_life);
    stage.add(&events);
    all.extend(events);
    let undisturbed = Stage::set();
    undisturbed.add(&all);
    let restarted = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| undisturbed.finish());
        stage.finish();
        println!("seed {seed}: {kills} kills, {} events, the last run took {:?}", all.len(), restarted.elapsed());
    });

    let bus = EmbeddedBus::open(&stage.path("data"), &EmbeddedOptions::default()).unwrap();
    let names = TopicNames::new("lockstep.");
    for ((target, killed), not_killed) in TARGETS.iter().zip(&stage.targets).zip(&undisturbed.targets) {
        let rows = killed.rows();
        assert_eq!(rows, load.answer(target), "{target}: the rules' answer (seed {seed})");
        assert_eq!(rows, not_killed.rows(), "{target}: the run without kills (seed {seed})");
        let ledger = ledger::check(&bus, &names, target);
        println!("{target}: {} active accounts, {} changes, {ledger:?}", rows.len(), killed.check_audit());
        not_killed.check_audit();
    }
    println!("took {:?}", began.elapsed());
}
