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
        Attributes(merged.collect())
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
