//! The loops of a running process: the processor, a worker for each target on a thread, all begun anew
//! after an error that may pass.

use super::{Exit, Failure, progress, runtime};
use crate::bus::acls;
use crate::bus::embedded::WallClock;
use crate::bus::topics::{self, Layout, TopicsError};
use crate::bus::{Bus, BusError, ClockReading, MOST_CLOCK_OFFSET};
use crate::codec::source::{Reason, SourceDecoder};
use crate::config::{BusRules, Config, Installation, resolve};
use crate::connector::{self, Connector, Limits};
use crate::lane::RetryPolicy;
use crate::model::{Outcome, TargetName, TenantId};
use crate::rules::{Bundle, TargetRules};
use crate::runtime::{
    Announcement, Codecs, Lag, Now, Positions, Processor, ProcessorError, ProcessorSettings, Progress, Publisher,
    RestoreError, RestoreSettings, SLICE,
};
use crate::store::disk::DiskStores;
use crate::store::{StoreError, Stores};
use crate::telemetry::{Condition, Health, Metrics};
use crate::worker::{LaneLoop, LaneSettings, Newest, Shell, WorkerError};
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// The processor's loop, in health and log.
const PROCESSOR: &str = "processor";
/// A turn's longest regular silence: a restore or a broker's failover may take that long.
const MAX_SILENCE: Duration = Duration::from_secs(120);
/// Longest wait of an idle turn: how soon a stop is noticed.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// Pauses before a loop begins anew, doubling.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A loop that ran that long before it failed begins anew with the first pause.
const SETTLED: Duration = Duration::from_secs(60);
/// How often the lag is looked at, and how often a loop says where it stands.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// How often the brokers' clock is looked at: one that was set wrong is noticed within a fraction of the shortest deadline.
const CLOCK_EVERY: Duration = Duration::from_secs(60);
/// Of a call to the outside beside which the worker's own time-out gives up.
const CALL_SLACK: Duration = Duration::from_secs(2);
/// Exchanges of a call until its change has arrived or never will: a read, and the change itself.
const CHANGING_EXCHANGES: u32 = 2;

/// What the loops have come to, for whoever waits until all is done.
#[derive(Debug, Default)]
pub struct Activity {
    /// When anything was last committed, in ms since the epoch.
    last: AtomicI64,
    /// Workers' lanes whose command was never tried, or is being tried.
    unsettled: AtomicUsize,
}

impl Activity {
    fn committed(&self, now: Now) {
        self.last.store(now.now().0, Ordering::Relaxed);
    }

    /// Nothing was committed for that long, and every lane has tried its command.
    pub fn is_quiet(&self, now: &Now, quiet: Duration) -> bool {
        let last = crate::model::Timestamp(self.last.load(Ordering::Relaxed));
        self.unsettled.load(Ordering::Relaxed) == 0 && now.now().since(last) >= quiet
    }
}

/// What the loops of one process share.
#[derive(Clone)]
pub struct Parts {
    pub installation: Installation,
    pub bundle: Arc<Bundle>,
    pub layout: Layout,
    /// The installation's folder, the same for all its processes of this host: what `${data}` stands for.
    pub data: PathBuf,
    pub instance: String,
    pub bus: Arc<dyn Bus>,
    pub stores: Arc<dyn Stores>,
    pub codecs: Arc<Codecs>,
    pub metrics: Arc<Metrics>,
    pub health: Health,
    pub now: Now,
    pub activity: Arc<Activity>,
    pub positions: Arc<Positions>,
    /// How far restores are.
    pub restoring: Arc<Progress>,
    /// Met once all loops of the process are begun.
    pub begun: Condition,
    pub cancel: CancellationToken,
    pub runtime: Handle,
}

impl Parts {
    /// Opens the bus and, below `state`, the stores, and sees to the topics: the embedded bus makes its own, on Kafka they are
    /// checked. Brokers that are away are waited for. None: cancelled meanwhile.
    pub fn open(
        config: Config,
        data: &Path,
        state: &Path,
        instance: String,
        runtime: &Handle,
        cancel: CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        runtime::create_data_dir(state)?;
        let layout = Layout::of(&config);
        let metrics = Metrics::new();
        let Some(bus) = runtime::until_reached(&cancel, || checked_bus(&config, &layout, data, &metrics))? else {
            return Ok(None);
        };
        let Config { installation, bundle, .. } = config;
        // A changelog's name is the prefix and what the store itself is named by.
        let origin =
            format!("{} {}", bus.identity().map_err(|error| runtime::bus_failure(&error))?, layout.names.prefix);
        let stores = DiskStores::open(state, installation.store_mib(), &origin).map_err(|error| {
            Failure::new(Exit::Failed, error.to_string()).help("each process needs a --data of its own")
        })?;
        let registry = runtime::registry(&installation, data)?;
        let tenants = installation.tenants.iter().cloned().collect();
        let codecs = Codecs {
            public: Arc::new(crate::codec::public::PublicCodec::new(registry.clone())),
            sources: SourceDecoder::new(registry, tenants, installation.event_bytes),
        };
        let now: Now = Arc::new(WallClock);
        let health = Health::new();
        let begun = health.condition("process: loops begun");
        let activity = Activity::default();
        activity.committed(Arc::clone(&now));
        Ok(Some(Self {
            installation,
            bundle: Arc::new(bundle),
            layout,
            data: data.to_owned(),
            instance,
            bus,
            stores: Arc::new(stores),
            codecs: Arc::new(codecs),
            metrics: Arc::new(metrics),
            health,
            now,
            activity: Arc::new(activity),
            positions: Arc::default(),
            restoring: Arc::default(),
            begun,
            cancel,
            runtime: runtime.clone(),
        }))
    }

    /// The processor, which steps on so many threads, until cancelled.
    pub fn spawn_processor(&self, threads: usize) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let targets = self.bundle.targets().iter();
        let deadlines: Vec<_> = targets.map(|target| (target.name.as_str(), target.deprovision_deadline)).collect();
        self.metrics.begin_processor(&self.tenants(), &deadlines);
        for source in self.bundle.sources() {
            self.metrics.begin_source(source.name.as_str(), &Reason::ALL.map(Reason::as_str));
        }
        let (parts, name) = (self.clone(), PROCESSOR);
        let ready = self.health.condition(format!("{name}: restored"));
        let mut announcement = Announcement::of(Arc::clone(&self.bundle));
        spawn(name, move || parts.supervise(name, &ready, || parts.process(threads, &mut announcement, &ready)))
    }

    /// A target's worker, until cancelled.
    pub fn spawn_worker(&self, target: &TargetName) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let (parts, target) = (self.clone(), target.clone());
        let name = format!("worker {target}");
        let ready = self.health.condition(format!("{name}: restored"));
        self.metrics.begin_worker(&self.tenants(), target.as_str(), &Outcome::ALL.map(Outcome::as_str));
        spawn(&name.clone(), move || parts.supervise(&name, &ready, || parts.work(&target, &ready)))
    }

    /// Watches how far the loops are behind, until cancelled. As it asks the bus every second it also says whether that answers:
    /// a loop that waits for records doesn't notice when Kafka is gone.
    pub fn spawn_lag(&self) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let parts = self.clone();
        let answers = self.health.condition("bus: answers");
        spawn("lag", move || {
            let (bus, metrics) = (Arc::clone(&parts.bus), Arc::clone(&parts.metrics));
            let topic = parts.installation.topics.operations();
            let mut lag = Lag::new(bus, metrics, Arc::clone(&parts.positions), topic);
            while !parts.cancel.is_cancelled() {
                match lag.look() {
                    Ok(()) => answers.met(),
                    Err(error) => {
                        answers.waiting("it gave no answer: see the log");
                        tracing::warn!(%error, "the bus can't be asked where it ends; tried again");
                    }
                }
                parts.pause(LAG_EVERY);
            }
            Ok(())
        })
    }

    /// Looks at the brokers' clock now and then, until cancelled. One that is off ends the process.
    pub fn spawn_clock(&self) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let parts = self.clone();
        spawn("clock", move || {
            let topic = parts.layout.names.clock();
            loop {
                parts.pause(CLOCK_EVERY);
                if parts.cancel.is_cancelled() {
                    return Ok(());
                }
                match look_at_clock(parts.bus.as_ref(), &topic, &parts.metrics) {
                    Ok(None) => {}
                    Ok(Some(reading)) => {
                        tracing::error!("{reading}: ends the process");
                        parts.cancel.cancel();
                        return Err(clock_failure(&reading));
                    }
                    Err(error) => tracing::warn!(%error, "the brokers' clock can't be looked at; tried again"),
                }
            }
        })
    }

    /// Shows on a terminal how far restores are, until cancelled.
    pub fn spawn_progress(&self) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let (restoring, cancel) = (Arc::clone(&self.restoring), self.cancel.clone());
        spawn("progress", move || {
            progress::watch(&restoring, &cancel);
            Ok(())
        })
    }

    fn tenants(&self) -> Vec<&str> {
        self.installation.tenants.iter().map(TenantId::as_str).collect()
    }

    fn process(&self, threads: usize, announcement: &mut Announcement, ready: &Condition) -> Result<(), LoopError> {
        let topics = self.installation.topics.clone();
        let settings = ProcessorSettings {
            group: acls::group_of_processors(&topics),
            instance: self.instance.clone(),
            inbox_partitions: self.installation.inbox_partitions,
            record_bytes: self.largest(&topics.inbox()),
            dead_letter_bytes: self.largest(&topics.source_dead_letters()),
            through_inbox: false,
            cache_bytes: self.installation.cache_bytes(),
            restore: RestoreSettings::default(),
            threads,
            slice: SLICE,
            topics,
        };
        let publisher = Publisher::new(Arc::clone(&self.codecs.public), Arc::clone(&self.metrics));
        let heartbeat = self.health.heartbeat(PROCESSOR.to_owned(), MAX_SILENCE);
        let mut processor = Processor::start(
            settings,
            Arc::clone(&self.bus),
            Arc::clone(&self.stores),
            announcement,
            publisher.with_decisions(self.installation.decisions),
            Arc::clone(&self.codecs),
            Arc::clone(&self.metrics),
            Arc::clone(&self.restoring),
            Arc::clone(&self.now),
        )?;
        let mut told = Instant::now();
        while !self.cancel.is_cancelled() {
            let turn = processor.turn(IDLE_WAIT)?;
            heartbeat.beat();
            if turn.committed || turn.more {
                self.activity.committed(Arc::clone(&self.now));
            }
            if told.elapsed() >= LAG_EVERY {
                told = Instant::now();
                self.positions.follow(PROCESSOR, processor.positions(), processor.is_ready());
            }
            if processor.is_ready() { ready.met() } else { ready.waiting("partitions") }
        }
        self.positions.set(PROCESSOR, processor.positions());
        ready.waiting("the process stops");
        Ok(processor.stop()?)
    }

    fn work(&self, target: &TargetName, ready: &Condition) -> Result<(), LoopError> {
        let rules = self.bundle.target(target).expect("the target was looked up when the command line was read");
        let connector = self.connector(rules)?;
        let topics = self.installation.topics.clone();
        let exchange_timeout = rules.timeout + CALL_SLACK;
        let newest = Arc::new(Newest::new());
        let settings = LaneSettings {
            target: target.clone(),
            group: acls::group_of_workers(&topics, target),
            instance: self.instance.clone(),
            format: rules.format,
            policy: RetryPolicy::new(exchange_timeout * CHANGING_EXCHANGES, Instant::now()),
            concurrency: rules.concurrency,
            dead_letter_bytes: self.largest(&topics.source_dead_letters()),
            topics,
        };
        let heartbeat = self.health.heartbeat(format!("worker {target}"), MAX_SILENCE);
        let lanes = LaneLoop::start(
            settings,
            Arc::clone(&self.bus),
            Arc::clone(&self.stores),
            Arc::clone(&self.codecs.public),
            Arc::clone(&self.metrics),
            Arc::clone(&newest),
            Arc::clone(&self.now),
        )?;
        let shell = Shell {
            lanes,
            connector,
            newest,
            metrics: Arc::clone(&self.metrics),
            target: target.0.to_string(),
            exchange_timeout,
            runtime: self.runtime.clone(),
        };
        let (mut before, mut told) = (0, Instant::now());
        let ran = shell.run(&self.cancel, |lanes| {
            heartbeat.beat();
            let unsettled = lanes.unsettled();
            if unsettled > 0 || before > 0 {
                self.activity.committed(Arc::clone(&self.now));
            }
            self.activity.unsettled.fetch_add(unsettled, Ordering::Relaxed);
            self.activity.unsettled.fetch_sub(before, Ordering::Relaxed);
            before = unsettled;
            if told.elapsed() >= LAG_EVERY {
                told = Instant::now();
                self.positions.follow(target.as_str(), lanes.positions(), lanes.is_ready());
            }
            if lanes.is_ready() { ready.met() } else { ready.waiting("partitions") }
        });
        self.activity.unsettled.fetch_sub(before, Ordering::Relaxed);
        ready.waiting("the process stops");
        Ok(ran?)
    }

    fn connector(&self, rules: &TargetRules) -> Result<Arc<dyn Connector>, LoopError> {
        let limits = Limits { timeout: rules.timeout, concurrency: rules.concurrency };
        let secret = |text: &str| match resolve(text, &self.data) {
            Ok(secret) => Ok(secret.expose().to_owned()),
            Err(error) => Err(format!("{error}: {}", error.remedy())),
        };
        let opening = connector::open(&rules.connector, limits, &secret);
        self.runtime.block_on(opening).map_err(|error| LoopError::Connector { target: rules.name.clone(), error })
    }

    fn largest(&self, topic: &str) -> usize {
        let specs = self.layout.specs();
        let spec = specs.iter().find(|spec| spec.name == topic);
        spec.and_then(|spec| spec.settings.get("max.message.bytes")?.parse().ok())
            .unwrap_or(self.installation.event_bytes)
    }

    /// Waits, unless cancelled.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.cancel.is_cancelled() {
            sleep(IDLE_WAIT);
        }
    }

    /// Runs `body` until it ends well; after an error that may pass, again.
    fn supervise(
        &self,
        name: &str,
        ready: &Condition,
        mut body: impl FnMut() -> Result<(), LoopError>,
    ) -> anyhow::Result<()> {
        let mut pause = FIRST_PAUSE;
        let restarts = self.metrics.loop_restarts_total.of([name]);
        loop {
            let began = Instant::now();
            match body() {
                Ok(()) => return Ok(()),
                Err(error) if self.cancel.is_cancelled() => {
                    tracing::warn!(name, %error, "stopped in the middle of an error");
                    return Ok(());
                }
                Err(error) if error.is_final() => {
                    tracing::error!(name, %error, "ends the process");
                    self.cancel.cancel();
                    return Err(error).context(name.to_owned());
                }
                Err(error) => {
                    pause = if began.elapsed() > SETTLED { FIRST_PAUSE } else { pause };
                    restarts.inc();
                    ready.waiting("it failed and begins anew: see the log");
                    tracing::error!(name, %error, pause_s = pause.as_secs(), "begins anew after a pause");
                    self.pause(pause);
                    if self.cancel.is_cancelled() {
                        return Ok(());
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LoopError {
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("target {target}: {error}")]
    Connector { target: TargetName, error: connector::OpenError },
}

impl LoopError {
    /// Beginning anew would end the same way: another process has this one's place, the rules are wrong, or the local store, which
    /// only the next start of a process sets aside.
    fn is_final(&self) -> bool {
        if let Some(error) = self.of_the_store() {
            return error.ends_the_process();
        }
        matches!(
            self,
            Self::Processor(ProcessorError::Bus(BusError::Fenced(_)))
                | Self::Worker(WorkerError::Bus(BusError::Fenced(_)))
                | Self::Connector {
                    error: connector::OpenError::Secret { .. } | connector::OpenError::Rules { .. },
                    ..
                }
        )
    }

    fn of_the_store(&self) -> Option<&StoreError> {
        match self {
            Self::Processor(ProcessorError::Store(error) | ProcessorError::Restore(RestoreError::Store(error)))
            | Self::Worker(WorkerError::Store(error) | WorkerError::Restore(RestoreError::Store(error))) => Some(error),
            _ => None,
        }
    }
}

/// The bus, its topics and its clock as they have to be.
fn checked_bus(config: &Config, layout: &Layout, data: &Path, metrics: &Metrics) -> anyhow::Result<Arc<dyn Bus>> {
    let bus = runtime::open_bus(config, data)?;
    match config.installation.bus {
        BusRules::Embedded => {
            topics::make(bus.as_ref(), layout).map_err(|error| runtime::bus_failure(&error))?;
        }
        BusRules::Kafka(_) => {
            let warnings = topics::verify(bus.as_ref(), layout).map_err(|error| match error {
                TopicsError::Bus(error) => runtime::bus_failure(&error),
                error => Failure::new(Exit::Config, error.to_string()).help("see `lockstep topics plan`").into(),
            })?;
            let mut by_what: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for warning in warnings {
                by_what.entry(warning.what).or_default().push(warning.topic);
            }
            for (what, topics) in by_what {
                tracing::warn!(topics = topics.join(", "), what, "topics are not as they should be");
            }
        }
    }
    look_at_clock(bus.as_ref(), &layout.names.clock(), metrics)
        .map_err(|error| runtime::bus_failure(&error))?
        .map_or(Ok(()), |reading| Err(clock_failure(&reading)))?;
    Ok(bus)
}

/// Shows how this host's clock stands against the brokers', and gives the reading if it is off.
fn look_at_clock(bus: &dyn Bus, topic: &str, metrics: &Metrics) -> Result<Option<ClockReading>, BusError> {
    let Some(reading) = bus.clock(topic)? else { return Ok(None) };
    metrics.clock_offset_seconds.set(reading.ahead_ms as f64 / 1000.0);
    Ok(reading.is_off().then_some(reading))
}

fn clock_failure(reading: &ClockReading) -> anyhow::Error {
    let most = MOST_CLOCK_OFFSET.as_secs();
    Failure::new(Exit::Failed, format!("{reading}, more than the {most} s with which deadlines still mean anything"))
        .help("set this host's clock, or the broker's: both by NTP")
        .into()
}

fn spawn(
    name: &str,
    body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .with_context(|| format!("starting the thread of the {name}"))
}

/// Waits for loops that were cancelled, and gives the first error of any.
pub fn join(loops: Vec<JoinHandle<anyhow::Result<()>>>) -> anyhow::Result<()> {
    let mut first = Ok(());
    for ended in loops {
        let ended = ended.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a loop ended in a bug: see the log")));
        first = first.and(ended);
    }
    first
}

/// The name that is this process's among those of its group, the same after a restart: that of the host.
pub fn default_instance() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
    if name.is_empty() { "0".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_damaged_or_takes_no_write_ends_the_process_wherever_it_was_met() {
        let path = || "data/state".to_owned();
        let damaged = || StoreError::Damaged { path: path(), doing: "read a row", reason: "checksum".to_owned() };
        let poisoned = || StoreError::Poisoned { path: path(), doing: "write a batch" };
        let failed = || StoreError::Failed { path: path(), doing: "write a batch", reason: "no space".to_owned() };
        let cases: [(&dyn Fn() -> StoreError, bool); 3] = [(&damaged, true), (&poisoned, true), (&failed, false)];
        for (error, is_final) in cases {
            let places: [LoopError; 4] = [
                ProcessorError::from(error()).into(),
                ProcessorError::from(RestoreError::from(error())).into(),
                WorkerError::from(error()).into(),
                WorkerError::from(RestoreError::from(error())).into(),
            ];
            for met in places {
                assert_eq!(met.is_final(), is_final, "{met:?}");
            }
        }
    }
}
