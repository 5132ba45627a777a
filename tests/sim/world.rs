//! One simulated installation: processes that turn, crash and come back, a clock that nobody but the simulator moves.

use crate::random::Random;
use crate::story::{self, Story, TARGETS};
use crate::target::SimTarget;
use lockstep::bus::embedded::{Clock, EmbeddedBus, Fault, FaultPoint, VirtualClock};
use lockstep::bus::topics::{self, Wishes};
use lockstep::bus::{Bus, Incoming, Outgoing, TopicSpec};
use lockstep::codec::public::PublicCodec;
use lockstep::codec::source::SourceDecoder;
use lockstep::lane::RetryPolicy;
use lockstep::model::topic::TopicNames;
use lockstep::model::{TargetName, Timestamp};
use lockstep::rules::{Bundle, PublicFormat};
use lockstep::runtime::{Codecs, Now, Processor, ProcessorSettings, Publisher};
use lockstep::store::Stores;
use lockstep::store::memory::MemoryStores;
use lockstep::telemetry::Metrics;
use lockstep::worker::{Completion, LaneLoop, LaneSettings, Newest, StartedCall, make};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 3;
/// Marks a command that Lockstep did not write.
pub const REPLAYED: &str = "replayed";
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Turns after the last event within which everything must have come to rest: far more than any seed has needed.
const MOST_TURNS_TO_REST: usize = 20_000;

/// What was done to the installation.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub processor_crashes: u64,
    pub worker_crashes: u64,
    pub stale_disks: u64,
    pub lost_disks: u64,
    pub calls_lost: u64,
    pub answers_lost: u64,
    pub lies: u64,
    pub late_calls: u64,
    pub commits_aborted: u64,
    pub crashes_before_commit: u64,
    pub crashes_after_commit: u64,
    pub stale_commands: u64,
}

impl Counted {
    pub fn add(&mut self, other: &Self) {
        self.processor_crashes += other.processor_crashes;
        self.worker_crashes += other.worker_crashes;
        self.stale_disks += other.stale_disks;
        self.lost_disks += other.lost_disks;
        self.calls_lost += other.calls_lost;
        self.answers_lost += other.answers_lost;
        self.lies += other.lies;
        self.late_calls += other.late_calls;
        self.commits_aborted += other.commits_aborted;
        self.crashes_before_commit += other.crashes_before_commit;
        self.crashes_after_commit += other.crashes_after_commit;
        self.stale_commands += other.stale_commands;
    }
}

/// What happens to commits: most take place.
#[derive(Default)]
struct Commits {
    random: Random,
    calm: bool,
    aborted: u64,
    crashed_before: u64,
    crashed_after: u64,
}

impl Commits {
    fn fault(&mut self) -> Fault {
        if self.calm {
            return Fault::None;
        }
        match self.random.below(100) {
            0..4 => {
                self.aborted += 1;
                Fault::Refuse
            }
            4..7 => {
                self.crashed_before += 1;
                Fault::CrashBefore
            }
            7..10 => {
                self.crashed_after += 1;
                Fault::CrashAfter
            }
            _ => Fault::None,
        }
    }
}

struct Worker {
    lanes: Option<LaneLoop>,
    newest: Arc<Newest>,
    /// Calls on their way to the target, and when they arrive.
    calls: Vec<(Timestamp, StartedCall)>,
    ended: Vec<Completion>,
    /// Calls of a process that is gone, which arrive all the same.
    orphans: Vec<(Timestamp, StartedCall)>,
}

pub struct World {
    pub seed: u64,
    pub bundle: Arc<Bundle>,
    pub story: Story,
    pub targets: BTreeMap<&'static str, Arc<SimTarget>>,
    pub bus: Arc<dyn Bus>,
    pub topics: TopicNames,
    pub counted: Counted,
    commits: Arc<Mutex<Commits>>,
    clock: VirtualClock,
    now: Now,
    stores: MemoryStores,
    random: Random,
    processor: Option<Processor>,
    workers: BTreeMap<&'static str, Worker>,
    told: usize,
    calls: tokio::runtime::Runtime,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let clock = VirtualClock::at(Timestamp(1_700_000_000_000));
        let now: Now = Arc::new(clock.clone());
        let topics = TopicNames::new("lockstep.");
        let commits = Arc::new(Mutex::new(Commits { random: Random::new(random.next()), ..Commits::default() }));
        let faults = Arc::clone(&commits);
        let faults = move |point: FaultPoint<'_>| match point {
            FaultPoint::Commit { .. } => faults.lock().unwrap().fault(),
            FaultPoint::Append => Fault::None,
        };
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::memory_with_faults(Arc::clone(&now), Box::new(faults)));
        bus.create(&specs(&topics)).expect("topics are made");
        let story = story::write(&mut random);
        let workers = TARGETS.map(|target| {
            let worker = Worker {
                lanes: None,
                newest: Arc::default(),
                calls: Vec::new(),
                ended: Vec::new(),
                orphans: Vec::new(),
            };
            (target, worker)
        });
        Self {
            seed,
            bundle: Arc::new(story::bundle(seed)),
            targets: TARGETS.map(|target| (target, Arc::new(SimTarget::new(random.next())))).into(),
            story,
            bus,
            topics,
            counted: Counted::default(),
            commits,
            clock,
            now,
            stores: MemoryStores::new(),
            random,
            processor: None,
            workers: workers.into(),
            told: 0,
            calls: tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"),
        }
    }

    /// Tells the story among faults, then lets everything come to rest without.
    pub fn run(&mut self) {
        let old_disk = self.stores.snapshot();
        while self.told < self.story.told.len() {
            self.one_thing(&old_disk);
        }
        for target in self.targets.values() {
            *target.faulty.lock().unwrap() = false;
        }
        self.commits.lock().unwrap().calm = true;
        let mut calm = 0;
        for _ in 0..MOST_TURNS_TO_REST {
            let busy = self.turn_processor() | TARGETS.map(|target| self.turn_worker(target)).contains(&true);
            self.pass(if busy { 5 } else { 20_000 });
            calm = if busy { 0 } else { calm + 1 };
            if calm > 20
                && self.workers.values().all(|worker| worker.lanes.as_ref().is_some_and(|lanes| lanes.waiting() == 0))
            {
                for target in self.targets.values() {
                    self.counted.add(&target.counted.lock().unwrap().clone());
                }
                let commits = self.commits.lock().unwrap();
                self.counted.commits_aborted = commits.aborted;
                self.counted.crashes_before_commit = commits.crashed_before;
                self.counted.crashes_after_commit = commits.crashed_after;
                return;
            }
        }
        panic!("seed {}: it did not come to rest", self.seed);
    }

    /// What a run left behind, to compare with another's.
    pub fn trace(&self) -> String {
        let logs: Vec<_> = self.targets.values().map(|target| target.contents.lock().unwrap().log.clone()).collect();
        format!("{logs:?} {:?} {}", self.counted, self.clock.now())
    }

    fn one_thing(&mut self, old_disk: &lockstep::store::memory::MemorySnapshot) {
        match self.random.below(100) {
            0..25 => self.tell(),
            25..55 => {
                self.turn_processor();
            }
            55..85 => {
                let target = *self.random.pick(&TARGETS);
                self.turn_worker(target);
            }
            85..92 => {
                let by = 1 + self.random.below(3_000) as i64;
                self.pass(by);
            }
            92..95 => self.crash_processor(old_disk),
            95..98 => self.crash_worker(),
            98 => self.pass(60_000),
            _ => self.repeat_a_command(),
        }
    }

    fn pass(&self, milliseconds: i64) {
        self.clock.set(Timestamp(self.clock.now().0 + milliseconds));
    }

    fn tell(&mut self) {
        let Some(told) = self.story.told.get(self.told) else { return };
        self.told += 1;
        let record = Outgoing {
            topic: told.topic.to_owned(),
            partition: None,
            key: Some(told.key.clone().into_bytes()),
            value: Some(told.event.to_string().into_bytes()),
            headers: Vec::new(),
        };
        self.bus.append(vec![record]).expect("the event is taken");
    }

    fn turn_processor(&mut self) -> bool {
        if self.processor.is_none() {
            self.processor = Some(self.start_processor());
        }
        let processor = self.processor.as_mut().expect("just started");
        match processor.turn(Duration::ZERO) {
            Ok(turn) => turn.committed || turn.more,
            // A commit after which the process is gone, whether it took place or not.
            Err(_) if !self.commits.lock().unwrap().calm => {
                self.processor = None;
                true
            }
            Err(error) => panic!("seed {}: the processor stopped: {error}", self.seed),
        }
    }

    fn start_processor(&self) -> Processor {
        let metrics = Arc::new(Metrics::new());
        let settings = ProcessorSettings {
            topics: self.topics.clone(),
            group: "lockstep.processor".to_owned(),
            instance: "0".to_owned(),
            inbox_partitions: PARTITIONS,
            record_bytes: 1 << 20,
            dead_letter_bytes: 1 << 20,
        };
        let stores: Arc<dyn Stores> = Arc::new(self.stores.clone());
        let public = Arc::new(PublicCodec::new(None));
        let codecs =
            Codecs { public: Arc::clone(&public), sources: SourceDecoder::new(None, ["acme".into()].into(), 262_144) };
        let publisher = Publisher::new(public, Arc::clone(&metrics));
        Processor::start(
            settings,
            Arc::clone(&self.bus),
            stores,
            Arc::clone(&self.bundle),
            publisher,
            Arc::new(codecs),
            metrics,
            Arc::clone(&self.now),
        )
        .unwrap_or_else(|error| panic!("seed {}: the processor does not start: {error}", self.seed))
    }

    fn start_worker(&mut self, target: &'static str) -> LaneLoop {
        let settings = LaneSettings {
            topics: self.topics.clone(),
            target: target.into(),
            group: format!("lockstep.worker.{target}"),
            instance: "0".to_owned(),
            format: PublicFormat::Json,
            policy: RetryPolicy::new(CALL_TIMEOUT, Instant::now()),
            concurrency: 3,
            dead_letter_bytes: 1 << 20,
        };
        let newest = Arc::new(Newest::new());
        self.workers.get_mut(target).expect("a target of the story").newest = Arc::clone(&newest);
        LaneLoop::start(
            settings,
            Arc::clone(&self.bus),
            Arc::new(self.stores.clone()),
            Arc::new(PublicCodec::new(None)),
            Arc::new(Metrics::new()),
            newest,
            Arc::clone(&self.now),
        )
        .unwrap_or_else(|error| panic!("seed {}: the worker of {target} does not start: {error}", self.seed))
    }

    fn turn_worker(&mut self, target: &'static str) -> bool {
        if self.workers[target].lanes.is_none() {
            let lanes = self.start_worker(target);
            self.workers.get_mut(target).expect("a target of the story").lanes = Some(lanes);
        }
        self.arrivals(target);
        let now = self.clock.now();
        let worker = self.workers.get_mut(target).expect("a target of the story");
        let ended = std::mem::take(&mut worker.ended);
        let lanes = worker.lanes.as_mut().expect("just started");
        let had = ended.len();
        match lanes.turn(ended, Duration::ZERO) {
            Ok(started) => {
                let busy = had > 0 || !started.is_empty() || lanes.in_flight() > 0;
                for call in started {
                    let takes = Duration::from_millis(1 + self.random.below(CALL_TIMEOUT.as_millis() as u64 - 1));
                    let takes = if self.random.percent(90) { Duration::from_millis(2) } else { takes };
                    worker.calls.push((now.plus(takes), call));
                }
                busy
            }
            Err(_) if !self.commits.lock().unwrap().calm => {
                self.drop_worker(target);
                true
            }
            Err(error) => panic!("seed {}: the worker of {target} stopped: {error}", self.seed),
        }
    }

    /// Calls whose time has come reach the target, and their answers the worker, if it is still there.
    fn arrivals(&mut self, target: &'static str) {
        let now = self.clock.now();
        let connector = Arc::clone(&self.targets[target]);
        let worker = self.workers.get_mut(target).expect("a target of the story");
        let mut waiting = Vec::new();
        for (at, call) in std::mem::take(&mut worker.orphans) {
            if at > now {
                waiting.push((at, call));
                continue;
            }
            self.counted.late_calls += 1;
            self.calls.block_on(make(connector.as_ref(), &call.call, &Newest::new(), CALL_TIMEOUT));
        }
        worker.orphans = waiting;
        let mut waiting = Vec::new();
        for (at, started) in std::mem::take(&mut worker.calls) {
            if at > now {
                waiting.push((at, started));
                continue;
            }
            let ended = self.calls.block_on(make(connector.as_ref(), &started.call, &worker.newest, CALL_TIMEOUT));
            worker.ended.push(Completion { id: started.id, ended });
        }
        worker.calls = waiting;
    }

    /// Somebody replays an old command, as at-least-once tools do.
    fn repeat_a_command(&mut self) {
        let target = *self.random.pick(&TARGETS);
        let records = read_all(self.bus.as_ref(), &self.topics.commands(&target.into()));
        if records.is_empty() {
            return;
        }
        let again = self.random.pick(&records);
        let record = Outgoing {
            topic: again.topic.clone(),
            partition: Some(again.partition),
            key: again.key.clone(),
            value: again.value.clone(),
            headers: vec![(REPLAYED.to_owned(), Vec::new())],
        };
        self.bus.append(vec![record]).expect("the command is taken");
        self.counted.stale_commands += 1;
    }

    /// The process is gone between two turns: nothing in its memory is left, and its disk may be an old one, or none.
    fn crash_processor(&mut self, old_disk: &lockstep::store::memory::MemorySnapshot) {
        self.counted.processor_crashes += 1;
        self.processor = None;
        match self.random.below(4) {
            0 => {
                self.counted.lost_disks += 1;
                self.stores.wipe();
                // One disk for all in this installation: whoever has it open goes down with it.
                TARGETS.iter().for_each(|target| self.drop_worker(target));
            }
            1 => {
                self.counted.stale_disks += 1;
                self.stores.restore(old_disk);
                TARGETS.iter().for_each(|target| self.drop_worker(target));
            }
            _ => {}
        }
    }

    fn crash_worker(&mut self) {
        let target = *self.random.pick(&TARGETS);
        self.counted.worker_crashes += 1;
        self.drop_worker(target);
    }

    fn drop_worker(&mut self, target: &'static str) {
        let worker = self.workers.get_mut(target).expect("a target of the story");
        worker.lanes = None;
        worker.ended.clear();
        // What was sent arrives, or doesn't: within the call's time-out, which the next owner waits out.
        for call in std::mem::take(&mut worker.calls) {
            if self.random.percent(50) {
                worker.orphans.push(call);
            }
        }
    }
}

/// The topics as `lockstep topics apply` makes them.
fn specs(names: &TopicNames) -> Vec<TopicSpec> {
    let wishes = Wishes { inbox_partitions: PARTITIONS, command_partitions: 2, ..Wishes::default() };
    let mut specs = topics::specs(names, &TARGETS.map(TargetName::from), &wishes);
    specs.extend([story::HR_TOPIC, story::IDP_TOPIC].map(|topic| topics::source(topic, 2)));
    specs
}

/// Everything on a topic.
pub fn read_all(bus: &dyn Bus, topic: &str) -> Vec<Incoming> {
    let mut reader = bus.reader().expect("a reader");
    for partition in 0..bus.partitions(topic).expect("partitions").unwrap_or(0) {
        reader.seek(topic, partition, 0).expect("a seek");
    }
    let mut all = Vec::new();
    loop {
        let records = reader.poll(1_000, Duration::ZERO).expect("a poll");
        if records.is_empty() {
            return all;
        }
        all.extend(records);
    }
}
