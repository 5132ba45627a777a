//! Breaker: stops the calls to a target that is down, while commands go on coalescing in the lanes.

use super::policy;
use crate::model::{ErrorClass, Timestamp};
use std::time::Duration;

/// Failures in a row that open it; credentials open it at the first.
const FAILURES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Closed: calls go. Open: none goes until the pause is over, then one tries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Breaker {
    failures: u32,
    until: Option<Timestamp>,
    pause: Duration,
    probing: bool,
}

impl Breaker {
    /// How many calls may be started now, of `wanted`.
    pub fn allows(&mut self, wanted: usize, now: Timestamp) -> usize {
        match self.until {
            None => wanted,
            Some(until) if now < until || self.probing => 0,
            Some(_) => wanted.min(1),
        }
    }

    pub fn started(&mut self) {
        self.probing = self.until.is_some();
    }

    /// The call that was to try told nothing: it was never made, found nothing to do, or belongs to another process now.
    pub fn told_nothing(&mut self) {
        self.probing = false;
    }

    pub fn is_open(&self) -> bool {
        self.until.is_some()
    }

    /// A call is trying whether the target is back.
    pub fn is_trying(&self) -> bool {
        self.probing
    }

    /// When a call may be tried again, while it is open.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub fn failed(&mut self, class: ErrorClass, now: Timestamp) {
        let was_probing = std::mem::take(&mut self.probing);
        if class == ErrorClass::UnknownOutcome {
            return; // No answer: it may be up or down.
        }
        if !policy::of(class).opens_breaker {
            // The target answered: it is up.
            *self = Self::default();
            return;
        }
        self.failures += 1;
        if was_probing || self.failures >= FAILURES || class == ErrorClass::Credentials {
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.until = Some(now.plus(self.pause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_call_try() {
        let mut breaker = Breaker::default();
        let mut now = Timestamp(0);
        for _ in 0..FAILURES - 1 {
            breaker.failed(ErrorClass::Unreachable, now);
            assert_eq!(breaker.allows(8, now), 8);
        }
        breaker.failed(ErrorClass::Unreachable, now);
        assert_eq!(breaker.allows(8, now), 0);
        now = now.plus(FIRST_PAUSE);
        assert_eq!(breaker.allows(8, now), 1);
        breaker.started();
        assert_eq!(breaker.allows(8, now), 0, "one at a time");
        breaker.failed(ErrorClass::Unreachable, now);
        assert_eq!(breaker.allows(8, now.plus(FIRST_PAUSE)), 0, "the pause has doubled");
        now = now.plus(FIRST_PAUSE * 2);
        breaker.started();
        breaker.succeeded();
        assert_eq!(breaker.allows(8, now), 8);
    }

    #[test]
    fn refused_content_says_nothing_about_the_target() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.failed(ErrorClass::Invalid, Timestamp(0));
        }
        assert!(!breaker.is_open());
        breaker.failed(ErrorClass::Credentials, Timestamp(0));
        assert!(breaker.is_open());
    }

    #[test]
    fn no_answer_says_neither_that_the_target_is_up_nor_that_it_is_down() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.failed(ErrorClass::UnknownOutcome, Timestamp(0));
        }
        assert!(!breaker.is_open());
        breaker.failed(ErrorClass::Credentials, Timestamp(0));
        breaker.started();
        breaker.failed(ErrorClass::UnknownOutcome, Timestamp(0));
        assert_eq!((breaker.is_open(), breaker.is_trying()), (true, false), "and another is to try");
    }

    #[test]
    fn a_try_that_tells_nothing_is_followed_by_another() {
        let mut breaker = Breaker::default();
        breaker.failed(ErrorClass::Credentials, Timestamp(0));
        let now = Timestamp(0).plus(FIRST_PAUSE);
        assert_eq!(breaker.allows(8, now), 1);
        breaker.started();
        assert_eq!(breaker.allows(8, now), 0);
        breaker.told_nothing();
        assert!(breaker.is_open(), "it has not succeeded");
        assert_eq!(breaker.allows(8, now), 1);
    }
}
