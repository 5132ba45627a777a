//! The schemas of the public topics: those that this release writes, and all that were ever released.
//!
//! `schemas/README.md` says how one is changed. The rule is kept by the tests below: whatever stands in `schemas/` reads what
//! every released schema wrote, and the other way round.

use super::avro::{Fingerprint, WriterSchema};
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a public topic holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Document {
    Command,
    Result,
    DeadLetter,
    Decision,
    Alert,
    Operation,
}

impl Document {
    pub const ALL: [Self; 6] =
        [Self::Command, Self::Result, Self::DeadLetter, Self::Decision, Self::Alert, Self::Operation];

    /// As in file names and CloudEvents types.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Result => "result",
            Self::DeadLetter => "dead-letter",
            Self::Decision => "decision",
            Self::Alert => "alert",
            Self::Operation => "operation",
        }
    }

    /// The schema that this release writes by, as it stands in `schemas/`.
    pub fn schema_text(self) -> &'static str {
        match self {
            Self::Command => include_str!("../../schemas/command.avsc"),
            Self::Result => include_str!("../../schemas/result.avsc"),
            Self::DeadLetter => include_str!("../../schemas/dead-letter.avsc"),
            Self::Decision => include_str!("../../schemas/decision.avsc"),
            Self::Alert => include_str!("../../schemas/alert.avsc"),
            Self::Operation => include_str!("../../schemas/operation.avsc"),
        }
    }

    /// The same, parsed once a process.
    pub fn schema(self) -> &'static WriterSchema {
        static CURRENT: LazyLock<HashMap<Document, WriterSchema>> = LazyLock::new(|| {
            let parse = |d: Document| WriterSchema::parse(d.schema_text()).expect("the schemas that ship are sound");
            Document::ALL.into_iter().map(|document| (document, parse(document))).collect()
        });
        &CURRENT[&self]
    }

    /// The schema of this document, current or once released, that has the fingerprint.
    pub fn known(self, fingerprint: Fingerprint) -> Option<&'static WriterSchema> {
        static RELEASED_PARSED: LazyLock<Vec<(Document, WriterSchema)>> = LazyLock::new(|| {
            let parse = |text| WriterSchema::parse(text).expect("the schemas that were released are sound");
            RELEASED.iter().map(|(document, _, text)| (*document, parse(text))).collect()
        });
        let current = self.schema();
        if current.fingerprint() == fingerprint {
            return Some(current);
        }
        let mut released = RELEASED_PARSED.iter().filter(|(document, _)| *document == self);
        released.find(|(_, schema)| schema.fingerprint() == fingerprint).map(|(_, schema)| schema)
    }
}

/// Every schema that a release has written by, never changed and never removed: old records are read by them.
const RELEASED: &[(Document, &str, &str)] = &[
    (Document::Command, "v1", include_str!("../../schemas/released/v1/command.avsc")),
    (Document::Result, "v1", include_str!("../../schemas/released/v1/result.avsc")),
    (Document::DeadLetter, "v1", include_str!("../../schemas/released/v1/dead-letter.avsc")),
    (Document::Decision, "v1", include_str!("../../schemas/released/v1/decision.avsc")),
    (Document::Alert, "v1", include_str!("../../schemas/released/v1/alert.avsc")),
    (Document::Operation, "v1", include_str!("../../schemas/released/v1/operation.avsc")),
];

#[cfg(test)]
mod tests {
    use super::*;
    use apache_avro::Schema;
    use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
    use std::collections::BTreeSet;
    use std::path::Path;

    /// What breaks if a reader by one schema meets a record written by the other, either way round.
    fn breaks(released: &str, edited: &str) -> Option<String> {
        let released = Schema::parse_str(released).expect("a released schema parses");
        let edited = match Schema::parse_str(edited) {
            Ok(schema) => schema,
            Err(e) => return Some(e.to_string()),
        };
        if released.namespace() != edited.namespace() {
            return Some("the namespace was changed".to_owned());
        }
        let ways = [
            (&released, &edited, "the new schema can't read what was written"),
            (&edited, &released, "readers of the released schema can't read what is written"),
        ];
        ways.into_iter().find_map(|(writer, reader, what)| match SchemaCompatibility::can_read(writer, reader) {
            Ok(Compatibility::Full) => None,
            Ok(Compatibility::Partial) => Some(format!("{what}: some values have no place")),
            Err(e) => Some(format!("{what}: {e}")),
        })
    }

    #[test]
    fn schemas_are_backward_and_forward_compatible_with_the_released_ones() {
        for (document, version, released) in RELEASED {
            let name = document.as_str();
            if let Some(reason) = breaks(released, document.schema_text()) {
                panic!("schemas/{name}.avsc does not go with released/{version}: {reason}. See schemas/README.md");
            }
        }
    }

    #[test]
    fn an_incompatible_edit_is_noticed() {
        let released = Document::Result.schema_text();
        let edits = [
            ("a field renamed", r#""name": "outcome", "type": "string""#, r#""name": "outcomes", "type": "string""#),
            ("a type changed", r#""name": "attempt", "type": "long""#, r#""name": "attempt", "type": "string""#),
            ("a type widened", r#""name": "attempt", "type": "long""#, r#""name": "attempt", "type": "double""#),
            (
                "null no longer allowed",
                r#""name": "message", "type": ["null", "string"], "default": null"#,
                r#""name": "message", "type": "string""#,
            ),
            ("null newly allowed", r#""name": "op", "type": "string""#, r#""name": "op", "type": ["string", "null"]"#),
            (
                "a field without default added",
                r#"{"name": "tenant""#,
                r#"{"name": "shard", "type": "string"}, {"name": "tenant""#,
            ),
            ("the record renamed", r#""name": "Result""#, r#""name": "Outcome""#),
            ("the namespace changed", r#""namespace": "lockstep.v1""#, r#""namespace": "lockstep.v2""#),
        ];
        for (what, from, to) in edits {
            assert!(released.contains(from), "{what}: the test no longer finds {from}");
            assert!(breaks(released, &released.replacen(from, to, 1)).is_some(), "{what} went unnoticed");
        }
        let added = released.replacen(
            r#"{"name": "tenant""#,
            r#"{"name": "shard", "type": ["null", "string"], "default": null}, {"name": "tenant""#,
            1,
        );
        assert_eq!(breaks(released, &added), None, "a field with a default may be added");
    }

    #[test]
    fn every_released_schema_that_lies_there_is_known() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/released");
        let mut found = BTreeSet::new();
        for version in std::fs::read_dir(folder).unwrap() {
            for file in std::fs::read_dir(version.unwrap().path()).unwrap() {
                found.insert(std::fs::read_to_string(file.unwrap().path()).unwrap());
            }
        }
        let known: BTreeSet<String> = RELEASED.iter().map(|(_, _, text)| (*text).to_owned()).collect();
        assert!(found == known, "list every file of schemas/released in RELEASED");
    }

    #[test]
    fn every_field_is_documented_and_every_time_says_its_unit() {
        fn walk(path: &str, json: &serde_json::Value) {
            if let Some(list) = json.as_array() {
                list.iter().for_each(|item| walk(path, item));
            }
            if json["type"] == "record" {
                let name = json["name"].as_str().unwrap();
                assert!(!json["doc"].as_str().unwrap_or("").is_empty(), "{path}: {name} has no doc");
                for field in json["fields"].as_array().unwrap() {
                    let path = format!("{path}/{}", field["name"].as_str().unwrap());
                    let doc = field["doc"].as_str().unwrap_or("");
                    assert!(!doc.is_empty(), "{path} has no doc");
                    if field["type"].to_string().contains("timestamp-millis")
                        && !field["type"].to_string().contains("fields")
                    {
                        assert!(
                            doc.contains("Milliseconds since 1970-01-01T00:00:00Z"),
                            "{path} does not say its unit"
                        );
                    }
                    walk(&path, &field["type"]);
                }
            } else if json.is_object() {
                ["type", "items", "values"].iter().for_each(|part| walk(path, &json[*part]));
            }
        }
        for document in Document::ALL {
            walk(document.as_str(), &serde_json::from_str(document.schema_text()).unwrap());
        }
    }

    #[test]
    fn a_dead_letter_holds_the_command_as_it_is() {
        let letter: serde_json::Value = serde_json::from_str(Document::DeadLetter.schema_text()).unwrap();
        let command: serde_json::Value = serde_json::from_str(Document::Command.schema_text()).unwrap();
        assert!(letter["fields"][0]["type"] == command, "copy command.avsc into dead-letter.avsc");
    }
}
