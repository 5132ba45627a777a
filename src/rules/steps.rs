//! What an expression may look at in one evaluation. Rules are written by people who are trusted, lists come from events: a
//! list looked up in itself costs its length twice over, and a partition waits for it.

use super::expression::EvaluationError;
use std::sync::atomic::{AtomicI64, Ordering};

/// Elements of lists, each counted whenever it is looked at: a few milliseconds. A list of a thousand can be looked up in itself.
pub const MOST_STEPS: i64 = 1_000_000;

/// The steps that are left; below zero: they did not suffice. One thread's own: atomic only since the interpreter asks for it.
#[derive(Debug)]
pub struct Steps(AtomicI64);

impl Default for Steps {
    fn default() -> Self {
        Self(AtomicI64::new(MOST_STEPS))
    }
}

impl Steps {
    /// None once they don't suffice, and ever after.
    pub fn take(&self, steps: usize) -> Option<()> {
        let steps = i64::try_from(steps).unwrap_or(i64::MAX);
        let left = self.0.load(Ordering::Relaxed).saturating_sub(steps);
        self.0.store(left, Ordering::Relaxed);
        (left >= 0).then_some(())
    }

    /// What came out, unless the steps did not suffice: then it may be anything.
    pub fn suffice<T>(&self, found: T) -> Result<T, EvaluationError> {
        if self.0.load(Ordering::Relaxed) >= 0 {
            return Ok(found);
        }
        let reason = format!("it looks at more than {MOST_STEPS} elements of lists: the lists are too long for it");
        Err(EvaluationError(reason))
    }
}
