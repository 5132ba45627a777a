//! Restores partitions beside the loop that serves the others, and says how far it is.
//!
//! Threads replay the changelogs, each with a share of the partitions and a reader of its own; the loop only asks what has come
//! to its end. A simulation has no threads: there a chunk is applied in each turn, so that a run is the same every time. A store
//! is in one hand at any time: a thread's until it gives it back or ends, and `stop` waits for that.

use super::restore::{Behind, CHUNK, Replay, RestoreError, Restored};
use crate::bus::Bus;
use crate::model::Timestamp;
use crate::telemetry::Metrics;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads of a restore, at most: a broker's disk and the cores bound it, not their number.
const MOST_THREADS: usize = 4;
/// Longest wait of a replay for records: how soon it notices that it is to stop.
const WAIT: Duration = Duration::from_millis(50);
/// How often the log says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub struct RestoreSettings {
    /// 0: in the turns themselves, as a simulation needs it.
    pub threads: usize,
    /// Records applied at once.
    pub chunk: usize,
}

impl Default for RestoreSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads: cores.clamp(1, MOST_THREADS), chunk: CHUNK }
    }
}

/// How far the restores of a process are, all its loops together.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicI64,
    left: AtomicI64,
}

impl Progress {
    /// Offsets to be read in all, and how many of them are left; both 0 when nothing is restored.
    pub fn now(&self) -> (i64, i64) {
        (self.total.load(Ordering::Relaxed), self.left.load(Ordering::Relaxed))
    }

    fn add(&self, offsets: i64) {
        self.total.fetch_add(offsets, Ordering::Relaxed);
        self.left.fetch_add(offsets, Ordering::Relaxed);
    }

    fn passed(&self, offsets: i64) {
        self.left.fetch_sub(offsets, Ordering::Relaxed);
    }

    fn end(&self, total: i64, left: i64) {
        self.total.fetch_sub(total, Ordering::Relaxed);
        self.left.fetch_sub(left, Ordering::Relaxed);
    }
}

/// Where a replay tells what it has done: the metrics, and the process's progress.
#[derive(Clone)]
struct Gauges {
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
    /// Offsets that this restore has left.
    left: Arc<AtomicI64>,
    began: Instant,
}

impl Gauges {
    /// One chunk of a replay, and what it came to.
    fn advance(&self, replay: &mut Replay, wait: Duration) -> Result<Vec<Restored>, RestoreError> {
        let before: i64 = replay.remaining().map(|(_, left)| left).sum();
        let restored = replay.advance(wait)?;
        let after: i64 = replay.remaining().map(|(_, left)| left).sum();
        self.left.fetch_sub(before - after, Ordering::Relaxed);
        self.progress.passed(before - after);
        for (partition, left) in replay.remaining() {
            self.metrics.restore_remaining_records.of([&partition.to_string()]).set(left);
        }
        for one in &restored {
            let partition = one.partition.to_string();
            self.metrics.restore_remaining_records.of([&partition]).set(0);
            self.metrics.restore_seconds.of([&partition]).set(self.began.elapsed().as_secs_f64());
            self.metrics.restored_records_total.inc_by(one.replayed);
        }
        Ok(restored)
    }
}

pub struct Restorer {
    bus: Arc<dyn Bus>,
    topic: String,
    settings: RestoreSettings,
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
    work: Option<Work>,
}

struct Work {
    gauges: Gauges,
    total: i64,
    partitions: usize,
    replayed: u64,
    said: Instant,
    open: BTreeSet<u32>,
    how: How,
}

enum How {
    Turns(Replay),
    Threads { stop: Arc<AtomicBool>, results: Receiver<Result<Restored, RestoreError>>, threads: Vec<JoinHandle<()>> },
}

impl Restorer {
    pub fn new(
        bus: Arc<dyn Bus>,
        topic: String,
        settings: RestoreSettings,
        metrics: Arc<Metrics>,
        progress: Arc<Progress>,
    ) -> Self {
        Self { bus, topic, settings, metrics, progress, work: None }
    }

    pub fn is_idle(&self) -> bool {
        self.work.is_none()
    }

    pub fn is_open(&self, partition: u32) -> bool {
        self.work.as_ref().is_some_and(|work| work.open.contains(&partition))
    }

    /// Partitions that are not there yet.
    pub fn open(&self) -> impl Iterator<Item = u32> {
        self.work.iter().flat_map(|work| work.open.iter().copied())
    }

    /// Begins to restore these; what was under way is stopped.
    pub fn begin(&mut self, behind: Vec<Behind>, now: Timestamp) -> Result<(), RestoreError> {
        self.stop();
        if behind.is_empty() {
            return Ok(());
        }
        let total: i64 = behind.iter().map(Behind::remaining).sum();
        let open: BTreeSet<u32> = behind.iter().map(|one| one.partition).collect();
        let gauges = Gauges {
            metrics: Arc::clone(&self.metrics),
            progress: Arc::clone(&self.progress),
            left: Arc::new(AtomicI64::new(total)),
            began: Instant::now(),
        };
        tracing::info!(partitions = open.len(), records = total, "restoring");
        let how = match self.settings.threads {
            0 => How::Turns(Replay::begin(self.bus.as_ref(), &self.topic, behind, self.settings.chunk, now)?),
            threads => self.spawn(shares(behind, threads), &gauges, now),
        };
        self.progress.add(total);
        let partitions = open.len();
        self.work = Some(Work { gauges, total, partitions, replayed: 0, said: Instant::now(), open, how });
        Ok(())
    }

    fn spawn(&self, shares: Vec<Vec<Behind>>, gauges: &Gauges, now: Timestamp) -> How {
        let stop = Arc::new(AtomicBool::new(false));
        // A result a partition, and a failure a thread: nobody ever waits to send one.
        let (sender, results) = sync_channel(shares.iter().map(|share| share.len() + 1).sum());
        let threads = shares.into_iter().map(|share| {
            let (bus, topic, chunk) = (Arc::clone(&self.bus), self.topic.clone(), self.settings.chunk);
            let (stop, sender, gauges) = (Arc::clone(&stop), sender.clone(), gauges.clone());
            let body = move || {
                if let Err(error) = replay(bus.as_ref(), &topic, share, chunk, now, &stop, &sender, &gauges) {
                    // Nobody listens any more where the loop is gone.
                    let _ = sender.try_send(Err(error));
                }
            };
            std::thread::Builder::new().name("restore".into()).spawn(body).expect("a thread can be started")
        });
        How::Threads { threads: threads.collect(), stop, results }
    }

    /// What has come to its end since it was last asked. Never waits.
    pub fn restored(&mut self) -> Result<Vec<Restored>, RestoreError> {
        let Some(work) = &mut self.work else { return Ok(Vec::new()) };
        let restored = match work.take(&self.topic) {
            Ok(restored) => restored,
            Err(error) => {
                self.stop();
                return Err(error);
            }
        };
        for one in &restored {
            work.open.remove(&one.partition);
            work.replayed += one.replayed;
        }
        let seconds = work.gauges.began.elapsed().as_secs_f64();
        let left = work.gauges.left.load(Ordering::Relaxed);
        if work.open.is_empty() {
            let rate = (work.replayed as f64 / seconds.max(0.001)) as u64;
            tracing::info!(partitions = work.partitions, records = work.replayed, seconds, rate, "restored");
            self.stop();
        } else if work.said.elapsed() >= SAY_EVERY {
            work.said = Instant::now();
            let rate = ((work.total - left) as f64 / seconds) as u64;
            tracing::info!(partitions = work.open.len(), left, of = work.total, rate, "restoring");
        }
        Ok(restored)
    }

    /// Ends what is under way, and returns when no thread has a store in hand any more. What was applied stays: the next
    /// restore goes on from there.
    pub fn stop(&mut self) {
        let Some(work) = self.work.take() else { return };
        if let How::Threads { stop, threads, .. } = work.how {
            stop.store(true, Ordering::SeqCst);
            for thread in threads {
                // A panic is in the log, and was told as an error where anybody asked.
                let _ = thread.join();
            }
        }
        self.progress.end(work.total, work.gauges.left.load(Ordering::Relaxed));
        for partition in work.open {
            self.metrics.restore_remaining_records.forget([&partition.to_string()]);
        }
    }
}

/// A loop that ends leaves no thread behind that still has a store in hand.
impl Drop for Restorer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Work {
    fn take(&mut self, topic: &str) -> Result<Vec<Restored>, RestoreError> {
        match &mut self.how {
            How::Turns(replay) => self.gauges.advance(replay, Duration::ZERO),
            How::Threads { results, .. } => {
                let mut restored = Vec::new();
                loop {
                    match results.try_recv() {
                        Ok(result) => restored.push(result?),
                        // All threads are gone: where something is still open after that, one of them panicked.
                        Err(TryRecvError::Disconnected) if restored.len() < self.open.len() => {
                            return Err(RestoreError::Thread { topic: topic.to_owned() });
                        }
                        Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(restored),
                    }
                }
            }
        }
    }
}

/// A thread's work.
#[expect(clippy::too_many_arguments, reason = "what a thread takes with it")]
fn replay(
    bus: &dyn Bus,
    topic: &str,
    behind: Vec<Behind>,
    chunk: usize,
    now: Timestamp,
    stop: &AtomicBool,
    results: &SyncSender<Result<Restored, RestoreError>>,
    gauges: &Gauges,
) -> Result<(), RestoreError> {
    let mut replay = Replay::begin(bus, topic, behind, chunk, now)?;
    while !replay.is_done() && !stop.load(Ordering::SeqCst) {
        for restored in gauges.advance(&mut replay, WAIT)? {
            // Nobody listens any more where the loop is gone.
            let _ = results.try_send(Ok(restored));
        }
    }
    Ok(())
}

/// Partitions by thread, so that each has about as much to read: the longest first, each to whoever has least.
fn shares(mut behind: Vec<Behind>, threads: usize) -> Vec<Vec<Behind>> {
    behind.sort_by_key(|one| std::cmp::Reverse(one.remaining()));
    let mut shares: Vec<(i64, Vec<Behind>)> = (0..threads.min(behind.len())).map(|_| (0, Vec::new())).collect();
    for one in behind {
        let least = shares.iter_mut().min_by_key(|(left, share)| (*left, share.len())).expect("there is a thread");
        least.0 += one.remaining();
        least.1.push(one);
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

#[cfg(test)]
mod tests {
    use super::super::restore::{Found, look};
    use super::*;
    use crate::bus::embedded::{EmbeddedBus, WallClock};
    use crate::bus::{Outgoing, TopicSpec};
    use crate::store::memory::MemoryStores;
    use crate::store::{Store, Stores};

    const NOW: Timestamp = Timestamp(1_000);

    struct Bed {
        bus: Arc<dyn Bus>,
        stores: MemoryStores,
        metrics: Arc<Metrics>,
        progress: Arc<Progress>,
    }

    impl Bed {
        /// Partition n of the changelog has `records[n]` records.
        fn new(records: &[usize]) -> Self {
            let bus = EmbeddedBus::memory(Arc::new(WallClock));
            let spec = TopicSpec {
                name: "changelog".into(),
                partitions: records.len() as u32,
                replicas: None,
                settings: [("cleanup.policy".to_owned(), "compact".to_owned())].into(),
            };
            bus.create(&[spec]).unwrap();
            for (partition, count) in (0..).zip(records) {
                let record = |n| Outgoing {
                    topic: "changelog".into(),
                    partition: Some(partition),
                    key: Some(format!("{n:05}").into_bytes()),
                    value: Some("v".into()),
                    headers: Vec::new(),
                };
                bus.append((0..*count).map(record).collect()).unwrap();
            }
            let (stores, metrics, progress) = (MemoryStores::new(), Arc::default(), Arc::default());
            Self { bus: Arc::new(bus), stores, metrics, progress }
        }

        fn restorer(&self, threads: usize, chunk: usize) -> Restorer {
            let settings = RestoreSettings { threads, chunk };
            let (bus, metrics, progress) =
                (Arc::clone(&self.bus), Arc::clone(&self.metrics), Arc::clone(&self.progress));
            Restorer::new(bus, "changelog".into(), settings, metrics, progress)
        }

        fn store(&self, partition: u32) -> Box<dyn Store> {
            self.stores.open("state", partition).unwrap()
        }

        fn behind(&self, partitions: &[u32]) -> Vec<Behind> {
            let look = |id: &u32| match look(self.bus.as_ref(), "changelog", *id, self.store(*id), NOW).unwrap() {
                Found::Behind(behind) => Some(behind),
                Found::Current(_) => None,
            };
            partitions.iter().filter_map(look).collect()
        }
    }

    fn all(restorer: &mut Restorer) -> Vec<Restored> {
        let (mut restored, until) = (Vec::new(), Instant::now() + Duration::from_secs(30));
        while !restorer.is_idle() {
            assert!(Instant::now() < until, "not restored within 30 s");
            restored.extend(restorer.restored().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
        restored.sort_by_key(|one| one.partition);
        restored
    }

    #[test]
    fn threads_and_turns_restore_every_partition_and_tell_how_far_they_are() {
        for threads in [0, 1, 3, 8] {
            let bed = Bed::new(&[500, 0, 20, 333]);
            let mut restorer = bed.restorer(threads, 10);
            restorer.begin(bed.behind(&[0, 1, 2, 3]), NOW).unwrap();
            assert!(restorer.is_open(0) && !restorer.is_open(4));
            assert_eq!(bed.progress.now().0, 853, "with {threads} threads");
            let restored = all(&mut restorer);
            let told: Vec<_> = restored.iter().map(|one| (one.partition, one.end, one.replayed)).collect();
            assert_eq!(told, [(0, 500, 500), (1, 0, 0), (2, 20, 20), (3, 333, 333)], "with {threads} threads");
            assert_eq!(bed.progress.now(), (0, 0), "with {threads} threads");
            assert_eq!(bed.metrics.restored_records_total.get(), 853);
            assert_eq!(bed.metrics.restore_remaining_records.of(["0"]).get(), 0);
            assert_eq!(bed.store(3).scan(&[], &[], 1_000).unwrap().len(), 333);
            assert!(bed.behind(&[0, 1, 2, 3]).is_empty(), "the stores are current now");
        }
    }

    #[test]
    fn a_restore_that_is_stopped_keeps_what_it_has_and_the_next_goes_on_from_there() {
        let bed = Bed::new(&[50_000]);
        let mut restorer = bed.restorer(1, 100);
        // A tail: it is applied as it is read.
        bed.store(0).apply(&[], 0).unwrap();
        bed.store(0).touch(NOW).unwrap();
        restorer.begin(bed.behind(&[0]), NOW).unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while bed.store(0).position().unwrap().is_none_or(|at| at == 0) && Instant::now() < until {
            std::thread::yield_now();
        }
        restorer.stop();
        assert_eq!(bed.progress.now(), (0, 0));
        let at = bed.store(0).position().unwrap().unwrap();
        assert!((1..50_000).contains(&at), "stopped in the middle: {at}");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(bed.store(0).position().unwrap(), Some(at), "no thread writes to it any more");
        bed.store(0).touch(NOW).unwrap();
        restorer.begin(bed.behind(&[0]), NOW).unwrap();
        assert_eq!(all(&mut restorer)[0].replayed, (50_000 - at) as u64, "only the rest is read");
    }

    #[test]
    fn a_thread_that_panics_is_an_error_and_not_a_wait_for_ever() {
        let bed = Bed::new(&[5]);
        let mut restorer = bed.restorer(1, 100);
        // Nobody but this loop may listen: with the receiver at hand and no thread behind it the restore can't end.
        restorer.begin(bed.behind(&[0]), NOW).unwrap();
        let work = restorer.work.as_mut().unwrap();
        let (_, results) = sync_channel(1);
        if let How::Threads { results: real, .. } = &mut work.how {
            *real = results;
        }
        assert!(matches!(restorer.restored(), Err(RestoreError::Thread { .. })));
        assert!(restorer.is_idle());
    }

    #[test]
    fn each_thread_has_about_as_much_to_read() {
        let bed = Bed::new(&[10, 90, 30, 40, 0, 10]);
        let shares = shares(bed.behind(&[0, 1, 2, 3, 4, 5]), 2);
        let sizes: Vec<i64> = shares.iter().map(|share| share.iter().map(Behind::remaining).sum()).collect();
        assert_eq!(sizes.iter().sum::<i64>(), 180);
        assert!(sizes.iter().all(|size| (80..=100).contains(size)), "{sizes:?}");
    }
}
