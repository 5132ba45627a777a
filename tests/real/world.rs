//! People as their sources know them, and the accounts that the rules give them: the answer that the targets are held to.

use crate::accounts::Account;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use lockstep::codec::avro::{WriterSchema, registered_frame};
use lockstep::codec::registry::Registry;
use lockstep::model::{Attributes, Op, SourceName, TargetName, Timestamp, Value};
use lockstep::rules::{Bundle, Phase};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

const GIVEN: [&str; 10] = ["Ada", "Grace", "Zoë", "Émile", "Linus", "Mary Ann", "Seán", "Jo", "Anna", "Kofi"];
const FAMILY: [&str; 7] = ["Byron", "Novák", "Müller", "O'Brien", "Lee", "Okafor", "Ångström"];
pub const DEPARTMENTS: [&str; 4] = ["Engineering", "Sales", "Support", "Finance"];

/// Fields of an HR event's worker: the mapped attribute, and the field.
const FIELDS: [(&str, &str); 10] = [
    ("employeeNumber", "employeeNumber"),
    ("givenName", "firstName"),
    ("familyName", "lastName"),
    ("mail", "email"),
    ("mobile", "phone"),
    ("department", "department"),
    ("title", "title"),
    ("status", "status"),
    ("startDate", "startDate"),
    ("endDate", "endDate"),
];

static SCHEMA: LazyLock<WriterSchema> = LazyLock::new(|| {
    let optional = |(_, name): &(&str, &str)| json!({"name": name, "type": ["null", "string"], "default": null});
    let mut worker = vec![json!({"name": "workerId", "type": "string"})];
    worker.extend(FIELDS.iter().map(optional));
    let event = json!({"type": "record", "name": "WorkerEvent", "namespace": "com.example.hr", "fields": [
        {"name": "id", "type": "string"}, {"name": "type", "type": "string"}, {"name": "sequence", "type": "long"},
        {"name": "worker", "type": {"type": "record", "name": "Worker", "fields": worker}}]});
    WriterSchema::parse(&event.to_string()).unwrap()
});

/// Registers the HR system's schema, and gives the frame that its events begin with.
pub fn register_hr(registry: &Registry, topic: &str) -> Vec<u8> {
    let text = serde_json::to_string(SCHEMA.schema()).unwrap();
    registered_frame(registry.register(&format!("{topic}-value"), &text).unwrap())
}

#[derive(Clone, Debug)]
pub struct Person {
    pub number: u32,
    pub hr: BTreeMap<&'static str, String>,
    pub idp: Option<Attributes>,
    sequence: i64,
}

impl Person {
    pub fn new(number: u32) -> Self {
        let n = number as usize;
        let (given, family) = (GIVEN[n % GIVEN.len()], FAMILY[n % FAMILY.len()]);
        let hr = BTreeMap::from([
            ("employeeNumber", format!("{number}")),
            ("givenName", given.to_owned()),
            ("familyName", family.to_owned()),
            ("mail", format!("p{number}@example.com")),
            ("mobile", format!("+49 30 {number}")),
            ("department", DEPARTMENTS[n % DEPARTMENTS.len()].to_owned()),
            ("title", if n.is_multiple_of(7) { "Head of Things" } else { "Specialist" }.to_owned()),
            ("status", "active".to_owned()),
        ]);
        Self { number, hr, idp: None, sequence: 0 }
    }

    pub fn set(&mut self, attribute: &'static str, value: &str) -> &mut Self {
        self.hr.insert(attribute, value.to_owned());
        self
    }

    /// To the next department of those that all targets know.
    pub fn move_on(&mut self) -> &mut Self {
        let at = DEPARTMENTS.iter().position(|name| *name == self.hr["department"]).unwrap();
        self.set("department", DEPARTMENTS[(at + 1) % 3])
    }

    /// The whole record as HR's next event: key and value.
    pub fn event(&mut self, kind: &str, frame: &[u8]) -> (String, Vec<u8>) {
        self.sequence += 1;
        let record = format!("w-{}", self.number);
        let mut worker = vec![("workerId".to_owned(), Avro::String(record.clone()))];
        worker.extend(FIELDS.iter().map(|(attribute, field)| {
            let value = match self.hr.get(attribute) {
                Some(text) => Avro::Union(1, Box::new(Avro::String(text.clone()))),
                None => Avro::Union(0, Box::new(Avro::Null)),
            };
            ((*field).to_owned(), value)
        }));
        let event = Avro::Record(vec![
            ("id".into(), Avro::String(format!("{record}/{}", self.sequence))),
            ("type".into(), Avro::String(kind.to_owned())),
            ("sequence".into(), Avro::Long(self.sequence)),
            ("worker".into(), Avro::Record(worker)),
        ]);
        let writer = GenericDatumWriter::builder(SCHEMA.schema()).build().unwrap();
        (record, [frame, &writer.write_value_to_vec(event).unwrap()].concat())
    }

    fn merged(&self, bundle: &Bundle) -> Attributes {
        let hr = self.hr.iter().map(|(name, value)| ((*name), Value::text(value.as_str()))).collect::<Attributes>();
        let (hr, idp) = ((SourceName::from("hr"), hr), SourceName::from("idp"));
        let mut records = vec![(&hr.0, &hr.1)];
        records.extend(self.idp.as_ref().map(|attributes| (&idp, attributes)));
        bundle.kind("person").unwrap().merge(&records).to_attributes()
    }
}

/// The accounts at one target by employee number, as the rules give them.
pub type Accounts = BTreeMap<u32, Account>;

/// What the accounts at a target become, now that these people are as they are.
pub fn settle(bundle: &Bundle, target: &str, accounts: &mut Accounts, people: &[Person]) {
    let rules = bundle.target(&TargetName::from(target)).unwrap();
    let kind = bundle.kind("person").unwrap();
    for person in people {
        let merged = person.merged(bundle);
        let merged = kind.merged(&merged);
        let active = kind.lifecycle(&merged, now()).unwrap().phase == Phase::Active;
        let wanted = if active { rules.wants("person", &merged).unwrap() } else { None };
        match wanted {
            Some(desired) => {
                let text = |value: &Value| value.as_text().expect("these rules give text").to_owned();
                let attributes =
                    desired.attributes.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
                let groups = desired.entitlements.groups;
                accounts.insert(person.number, Account { active: true, attributes, groups });
            }
            None if rules.leaver.action == Op::Delete => {
                accounts.remove(&person.number);
            }
            None => {
                if let Some(account) = accounts.get_mut(&person.number) {
                    account.active = false;
                }
            }
        }
    }
}

pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_millis()).unwrap())
}
