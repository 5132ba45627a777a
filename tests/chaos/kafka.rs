//! The processor and the workers of a PostgreSQL and an SQLite as processes of their own on a real Kafka: killed again and again
//! while events come in, and a worker killed while its target hangs.

use crate::ledger;
use crate::load::Load;
use crate::process::Process;
use crate::random::Random;
use crate::stage::{CALL_TIMEOUT, Feeder, Place, READY, Stage};
use crate::{number, seed};
use lockstep::bus::Bus as _;
use std::time::{Duration, Instant};

const TARGET: &str = "directory";
const TARGETS: [&str; 2] = [TARGET, "wiki"];
const PEOPLE: usize = 400;
/// Some 60 events a second.
const PACE: Duration = Duration::from_millis(150);
const AT_ONCE: usize = 9;

/// Starts, kills and restarts; gives the process that runs in the end. Each fourth time it doesn't wait until the process is ready.
fn kill_and_restart(name: &str, kills: u64, seed: u64, start: impl Fn() -> Process) -> Process {
    let (mut chance, mut running, mut times) = (Random::new(seed), start(), Vec::new());
    for kill in 0..kills {
        if kill % 4 != 3 {
            let ready = running.ready(READY).unwrap_or_else(|| panic!("the {name} is not ready after {READY:?}"));
            times.extend((kill > 0).then_some(ready));
        }
        std::thread::sleep(Duration::from_millis(chance.below(1_500)));
        running.kill();
        running = start();
    }
    times.push(running.ready(READY).unwrap_or_else(|| panic!("the {name} is not ready after {READY:?}")));
    times.sort();
    println!(
        "{name}: {kills} kills and restarts; ready after {:?} (p50), {:?} (max) in {} restarts that were waited for",
        times[times.len() / 2],
        times[times.len() - 1],
        times.len()
    );
    running
}

#[test]
#[ignore = "needs Kafka, PostgreSQL: tests/run chaos"]
fn processor_and_workers_killed_at_random_moments_lose_and_double_nothing() {
    let (seed, kills) = (seed(), number("LOCKSTEP_CHAOS_KILLS", 20));
    let began = Instant::now();
    let stage = &Stage::set("kills", &Place::one_broker(), &TARGETS);
    let feeder = Feeder::start(stage, Load::new(seed, PEOPLE), AT_ONCE, PACE);
    // All at the same time, each at moments of its own.
    let _running: Vec<Process> = std::thread::scope(|scope| {
        let processor = || stage.processor();
        let mut killed = vec![scope.spawn(move || kill_and_restart("processor", kills, seed ^ 0xdead, processor))];
        for (n, target) in (1..).zip(TARGETS) {
            let worker = move || stage.worker(target);
            let seed = seed ^ (0xdead + n);
            killed.push(scope.spawn(move || kill_and_restart(&format!("{target}'s worker"), kills, seed, worker)));
        }
        killed.into_iter().map(|killed| killed.join().unwrap()).collect()
    });
    let (load, events) = feeder.stop();

    let undisturbed = Stage::set("undisturbed", &Place::one_broker(), &TARGETS);
    let _undisturbed = undisturbed.run_undisturbed(&events, &load);
    println!(
        "{} events; all was there {:?} after the last in the run without kills",
        events.len(),
        stage.settle(&load)
    );
    stage.quiet();
    undisturbed.quiet();
    stage.audit(&load, &undisturbed);
    println!("seed {seed}: {kills} kills of each; took {:?}\n{}", began.elapsed(), stage.logs());
}

/// What becomes of a call that its killed worker has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The target carries it out after all, when the next worker runs already.
    CarriedOut,
    Dropped,
}

#[test]
#[ignore = "needs Kafka, PostgreSQL: tests/run chaos"]
fn a_worker_killed_during_a_call_waits_reads_and_makes_nothing_twice() {
    for left in [Left::CarriedOut, Left::Dropped] {
        let stage = Stage::set("hang", &Place::one_broker(), &[TARGET]);
        let target = &stage.targets[TARGET];
        let (mut processor, mut worker) = (stage.processor(), stage.worker(TARGET));
        assert!(processor.ready(READY).is_some() && worker.ready(READY).is_some(), "{}", stage.logs());
        // The check is put off to the commit: what hangs is the answer to the commit, whose outcome nobody knows then.
        let (schema, lock) = (target.schema(), std::process::id());
        target.run(&format!(
            "CREATE FUNCTION {schema}hang() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_advisory_xact_lock_shared({lock}); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER hang AFTER INSERT OR UPDATE ON {schema}accounts DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION {schema}hang()"
        ));
        let held = target.hold(lock);
        let mut load = Load::new(seed(), 1);
        stage.append(&load.next(1));
        let hanging = "SELECT CAST(pid AS TEXT) FROM pg_stat_activity WHERE wait_event = 'advisory'";
        let until = Instant::now() + READY;
        while target.texts_as_they_are(hanging).is_empty() {
            assert!(Instant::now() < until, "no call hangs\n{}", stage.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
        let hung = Instant::now();
        worker.kill();
        let mut worker = stage.worker(TARGET);
        assert!(worker.ready(READY).is_some(), "{}", stage.logs());
        let ready = hung.elapsed();
        if left == Left::Dropped {
            target.texts_as_they_are(
                "SELECT CAST(pg_terminate_backend(pid) AS TEXT) FROM pg_stat_activity WHERE wait_event = 'advisory'",
            );
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(target.rows().len(), 0, "nothing is done before the lock is free");
        drop(held);
        let results = || -> i64 { (0..6).map(|p| stage.bus.ends(&stage.names.results(), p).unwrap().end).sum() };
        let until = Instant::now() + READY;
        while results() == 0 {
            assert!(Instant::now() < until, "{left:?}: no result\n{}", stage.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
        let done = hung.elapsed();
        println!(
            "{left:?}: killed while the commit hung; the next worker was ready after {ready:?}, done after {done:?}"
        );
        // Its call began a moment before it was seen to hang.
        assert!(done + Duration::from_millis(500) > CALL_TIMEOUT, "{left:?}: done after {done:?}, without waiting");
        assert_eq!(target.rows(), load.answer(TARGET), "{left:?}");
        assert_eq!(target.check_audit(), 1, "{left:?}: one change, the insert");
        let ledger = ledger::check(stage.bus.as_ref(), &stage.names, TARGET);
        assert_eq!((ledger.commands, ledger.verified), (1, 1), "{left:?}");
    }
}
