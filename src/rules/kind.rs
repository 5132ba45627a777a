//! A kind of identity: which sources make it up, whose word counts for each attribute, and when it is to have access.

use super::lifecycle::{Lifecycle, LifecycleRules};
use super::{Rule, RuleError};
use crate::model::{Attributes, SourceName, Timestamp, Value};
use std::collections::BTreeMap;

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
}

/// An attribute of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub source: SourceName,
    pub attribute: String,
}

impl KindRules {
    /// The identity's attributes from its records: of each attribute the first value that is not null, by precedence of
    /// sources, then in the order of the records. What nobody has a value for is not in it.
    pub fn merge(&self, records: &[(&SourceName, &Attributes)]) -> Attributes {
        let value_of = |origin: &Origin| {
            records
                .iter()
                .filter(|(source, _)| **source == origin.source)
                .filter_map(|(_, attributes)| attributes.get(&origin.attribute))
                .find(|value| **value != Value::Null)
        };
        let merged = self
            .attributes
            .iter()
            .filter_map(|(name, origins)| origins.iter().find_map(value_of).map(|value| (name.clone(), value.clone())));
        merged.collect()
    }

    /// Whether it is to have access at `now`, and when that changes by a date.
    pub fn lifecycle(&self, merged: &Attributes, now: Timestamp) -> Result<Lifecycle, RuleError> {
        self.lifecycle.evaluate(&self.name, merged, now)
    }

    /// Whether its removal passes the Guard at once.
    pub fn urgent(&self, merged: &Attributes) -> Result<bool, RuleError> {
        self.urgent.as_ref().map_or(Ok(false), |rule| rule.is_true(merged, &self.name))
    }

    /// Whether the identity's phase depends on the time.
    pub fn is_dated(&self, merged: &Attributes) -> bool {
        let dates = [&self.lifecycle.start, &self.lifecycle.end];
        dates.into_iter().flatten().any(|date| merged.contains_key(&date.attribute))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    const SOURCES: [&str; 3] = ["hr", "idp", "phone"];

    fn kind(precedence: &[usize]) -> KindRules {
        let origins = precedence.iter().map(|at| Origin { source: SOURCES[*at].into(), attribute: "m".to_owned() });
        KindRules {
            name: "person".to_owned(),
            anchor: "hr".into(),
            requires: vec!["hr".into()],
            correlate: Vec::new(),
            attributes: BTreeMap::from([("mobile".to_owned(), origins.collect())]),
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
            let merged = kind(&order).merge(&refs);
            let expected = order.iter().find_map(|source| {
                records.iter().find_map(|(of, value)| value.flatten().filter(|_| of == source))
            });
            prop_assert_eq!(merged.get("mobile").cloned(), expected.map(Value::Int));
        }
    }

    #[test]
    fn records_of_sources_that_no_attribute_names_change_nothing() {
        let other = Attributes::from([("m", Value::Int(1))]);
        assert_eq!(kind(&[0, 1]).merge(&[(&"phone".into(), &other)]), Attributes::default());
    }
}
