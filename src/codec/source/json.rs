//! An event's document as it is read: text borrowed from the bytes, members in a list.
//!
//! It is taken apart once and dropped, a dozen members of each object looked up: a map of owned text would cost forty
//! allocations an event, and be most of what intake costs.

use crate::model::Value;
use crate::rules::EventPath;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::borrow::Cow;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    /// As they came; of two members of one name the later counts.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// The member of an object.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// What stands there: None where nothing does, or where a step goes into something that is no object. Whoever says that an
    /// object is null says it of all that would be in it.
    pub fn find(&self, path: &EventPath) -> Option<&Self> {
        path.parts().iter().try_fold(self, |here, part| if here.is_null() { Some(here) } else { here.get(part) })
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// As an attribute's value; an object is none.
    pub fn value(&self) -> Option<Value> {
        Some(match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Number(number) => match number.as_i64() {
                Some(int) => Value::Int(int),
                None => Value::Float(number.as_f64()?),
            },
            Self::String(text) => Value::text(text.as_ref()),
            Self::Array(items) => Value::List(items.iter().map(Self::value).collect::<Option<_>>()?),
            Self::Object(_) => return None,
        })
    }

    pub fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    pub fn is_array(&self) -> bool {
        matches!(self, Self::Array(_))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub fn is_string(&self) -> bool {
        matches!(self, Self::String(_))
    }
}

impl From<serde_json::Value> for Json<'_> {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(b),
            serde_json::Value::Number(number) => Self::Number(number),
            serde_json::Value::String(text) => Self::String(text.into()),
            serde_json::Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            serde_json::Value::Object(members) => {
                Self::Object(members.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
            }
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(b))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            members.push((name, map.next_value()?));
        }
        Ok(Json::Object(members))
    }
}

/// A member's name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(Reader)? {
            Json::String(name) => Ok(Self(name)),
            _ => Err(D::Error::custom("a member's name is text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{hash_map, vec};
    use proptest::prelude::*;

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            (-1e300f64..1e300).prop_map(Into::into),
            "[a-z\"\\\\\\n\u{e4}\u{1f600}]{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            let members = hash_map("[a-z\"\\\\]{0,4}", inner.clone(), 0..6);
            let object = members.prop_map(|members| serde_json::Value::Object(members.into_iter().collect()));
            prop_oneof![vec(inner, 0..6).prop_map(serde_json::Value::from), object]
        })
    }

    proptest! {
        #[test]
        fn it_is_what_serde_json_reads(json in any_json()) {
            let text = serde_json::to_string(&json).unwrap();
            let read: Json<'_> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read, &Json::from(serde_json::from_str::<serde_json::Value>(&text).unwrap()));
            prop_assert_eq!(read.value(), Value::from_json(&json));
        }
    }

    #[test]
    fn of_two_members_of_one_name_the_later_counts_as_everywhere() {
        let read: Json<'_> = serde_json::from_str(r#"{"a":1,"a":2,"b":{"c":3},"n":null}"#).unwrap();
        assert_eq!(read.get("a"), Some(&Json::Number(2.into())));
        assert_eq!(read.find(&EventPath::new("b.c").unwrap()), Some(&Json::Number(3.into())));
        assert_eq!(read.find(&EventPath::new("a.c").unwrap()), None);
        assert_eq!(read.find(&EventPath::new("b.d").unwrap()), None);
        assert_eq!(read.find(&EventPath::new("n.c.d").unwrap()), Some(&Json::Null));
    }
}
