//! The board: follows commands, results and dead letters, says a line for each account that is done, and sums up.
//!
//! It shows names of accounts: it is a developer's terminal, and no log. Nothing of it is written anywhere.

use crate::bus::{Incoming, Reader, TopicPartition};
use crate::cli::loops::Parts;
use crate::cli::out;
use crate::codec::public::PublicCodec;
use crate::codec::source::{Decoded, Part};
use crate::model::{AccountId, Command, Op, Outcome, ResultEvent, TargetName, Timestamp, Value};
use anyhow::Context;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CHUNK: usize = 1_000;
const WAIT: Duration = Duration::from_millis(50);
/// Longest count of what is left: a new reader on Kafka takes a second or two.
const COUNTING: Duration = Duration::from_secs(5);
/// Events whose arrival is remembered, to say how long they took.
const REMEMBERED: usize = 100_000;

/// A running board.
pub struct Board {
    follower: JoinHandle<anyhow::Result<Summary>>,
    stop: Arc<AtomicBool>,
    idle: Arc<AtomicBool>,
}

/// What was counted.
#[derive(Default)]
pub struct Summary {
    events: u64,
    /// Events that no processor has come to.
    left: u64,
    rejected: BTreeMap<String, u64>,
    targets: BTreeMap<TargetName, Counts>,
    alerts: u64,
}

#[derive(Default)]
struct Counts {
    verified: BTreeMap<Op, u64>,
    /// Accounts whose newest command is neither verified nor superseded, by outcome.
    open: HashMap<String, Outcome>,
    /// Accounts that were made while it looked on.
    made: HashSet<AccountId>,
    milliseconds: Vec<u64>,
}

struct Follower {
    codec: Arc<PublicCodec>,
    parts: Parts,
    reader: Box<dyn Reader>,
    /// Where the sources' topics ended when it began.
    began: BTreeMap<TopicPartition, i64>,
    /// When each event came in, by its id; the oldest are forgotten.
    arrived: HashMap<String, Timestamp>,
    order: VecDeque<String>,
    /// By idempotency key.
    commands: HashMap<String, Commanded>,
    summary: Summary,
}

#[derive(Clone)]
struct Commanded {
    /// Whose account.
    name: String,
    /// When its cause came in.
    arrived: Option<Timestamp>,
    op: Op,
    /// Lockstep knew of no account at the target yet.
    is_new: bool,
}

impl Board {
    /// Begins with what is written from now on.
    pub fn start(parts: &Parts) -> anyhow::Result<Self> {
        let mut reader = parts.bus.reader().context("following the topics")?;
        let names = &parts.installation.topics;
        let mut topics = vec![names.results(), names.alerts(), names.source_dead_letters()];
        topics.extend(parts.bundle.targets().iter().map(|target| names.commands(&target.name)));
        topics.extend(parts.layout.source_topics.iter().cloned());
        let mut began = BTreeMap::new();
        for topic in &topics {
            for partition in 0..parts.bus.partitions(topic)?.unwrap_or(0) {
                let end = parts.bus.ends(topic, partition)?.end;
                reader.seek(topic, partition, end)?;
                if parts.layout.source_topics.contains(topic) {
                    began.insert((topic.clone(), partition), end);
                }
            }
        }
        let (stop, idle) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut follower = Follower {
            codec: Arc::clone(&parts.codecs.public),
            parts: parts.clone(),
            reader,
            began,
            arrived: HashMap::new(),
            order: VecDeque::new(),
            commands: HashMap::new(),
            summary: Summary::default(),
        };
        let (stopped, idles) = (Arc::clone(&stop), Arc::clone(&idle));
        let follower = std::thread::Builder::new()
            .name("board".to_owned())
            .spawn(move || {
                loop {
                    let last = stopped.load(Ordering::Relaxed);
                    let records = follower.reader.poll(CHUNK, WAIT)?;
                    idles.store(records.is_empty(), Ordering::Relaxed);
                    if last && records.is_empty() {
                        follower.summary.left = follower.left()?;
                        return Ok(follower.summary);
                    }
                    follower.take(records)?;
                }
            })
            .context("starting the board")?;
        Ok(Self { follower, stop, idle })
    }

    /// All that was written is on the board.
    pub fn is_caught_up(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }

    pub fn finish(self) -> anyhow::Result<Summary> {
        self.stop.store(true, Ordering::Relaxed);
        self.follower.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    }
}

impl Follower {
    /// Events on the sources' topics behind where the processor stands. Of partitions of another process nothing is known.
    fn left(&self) -> anyhow::Result<u64> {
        let stands = self.parts.positions.all();
        let assigned = self.began.keys().any(|partition| stands.contains_key(partition));
        let mut reader = self.parts.bus.reader()?;
        let mut ends = Vec::new();
        for ((topic, partition), began) in &self.began {
            let from = match stands.get(&(topic.clone(), *partition)) {
                Some(next) => *next,
                None if assigned => continue,
                None => *began,
            };
            let end = self.parts.bus.ends(topic, *partition)?.end;
            if from < end {
                reader.seek(topic, *partition, from)?;
                ends.push((topic, *partition, end));
            }
        }
        let (mut left, until) = (0, Instant::now() + COUNTING);
        // On Kafka there may be no record behind a position, but transaction markers.
        while !ends.is_empty() && Instant::now() < until {
            left += reader.poll(CHUNK, WAIT)?.len() as u64;
            let mut open = Vec::new();
            for (topic, partition, end) in ends {
                if reader.position(topic, partition)? < end {
                    open.push((topic, partition, end));
                }
            }
            ends = open;
        }
        Ok(left)
    }

    /// Sources first, then commands, then results: of what came in one go a cause is known before its effect.
    fn take(&mut self, mut records: Vec<Incoming>) -> anyhow::Result<()> {
        let names = self.parts.installation.topics.clone();
        // A user's topic may have a name that begins like ours.
        let sources = self.parts.layout.source_topics.clone();
        let rank = |record: &Incoming| match &record.topic {
            topic if *topic == names.results() => 2,
            topic if sources.contains(topic) => 0,
            _ => 1,
        };
        records.sort_by_key(rank);
        for record in records {
            if record.topic == names.results() {
                self.result(&record)?;
            } else if record.topic == names.alerts() {
                self.alert(&record)?;
            } else if record.topic == names.source_dead_letters() {
                self.rejected(&record)?;
            } else if sources.contains(&record.topic) {
                self.event(&record);
            } else {
                self.command(&record);
            }
        }
        Ok(())
    }

    fn event(&mut self, record: &Incoming) {
        self.summary.events += 1;
        let rules = self.parts.bundle.sources().iter().find(|source| source.topics.contains(&record.topic));
        let decoded = rules.and_then(|rules| self.parts.codecs.sources.decode(rules, record).ok());
        let Some(Decoded::Event(event)) = decoded else { return };
        if self.arrived.insert(event.id.0.to_string(), record.timestamp).is_none() {
            self.order.push_back(event.id.0.to_string());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.arrived.remove(&oldest);
        }
    }

    fn command(&mut self, record: &Incoming) {
        let Ok(command) = self.codec.decode::<Command>(record.value.as_deref().unwrap_or_default()) else { return };
        let name = match command.desired.attributes.get(&command.match_on) {
            Some(Value::Text(name)) => out::name(name),
            _ => command.account.0.to_string(),
        };
        let arrived = self.arrived.get(command.cause.event.as_str()).copied();
        let is_new = command.external_id.is_none();
        self.commands.insert(command.idempotency_key(), Commanded { name, arrived, op: command.op, is_new });
    }

    fn result(&mut self, record: &Incoming) -> anyhow::Result<()> {
        let Ok(result) = self.codec.decode::<ResultEvent>(record.value.as_deref().unwrap_or_default()) else {
            return Ok(());
        };
        let key = result.account.idempotency_key(result.generation);
        let Commanded { name, arrived, op, is_new } = self.commands.get(&key).cloned().unwrap_or_else(|| Commanded {
            name: result.account.0.to_string(),
            arrived: None,
            op: result.op,
            is_new: false,
        });
        let counts = self.summary.targets.entry(result.target.clone()).or_default();
        let op = match op {
            // Nothing was known of the account at the target, and nothing is there: this makes it, in a create's place.
            Op::Update | Op::Enable if is_new && !counts.made.contains(&result.account) => Op::Create,
            op => op,
        };
        if matches!(result.outcome, Outcome::Verified | Outcome::Superseded | Outcome::DeadLettered) {
            self.commands.remove(&key);
        }
        match result.outcome {
            Outcome::Superseded => return Ok(()),
            Outcome::Verified => {
                counts.open.remove(result.account.as_str());
                *counts.verified.entry(op).or_default() += 1;
                match op {
                    Op::Create => _ = counts.made.insert(result.account.clone()),
                    Op::Delete => _ = counts.made.remove(&result.account),
                    _ => {}
                }
            }
            outcome => {
                counts.open.insert(result.account.0.to_string(), outcome);
            }
        }
        let took = arrived.map(|arrived| u64::try_from(result.at.since(arrived).as_millis()).unwrap_or(u64::MAX));
        if result.outcome == Outcome::Verified {
            counts.milliseconds.extend(took);
        }
        let who = match op {
            Op::Create => "joiner",
            Op::Update | Op::Verify => "mover",
            Op::Enable => "rehire",
            Op::Disable | Op::Delete => "leaver",
        };
        let took = took.map_or_else(String::new, |took| format!("{took} ms"));
        let why = result.message.map_or_else(String::new, |message| format!("  {}", out::plain(&message)));
        out::line(format!(
            "{who:<7} {:<8} {:<12} {name:<28} {:<13} {took:>9}{why}",
            op.as_str(),
            result.target.as_str(),
            result.outcome.as_str()
        ))
    }

    fn alert(&mut self, record: &Incoming) -> anyhow::Result<()> {
        let Ok(alert) = self.codec.decode::<crate::model::Alert>(record.value.as_deref().unwrap_or_default()) else {
            return Ok(());
        };
        self.summary.alerts += 1;
        let state = match alert.state {
            crate::model::AlertState::Raised => "alert",
            crate::model::AlertState::Resolved => "resolved",
        };
        out::line(format!("{state:<7} {}", out::plain(&alert.message)))
    }

    fn rejected(&mut self, record: &Incoming) -> anyhow::Result<()> {
        if Part::of(record).is_some_and(|part| !part.is_last()) {
            return Ok(());
        }
        let header = |name: &str| {
            let found = record.headers.iter().find(|(header, _)| header == name);
            found.map_or_else(String::new, |(_, value)| out::plain(&String::from_utf8_lossy(value)))
        };
        *self.summary.rejected.entry(header("lockstep_reason")).or_default() += 1;
        out::line(format!(
            "bad     {} at {}-{}@{}: {}",
            header("lockstep_reason"),
            header("lockstep_topic"),
            header("lockstep_partition"),
            header("lockstep_offset"),
            header("lockstep_detail")
        ))
    }
}

impl Summary {
    pub fn show(mut self) -> anyhow::Result<()> {
        let mut table = out::table(&[
            "target",
            "created",
            "updated",
            "disabled",
            "enabled",
            "deleted",
            "parked",
            "dead letters",
            "p50 ms",
            "max ms",
        ]);
        for (target, counts) in &mut self.targets {
            counts.milliseconds.sort_unstable();
            let of = |op: Op| counts.verified.get(&op).copied().unwrap_or_default().to_string();
            let open = |dead: bool| {
                counts.open.values().filter(|outcome| (**outcome == Outcome::DeadLettered) == dead).count().to_string()
            };
            let middle = counts.milliseconds.get(counts.milliseconds.len() / 2);
            let shown = |figure: Option<&u64>| figure.map_or_else(|| "-".to_owned(), u64::to_string);
            table.add_row([
                target.0.to_string(),
                of(Op::Create),
                of(Op::Update),
                of(Op::Disable),
                of(Op::Enable),
                of(Op::Delete),
                open(false),
                open(true),
                shown(middle),
                shown(counts.milliseconds.last()),
            ]);
        }
        out::line("")?;
        out::show(&table, "no command was carried out")?;
        out::line(self.sentence())
    }

    fn sentence(&self) -> String {
        let rejected: Vec<String> = self.rejected.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let rejected =
            if rejected.is_empty() { "none rejected".to_owned() } else { format!("rejected: {}", rejected.join(", ")) };
        let read = match self.left {
            0 => format!("{} events read, {rejected}", self.events),
            // They may have come in before this run.
            left => format!("{} events came in, {left} are left for the next start; so far {rejected}", self.events),
        };
        format!("{read}; {} alerts; times are from an event's arrival to its account verified", self.alerts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_interrupted_is_not_said_to_be_done() {
        let rejected = BTreeMap::from([("not_json".to_owned(), 1)]);
        let mut summary = Summary { events: 20_002, left: 18_502, rejected, ..Summary::default() };
        let said = "20002 events came in, 18502 are left for the next start; so far rejected: 1 not_json; 0 alerts; ";
        assert!(summary.sentence().starts_with(said), "{}", summary.sentence());
        summary.left = 0;
        let said = "20002 events read, rejected: 1 not_json; 0 alerts; ";
        assert!(summary.sentence().starts_with(said), "{}", summary.sentence());
    }
}
