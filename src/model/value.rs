//! Attribute values and named sets of them.

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;
use std::fmt;
use std::sync::Arc;

/// One attribute's value. Text in JSON is text here; a date stays the text that its source sent.
#[derive(Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Short text lies in the value itself, long text is shared: copying either costs no allocation.
    Text(SmolStr),
    List(Vec<Value>),
}

/// Attributes by name, in the order of their names. `Debug` shows names and types only: values are personal data and logs are not theirs.
///
/// One shared vector: events carry a dozen of them through four hands, so copying has to be free and reading must not
/// chase a tree. What changes a shared one copies it first.
#[derive(Clone, Default, PartialEq)]
pub struct Attributes(Arc<Vec<(SmolStr, Value)>>);

/// Most room made at once for attributes that are only announced: a length that lies costs no memory.
const ANNOUNCED: usize = 64;

impl Value {
    pub fn text(text: impl Into<SmolStr>) -> Self {
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
            serde_json::Value::String(s) => Self::Text(s.into()),
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

impl Attributes {
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.place(name).ok().map(|at| &self.0[at].1)
    }

    pub fn contains_key(&self, name: &str) -> bool {
        self.place(name).is_ok()
    }

    /// Gives what was there before.
    pub fn insert(&mut self, name: impl Into<SmolStr>, value: Value) -> Option<Value> {
        let name = name.into();
        let place = self.place(&name);
        let entries = Arc::make_mut(&mut self.0);
        match place {
            Ok(at) => Some(std::mem::replace(&mut entries[at].1, value)),
            Err(at) => {
                entries.insert(at, (name, value));
                None
            }
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.place(name).ok()?;
        Some(Arc::make_mut(&mut self.0).remove(at).1)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&SmolStr, &Value)> + DoubleEndedIterator + Clone {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub fn keys(&self) -> impl ExactSizeIterator<Item = &SmolStr> {
        self.0.iter().map(|(name, _)| name)
    }

    pub fn values(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.0.iter().map(|(_, value)| value)
    }

    /// Whether both are the very same vector: then they are equal without a look.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| own.as_str().cmp(name))
    }
}

/// Panics where there is none of that name.
impl std::ops::Index<&str> for Attributes {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        self.get(name).expect("an attribute that is there")
    }
}

/// Of two with one name the later counts.
impl<N: Into<SmolStr>> FromIterator<(N, Value)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(pairs: I) -> Self {
        let mut entries: Vec<(SmolStr, Value)> = pairs.into_iter().map(|(name, value)| (name.into(), value)).collect();
        if !entries.is_sorted_by(|(a, _), (b, _)| a < b) {
            entries.reverse();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            entries.dedup_by(|(a, _), (b, _)| a == b);
        }
        Self(Arc::new(entries))
    }
}

impl<N: Into<SmolStr>> Extend<(N, Value)> for Attributes {
    fn extend<I: IntoIterator<Item = (N, Value)>>(&mut self, pairs: I) {
        for (name, value) in pairs {
            self.insert(name, value);
        }
    }
}

impl IntoIterator for Attributes {
    type Item = (SmolStr, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        Arc::unwrap_or_clone(self.0).into_iter()
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name.as_str(), value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Attributes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("attributes by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut entries = Vec::with_capacity(map.size_hint().unwrap_or_default().min(ANNOUNCED));
                while let Some(entry) = map.next_entry::<SmolStr, Value>()? {
                    entries.push(entry);
                }
                Ok(entries.into_iter().collect())
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

impl<N: Into<SmolStr>, const C: usize> From<[(N, Value); C]> for Attributes {
    fn from(pairs: [(N, Value); C]) -> Self {
        pairs.into_iter().collect()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
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
#[derive(Serialize)]
enum Storing<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    List(&'a [Value]),
}

#[derive(Deserialize)]
enum Stored {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(SmolStr),
    List(Vec<Value>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return match self {
                Self::Null => serializer.serialize_unit(),
                Self::Bool(b) => serializer.serialize_bool(*b),
                Self::Int(i) => serializer.serialize_i64(*i),
                // A float that JSON can't hold becomes null.
                Self::Float(x) if x.is_finite() => serializer.serialize_f64(*x),
                Self::Float(_) => serializer.serialize_unit(),
                Self::Text(s) => serializer.serialize_str(s),
                Self::List(items) => items.serialize(serializer),
            };
        }
        match self {
            Self::Null => Storing::Null,
            Self::Bool(b) => Storing::Bool(*b),
            Self::Int(i) => Storing::Int(*i),
            Self::Float(x) => Storing::Float(*x),
            Self::Text(s) => Storing::Text(s),
            Self::List(items) => Storing::List(items),
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

    #[test]
    fn whatever_the_order_they_come_in_the_names_are_sorted_and_the_later_of_two_counts() {
        let mut some: Attributes =
            [("b", 1), ("a", 2), ("b", 3), ("c", 4)].map(|(n, v)| (n, Value::Int(v))).into_iter().collect();
        let kept = some.clone();
        assert_eq!(some, Attributes::from([("a", Value::Int(2)), ("b", Value::Int(3)), ("c", Value::Int(4))]));
        assert!(some.is_shared_with(&kept));
        assert_eq!(some.insert("b", Value::Null), Some(Value::Int(3)));
        assert_eq!(some.insert("aa", Value::Null), None);
        assert_eq!(some.remove("c"), Some(Value::Int(4)));
        let names = |of: &Attributes| of.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!((names(&some), names(&kept)), ("a aa b".to_owned(), "a b c".to_owned()), "a copy is its own");
    }
}
