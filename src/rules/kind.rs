//! A kind of identity: which sources make it up, whose word counts for each attribute, and when it is to have access.

use super::lifecycle::{Lifecycle, LifecycleRules};
use super::merged::{Merged, Slot, SlotSet, Slots};
use super::{Rule, RuleError};
use crate::model::{Attributes, SourceName, Timestamp, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub struct KindRules {
    pub name: String,
    /// Its records mint the identities.
    pub anchor: SourceName,
    /// Sources that must have a record before accounts are wanted.
    pub requires: Vec<SourceName>,
    /// Attributes by which the other sources' records are linked, in the order they are tried.
    pub correlate: Vec<String>,
    /// Identity attribute: who is asked for it, the first first.
    pub attributes: BTreeMap<String, Vec<Origin>>,
    pub(super) lifecycle: LifecycleRules,
    pub(super) urgent: Option<Rule>,
    pub(super) feeds: Feeds,
}

/// An attribute of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub source: SourceName,
    pub attribute: String,
}

/// `attributes` the other way round, as records come: by source, then by the name that the source has for it.
#[derive(Debug)]
pub(super) struct Feeds {
    slots: Arc<Slots>,
    sources: Vec<(SourceName, Vec<Feed>)>,
}

#[derive(Debug)]
struct Feed {
    /// The source's name for it.
    attribute: String,
    slot: Slot,
    /// Its place in the attribute's precedence.
    rank: usize,
}

impl Feeds {
    pub fn new(attributes: &BTreeMap<String, Vec<Origin>>, slots: &Arc<Slots>) -> Self {
        let mut sources: Vec<(SourceName, Vec<Feed>)> = Vec::new();
        for (name, origins) in attributes {
            let Some(slot) = slots.of(name) else { continue };
            for (rank, origin) in origins.iter().enumerate() {
                let feed = Feed { attribute: origin.attribute.clone(), slot, rank };
                match sources.iter_mut().find(|(source, _)| *source == origin.source) {
                    Some((_, feeds)) => feeds.push(feed),
                    None => sources.push((origin.source.clone(), vec![feed])),
                }
            }
        }
        for (_, feeds) in &mut sources {
            feeds.sort_by(|a, b| a.attribute.cmp(&b.attribute));
        }
        Self { slots: Arc::clone(slots), sources }
    }

    fn of(&self, source: &SourceName) -> &[Feed] {
        self.sources.iter().find(|(own, _)| own == source).map_or(&[], |(_, feeds)| feeds)
    }
}

impl KindRules {
    /// The identity's attributes from its records: of each attribute the first value that is not null, by precedence of
    /// sources, then in the order of the records. What nobody has a value for is not in it.
    pub fn merge<'a>(&self, records: &[(&SourceName, &'a Attributes)]) -> Merged<'a> {
        let mut merged = Merged::nothing(&self.feeds.slots);
        for (source, attributes) in records {
            // Both are sorted by name: one way through them.
            let mut feeds = self.feeds.of(source).iter().peekable();
            for (name, value) in attributes.iter().filter(|(_, value)| **value != Value::Null) {
                while feeds.next_if(|feed| feed.attribute.as_str() < name.as_str()).is_some() {}
                while let Some(feed) = feeds.next_if(|feed| feed.attribute.as_str() == name.as_str()) {
                    merged.offer(feed.slot, value, feed.rank);
                }
            }
        }
        merged
    }

    /// Attributes that are merged already, as rules see them.
    pub fn merged<'a>(&self, attributes: &'a Attributes) -> Merged<'a> {
        Merged::of(&self.feeds.slots, attributes)
    }

    /// The attributes that may have another value after a source's record has changed. Any other has the one it had.
    pub fn touched(&self, source: &SourceName, before: &Attributes, after: &Attributes) -> SlotSet {
        let feeds = self.feeds.of(source);
        let mut touched = SlotSet::default();
        differing(before, after, |name| {
            let from = feeds.partition_point(|feed| feed.attribute.as_str() < name);
            let same = feeds[from..].iter().take_while(|feed| feed.attribute == name);
            same.for_each(|feed| touched.insert(feed.slot));
        });
        touched
    }

    /// Whether it is to have access at `now`, and when that changes by a date.
    pub fn lifecycle(&self, merged: &Merged<'_>, now: Timestamp) -> Result<Lifecycle, RuleError> {
        self.lifecycle.evaluate(&self.name, merged, now)
    }

    /// Whether its removal passes the Guard at once.
    pub fn urgent(&self, merged: &Merged<'_>) -> Result<bool, RuleError> {
        self.urgent.as_ref().map_or(Ok(false), |rule| rule.is_true(merged, &self.name))
    }

    /// Whether the identity's phase depends on the time.
    pub fn is_dated(&self, merged: &Merged<'_>) -> bool {
        let dates = [&self.lifecycle.start, &self.lifecycle.end];
        dates.into_iter().flatten().any(|date| merged.get(&date.attribute).is_some())
    }

    /// All sources whose records make it up, the anchor first.
    pub fn sources(&self) -> Vec<&SourceName> {
        let mut sources = vec![&self.anchor];
        for source in self.attributes.values().flatten().map(|origin| &origin.source).chain(&self.requires) {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources
    }
}

/// Tells the names under which two sets of attributes hold different values; null is no value.
fn differing(before: &Attributes, after: &Attributes, mut tell: impl FnMut(&str)) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((one, _)), Some((other, _))) => one.cmp(other),
        };
        let (old, new) = (before.next_if(|_| order.is_le()), after.next_if(|_| order.is_ge()));
        let Some((name, _)) = old.or(new) else { return };
        let value = |side: Option<(_, _)>| side.map_or(&Value::Null, |(_, value)| value);
        if !same(value(old), value(new)) {
            tell(name);
        }
    }
}

/// Whether no rule can tell them apart: 0.0 and -0.0 are equal, and give different texts.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => one.to_bits() == other.to_bits(),
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    const SOURCES: [&str; 3] = ["hr", "idp", "phone"];

    fn kind(precedence: &[usize]) -> KindRules {
        let origins = precedence.iter().map(|at| Origin { source: SOURCES[*at].into(), attribute: "m".to_owned() });
        let attributes = BTreeMap::from([("mobile".to_owned(), origins.collect())]);
        KindRules {
            name: "person".to_owned(),
            anchor: "hr".into(),
            requires: vec!["hr".into()],
            correlate: Vec::new(),
            feeds: Feeds::new(&attributes, &Slots::new(["mobile"])),
            attributes,
            lifecycle: LifecycleRules::default(),
            urgent: None,
        }
    }

    proptest! {
        /// The value is that of the first source in precedence with one that isn't null, and of its first such record.
        #[test]
        fn precedence_decides_and_null_never_wins(
            order in Just(vec![0usize, 1, 2]).prop_shuffle(),
            records in vec((0usize..3, option::of(option::of(0i64..5))), 0..8),
        ) {
            let held: Vec<(SourceName, Attributes)> = records
                .iter()
                .map(|(source, value)| {
                    let value = value.map(|value| ("m".to_owned(), value.map_or(Value::Null, Value::Int)));
                    (SOURCES[*source].into(), value.into_iter().collect())
                })
                .collect();
            let refs: Vec<_> = held.iter().map(|(source, attributes)| (source, attributes)).collect();
            let kind = kind(&order);
            let merged = kind.merge(&refs);
            let expected = order.iter().find_map(|source| {
                records.iter().find_map(|(of, value)| value.flatten().filter(|_| of == source))
            });
            prop_assert_eq!(merged.get("mobile").cloned(), expected.map(Value::Int));
        }
    }

    #[test]
    fn records_of_sources_that_no_attribute_names_change_nothing() {
        let other = Attributes::from([("m", Value::Int(1))]);
        assert_eq!(kind(&[0, 1]).merge(&[(&"phone".into(), &other)]).to_attributes(), Attributes::default());
    }
}
