//! Rules: an expression by its program and by the interpreter, which is its reference, and what an event asks of job W1's rules.

use criterion::{Criterion, criterion_group, criterion_main};
use lockstep::config::Config;
use lockstep::model::{Attributes, SourceName, Timestamp, Value};
use lockstep::rules::expression::{Expression, Language, Tables};
use lockstep::rules::merged::{Merged, Slots};
use lockstep::rules::shape::{Names, Shape};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

/// 2026-06-15T08:00:00Z.
const NOW: Timestamp = Timestamp(1_781_510_400_000);

/// As people write them; the last of them needs the interpreter whatever is done.
const EXPRESSIONS: [(&str, &str); 8] = [
    ("an attribute as it is", "jobTitle"),
    ("a condition", "status == 'active' && (default(endDate, '') == '' || '2026-06-15' <= endDate)"),
    ("a display name", "default(preferredName, firstName) + ' ' + lastName"),
    (
        "a user name",
        "lower(firstName + '.' + lastName) + substring(employeeNumber, size(employeeNumber) - 2, size(employeeNumber))",
    ),
    (
        "a plain user name",
        "lower(ascii(firstName + '.' + lastName)).replace(' ', '-').replace(\"'\", '') + substring(employeeNumber, 2, 5)",
    ),
    (
        "three look-ups and a list",
        "lookup(tables.department, department, []) + lookup(tables.location, location, []) + lookup(tables.country, country, []) + groups",
    ),
    ("a filtered list", "groups.filter(g, g.startsWith('wiki-'))"),
    ("one that is not lowered", "int(employeeNumber) % 7 == 0"),
];

fn worker(title: &str) -> Attributes {
    let fields = [
        ("employeeNumber", "10000007"),
        ("firstName", "Ben"),
        ("lastName", "Bauer"),
        ("preferredName", ""),
        ("department", "Finance"),
        ("jobTitle", title),
        ("costCenter", "CC101"),
        ("managerId", "W0000001"),
        ("location", "Berlin"),
        ("country", "DE"),
        ("endDate", ""),
        ("status", "active"),
    ];
    fields.into_iter().map(|(name, text)| (name, Value::text(text))).collect()
}

fn user() -> Attributes {
    let groups = ["team-people-1", "team-platform-2", "wiki-legal-editors", "team-sales-1", "wiki-data-editors"];
    let groups = Value::List(groups.map(Value::from).to_vec());
    Attributes::from([
        ("employeeNumber", "10000007".into()),
        ("login", "Ben.Bauer.1".into()),
        ("mobile", "+491512345678".into()),
        ("groups", groups),
    ])
}

fn tables() -> Tables {
    let list = |items: [&str; 2]| Value::List(items.map(Value::from).to_vec());
    let of = |key: &str, items| BTreeMap::from([(key.to_owned(), list(items))]);
    Tables::from([
        ("department".to_owned(), of("Finance", ["dept-finance", "app-finance-users"])),
        ("location".to_owned(), of("Berlin", ["loc-berlin", "badge-berlin"])),
        ("country".to_owned(), of("DE", ["country-de", "works-council-de"])),
    ])
}

fn compile(text: &str, language: &Arc<Language>, attributes: &Attributes) -> Expression {
    let names: Names = attributes.keys().map(|name| (name.to_string(), Shape::Any)).collect();
    Expression::compile(text, language, &names).unwrap_or_else(|errors| panic!("{text}: {errors:?}"))
}

fn expressions(c: &mut Criterion) {
    let mut all = worker("Lead Analyst");
    all.extend(user());
    let language = Language::new(&tables(), Slots::new(all.keys().map(|name| name.as_str())));
    let merged = Merged::of(language.slots(), &all);
    let mut group = c.benchmark_group("expression");
    for (name, text) in EXPRESSIONS {
        let expression = compile(text, &language, &all);
        group.bench_function(format!("{name}, program"), |b| {
            b.iter(|| black_box(expression.evaluate(black_box(&merged), "person")));
        });
        group.bench_function(format!("{name}, interpreter"), |b| {
            b.iter(|| black_box(expression.interpret(black_box(&merged), "person")));
        });
    }
    group.finish();
}

fn w1(c: &mut Criterion) {
    let config = Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/w1/config"));
    let bundle = config.unwrap_or_else(|error| panic!("{error}")).bundle;
    let kind = bundle.kind("person").expect("the job's kind");
    let directory = bundle.target(&"directory".into()).expect("the job's target");
    let (hr, idp) = (SourceName::from("hr"), SourceName::from("idp"));
    let (before, after, user) = (worker("Lead Analyst"), worker("Principal Analyst"), user());
    let records = [(&hr, &after), (&idp, &user)];
    let merged = kind.merge(&records);
    let touched = kind.touched(&hr, &before, &after);
    let wanted = directory.wants("person", &kind.merge(&[(&hr, &before), (&idp, &user)]));
    let wanted = wanted.expect("the job's rules give an answer").expect("an account");
    let mut group = c.benchmark_group("w1");
    group.bench_function("two records merged", |b| b.iter(|| black_box(kind.merge(black_box(&records)))));
    group.bench_function("what a title touches", |b| {
        b.iter(|| black_box(kind.touched(&hr, black_box(&before), black_box(&after))));
    });
    group.bench_function("the phase", |b| b.iter(|| black_box(kind.lifecycle(black_box(&merged), NOW))));
    group.bench_function("a whole account", |b| b.iter(|| black_box(directory.wants("person", black_box(&merged)))));
    group.bench_function("an account whose title changed", |b| {
        b.iter(|| black_box(directory.wants_again("person", black_box(&merged), touched, &wanted)));
    });
    group.finish();
}

criterion_group!(benches, expressions, w1);
criterion_main!(benches);
