//! What came in while nobody read it. Timers wait for it: what is due by what was known when the process went away may have been
//! called off since, and whoever was given another month must not be disabled for a moment on the way to reading so.

use crate::bus::{Bus, Session, TopicPartition};
use crate::model::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest that timers wait: a leaver by date is not to wait for hours of events.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing has come for so long, and nothing was held back: what is left before the ends are aborted records and markers.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Backlog {
    /// Of what is taken in, what has not been read up to where it ended.
    sources: BTreeMap<TopicPartition, i64>,
    /// Inbox partitions whose timers wait.
    inboxes: BTreeMap<u32, Waiting>,
    quiet_since: Option<Timestamp>,
}

struct Waiting {
    since: Timestamp,
    /// Where the inbox ended when the sources had been read: what they brought lies before it.
    end: Option<i64>,
}

impl Backlog {
    /// These are this process's from now on: what is taken in, and the inbox partitions.
    pub fn begin(&mut self, bus: &dyn Bus, session: &dyn Session, inbox: &str, now: Timestamp) {
        let partitions = session.positions().into_keys();
        let (inboxes, sources): (Vec<_>, Vec<_>) = partitions.partition(|(topic, _)| topic == inbox);
        // Where the bus can't be asked just now there is nothing to wait for.
        let end = |(topic, partition): TopicPartition| {
            let end = bus.ends(&topic, partition).ok()?.end;
            Some(((topic, partition), end))
        };
        *self = Self { sources: sources.into_iter().filter_map(end).collect(), ..Self::default() };
        inboxes.into_iter().for_each(|(_, partition)| self.expect(partition, now));
    }

    /// Served from now on.
    pub fn expect(&mut self, partition: u32, now: Timestamp) {
        self.inboxes.entry(partition).or_insert(Waiting { since: now, end: None });
    }

    pub fn forget(&mut self) {
        *self = Self::default();
    }

    pub fn waits(&self, partition: u32) -> bool {
        self.inboxes.contains_key(&partition)
    }

    /// Once a turn. `quiet`: it was given nothing, although nothing was held back.
    pub fn look(&mut self, bus: &dyn Bus, session: &dyn Session, inbox: &str, quiet: bool, now: Timestamp) {
        if self.inboxes.is_empty() {
            return;
        }
        self.quiet_since = quiet.then(|| self.quiet_since.filter(|since| *since <= now).unwrap_or(now));
        if self.quiet_since.is_some_and(|since| since.plus(QUIET) <= now) {
            return self.forget();
        }
        let positions = session.positions();
        // A transaction's marker behind the last record is never read.
        let is_before = |at: &TopicPartition, end: i64| {
            positions.get(at).is_some_and(|position| position + bus.commit_markers() < end)
        };
        self.sources.retain(|at, end| is_before(at, *end));
        for (partition, waiting) in &mut self.inboxes {
            if self.sources.is_empty() && waiting.end.is_none() {
                waiting.end = bus.ends(inbox, *partition).ok().map(|ends| ends.end);
            }
        }
        self.inboxes.retain(|partition, waiting| {
            let unread = waiting.end.is_none_or(|end| is_before(&(inbox.to_owned(), *partition), end));
            unread && waiting.since <= now && now < waiting.since.plus(PATIENCE)
        });
    }
}
