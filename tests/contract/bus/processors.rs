//! Processors on a real Apache Kafka: what a rebalance moves and what it leaves alone, and what a restore holds up.

use crate::bus::kafka::{bootstrap, connect};
use crate::bus::{PATIENCE, read_all, unique};
use lockstep::bus::embedded::WallClock;
use lockstep::bus::topics::{self, Wishes};
use lockstep::bus::{Bus, Outgoing};
use lockstep::codec::public::PublicCodec;
use lockstep::codec::source::SourceDecoder;
use lockstep::model::Command;
use lockstep::model::topic::TopicNames;
use lockstep::rules::{Bundle, SourceFile};
use lockstep::runtime::{Announcement, Codecs, Processor, ProcessorSettings, Publisher, RestoreSettings};
use lockstep::store::Stores;
use lockstep::store::disk::DiskStores;
use lockstep::store::memory::MemoryStores;
use lockstep::telemetry::Metrics;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 6;
/// A session time-out of these tests and what the group takes to settle.
const SETTLED: Duration = Duration::from_secs(8);

const FILES: [(&str, &str); 3] = [
    (
        "sources/hr.yaml",
        "source: hr\ntopic: HR\ntenant: acme\nformat: json\nevent: { id: id, order: sequence }\n\
         record: { id: worker }\nattributes: { number: worker, name: name }\n",
    ),
    (
        "identity.yaml",
        "kinds:\n  person:\n    anchor: hr\n    correlate: [number]\n    attributes: { number: [hr.number], name: [hr.name] }\n",
    ),
    (
        "targets/wiki.yaml",
        "target: wiki\nconnector: { sql: { url: 'sqlite:${data}/wiki.db', accounts: { table: users, key: id, \
         columns: { login: login, name: name }, active: { column: active, true: 1, false: 0 } } } }\n\
         account: { match: login, attributes: { login: number, name: name } }\n",
    ),
];

/// An installation of its own on the broker.
struct Town {
    bus: Arc<dyn Bus>,
    topics: TopicNames,
    hr: String,
    bundle: Arc<Bundle>,
    codec: Arc<PublicCodec>,
    /// Of the processors' clients.
    properties: &'static [(&'static str, &'static str)],
}

/// A processor on a thread, as one of a process of its own.
struct Running {
    stop: Arc<AtomicBool>,
    ready: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    thread: JoinHandle<()>,
}

impl Town {
    fn new() -> Self {
        let bus: Arc<dyn Bus> = Arc::new(connect(&[]));
        let prefix = format!("{}.", unique("town"));
        let (topics, hr) = (TopicNames::new(prefix.clone()), format!("{prefix}hr"));
        let files = FILES.map(|(path, text)| SourceFile { path: path.into(), text: text.replace("HR", &hr) });
        let bundle = Arc::new(Bundle::compile(&files).unwrap_or_else(|faults| panic!("{faults:?}")));
        let wishes =
            Wishes { inbox_partitions: PARTITIONS, command_partitions: 1, replicas: Some(1), ..Wishes::default() };
        let mut specs = topics::specs(&topics, &["wiki".into()], &wishes);
        specs.push(topics::source(&hr, PARTITIONS));
        bus.create(&specs).unwrap();
        Self { bus, topics, hr, bundle, codec: Arc::new(PublicCodec::new(None)), properties: &[] }
    }

    fn group(&self) -> String {
        format!("{}processor", self.topics.prefix)
    }

    fn start(&self, instance: &str, stores: Arc<dyn Stores>, restore: RestoreSettings) -> Running {
        let (stop, ready, metrics) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::default());
        let settings = ProcessorSettings {
            topics: self.topics.clone(),
            group: self.group(),
            instance: instance.to_owned(),
            inbox_partitions: PARTITIONS,
            dead_letter_bytes: 900_000,
            record_bytes: 900_000,
            through_inbox: false,
            cache_bytes: 1 << 20,
            restore,
            threads: 2,
            slice: 50,
        };
        let sources = SourceDecoder::new(None, ["acme".into()].into(), 262_144);
        let publisher = Publisher::new(Arc::clone(&self.codec), Arc::clone(&metrics));
        let codecs = Arc::new(Codecs { public: Arc::clone(&self.codec), sources });
        let (bundle, measured) = (Arc::clone(&self.bundle), Arc::clone(&metrics));
        let (stopped, is_ready) = (Arc::clone(&stop), Arc::clone(&ready));
        let properties = self.properties;
        let thread = std::thread::spawn(move || {
            let bus = Arc::new(connect(properties));
            let mut processor = Processor::start(
                settings,
                bus,
                stores,
                &mut Announcement::of(bundle),
                publisher,
                codecs,
                measured,
                Arc::default(),
                Arc::new(WallClock),
            )
            .unwrap();
            while !stopped.load(Ordering::SeqCst) {
                processor.turn(Duration::from_millis(50)).unwrap();
                is_ready.store(processor.is_ready(), Ordering::SeqCst);
            }
            processor.stop().unwrap();
        });
        Running { stop, ready, metrics, thread }
    }

    fn hr(&self, events: impl IntoIterator<Item = (String, u32)>) {
        let record = |(worker, sequence): (String, u32)| {
            let event = serde_json::json!({ "id": format!("{worker}-{sequence}"), "sequence": sequence, "worker": worker,
                "name": format!("name {sequence}") });
            Outgoing {
                topic: self.hr.clone(),
                partition: None,
                key: Some(worker.into_bytes()),
                value: Some(event.to_string().into()),
                headers: Vec::new(),
            }
        };
        self.bus.append(events.into_iter().map(record).collect()).unwrap();
    }

    /// Generations and names by login, in the order of the commands.
    fn commands(&self) -> BTreeMap<String, Vec<(u64, String)>> {
        let mut found: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
        for record in read_all(self.bus.as_ref(), &self.topics.commands(&"wiki".into())) {
            let command: Command = self.codec.decode(&record.value.unwrap()).unwrap();
            let text = |name: &str| command.desired.attributes.get(name).unwrap().as_text().unwrap().to_owned();
            found.entry(text("login")).or_default().push((command.generation.0, text("name")));
        }
        found
    }

    fn until_commands(&self, count: usize) -> BTreeMap<String, Vec<(u64, String)>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let commands = self.commands();
            let found: usize = commands.values().map(Vec::len).sum();
            if found >= count {
                return commands;
            }
            assert!(Instant::now() < until, "{found} of {count} commands came");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Running {
    fn taken(&self, how: &str) -> u64 {
        self.metrics.partitions_taken_total.of([how]).get()
    }

    fn revoked(&self) -> u64 {
        self.metrics.partitions_revoked_total.get()
    }

    fn until_ready(&self) {
        let until = Instant::now() + PATIENCE;
        while !self.ready.load(Ordering::SeqCst) {
            assert!(Instant::now() < until && !self.thread.is_finished(), "the processor is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// Waits until no partition has moved for a while.
fn until_settled(processes: &[&Running]) {
    let moves =
        || processes.iter().map(|p| p.revoked() + p.taken("kept") + p.taken("current") + p.taken("replayed")).sum();
    let (mut last, mut since): (u64, _) = (moves(), Instant::now());
    let until = Instant::now() + PATIENCE;
    while since.elapsed() < Duration::from_secs(3) {
        assert!(Instant::now() < until, "the group does not settle");
        std::thread::sleep(Duration::from_millis(50));
        if moves() != last {
            (last, since) = (moves(), Instant::now());
        }
    }
    processes.iter().for_each(|process| process.until_ready());
}

/// Takes a member out of its group by its name, as the coordinator does when its session runs out: a LeaveGroup request of
/// version 3 (KIP-345). The member learns of it by its next heartbeat.
fn expel(group: &str, instance: &str) {
    let text = |text: &str| [&(text.len() as i16).to_be_bytes(), text.as_bytes()].concat();
    let (leave_group, version, correlation, one) = (13_i16, 3_i16, 1_i32, 1_i32);
    let request = [
        [leave_group.to_be_bytes(), version.to_be_bytes()].concat(),
        correlation.to_be_bytes().to_vec(),
        [text("expel"), text(group)].concat(),
        one.to_be_bytes().to_vec(),
        [text(""), text(instance)].concat(),
    ]
    .concat();
    let mut broker = TcpStream::connect(bootstrap()).unwrap();
    broker.write_all(&[&(request.len() as i32).to_be_bytes(), request.as_slice()].concat()).unwrap();
    let mut length = [0; 4];
    broker.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    broker.read_exact(&mut answer).unwrap();
    // The request's number, the throttle time, the error of the whole; then the members, each of which ends with its own.
    assert_eq!((&answer[8..10], &answer[answer.len() - 2..]), ([0, 0].as_slice(), [0, 0].as_slice()), "{answer:?}");
}

/// Generations without a gap, and the last name is that of the last event.
fn check_all(commands: &BTreeMap<String, Vec<(u64, String)>>, workers: usize, events: u32) {
    assert_eq!(commands.len(), workers);
    for (login, commands) in commands {
        let generations: Vec<u64> = commands.iter().map(|(generation, _)| *generation).collect();
        assert_eq!(generations, (1..=u64::from(events)).collect::<Vec<_>>(), "of {login}");
        assert_eq!(commands.last().unwrap().1, format!("name {events}"), "of {login}");
    }
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn a_rolling_restart_moves_nothing_but_what_is_restarted() {
    const WORKERS: usize = 60;
    let town = Arc::new(Town::new());
    let names = ["p0", "p1", "p2"];
    let disks = names.map(|_| MemoryStores::new());
    let start = |n: usize| town.start(names[n], Arc::new(disks[n].clone()), RestoreSettings::default());
    let mut running: Vec<Running> = (0..3).map(start).collect();
    until_settled(&running.iter().collect::<Vec<_>>());

    let (loaded, rounds) = (Arc::clone(&town), 12);
    let load = std::thread::spawn(move || {
        for sequence in 1..=rounds {
            loaded.hr((0..WORKERS).map(|n| (format!("W{n}"), sequence)));
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let moved = |running: &[Running]| -> Vec<u64> {
        running.iter().map(|p| p.revoked() + p.taken("kept") + p.taken("current") + p.taken("replayed")).collect()
    };
    for n in 0..3 {
        let before = moved(&running);
        let old = running.remove(n);
        let owned = 2;
        old.end();
        let stopped = Instant::now();
        running.insert(n, start(n));
        running[n].until_ready();
        println!("{} is ready {:.1} s after it was stopped", names[n], stopped.elapsed().as_secs_f64());
        std::thread::sleep(Duration::from_millis(500));
        let now = &running[n];
        assert_eq!(now.taken("current") + now.taken("replayed"), owned, "it has what it had");
        for (other, process) in running.iter().enumerate().filter(|(other, _)| *other != n) {
            assert_eq!(moved(std::slice::from_ref(process)), [before[other]], "{} was disturbed", names[other]);
        }
    }
    load.join().unwrap();
    let commands = town.until_commands(WORKERS * rounds as usize);
    check_all(&commands, WORKERS, rounds);
    running.into_iter().for_each(Running::end);
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn one_that_joins_takes_its_share_and_the_others_keep_theirs_in_memory() {
    let town = Town::new();
    let restore = RestoreSettings::default();
    let first = town.start("p0", Arc::new(MemoryStores::new()), restore);
    first.until_ready();
    let workers: Vec<String> = (0..40).map(|n| format!("W{n}")).collect();
    town.hr(workers.iter().map(|worker| (worker.clone(), 1)));
    town.until_commands(40);
    assert_eq!((first.revoked(), first.taken("kept")), (0, 0));

    let second = town.start("p1", Arc::new(MemoryStores::new()), restore);
    until_settled(&[&first, &second]);
    assert_eq!(first.revoked(), u64::from(PARTITIONS), "range gives everything back");
    assert_eq!(first.taken("kept"), 3, "and what stays goes on without a replay");
    assert_eq!(second.taken("replayed"), 3, "only what moves is restored");
    assert_eq!(first.metrics.restored_records_total.get(), 0);
    assert!(second.metrics.restored_records_total.get() > 0);

    town.hr(workers.iter().map(|worker| (worker.clone(), 2)));
    check_all(&town.until_commands(80), 40, 2);

    // The second goes for good: the first gets all, and replays what the other wrote meanwhile, and nothing else.
    second.end();
    std::thread::sleep(SETTLED);
    until_settled(&[&first]);
    assert_eq!(first.taken("kept"), 6, "three stayed with it twice");
    assert!(first.metrics.restored_records_total.get() > 0);
    town.hr(workers.iter().map(|worker| (worker.clone(), 3)));
    check_all(&town.until_commands(120), 40, 3);
    first.end();
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn loops_that_share_a_disk_hand_partitions_over_without_a_replay() {
    let town = Town::new();
    let data = tempfile::tempdir().unwrap();
    let disk = DiskStores::open(data.path(), 32, "town").unwrap();
    let start = |name: &str| {
        town.start(name, Arc::new(disk.clone()), RestoreSettings { threads: 1, ..RestoreSettings::default() })
    };
    let (first, second) = (start("p-0"), start("p-1"));
    until_settled(&[&first, &second]);
    let workers: Vec<String> = (0..40).map(|n| format!("W{n}")).collect();
    town.hr(workers.iter().map(|worker| (worker.clone(), 1)));
    town.until_commands(40);
    let replayed = first.metrics.restored_records_total.get();
    second.end();
    std::thread::sleep(SETTLED);
    until_settled(&[&first]);
    assert_eq!(first.metrics.restored_records_total.get(), replayed, "the disk has it all");
    town.hr(workers.iter().map(|worker| (worker.clone(), 2)));
    check_all(&town.until_commands(80), 40, 2);
    first.end();
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn one_that_the_group_has_given_up_waits_for_its_partitions_and_does_not_restore_them_again_and_again() {
    const WORKERS: usize = 40;
    let rounds = 30;
    // It takes that long until it learns that it is no member any more.
    let town = Arc::new(Town { properties: &[("heartbeat.interval.ms", "2900")], ..Town::new() });
    let processor = town.start("p0", Arc::new(MemoryStores::new()), RestoreSettings::default());
    processor.until_ready();
    let loaded = Arc::clone(&town);
    let load = std::thread::spawn(move || {
        for sequence in 1..=rounds {
            loaded.hr((0..WORKERS).map(|n| (format!("W{n}"), sequence)));
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    town.until_commands(WORKERS);
    let takings = || processor.taken("kept") + processor.taken("current") + processor.taken("replayed");
    let (taken, rewinds) = (takings(), processor.metrics.rewinds_total.get());
    expel(&town.group(), "p0");
    load.join().unwrap();
    check_all(&town.until_commands(WORKERS * rounds as usize), WORKERS, rounds);
    let (taken, rewinds) = (takings() - taken, processor.metrics.rewinds_total.get() - rewinds);
    println!("{taken} partitions were taken up, {rewinds} commits were rewound");
    assert!((1..=2).contains(&rewinds), "{rewinds} commits of what was no member");
    assert!(taken <= (1 + rewinds) * u64::from(PARTITIONS), "{taken} partitions were taken up");
    processor.end();
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn a_partition_that_is_restored_holds_up_no_other() {
    let town = Town::new();
    // Somebody's transaction is open on the changelog of partition 0: whether its record counts is not known yet, so the
    // partition can't be restored until it ends.
    let (state, partition) = (town.topics.state(), 0);
    let open: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap())
        .set("transactional.id", unique("open"))
        .create()
        .unwrap();
    open.init_transactions(PATIENCE).unwrap();
    open.begin_transaction().unwrap();
    let row = BaseRecord::to(&state).partition(partition).key("zz").payload("never committed");
    open.send(row).map_err(|(e, _)| e).unwrap();
    open.flush(PATIENCE).unwrap();

    // Enough people that some live in that partition and some don't.
    const PEOPLE: usize = 24;
    let processor = town.start("p0", Arc::new(MemoryStores::new()), RestoreSettings::default());
    town.hr((0..PEOPLE).map(|n| (format!("W{n}"), 1)));
    let left = || processor.metrics.restore_remaining_records.of(["0"]).get();
    town.until_commands(1);
    std::thread::sleep(Duration::from_secs(2));
    let served = town.commands().len();
    assert!((1..PEOPLE).contains(&served), "{served} of {PEOPLE} are served meanwhile, those of that partition wait");
    assert!(left() > 0 && !processor.ready.load(Ordering::SeqCst), "not ready while a partition is missing");

    open.abort_transaction(PATIENCE).unwrap();
    check_all(&town.until_commands(PEOPLE), PEOPLE, 1);
    processor.until_ready();
    assert_eq!(left(), 0);
    processor.end();
}
