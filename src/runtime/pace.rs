//! When a batch is committed: at once where commits are few, together where they would be many.
//!
//! A transaction costs the brokers about the same whatever is in it, so at a high rate many small ones drown them and make every
//! event late; at a low rate waiting for company is all that an event would wait for. So commits have an allowance: a share of
//! the time, of which some is saved up while little happens. What a commit costs is measured, not configured: on a slow cluster
//! batches grow by themselves.

use std::time::{Duration, Instant};

/// Of the time, this share may be spent in commits, over any longer while.
const SHARE: f64 = 1.0 / 3.0;
/// Commits that may follow one another at once after a quiet moment: an event and what comes of it take two or three.
const SAVED: f64 = 4.0;
/// Longest time for which a batch that has begun is held back for more.
pub const MOST: Duration = Duration::from_millis(50);
/// How fast the measured cost follows: a tenth of each commit.
const WEIGHT: f64 = 0.1;
/// What a commit is thought to cost before one was measured.
const FIRST: f64 = 0.01;

pub struct Pace {
    /// Seconds of commits that are allowed for; below zero: owed.
    allowance: f64,
    /// Seconds that a commit takes.
    cost: f64,
    as_of: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { allowance: SAVED * FIRST, cost: FIRST, as_of: now }
    }

    /// How long a batch that begins now should gather before it is committed, at most.
    pub fn hold(&mut self, now: Instant) -> Duration {
        self.accrue(now);
        if self.allowance >= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(-self.allowance / SHARE).min(MOST)
    }

    /// A commit that ended `now` took so long.
    pub fn committed(&mut self, took: Duration, now: Instant) {
        self.accrue(now);
        let took = took.as_secs_f64();
        // One that hung for seconds is no measure of the next ones.
        let counted = took.min(MOST.as_secs_f64());
        self.cost += WEIGHT * (counted - self.cost);
        // Full batches don't wait for their allowance: what they overdraw isn't laid upon the lone event after them.
        self.allowance = (self.allowance - counted).max(-SHARE * MOST.as_secs_f64());
    }

    fn accrue(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.as_of).as_secs_f64();
        self.as_of = now;
        self.allowance = (self.allowance + SHARE * passed).min(SAVED * self.cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Commits that each take `cost` ms, one as soon as it is allowed after `every` ms; gives how long each was held, in ms.
    fn holds(cost: u32, every: u32, count: usize) -> Vec<f64> {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut held = Vec::new();
        for _ in 0..count {
            now += MS * every;
            let hold = pace.hold(now);
            held.push(hold.as_secs_f64() * 1000.0);
            now += hold;
            now += MS * cost;
            pace.committed(MS * cost, now);
        }
        held
    }

    #[test]
    fn a_lone_event_and_what_follows_from_it_are_committed_at_once() {
        // Five events a second, each with a second hop 3 ms after its first.
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..100 {
            for pause in [180, 3] {
                now += MS * pause;
                assert_eq!(pace.hold(now), Duration::ZERO);
                now += MS * 8;
                pace.committed(MS * 8, now);
            }
        }
    }

    #[test]
    fn under_load_commits_take_their_share_of_the_time_and_no_more() {
        for cost in [2, 8, 12] {
            let held = holds(cost, 0, 400);
            let settled = held[100..].iter().sum::<f64>() / 300.0;
            let share = f64::from(cost) / (f64::from(cost) + settled);
            assert!((share - SHARE).abs() < 0.02, "commits of {cost} ms: a share of {share:.2}");
        }
    }

    #[test]
    fn a_batch_is_never_held_for_longer_than_the_most_even_after_a_commit_that_hung() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for took in [5_000, 40, 40, 40] {
            now += MS * took;
            pace.committed(MS * took, now);
            assert!(pace.hold(now) <= MOST);
        }
        now += Duration::from_secs(1);
        assert_eq!(pace.hold(now), Duration::ZERO, "and what is owed is paid back soon");
    }
}
