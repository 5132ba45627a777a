//! Attribute values and named sets of them.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// One attribute's value. Text in JSON is text here; a date stays the text that its source sent.
#[derive(Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
}

/// Attributes by name. `Debug` shows names and types only: values are personal data and logs are not theirs.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(pub BTreeMap<String, Value>);

impl Value {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "text",
            Self::List(_) => "list",
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON; a float that JSON can't hold becomes null.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(i) => (*i).into(),
            Self::Float(x) => serde_json::Number::from_f64(*x).map_or(serde_json::Value::Null, Into::into),
            Self::Text(s) => s.as_str().into(),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
        }
    }

    /// From JSON; an object has no place among attribute values and is None: sources map its members one by one.
    pub fn from_json(json: &serde_json::Value) -> Option<Self> {
        Some(match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(i) => Self::Int(i),
                None => Self::Float(n.as_f64()?),
            },
            serde_json::Value::String(s) => Self::Text(s.clone()),
            serde_json::Value::Array(items) => Self::List(items.iter().map(Self::from_json).collect::<Option<_>>()?),
            serde_json::Value::Object(_) => return None,
        })
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter()).finish()
    }
}

impl Deref for Attributes {
    type Target = BTreeMap<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Attributes {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<N: Into<String>, const C: usize> From<[(N, Value); C]> for Attributes {
    fn from(pairs: [(N, Value); C]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<i64> for Value {
    fn from(i: i64) -> Self {
        Self::Int(i)
    }
}

/// The form in which a value is stored; JSON gets the natural one instead.
#[derive(Serialize, Deserialize)]
enum Stored {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return self.to_json().serialize(serializer);
        }
        match self {
            Self::Null => Stored::Null,
            Self::Bool(b) => Stored::Bool(*b),
            Self::Int(i) => Stored::Int(*i),
            Self::Float(x) => Stored::Float(*x),
            Self::Text(s) => Stored::Text(s.clone()),
            Self::List(items) => Stored::List(items.clone()),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let json = serde_json::Value::deserialize(deserializer)?;
            return Self::from_json(&json).ok_or_else(|| D::Error::custom("an object is not an attribute value"));
        }
        Ok(match Stored::deserialize(deserializer)? {
            Stored::Null => Self::Null,
            Stored::Bool(b) => Self::Bool(b),
            Stored::Int(i) => Self::Int(i),
            Stored::Float(x) => Self::Float(x),
            Stored::Text(s) => Self::Text(s),
            Stored::List(items) => Self::List(items),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_both_encodings_and_stay_out_of_debug() {
        let all = Attributes::from([
            ("a", Value::Null),
            ("b", Value::List(vec![Value::Int(-3), Value::Float(1.5), Value::Bool(true)])),
            ("c", "Ada".into()),
        ]);
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(json, r#"{"a":null,"b":[-3,1.5,true],"c":"Ada"}"#);
        assert_eq!(serde_json::from_str::<Attributes>(&json).unwrap(), all);
        let stored = postcard::to_allocvec(&all).unwrap();
        assert_eq!(postcard::from_bytes::<Attributes>(&stored).unwrap(), all);
        assert_eq!(format!("{all:?}"), r#"{"a": null, "b": list, "c": text}"#);
    }
}
