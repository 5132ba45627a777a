//! The whole of Lockstep on the embedded bus over memory, on virtual time, with faults and crashes from a seed.
//!
//! The processor's loop and the lane loop are the very ones that run on Kafka. A story of people joining, moving, leaving and
//! coming back is told late and twice; several processes share the partitions, crash at any step of a commit, hang, and lose
//! their disks; calls are lost on either way and targets lie. In the end the auditor reads the targets themselves and compares
//! them with a serial reference, and the logs with what was promised. A failure names its seed and the command that runs it
//! again: `LOCKSTEP_SIM_SEEDS=1 LOCKSTEP_SIM_FROM=SEED cargo test --test sim`.

#![expect(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod allowance;
mod aside;
mod auditor;
mod bus;
mod disk;
mod faults;
mod former;
mod logs;
mod partitions;
mod random;
mod rules;
mod story;
mod target;
mod truth;
mod world;

use faults::Counted;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use world::World;

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 250;
/// Steps of a story.
const EVENTS: usize = 110;
/// Runs at once: they need memory and a core each.
const MOST_THREADS: usize = 8;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// One run, from its story to the auditor's last word. What it counted, by kind.
fn run(seed: u64) -> Result<Counted, String> {
    let mut world = World::new(seed, EVENTS);
    world.tell()?;
    world.mend();
    world.release()?;
    world.watch()?;
    auditor::at_rest(&world)?;
    world.tidy_up()?;
    world.watch()?;
    auditor::in_the_end(&world, false)?;
    world.wait(30 * 86_400_000)?;
    auditor::in_the_end(&world, true)?;
    auditor::after_the_grace(&world)?;
    allowance::kept(&world)?;
    auditor::time_goes_on(&world)?;
    let aside = aside::kept(&world)?;

    let mut serial = World::serial(seed, EVENTS);
    serial.tell_serially()?;
    serial.tidy_up()?;
    serial.wait(world.now() - serial.now())?;
    serial.watch()?;
    allowance::kept(&serial)?;
    auditor::same(&world, &serial)?;
    let mut counted = world.counted();
    counted.extend(aside);
    counted.extend(world.story.kinds.iter().map(|(kind, count)| (*kind, *count)));
    Ok(counted)
}

/// A run that panics has failed, too.
fn attempt(seed: u64) -> Result<Counted, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    })
}

#[test]
fn whatever_fails_on_the_way_the_targets_end_as_a_serial_program_would_leave_them() {
    let (from, seeds) = (number("LOCKSTEP_SIM_FROM", 1), number("LOCKSTEP_SIM_SEEDS", SEEDS));
    let enough = number("LOCKSTEP_SIM_FAILURES", 1) as usize;
    let next = AtomicU64::new(from);
    let (counted, failed) = (Mutex::new(Counted::new()), Mutex::new(BTreeMap::new()));
    let began = Instant::now();
    let work = || {
        while failed.lock().unwrap().len() < enough {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                break;
            }
            match attempt(seed) {
                Ok(found) => {
                    let mut counted = counted.lock().unwrap();
                    found.into_iter().for_each(|(kind, count)| *counted.entry(kind).or_default() += count);
                }
                Err(fault) => {
                    println!("seed {seed}: {fault}");
                    failed.lock().unwrap().insert(seed, fault);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    if let Some((seed, fault)) = failed.into_inner().unwrap().into_iter().next() {
        panic!("seed {seed}: {fault}\nrun it again with: tests/run sim --seeds 1 --from {seed}");
    }
    println!(
        "{seeds} seeds from {from} in {:.1} s; what happened in them, and what went wrong:",
        began.elapsed().as_secs_f64()
    );
    counted.into_inner().unwrap().iter().for_each(|(kind, count)| println!("{count:>9}  {kind}"));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut world = World::new(seed, EVENTS);
        world.tell().unwrap();
        world.mend();
        world.rest().unwrap();
        world.trace()
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
