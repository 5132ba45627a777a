//! The schema registry's client against a real one (Apicurio's ccompat/v7): what one process writes another reads.

use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use lockstep::codec::avro::{SchemaId, WriterSchema, registered_frame};
use lockstep::codec::public::{PublicCodec, PublicError};
use lockstep::codec::registry::{Registry, RegistryError};
use lockstep::codec::schemas::Document;
use lockstep::codec::source::{DecodeError, Decoded, SourceDecoder};
use lockstep::model::{Alert, AlertKind, AlertState, Attributes, Incoming, RecordChange, Timestamp, Value};
use lockstep::rules::{Bundle, PublicFormat, SourceFile, SourceRules};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

fn url() -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    std::env::var("LOCKSTEP_TEST_REGISTRY").expect("LOCKSTEP_TEST_REGISTRY: tests/run registry")
}

fn registry() -> Arc<Registry> {
    Arc::new(Registry::new(&url()).unwrap())
}

/// A topic that no other run of these tests has registered.
fn topic(name: &str) -> String {
    format!("lockstep-test.{name}.{}", Uuid::new_v4())
}

fn alert() -> Alert {
    Alert {
        key: "overdue/1".into(),
        kind: AlertKind::DeprovisionOverdue,
        state: AlertState::Raised,
        tenant: "acme".into(),
        identity: Some("i".into()),
        target: None,
        account: None,
        message: "look".into(),
        since: Timestamp(1),
        at: Timestamp(2),
    }
}

fn raw(method: reqwest::Method, path: &str, body: Option<&str>) -> (u16, String) {
    let (url, body) = (format!("{}{path}", url()), body.map(str::to_owned));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut request = reqwest::Client::new().request(method, url);
        if let Some(body) = body {
            request = request.header("content-type", "application/vnd.schemaregistry.v1+json").body(body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    })
}

#[test]
#[ignore = "needs a schema registry: tests/run registry"]
fn what_is_written_with_an_id_is_read_in_another_process() {
    let topic = topic("alerts");
    let writer = PublicCodec::new(Some(registry()));
    writer.prepare(&topic, Document::Alert).unwrap();
    let bytes = writer.encode(PublicFormat::Avro, &topic, &alert()).unwrap().value;
    assert_eq!(bytes[0], 0, "Confluent's magic byte");
    let again = writer.encode(PublicFormat::Avro, &topic, &alert()).unwrap().value;
    assert_eq!(bytes, again);
    let reader = PublicCodec::new(Some(registry()));
    assert_eq!(reader.decode::<Alert>(&bytes).unwrap(), alert());
    let without = PublicCodec::new(None).decode::<Alert>(&bytes).unwrap_err();
    assert!(matches!(without, PublicError::NoRegistry(_)), "{without}");
}

#[test]
#[ignore = "needs a schema registry: tests/run registry"]
fn every_public_schema_is_taken_as_it_ships_and_its_subject_protected() {
    let registry = registry();
    for document in Document::ALL {
        let topic = topic(document.as_str());
        let id = registry.register_for_topic(&topic, document.schema_text()).unwrap();
        let read = Registry::new(&url()).unwrap().by_id(id).unwrap();
        assert_eq!(read.fingerprint(), document.schema().fingerprint(), "{}", document.as_str());
        let (_, config) = raw(reqwest::Method::GET, &format!("/config/{topic}-value"), None);
        assert!(config.contains("FULL_TRANSITIVE"), "{config}");
    }
}

#[test]
#[ignore = "needs a schema registry: tests/run registry"]
fn an_incompatible_schema_is_refused_by_the_registry_and_said_so() {
    let (registry, topic) = (registry(), topic("alerts"));
    let text = Document::Alert.schema_text();
    registry.register_for_topic(&topic, text).unwrap();
    let renamed = text.replace(r#""name": "since""#, r#""name": "from""#);
    let error = registry.register_for_topic(&topic, &renamed).unwrap_err();
    assert!(
        matches!(&error, RegistryError::Incompatible { subject, .. } if *subject == format!("{topic}-value")),
        "{error}"
    );
    assert!(!error.is_transient());
}

#[test]
#[ignore = "needs a schema registry: tests/run registry"]
fn a_subject_that_was_there_keeps_the_compatibility_its_owner_set() {
    let topic = topic("alerts");
    let registered = serde_json::json!({"schema": Document::Alert.schema_text()}).to_string();
    let (status, _) = raw(reqwest::Method::POST, &format!("/subjects/{topic}-value/versions"), Some(&registered));
    assert_eq!(status, 200);
    let path = format!("/config/{topic}-value");
    raw(reqwest::Method::PUT, &path, Some(r#"{"compatibility":"BACKWARD"}"#));
    registry().register_for_topic(&topic, Document::Alert.schema_text()).unwrap();
    let (_, config) = raw(reqwest::Method::GET, &path, None);
    assert!(config.contains("\"BACKWARD\""), "{config}");
}

#[test]
#[ignore = "needs a schema registry: tests/run registry"]
fn an_unknown_id_is_for_good_and_asked_for_once() {
    let registry = registry();
    let id = SchemaId(999_999_999);
    let error = registry.by_id(id).unwrap_err();
    assert!(matches!(error, RegistryError::UnknownId { .. }), "{error}");
    assert!(!error.is_transient());
    let began = Instant::now();
    for _ in 0..10_000 {
        assert_eq!(registry.by_id(id).unwrap_err(), error);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "the failure is remembered");
}

#[test]
#[ignore = "needs a schema registry: tests/run registry"]
fn a_caller_within_a_runtime_is_served_too() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (registry, topic) = (registry(), topic("alerts"));
    let id = runtime.block_on(async { registry.register_for_topic(&topic, Document::Alert.schema_text()) });
    id.unwrap();
}

/// Nothing listens on port 1 of the loopback interface.
#[test]
fn a_registry_that_is_down_is_transient_and_says_what_to_check() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registry = Arc::new(Registry::new("http://me:secret@127.0.0.1:1/apis/ccompat/v7").unwrap());
    let codec = PublicCodec::new(Some(Arc::clone(&registry)));
    let written = codec.encode(PublicFormat::Avro, "t", &alert()).unwrap_err();
    assert!(written.is_transient());
    let read = codec.decode::<Alert>(&[registered_frame(SchemaId(1)), vec![0]].concat()).unwrap_err();
    assert!(read.is_transient());
    let said = read.to_string();
    assert!(
        said.starts_with("could not read the schema with id 1: the schema registry at http://127.0.0.1:1/apis"),
        "{said}"
    );
    assert!(said.contains("is it up, and is registry.url right?") && !said.contains("secret"), "{said}");
    let json = codec.encode(PublicFormat::Json, "t", &alert());
    assert!(json.is_ok(), "JSON needs no registry");
    let decoder = SourceDecoder::new(Some(registry), ["acme".into()].into(), 1_000);
    let event = Incoming { value: Some([registered_frame(SchemaId(1)), vec![0]].concat().into()), ..incoming() };
    let waiting = decoder.decode(&avro_source(), &event).unwrap_err();
    assert!(matches!(waiting, DecodeError::Unavailable(_)), "an event whose schema can't be read waits: {waiting}");
}

#[test]
#[ignore = "needs a schema registry: tests/run registry"]
fn a_source_s_avro_is_read_by_the_schema_that_wrote_it() {
    let text = r#"{"type":"record","name":"Worker","namespace":"hr","fields":[
        {"name":"id","type":"string"}, {"name":"number","type":"long"}, {"name":"name","type":["null","string"]}]}"#;
    let id = registry().register(&format!("{}-value", topic("workers")), text).unwrap();
    let schema = WriterSchema::parse(text).unwrap();
    let value = Avro::Record(vec![
        ("id".into(), Avro::String("e-1".into())),
        ("number".into(), Avro::Long(7)),
        ("name".into(), Avro::Union(1, Box::new(Avro::String("Ada".into())))),
    ]);
    let body = GenericDatumWriter::builder(schema.schema()).build().unwrap().write_value_to_vec(value).unwrap();
    let decoder = SourceDecoder::new(Some(registry()), ["acme".into()].into(), 1_000);
    let event = Incoming { value: Some([registered_frame(id), body].concat().into()), ..incoming() };
    let Ok(Decoded::Event(event)) = decoder.decode(&avro_source(), &event) else { panic!("an event") };
    assert_eq!(event.record.as_str(), "7");
    assert_eq!(event.change, RecordChange::Replace(Attributes::from([("givenName", Value::from("Ada"))])));
    let unknown =
        Incoming { value: Some([registered_frame(SchemaId(999_999_999)), vec![0]].concat().into()), ..incoming() };
    let rejection = decoder.decode(&avro_source(), &unknown).unwrap_err().to_string();
    assert!(rejection.starts_with("unknown_schema: the schema registry at "), "{rejection}");
}

fn incoming() -> Incoming {
    Incoming {
        topic: "hr.workers".into(),
        partition: 0,
        offset: 0,
        timestamp: Timestamp(0),
        key: None,
        value: None,
        headers: Vec::new(),
    }
}

fn avro_source() -> SourceRules {
    let file = |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
    let bundle = Bundle::compile(&[
        file(
            "sources/hr.yaml",
            "source: hr\ntopic: hr.workers\ntenant: acme\nformat: avro\nevent: { id: id }\nrecord: { id: number }\n\
             attributes: { givenName: name }\n",
        ),
        file(
            "identity.yaml",
            "kinds:\n  person:\n    anchor: hr\n    correlate: [givenName]\n    attributes: { givenName: [hr.givenName] }\n",
        ),
        file(
            "targets/t.yaml",
            "target: t\nconnector:\n  sql:\n    url: sqlite:t.db\n    accounts: { table: a, key: id, columns: { n: n } }\n\
             account: { match: n, attributes: { n: givenName } }\nleaver: { action: delete }\n",
        ),
    ]);
    bundle.unwrap_or_else(|problems| panic!("{problems:#?}")).sources()[0].clone()
}
