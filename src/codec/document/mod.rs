//! The shape of the public documents, the same in JSON and in Avro: flat where the model has enums with content, text where the
//! model has enums without. `schemas/` says what each field means; field order here is field order there.
//!
//! A document borrows from the model when it is written, and owns what it holds when it was read.

mod account;
mod audit;

pub use account::{CommandDocument, DeadLetterDocument, ResultDocument};
pub use audit::{
    AlertDocument, DecisionDocument, OperationDocument, action_account, action_name, alert_kind_name, alert_state_name,
    kind_name,
};

use crate::model::{Attributes, Timestamp, Value};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

/// Longest id that is read, for rows are kept under ids. Lockstep's own are shorter: a source's has 512 bytes at most, and a
/// routing key a correlation value of 1 KiB behind the tenant.
const MOST_ID_BYTES: usize = 2048;

/// Why a document that has the right shape is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The value is one of a fixed list in the schema's own documentation, never personal data; yet it came from outside.
    #[error("field {field} holds none of the values that this release knows")]
    Unknown { field: &'static str },
    #[error("field {0} is missing, and this kind of record needs it")]
    Missing(&'static str),
    #[error("field {0} is negative")]
    Negative(&'static str),
    #[error("field {field} has {bytes} bytes; an id has at most {MOST_ID_BYTES}")]
    TooLong { field: &'static str, bytes: usize },
}

pub type Text<'a> = Cow<'a, str>;

fn text(text: &str) -> Text<'_> {
    Cow::Borrowed(text)
}

fn needed<T>(value: Option<T>, field: &'static str) -> Result<T, DocumentError> {
    value.ok_or(DocumentError::Missing(field))
}

fn id<T: for<'a> From<&'a str>>(id: Text<'_>, field: &'static str) -> Result<T, DocumentError> {
    match id.len() {
        0..=MOST_ID_BYTES => Ok(T::from(&id)),
        bytes => Err(DocumentError::TooLong { field, bytes }),
    }
}

/// The variant of that name, as the model itself names it.
fn named<T: DeserializeOwned>(name: &str, field: &'static str) -> Result<T, DocumentError> {
    let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    T::deserialize(name).map_err(|_| DocumentError::Unknown { field })
}

fn count(number: i64, field: &'static str) -> Result<u64, DocumentError> {
    u64::try_from(number).map_err(|_| DocumentError::Negative(field))
}

fn small_count(number: i64, field: &'static str) -> Result<u32, DocumentError> {
    Ok(u32::try_from(count(number, field)?).unwrap_or(u32::MAX))
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).expect("a generation counts commands, and there are not 2^63 of them")
}

fn millis(time: Option<Timestamp>) -> Option<i64> {
    time.map(|time| time.0)
}

fn names(set: &BTreeSet<String>) -> Vec<Text<'_>> {
    set.iter().map(|name| text(name)).collect()
}

fn set(names: Vec<Text<'_>>) -> BTreeSet<String> {
    names.into_iter().map(Cow::into_owned).collect()
}

/// Attributes as a map of plain values, in every encoding.
#[derive(Clone, Debug)]
pub struct PlainAttributes<'a>(pub Cow<'a, Attributes>);

impl Serialize for PlainAttributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0.iter() {
            map.serialize_entry(name, &Plain { value, depth: 0 })?;
        }
        map.end()
    }
}

/// A value as it is. JSON has lists within lists; the Avro union has not, for it would have to name a type that holds itself:
/// there an inner list is its JSON text.
struct Plain<'a> {
    value: &'a Value,
    depth: usize,
}

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(b) => serializer.serialize_bool(*b),
            Value::Int(i) => serializer.serialize_i64(*i),
            Value::Float(x) => serializer.serialize_f64(*x),
            Value::Text(s) => serializer.serialize_str(s),
            Value::List(_) if self.depth > 0 && !serializer.is_human_readable() => {
                serializer.serialize_str(&self.value.to_json().to_string())
            }
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for value in items {
                    list.serialize_element(&Plain { value, depth: self.depth + 1 })?;
                }
                list.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for PlainAttributes<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Attributes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("attributes by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((name, value)) = map.next_entry::<SmolStr, PlainOwned>()? {
                    entries.push((name, value.0));
                }
                Ok(entries.into_iter().collect())
            }
        }
        Ok(Self(Cow::Owned(deserializer.deserialize_map(Entries)?)))
    }
}

struct PlainOwned(Value);

impl<'de> Deserialize<'de> for PlainOwned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null, a bool, a number, text or a list")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
                deserializer.deserialize_any(self)
            }

            fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
                Ok(Value::Bool(b))
            }

            fn visit_i64<E>(self, i: i64) -> Result<Value, E> {
                Ok(Value::Int(i))
            }

            fn visit_u64<E>(self, i: u64) -> Result<Value, E> {
                Ok(i64::try_from(i).map_or(Value::Float(i as f64), Value::Int))
            }

            fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
                Ok(Value::Float(x))
            }

            fn visit_str<E>(self, s: &str) -> Result<Value, E> {
                Ok(Value::Text(s.to_owned().into()))
            }

            fn visit_string<E>(self, s: String) -> Result<Value, E> {
                Ok(Value::Text(s.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(PlainOwned(item)) = list.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
                Err(A::Error::custom("an object is not an attribute value"))
            }
        }
        deserializer.deserialize_any(Any).map(PlainOwned)
    }
}
