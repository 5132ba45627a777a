//! Calls of librdkafka that may hang, and the thread that ends the process when one does.
//!
//! send_offsets_to_transaction ignores its time-out (librdkafka#5456) and may never return when the coordinator is
//! decommissioned (librdkafka#5511). A process that hangs there holds its partitions for ever; one that ends is restarted,
//! aborts what it left open and goes on.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longer than every time-out that is given to a call (12 s), and than the transaction's own (10 s): whatever comes after is
/// for a transaction that its coordinator has aborted, while nobody else can serve the partitions.
pub(super) const HANG: Duration = Duration::from_secs(30);
/// What the process ends with: EX_SOFTWARE of sysexits.h.
pub(super) const EXIT_CODE: i32 = 70;

/// The calls that are under way.
#[derive(Default)]
pub(super) struct Watchdog {
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    next: u64,
    open: BTreeMap<u64, (&'static str, Instant)>,
}

impl Watchdog {
    /// Runs a call under watch.
    pub(super) fn watch<T>(&self, name: &'static str, call: impl FnOnce() -> T) -> T {
        let id = {
            let mut calls = self.calls.lock().expect("no holder of this lock panics");
            calls.next += 1;
            let id = calls.next;
            calls.open.insert(id, (name, Instant::now()));
            id
        };
        let result = call();
        self.calls.lock().expect("no holder of this lock panics").open.remove(&id);
        result
    }

    /// The call that has run for longer than `limit` at `now`.
    pub(super) fn hanging(&self, now: Instant, limit: Duration) -> Option<&'static str> {
        let calls = self.calls.lock().expect("no holder of this lock panics");
        calls.open.values().find(|(_, since)| now.saturating_duration_since(*since) > limit).map(|(name, _)| *name)
    }

    /// Ends the process if a call hangs.
    pub(super) fn check(&self) {
        if let Some(name) = self.hanging(Instant::now(), HANG) {
            tracing::error!(
                "kafka: {name} has not returned for {} s: this process ends with code {EXIT_CODE}, as nothing else \
                 frees its partitions; started again it goes on where it was",
                HANG.as_secs()
            );
            std::process::exit(EXIT_CODE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_hangs_when_it_is_open_for_longer_than_the_limit() {
        let watchdog = Watchdog::default();
        let later = Instant::now() + HANG + Duration::from_secs(1);
        watchdog.watch("commit", || {
            watchdog.watch("flush", || {});
            assert_eq!(watchdog.hanging(later, HANG), Some("commit"), "flush has returned, commit has not");
            assert_eq!(watchdog.hanging(Instant::now(), HANG), None);
        });
        assert_eq!(watchdog.hanging(later, HANG), None);
    }
}
