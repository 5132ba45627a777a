//! When an identity is to have access: a condition and two dates, in the record's own time zone.
//!
//! Time zones are those built into the binary, so that the same rules give the same answer on every machine.

use super::merged::Merged;
use super::{Rule, RuleError};
use crate::model::{Timestamp, Value};
use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::fmt::temporal::Pieces;
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
    pub fn evaluate(&self, kind: &str, merged: &Merged<'_>, now: Timestamp) -> Result<Lifecycle, RuleError> {
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

    fn dated(&self, merged: &Merged<'_>, now: Timestamp, active: bool) -> Result<Lifecycle, RuleError> {
        let zone = self.zone(merged)?;
        let last_day = match self.last_day {
            LastDay::Included => Edge::AfterLastDay,
            LastDay::Excluded => Edge::Start,
        };
        let end = instant_of(self.end.as_ref(), merged, &zone, last_day)?;
        // The end counts before the start: dates that contradict each other never give access, and a start that nobody can
        // read keeps no leaver in.
        if let Some(end) = end.filter(|end| *end <= now) {
            return Ok(Lifecycle { phase: Phase::Ended, since: Some(end), next: None });
        }
        let start = instant_of(self.start.as_ref(), merged, &zone, Edge::Start)?;
        Ok(match start {
            _ if !active => Lifecycle { phase: Phase::Ended, since: None, next: None },
            Some(start) if start > now => {
                let next = end.map_or(start, |end| end.min(start));
                Lifecycle { phase: Phase::Future, since: None, next: Some(next) }
            }
            start => Lifecycle { phase: Phase::Active, since: start, next: end },
        })
    }

    fn zone(&self, merged: &Merged<'_>) -> Result<TimeZone, RuleError> {
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
    merged: &Merged<'_>,
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

/// Days and instants beyond the last one that can be told are that one: 9999-12-31 is how HR systems write that there is no end.
fn resolve(text: &str, zone: &TimeZone, edge: Edge) -> Option<Timestamp> {
    let instant = match (parse_date(text), edge) {
        (None, _) => parse_instant(text)?,
        (Some(date), Edge::Start) => first_instant(date, zone).unwrap_or(jiff::Timestamp::MAX),
        (Some(date), Edge::AfterLastDay) => {
            date.tomorrow().ok().and_then(|day| first_instant(day, zone)).unwrap_or(jiff::Timestamp::MAX)
        }
    };
    Some(Timestamp(instant.as_millisecond()))
}

/// A day begins with its first instant: at 01:00 where the clocks skip midnight, and a day that a zone skipped is the next.
/// None: it is beyond the last instant.
fn first_instant(day: Date, zone: &TimeZone) -> Option<jiff::Timestamp> {
    let midnight = zone.to_ambiguous_timestamp(day.at(0, 0, 0, 0));
    match midnight.offset() {
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => midnight.compatible().ok(),
        // The clocks skip midnight: the day begins with the jump, wherever in the gap midnight would have been.
        AmbiguousOffset::Gap { .. } => {
            let after = midnight.compatible().ok()?.checked_add(SignedDuration::from_nanos(1)).ok()?;
            Some(zone.preceding(after).next()?.timestamp())
        }
    }
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

/// As in RFC 3339. jiff's last instant is 9999-12-30T22:00:00.999Z: what the year 9999 has after it, is it.
fn parse_instant(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok().or_else(|| {
        let pieces = Pieces::parse(text).ok()?;
        let beyond = pieces.date().year() == Date::MAX.year() && pieces.time().is_some() && pieces.offset().is_some();
        beyond.then_some(jiff::Timestamp::MAX)
    })
}

/// Whether a text is a date or an instant as the lifecycle reads it.
pub fn is_date(text: &str) -> bool {
    parse_date(text).is_some() || parse_instant(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Attributes;
    use crate::rules::merged::Slots;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn rules(last_day: LastDay, zone: &str) -> LifecycleRules {
        let date = |name: &str| Some(DateRule { attribute: name.to_owned(), rule: "identity.yaml:1:1".to_owned() });
        let otherwise = time_zone(zone).unwrap();
        let zone =
            ZoneRule::Attribute { attribute: "zone".to_owned(), otherwise, rule: "identity.yaml:2:1".to_owned() };
        LifecycleRules { active: None, start: date("start"), end: date("end"), last_day, zone }
    }

    fn seen(attributes: &Attributes) -> Merged<'_> {
        Merged::of(&Slots::new(["start", "end", "zone"]), attributes)
    }

    fn dates(start: &str, end: &str) -> Attributes {
        let all = [("start", start), ("end", end)];
        all.into_iter().map(|(name, text)| (name, Value::text(text))).collect()
    }

    #[test]
    fn a_date_is_a_day_of_its_zone_and_the_last_day_counts_as_the_rule_says() {
        use LastDay::{Excluded, Included};
        for (zone, last_day, start, end, expected_start, expected_end) in [
            ("UTC", Included, "2026-03-02", "2026-05-31", "2026-03-02T00:00:00Z", "2026-06-01T00:00:00Z"),
            ("UTC", Excluded, "2026-03-02", "2026-05-31", "2026-03-02T00:00:00Z", "2026-05-31T00:00:00Z"),
            ("Europe/Berlin", Included, "2026-03-02", "2026-05-31", "2026-03-01T23:00:00Z", "2026-05-31T22:00:00Z"),
            ("Asia/Tokyo", Included, "2026-03-02", "2026-05-31", "2026-03-01T15:00:00Z", "2026-05-31T15:00:00Z"),
            // An instant is an instant, last day or not.
            (
                "Asia/Tokyo",
                Included,
                "2026-03-02T09:00:00+01:00",
                "2026-05-31T17:00:00Z",
                "2026-03-02T08:00:00Z",
                "2026-05-31T17:00:00Z",
            ),
            // The clocks go forward within the day, or at its very beginning (Beirut, midnight to one).
            ("Europe/Berlin", Included, "2026-03-29", "2026-03-29", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            ("Asia/Beirut", Included, "2026-03-29", "2026-03-29", "2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"),
            // From 23:30 to 00:30: the day begins with the jump (Toronto, 1919).
            ("America/Toronto", Included, "1919-03-31", "1919-03-31", "1919-03-31T04:30:00Z", "1919-04-01T04:00:00Z"),
            // Samoa had no 30 December 2011.
            ("Pacific/Apia", Included, "2011-12-30", "2011-12-30", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z"),
            ("UTC", Included, "2024-02-29", "2024-02-29", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"),
        ] {
            let zone_of = time_zone(zone).unwrap();
            let edge = if last_day == Included { Edge::AfterLastDay } else { Edge::Start };
            assert_eq!(resolve(start, &zone_of, Edge::Start), Some(at(expected_start)), "start {start} {zone}");
            assert_eq!(resolve(end, &zone_of, edge), Some(at(expected_end)), "end {end} {zone}");
        }
    }

    #[test]
    fn a_phase_says_since_when_and_until_when() {
        let lifecycle = |phase, since: Option<&str>, next: Option<&str>| Lifecycle {
            phase,
            since: since.map(at),
            next: next.map(at),
        };
        let (first, over) = ("2026-03-02T00:00:00Z", "2026-06-01T00:00:00Z");
        for (start, end, now, expected) in [
            ("2026-03-02", "2026-05-31", "2026-03-01T23:59:59Z", lifecycle(Phase::Future, None, Some(first))),
            ("2026-03-02", "2026-05-31", first, lifecycle(Phase::Active, Some(first), Some(over))),
            ("2026-03-02", "2026-05-31", "2026-05-31T23:59:59Z", lifecycle(Phase::Active, Some(first), Some(over))),
            ("2026-03-02", "2026-05-31", over, lifecycle(Phase::Ended, Some(over), None)),
            ("", "", "2026-05-31T23:59:59Z", lifecycle(Phase::Active, None, None)),
            ("2026-03-02", "", "2099-01-01T00:00:00Z", lifecycle(Phase::Active, Some(first), None)),
            // Dates that contradict each other never give access.
            ("2026-07-01", "2026-05-31", "2026-05-01T00:00:00Z", lifecycle(Phase::Future, None, Some(over))),
            ("2026-07-01", "2026-05-31", "2026-08-01T00:00:00Z", lifecycle(Phase::Ended, Some(over), None)),
        ] {
            let found = rules(LastDay::Included, "UTC").evaluate("person", &seen(&dates(start, end)), at(now)).unwrap();
            assert_eq!(found, expected, "{start} {end} at {now}");
        }
    }

    #[test]
    fn a_date_that_means_no_end_is_the_last_instant_and_hides_nothing() {
        let last = Timestamp(jiff::Timestamp::MAX.as_millisecond());
        let later = [
            "9999-12-31",
            "9999-12-31T00:00:00Z",
            "9999-12-31T23:59:59.999Z",
            "9999-12-31T00:00:00-12:00",
            "9999-12-31T23:59:59+14:00",
        ];
        for zone in ["UTC", "Europe/Berlin", "Pacific/Kiritimati", "Etc/GMT+12"] {
            for edge in [Edge::Start, Edge::AfterLastDay] {
                for text in later {
                    let found = resolve(text, &time_zone(zone).unwrap(), edge).expect(text);
                    assert!(found <= last && found > at("9999-12-30T00:00:00Z"), "{text} {zone}");
                }
            }
            assert_eq!(resolve("9999-12-31", &time_zone(zone).unwrap(), Edge::AfterLastDay), Some(last), "{zone}");
            let rules = rules(LastDay::Included, zone);
            let now = at("2026-06-01T00:00:00Z");
            let found = rules.evaluate("person", &seen(&dates("2026-03-02", "9999-12-31")), now).unwrap();
            assert_eq!((found.phase, found.next), (Phase::Active, Some(last)), "{zone}");
            let never = rules.evaluate("person", &seen(&dates("9999-12-31", "9999-12-31")), now).unwrap();
            assert_eq!(never.phase, Phase::Future, "{zone}");
            let over = rules.evaluate("person", &seen(&dates("9999-12-31", "2026-05-01")), now).unwrap();
            assert_eq!(over.phase, Phase::Ended, "{zone}");
        }
        for text in
            ["9999-12-32", "9999-12-31T00:00:00", "9999-12-31T24:00:00Z", "9999-12-31Z", "10000-01-01T00:00:00Z"]
        {
            assert!(!is_date(text) && resolve(text, &TimeZone::UTC, Edge::Start).is_none(), "{text}");
        }
    }

    #[test]
    fn a_start_that_nobody_can_read_hides_no_end_that_has_passed() {
        let rules = rules(LastDay::Included, "UTC");
        let over = at("2026-06-01T00:00:00Z");
        let found = rules.evaluate("person", &seen(&dates("soon", "2026-05-31")), over).unwrap();
        assert_eq!(found, Lifecycle { phase: Phase::Ended, since: Some(over), next: None });
        let before = rules.evaluate("person", &seen(&dates("soon", "2026-05-31")), Timestamp(over.0 - 1)).unwrap_err();
        assert!(before.reason.starts_with("`start` is not a date"), "{before}");
    }

    #[test]
    fn what_is_no_date_or_no_zone_is_an_error_without_its_value() {
        let wrong = [
            "soon",
            "2026-13-01",
            "2026-02-30",
            "02/03/2026",
            "2026-3-2",
            "2026-03-02T09:00:00",
            "20260302",
            "2026-03-02 ",
        ];
        for text in wrong {
            let error =
                rules(LastDay::Included, "UTC").evaluate("person", &seen(&dates(text, "")), at("2026-01-01T00:00:00Z"));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("`start` is not a date") && !error.contains(text), "{error}");
        }
        let mut number = dates("2026-03-02", "");
        number.insert("end".to_owned(), Value::Int(20260302));
        let error = rules(LastDay::Included, "UTC").evaluate("person", &seen(&number), Timestamp(0)).unwrap_err();
        assert!(error.reason.starts_with("`end` is int, not a date"), "{error}");
        let mut nowhere = dates("2026-03-02", "");
        nowhere.insert("zone".to_owned(), "Nowhere/Hopper".into());
        let error = rules(LastDay::Included, "UTC").evaluate("person", &seen(&nowhere), Timestamp(0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the rule at identity.yaml:2:1 can't be applied: `zone` is not the name of a time zone"
        );
    }

    proptest! {
        /// Phases only ever go forward, change where `next` says, and `since` is never later than now.
        #[test]
        fn phases_follow_each_other_where_next_says(
            start in 0i64..20_000, length in -400i64..4000, now in -1000i64..25_000, zone in 0usize..6, included: bool,
        ) {
            let zone = ["UTC", "Europe/Berlin", "Asia/Tokyo", "America/St_Johns", "Pacific/Apia", "Asia/Beirut"][zone];
            let day = |days: i64| {
                jiff::civil::date(1980, 1, 1).checked_add(jiff::Span::new().days(days)).unwrap().to_string()
            };
            let rules = rules(if included { LastDay::Included } else { LastDay::Excluded }, zone);
            let merged = dates(&day(start), &day(start + length));
            let now = Timestamp(now * 86_400_000 + 315_532_800_000);
            let found = rules.evaluate("person", &seen(&merged), now).unwrap();
            prop_assert!(found.since.is_none_or(|since| since <= now));
            if let Some(next) = found.next {
                prop_assert!(next > now);
                let before = rules.evaluate("person", &seen(&merged), Timestamp(next.0 - 1)).unwrap();
                prop_assert_eq!(before, found);
                let after = rules.evaluate("person", &seen(&merged), next).unwrap();
                prop_assert_ne!(after.phase, found.phase);
                prop_assert_eq!(after.since, Some(next));
            } else {
                prop_assert_eq!(found.phase, Phase::Ended);
            }
        }
    }
}
