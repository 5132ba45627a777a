//! What came in while nobody read it. What is due by the clock waits for it: what was to be when the process went away may have been
//! called off since, and whoever was given another month must not be disabled for a moment on the way to reading so.

use crate::bus::{Bus, Session, TopicPartition};
use crate::model::Timestamp;
use crate::model::topic::TopicNames;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The longest that timers wait: a leaver by date is not to wait for hours of events.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing has come for so long, and nothing was held back: what is left before the ends are aborted records and markers.
const QUIET: Duration = Duration::from_secs(2);

pub(super) struct Backlog {
    bus: Arc<dyn Bus>,
    names: TopicNames,
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
    pub fn new(bus: Arc<dyn Bus>, names: &TopicNames) -> Self {
        let (sources, inboxes) = (BTreeMap::new(), BTreeMap::new());
        Self { bus, names: names.clone(), sources, inboxes, quiet_since: None }
    }

    /// The session's partitions are this process's from now on: what is taken in, and those of the inbox. One whose timers
    /// wait already, from before a rebalance, waits no longer for it.
    pub fn begin(&mut self, session: &dyn Session, now: Timestamp) {
        let before = std::mem::take(&mut self.inboxes);
        (self.sources, self.quiet_since) = (BTreeMap::new(), None);
        let mut asked = true;
        for (topic, partition) in session.positions().into_keys() {
            if topic == self.names.inbox() {
                let since = before.get(&partition).map_or(now, |waiting| waiting.since);
                self.inboxes.insert(partition, Waiting { since, end: None });
                continue;
            }
            // Where the bus can't be asked just now there is nothing to wait for, and each question would take its time-out.
            let end = asked.then(|| self.bus.ends(&topic, partition).ok()).flatten();
            asked = end.is_some();
            self.sources.extend(end.map(|ends| ((topic, partition), ends.end)));
        }
    }

    /// Served from now on, as it is restored.
    pub fn expect(&mut self, partition: u32, now: Timestamp) {
        self.inboxes.insert(partition, Waiting { since: now, end: None });
        self.quiet_since = None;
    }

    pub fn waits(&self, partition: u32) -> bool {
        self.inboxes.contains_key(&partition)
    }

    /// Once a turn. `quiet`: it was given nothing, although nothing was held back.
    pub fn look(&mut self, session: &dyn Session, quiet: bool, now: Timestamp) {
        if self.inboxes.is_empty() {
            return;
        }
        self.quiet_since = quiet.then(|| self.quiet_since.filter(|since| *since <= now).unwrap_or(now));
        if self.quiet_since.is_some_and(|since| since.plus(QUIET) <= now) {
            self.sources.clear();
            self.inboxes.clear();
            return;
        }
        let (positions, inbox) = (session.positions(), self.names.inbox());
        // What ends one of our transactions is never read; what others write to their topics may be in none.
        let own = [inbox.clone(), self.names.results(), self.names.operations()];
        let marker = |topic: &String| if own.contains(topic) { self.bus.commit_markers() } else { 0 };
        let is_before =
            |at: &TopicPartition, end: i64| positions.get(at).is_some_and(|position| position + marker(&at.0) < end);
        self.sources.retain(|at, end| is_before(at, *end));
        for (partition, waiting) in &mut self.inboxes {
            if self.sources.is_empty() && waiting.end.is_none() {
                waiting.end = self.bus.ends(&inbox, *partition).ok().map(|ends| ends.end);
            }
        }
        self.inboxes.retain(|partition, waiting| {
            let unread = waiting.end.is_none_or(|end| is_before(&(inbox.clone(), *partition), end));
            unread && waiting.since <= now && now < waiting.since.plus(PATIENCE)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{BatchLimit, Outgoing, Poll, Transaction};
    use crate::runtime::tests::member_at;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    struct Loop {
        bus: Arc<dyn Bus>,
        session: Box<dyn Session>,
        backlog: Backlog,
        inbox: String,
    }

    impl Loop {
        /// With so many events of a source unread.
        fn with(events: usize) -> Self {
            let (bus, names, session) = member_at(NOW);
            let backlog = Backlog::new(Arc::clone(&bus), &names);
            let mut one = Self { bus, session, backlog, inbox: names.inbox() };
            (0..events).for_each(|_| one.lay("hr"));
            one.backlog.begin(one.session.as_ref(), NOW);
            one
        }

        fn lay(&self, topic: &str) {
            let (topic, value) = (topic.to_owned(), Some(b"event".to_vec()));
            let record =
                Outgoing { topic, partition: Some(0), key: None, value: value.map(Into::into), headers: Vec::new() };
            self.bus.append(vec![record]).unwrap();
        }

        /// Reads one record, which leads to one in the inbox if it is the source's; then whether the timers wait.
        fn turn(&mut self, seconds: u64) -> bool {
            let Poll::Batch(records) = self.session.poll(BatchLimit::new(1, 999), Duration::ZERO).unwrap() else {
                panic!("nothing else happens")
            };
            let mut transaction = Transaction::default();
            for record in &records {
                transaction.offsets.insert((record.topic.clone(), record.partition), record.offset + 1);
                if record.topic == "hr" {
                    self.lay(&self.inbox);
                }
            }
            if !records.is_empty() {
                self.session.commit(transaction).unwrap();
            }
            self.backlog.look(self.session.as_ref(), records.is_empty(), NOW.plus(Duration::from_secs(seconds)));
            self.backlog.waits(0)
        }
    }

    #[test]
    fn timers_wait_for_what_is_taken_in_and_for_what_it_brings_to_the_inbox() {
        let mut one = Loop::with(3);
        let waits: Vec<bool> = (0..7).map(|_| one.turn(0)).collect();
        assert_eq!(waits, [true, true, true, true, true, false, false], "three events, and their messages");
        assert!(!Loop::with(0).turn(0), "where nothing came in nothing waits");
    }

    #[test]
    fn what_is_never_given_is_waited_for_until_it_is_quiet() {
        let mut one = Loop::with(2);
        one.session.pause(&[("hr".to_owned(), 0)]).unwrap();
        assert_eq!([0, 1, 2].map(|second| one.turn(second)), [true, true, false]);
        // A restored partition has its own time to be quiet.
        one.backlog.begin(one.session.as_ref(), NOW);
        assert!(one.turn(2));
        one.backlog.expect(0, NOW.plus(Duration::from_secs(9)));
        assert_eq!([9, 10, 11].map(|second| one.turn(second)), [true, true, false]);
    }

    #[test]
    fn a_minute_is_a_minute_whatever_is_assigned_anew_meanwhile() {
        let mut one = Loop::with(300);
        for second in 0..60 {
            assert!(one.turn(second), "{second}");
            one.backlog.begin(one.session.as_ref(), NOW.plus(Duration::from_secs(second)));
        }
        assert!(!one.turn(60));
    }
}
