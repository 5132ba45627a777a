//! Bad input by every way in: what becomes of it, and that what comes after it is carried out.

use crate::command::Here;
use crate::database::rows;
use lockstep::bus::embedded::{EmbeddedBus, EmbeddedOptions};
use lockstep::bus::{Bus, Incoming, Outgoing};
use std::path::Path;
use std::time::{Duration, Instant};

const TOPIC: &str = "hr.workers";
const DEAD_LETTERS: &str = "lockstep.source-dead-letters";
/// `limits: { event_bytes: … }` of the config below.
const EVENT_BYTES: usize = 16 << 10;
/// How long until an account must be there, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
const RUN: [&str; 6] = ["dev", "--config", ".", "--listen", "127.0.0.1:0", "--once"];

const IDENTITY: &str = "\
kinds:
  person:
    anchor: hr
    correlate: [employeeNumber]
    attributes:
      givenName: [hr.givenName]
      age: [hr.age]
      note: [hr.note]
";
const SOURCE: &str = "\
source: hr
topic: hr.workers
tenant: { field: company }
format: json
event: { id: id, type: type, types: { hired: upsert } }
record: { id: worker.id }
attributes:
  employeeNumber: { path: worker.number, required: true }
  givenName: worker.firstName
  age: { path: worker.age, type: int }
  note: worker.note
  copy1: worker.copied
  copy2: worker.copied
  copy3: worker.copied
  copy4: worker.copied
  copy5: worker.copied
";
const TARGET: &str = "\
target: directory
connector:
  sql:
    url: sqlite:${data}/directory.db
    accounts: { table: accounts, key: id, owner: owner, columns: { userName: user_name, note: note }, active: { column: active, true: true, false: false } }
account:
  match: userName
  attributes:
    userName: lower(givenName)
    note: default(note, '') + default(note, '') + default(note, '')
";

fn config(limits: &str) -> Here {
    let here = Here::new();
    here.file("lockstep.yaml", &format!("tenants: [acme]\n{limits}"))
        .file("identity.yaml", IDENTITY)
        .file("sources/hr.yaml", SOURCE)
        .file("targets/directory.yaml", TARGET);
    here
}

fn small_events() -> Here {
    config(&format!("limits: {{ event_bytes: {EVENT_BYTES} }}\n"))
}

/// An event that is all right, of somebody who is called `Good <number>`; `more` goes into the worker.
fn good(number: usize, more: &str) -> Vec<u8> {
    format!(
        "{{\"id\":\"good-{number}\",\"company\":\"acme\",\"type\":\"hired\",\"worker\":{{\"id\":\"w-{number}\",\
         \"number\":\"{number}\",\"firstName\":\"Good {number}\"{more}}}}}"
    )
    .into_bytes()
}

/// One that is all right and has exactly so many bytes.
fn good_of(number: usize, bytes: usize) -> Vec<u8> {
    let empty = good(number, ",\"ignored\":\"\"").len();
    good(number, &format!(",\"ignored\":\"{}\"", "x".repeat(bytes - empty)))
}

/// Each kind that can be sent as bytes.
fn bad() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let event = |company: &str, kind: &str, worker: &str| {
        format!("{{\"id\":\"bad\",\"company\":\"{company}\",\"type\":\"{kind}\",\"worker\":{worker}}}").into_bytes()
    };
    vec![
        ("not JSON", text("{\"id\": oops")),
        ("no text at all", vec![0xff, 0x00, 0xfe, b'!']),
        ("no id", text(r#"{"company":"acme","type":"hired","worker":{"id":"w-1","number":"1"}}"#)),
        ("no record id", event("acme", "hired", r#"{"number":"1"}"#)),
        ("unknown type", event("acme", "promoted", r#"{"id":"w-1","number":"1"}"#)),
        ("wrong type", event("acme", "hired", r#"{"id":"w-1","number":"1","age":"secret-age"}"#)),
        ("missing required", event("acme", "hired", r#"{"id":"w-1","firstName":"Ada"}"#)),
        ("empty required", event("acme", "hired", r#"{"id":"w-1","number":" ","firstName":"Ada"}"#)),
        ("unknown tenant", event("secret-corp", "hired", r#"{"id":"w-1","number":"1"}"#)),
        ("no tenant", text(r#"{"id":"bad","type":"hired","worker":{"id":"w-1","number":"1"}}"#)),
    ]
}

fn bus(here: &Here) -> EmbeddedBus {
    EmbeddedBus::open(&here.path().join("data"), &EmbeddedOptions::default()).unwrap()
}

/// Writes to partition 0 of the source's topic, as another program would.
fn append(bus: &EmbeddedBus, value: Option<Vec<u8>>) {
    let record = Outgoing {
        topic: TOPIC.to_owned(),
        partition: Some(0),
        key: Some(b"k".to_vec()),
        value: value.map(Into::into),
        headers: Vec::new(),
    };
    bus.append(vec![record]).unwrap();
}

fn read(bus: &EmbeddedBus, topic: &str) -> Vec<Incoming> {
    let mut records = Vec::new();
    for partition in 0..bus.partitions(topic).unwrap().unwrap() {
        let (mut reader, ends) = (bus.reader().unwrap(), bus.ends(topic, partition).unwrap());
        reader.seek(topic, partition, ends.start).unwrap();
        while reader.position(topic, partition).unwrap() < ends.end {
            records.extend(reader.poll(100, Duration::from_millis(50)).unwrap());
        }
    }
    records
}

/// Where a dead letter came from, why it is one, and how much of it is there.
fn shown(letter: &Incoming) -> String {
    let header = |name: &str| {
        let found = letter.headers.iter().find(|(header, _)| header == &format!("lockstep_{name}"));
        found.map_or("-".to_owned(), |(_, value)| String::from_utf8(value.to_vec()).unwrap())
    };
    let bytes = letter.value.as_ref().map_or("no value".to_owned(), |value| format!("{} bytes", value.len()));
    let (topic, partition, offset) = (header("topic"), header("partition"), header("offset"));
    format!("{} at {topic}-{partition}@{offset}, {bytes}: {}", header("reason"), header("detail"))
}

/// What it takes in the source's topic that a dead letter names.
fn original(letter: &Incoming, source: &[Incoming]) -> Incoming {
    let number = |name: &str| -> i64 {
        let (_, value) = letter.headers.iter().find(|(header, _)| header == name).unwrap();
        std::str::from_utf8(value).unwrap().parse().unwrap()
    };
    let (partition, offset) = (number("lockstep_partition"), number("lockstep_offset"));
    source.iter().find(|record| (i64::from(record.partition), record.offset) == (partition, offset)).unwrap().clone()
}

fn accounts(here: &Here) -> Vec<String> {
    rows(
        &here.path().join("data/directory.db"),
        "SELECT user_name FROM accounts ORDER BY CAST(substr(user_name, 6) AS INTEGER)",
    )
}

fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("good {number}")).collect()
}

#[test]
fn each_kind_by_topic_is_kept_with_its_reason_and_its_partition_goes_on() {
    let here = small_events();
    here.run(&RUN);
    let mut kinds: Vec<(&str, Option<Vec<u8>>)> = bad().into_iter().map(|(kind, bytes)| (kind, Some(bytes))).collect();
    kinds.extend([
        ("one byte too large", Some(good_of(0, EVENT_BYTES + 1))),
        ("empty", Some(Vec::new())),
        ("a tombstone", None),
    ]);
    let count = kinds.len();
    {
        let bus = bus(&here);
        for (number, (_, value)) in kinds.iter().enumerate() {
            append(&bus, value.clone());
            append(&bus, Some(good(number, "")));
        }
        append(&bus, Some(good_of(count, EVENT_BYTES)));
    }
    let printed = here.run(&RUN);
    assert!(printed.ends_with("--- exit code 0\n"), "{printed}");
    assert!(!printed.contains("secret-"), "a value was printed or logged: {printed}");
    assert_eq!(accounts(&here), names(0..count + 1), "{printed}");

    let bus = bus(&here);
    let (mut letters, source) = (read(&bus, DEAD_LETTERS), read(&bus, TOPIC));
    letters.sort_by_key(|letter| original(letter, &source).offset);
    assert_eq!(letters.len(), count);
    for (letter, (kind, value)) in letters.iter().zip(&kinds) {
        let original = original(letter, &source);
        assert_eq!((letter.value.as_deref(), &letter.key), (value.as_deref(), &original.key), "{kind}");
        assert_eq!(original.value.as_deref(), value.as_deref(), "{kind}");
    }
    let lines: Vec<String> =
        letters.iter().zip(&kinds).map(|(letter, (kind, _))| format!("{kind}: {}", shown(letter))).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn each_kind_by_http_and_by_publish_is_kept_or_refused_and_what_follows_is_carried_out() {
    let here = small_events();
    let dev = here.start(&["dev", "--config", ".", "--listen", "127.0.0.1:0"]);
    let mut lines = Vec::new();
    for (number, (kind, body)) in bad().into_iter().enumerate() {
        lines.push(format!("{kind}: {}", dev.post("/v1/events/hr", body)));
        dev.post("/v1/events/hr", good(number, ""));
    }
    let mut number = bad().len();
    for (kind, body) in [
        ("exactly as large as may be", good_of(number, EVENT_BYTES)),
        ("one byte too large", good_of(1_000, EVENT_BYTES + 1)),
        ("a body that is too large", vec![b' '; (8 << 20) + 1]),
        ("an empty body", Vec::new()),
    ] {
        lines.push(format!("{kind}: {}", dev.post("/v1/events/hr", body)));
    }
    lines.push(format!("an unknown source: {}", dev.post("/v1/events/hrr", good(1_001, ""))));
    number += 1;
    insta::assert_snapshot!("bad_input_by_http", lines.join("\n"));

    let input = [
        b"{\"id\": oops".to_vec(),
        good(number, ""),
        good_of(1_002, EVENT_BYTES + 1),
        good_of(number + 1, EVENT_BYTES),
        good(number + 2, ""),
    ]
    .join(&b'\n');
    insta::assert_snapshot!(
        "bad_input_by_publish",
        here.run_with(&["publish", "hr"], std::str::from_utf8(&input).unwrap())
    );
    let until = Instant::now() + PATIENCE;
    while accounts(&here).len() < number + 3 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(accounts(&here), names(0..number + 3));
    assert_eq!(dev.stop(), Some(0));

    let bus = bus(&here);
    let (letters, source) = (read(&bus, DEAD_LETTERS), read(&bus, TOPIC));
    // Those that were sent one by one, and the line that is no JSON.
    assert_eq!(letters.len(), bad().len() + 1);
    for letter in &letters {
        assert_eq!(letter.value, original(letter, &source).value);
    }
    let mut kept: Vec<_> = letters.iter().map(|letter| letter.value.clone().unwrap()).collect();
    let mut sent: Vec<_> = bad().into_iter().map(|(_, body)| body).chain([b"{\"id\": oops".to_vec()]).collect();
    kept.sort();
    sent.sort();
    assert_eq!(kept, sent);
}

/// An event may be small enough and still lead to what no topic takes: it is mapped to several attributes, or a rule
/// repeats it.
#[test]
fn what_grows_too_large_on_its_way_costs_one_event_or_one_identity_and_never_the_partition() {
    let here = config("");
    here.run(&RUN);
    {
        let bus = bus(&here);
        // Five copies do not fit into the inbox; three of the note not into a command.
        append(&bus, Some(good(0, &format!(",\"copied\":\"{}\"", "c".repeat(210_000)))));
        append(&bus, Some(good(1, &format!(",\"note\":\"{}\"", "n".repeat(200_000)))));
        append(&bus, Some(good(2, "")));
        append(&bus, Some(good(1, "")));
        append(&bus, Some(good(3, &format!(",\"note\":\"{}\"", "n".repeat(170_000)))));
        append(&bus, Some(good(4, &format!(",\"copied\":\"{}\"", "c".repeat(200_000)))));
    }
    let printed = here.run(&RUN);
    assert!(printed.ends_with("--- exit code 0\n"), "{printed}");
    assert!(!printed.contains("begins anew"), "a loop ended in an error: {printed}");
    assert!(!printed.contains("nnn") && !printed.contains("ccc"), "a value was printed or logged");
    assert_eq!(accounts(&here), ["good 2", "good 3", "good 4"]);
    let lengths = rows(&here.path().join("data/directory.db"), "SELECT length(note) FROM accounts ORDER BY user_name");
    assert_eq!(lengths, ["0", "510000", "0"]);

    let bus = bus(&here);
    let (letters, source) = (read(&bus, DEAD_LETTERS), read(&bus, TOPIC));
    assert_eq!(letters[0].value, original(&letters[0], &source).value);
    let mut lines: Vec<String> = letters.iter().map(shown).collect();
    lines.extend(printed.lines().filter(|line| line.starts_with("alert ")).map(str::to_owned));
    insta::assert_snapshot!(lines.join("\n"));
}

/// As large as the source's topic takes: with what is said about it, it fits into no record of the dead letters.
#[test]
fn what_fits_into_no_record_of_the_dead_letters_is_kept_whole_in_several() {
    let here = small_events();
    here.run(&RUN);
    let large: String = (0..).map(|number| format!("{number:06} ")).take(149_790).collect();
    {
        let bus = bus(&here);
        append(&bus, Some(large.clone().into_bytes()));
        append(&bus, Some(good(0, "")));
    }
    let printed = here.run(&RUN);
    assert!(printed.ends_with("--- exit code 0\n"), "{printed}");
    assert!(printed.contains("rejected: 1 too_large;"), "it is one event: {printed}");
    assert_eq!(accounts(&here), names(0..1), "{printed}");
    {
        let bus = bus(&here);
        let (letters, source) = (read(&bus, DEAD_LETTERS), read(&bus, TOPIC));
        assert_eq!(letters.len(), 2, "two parts");
        let kept: Vec<u8> = letters.iter().flat_map(|letter| letter.value.clone().unwrap()).collect();
        assert!(kept == large.as_bytes() && letters[1].key == original(&letters[1], &source).key);
    }

    let dev = here.start(&["dev", "--config", ".", "--listen", "127.0.0.1:0"]);
    let list = here.run(&["source-dead-letters", "list"]);
    assert!(list.lines().count() == 4 && list.contains(" too_large ") && list.contains(" 1048530 "), "{list}");
    let raw = here.run(&["source-dead-letters", "show", "1", "--raw"]);
    assert!(raw == format!("$ lockstep source-dead-letters show 1 --raw\n{large}--- exit code 0\n"), "byte for byte");
    assert_eq!(dev.stop(), Some(0));
}

/// An event that the topics took before, and would not take as they were made.
#[test]
fn a_limit_that_is_raised_holds_for_topics_that_are_there() {
    let here = small_events();
    here.run(&RUN);
    here.file("lockstep.yaml", "tenants: [acme]\nlimits: { event_bytes: 4194304 }\n");
    let dev = here.start(&["dev", "--config", ".", "--listen", "127.0.0.1:0"]);
    let sent = [dev.post("/v1/events/hr", good_of(0, 4 << 20)), dev.post("/v1/events/hr", good_of(1, (4 << 20) + 1))];
    assert!(sent[0].starts_with("202 ") && sent[1].starts_with("413 "), "{sent:?}");
    assert!(dev.post("/v1/events/hr", vec![b'{'; 4 << 20]).starts_with("202 "));
    assert!(dev.post("/v1/events/hr", good(2, "")).starts_with("202 "));
    let until = Instant::now() + PATIENCE;
    while accounts(&here).len() < 2 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(accounts(&here), ["good 0", "good 2"]);
    assert_eq!(dev.stop(), Some(0));
    let letters = read(&bus(&here), DEAD_LETTERS);
    assert_eq!(letters.len(), 1, "in one record");
    assert!(letters[0].value.as_deref() == Some(vec![b'{'; 4 << 20].as_slice()));
}

#[test]
fn a_wrong_config_is_refused_at_start_and_nothing_is_made() {
    let mistakes = [
        ("lockstep.yaml", "tenants: [acme]", "tenants: acme"),
        ("lockstep.yaml", "tenants: [acme]", "tenants: [acme]\nbus: { kafka: { bootstap: kafka:9092 } }"),
        ("lockstep.yaml", "tenants: [acme]", "tenants: [acme]\nlimits: { event_bytes: 10 }"),
        ("sources/hr.yaml", "topic: hr.workers", "topics: hr.workers,hr.leavers"),
        ("sources/hr.yaml", "path: worker.age, type: int", "path: worker.age, type: integer"),
        ("sources/hr.yaml", "record: { id: worker.id }", "record: {}"),
        ("identity.yaml", "givenName: [hr.givenName]", "givenName: hr.givenname"),
        ("identity.yaml", "    anchor: hr\n", "    anchor: hr\n\tcorrelate: [x]\n"),
        ("targets/directory.yaml", "match: userName", "match: username"),
        ("targets/directory.yaml", "userName: lower(givenName)", "userName: lower(givenName"),
    ];
    let mut all = Vec::new();
    for (file, from, to) in mistakes {
        let here = config("");
        let text = std::fs::read_to_string(here.path().join(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        here.file(file, &text.replacen(from, to, 1));
        let printed = here.run(&RUN);
        assert!(printed.ends_with("--- exit code 3\n"), "{printed}");
        assert!(!Path::new(&here.path().join("data")).exists(), "a data folder was made for {to:?}");
        all.push(printed.replace("$ lockstep dev --config . --listen 127.0.0.1:0 --once\n--- stderr\n", ""));
    }
    insta::assert_snapshot!(all.join("\n"));
}
