//! Processes that are killed (SIGKILL) at random moments under load: what the targets show in the end is what they show
//! without any kill, no generation is issued twice, and no account is made twice.
//!
//! LOCKSTEP_CHAOS_SEED   the moments of the kills and the events follow from it (default 1)
//! LOCKSTEP_CHAOS_KILLS  of each process (default 5 for `dev` in plain `cargo test`, 20 with servers)
//! LOCKSTEP_CHAOS_MINUTES  how long the cluster of three brokers is disturbed (default 0: one fault of each kind)

// A test ends where something can't go on, and says how often and how long.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod cluster;
mod dev;
mod fault;
mod fleet;
mod kafka;
mod ledger;
mod load;
mod process;
#[path = "../sim/random.rs"]
#[allow(dead_code)] // the simulator uses the rest
mod random;
mod stage;
mod storm;
mod table;

/// A number of the environment, or its default.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    number("LOCKSTEP_CHAOS_SEED", 1)
}
