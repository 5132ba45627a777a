//! How far the loops of this process are behind the ends of what they read, looked at from a thread beside them: asking the
//! brokers takes time that a loop has not, and a loop that hangs falls behind all the same.

use crate::bus::{Bus, BusError, TopicPartition};
use crate::telemetry::Metrics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one look may read on behind positions that stand still.
const READ_ON: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_millis(50);
const CHUNK: usize = 500;

/// The next offset of each partition by what was committed, by the name of the loop that reads it.
#[derive(Default)]
pub struct Positions(Mutex<BTreeMap<String, BTreeMap<TopicPartition, i64>>>);

impl Positions {
    pub fn set(&self, of: &str, positions: BTreeMap<TopicPartition, i64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(of.to_owned(), positions);
    }

    /// The same of a loop that runs. One that has no partitions yet leaves what it, or the loop before it, said last: records wait
    /// there all the same, and a loop that fails again and again would else never show for how long.
    pub fn follow(&self, of: &str, positions: BTreeMap<TopicPartition, i64>, is_ready: bool) {
        if is_ready || !positions.is_empty() {
            self.set(of, positions);
        }
    }

    pub fn all(&self) -> BTreeMap<TopicPartition, i64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().map(|(partition, offset)| (partition.clone(), *offset)).collect()
    }
}

pub struct Lag {
    bus: Arc<dyn Bus>,
    metrics: Arc<Metrics>,
    positions: Arc<Positions>,
    /// A topic that is there: asked about where no loop has a partition, so that a bus that is gone is noticed then, too.
    topic: String,
    /// As of the last look: position, end, and the lag if it is known for certain.
    seen: BTreeMap<TopicPartition, (i64, i64, Option<i64>)>,
    /// Since when there has been something to read and no commit.
    stands: BTreeMap<TopicPartition, Instant>,
}

impl Lag {
    pub fn new(bus: Arc<dyn Bus>, metrics: Arc<Metrics>, positions: Arc<Positions>, topic: String) -> Self {
        Self { bus, metrics, positions, topic, seen: BTreeMap::new(), stands: BTreeMap::new() }
    }

    /// Sets the gauges. What lies between a position and the end may be nothing but transaction markers, which no loop ever
    /// reads: where both stand still between two looks, a reader says once whether a record lies there.
    pub fn look(&mut self) -> Result<(), BusError> {
        let mut now = BTreeMap::new();
        let mut unclear = Vec::new();
        let positions = self.positions.all();
        if positions.is_empty() {
            self.bus.ends(&self.topic, 0)?;
        }
        for (partition, next) in positions {
            let end = self.bus.ends(&partition.0, partition.1)?.end;
            let known = match self.seen.get(&partition) {
                _ if end <= next => Some(0),
                Some((at, to, known)) if (*at, *to) == (next, end) => {
                    if known.is_none() {
                        unclear.push((partition.clone(), next, end));
                    }
                    *known
                }
                _ => None,
            };
            now.insert(partition, (next, end, known));
        }
        for (partition, lag) in self.read_on(&unclear)? {
            now.entry(partition).and_modify(|seen| seen.2 = Some(lag));
        }
        for (topic, partition) in self.seen.keys().filter(|partition| !now.contains_key(*partition)) {
            self.metrics.partition_lag.forget([topic, &partition.to_string()]);
            self.metrics.partition_stalled_seconds.forget([topic, &partition.to_string()]);
        }
        self.stands.retain(|partition, _| now.contains_key(partition));
        for ((topic, partition), (next, end, known)) in &now {
            let labels = [topic.as_str(), &partition.to_string()];
            self.metrics.partition_lag.of(labels).set(known.unwrap_or(end - next));
            let stalled = self.stalled(&(topic.clone(), *partition), *next, *end, *known);
            self.metrics.partition_stalled_seconds.of(labels).set(stalled.as_secs_f64());
        }
        self.seen = now;
        Ok(())
    }

    /// How long something has waited there with no commit. An end that moves where the position does not is that of records.
    fn stalled(&mut self, partition: &TopicPartition, next: i64, end: i64, known: Option<i64>) -> Duration {
        let before = self.seen.get(partition);
        let stood = before.is_some_and(|(at, ..)| *at == next);
        let waits = known.map_or(stood && before.is_some_and(|(_, to, _)| *to < end), |lag| lag > 0);
        if !stood || known == Some(0) {
            self.stands.insert(partition.clone(), Instant::now());
        }
        let since = self.stands.entry(partition.clone()).or_insert_with(Instant::now);
        if waits { since.elapsed() } else { Duration::ZERO }
    }

    /// The lag of those partitions of which it could be said in time.
    fn read_on(&self, partitions: &[(TopicPartition, i64, i64)]) -> Result<BTreeMap<TopicPartition, i64>, BusError> {
        let mut lags = BTreeMap::new();
        if partitions.is_empty() {
            return Ok(lags);
        }
        let mut reader = self.bus.reader()?;
        for ((topic, partition), next, _) in partitions {
            reader.seek(topic, *partition, *next)?;
        }
        let until = Instant::now() + READ_ON;
        while lags.len() < partitions.len() && Instant::now() < until {
            let records = reader.poll(CHUNK, WAIT)?;
            let met: BTreeSet<TopicPartition> = records.into_iter().map(|r| (r.topic, r.partition)).collect();
            for (partition, next, end) in partitions {
                if met.contains(partition) {
                    lags.insert(partition.clone(), end - next);
                } else if !lags.contains_key(partition) && reader.position(&partition.0, partition.1)? >= *end {
                    lags.insert(partition.clone(), 0);
                }
            }
        }
        Ok(lags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::embedded::{EmbeddedBus, VirtualClock};
    use crate::bus::{Outgoing, TopicSpec};
    use crate::model::Timestamp;

    #[test]
    fn the_lag_is_what_lies_behind_the_committed_position_until_the_loop_lets_go_of_it() {
        let bus = Arc::new(EmbeddedBus::memory(Arc::new(VirtualClock::at(Timestamp(1_700_000_000_000)))));
        let settings = BTreeMap::from([("cleanup.policy".to_owned(), "delete".to_owned())]);
        bus.create(&[TopicSpec { name: "t".into(), partitions: 2, replicas: None, settings }]).unwrap();
        let record = |partition| Outgoing {
            topic: "t".into(),
            partition: Some(partition),
            key: None,
            value: Some("x".into()),
            headers: Vec::new(),
        };
        bus.append(vec![record(0), record(0), record(0), record(1)]).unwrap();
        let (metrics, positions) = (Arc::new(Metrics::new()), Arc::new(Positions::default()));
        let mut lag = Lag::new(bus.clone(), Arc::clone(&metrics), Arc::clone(&positions), "t".into());
        let end = bus.ends("t", 1).unwrap().end;
        let second = bus.ends("t", 0).unwrap().end - 2;
        positions.set("loop", BTreeMap::from([(("t".to_owned(), 0), second), (("t".to_owned(), 1), end)]));
        for _ in 0..3 {
            lag.look().unwrap();
            let text = metrics.render();
            assert!(text.contains(r#"lockstep_partition_lag{partition="0",topic="t"} 2"#), "{text}");
            assert!(text.contains(r#"lockstep_partition_lag{partition="1",topic="t"} 0"#), "{text}");
        }
        positions.set("loop", BTreeMap::from([(("t".to_owned(), 0), second + 2)]));
        lag.look().unwrap();
        let text = metrics.render();
        assert!(text.contains(r#"lockstep_partition_lag{partition="0",topic="t"} 0"#), "{text}");
        assert!(!text.contains(r#"partition="1""#), "{text}");
    }

    #[test]
    fn a_partition_stalls_while_records_wait_and_nothing_is_committed() {
        let bus = Arc::new(EmbeddedBus::memory(Arc::new(VirtualClock::at(Timestamp(1_700_000_000_000)))));
        bus.create(&[TopicSpec { name: "t".into(), partitions: 1, replicas: None, settings: BTreeMap::new() }])
            .unwrap();
        let record = || Outgoing {
            topic: "t".into(),
            partition: Some(0),
            key: None,
            value: Some("x".into()),
            headers: Vec::new(),
        };
        let (metrics, positions) = (Arc::new(Metrics::new()), Arc::new(Positions::default()));
        let mut lag = Lag::new(bus.clone(), Arc::clone(&metrics), Arc::clone(&positions), "t".into());
        let at = |offset| positions.set("loop", BTreeMap::from([(("t".to_owned(), 0), offset)]));
        let mut look = || {
            std::thread::sleep(Duration::from_millis(2));
            lag.look().unwrap();
            metrics.partition_stalled_seconds.of(["t", "0"]).get()
        };
        at(0);
        assert_eq!([look(), look(), look()], [0.0; 3], "nothing is there to be read");
        bus.append(vec![record()]).unwrap();
        let first = look();
        assert!(first > 0.0, "the end has moved, so a record waits");
        assert!(look() > first, "and goes on waiting while no end moves any more");
        at(1);
        assert_eq!([look(), look()], [0.0; 2], "it is committed");
        bus.append(vec![record(), record()]).unwrap();
        at(2);
        assert_eq!(look(), 0.0, "one of two is committed: it moves");
        assert!(look() > 0.0 && look() > 0.0, "the other waits");
        positions.follow("loop", BTreeMap::new(), false);
        assert!(look() > 0.0, "it goes on waiting while the loop begins anew and has no partitions");
        positions.follow("loop", BTreeMap::new(), true);
        assert_eq!(look(), 0.0, "others have them all");
    }
}
