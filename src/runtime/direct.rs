//! Which inbox partitions are delivered to directly: what comes from a source, a worker or an operator is for an entity of this
//! very loop as often as not, and takes no way through the inbox then, which would be a second transaction. The same holds for
//! what entities of its partitions have for one another.
//!
//! It must not overtake what came before it and still lies in the inbox: written by this loop while the partition was restored,
//! or by another one that had the source's partition before. So the way is opened by a mark in the inbox: while nothing else is
//! taken in, the loop writes one, and when it comes to read it, it has read all that went before. What another loop wrote lies
//! before the mark, since its transaction was over when the source's partition was given to this one.

use crate::bus::{Bus, BusError, Outgoing, Session, TopicPartition};
use crate::model::topic::TopicNames;
use crate::model::{InboxRecord, Timestamp, envelope};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Intake waits for this many records of the inbox at most: behind more it goes on by the inbox, and is looked at again.
const NEAR: i64 = 2_000;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest wait between two tries where marks are not read in time.
const LOOK_WITHIN: Duration = Duration::from_secs(60);
/// A mark that is not read by then, because another's open transaction lies before it, is given up.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the inbox; looked at again at that time.
    Inbox {
        look: Timestamp,
    },
    /// A mark is to be written.
    Marking(Marks),
    /// It is written, and nothing was sent there after it.
    Marked(Marks),
    Direct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    /// One below this offset is of a former owner, or of a try that was given up.
    from: i64,
    /// Written and not read yet: the last of them counts.
    unread: u32,
    /// When the first was due.
    since: Timestamp,
}

pub(super) struct Direct {
    bus: Arc<dyn Bus>,
    inbox: String,
    /// Of the partitions that are served here.
    ways: BTreeMap<u32, Way>,
    /// How long until a partition is looked at again whose mark was not read in time: twice as long each time, for meanwhile what
    /// is taken in for any partition is held back.
    waits: BTreeMap<u32, Duration>,
    /// What is taken in is held back until the marks are read.
    held: bool,
    /// Off: everything takes the way through the inbox.
    on: bool,
}

impl Direct {
    pub fn new(bus: Arc<dyn Bus>, topics: &TopicNames, on: bool) -> Self {
        Self { bus, inbox: topics.inbox(), ways: BTreeMap::new(), waits: BTreeMap::new(), held: false, on }
    }

    pub fn is_open(&self, partition: u32) -> bool {
        self.ways.get(&partition) == Some(&Way::Direct)
    }

    /// What is taken in waits.
    pub fn holds_back(&self) -> bool {
        self.held
    }

    /// How many are.
    pub fn open(&self) -> usize {
        self.ways.values().filter(|way| **way == Way::Direct).count()
    }

    /// All partitions may be others', or have been meanwhile. Of an assignment that is over nothing is held back any more.
    pub fn forget(&mut self) {
        self.ways.clear();
        self.waits.clear();
        self.held = false;
    }

    /// The same, where the session goes on with its partitions.
    pub fn begin_anew(&mut self, session: &mut dyn Session) -> Result<(), BusError> {
        self.ways.clear();
        self.let_go(session)
    }

    /// This partition is served from now on.
    pub fn serve(&mut self, partition: u32) {
        if self.on {
            self.ways.insert(partition, Way::Inbox { look: Timestamp::default() });
        }
    }

    /// Before each poll: holds back what is to be taken in where a mark is due, and lets it go where none is waited for.
    pub fn prepare(&mut self, session: &mut dyn Session, now: Timestamp) -> Result<(), BusError> {
        if self.ways.values().all(|way| *way == Way::Direct) {
            return self.let_go(session);
        }
        let positions = session.positions();
        let later = Way::Inbox { look: now.plus(LOOK_EVERY) };
        for (partition, way) in &mut self.ways {
            // A clock that was set back is no reason to wait until it is there again.
            match *way {
                Way::Inbox { look } if now >= look || now.plus(LOOK_WITHIN) < look => {
                    *way = match (
                        positions.get(&(self.inbox.clone(), *partition)),
                        end_of(self.bus.as_ref(), &self.inbox, *partition),
                    ) {
                        (Some(at), Some(end)) if end - at <= NEAR => {
                            Way::Marking(Marks { from: end, unread: 0, since: now })
                        }
                        _ => later,
                    };
                }
                Way::Marking(marks) | Way::Marked(marks) if marks.since.plus(PATIENCE) <= now || now < marks.since => {
                    let wait = self.waits.entry(*partition).or_insert(LOOK_EVERY);
                    *way = Way::Inbox { look: now.plus(*wait) };
                    *wait = (*wait * 2).min(LOOK_WITHIN);
                    tracing::debug!(partition, "events go on by the inbox: a mark was not read in time");
                }
                Way::Inbox { .. } | Way::Marking(_) | Way::Marked(_) | Way::Direct => {}
            }
        }
        if !self.ways.values().any(|way| matches!(way, Way::Marking(_) | Way::Marked(_))) {
            return self.let_go(session);
        }
        if !self.held {
            session.pause(&self.taken_in(session))?;
            self.held = true;
        }
        Ok(())
    }

    /// A message goes through the inbox of this partition: what is marked already is marked again behind it.
    pub fn sent(&mut self, partition: u32) {
        if let Some(way) = self.ways.get_mut(&partition)
            && let Way::Marked(marks) = *way
        {
            *way = Way::Marking(marks);
        }
    }

    /// The marks that are due, to be written behind everything else.
    pub fn marks(&mut self) -> Vec<Outgoing> {
        let mut records = Vec::new();
        for (partition, way) in &mut self.ways {
            let Way::Marking(marks) = *way else { continue };
            *way = Way::Marked(Marks { unread: marks.unread + 1, ..marks });
            records.push(Outgoing {
                topic: self.inbox.clone(),
                partition: Some(*partition),
                key: None,
                value: Some(envelope::seal(&InboxRecord::Mark).into()),
                headers: Vec::new(),
            });
        }
        records
    }

    /// A mark was read in the inbox.
    pub fn read(&mut self, partition: u32, offset: i64) {
        let Some(way) = self.ways.get_mut(&partition) else { return };
        match *way {
            Way::Marked(marks) if offset >= marks.from && marks.unread == 1 => {
                *way = Way::Direct;
                self.waits.remove(&partition);
                tracing::debug!(partition, "events come directly");
            }
            Way::Marked(marks) if offset >= marks.from => {
                *way = Way::Marked(Marks { unread: marks.unread - 1, ..marks });
            }
            Way::Marking(marks) if offset >= marks.from => {
                *way = Way::Marking(Marks { unread: marks.unread.saturating_sub(1), ..marks });
            }
            Way::Marking(_) | Way::Marked(_) | Way::Inbox { .. } | Way::Direct => {}
        }
    }

    fn let_go(&mut self, session: &mut dyn Session) -> Result<(), BusError> {
        if std::mem::take(&mut self.held) {
            session.resume(&self.taken_in(session))?;
        }
        Ok(())
    }

    fn taken_in(&self, session: &dyn Session) -> Vec<TopicPartition> {
        session.positions().into_keys().filter(|(topic, _)| *topic != self.inbox).collect()
    }
}

/// None where the bus can't be asked just now.
fn end_of(bus: &dyn Bus, inbox: &str, partition: u32) -> Option<i64> {
    match bus.ends(inbox, partition) {
        Ok(ends) => Some(ends.end),
        Err(error) => {
            tracing::debug!(%error, partition, "events go on by the inbox: its end is asked for again");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{BatchLimit, Incoming, Poll, Transaction};
    use crate::runtime::tests::member_at;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    struct Loop {
        bus: Arc<dyn Bus>,
        session: Box<dyn Session>,
        direct: Direct,
        inbox: String,
    }

    impl Loop {
        /// Of one inbox partition, in which so many marks of former owners lie unread.
        fn with(marks: usize) -> Self {
            let (bus, names, session) = member_at(NOW);
            let direct = Direct::new(Arc::clone(&bus), &names, true);
            let one = Self { bus, session, direct, inbox: names.inbox() };
            (0..marks).for_each(|_| one.lay(&one.inbox, envelope::seal(&InboxRecord::Mark)));
            one
        }

        fn lay(&self, topic: &str, value: Vec<u8>) {
            let topic = topic.to_owned();
            let record =
                Outgoing { topic, partition: Some(0), key: None, value: Some(value.into()), headers: Vec::new() };
            self.bus.append(vec![record]).unwrap();
        }

        /// As the processor's turn: gives the topics of what was polled.
        fn turn(&mut self, now: Timestamp, at_once: usize) -> Vec<String> {
            self.direct.prepare(self.session.as_mut(), now).unwrap();
            let polled = self.session.poll(BatchLimit::new(at_once, 999_999), Duration::ZERO).unwrap();
            let Poll::Batch(records) = polled else { panic!("{polled:?}") };
            let mut transaction = Transaction::default();
            for Incoming { topic, partition, offset, value, .. } in &records {
                transaction.offsets.insert((topic.clone(), *partition), offset + 1);
                let value = value.as_deref().unwrap_or_default();
                if *topic == self.inbox && envelope::open(value) == Ok(InboxRecord::Mark) {
                    self.direct.read(*partition, *offset);
                }
            }
            transaction.outputs = self.direct.marks();
            self.session.commit(transaction).unwrap();
            records.into_iter().map(|record| record.topic).collect()
        }
    }

    #[test]
    fn events_wait_until_the_inbox_is_read_up_to_the_mark_and_go_directly_from_then_on() {
        let mut one = Loop::with(0);
        one.lay("hr", b"event".to_vec());
        one.direct.serve(0);
        assert_eq!(one.turn(NOW, 9), Vec::<String>::new(), "the mark is written first");
        assert!(!one.direct.is_open(0));
        assert_eq!(one.turn(NOW, 9), [one.inbox.clone()]);
        assert!(one.direct.is_open(0));
        assert_eq!(one.turn(NOW, 9), ["hr"]);
    }

    #[test]
    fn a_mark_of_a_former_owner_opens_nothing() {
        let mut one = Loop::with(2);
        one.direct.serve(0);
        for expected in [false, false, true] {
            assert_eq!(one.turn(NOW, 1), [one.inbox.clone()]);
            assert_eq!(one.direct.is_open(0), expected);
        }
    }

    #[test]
    fn what_is_sent_behind_a_mark_is_marked_again() {
        let mut one = Loop::with(0);
        one.direct.serve(0);
        one.turn(NOW, 9);
        one.direct.sent(0);
        one.lay(&one.inbox, b"message".to_vec());
        assert_eq!((one.turn(NOW, 1).len(), one.direct.is_open(0)), (1, false), "the first mark");
        assert_eq!((one.turn(NOW, 1).len(), one.direct.is_open(0)), (1, false), "what was sent");
        assert_eq!((one.turn(NOW, 1).len(), one.direct.is_open(0)), (1, true), "the second mark");
        one.direct.sent(0);
        assert!(one.direct.is_open(0), "once it is open nothing but a Continue is sent there");
    }

    #[test]
    fn a_mark_that_is_not_read_in_time_is_given_up_and_tried_again() {
        let mut one = Loop::with(0);
        one.lay("hr", b"event".to_vec());
        one.direct.serve(0);
        one.turn(NOW, 9);
        one.session.pause(&[(one.inbox.clone(), 0)]).unwrap();
        assert_eq!(one.turn(NOW, 9), Vec::<String>::new());
        let later = NOW.plus(PATIENCE);
        assert_eq!((one.turn(later, 9), one.direct.is_open(0)), (vec!["hr".to_owned()], false), "by the inbox");
        one.session.resume(&[(one.inbox.clone(), 0)]).unwrap();
        assert_eq!((one.turn(later, 9), one.direct.is_open(0)), (vec![one.inbox.clone()], false), "the mark given up");
        let again = later.plus(LOOK_EVERY);
        one.turn(again, 9);
        assert_eq!((one.turn(again, 9), one.direct.is_open(0)), (vec![one.inbox.clone()], true));
    }

    #[test]
    fn where_marks_are_never_read_in_time_little_is_held_back() {
        let mut one = Loop::with(0);
        one.direct.serve(0);
        one.session.pause(&[(one.inbox.clone(), 0)]).unwrap();
        let held = |seconds: std::ops::Range<i64>, one: &mut Loop| {
            let times = seconds.map(|second| Timestamp(NOW.0 + second * 1_000));
            times.filter(|now| (one.turn(*now, 9), one.direct.held).1).count()
        };
        assert_eq!(held(0..120, &mut one), 14, "two seconds at 0, 3, 7, 13, 23, 41 and 75");
        assert_eq!(held(120..240, &mut one), 4, "each minute in the end");
        assert_eq!(held(-3_600..-3_500, &mut one), 4, "set back by an hour: it waits for no time of before");
    }

    #[test]
    fn far_behind_in_the_inbox_nothing_waits() {
        let mut one = Loop::with(NEAR as usize + 1);
        one.lay("hr", b"event".to_vec());
        one.direct.serve(0);
        let polled = one.turn(NOW, 9_999);
        assert!(polled.contains(&"hr".to_owned()));
        assert_eq!(one.turn(NOW, 9), Vec::<String>::new());
        assert!(!one.direct.is_open(0), "not before it is looked at again");
        let again = NOW.plus(LOOK_EVERY);
        one.turn(again, 9);
        one.turn(again, 9);
        assert!(one.direct.is_open(0));
    }
}
