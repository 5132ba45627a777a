//! Is the process alive, and may work be sent to it? Loops beat a heartbeat; parts report conditions by name.
//!
//! Liveness (`/healthz`) fails when a loop has been silent for longer than it said it would ever be, or has panicked: the
//! remedy is a restart. Readiness (`/readyz`) fails while a named condition isn't met: the remedy is to wait or to look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shared by all parts of a process; clones see the same.
#[derive(Clone, Default)]
pub struct Health {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// By a number of their own, so that two loops of one name don't hide each other.
    beats: BTreeMap<u64, Beat>,
    conditions: BTreeMap<String, State>,
}

struct Beat {
    name: String,
    last: Instant,
    max_silence: Duration,
    dead: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Met,
    Waiting(String),
}

/// A loop's sign of life. Dropped at the loop's regular end it is forgotten; dropped by a panic it counts as dead.
pub struct Heartbeat {
    health: Health,
    id: u64,
}

/// Something that must be so before work may come.
#[derive(Clone)]
pub struct Condition {
    health: Health,
    name: String,
}

/// A loop that no longer shows life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    pub name: String,
    pub reason: String,
}

/// A condition and whether it is met; `waiting_for` says for what it isn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub name: String,
    pub waiting_for: Option<String>,
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a loop's heartbeat. `max_silence` is the longest its body may regularly take, doubled or more.
    pub fn heartbeat(&self, name: impl Into<String>, max_silence: Duration) -> Heartbeat {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        inner.beats.insert(id, Beat { name: name.into(), last: Instant::now(), max_silence, dead: false });
        Heartbeat { health: self.clone(), id }
    }

    /// Adds a condition, not met until it is said to be. `name` is `part: what`, as in `processor: restored`.
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        let name = name.into();
        self.lock().conditions.insert(name.clone(), State::Waiting("not begun".to_owned()));
        Condition { health: self.clone(), name }
    }

    /// Loops that are silent or dead; empty: alive.
    pub fn silent(&self) -> Vec<Silent> {
        self.silent_at(Instant::now())
    }

    fn silent_at(&self, now: Instant) -> Vec<Silent> {
        let inner = self.lock();
        let silent = inner.beats.values().filter_map(|beat| {
            let age = now.saturating_duration_since(beat.last);
            let reason = match (beat.dead, age > beat.max_silence) {
                (true, _) => "ended by a panic: see the log".to_owned(),
                (false, true) => format!(
                    "no sign of life for {:.1} s (at most {:.1} s are regular)",
                    age.as_secs_f64(),
                    beat.max_silence.as_secs_f64()
                ),
                (false, false) => return None,
            };
            Some(Silent { name: beat.name.clone(), reason })
        });
        silent.collect()
    }

    /// All conditions in order of their names.
    pub fn readiness(&self) -> Vec<Readiness> {
        let inner = self.lock();
        let all = inner.conditions.iter().map(|(name, state)| Readiness {
            name: name.clone(),
            waiting_for: match state {
                State::Met => None,
                State::Waiting(what) => Some(what.clone()),
            },
        });
        all.collect()
    }

    /// Every condition is met and every loop alive.
    pub fn is_ready(&self) -> bool {
        self.silent().is_empty() && self.readiness().iter().all(|c| c.waiting_for.is_none())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic half-way, so a poisoned lock still holds whole entries.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeat {
    pub fn beat(&self) {
        if let Some(beat) = self.health.lock().beats.get_mut(&self.id) {
            beat.last = Instant::now();
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        let mut inner = self.health.lock();
        if !std::thread::panicking() {
            inner.beats.remove(&self.id);
        } else if let Some(beat) = inner.beats.get_mut(&self.id) {
            beat.dead = true;
        }
    }
}

impl Condition {
    pub fn met(&self) {
        self.set(State::Met);
    }

    /// Not met (any more); `what` is read by an operator: `12 of 64 partitions restored`.
    pub fn waiting(&self, what: impl Into<String>) {
        self.set(State::Waiting(what.into()));
    }

    /// The condition no longer concerns this process.
    pub fn withdraw(&self) {
        self.health.lock().conditions.remove(&self.name);
    }

    fn set(&self, state: State) {
        self.health.lock().conditions.insert(self.name.clone(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_alive_until_it_is_silent_for_too_long_and_again_after_a_beat() {
        let health = Health::new();
        let heartbeat = health.heartbeat("processor 0", Duration::from_secs(30));
        let start = Instant::now();
        assert_eq!(health.silent_at(start), []);
        let silent = health.silent_at(start + Duration::from_secs(31));
        assert_eq!(silent.len(), 1);
        assert_eq!(silent[0].name, "processor 0");
        assert!(silent[0].reason.contains("(at most 30.0 s are regular)"), "{}", silent[0].reason);
        heartbeat.beat();
        assert_eq!(health.silent(), []);
    }

    #[test]
    fn a_loop_that_ends_is_forgotten_and_one_that_panics_is_dead() {
        let health = Health::new();
        drop(health.heartbeat("ended", Duration::ZERO));
        let panicking = health.heartbeat("broken", Duration::from_secs(3600));
        let thread = std::thread::spawn(move || {
            let _held = panicking;
            panic!("as a bug would");
        });
        assert!(thread.join().is_err());
        let silent = health.silent();
        assert_eq!(silent.len(), 1, "{silent:?}");
        assert_eq!((silent[0].name.as_str(), silent[0].reason.as_str()), ("broken", "ended by a panic: see the log"));
        assert!(!health.is_ready());
    }

    #[test]
    fn ready_is_when_every_condition_is_met() {
        let health = Health::new();
        assert!(health.is_ready(), "nothing to wait for");
        let restored = health.condition("processor: restored");
        let reader = health.condition("api: read model caught up");
        assert!(!health.is_ready());
        restored.met();
        reader.waiting("3 records behind");
        assert_eq!(
            health.readiness(),
            [
                Readiness { name: "api: read model caught up".into(), waiting_for: Some("3 records behind".into()) },
                Readiness { name: "processor: restored".into(), waiting_for: None },
            ]
        );
        reader.met();
        assert!(health.is_ready());
        restored.waiting("partition 3 was lost");
        assert!(!health.is_ready());
        restored.withdraw();
        assert!(health.is_ready());
    }
}
