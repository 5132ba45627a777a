//! Given this source and these bytes, that event or that rejection.

use super::*;
use crate::codec::avro::{fingerprint, single_object_frame};
use crate::model::{Timestamp, Value};
use crate::rules::{Bundle, SourceFile};
use apache_avro::writer::datum::GenericDatumWriter;
use bytes::Bytes;
use serde_json::Value as Json;
use serde_json::json;

const HR: &str = "\
source: hr
topic: hr.workers
tenant: acme
format: json
event:
  id: id
  time: time
  order: sequence
  type: type
  types: { changed: upsert, deleted: remove, noted: ignore }
record: { id: worker.workerId }
route_by: employeeNumber
attributes:
  employeeNumber: { path: worker.number, required: true }
  givenName: worker.firstName
  level: { path: worker.level, type: int }
  remote: { path: worker.remote, type: bool }
  startDate: { path: worker.startDate, type: date }
  groups: { path: worker.groups, type: list }
";

fn rules(source: &str) -> SourceRules {
    let anchor = source.lines().find_map(|line| line.strip_prefix("source: ")).unwrap();
    let attribute = source.lines().last().unwrap().trim().split(':').next().unwrap();
    let identity = format!(
        "kinds:\n  person:\n    anchor: {anchor}\n    correlate: [{attribute}]\n    attributes:\n      {attribute}: [{anchor}.{attribute}]\n"
    );
    let target = format!(
        "target: t\nconnector:\n  sql:\n    url: sqlite:t.db\n    accounts: {{ table: a, key: id, columns: {{ n: n }} }}\n\
         account:\n  match: n\n  attributes: {{ n: \"{attribute}\" }}\nleaver: {{ action: delete }}\n"
    );
    let file = |path: &str, text: String| SourceFile { path: path.to_owned(), text };
    let files = [
        file("sources/s.yaml", source.to_owned()),
        file("identity.yaml", identity.replace("correlate: [groups]", "correlate: [givenName]")),
        file("targets/t.yaml", target),
    ];
    let bundle = Bundle::compile(&files).unwrap_or_else(|problems| panic!("{problems:#?}"));
    bundle.sources()[0].clone()
}

fn hr() -> SourceRules {
    rules(HR)
}

fn incoming(value: impl Into<Bytes>) -> Incoming {
    Incoming {
        topic: "hr.workers".into(),
        partition: 2,
        offset: 7,
        timestamp: Timestamp(1_000),
        key: Some(b"w-1".to_vec()),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

fn decoder() -> SourceDecoder {
    SourceDecoder::new(None, ["acme".into(), "north".into()].into(), 4_096)
}

fn worker() -> Json {
    json!({"id": "e-1", "time": "2026-03-01T09:00:00Z", "sequence": 12, "type": "changed", "worker": {
        "workerId": 77, "number": "1001", "firstName": "Ada", "level": "3", "remote": "true",
        "startDate": "2026-03-02", "groups": ["eng", null, "vpn"]}})
}

fn event(rules: &SourceRules, incoming: &Incoming) -> SourceEvent {
    match decoder().decode(rules, incoming) {
        Ok(Decoded::Event(event)) => Arc::unwrap_or_clone(event),
        other => panic!("{other:?}"),
    }
}

fn rejected(rules: &SourceRules, incoming: &Incoming) -> String {
    match decoder().decode(rules, incoming) {
        Err(DecodeError::Rejected(rejection)) => rejection.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_is_mapped_typed_and_routed() {
    let mut incoming = incoming(worker().to_string());
    incoming.headers = vec![("traceparent".into(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into())];
    let expected = SourceEvent {
        tenant: "acme".into(),
        source: "hr".into(),
        record: "77".into(),
        routing_key: RoutingKey::of(&"acme".into(), "1001"),
        id: "e-1".into(),
        order: Some(12),
        time: Timestamp(1_772_355_600_000),
        change: RecordChange::Replace(Attributes::from([
            ("employeeNumber", Value::from("1001")),
            ("givenName", "Ada".into()),
            ("level", Value::Int(3)),
            ("remote", Value::Bool(true)),
            ("startDate", "2026-03-02".into()),
            ("groups", Value::List(vec!["eng".into(), "vpn".into()])),
        ])),
        origin: Origin { topic: "hr.workers".into(), partition: 2, offset: 7 },
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
    };
    assert_eq!(event(&hr(), &incoming), expected);
}

#[test]
fn bad_input_is_rejected_with_the_field_and_never_its_value() {
    let with = |pointer: &str, value: Json| {
        let mut worker = worker();
        *worker.pointer_mut(pointer).unwrap() = value;
        worker.to_string().into_bytes()
    };
    let without = |outer: &str, field: &str| {
        let mut worker = worker();
        worker.pointer_mut(outer).unwrap().as_object_mut().unwrap().remove(field);
        worker.to_string().into_bytes()
    };
    let secret = || Json::from("s3cret");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"s3cret".to_vec(), "not_json: not JSON from line 1, column 1 on"),
        (b"".to_vec(), "not_json: not JSON from line 1, column 0 on"),
        (b"[\"s3cret\"]".to_vec(), "not_json: an object wanted, a list found"),
        (b"\xff{}".to_vec(), "not_json: not JSON from line 1, column 1 on"),
        (vec![b' '; 4_097], "too_large: the event has 4097 bytes; at most 4096 are taken"),
        (without("", "id"), "no_id: field id: text or a whole number wanted, nothing found"),
        (with("/id", "".into()), "no_id: field id is empty"),
        (with("/id", json!({"s3cret": 1})), "no_id: field id: text or a whole number wanted, an object found"),
        (with("/id", "x".repeat(513).into()), "no_id: field id has 513 bytes; an id has at most 512"),
        (
            without("/worker", "workerId"),
            "no_record_id: field worker.workerId: text or a whole number wanted, nothing found",
        ),
        (
            with("/worker", secret()),
            "no_record_id: field worker.workerId: text or a whole number wanted, nothing found",
        ),
        (with("/type", secret()), "unknown_type: field type holds none of the types that the source declares"),
        (without("", "type"), "unknown_type: field type: text wanted, nothing found"),
        (without("", "sequence"), "missing_required: field sequence: the event's order is not there"),
        (with("/sequence", secret()), "wrong_type: field sequence: a whole number or RFC 3339 text wanted, text found"),
        (with("/time", secret()), "wrong_type: field time: RFC 3339 text or a number of ms wanted, text found"),
        (with("/worker/level", secret()), "wrong_type: field worker.level: a whole number wanted, text found"),
        (with("/worker/level", json!(1.5)), "wrong_type: field worker.level: a whole number wanted, a number found"),
        (with("/worker/remote", secret()), "wrong_type: field worker.remote: a bool wanted, text found"),
        (
            with("/worker/startDate", secret()),
            "wrong_type: field worker.startDate: a date wanted (YYYY-MM-DD or RFC 3339), other text found",
        ),
        (
            with("/worker/startDate", json!(20260302)),
            "wrong_type: field worker.startDate: a date wanted, a number found",
        ),
        (
            with("/worker/firstName", json!({"a": "s3cret"})),
            "wrong_type: field worker.firstName: a single value wanted, an object found",
        ),
        (
            with("/worker/firstName", json!(["s3cret", "b"])),
            "wrong_type: field worker.firstName: a single value wanted, a list found",
        ),
        (
            with("/worker/groups", secret()),
            "wrong_type: field worker.groups: a list of single values wanted, text found",
        ),
        (
            with("/worker/groups", json!([{"s3cret": 1}])),
            "wrong_type: field worker.groups: a list of single values wanted, a list with an object found",
        ),
        (
            with("/worker/number", Json::Null),
            "missing_required: field worker.number: attribute employeeNumber is required and is not there",
        ),
        (
            without("/worker", "number"),
            "missing_required: field worker.number: attribute employeeNumber is required and is not there",
        ),
        (
            with("/worker/number", "".into()),
            "missing_required: field worker.number: attribute employeeNumber is required and is empty",
        ),
    ];
    for (bytes, expected) in cases {
        let rejection = rejected(&hr(), &incoming(bytes));
        assert_eq!(rejection, expected);
        assert!(!rejection.contains("s3cret"));
    }
}

#[test]
fn a_list_has_as_many_elements_as_rules_can_look_at() {
    let with = |elements: usize| {
        let mut worker = worker();
        worker["worker"]["groups"] = vec!["g"; elements].into();
        let decoder = SourceDecoder::new(None, BTreeSet::from(["acme".into()]), 1 << 20);
        decoder.decode(&hr(), &incoming(worker.to_string()))
    };
    assert!(matches!(with(MOST_LIST_ELEMENTS), Ok(Decoded::Event(_))));
    let rejection = with(MOST_LIST_ELEMENTS + 1).unwrap_err().to_string();
    assert_eq!(rejection, "too_large: field worker.groups: the list has 10001 elements; at most 10000 are taken");
}

#[test]
fn types_say_what_an_event_does() {
    let mut removal =
        json!({"id": "e-2", "sequence": "13", "type": "deleted", "worker": {"workerId": "77", "number": 1001}});
    let event = event(&hr(), &incoming(removal.to_string()));
    assert_eq!((event.change, event.order, event.time), (RecordChange::Remove, Some(13), Timestamp(1_000)));
    assert_eq!(event.routing_key, RoutingKey::of(&"acme".into(), "1001"));
    removal["worker"].as_object_mut().unwrap().remove("number");
    let unrouted = decoder().decode(&hr(), &incoming(removal.to_string())).unwrap();
    assert!(
        matches!(unrouted, Decoded::Unrouted(event) if event.record.as_str() == "77"),
        "its Route knows where it is"
    );
    removal["type"] = "changed".into();
    let rejection = rejected(&rules(&HR.replace(", required: true", "")), &incoming(removal.to_string()));
    let expected = "no_route: attribute employeeNumber, which routes this source's records, is not in the event";
    assert_eq!(rejection, expected);
    let noted = decoder().decode(&hr(), &incoming(r#"{"id": 1, "type": "noted"}"#)).unwrap();
    assert_eq!(noted, Decoded::Ignored);
}

#[test]
fn a_null_in_a_partial_update_removes_only_where_the_source_says_so() {
    let text = r#"{"id":"1","worker":{"workerId":"7","firstName":null,"groups":null,"level":4}}"#;
    let source = |record: &str| {
        rules(&format!(
            "source: hr\ntopic: hr.workers\ntenant: acme\nevent: {{ id: id }}\nrecord: {{ id: worker.workerId{record} }}\n\
             attributes:\n  level: worker.level\n  groups: {{ path: worker.groups, type: list }}\n  givenName: worker.firstName\n"
        ))
    };
    let change = |record: &str| event(&source(record), &incoming(text)).change;
    let level = ("level", Value::Int(4));
    assert_eq!(change(""), RecordChange::Replace(Attributes::from([level.clone()])));
    assert_eq!(change(", partial: true"), RecordChange::Merge(Attributes::from([level.clone()])));
    let nulls = Attributes::from([level, ("givenName", Value::Null), ("groups", Value::Null)]);
    assert_eq!(change(", partial: true, null_removes: true"), RecordChange::Merge(nulls));
}

#[test]
fn a_null_instead_of_an_object_is_a_null_for_all_that_would_be_in_it() {
    let source = |record: &str| {
        rules(&format!(
            "source: hr\ntopic: hr.workers\ntenant: acme\nevent: {{ id: id }}\nrecord: {{ id: worker{record} }}\n\
             attributes:\n  givenName: contract.state.name\n  groups: {{ path: contract.groups, type: list }}\n"
        ))
    };
    let change = |record: &str, text: &str| event(&source(record), &incoming(text.to_owned())).change;
    let removes = |text: &str| change(", partial: true, null_removes: true", text);
    let both = Attributes::from([("givenName", Value::Null), ("groups", Value::Null)]);
    assert_eq!(removes(r#"{"id":"1","worker":"7","contract":null}"#), RecordChange::Merge(both));
    let status = Attributes::from([("givenName", Value::Null)]);
    assert_eq!(removes(r#"{"id":"1","worker":"7","contract":{"state":null}}"#), RecordChange::Merge(status.clone()));
    let innermost = r#"{"id":"1","worker":"7","contract":{"state":{"name":null}}}"#;
    assert_eq!(removes(innermost), RecordChange::Merge(status));
    for absent in [r#"{"id":"1","worker":"7"}"#, r#"{"id":"1","worker":"7","contract":{"state":{}}}"#] {
        assert_eq!(removes(absent), RecordChange::Merge(Attributes::default()), "{absent}");
    }
    let null = r#"{"id":"1","worker":"7","contract":null}"#;
    assert_eq!(change(", partial: true", null), RecordChange::Merge(Attributes::default()));
    assert_eq!(change("", null), RecordChange::Replace(Attributes::default()));
}

#[test]
fn a_null_instead_of_an_avro_record_is_a_null_for_all_that_would_be_in_it() {
    use apache_avro::types::Value as Avro;
    let schema = r#"{"type":"record","name":"W","fields":[{"name":"id","type":"string"},
        {"name":"contract","type":["null",{"type":"record","name":"C","fields":[{"name":"status","type":"string"}]}]}]}"#;
    let writer = WriterSchema::parse(schema).unwrap();
    let value = Avro::Record(vec![
        ("id".into(), Avro::String("e-1".into())),
        ("contract".into(), Avro::Union(0, Box::new(Avro::Null))),
    ]);
    let body = GenericDatumWriter::builder(writer.schema()).build().unwrap().write_value_to_vec(value).unwrap();
    let bytes = [single_object_frame(fingerprint(writer.schema())), body].concat();
    let rules = rules(
        "source: hr\ntopic: hr.workers\ntenant: acme\nformat: avro\nevent: { id: id }\n\
         record: { id: id, partial: true, null_removes: true }\nattributes:\n  givenName: contract.status\n",
    );
    let Ok(Decoded::Event(event)) = decoder().with_schemas([writer]).decode(&rules, &incoming(bytes)) else {
        panic!("an event")
    };
    assert_eq!(event.change, RecordChange::Merge(Attributes::from([("givenName", Value::Null)])));
}

#[test]
fn the_tenant_comes_from_where_the_source_says_and_must_be_a_known_one() {
    let source = |tenant: &str| {
        rules(&format!(
            "source: hr\ntopics: [hr.north.workers]\ntenant: {tenant}\nevent: {{ id: id }}\nrecord: {{ id: id }}\n\
             attributes:\n  givenName: name\n"
        ))
    };
    let with = |topic: &str, company: &str, header: &str| Incoming {
        topic: topic.into(),
        headers: vec![("x-tenant".into(), header.to_owned().into())],
        ..incoming(json!({"id": "1", "company": company}).to_string())
    };
    let cases = [
        ("{ header: x-tenant }", with("t", "x", "north"), with("t", "x", "s3cret"), "header x-tenant"),
        ("{ field: company }", with("t", "north", "x"), with("t", "s3cret", "x"), "field company"),
        (
            r#"{ topic: 'hr\.(?P<tenant>[a-z]+)\.workers' }"#,
            with("hr.north.workers", "", ""),
            with("hr.south.workers", "", ""),
            "the name of topic hr.south.workers",
        ),
    ];
    for (tenant, good, bad, place) in cases {
        let source = source(tenant);
        assert_eq!(event(&source, &good).routing_key, RoutingKey::of(&"north".into(), "1"));
        let expected = format!("unknown_tenant: {place} names a tenant that is not among `tenants` of lockstep.yaml");
        assert_eq!(rejected(&source, &bad), expected);
    }
    let none = rejected(&source("{ header: y }"), &with("t", "x", "north"));
    assert_eq!(none, "unknown_tenant: header y names no tenant");
}

#[test]
fn a_tombstone_means_what_the_source_says() {
    let source = |tombstones: &str| {
        rules(&format!(
            "source: hr\ntopic: hr.workers\ntenant: acme\nevent: {{ id: id }}\nrecord: {{ id: id{tombstones} }}\n\
             attributes:\n  givenName: name\n"
        ))
    };
    let tombstone = Incoming { value: None, ..incoming("") };
    assert!(rejected(&source(""), &tombstone).starts_with("no_value: "));
    assert_eq!(decoder().decode(&source(", tombstones: ignore"), &tombstone).unwrap(), Decoded::Ignored);
    let remove = source(", tombstones: remove");
    let removed = event(&remove, &tombstone);
    assert_eq!((removed.record.as_str(), removed.id.as_str()), ("w-1", "hr.workers/2/7"));
    assert_eq!((removed.change, removed.order), (RecordChange::Remove, None));
    for key in [None, Some(Vec::new()), Some(vec![0xff])] {
        let odd = Incoming { key, ..tombstone.clone() };
        assert_eq!(rejected(&remove, &odd), "no_record_id: the tombstone's key is no text");
    }
}

const CLOUD: &str =
    "source: idp\ntopic: idp.users\ntenant: acme\nformat: cloudevents\nattributes:\n  givenName: data.name\n";

#[test]
fn cloud_events_are_read_in_both_modes() {
    let rules = rules(CLOUD);
    let header = |name: &str, value: &str| (name.into(), value.to_owned().into());
    let mut binary = incoming(r#"{"name":"Ada"}"#);
    binary.headers = vec![
        header("ce_specversion", "1.0"),
        header("ce_id", "e-1"),
        header("ce_subject", "u-1"),
        header("ce_time", "2026-03-01T09:00:00Z"),
        header("ce_traceparent", "00-ab-cd-01"),
        header("content-type", "application/json"),
    ];
    let mut structured = incoming(
        r#"{"specversion":"1.0","id":"e-1","subject":"u-1","time":"2026-03-01T09:00:00Z","traceparent":"00-ab-cd-01","data":{"name":"Ada"}}"#,
    );
    structured.headers = vec![header("content-type", "application/cloudevents+json; charset=UTF-8")];
    let event_of = event(&rules, &binary);
    assert_eq!(event_of, event(&rules, &structured));
    assert_eq!((event_of.id.as_str(), event_of.record.as_str()), ("e-1", "u-1"));
    assert_eq!(event_of.traceparent.as_deref(), Some("00-ab-cd-01"));
    assert_eq!(event_of.change, RecordChange::Replace(Attributes::from([("givenName", "Ada".into())])));

    structured.value = Some(r#"{"id":"e-1","subject":"u-1","data_base64":"czNjcmV0"}"#.into());
    assert_eq!(
        rejected(&rules, &structured),
        "not_cloud_event: field data_base64: binary data is not read; send data as JSON"
    );
    let plain = rejected(&rules, &incoming("{}"));
    assert!(plain.starts_with("not_cloud_event: "), "{plain}");
}

#[test]
fn the_poller_s_envelopes_need_no_mapping_of_their_own() {
    let rules = rules(
        "source: idp\ntopic: idp.users\ntenant: acme\nformat: keycloak\nattributes:\n  phone: user.attributes.phone\n  groups: { path: user.groups, type: list }\n  givenName: user.firstName\n",
    );
    let upserted = r#"{"id":"a-1","time":1000,"type":"user.upserted","order":5,"user":{"id":"u-1","firstName":"Ada","attributes":{"phone":["1"]},"groups":["eng"]}}"#;
    let event_of = event(&rules, &incoming(upserted));
    assert_eq!((event_of.record.as_str(), event_of.order), ("u-1", Some(5)));
    let attributes =
        [("givenName", Value::from("Ada")), ("phone", "1".into()), ("groups", Value::List(vec!["eng".into()]))];
    assert_eq!(event_of.change, RecordChange::Replace(Attributes::from(attributes)));
    let deleted = r#"{"id":"a-2","time":1001,"type":"user.deleted","order":6,"user":{"id":"u-1"}}"#;
    assert_eq!(event(&rules, &incoming(deleted)).change, RecordChange::Remove);
}

const AVRO: &str = "source: hr\ntopic: hr.workers\ntenant: acme\nformat: avro\nevent: { id: id, time: at, order: at }\nrecord: { id: number }\nattributes:\n  startDate: { path: start, type: date }\n  givenName: name\n";

#[test]
fn avro_in_single_object_encoding_is_read_by_a_known_schema() {
    let schema = r#"{"type":"record","name":"W","fields":[
        {"name":"id","type":{"type":"string","logicalType":"uuid"}},
        {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
        {"name":"number","type":"int"}, {"name":"name","type":["null","string"]},
        {"name":"start","type":{"type":"int","logicalType":"date"}}]}"#;
    let writer = WriterSchema::parse(schema).unwrap();
    use apache_avro::types::Value as Avro;
    let value = Avro::Record(vec![
        ("id".into(), Avro::Uuid(uuid::Uuid::from_u128(7))),
        ("at".into(), Avro::TimestampMicros(1_772_355_600_123_456)),
        ("number".into(), Avro::Int(7)),
        ("name".into(), Avro::Union(1, Box::new(Avro::String("Ada".into())))),
        ("start".into(), Avro::Date(20_514)),
    ]);
    let body = GenericDatumWriter::builder(writer.schema()).build().unwrap().write_value_to_vec(value).unwrap();
    let bytes = [single_object_frame(fingerprint(writer.schema())), body].concat();
    let rules = rules(AVRO);
    let unknown = rejected(&rules, &incoming(bytes.clone()));
    assert!(unknown.starts_with("unknown_schema: written by the schema with fingerprint "), "{unknown}");
    let decoder = decoder().with_schemas([writer]);
    let Ok(Decoded::Event(event)) = decoder.decode(&rules, &incoming(bytes.clone())) else { panic!("an event") };
    assert_eq!((event.time, event.order), (Timestamp(1_772_355_600_123), Some(1_772_355_600_123)));
    let attributes = [("givenName", Value::from("Ada")), ("startDate", "2026-03-02".into())];
    assert_eq!(event.change, RecordChange::Replace(Attributes::from(attributes)));
    let cut = decoder.decode(&rules, &incoming(bytes[..bytes.len() - 1].to_vec())).unwrap_err();
    assert_eq!(cut.to_string(), "not_avro: the bytes do not fit the schema that wrote them");
    let framed = rejected(&rules, &incoming(vec![0, 0, 0, 0, 9, 1]));
    assert_eq!(framed, "unknown_schema: written with schema id 9, but lockstep.yaml has no registry.url");
}

#[test]
fn a_date_that_means_no_end_is_taken_as_the_source_wrote_it() {
    for text in ["9999-12-31", "9999-12-31T00:00:00Z", "9999-12-31T23:59:59.999+01:00"] {
        let mut worker = worker();
        worker["worker"]["startDate"] = text.into();
        let RecordChange::Replace(attributes) = event(&hr(), &incoming(worker.to_string())).change else {
            panic!("{text}")
        };
        assert_eq!(attributes.get("startDate"), Some(&Value::from(text)));
    }
    for text in ["10000-01-01", "10000-01-01T00:00:00Z", "9999-12-32", "9999-12-31T00:00:00"] {
        let mut worker = worker();
        worker["worker"]["startDate"] = text.into();
        assert!(rejected(&hr(), &incoming(worker.to_string())).starts_with("wrong_type: "), "{text}");
    }
}

#[test]
fn the_last_days_of_avro_s_calendar_are_dates_too() {
    use apache_avro::types::Value as Avro;
    const LAST_DAY: i32 = 2_932_896;
    const LAST_MS: i64 = LAST_DAY as i64 * 86_400_000 + 86_399_999;
    let start = |kind: &str, logical: &str, start: Avro| {
        let schema = format!(
            r#"{{"type":"record","name":"W","fields":[{{"name":"id","type":"string"}},
               {{"name":"at","type":"long"}}, {{"name":"number","type":"int"}},
               {{"name":"start","type":{{"type":"{kind}","logicalType":"{logical}"}}}}]}}"#
        );
        let writer = WriterSchema::parse(&schema).unwrap();
        let fields =
            [("id", Avro::String("e".into())), ("at", Avro::Long(7)), ("number", Avro::Int(7)), ("start", start)];
        let value = Avro::Record(fields.map(|(name, value)| (name.to_owned(), value)).into());
        let body = GenericDatumWriter::builder(writer.schema()).build().unwrap().write_value_to_vec(value).unwrap();
        let bytes = [single_object_frame(fingerprint(writer.schema())), body].concat();
        match decoder().with_schemas([writer]).decode(&rules(AVRO), &incoming(bytes)) {
            Ok(Decoded::Event(event)) => match &event.change {
                RecordChange::Replace(attributes) => attributes.get("startDate").cloned(),
                other => panic!("{other:?}"),
            },
            Err(error) => {
                assert!(error.to_string().starts_with("wrong_type: "), "{error}");
                None
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(start("int", "date", Avro::Date(LAST_DAY)), Some("9999-12-31".into()));
    assert_eq!(start("int", "date", Avro::Date(-1)), Some("1969-12-31".into()));
    assert_eq!(start("int", "date", Avro::Date(LAST_DAY + 1)), None);
    assert_eq!(start("int", "date", Avro::Date(i32::MIN)), None);
    let millis = |ms| start("long", "timestamp-millis", Avro::TimestampMillis(ms));
    assert_eq!(millis(LAST_MS), Some("9999-12-31T23:59:59.999Z".into()));
    assert_eq!(millis(-1), Some("1969-12-31T23:59:59.999Z".into()));
    assert_eq!(millis(LAST_MS + 1), None);
    assert_eq!(millis(i64::MAX), None);
    let micros = start("long", "timestamp-micros", Avro::TimestampMicros(LAST_MS * 1_000));
    assert_eq!(micros, Some("9999-12-31T23:59:59.999Z".into()));
}

#[test]
fn the_key_of_an_event_that_comes_by_http_is_its_record_id() {
    assert_eq!(record_key(&hr(), worker().to_string().as_bytes()).as_deref(), Some("77"));
    assert_eq!(record_key(&hr(), b"{}"), None);
    assert_eq!(record_key(&hr(), b"not json"), None);
}

proptest::proptest! {
    #[test]
    fn no_bytes_end_the_process(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        for rules in [hr(), rules(AVRO), rules(CLOUD)] {
            let _ = decoder().decode(&rules, &incoming(bytes.clone()));
        }
    }
}
