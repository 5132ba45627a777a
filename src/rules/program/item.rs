//! A value while a program runs: held by an attribute, a table or the program wherever that is possible, made where it has to
//! be. What CEL's operators say of values is said here again, for the types that attributes can have.

use crate::model::Value;
use crate::rules::steps::Steps;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

/// A table of entitlements.yaml.
pub type Table = HashMap<String, Value>;

#[derive(Clone, Debug)]
pub enum Item<'a> {
    Held(&'a Value),
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Item<'a>>),
    Table(&'a Table),
}

/// One look at an item, however it is kept.
#[derive(Clone, Copy)]
pub enum Look<'l> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'l str),
    List(Elements<'l>),
    Table(&'l Table),
}

#[derive(Clone, Copy)]
pub enum Elements<'l> {
    Held(&'l [Value]),
    Made(&'l [Item<'l>]),
}

impl<'a> Item<'a> {
    pub fn null() -> Self {
        Self::Held(&Value::Null)
    }

    pub fn look(&self) -> Look<'_> {
        match self {
            Self::Held(value) => look(value),
            Self::Bool(b) => Look::Bool(*b),
            Self::Int(i) => Look::Int(*i),
            Self::Float(x) => Look::Float(*x),
            Self::Text(text) => Look::Text(text),
            Self::List(items) => Look::List(Elements::Made(items)),
            Self::Table(table) => Look::Table(table),
        }
    }

    /// What a look at all of it costs: an element a step, and a text by its length.
    pub fn steps(&self) -> usize {
        const BYTES_A_STEP: usize = 64;
        match self.look() {
            Look::List(items) => items.len(),
            Look::Text(text) => text.len() / BYTES_A_STEP,
            _ => 0,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Held(Value::Null))
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self.look() {
            Look::Bool(b) => Some(b),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self.look() {
            Look::Int(i) => Some(i),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Held(Value::Text(text)) => Some(text.as_str()),
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text itself, to be changed or cut; None: it is none.
    pub fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Held(Value::Text(text)) => Some(Cow::Borrowed(text.as_str())),
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list; None: it is none.
    pub fn into_items(self) -> Option<Vec<Item<'a>>> {
        match self {
            Self::Held(Value::List(items)) => Some(items.iter().map(Item::Held).collect()),
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// As an attribute holds it; None: no attribute can, or it has more elements than there are steps left.
    pub fn into_value(self, steps: &Steps) -> Option<Value> {
        Some(match self {
            Self::Held(Value::List(items)) => {
                steps.take(items.len())?;
                Value::List(items.clone())
            }
            Self::Held(value) => value.clone(),
            Self::Bool(b) => Value::Bool(b),
            Self::Int(i) => Value::Int(i),
            Self::Float(x) => Value::Float(x),
            Self::Text(Cow::Borrowed(text)) => Value::text(text),
            Self::Text(Cow::Owned(text)) => Value::text(text),
            Self::List(items) => {
                steps.take(items.len())?;
                Value::List(items.into_iter().map(|item| item.into_value(steps)).collect::<Option<_>>()?)
            }
            Self::Table(_) => return None,
        })
    }
}

fn look(value: &Value) -> Look<'_> {
    match value {
        Value::Null => Look::Null,
        Value::Bool(b) => Look::Bool(*b),
        Value::Int(i) => Look::Int(*i),
        Value::Float(x) => Look::Float(*x),
        Value::Text(text) => Look::Text(text),
        Value::List(items) => Look::List(Elements::Held(items)),
    }
}

impl<'l> Elements<'l> {
    pub fn len(self) -> usize {
        match self {
            Self::Held(items) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    pub fn iter(self) -> impl Iterator<Item = Look<'l>> {
        (0..self.len()).map(move |at| match self {
            Self::Held(items) => look(&items[at]),
            Self::Made(items) => items[at].look(),
        })
    }
}

/// CEL's `==`: numbers by what they say, anything else only within its type. None: the interpreter is to say, unless there are
/// no steps left.
pub fn equal(left: Look<'_>, right: Look<'_>, steps: &Steps) -> Option<bool> {
    Some(match (left, right) {
        (Look::Table(_), _) | (_, Look::Table(_)) => return None,
        (Look::Null, Look::Null) => true,
        (Look::Bool(a), Look::Bool(b)) => a == b,
        (Look::Text(a), Look::Text(b)) => a == b,
        (Look::List(a), Look::List(b)) => {
            if a.len() != b.len() {
                return Some(false);
            }
            steps.take(a.len())?;
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(a, b, steps)? {
                    return Some(false);
                }
            }
            true
        }
        (left, right) => numbers(left, right) == Some(Ordering::Equal),
    })
}

/// CEL's `<` and the like; None: these two have no order.
pub fn compare(left: Look<'_>, right: Look<'_>) -> Option<Ordering> {
    match (left, right) {
        (Look::Bool(a), Look::Bool(b)) => Some(a.cmp(&b)),
        (Look::Text(a), Look::Text(b)) => Some(a.cmp(b)),
        (left, right) => numbers(left, right),
    }
}

fn numbers(left: Look<'_>, right: Look<'_>) -> Option<Ordering> {
    // As the interpreter: an integer beside a decimal number becomes one.
    match (left, right) {
        (Look::Int(a), Look::Int(b)) => Some(a.cmp(&b)),
        (Look::Int(a), Look::Float(b)) => (a as f64).partial_cmp(&b),
        (Look::Float(a), Look::Int(b)) => a.partial_cmp(&(b as f64)),
        (Look::Float(a), Look::Float(b)) => a.partial_cmp(&b),
        _ => None,
    }
}

/// CEL's `in`.
pub fn contains(container: Look<'_>, wanted: Look<'_>, steps: &Steps) -> Option<bool> {
    match container {
        Look::List(items) => {
            steps.take(items.len())?;
            for item in items.iter() {
                if equal(item, wanted, steps)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        Look::Table(table) => match wanted {
            Look::Text(key) => Some(table.contains_key(key)),
            _ => None,
        },
        _ => None,
    }
}
