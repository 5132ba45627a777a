//! One simulated installation: processes that turn, hang, crash and come back, a clock that nobody but the simulator moves.

use crate::aside;
use crate::auditor;
use crate::bus::SimBus;
use crate::disk::Disk;
use crate::faults::{Counted, Faults};
use crate::former;
use crate::logs::Logs;
use crate::random::Random;
use crate::rules::{self, SOURCE_TOPICS, TARGETS, TENANT, Version};
use crate::story::{self, Bad, Operate, Step, Story, What};
use crate::target::SimTarget;
use crate::truth::{Facts, Wanted};
use lockstep::bus::embedded::{Clock, EmbeddedBus, VirtualClock};
use lockstep::bus::topics::{self, Wishes};
use lockstep::bus::{Bus, Outgoing, TopicSpec};
use lockstep::codec::public::PublicCodec;
use lockstep::codec::source::SourceDecoder;
use lockstep::entity::{AccountRow, Held, Removal, key};
use lockstep::lane::{Ended, RetryPolicy};
use lockstep::model::topic::TopicNames;
use lockstep::model::{
    AccountId, Action, Address, Alert, AlertKind, AlertState, DeadLetter, DecisionKind, EntityKey, ErrorClass,
    IdentityId, Intent, Operation, Outcome, TargetName, Timestamp, envelope,
};
use lockstep::rules::PublicFormat;
use lockstep::runtime::{
    Announcement, Codecs, Now, Processor, ProcessorSettings, Publisher, Quarantined, RestoreSettings,
};
use lockstep::store::memory::MemorySnapshot;
use lockstep::telemetry::Metrics;
use lockstep::worker::{CallId, Completion, LaneLoop, LaneSettings, Newest, StartedCall, make};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

mod mishaps;
mod processes;
mod set_aside;
mod watch;

use set_aside::{Damage, RECORD_BYTES};

const GROUP: &str = "lockstep.processor";
/// One exchange with a target; a call that changes something makes two before it can have changed it.
const EXCHANGE_MS: i64 = 5_000;
const CALL_TIMEOUT: Duration = Duration::from_millis(2 * EXCHANGE_MS as u64);
/// In real time: an exchange ends by what the simulator decides, never by the machine's clock.
const NEVER: Duration = Duration::from_secs(86_400);
/// How far the clock of a process may be off for good: one that is further off refuses to run.
const SKEW_MS: i64 = 30_000;
/// Rounds within which everything must have come to rest: far more than any seed has needed.
const MOST_ROUNDS_TO_REST: usize = 20_000;
/// Times that operators release and redrive before all must be as it should.
const MOST_TIDYINGS: usize = 60;
/// How much longer than its deadline a removal may be open without an alert, in a calm moment: hangs and crashes delay the
/// step that sees it.
const ALERT_SLACK_MS: i64 = 10 * 60_000;

/// How an installation is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub inbox_partitions: u32,
    pub command_partitions: u32,
    pub processors: u64,
    pub workers: u64,
    /// No message is delivered within its partition's transaction: each takes the way through the inbox.
    pub through_inbox: bool,
}

/// A process's own clock: the true time, and by how much it is off.
struct OwnClock {
    truth: VirtualClock,
    off: VirtualClock,
}

impl Clock for OwnClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.truth.now().0 + self.off.now().0)
    }

    fn waits(&self) -> bool {
        false
    }
}

/// What all processes have.
struct Process {
    instance: String,
    disk: Disk,
    /// What its disk held some time ago.
    old_disk: MemorySnapshot,
    off: VirtualClock,
    /// It doesn't run before this time: it hangs, or is down.
    not_before: i64,
    /// The true time at which it last found nothing to do.
    idle_at: i64,
}

struct ProcessorProcess {
    process: Process,
    running: Option<Processor>,
    /// Its own limit, for it may be told too small a one for a while.
    record_bytes: usize,
    limited_until: i64,
}

struct WorkerProcess {
    process: Process,
    target: &'static str,
    running: Option<LaneLoop>,
    newest: Arc<Newest>,
    calls: Vec<InFlight>,
    ended: Vec<Completion>,
}

/// A call that is being made: now its process has the word, now the network.
struct InFlight {
    id: CallId,
    /// When its last request was sent, or the call begun.
    sent: i64,
    /// When it comes to its next moment.
    at: i64,
    /// A request is on its way to the target, whatever its process does meanwhile.
    under_way: bool,
    /// An answer that its process has yet to take in.
    ended: Option<Ended>,
    call: Pin<Box<dyn Future<Output = Ended> + Send>>,
}

impl InFlight {
    fn go_on(&mut self) -> bool {
        match self.call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => {
                self.ended = Some(ended);
                true
            }
            Poll::Pending => false,
        }
    }
}

pub struct World {
    pub seed: u64,
    pub story: Story,
    pub faults: Faults,
    pub bus: SimBus,
    pub topics: TopicNames,
    pub targets: BTreeMap<&'static str, Arc<SimTarget>>,
    /// What the sources have told so far.
    pub facts: Facts,
    pub version: Version,
    /// Operations that rejected removals.
    pub rejections: Vec<String>,
    pub layout: Layout,
    clock: VirtualClock,
    /// The newest time that any process has seen.
    latest: i64,
    random: Random,
    processors: Vec<ProcessorProcess>,
    workers: Vec<WorkerProcess>,
    /// Requests of processes that are gone, which arrive all the same.
    orphans: Vec<InFlight>,
    calls: tokio::runtime::Runtime,
    operations: u64,
    pub logs: Logs,
    /// Open alerts by key.
    pub alerts: BTreeMap<String, Alert>,
    alerts_read: usize,
    /// Alerts of those who were set aside, by key: when each was resolved last.
    released: BTreeMap<String, i64>,
    damages: Vec<Damage>,
    rejected: BTreeSet<AccountId>,
    decisions_read: usize,
    results_read: usize,
    /// Since when an account is unwanted by what was told, in true time.
    unwanted: BTreeMap<(String, &'static str), (AccountId, i64)>,
}

impl World {
    /// Among faults, with partitions and processes as the seed has it.
    pub fn new(seed: u64, events: usize) -> Self {
        let mut random = Random::new(seed);
        let story = story::write(&mut random, events);
        let layout = Layout {
            inbox_partitions: *random.pick(&[1, 3, 7]),
            command_partitions: *random.pick(&[1, 2, 3]),
            processors: 1 + random.below(3),
            workers: 1 + random.below(2),
            through_inbox: random.percent(10),
        };
        Self::with(seed, story, layout, random)
    }

    /// The same story in its true order, in one partition, by one process, without a fault.
    pub fn serial(seed: u64, events: usize) -> Self {
        let mut random = Random::new(seed);
        let mut story = story::write(&mut random, events);
        story.told = story.truth.clone();
        let layout =
            Layout { inbox_partitions: 1, command_partitions: 1, processors: 1, workers: 1, through_inbox: false };
        let world = Self::with(seed, story, layout, random);
        world.faults.calm(true);
        world
    }

    pub fn with(seed: u64, story: Story, layout: Layout, mut random: Random) -> Self {
        let clock = VirtualClock::at(Timestamp(story::BEGIN_MS));
        let faults = Faults::new(random.next());
        let topics = TopicNames::new("lockstep.");
        let inner: Arc<dyn Bus> = Arc::new(EmbeddedBus::memory(Arc::new(clock.clone())));
        inner.create(&specs(&topics, layout)).expect("topics are made");
        let process = |instance: String| {
            let disk = Disk::new(faults.clone());
            let old_disk = disk.snapshot();
            Process { instance, disk, old_disk, off: VirtualClock::default(), not_before: 0, idle_at: -1 }
        };
        let processors = (0..layout.processors)
            .map(|n| ProcessorProcess {
                process: process(format!("p{n}")),
                running: None,
                record_bytes: RECORD_BYTES,
                limited_until: 0,
            })
            .collect();
        let workers = TARGETS
            .iter()
            .flat_map(|target| (0..layout.workers).map(move |n| (*target, n)))
            .map(|(target, n)| WorkerProcess {
                process: process(format!("{target}-{n}")),
                target,
                running: None,
                newest: Arc::default(),
                calls: Vec::new(),
                ended: Vec::new(),
            })
            .collect();
        Self {
            seed,
            targets: TARGETS.map(|target| (target, Arc::new(SimTarget::new(clock.clone(), faults.clone())))).into(),
            bus: SimBus::new(inner, faults.clone()),
            story,
            faults,
            topics,
            facts: Facts::default(),
            version: Version::First,
            rejections: Vec::new(),
            layout,
            latest: clock.now().0,
            clock,
            random,
            processors,
            workers,
            orphans: Vec::new(),
            calls: tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"),
            operations: 0,
            logs: Logs::default(),
            alerts: BTreeMap::new(),
            alerts_read: 0,
            released: BTreeMap::new(),
            damages: Vec::new(),
            rejected: BTreeSet::new(),
            decisions_read: 0,
            results_read: 0,
            unwanted: BTreeMap::new(),
        }
    }

    pub fn now(&self) -> i64 {
        self.clock.now().0
    }

    /// Tells the story among faults. `Err`: access stayed past its deadline and nobody was told.
    pub fn tell(&mut self) -> Result<(), String> {
        let mut steps = std::mem::take(&mut self.story.told).into_iter().peekable();
        let update_at = self.random.percent(30).then(|| self.random.below(steps.len() as u64) as usize);
        let mut updated = update_at.is_none();
        while steps.peek().is_some() {
            if !updated && update_at.is_some_and(|at| steps.len() <= at) {
                self.update_from_the_former_release();
                updated = true;
            }
            self.mend_state(false);
            match self.random.below(1_000) {
                0..100 => {
                    if let Some(step) = steps.next() {
                        self.take_step(step);
                    }
                }
                100..370 => {
                    let which = self.random.below(self.processors.len() as u64) as usize;
                    self.turn_processor(which);
                }
                370..800 => {
                    let which = self.random.below(self.workers.len() as u64) as usize;
                    self.turn_worker(which);
                }
                800..920 => {
                    let by = 1 + self.random_below(1_500);
                    self.pass(by);
                }
                920..930 => self.pass(60_000),
                930..935 => self.calm_moment()?,
                _ => self.go_wrong(),
            }
        }
        Ok(())
    }

    /// Tells the story one step at a time, each after all that the one before led to.
    pub fn tell_serially(&mut self) -> Result<(), String> {
        for step in std::mem::take(&mut self.story.told) {
            if step.at > self.now() {
                // What was due before it, comes before it.
                self.pass(step.at - self.now());
                self.rest()?;
            }
            self.take_step(step);
            self.rest()?;
        }
        Ok(())
    }

    /// No fault any more: the clocks are right, the targets answer, and processes that are down come back.
    pub fn mend(&mut self) {
        self.faults.calm(true);
        self.targets.values().for_each(|target| target.mend());
        for process in self.processes() {
            process.off.set(Timestamp(0));
            process.not_before = 0;
        }
        self.mend_state(true);
        // What some process took for the present has to become the past, or its timers are still to come for the others.
        self.clock.set(Timestamp(self.latest.max(self.now()) + 1));
    }

    /// Turns everything until nothing is left to do but what waits for its time.
    pub fn rest(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        for _ in 0..MOST_ROUNDS_TO_REST {
            let mut busy = false;
            for which in 0..self.processors.len() {
                busy |= self.turn_processor(which);
            }
            for which in 0..self.workers.len() {
                busy |= self.turn_worker(which);
            }
            busy |= !self.orphans.is_empty();
            if busy {
                quiet = 0;
                self.pass(20);
                continue;
            }
            quiet += 1;
            if quiet > 2 {
                if self.workers.iter().all(|worker| worker.running.as_ref().is_some_and(|lanes| lanes.waiting() == 0)) {
                    return Ok(());
                }
                self.pass(20_000);
            }
        }
        Err("it does not come to rest".to_owned())
    }

    /// Operators release what is held and redrive dead letters until there is nothing of either.
    pub fn tidy_up(&mut self) -> Result<(), String> {
        for _ in 0..MOST_TIDYINGS {
            self.rest()?;
            let held = !self.held().is_empty();
            let dead = !self.dead_letters().is_empty();
            if held {
                self.operate(&Operate::Release(None));
            }
            if dead {
                self.operate(&Operate::Redrive);
            }
            if !held && !dead {
                return Ok(());
            }
        }
        Err("operators released and redrove in vain".to_owned())
    }

    /// Lets days go by, in which timers are due.
    pub fn wait(&mut self, milliseconds: i64) -> Result<(), String> {
        let until = self.now() + milliseconds;
        while self.now() < until {
            self.pass((2 * 86_400_000).min(until - self.now()));
            self.tidy_up()?;
        }
        Ok(())
    }

    pub fn counted(&self) -> Counted {
        let mut counted = self.faults.counted();
        counted.insert("event late", self.story.late);
        counted.insert("event twice", self.story.twice);
        counted
    }

    /// A hash over all that was written and called, and in which order.
    pub fn trace(&self) -> String {
        let calls: Vec<usize> = self.targets.values().map(|target| target.contents.lock().unwrap().log.len()).collect();
        format!("{:016x} {calls:?} {}", self.bus.trace(), self.now())
    }

    /// The account of a worker at a target.
    pub fn account(&self, worker: &str, target: &str) -> AccountId {
        let (tenant, target) = (TENANT.into(), TargetName::from(target));
        let identity = IdentityId::of_anchor(&tenant, &"hr".into(), &worker.into());
        AccountId::of(&tenant, &target, &identity, &Intent::default_intent())
    }

    pub fn wanted(&self, worker: &str, target: &str) -> Wanted {
        self.facts.wanted(worker, target, self.version, self.now())
    }

    /// What the account of somebody who left says of them, where it is kept current.
    pub fn kept(&self, worker: &str, target: &str) -> Option<BTreeMap<String, String>> {
        let maintained = self.story.choices.maintained && target == TARGETS[0];
        self.facts.kept_of_a_leaver(worker, self.version, self.now()).filter(|_| maintained)
    }

    // --- what happens by itself

    fn random_below(&mut self, bound: u64) -> i64 {
        self.random.below(bound) as i64
    }

    fn pass(&mut self, milliseconds: i64) {
        self.clock.set(Timestamp(self.now() + milliseconds));
        let off = |process: &Process| process.off.now().0;
        let most = self.processors.iter().map(|processor| off(&processor.process)).max().unwrap_or(0);
        self.latest = self.latest.max(self.now() + most.max(0));
    }

    fn take_step(&mut self, step: Step) {
        if step.at > self.now() {
            self.pass(step.at - self.now());
        }
        match step.what {
            What::Event(told) => {
                let record = Outgoing {
                    topic: told.topic.to_owned(),
                    partition: None,
                    key: Some(told.key.clone().into_bytes()),
                    value: Some(told.event.to_string().into()),
                    headers: Vec::new(),
                };
                self.wanted_again(&told.key);
                self.facts.take(&told);
                self.wanted_again(&told.key);
                self.append(record);
            }
            What::Bad(Bad { topic, key, value }) => {
                let headers = vec![(BAD.into(), "".into())];
                let (topic, key) = (topic.to_owned(), Some(key.into_bytes()));
                self.append(Outgoing { topic, partition: None, key, value: value.map(Into::into), headers });
            }
            What::Operate(operate) => self.operate(&operate),
            What::Switch(version) => self.switch(version),
        }
    }

    /// Whoever is to have access, if only for a moment, is unwanted from a later time on.
    fn wanted_again(&mut self, worker: &str) {
        for target in TARGETS {
            if self.wanted(worker, target) != Wanted::None {
                self.unwanted.remove(&(worker.to_owned(), target));
            }
        }
    }

    /// As clients do: again until it is known to be there.
    fn append(&self, record: Outgoing) {
        while self.bus.append(vec![record.clone()]).is_err() {}
    }

    /// New rules reach all processes, one after the other: from now on none starts with the old ones.
    fn switch(&mut self, version: Version) {
        self.version = version;
        for processor in &mut self.processors {
            processor.running = None;
            processor.process.not_before = 0;
        }
        // The rules are new once the first process has said so.
        for _ in 0..1_000 {
            self.turn_processor(0);
            if self.processors[0].running.is_some() {
                return;
            }
        }
        panic!("seed {}: no process starts with the new rules", self.seed);
    }

    fn operate(&mut self, operate: &Operate) {
        let held = |target: Option<&'static str>, account| (target.map(TargetName::from), account);
        let of = |world: &Self, target, worker: &str| held(Some(target), Some(world.account(worker, target)));
        let actions = match operate {
            Operate::Release(target) => vec![release(held(*target, None))],
            Operate::Reject(target) => vec![reject(held(*target, None))],
            Operate::ReleaseOne(target, worker) => vec![release(of(self, target, worker))],
            Operate::RejectOne(target, worker) => vec![reject(of(self, target, worker))],
            Operate::Redrive => self.dead_letters().into_iter().map(redrive).collect(),
            Operate::Drop => self.dead_letters().into_iter().filter(may_be_dropped).take(1).map(drop_letter).collect(),
            Operate::Retry => self.set_aside().into_iter().map(retry).collect(),
        };
        for action in actions {
            self.operations += 1;
            let id = format!("o-{}", self.operations);
            if matches!(action, Action::GuardReject { .. }) {
                self.rejections.push(id.clone());
            }
            let operation =
                Operation { id, tenant: TENANT.into(), actor: "sim".to_owned(), at: self.clock.now(), action };
            let topic = self.topics.operations();
            let encoded = PublicCodec::new(None).encode(PublicFormat::Json, &topic, &operation).expect("plain data");
            let key = Some(operation.id.clone().into_bytes());
            self.append(Outgoing {
                topic,
                partition: None,
                key,
                value: Some(encoded.value.into()),
                headers: encoded.headers,
            });
        }
    }

    // --- processes
}

/// Marks what no source ever meant.
pub const BAD: &str = "bad";
/// Marks a command that Lockstep did not write.
pub const REPLAYED: &str = "replayed";

fn worker_group(target: &str) -> String {
    format!("lockstep.worker.{target}")
}

type Which = (Option<TargetName>, Option<AccountId>);

fn release((target, account): Which) -> Action {
    Action::GuardRelease { target, account }
}

fn reject((target, account): Which) -> Action {
    Action::GuardReject { target, account }
}

fn redrive(letter: DeadLetter) -> Action {
    let DeadLetter { command, .. } = letter;
    let (target, account, identity) = (command.target, command.account, command.identity);
    Action::Redrive { target, account, identity, routing_key: command.routing_key }
}

/// An operator who gave up a leaver's disable would have somebody stay in.
fn may_be_dropped(letter: &DeadLetter) -> bool {
    !letter.command.op.is_deprovision()
}

fn drop_letter(letter: DeadLetter) -> Action {
    let DeadLetter { command, .. } = letter;
    let (target, account, identity) = (command.target, command.account, command.identity);
    Action::Drop { target, account, identity, routing_key: command.routing_key }
}

fn retry(Address { routing_key, entity }: Address) -> Action {
    Action::QuarantineRetry { entity, routing_key }
}

/// Of one way of an exchange: most are fast, some take half of what an exchange may.
fn latency(random: &mut Random, faults: &Faults) -> i64 {
    let slow = random.percent(8) && !faults.is_calm();
    1 + if slow { random.below(EXCHANGE_MS as u64 / 2 - 2) as i64 } else { 1 }
}

/// A crash may cost the disk, or bring an old one back.
fn spoil(process: &mut Process, faults: &Faults) {
    if faults.happens("disk lost", 250) {
        process.disk.wipe();
    } else if faults.happens("disk stale", 250) {
        process.disk.restore(&process.old_disk);
    }
}

/// The topics as `lockstep topics apply` makes them.
fn specs(names: &TopicNames, layout: Layout) -> Vec<TopicSpec> {
    let wishes = Wishes {
        inbox_partitions: layout.inbox_partitions,
        command_partitions: layout.command_partitions,
        ..Wishes::default()
    };
    let mut specs = topics::specs(names, &TARGETS.map(TargetName::from), &wishes);
    specs.extend(SOURCE_TOPICS.map(|topic| topics::source(topic, 2)));
    specs
}
