//! The whole of Lockstep on the embedded bus over memory, on virtual time, with faults and crashes from a seed.
//!
//! The processor's loop and the lane loop are the very ones that run on Kafka. A story of people joining, moving, leaving and
//! coming back is told out of order and twice; processes crash between any two turns and calls are lost on either way; in
//! the end the auditor reads the targets themselves and compares them with a serial reference, and the log of commands and
//! calls with what was promised. `LOCKSTEP_SIM_SEEDS=N LOCKSTEP_SIM_FROM=S` runs others; a failure names its seed.

#![expect(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod auditor;
mod random;
mod story;
mod target;
mod world;

use world::World;

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 10;

fn seeds() -> impl Iterator<Item = u64> {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name)
            .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    };
    let from = number("LOCKSTEP_SIM_FROM", 1);
    from..from + number("LOCKSTEP_SIM_SEEDS", SEEDS)
}

#[test]
fn whatever_fails_on_the_way_the_targets_end_as_a_serial_program_would_leave_them() {
    let mut counted = world::Counted::default();
    let mut ran = 0;
    for seed in seeds() {
        let mut world = World::new(seed);
        world.run();
        if let Err(fault) = auditor::audit(&world) {
            panic!(
                "seed {seed}: {fault}\nrun it again with LOCKSTEP_SIM_FROM={seed} LOCKSTEP_SIM_SEEDS=1 cargo test --test sim"
            );
        }
        counted.add(&world.counted);
        ran += 1;
    }
    assert!(counted.processor_crashes >= ran && counted.worker_crashes >= ran, "too few crashes: {counted:?}");
    assert!(counted.calls_lost + counted.answers_lost + counted.lies > ran, "too few faults: {counted:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut world = World::new(seed);
        world.run();
        world.trace()
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
