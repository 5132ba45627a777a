//! The local store with the rows of job W1's people: a batch written, and single rows read back.

mod town;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lockstep::store::disk::DiskStores;
use lockstep::store::{Stores, Write};
use std::hint::black_box;
use town::Town;

/// People in the store: with some nine rows each more than its block cache holds.
const PEOPLE: usize = 20_000;
/// Rows of one batch, as a full batch of events writes.
const BATCH: usize = 4_000;
/// As a process has.
const MEMORY_MIB: u32 = 64;

fn store(c: &mut Criterion) {
    let town = Town::of(PEOPLE);
    let rows: Vec<Write> = town
        .rows
        .iter()
        .map(|(key, value)| Write { key: key.clone(), value: Some(value.clone().into()), timer: None })
        .collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stores = DiskStores::open(folder.path(), MEMORY_MIB, "bench").expect("a new store opens");
    let mut store = stores.open("state", 0).expect("a new store opens");
    let mut position = 0;
    for batch in rows.chunks(BATCH) {
        position += 1;
        store.apply(batch, position).expect("the disk takes it");
    }

    let mut group = c.benchmark_group("store");
    // Strides that are prime to the number of rows: every row is met, none soon after its neighbour.
    let mut at = 0;
    let mut scattered = move |count: usize| {
        at = (at + 7_919) % count;
        at
    };
    group.bench_function("get a row", |b| {
        b.iter(|| black_box(store.get(&rows[scattered(rows.len())].key).expect("the disk answers")));
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("apply a batch of rows", |b| {
        b.iter_batched(
            || (0..BATCH).map(|_| rows[scattered(rows.len())].clone()).collect::<Vec<_>>(),
            |batch| {
                position += 1;
                store.apply(&batch, position).expect("the disk takes it");
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
