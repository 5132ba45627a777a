//! What goes wrong, drawn from the seed and counted by kind.
//!
//! Each seed has its own mixture: a kind is absent, rare, usual or frequent, for faults that hide one another are only found
//! where one of them stays away (swarm testing, Groce et al., 2012).

use crate::random::Random;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

pub type Counted = BTreeMap<&'static str, u64>;

/// Clones draw from the same source.
#[derive(Clone)]
pub struct Faults(Arc<Mutex<Drawn>>);

struct Drawn {
    seed: u64,
    random: Random,
    calm: bool,
    counted: Counted,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed ^ 0x5eed);
        Self(Arc::new(Mutex::new(Drawn { seed, random, calm: false, counted: Counted::new() })))
    }

    /// While it is calm nothing goes wrong.
    pub fn calm(&self, calm: bool) {
        self.0.lock().unwrap().calm = calm;
    }

    pub fn is_calm(&self) -> bool {
        self.0.lock().unwrap().calm
    }

    /// Whether this fault happens now: `usual` times in a thousand in a seed in which it is neither rare nor frequent.
    pub fn happens(&self, kind: &'static str, usual: u64) -> bool {
        let mut drawn = self.0.lock().unwrap();
        if drawn.calm {
            return false;
        }
        let mut mixture = DefaultHasher::new();
        (drawn.seed, kind).hash(&mut mixture);
        let quarters = [0, 1, 4, 4, 4, 10][(mixture.finish() % 6) as usize];
        let happens = drawn.random.below(4_000) < usual * quarters;
        if happens {
            *drawn.counted.entry(kind).or_default() += 1;
        }
        happens
    }

    /// Something went wrong that was decided elsewhere.
    pub fn count(&self, kind: &'static str) {
        *self.0.lock().unwrap().counted.entry(kind).or_default() += 1;
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().unwrap().random.below(bound)
    }

    pub fn counted(&self) -> Counted {
        self.0.lock().unwrap().counted.clone()
    }
}
