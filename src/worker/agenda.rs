//! What the lanes of one partition have to do next, and which comes first. The lanes themselves rest in the store: a target that is
//! away for days, or rules that change everybody, leave no more of each lane in memory than where it stands here.

use crate::lane::Lane;
use crate::model::{AccountId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Of each priority, so many are looked through for the one that is to try whether a target is back.
const TRIED_FROM: usize = 1_000;

#[derive(Default)]
pub(super) struct Agenda {
    /// Lanes with something to do.
    places: BTreeMap<AccountId, Place>,
    /// Those that wait, the most urgent first.
    queue: BTreeSet<(u8, Timestamp, AccountId)>,
    open: usize,
    unsettled: usize,
}

/// Where a lane stands.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    priority: u8,
    /// None while its call runs.
    due: Option<Timestamp>,
    /// Calls that its command has had.
    calls: u32,
    unsettled: bool,
}

impl Place {
    /// None where it has nothing to do.
    fn of(lane: &Lane) -> Option<Self> {
        let (priority, due) = (lane.priority(), lane.due());
        let has_work = due.is_some() || lane.is_running();
        has_work.then(|| Self { priority, due, calls: lane.calls(), unsettled: lane.is_unsettled() })
    }

    /// Something is to be done that isn't a later look.
    fn is_open(&self) -> bool {
        self.due.is_none() || self.priority < LOOKS
    }
}

/// The priority of later looks, the last of all.
const LOOKS: u8 = 2;

/// A lane that may start: as they come first.
pub(super) type Due = (u8, Timestamp, AccountId);

impl Agenda {
    /// Takes in where a lane stands now.
    pub fn set(&mut self, account: &AccountId, lane: &Lane) {
        let now = Place::of(lane);
        let before = match now {
            Some(place) => self.places.insert(account.clone(), place),
            None => self.places.remove(account),
        };
        if before == now {
            return;
        }
        if let Some(place) = before {
            self.open -= usize::from(place.is_open());
            self.unsettled -= usize::from(place.unsettled);
            if let Some(due) = place.due {
                self.queue.remove(&(place.priority, due, account.clone()));
            }
        }
        if let Some(place) = now {
            self.open += usize::from(place.is_open());
            self.unsettled += usize::from(place.unsettled);
            if let Some(due) = place.due {
                self.queue.insert((place.priority, due, account.clone()));
            }
        }
    }

    /// Lanes with something to do now or later, not counting later looks.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Lanes whose newest command has not been tried yet, or is being tried.
    pub fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Up to so many of each priority that are due.
    pub fn due(&self, now: Timestamp, most: usize) -> impl Iterator<Item = &Due> {
        (0..=LOOKS).flat_map(move |priority| self.of(priority).take_while(move |(_, due, _)| *due <= now).take(most))
    }

    /// The one that is to try whether the target is back, with the calls that it has had: the one with the fewest, for whoever
    /// fails again and again may fail on its own.
    pub fn to_try(&self, now: Timestamp) -> Option<(u32, &Due)> {
        let calls = |due: &Due| self.places.get(&due.2).map_or(0, |place| place.calls);
        self.due(now, TRIED_FROM).map(|due| (calls(due), due)).min_by_key(|(calls, _)| *calls)
    }

    /// When the first of them is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        (0..=LOOKS).filter_map(|priority| self.of(priority).next().map(|(_, due, _)| *due)).min()
    }

    fn of(&self, priority: u8) -> impl Iterator<Item = &Due> {
        let from = (priority, Timestamp(i64::MIN), AccountId(String::new().into()));
        self.queue.range(from..).take_while(move |(at, ..)| *at == priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::tests::command;
    use crate::lane::{Ended, RetryPolicy};
    use crate::model::{ErrorClass, Op};
    use std::time::{Duration, Instant};

    const SOON: Timestamp = Timestamp(1 << 40);

    fn account(number: u32) -> AccountId {
        AccountId::from(format!("a{number}").as_str())
    }

    /// Lanes of these operations at time 0, that have failed so often.
    fn agenda(lanes: &[(Op, u32)]) -> Agenda {
        let policy = RetryPolicy::new(Duration::from_secs(10), Instant::now());
        let mut agenda = Agenda::default();
        for (number, (op, failures)) in lanes.iter().enumerate() {
            let mut lane = Lane::default();
            lane.accept(command(1, *op), Timestamp(0));
            agenda.set(&account(number as u32), &lane);
            for _ in 0..*failures {
                lane.start(SOON).unwrap();
                agenda.set(&account(number as u32), &lane);
                let (class, message) = (ErrorClass::ServerFault, String::new());
                lane.finish(Ended::Failed { class, message, retry_after: None }, Timestamp(0), &policy);
                agenda.set(&account(number as u32), &lane);
            }
        }
        agenda
    }

    fn firsts(agenda: &Agenda, most: usize) -> Vec<AccountId> {
        agenda.due(SOON, most).map(|(.., account)| account.clone()).collect()
    }

    #[test]
    fn removals_come_first_and_within_a_priority_what_is_due_first() {
        let agenda = agenda(&[(Op::Create, 0), (Op::Disable, 1), (Op::Disable, 0), (Op::Update, 0)]);
        assert_eq!(firsts(&agenda, 9), [2, 1, 0, 3].map(account));
        assert_eq!(firsts(&agenda, 1), [2, 0].map(account), "so many of each priority");
        assert_eq!(agenda.next_due(), Some(Timestamp(0)));
        assert_eq!((agenda.open(), agenda.unsettled()), (4, 3));
    }

    #[test]
    fn whoever_fails_again_and_again_keeps_nobody_from_trying_whether_the_target_is_back() {
        let agenda = agenda(&[(Op::Disable, 7), (Op::Disable, 3), (Op::Update, 1), (Op::Update, 2)]);
        assert_eq!(agenda.to_try(SOON).map(|(calls, (.., account))| (calls, account.clone())), Some((1, account(2))));
        assert!(agenda.to_try(Timestamp(0)).is_none(), "none of them is due yet");
    }

    #[test]
    fn what_runs_waits_for_nothing_and_what_is_done_is_gone() {
        let mut agenda = agenda(&[(Op::Update, 0)]);
        let mut lane = Lane::default();
        lane.accept(command(1, Op::Update), Timestamp(0));
        lane.start(SOON).unwrap();
        agenda.set(&account(0), &lane);
        assert_eq!((agenda.next_due(), agenda.open(), agenda.unsettled()), (None, 1, 1));
        let policy = RetryPolicy::new(Duration::from_secs(10), Instant::now());
        lane.finish(Ended::Verified { external_id: None }, SOON, &policy);
        agenda.set(&account(0), &lane);
        assert_eq!((agenda.open(), agenda.unsettled(), agenda.places.len()), (0, 0, 0));
    }

    #[test]
    fn later_looks_are_no_work_that_anybody_waits_for() {
        let mut agenda = Agenda::default();
        let mut lane = Lane::default();
        lane.accept(command(1, Op::Disable), Timestamp(0));
        lane.start(Timestamp(0)).unwrap();
        let policy = RetryPolicy::new(Duration::from_secs(10), Instant::now());
        lane.finish(Ended::Verified { external_id: None }, Timestamp(0), &policy);
        agenda.set(&account(0), &lane);
        assert_eq!((agenda.open(), firsts(&agenda, 9)), (0, vec![account(0)]));
    }
}
