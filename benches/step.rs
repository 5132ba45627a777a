//! One event through its record and its identity, on the rules of job W1: what a step costs without bus, codec and disk.

mod town;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::cell::RefCell;
use std::hint::black_box;
use town::Town;

/// So many that their rows don't stay in the processor's nearest cache, as in a partition.
const PEOPLE: usize = 2_000;
const TITLES: [&str; 2] = ["Senior Engineer", "Principal Consultant"];
const GROUPS: [&str; 2] = ["team-legal-0", "team-finance-3"];

fn steps(c: &mut Criterion) {
    let town = RefCell::new(Town::of(PEOPLE));
    let mut group = c.benchmark_group("step");
    let mut turn = 0;
    let mut next = || {
        turn += 1;
        (turn % PEOPLE, turn / PEOPLE % 2)
    };
    group.bench_function("a title changes: two commands", |b| {
        b.iter_batched(
            || {
                let (person, other) = next();
                let event = town.borrow_mut().hr(person, TITLES[other], "");
                town.borrow().message(&event)
            },
            |message| black_box(town.borrow_mut().deliver(message)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("a group changes: one command", |b| {
        b.iter_batched(
            || {
                let (person, other) = next();
                let event = town.borrow_mut().idp(person, GROUPS[other]);
                town.borrow().message(&event)
            },
            |message| black_box(town.borrow_mut().deliver(message)),
            BatchSize::SmallInput,
        );
    });
    let event = town.borrow_mut().hr(0, TITLES[0], "");
    let again = town.borrow().message(&event);
    town.borrow_mut().deliver(again.clone());
    group.bench_function("a redelivery: nothing", |b| {
        b.iter_batched(
            || again.clone(),
            |message| black_box(town.borrow_mut().deliver(message)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
