//! When an identity is to have access: a condition and two dates, in the record's own time zone.
//!
//! Time zones are those built into the binary, so that the same rules give the same answer on every machine.

use super::{Rule, RuleError};
use crate::model::{Attributes, Timestamp, Value};
use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

static TIME_ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Where an identity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    pub phase: Phase,
    /// The instant of the start or end that made the phase, if a date did.
    pub since: Option<Timestamp>,
    /// When the phase will change by a date.
    pub next: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Its start is still to come.
    Future,
    Active,
    /// Its end is past, or its condition says no.
    Ended,
}

#[derive(Debug, Default)]
pub(super) struct LifecycleRules {
    /// None: always.
    pub active: Option<Rule>,
    pub start: Option<DateRule>,
    pub end: Option<DateRule>,
    pub last_day: LastDay,
    pub zone: ZoneRule,
}

/// An identity attribute that holds a date.
#[derive(Debug)]
pub(super) struct DateRule {
    pub attribute: String,
    /// File and place.
    pub rule: String,
}

/// Whether somebody whose end is the 31st works on the 31st.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastDay {
    #[default]
    Included,
    Excluded,
}

#[derive(Debug)]
pub(super) enum ZoneRule {
    Fixed(TimeZone),
    Attribute { attribute: String, otherwise: TimeZone, rule: String },
}

impl Default for ZoneRule {
    fn default() -> Self {
        Self::Fixed(TimeZone::UTC)
    }
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Future => "future",
            Self::Active => "active",
            Self::Ended => "ended",
        }
    }
}

impl LifecycleRules {
    pub fn evaluate(&self, kind: &str, merged: &Attributes, now: Timestamp) -> Result<Lifecycle, RuleError> {
        let active = match &self.active {
            Some(rule) => rule.is_true(merged, kind)?,
            None => true,
        };
        match self.dated(merged, now, active) {
            // A date that nobody can read must not keep a leaver in.
            Err(_) if !active => Ok(Lifecycle { phase: Phase::Ended, since: None, next: None }),
            lifecycle => lifecycle,
        }
    }

    fn dated(&self, merged: &Attributes, now: Timestamp, active: bool) -> Result<Lifecycle, RuleError> {
        let zone = self.zone(merged)?;
        let start = instant_of(self.start.as_ref(), merged, &zone, Edge::Start)?;
        let last_day = match self.last_day {
            LastDay::Included => Edge::AfterLastDay,
            LastDay::Excluded => Edge::Start,
        };
        let end = instant_of(self.end.as_ref(), merged, &zone, last_day)?;
        // The end counts before the start: dates that contradict each other never give access.
        let ended = end.filter(|end| *end <= now);
        Ok(match (ended, start) {
            (Some(end), _) => Lifecycle { phase: Phase::Ended, since: Some(end), next: None },
            (None, _) if !active => Lifecycle { phase: Phase::Ended, since: None, next: None },
            (None, Some(start)) if start > now => {
                let next = end.map_or(start, |end| end.min(start));
                Lifecycle { phase: Phase::Future, since: None, next: Some(next) }
            }
            (None, start) => Lifecycle { phase: Phase::Active, since: start, next: end },
        })
    }

    fn zone(&self, merged: &Attributes) -> Result<TimeZone, RuleError> {
        match &self.zone {
            ZoneRule::Fixed(zone) => Ok(zone.clone()),
            ZoneRule::Attribute { attribute, otherwise, rule } => match merged.get(attribute) {
                None | Some(Value::Null) => Ok(otherwise.clone()),
                Some(Value::Text(name)) => time_zone(name).ok_or_else(|| RuleError {
                    rule: rule.clone(),
                    reason: format!("`{attribute}` is not the name of a time zone"),
                }),
                Some(other) => Err(RuleError {
                    rule: rule.clone(),
                    reason: format!("`{attribute}` is {}, not the name of a time zone", other.type_name()),
                }),
            },
        }
    }
}

/// An IANA name: `Europe/Berlin`, `UTC`.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    TIME_ZONES.get(name).ok()
}

/// Names near to one that is not known.
pub(super) fn time_zone_names() -> Vec<String> {
    TIME_ZONES.available().map(|name| name.to_string()).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// The first instant of the day.
    Start,
    /// The first instant of the following day.
    AfterLastDay,
}

fn instant_of(
    rule: Option<&DateRule>,
    merged: &Attributes,
    zone: &TimeZone,
    edge: Edge,
) -> Result<Option<Timestamp>, RuleError> {
    let Some(DateRule { attribute, rule }) = rule else { return Ok(None) };
    let wrong = |what: &str| RuleError {
        rule: rule.clone(),
        reason: format!("`{attribute}` {what}: a date is written YYYY-MM-DD, an instant as in RFC 3339"),
    };
    match merged.get(attribute) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Text(text)) if text.is_empty() => Ok(None),
        Some(Value::Text(text)) => resolve(text, zone, edge).map(Some).ok_or_else(|| wrong("is not a date")),
        Some(other) => Err(wrong(&format!("is {}, not a date", other.type_name()))),
    }
}

/// A day begins with its first instant: at 01:00 where the clocks skip midnight, and a day that a zone skipped is the next.
fn resolve(text: &str, zone: &TimeZone, edge: Edge) -> Option<Timestamp> {
    let Some(date) = parse_date(text) else {
        let instant: jiff::Timestamp = text.parse().ok()?;
        return Some(Timestamp(instant.as_millisecond()));
    };
    let day = match edge {
        Edge::Start => date,
        Edge::AfterLastDay => date.tomorrow().ok()?,
    };
    let midnight = zone.to_ambiguous_timestamp(day.at(0, 0, 0, 0));
    let first = match midnight.offset() {
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => midnight.compatible().ok()?,
        // The clocks skip midnight: the day begins with the jump, wherever in the gap midnight would have been.
        AmbiguousOffset::Gap { .. } => {
            let after = midnight.compatible().ok()?.checked_add(SignedDuration::from_nanos(1)).ok()?;
            zone.preceding(after).next()?.timestamp()
        }
    };
    Some(Timestamp(first.as_millisecond()))
}

/// `YYYY-MM-DD` and nothing else: jiff itself would take the date out of a date and time.
fn parse_date(text: &str) -> Option<Date> {
    let shape = text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| match i {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        });
    shape.then(|| text.parse().ok()).flatten()
}

/// Whether a text is a date or an instant as the lifecycle reads it.
pub fn is_date(text: &str) -> bool {
    parse_date(text).is_some() || text.parse::<jiff::Timestamp>().is_ok()
}
