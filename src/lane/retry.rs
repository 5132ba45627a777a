//! Delays between attempts: the envelope is the `backoff` crate's, without its clock and without its randomness.
//!
//! `backoff` is unmaintained (RUSTSEC-2025-0012) and so kept behind this one small type. Jitter is hashed from the account and
//! the attempt: spread over accounts, and the same again in a replay.

use crate::model::Op;
use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;
use std::time::{Duration, Instant};

/// Past this many calls the delay no longer grows: it has long reached its longest.
const GROWING_CALLS: u32 = 20;

#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    pub first_delay: Duration,
    pub longest_delay: Duration,
    /// A target's Retry-After is honoured up to this.
    pub longest_wait: Duration,
    /// Attempts that count, before a create, update or enable becomes a dead letter.
    pub attempts: u32,
    /// The same for disable and delete: a leaver is worth more tries.
    pub deprovision_attempts: u32,
    /// After this no call can still change anything: it has arrived, or it never will.
    pub call_timeout: Duration,
    clock: Stopped,
}

/// The clock that `backoff` asks for and has no use for, as no time limit is set: it stands where it was handed in.
#[derive(Clone, Debug, PartialEq)]
struct Stopped(Instant);

impl backoff::Clock for Stopped {
    fn now(&self) -> Instant {
        self.0
    }
}

impl RetryPolicy {
    /// The usual delays and attempts; `began` is any instant.
    pub fn new(call_timeout: Duration, began: Instant) -> Self {
        Self {
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(300),
            longest_wait: Duration::from_secs(3600),
            attempts: 10,
            deprovision_attempts: 100,
            call_timeout,
            clock: Stopped(began),
        }
    }

    pub fn most_attempts(&self, op: Op) -> u32 {
        if op.is_deprovision() { self.deprovision_attempts } else { self.attempts }
    }

    /// The delay after the call with this number (from 1): doubling, then 20 % up or down by account and call.
    pub fn delay(&self, account: &str, call: u32) -> Duration {
        let mut envelope = ExponentialBackoff {
            current_interval: self.first_delay,
            initial_interval: self.first_delay,
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: self.longest_delay,
            start_time: self.clock.0,
            max_elapsed_time: None,
            clock: self.clock.clone(),
        };
        let mut delay = self.first_delay;
        for _ in 0..call.clamp(1, GROWING_CALLS) {
            delay = envelope.next_backoff().unwrap_or(self.longest_delay);
        }
        let hash = crate::model::id::murmur2(format!("{account}#{call}").as_bytes());
        let percent = 80 + hash % 41;
        delay * percent / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_are_the_same_again() {
        let policy = RetryPolicy::new(Duration::from_secs(10), Instant::now());
        for (call, seconds) in [(1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (1000, 300.0)] {
            let delay = policy.delay("a", call).as_secs_f64();
            assert!((seconds * 0.799..=seconds * 1.201).contains(&delay), "call {call}: {delay} s");
            assert_eq!(policy.delay("a", call), policy.delay("a", call));
        }
    }

    #[test]
    fn accounts_that_failed_together_do_not_come_back_together() {
        let policy = RetryPolicy::new(Duration::from_secs(10), Instant::now());
        let delays: std::collections::BTreeSet<_> =
            (0..100).map(|i| policy.delay(&format!("account {i}"), 1)).collect();
        assert!(delays.len() > 20, "only {} different delays", delays.len());
    }
}
