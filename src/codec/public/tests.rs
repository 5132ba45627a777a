//! What is written can be read, in every encoding; and what it looks like is what the documentation says.

use super::*;
use crate::model::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::collections::BTreeSet;

fn codec() -> PublicCodec {
    PublicCodec::new(None)
}

fn command() -> Command {
    Command {
        tenant: "acme".into(),
        target: "directory".into(),
        account: "9f0c".into(),
        identity: "77aa".into(),
        intent: Intent::default_intent(),
        routing_key: RoutingKey::of(&"acme".into(), "1001"),
        external_id: None,
        generation: Generation(7),
        op: Op::Disable,
        desired: Desired {
            active: false,
            attributes: Attributes::from([
                ("userName", Value::from("ada")),
                ("manager", Value::Null),
                ("level", Value::Int(3)),
                ("ratio", Value::Float(1.0)),
                ("mails", Value::List(vec!["a@example.com".into(), Value::Bool(true)])),
            ]),
            entitlements: Entitlements {
                groups: ["eng".to_owned()].into(),
                universe: Universe::Authoritative(["eng".to_owned(), "vpn".to_owned()].into()),
            },
        },
        revoked: ["vpn".to_owned()].into(),
        match_on: "userName".into(),
        deadline: Timestamp(1_795_416_165_000),
        deprovision: Some(Deprovision {
            effective: Timestamp(1_795_416_164_000),
            deadline: Timestamp(1_795_416_165_000),
        }),
        issued: Timestamp(1_795_416_164_598),
        cause: Cause {
            event: "e-1".into(),
            source: "hr".into(),
            time: Timestamp(1_795_416_164_000),
            bundle: Some("abcd".into()),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        },
    }
}

#[test]
fn a_command_in_json_is_as_documented() {
    let encoded = codec().encode(PublicFormat::Json, "lockstep.commands.directory", &command()).unwrap();
    let expected = r#"{"idempotency_key":"9f0c@7","tenant":"acme","target":"directory","account":"9f0c","identity":"77aa","intent":"default","routing_key":"acme/1001","external_id":null,"generation":7,"op":"disable","desired":{"active":false,"attributes":{"level":3,"mails":["a@example.com",true],"manager":null,"ratio":1.0,"userName":"ada"},"entitlements":{"mode":"authoritative","groups":["eng"],"universe":["eng","vpn"]}},"revoked":["vpn"],"match_on":"userName","deadline":1795416165000,"deprovision":{"effective":1795416164000,"deadline":1795416165000},"issued":1795416164598,"cause":{"event":"e-1","source":"hr","time":1795416164000,"bundle":"abcd","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}"#;
    assert_eq!(String::from_utf8(encoded.value).unwrap(), expected);
    let header = |name| cloudevents::header(&encoded.headers, name);
    assert_eq!(header("ce_id"), Some("9f0c@7"));
    assert_eq!(header("ce_type"), Some("lockstep.command.disable.v1"));
    assert_eq!(header("ce_subject"), Some("9f0c"));
    assert_eq!(header("ce_source"), Some("/lockstep/acme"));
    assert_eq!(header("ce_time"), Some("2026-11-23T06:42:44.598Z"));
    assert_eq!(header("content-type"), Some("application/json"));
    assert_eq!(header("traceparent"), command().cause.traceparent.as_deref());
}

/// The JSON document and the Avro schema name the same fields, in the same order.
#[test]
fn json_documents_have_the_fields_of_their_schemas() {
    fn fields(schema: &serde_json::Value) -> Vec<String> {
        schema["fields"].as_array().unwrap().iter().map(|field| field["name"].as_str().unwrap().to_owned()).collect()
    }
    fn keys<T: Public>(value: &T) -> Vec<String> {
        let json = serde_json::to_value(value.shape()).unwrap();
        json.as_object().unwrap().keys().cloned().collect()
    }
    fn place(fields: &[String], name: &str) -> Option<usize> {
        fields.iter().position(|field| field == name)
    }
    let schema = |document: Document| serde_json::from_str(document.schema_text()).unwrap();
    assert_eq!(keys(&command()), fields(&schema(Document::Command)));
    assert_eq!(keys(&sample(results())), fields(&schema(Document::Result)));
    assert_eq!(keys(&letter()), fields(&schema(Document::DeadLetter)));
    // A decision leaves out what has no value: each is a part of the schema, and all of them together are the whole.
    let of_schema = fields(&schema(Document::Decision));
    let mut shown = BTreeSet::new();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..500 {
        let keys = keys(&decisions().new_tree(&mut runner).unwrap().current());
        assert!(keys.iter().all(|key| of_schema.contains(key)) && keys.is_sorted_by_key(|key| place(&of_schema, key)));
        shown.extend(keys);
    }
    assert_eq!(shown, of_schema.iter().cloned().collect());
    assert_eq!(keys(&sample(alerts())), fields(&schema(Document::Alert)));
    assert_eq!(keys(&sample(operations())), fields(&schema(Document::Operation)));
}

#[test]
fn a_list_within_a_list_is_its_json_text_in_avro_and_itself_in_json() {
    let mut given = command();
    let inner = Value::List(vec![Value::Int(1), "x".into()]);
    given.desired.attributes = Attributes::from([("deep", Value::List(vec![inner.clone()]))]);
    let read = |format| -> Command { codec().decode(&codec().encode(format, "t", &given).unwrap().value).unwrap() };
    assert_eq!(read(PublicFormat::Json), given);
    assert_eq!(read(PublicFormat::Avro).desired.attributes["deep"], Value::List(vec![r#"[1,"x"]"#.into()]));
}

#[test]
fn what_no_reader_should_take_is_refused_without_quoting_it() {
    let json = String::from_utf8(codec().encode(PublicFormat::Json, "t", &command()).unwrap().value).unwrap();
    let avro = codec().encode(PublicFormat::Avro, "t", &command()).unwrap().value;
    let mut other_writer = avro.clone();
    other_writer[2] ^= 0xff;
    let longer = [avro.clone(), vec![0]].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "neither JSON nor framed Avro"),
        (b"secret".to_vec(), "neither JSON nor framed Avro"),
        (br#"{"tenant":"secret"}"#.to_vec(), "not a command in JSON: line 1, column 19"),
        (
            json.replace(r#""generation":7"#, r#""generation":"secret""#).into(),
            "not a command in JSON: line 1, column 185",
        ),
        (
            json.replace("disable", "rotate").into(),
            "not a command of this release: field op holds none of the values that this release knows",
        ),
        (
            json.replace("authoritative", "some").into(),
            "not a command of this release: field mode holds none of the values that this release knows",
        ),
        (
            json.replace(r#""generation":7"#, r#""generation":-7"#).into(),
            "not a command of this release: field generation is negative",
        ),
        (avro[..avro.len() - 3].to_vec(), "not a command in Avro: the bytes do not fit the schema that wrote them"),
        (longer, "not a command in Avro: 1 bytes are left over after the last field"),
        (
            vec![0, 0, 0, 0, 9, 1],
            "written with schema id 9, but no registry is configured: set registry.url in lockstep.yaml",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(codec().decode::<Command>(&bytes).unwrap_err().to_string(), expected);
    }
    assert!(matches!(codec().decode::<Command>(&other_writer), Err(PublicError::UnknownFingerprint(_))));
    assert!(matches!(codec().decode::<ResultEvent>(&avro), Err(PublicError::UnknownFingerprint(_))));
}

#[test]
fn an_id_that_no_row_can_be_kept_under_is_refused() {
    let long = "x".repeat(2049);
    let refused = |bytes: &[u8], of: &str| match of {
        "result" => codec().decode::<ResultEvent>(bytes).unwrap_err().to_string(),
        "operation" => codec().decode::<Operation>(bytes).unwrap_err().to_string(),
        _ => codec().decode::<DeadLetter>(bytes).unwrap_err().to_string(),
    };
    let with_long = |of: &str, document: serde_json::Value, field: &str| {
        let mut document = document;
        match of {
            "dead-letter" => document["command"][field] = long.clone().into(),
            _ => document[field] = long.clone().into(),
        }
        let expected = format!("not a {of} of this release: field {field} has 2049 bytes; an id has at most 2048");
        assert_eq!(refused(document.to_string().as_bytes(), of), expected);
    };
    let ids = ["tenant", "target", "account", "identity", "routing_key"];
    let result = serde_json::to_value(sample(results()).shape()).unwrap();
    let letter = serde_json::to_value(letter().shape()).unwrap();
    let redrive = Action::Redrive {
        target: "directory".into(),
        account: "9f0c".into(),
        identity: "77aa".into(),
        routing_key: "acme/1".into(),
    };
    let operation = Operation { action: redrive, ..sample(operations()) };
    let operation = serde_json::to_value(operation.shape()).unwrap();
    for field in ids {
        with_long("result", result.clone(), field);
        with_long("dead-letter", letter.clone(), field);
        with_long("operation", operation.clone(), field);
    }
    with_long("operation", operation, "id");

    // The longest that Lockstep makes: an index entry is tried again by it.
    let longest = Address::index("t".repeat(64).as_str().into(), "mail", &"v".repeat(1024));
    let action = Action::QuarantineRetry { entity: longest.entity, routing_key: longest.routing_key };
    let retry = Operation { action, ..sample(operations()) };
    let encoded = codec().encode(PublicFormat::Json, "t", &retry).unwrap();
    assert_eq!(codec().decode::<Operation>(&encoded.value).unwrap(), retry);
}

/// As a worker of another team writes that was built with an older or a newer schema.
#[test]
fn a_writer_of_another_version_is_read() {
    let result = Document::Result.schema_text();
    let command_text = Document::Command.schema_text();
    let more = r#"{"name": "shard", "type": "long", "default": 0}, "#;
    let error = result.find(r#"    {"name": "error""#).unwrap();
    let after_error = error + result[error..].find("\n").unwrap();
    let mut given = sample(results());
    given.error = None;
    for writer in [
        result.replace(r#"{"name": "target""#, &format!(r#"{more}{{"name": "target""#)),
        format!("{}{}", &result[..error], &result[after_error..]),
    ] {
        assert_eq!(rewritten(&given, &writer), given);
    }
    let newer = command_text.replace(r#"{"name": "issued""#, &format!(r#"{more}{{"name": "issued""#));
    assert_eq!(rewritten(&command(), &newer), command());
}

/// The value as written by another schema and read by ours.
fn rewritten<T: Public>(value: &T, schema: &str) -> T {
    use apache_avro::types::Value;
    let writer = WriterSchema::parse(schema).unwrap();
    assert_ne!(writer.fingerprint(), T::DOCUMENT.schema().fingerprint());
    let ours = codec().encode(PublicFormat::Avro, "t", value).unwrap().value;
    let Value::Record(mut fields) = T::DOCUMENT.schema().read_value(&ours[10..]).unwrap() else { panic!("a record") };
    let apache_avro::Schema::Record(record) = writer.schema() else { panic!("a record") };
    let theirs = record.fields.iter().map(|field| match fields.iter_mut().find(|(name, _)| *name == field.name) {
        Some((name, value)) => (name.clone(), std::mem::replace(value, Value::Null)),
        None => (field.name.clone(), Value::Long(3)),
    });
    let theirs = Value::Record(theirs.collect());
    let body = GenericDatumWriter::builder(writer.schema()).build().unwrap().write_value_to_vec(theirs).unwrap();
    read_body::<T>(&writer, &body).unwrap().try_into().unwrap()
}

fn letter() -> DeadLetter {
    DeadLetter {
        command: command(),
        error: ErrorClass::Permission,
        message: "not allowed to disable".into(),
        attempts: 3,
        at: Timestamp(5),
    }
}

fn sample<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> T {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    strategy.new_tree(&mut runner).unwrap().current()
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,6}", any::<String>()]
}

fn times() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp)
}

fn classes() -> impl Strategy<Value = ErrorClass> {
    prop::sample::select(ErrorClass::ALL.to_vec())
}

fn ops() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![Op::Create, Op::Update, Op::Disable, Op::Enable, Op::Delete, Op::Verify])
}

fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        prop::num::f64::NORMAL.prop_map(Value::Float),
        words().prop_map(Value::text),
    ];
    prop_oneof![scalar.clone(), prop::collection::vec(scalar, 0..4).prop_map(Value::List)]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    prop::collection::btree_map(words(), values(), 0..6).prop_map(|entries| entries.into_iter().collect())
}

prop_compose! {
    fn commands()(
        (tenant, external_id, generation, op) in (words(), prop::option::of(words()), 0..i64::MAX as u64, ops()),
        (active, attributes) in (any::<bool>(), attributes()),
        groups in prop::collection::btree_set(words(), 0..4),
        universe in prop::option::of(prop::collection::btree_set(words(), 0..4)),
        clock in prop::option::of((times(), times())),
        (bundle, traceparent, issued) in (prop::option::of(words()), prop::option::of(words()), times()),
    ) -> Command {
        Command {
            tenant: TenantId::new(tenant), external_id, generation: Generation(generation), op, issued,
            desired: Desired {
                active, attributes,
                entitlements: Entitlements { groups: groups.clone(), universe: universe.map_or(Universe::Additive, Universe::Authoritative) },
            },
            revoked: groups,
            deprovision: clock.map(|(effective, deadline)| Deprovision { effective, deadline }),
            cause: Cause { bundle: bundle.map(BundleHash::new), traceparent, ..command().cause },
            ..command()
        }
    }
}

prop_compose! {
    fn results()(
        (account, generation, op) in (words(), 0..i64::MAX as u64, ops()),
        outcome in prop::sample::select(vec![
            Outcome::Verified, Outcome::Accepted, Outcome::FalseSuccess, Outcome::Parked, Outcome::Superseded,
            Outcome::DeadLettered, Outcome::Drifted,
        ]),
        (external_id, error, message) in (prop::option::of(words()), prop::option::of(classes()), prop::option::of(words())),
        (attempt, retry_at, at, source_time) in (any::<u32>(), prop::option::of(times()), times(), times()),
        (effective, traceparent) in (prop::option::of(times()), prop::option::of(words())),
    ) -> ResultEvent {
        ResultEvent {
            tenant: "acme".into(), target: "directory".into(), account: AccountId::new(account), identity: "i".into(),
            routing_key: "acme/1".into(), generation: Generation(generation), op, outcome, external_id, error, message,
            attempt, retry_at, at, source_time, effective, traceparent,
        }
    }
}

fn kinds() -> impl Strategy<Value = DecisionKind> {
    let two = || (words(), words());
    prop_oneof![
        prop::sample::select(vec![
            DecisionKind::IdentityMinted,
            DecisionKind::Joined,
            DecisionKind::Moved,
            DecisionKind::Left,
            DecisionKind::Rehired,
            DecisionKind::DeprovisionCancelled,
            DecisionKind::Held,
            DecisionKind::Urgent,
        ]),
        two().prop_map(|(source, record)| DecisionKind::RecordLinked { source, record }),
        two().prop_map(|(source, record)| DecisionKind::RecordUnlinked { source, record }),
        two().prop_map(|(source, record)| DecisionKind::RecordDisputed { source, record }),
        ops().prop_map(|op| DecisionKind::Commanded { op }),
        ops().prop_map(|op| DecisionKind::AccountVerified { op }),
        (times(), times()).prop_map(|(effective, deadline)| DecisionKind::DeprovisionOpened { effective, deadline }),
        (times(), times()).prop_map(|(effective, verified)| DecisionKind::DeprovisionVerified { effective, verified }),
        words().prop_map(|operation| DecisionKind::DeprovisionRejected { operation }),
        words().prop_map(|operation| DecisionKind::Released { operation }),
        words().prop_map(|operation| DecisionKind::Redriven { operation }),
        words().prop_map(|operation| DecisionKind::Dropped { operation }),
        classes().prop_map(|error| DecisionKind::DeadLettered { error }),
        two().prop_map(|(rule, reason)| DecisionKind::RuleFailed { rule, reason }),
        two().prop_map(|(entity, reason)| DecisionKind::Quarantined { entity, reason }),
        two().prop_map(|(entity, operation)| DecisionKind::QuarantineRetried { entity, operation }),
        two().prop_map(|(entity, operation)| DecisionKind::QuarantineSkipped { entity, operation }),
        words().prop_map(|hash| DecisionKind::BundleSwitched { hash }),
    ]
}

prop_compose! {
    fn decisions()(
        (identity, target, account) in (prop::option::of(words()), prop::option::of(words()), prop::option::of(words())),
        generation in prop::option::of(0..i64::MAX as u64),
        (kind, cause, source_time, at) in (kinds(), words(), times(), times()),
    ) -> Decision {
        Decision {
            tenant: "acme".into(), identity: identity.map(IdentityId::new), target: target.map(TargetName::new),
            account: account.map(AccountId::new), generation: generation.map(Generation), kind, cause: EventId::new(cause), source_time, at,
        }
    }
}

prop_compose! {
    fn alerts()(
        kind in prop::sample::select(vec![
            AlertKind::DeprovisionOverdue, AlertKind::DeadLetter, AlertKind::GuardHolding, AlertKind::RecordDisputed,
            AlertKind::RuleFailed, AlertKind::Quarantined, AlertKind::Drift,
        ]),
        state in prop::sample::select(vec![AlertState::Raised, AlertState::Resolved]),
        (key, message, since, at) in (words(), words(), times(), times()),
        (identity, target, account) in (prop::option::of(words()), prop::option::of(words()), prop::option::of(words())),
    ) -> Alert {
        Alert {
            key, kind, state, tenant: "acme".into(), identity: identity.map(IdentityId::new), target: target.map(TargetName::new),
            account: account.map(AccountId::new), message, since, at,
        }
    }
}

prop_compose! {
    fn operations()(
        (id, actor, at, which) in (words(), words(), times(), 0..6),
        (part, position) in (words(), 0..i64::MAX as u64),
        (target, account, identity, routing_key) in (words(), words(), words(), words()),
        (some_target, some_account) in (any::<bool>(), any::<bool>()),
    ) -> Operation {
        let (target, account) = (TargetName::new(target), AccountId::new(account));
        let (identity, routing_key) = (IdentityId::new(identity), RoutingKey::new(routing_key));
        let action = match which {
            0 => Action::GuardRelease { target: some_target.then_some(target), account: some_account.then_some(account) },
            1 => Action::GuardReject { target: some_target.then_some(target), account: some_account.then_some(account) },
            2 => Action::Redrive { target, account, identity, routing_key },
            3 => Action::Drop { target, account, identity, routing_key },
            4 => Action::QuarantineRetry {
                entity: EntityKey::Index { tenant: "acme".into(), attribute: "mail".into(), value: part },
                routing_key,
            },
            _ => Action::QuarantineSkip {
                entity: EntityKey::Record {
                    tenant: "acme".into(),
                    source: "hr".into(),
                    record: RecordId::new(part),
                    route: routing_key.clone(),
                },
                routing_key,
                position,
            },
        };
        Operation { id, tenant: "acme".into(), actor, at, action }
    }
}

fn round_trips<T: Public + PartialEq + std::fmt::Debug>(value: &T) -> Result<(), TestCaseError> {
    for format in [PublicFormat::Json, PublicFormat::Avro] {
        let encoded = codec().encode(format, "t", value).unwrap();
        prop_assert_eq!(&codec().decode::<T>(&encoded.value).unwrap(), value, "{:?}", format);
        prop_assert_eq!(encoded, codec().encode(format, "t", value).unwrap(), "the same again");
    }
    Ok(())
}

proptest! {
    #[test]
    fn commands_are_read_as_they_were_written(value in commands()) { round_trips(&value)?; }

    #[test]
    fn results_are_read_as_they_were_written(value in results()) { round_trips(&value)?; }

    #[test]
    fn dead_letters_are_read_as_they_were_written(command in commands(), error in classes(), attempts in any::<u32>()) {
        round_trips(&DeadLetter { command, error, attempts, ..letter() })?;
    }

    #[test]
    fn decisions_are_read_as_they_were_written(value in decisions()) { round_trips(&value)?; }

    #[test]
    fn alerts_are_read_as_they_were_written(value in alerts()) { round_trips(&value)?; }

    #[test]
    fn operations_are_read_as_they_were_written(value in operations()) { round_trips(&value)?; }

    #[test]
    fn no_bytes_end_the_process(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec().decode::<Command>(&bytes);
        let frame = single_object_frame(Document::Command.schema().fingerprint());
        bytes.splice(0..0, frame);
        let _ = codec().decode::<Command>(&bytes);
    }
}
