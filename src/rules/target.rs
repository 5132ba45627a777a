//! `targets/*.yaml`: a system in which accounts are provisioned, and what an account there looks like.

use super::connector::ConnectorRules;
use super::expression::Expression;
use super::{Rule, RuleError};
use crate::model::{Attributes, Desired, Entitlements, Op, TargetName, Universe, Value};
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug)]
pub struct TargetRules {
    pub name: TargetName,
    /// The kinds of identities that may have an account here.
    pub kinds: Vec<String>,
    /// Of commands and results.
    pub format: PublicFormat,
    pub connector: ConnectorRules,
    /// Of one call.
    pub timeout: Duration,
    /// Calls at once.
    pub concurrency: usize,
    /// The account attribute by which an existing account is found.
    pub match_on: String,
    pub leaver: LeaverRules,
    pub provision_deadline: Duration,
    pub deprovision_deadline: Duration,
    pub(super) scope: Option<Rule>,
    pub(super) attributes: Vec<(String, Rule)>,
    pub(super) grants: Vec<Grant>,
    pub(super) universe: Universe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicFormat {
    Json,
    Avro,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaverRules {
    /// `Op::Disable` or `Op::Delete`.
    pub action: Op,
    /// After a disable.
    pub delete_after: Option<Duration>,
    /// A disabled account follows its person's attributes, and one is made (disabled) for who left before having any.
    pub maintain: bool,
}

/// One rule of entitlements.yaml, as far as it concerns one target.
#[derive(Debug)]
pub struct Grant {
    pub name: String,
    pub when: Option<Rule>,
    pub groups: Groups,
}

#[derive(Debug)]
pub enum Groups {
    Named(BTreeSet<String>),
    Computed(Rule),
}

impl TargetRules {
    /// The account that an identity of this kind should have here; None: it is out of scope.
    pub fn wants(&self, kind: &str, merged: &Attributes) -> Result<Option<Desired>, RuleError> {
        if !self.kinds.iter().any(|own| own == kind) {
            return Ok(None);
        }
        if let Some(scope) = &self.scope
            && !scope.is_true(merged, kind)?
        {
            return Ok(None);
        }
        let mut attributes = Attributes::default();
        for (name, rule) in &self.attributes {
            match rule.evaluate(merged, kind)? {
                Value::Null if *name == self.match_on => {
                    return Err(rule.error("it gives nothing (null), but accounts are found by it"));
                }
                // Null too: what nobody says any more is to be emptied, not to stay as it was.
                value => attributes.insert(name.clone(), value),
            };
        }
        let groups = self.groups(kind, merged)?;
        let entitlements = Entitlements { groups, universe: self.universe.clone() };
        Ok(Some(Desired { active: true, attributes, entitlements }))
    }

    fn groups(&self, kind: &str, merged: &Attributes) -> Result<BTreeSet<String>, RuleError> {
        let mut groups = BTreeSet::new();
        for grant in &self.grants {
            let granted = match &grant.when {
                Some(when) => when.is_true(merged, kind)?,
                None => true,
            };
            if !granted {
                continue;
            }
            match &grant.groups {
                Groups::Named(names) => groups.extend(names.iter().cloned()),
                Groups::Computed(rule) => groups.extend(self.computed(rule, kind, merged)?),
            }
        }
        Ok(groups)
    }

    fn computed(&self, rule: &Rule, kind: &str, merged: &Attributes) -> Result<Vec<String>, RuleError> {
        let names = match rule.evaluate(merged, kind)? {
            Value::Null => return Ok(Vec::new()),
            Value::List(items) => items
                .into_iter()
                .filter(|item| *item != Value::Null)
                .map(|item| match item {
                    Value::Text(name) if !name.is_empty() => Ok(name.to_string()),
                    other => Err(rule.error(&format!("a group's name is {}, not text", other.type_name()))),
                })
                .collect::<Result<Vec<_>, _>>()?,
            other => return Err(rule.error(&format!("it gives {}, not a list of groups", other.type_name()))),
        };
        // What is outside of the universe is not ours to give: a slip here would be granted and never taken back.
        if let Universe::Authoritative(universe) = &self.universe
            && names.iter().any(|name| !universe.contains(name))
        {
            return Err(rule.error("it gives a group that is not in the target's `universe`"));
        }
        Ok(names)
    }

    /// The identity attributes that this target's answer depends on.
    pub fn depends_on(&self) -> BTreeSet<String> {
        let grants = self.grants.iter().flat_map(|grant| {
            let computed = match &grant.groups {
                Groups::Computed(rule) => Some(&rule.expression),
                Groups::Named(_) => None,
            };
            grant.when.as_ref().map(|when| &when.expression).into_iter().chain(computed)
        });
        self.scope
            .iter()
            .map(|rule| &rule.expression)
            .chain(self.attributes.iter().map(|(_, rule)| &rule.expression))
            .chain(grants)
            .flat_map(Expression::depends_on)
            .cloned()
            .collect()
    }

    /// The names of the account's attributes.
    pub fn attribute_names(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(|(name, _)| name.as_str())
    }

    pub fn universe(&self) -> &Universe {
        &self.universe
    }
}
