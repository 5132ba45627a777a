//! What is done to the brokers and to the processes, and when: all of it follows from the seed.

use crate::cluster::{BROKERS, Cut};
use crate::random::Random;
use std::time::Duration;

pub const PROCESSORS: usize = 3;
pub const WORKERS: usize = 3;

/// Longer than the session time-out of 10 s: the group has given the partitions to others by then.
const PAST_SESSION_MS: u64 = 11_500;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerFault {
    /// Which one, and for how long.
    Kill(usize, Duration),
    KillController(Duration),
    /// All in turn, in good order.
    Roll,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessFault {
    /// Which one, and how long until it is started again.
    KillProcessor(usize, Duration),
    KillWorker(usize, Duration),
    /// Stopped in its tracks, and woken when others have its partitions.
    HangProcessor(usize, Duration),
    /// Another is started under its name meanwhile: woken, it has to end.
    ReplaceHungProcessor(usize, Duration),
    HangWorker(usize, Duration),
    /// Between the brokers named and those processes that come by the proxies.
    Cut(Vec<usize>, Cut, Duration),
    /// All in turn, in good order.
    RollProcessors,
}

/// A fault, after a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned<F> {
    pub pause: Duration,
    pub fault: F,
}

/// Faults without an end, in rounds that have one of each kind.
pub struct Plan<F> {
    chance: Random,
    round: fn(&mut Random) -> Vec<F>,
    left: Vec<F>,
}

impl Plan<BrokerFault> {
    pub fn for_brokers(seed: u64) -> Self {
        Self { chance: Random::new(seed ^ 0xb40_4e45), round: broker_round, left: Vec::new() }
    }
}

impl Plan<ProcessFault> {
    pub fn for_processes(seed: u64) -> Self {
        Self { chance: Random::new(seed ^ 0x9_40ce_55e5), round: process_round, left: Vec::new() }
    }
}

impl<F> Plan<F> {
    /// True between two rounds.
    pub fn is_between_rounds(&self) -> bool {
        self.left.is_empty()
    }

    pub fn next(&mut self) -> Planned<F> {
        if self.left.is_empty() {
            self.left = (self.round)(&mut self.chance);
            // Fisher and Yates.
            for i in (1..self.left.len()).rev() {
                self.left.swap(i, self.chance.below(i as u64 + 1) as usize);
            }
        }
        let pause = millis(&mut self.chance, 0, 2_000);
        Planned { pause, fault: self.left.pop().expect("a round has a fault at least") }
    }
}

fn broker_round(chance: &mut Random) -> Vec<BrokerFault> {
    let one = *chance.pick(&BROKERS);
    vec![
        BrokerFault::Kill(one, millis(chance, 0, 6_000)),
        BrokerFault::KillController(millis(chance, 0, 6_000)),
        BrokerFault::Roll,
    ]
}

fn process_round(chance: &mut Random) -> Vec<ProcessFault> {
    let processor = |chance: &mut Random| chance.below(PROCESSORS as u64) as usize;
    let worker = |chance: &mut Random| chance.below(WORKERS as u64) as usize;
    let brokers = if chance.percent(50) { BROKERS.to_vec() } else { vec![*chance.pick(&BROKERS)] };
    let cut = *chance.pick(&Cut::ALL);
    let down = if chance.percent(25) { millis(chance, PAST_SESSION_MS, 14_000) } else { millis(chance, 0, 300) };
    vec![
        ProcessFault::KillProcessor(processor(chance), down),
        ProcessFault::KillWorker(worker(chance), millis(chance, 0, 300)),
        ProcessFault::HangProcessor(processor(chance), millis(chance, PAST_SESSION_MS, 16_000)),
        ProcessFault::ReplaceHungProcessor(processor(chance), millis(chance, 0, 14_000)),
        ProcessFault::HangWorker(worker(chance), millis(chance, PAST_SESSION_MS, 16_000)),
        ProcessFault::Cut(brokers, cut, millis(chance, 1_000, 16_000)),
        ProcessFault::RollProcessors,
    ]
}

fn millis(chance: &mut Random, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + chance.below(to - from))
}

#[test]
fn a_seed_gives_the_same_faults_again_and_each_round_has_one_of_each_kind() {
    let faults = |seed| -> (Vec<Planned<BrokerFault>>, Vec<Planned<ProcessFault>>) {
        let (mut brokers, mut processes) = (Plan::for_brokers(seed), Plan::for_processes(seed));
        ((0..9).map(|_| brokers.next()).collect(), (0..21).map(|_| processes.next()).collect())
    };
    let (brokers, processes) = faults(7);
    assert_eq!((&brokers, &processes), (&faults(7).0, &faults(7).1));
    assert_ne!(processes, faults(8).1);
    for round in processes.chunks(7) {
        let kinds: std::collections::HashSet<_> = round.iter().map(|p| std::mem::discriminant(&p.fault)).collect();
        assert_eq!(kinds.len(), 7, "{round:?}");
    }
    for round in brokers.chunks(3) {
        let kinds: std::collections::HashSet<_> = round.iter().map(|p| std::mem::discriminant(&p.fault)).collect();
        assert_eq!(kinds.len(), 3, "{round:?}");
    }
}
