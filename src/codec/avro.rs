//! How Avro bytes say what wrote them, and reading them by that schema.
//!
//! Two frames are known: Confluent's wire format (0x00, then a schema id of 4 bytes, big-endian) and Avro's single-object
//! encoding (0xC3 0x01, then the writer schema's Rabin fingerprint of 8 bytes; Avro specification 1.12, "Single-object
//! encoding"). A schema is parsed once and kept by whoever asked for it; nothing is parsed for a record.

use apache_avro::rabin::Rabin;
use apache_avro::types::Value;
use apache_avro::{GenericSingleObjectReader, Schema};
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::Once;

/// A record of some hundred KiB that claims to hold a list of 2^60 entries is refused, not obeyed. Decoded values take up
/// to some fifty times the room of their bytes: enough for events at their limit, far from the crate's 512 MiB.
const MOST_BYTES_ALLOCATED: usize = 64 * 1024 * 1024;

const CONFLUENT_MAGIC: u8 = 0x00;
const SINGLE_OBJECT_MAGIC: [u8; 2] = [0xC3, 0x01];

/// A schema's id in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaId(pub u32);

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The CRC-64-AVRO of a schema's parsing canonical form, as single-object encoding carries it (little-endian).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 8]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Bytes by their frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    Registered { id: SchemaId, body: &'a [u8] },
    SingleObject { fingerprint: Fingerprint, body: &'a [u8] },
    Json(&'a [u8]),
    Unknown,
}

/// Looks at the first bytes. A JSON document here is an object, with white space before it at most.
pub fn sniff(bytes: &[u8]) -> Framed<'_> {
    if let [CONFLUENT_MAGIC, a, b, c, d, body @ ..] = bytes {
        return Framed::Registered { id: SchemaId(u32::from_be_bytes([*a, *b, *c, *d])), body };
    }
    if let Some((fingerprint, body)) =
        bytes.strip_prefix(&SINGLE_OBJECT_MAGIC).and_then(|rest| rest.split_first_chunk::<8>())
    {
        return Framed::SingleObject { fingerprint: Fingerprint(*fingerprint), body };
    }
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Framed::Json(bytes),
        _ => Framed::Unknown,
    }
}

/// The five bytes before a body in Confluent's wire format.
pub fn registered_frame(id: SchemaId) -> Vec<u8> {
    let mut frame = vec![CONFLUENT_MAGIC];
    frame.extend_from_slice(&id.0.to_be_bytes());
    frame
}

/// The ten bytes before a body in single-object encoding.
pub fn single_object_frame(fingerprint: Fingerprint) -> Vec<u8> {
    let mut frame = SINGLE_OBJECT_MAGIC.to_vec();
    frame.extend_from_slice(&fingerprint.0);
    frame
}

pub fn fingerprint(schema: &Schema) -> Fingerprint {
    let bytes = schema.fingerprint::<Rabin>().bytes;
    Fingerprint(bytes.try_into().expect("a Rabin fingerprint has 8 bytes"))
}

/// Why a schema can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("it is not an Avro schema: {0}")]
    NotAvro(String),
    /// A few KiB of data can nest as deep as they are long: reading them would end the process.
    #[error("type {0} holds itself; schemas that recurse are not read")]
    Recursive(String),
    #[error("it refers to schemas of other subjects, which is not read: register it with them written out")]
    References,
}

/// Bytes that don't fit the schema they are said to be written by. Without detail: a decoder's own words quote values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the bytes do not fit the schema that wrote them")]
    Unfit,
    #[error("{0} bytes are left over after the last field")]
    LeftOver(usize),
}

/// A parsed schema that wrote something, ready to read it.
pub struct WriterSchema {
    schema: Schema,
    fingerprint: Fingerprint,
    /// With an empty header this reads a bare body, and it owns its names: parsed and resolved once.
    reader: GenericSingleObjectReader,
}

impl fmt::Debug for WriterSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schema {}", self.fingerprint)
    }
}

impl WriterSchema {
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        static BOUND: Once = Once::new();
        BOUND.call_once(|| {
            apache_avro::util::max_allocation_bytes(MOST_BYTES_ALLOCATED);
        });
        let schema = Schema::parse_str(text).map_err(|e| SchemaError::NotAvro(e.to_string()))?;
        if let Some(name) = recursive(&schema, &mut Vec::new()) {
            return Err(SchemaError::Recursive(name));
        }
        let reader = GenericSingleObjectReader::builder()
            .schema(schema.clone())
            .header(Vec::new())
            .human_readable(false)
            .build()
            .map_err(|e| SchemaError::NotAvro(e.to_string()))?;
        Ok(Self { fingerprint: fingerprint(&schema), schema, reader })
    }

    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The whole body as a value of this schema.
    pub fn read_value(&self, mut body: &[u8]) -> Result<Value, ReadError> {
        let value = self.reader.read_value(&mut body).map_err(|_| ReadError::Unfit)?;
        whole(body)?;
        Ok(value)
    }

    /// The whole body as a type that has this schema's shape.
    pub fn read<T: DeserializeOwned>(&self, mut body: &[u8]) -> Result<T, ReadError> {
        let value = self.reader.read_deser(&mut body).map_err(|_| ReadError::Unfit)?;
        whole(body)?;
        Ok(value)
    }

    /// The whole body, resolved from this schema (the writer's) to the one that the reader expects.
    pub fn read_as<T: DeserializeOwned>(&self, body: &[u8], expected: &Schema) -> Result<T, ReadError> {
        let resolved = self.read_value(body)?.resolve(expected).map_err(|_| ReadError::Unfit)?;
        apache_avro::from_value(&resolved).map_err(|_| ReadError::Unfit)
    }
}

fn whole(rest: &[u8]) -> Result<(), ReadError> {
    if rest.is_empty() { Ok(()) } else { Err(ReadError::LeftOver(rest.len())) }
}

/// The name of a type that lies within itself.
fn recursive(schema: &Schema, around: &mut Vec<String>) -> Option<String> {
    match schema {
        Schema::Ref { name } => around.contains(&name.to_string()).then(|| name.to_string()),
        Schema::Array(array) => recursive(&array.items, around),
        Schema::Map(map) => recursive(&map.types, around),
        Schema::Union(union) => union.variants().iter().find_map(|variant| recursive(variant, around)),
        Schema::Record(record) => {
            around.push(record.name.to_string());
            let found = record.fields.iter().find_map(|field| recursive(&field.schema, around));
            around.pop();
            found
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_apart_by_their_first_ones() {
        let id = SchemaId(0x0102_0304);
        let fingerprint = Fingerprint([1, 2, 3, 4, 5, 6, 7, 8]);
        let registered = [registered_frame(id), vec![9]].concat();
        let single = [single_object_frame(fingerprint), vec![9]].concat();
        let cases: [(&[u8], Framed<'_>); 8] = [
            (&registered, Framed::Registered { id, body: &[9] }),
            (&single, Framed::SingleObject { fingerprint, body: &[9] }),
            (b" \n{}", Framed::Json(b" \n{}")),
            (b"", Framed::Unknown),
            (b"\0\0\0", Framed::Unknown),
            (b"\xC3\x01abc", Framed::Unknown),
            (b"[]", Framed::Unknown),
            (b"Obj\x01", Framed::Unknown),
        ];
        for (bytes, expected) in cases {
            assert_eq!(sniff(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_schema_that_recurses_is_refused_and_one_that_repeats_a_type_is_not() {
        let list = r#"{"type":"record","name":"a.Node","fields":[{"name":"next","type":["null","a.Node"]}]}"#;
        assert_eq!(WriterSchema::parse(list).unwrap_err(), SchemaError::Recursive("a.Node".into()));
        let twice = r#"{"type":"record","name":"Pair","fields":[
            {"name":"a","type":{"type":"record","name":"Leaf","fields":[{"name":"x","type":"long"}]}},
            {"name":"b","type":"Leaf"}]}"#;
        assert!(WriterSchema::parse(twice).is_ok());
        assert!(matches!(WriterSchema::parse("{}"), Err(SchemaError::NotAvro(_))));
    }

    #[test]
    fn a_body_must_fit_and_be_read_to_its_end() {
        let schema = WriterSchema::parse(
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"array","items":"null"}}]}"#,
        )
        .unwrap();
        assert!(schema.read_value(&[2, 0]).is_ok());
        assert_eq!(schema.read_value(&[2, 0, 7]), Err(ReadError::LeftOver(1)));
        // A list of 2^55 nulls in nine bytes.
        let bomb = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0];
        assert_eq!(schema.read_value(&bomb), Err(ReadError::Unfit));
    }
}
