//! What a source declares, taken out of an event's document.
//!
//! Text that is a number or a bool is one where the source declares so; nothing else is converted. A list of one stands for
//! its element where a single value is declared: directories hold every attribute as a list.

use super::json::Json;
use super::{MOST_ID_BYTES, MOST_LIST_ELEMENTS, Reason, Rejection};
use crate::model::{Attributes, Timestamp, Value};
use crate::rules::lifecycle::is_date;
use crate::rules::{AttributeRule, AttributeType, EventPath, SourceRules};
use smol_str::SmolStr;

pub(super) fn type_name(json: Option<&Json<'_>>) -> &'static str {
    match json {
        None => "nothing",
        Some(Json::Null) => "null",
        Some(Json::Bool(_)) => "a bool",
        Some(Json::Number(_)) => "a number",
        Some(Json::String(_)) => "text",
        Some(Json::Array(_)) => "a list",
        Some(Json::Object(_)) => "an object",
    }
}

fn wrong(path: &EventPath, wanted: &str, found: &Json<'_>) -> Rejection {
    let found = type_name(Some(found));
    Rejection::new(Reason::WrongType, format!("field {path}: {wanted} wanted, {found} found"))
}

/// An id: text or a whole number, not empty.
pub(super) fn id(document: &Json<'_>, path: &EventPath, missing: Reason) -> Result<SmolStr, Rejection> {
    let id = match document.find(path) {
        Some(Json::String(text)) => SmolStr::from(text.as_ref()),
        Some(Json::Number(number)) if number.is_i64() || number.is_u64() => smol_str::format_smolstr!("{number}"),
        found => {
            let detail = format!("field {path}: text or a whole number wanted, {} found", type_name(found));
            return Err(Rejection::new(missing, detail));
        }
    };
    match id.len() {
        0 => Err(Rejection::new(missing, format!("field {path} is empty"))),
        1..=MOST_ID_BYTES => Ok(id),
        n => Err(Rejection::new(missing, format!("field {path} has {n} bytes; an id has at most {MOST_ID_BYTES}"))),
    }
}

/// The value that routes: a mapped attribute, as text. None in a removal that doesn't hold it.
pub(super) fn route(
    rules: &SourceRules,
    name: &str,
    document: &Json<'_>,
    remove: bool,
) -> Result<Option<SmolStr>, Rejection> {
    let wrong = |what: &str| {
        Rejection::new(Reason::NoRoute, format!("attribute {name}, which routes this source's records, {what}"))
    };
    let rule = rules.attributes.get(name).ok_or_else(|| wrong("is not mapped"))?;
    let text = match attribute(rule, document)? {
        Some(Value::Text(text)) => text,
        Some(Value::Int(number)) => smol_str::format_smolstr!("{number}"),
        None | Some(Value::Null) if remove => return Ok(None),
        None | Some(Value::Null) => return Err(wrong("is not in the event")),
        Some(other) => return Err(wrong(&format!("is {}, not text or int", other.type_name()))),
    };
    match text.len() {
        0 => Err(wrong("is empty")),
        1..=MOST_ID_BYTES => Ok(Some(text)),
        n => Err(wrong(&format!("has {n} bytes, more than {MOST_ID_BYTES}"))),
    }
}

/// None where there is none: then the broker's timestamp holds.
pub(super) fn time(document: &Json<'_>, path: &EventPath) -> Result<Option<Timestamp>, Rejection> {
    match document.find(path) {
        None | Some(Json::Null) => Ok(None),
        Some(found) => {
            let time = millis(found).ok_or_else(|| wrong(path, "RFC 3339 text or a number of ms", found))?;
            Ok(Some(Timestamp(time)))
        }
    }
}

/// An event without it would be taken in order of arrival, beside others that are not: bad input.
pub(super) fn order(document: &Json<'_>, path: &EventPath) -> Result<i64, Rejection> {
    match document.find(path) {
        None | Some(Json::Null) => {
            Err(Rejection::new(Reason::MissingRequired, format!("field {path}: the event's order is not there")))
        }
        Some(found) => millis(found).ok_or_else(|| wrong(path, "a whole number or RFC 3339 text", found)),
    }
}

fn millis(json: &Json<'_>) -> Option<i64> {
    match json {
        Json::Number(number) => number.as_i64(),
        // A sequence that a source writes as text, for want of numbers of 64 bits in its language.
        Json::String(text) => {
            text.parse().ok().or_else(|| Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()))
        }
        _ => None,
    }
}

pub(super) fn attributes(rules: &SourceRules, document: &Json<'_>) -> Result<Attributes, Rejection> {
    let mut attributes = Vec::with_capacity(rules.attributes.len());
    for (name, rule) in &rules.attributes {
        // A null removes in a partial update only, and only where the source says so.
        let removes = rules.record.partial && rules.record.null_removes;
        let value = attribute(rule, document)?.filter(|value| removes || *value != Value::Null);
        let missing = match &value {
            None | Some(Value::Null) => Some("is not there"),
            // What systems write when they have no value.
            Some(Value::Text(text)) if text.trim().is_empty() => Some("is empty"),
            Some(_) => None,
        };
        if let Some(missing) = missing.filter(|_| rule.required) {
            let detail = format!("field {}: attribute {name} is required and {missing}", rule.path);
            return Err(Rejection::new(Reason::MissingRequired, detail));
        }
        attributes.extend(value.map(|value| (name.as_str(), value)));
    }
    Ok(attributes.into_iter().collect())
}

/// None: it is not there.
fn attribute(rule: &AttributeRule, document: &Json<'_>) -> Result<Option<Value>, Rejection> {
    let Some(found) = document.find(&rule.path) else { return Ok(None) };
    if rule.kind == AttributeType::List {
        return list(rule, found).map(Some);
    }
    let single = match found {
        Json::Array(items) if items.is_empty() => &Json::Null,
        Json::Array(items) if items.len() == 1 => &items[0],
        other => other,
    };
    let value = match (rule.kind, single) {
        (_, Json::Null) => Some(Value::Null),
        (_, Json::Object(_) | Json::Array(_)) => None,
        (AttributeType::Text, scalar) => scalar.value(),
        (AttributeType::Int, scalar) => int(scalar),
        (AttributeType::Bool, Json::Bool(b)) => Some(Value::Bool(*b)),
        (AttributeType::Bool, Json::String(text)) => bool(text),
        (AttributeType::Date, Json::String(text)) if is_date(text) => Some(Value::text(text.as_ref())),
        _ => None,
    };
    match value {
        Some(value) => Ok(Some(value)),
        // A text that is no date is told apart from a number: that's what a person needs to know.
        None if rule.kind == AttributeType::Date && single.is_string() => {
            let detail = format!("field {}: a date wanted (YYYY-MM-DD or RFC 3339), other text found", rule.path);
            Err(Rejection::new(Reason::WrongType, detail))
        }
        None => Err(wrong(&rule.path, wanted(rule.kind), found)),
    }
}

fn wanted(kind: AttributeType) -> &'static str {
    match kind {
        AttributeType::Text => "a single value",
        AttributeType::Int => "a whole number",
        AttributeType::Bool => "a bool",
        AttributeType::Date => "a date",
        AttributeType::List => "a list of single values",
    }
}

fn list(rule: &AttributeRule, found: &Json<'_>) -> Result<Value, Rejection> {
    match found {
        Json::Null => Ok(Value::Null),
        Json::Array(items) if items.len() > MOST_LIST_ELEMENTS => {
            let detail = format!(
                "field {}: the list has {} elements; at most {MOST_LIST_ELEMENTS} are taken",
                rule.path,
                items.len()
            );
            Err(Rejection::new(Reason::TooLarge, detail))
        }
        Json::Array(items) => {
            if let Some(odd) = items.iter().find(|item| item.is_object() || item.is_array()) {
                let detail = format!(
                    "field {}: a list of single values wanted, a list with {} found",
                    rule.path,
                    type_name(Some(odd))
                );
                return Err(Rejection::new(Reason::WrongType, detail));
            }
            Ok(Value::List(items.iter().filter(|item| !item.is_null()).filter_map(Json::value).collect()))
        }
        other => Err(wrong(&rule.path, wanted(AttributeType::List), other)),
    }
}

fn int(json: &Json<'_>) -> Option<Value> {
    match json {
        Json::Number(number) => number.as_i64().map(Value::Int),
        Json::String(text) => text.parse().ok().map(Value::Int),
        _ => None,
    }
}

fn bool(text: &str) -> Option<Value> {
    match text {
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        _ => None,
    }
}
