//! Values as columns hold them: what a column takes, how its text reads, and when two texts are the same value.
//!
//! Every value has one canonical text per column kind. It is what is written, and what both sides of a comparison become.

use super::call::{Cell, quote};
use crate::model::Value;

/// What a column holds, as far as comparing needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `limit` in characters. `padded`: `char(n)`, which drops trailing spaces. `folded`: `citext`, which ignores case.
    Text {
        limit: Option<usize>,
        padded: bool,
        folded: bool,
    },
    Int,
    /// `digits`: SQLite has no boolean and keeps 1 and 0.
    Bool {
        digits: bool,
    },
    Date,
    /// With a zone all times are in UTC; without, the date and time as they are.
    Time {
        zone: bool,
    },
    Decimal,
    Float,
    Uuid,
    /// Anything else: its text, as it is.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The type that PostgreSQL is to cast a parameter to, quoted and without length: a cast to `varchar(5)` would cut the text.
    pub(super) cast: Option<String>,
    pub(super) nullable: bool,
    /// The database makes the value where none is given.
    pub(super) generated: bool,
}

impl Column {
    pub(super) fn quoted(&self) -> String {
        quote(&self.name)
    }

    /// The column as text, for a select list; `table` is an alias.
    pub(super) fn select(&self, table: &str) -> String {
        format!("CAST({table}.{} AS TEXT)", self.quoted())
    }

    /// The parameter of a number, from 1.
    pub(super) fn parameter(&self, number: usize) -> String {
        match &self.cast {
            Some(to) => format!("CAST(${number} AS {to})"),
            None => format!("${number}"),
        }
    }

    /// The canonical text of a value, or why the column doesn't take it (without the value).
    pub(super) fn encode(&self, value: &Value) -> Result<Cell, String> {
        let name = &self.name;
        let text = match value {
            Value::Null if self.nullable => return Ok(None),
            Value::Null => {
                return Err(format!("column {name} takes no null; give the attribute a default in the rule"));
            }
            Value::List(_) => return Err(format!("column {name} holds one value, not a list; join() it in the rule")),
            Value::Bool(b) => b.to_string(),
            Value::Int(i) => i.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Text(text) => text.to_string(),
        };
        if text.contains('\0') {
            return Err(format!("column {name} takes no text with a NUL character"));
        }
        let canonical = self.kind.canonical(&text).ok_or_else(|| {
            format!("column {name} holds {}; the value is a {} that is none", self.kind.name(), value.type_name())
        })?;
        match self.kind {
            Kind::Text { limit: Some(limit), .. } if canonical.chars().count() > limit => {
                Err(format!("column {name} takes {limit} characters and the value is longer"))
            }
            _ => Ok(Some(canonical)),
        }
    }

    /// What a text read from the column is to the rules.
    pub(super) fn decode(&self, cell: &Cell) -> Value {
        let Some(text) = cell else { return Value::Null };
        let Some(canonical) = self.kind.canonical(text) else { return Value::Text(text.clone().into()) };
        match self.kind {
            Kind::Int => canonical.parse().map_or(Value::Text(canonical.into()), Value::Int),
            Kind::Float => canonical.parse().map_or(Value::Text(canonical.into()), Value::Float),
            Kind::Bool { .. } => Value::Bool(canonical == "true" || canonical == "1"),
            _ => Value::Text(canonical.into()),
        }
    }

    /// Whether what was read is the canonical text `wanted`.
    pub(super) fn holds(&self, wanted: &Cell, read: &Cell) -> bool {
        match (wanted, read) {
            (None, None) => true,
            (Some(wanted), Some(read)) => {
                let read = self.kind.canonical(read);
                match self.kind {
                    Kind::Text { folded: true, .. } => {
                        read.is_some_and(|read| read.to_lowercase() == wanted.to_lowercase())
                    }
                    _ => read.as_ref() == Some(wanted),
                }
            }
            _ => false,
        }
    }

    /// Whether an observed value is the desired one, as this column stores it.
    pub(super) fn same(&self, desired: &Value, observed: &Value) -> bool {
        match self.encode(desired) {
            Ok(wanted) => self.holds(&wanted, &plain(observed)),
            Err(_) => false,
        }
    }
}

fn plain(value: &Value) -> Cell {
    match value {
        Value::Null | Value::List(_) => None,
        Value::Bool(b) => Some(b.to_string()),
        Value::Int(i) => Some(i.to_string()),
        Value::Float(x) => Some(x.to_string()),
        Value::Text(text) => Some(text.to_string()),
    }
}

impl Kind {
    /// By PostgreSQL's internal type name.
    pub(super) fn of_postgres(type_name: &str, limit: Option<usize>) -> Self {
        match type_name {
            "text" | "varchar" | "name" => Self::Text { limit, padded: false, folded: false },
            "bpchar" => Self::Text { limit, padded: true, folded: false },
            "citext" => Self::Text { limit, padded: false, folded: true },
            "int2" | "int4" | "int8" => Self::Int,
            "bool" => Self::Bool { digits: false },
            "date" => Self::Date,
            "timestamp" => Self::Time { zone: false },
            "timestamptz" => Self::Time { zone: true },
            "numeric" => Self::Decimal,
            "float4" | "float8" => Self::Float,
            "uuid" => Self::Uuid,
            _ => Self::Other,
        }
    }

    /// By a declared type, in the order of sqlite.org/datatype3.html#determination_of_column_affinity. SQLite enforces no
    /// length, and keeps dates as text.
    pub(super) fn of_sqlite(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("BOOL") {
            Self::Bool { digits: true }
        } else if has("INT") {
            Self::Int
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text { limit: None, padded: false, folded: false }
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Float
        } else if has("NUMERIC") || has("DECIMAL") {
            Self::Decimal
        } else if has("DATETIME") || has("TIMESTAMP") {
            Self::Other
        } else if has("DATE") {
            Self::Date
        } else {
            Self::Other
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Text { .. } | Self::Other => "text",
            Self::Int => "whole numbers",
            Self::Bool { .. } => "true or false",
            Self::Date => "dates (2026-03-02)",
            Self::Time { .. } => "times (RFC 3339)",
            Self::Decimal | Self::Float => "numbers",
            Self::Uuid => "UUIDs",
        }
    }

    /// None: the text is no such value.
    fn canonical(&self, text: &str) -> Option<String> {
        match self {
            Self::Text { padded: true, .. } => Some(text.trim_end_matches(' ').to_owned()),
            Self::Text { .. } | Self::Other => Some(text.to_owned()),
            Self::Int => {
                let whole: Result<i64, _> = text.trim().parse();
                // A float that came through JSON as 7.0 is a whole number all the same.
                whole.ok().or_else(|| whole_float(text)).map(|i| i.to_string())
            }
            Self::Bool { digits } => {
                let yes = match text.trim().to_ascii_lowercase().as_str() {
                    "true" | "t" | "1" | "yes" | "y" | "on" => true,
                    "false" | "f" | "0" | "no" | "n" | "off" => false,
                    _ => return None,
                };
                Some(if *digits { u8::from(yes).to_string() } else { yes.to_string() })
            }
            Self::Date => date(text.trim()).map(|date| date.to_string()),
            Self::Time { zone: true } => {
                let text = text.trim();
                let utc = |civil: jiff::civil::DateTime| jiff::tz::TimeZone::UTC.to_timestamp(civil).ok();
                let time: Option<jiff::Timestamp> =
                    text.parse().ok().or_else(|| text.parse().ok().and_then(utc)).or_else(|| utc(date(text)?.into()));
                time.map(|time| time.to_string())
            }
            Self::Time { zone: false } => {
                let text = text.trim();
                let utc = |time: jiff::Timestamp| jiff::tz::TimeZone::UTC.to_datetime(time);
                let time: Option<jiff::civil::DateTime> =
                    text.parse().ok().map(utc).or_else(|| text.parse().ok()).or_else(|| Some(date(text)?.into()));
                time.map(|time| time.to_string())
            }
            Self::Decimal => decimal(text.trim()),
            Self::Float => text.trim().parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| x.to_string()),
            Self::Uuid => text.trim().parse::<uuid::Uuid>().ok().map(|uuid| uuid.to_string()),
        }
    }
}

fn whole_float(text: &str) -> Option<i64> {
    // 2^53: beyond it a float no longer says which whole number it is.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    text.trim().parse::<f64>().ok().filter(|x| x.fract() == 0.0 && x.abs() <= EXACT).map(|x| x as i64)
}

/// A date, or the date of a time as it is written there.
fn date(text: &str) -> Option<jiff::civil::Date> {
    match text.split_once(['T', ' ']) {
        Some((day, _)) => day.parse().ok(),
        None => text.parse().ok(),
    }
}

/// Without sign of plus, leading zeros, and zeros at the end of the fraction.
fn decimal(text: &str) -> Option<String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    Some(match (whole, fraction) {
        ("", "") => "0".to_owned(),
        (_, "") => format!("{sign}{whole}"),
        ("", _) => format!("{sign}0.{fraction}"),
        _ => format!("{sign}{whole}.{fraction}"),
    })
}

/// The value of an `active` column for true or false, from the rules.
pub(super) fn marker(column: &Column, value: &Value) -> Result<String, String> {
    column.encode(value)?.ok_or_else(|| format!("column {} needs values for true and false, not null", column.name))
}

/// How a table that Lockstep makes itself declares a column that holds `example`.
pub(super) fn declared(example: &Value) -> &'static str {
    match example {
        Value::Bool(_) => "BOOLEAN",
        Value::Int(_) => "INTEGER",
        _ => "TEXT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(kind: Kind) -> Column {
        Column { name: "c".to_owned(), kind, cast: None, nullable: true, generated: false }
    }

    #[test]
    fn values_have_one_text_a_kind() {
        let text = |limit, padded, folded| Kind::Text { limit, padded, folded };
        for (kind, value, expected) in [
            (text(None, false, false), Value::from("Ada "), Some("Ada ")),
            (text(None, false, false), Value::Int(7), Some("7")),
            (text(Some(3), false, false), Value::from("Ädä"), Some("Ädä")),
            (text(Some(3), false, false), Value::from("four"), None),
            (text(None, true, false), Value::from("ab  "), Some("ab")),
            (text(None, false, false), Value::List(vec![]), None),
            (text(None, false, false), Value::from("a\0b"), None),
            (Kind::Int, Value::from(" 12 "), Some("12")),
            (Kind::Int, Value::Float(7.0), Some("7")),
            (Kind::Int, Value::Float(7.5), None),
            (Kind::Int, Value::from("x"), None),
            (Kind::Bool { digits: false }, Value::from("True"), Some("true")),
            (Kind::Bool { digits: true }, Value::Bool(false), Some("0")),
            (Kind::Bool { digits: true }, Value::from("perhaps"), None),
            (Kind::Date, Value::from("2026-03-02"), Some("2026-03-02")),
            (Kind::Date, Value::from("2026-03-02T23:00:00-05:00"), Some("2026-03-02")),
            (Kind::Date, Value::from("2026-02-30"), None),
            (Kind::Time { zone: true }, Value::from("2026-03-02T09:00:00+01:00"), Some("2026-03-02T08:00:00Z")),
            (Kind::Time { zone: true }, Value::from("2026-03-02 08:00:00+00"), Some("2026-03-02T08:00:00Z")),
            (Kind::Time { zone: false }, Value::from("2026-03-02 08:00:00"), Some("2026-03-02T08:00:00")),
            (Kind::Time { zone: false }, Value::from("2026-03-02T09:00:00+01:00"), Some("2026-03-02T08:00:00")),
            (Kind::Decimal, Value::from("+007.500"), Some("7.5")),
            (Kind::Decimal, Value::from("-0.0"), Some("0")),
            (Kind::Decimal, Value::from("."), None),
            (Kind::Float, Value::from("1.50"), Some("1.5")),
            (Kind::Uuid, Value::from("7F1D0C6E52A44F0E9D2B6C6F636B7374"), Some("7f1d0c6e-52a4-4f0e-9d2b-6c6f636b7374")),
        ] {
            let column = column(kind);
            assert_eq!(column.encode(&value).ok().flatten().as_deref(), expected, "{:?} of {value:?}", column.kind);
        }
    }

    #[test]
    fn values_compare_as_they_are_stored() {
        let folded = column(Kind::Text { limit: None, padded: false, folded: true });
        let exact = column(Kind::Text { limit: None, padded: false, folded: false });
        for (column, desired, observed, same) in [
            (&folded, Value::from("Ada"), Value::from("ada"), true),
            (&exact, Value::from("Ada"), Value::from("ada"), false),
            (&exact, Value::Null, Value::Null, true),
            (&exact, Value::Null, Value::from(""), false),
            (&exact, Value::Bool(true), Value::from("true"), true),
            (&column(Kind::Int), Value::from("7"), Value::Int(7), true),
            (&column(Kind::Bool { digits: true }), Value::from("true"), Value::Bool(true), true),
            (&column(Kind::Time { zone: true }), Value::from("2026-03-02"), Value::from("2026-03-02T00:00:00Z"), true),
        ] {
            assert_eq!(column.same(&desired, &observed), same, "{:?}", column.kind);
        }
    }

    #[test]
    fn refusals_name_the_column_and_not_the_value() {
        let mut column = column(Kind::Int);
        column.nullable = false;
        for value in [Value::from("secret"), Value::Null, Value::List(vec!["secret".into()])] {
            let reason = column.encode(&value).unwrap_err();
            assert!(reason.contains("column c") && !reason.contains("secret"), "{reason}");
        }
    }
}
