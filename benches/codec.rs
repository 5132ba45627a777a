//! Bytes to model and back: a source's event, an inbox record, a command in both encodings.

mod town;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lockstep::codec::public::PublicCodec;
use lockstep::model::{InboxRecord, envelope};
use lockstep::rules::PublicFormat;
use std::hint::black_box;
use town::Town;

fn codec(c: &mut Criterion) {
    let mut town = Town::of(1);
    let event = town.hr(0, "Principal Consultant", "");
    let message = town.message(&event);
    let record = InboxRecord::Message(message.clone());
    let sealed = envelope::seal(&record);
    let commands = town.deliver(message);
    let command = commands.first().expect("a title's change is commanded");
    let public = PublicCodec::new(None);

    let mut group = c.benchmark_group("codec");
    let bytes = |len: usize| Throughput::Bytes(len as u64);
    group.throughput(bytes(event.value.as_ref().map_or(0, |value| value.len())));
    group.bench_function("source event from JSON", |b| b.iter(|| black_box(town.decode(black_box(&event)))));
    group.throughput(bytes(sealed.len()));
    group.bench_function("inbox record to bytes", |b| b.iter(|| black_box(envelope::seal(black_box(&record)))));
    group.bench_function("inbox record from bytes", |b| {
        b.iter(|| black_box(envelope::open::<InboxRecord>(black_box(&sealed)).expect("just sealed")));
    });
    for (name, format) in [("command to JSON", PublicFormat::Json), ("command to Avro", PublicFormat::Avro)] {
        let encode = || public.encode(format, "commands.directory", black_box(command)).expect("no registry is asked");
        group.throughput(bytes(encode().value.len()));
        group.bench_function(name, |b| b.iter(|| black_box(encode())));
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
