//! `targets/*.yaml`: a system in which accounts are provisioned, and what an account there looks like.

use super::connector::ConnectorRules;
use super::merged::{Merged, SlotSet};
use super::read::Placed;
use super::{Rule, RuleError};
use crate::model::{Desired, Entitlements, Op, TargetName, Universe, Value};
use smol_str::SmolStr;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug)]
pub struct TargetRules {
    pub name: TargetName,
    /// The file that declares it, and what its connector resolves before it begins: for a check at the start.
    pub file: String,
    pub references: Vec<Placed<String>>,
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
    pub(super) account: AccountRules,
}

/// What an account here looks like.
#[derive(Debug)]
pub(super) struct AccountRules {
    /// Who has one; None: everybody.
    scope: Option<Rule>,
    /// In the order of the file, in which they are evaluated: the first that fails is the one that is named.
    attributes: Vec<(SmolStr, Rule)>,
    /// The places of `attributes` in the order of their names.
    by_name: Vec<usize>,
    grants: Vec<Grant>,
    universe: Universe,
    /// All that the answer depends on.
    reads: SlotSet,
    grants_read: SlotSet,
}

/// What an identity's change means for an account that the same rules have decided before.
#[derive(Debug, PartialEq)]
pub enum Again {
    /// As before.
    Same,
    Other(Desired),
    OutOfScope,
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
    Computed(Box<Rule>),
}

impl Grant {
    fn reads(&self) -> SlotSet {
        let when = self.when.as_ref().map_or(SlotSet::default(), |rule| rule.expression.reads());
        match &self.groups {
            Groups::Computed(rule) => when.union(rule.expression.reads()),
            Groups::Named(_) => when,
        }
    }
}

impl AccountRules {
    pub fn new(scope: Option<Rule>, attributes: Vec<(SmolStr, Rule)>, grants: Vec<Grant>, universe: Universe) -> Self {
        let mut by_name: Vec<usize> = (0..attributes.len()).collect();
        by_name.sort_by(|a, b| attributes[*a].0.cmp(&attributes[*b].0));
        let grants_read = grants.iter().map(Grant::reads).fold(SlotSet::default(), SlotSet::union);
        let rules = scope.iter().chain(attributes.iter().map(|(_, rule)| rule));
        let reads = rules.map(|rule| rule.expression.reads()).fold(grants_read, SlotSet::union);
        Self { scope, attributes, by_name, grants, universe, reads, grants_read }
    }

    fn in_scope(&self, kind: &str, merged: &Merged<'_>) -> Result<bool, RuleError> {
        self.scope.as_ref().map_or(Ok(true), |scope| scope.is_true(merged, kind))
    }
}

impl TargetRules {
    /// The account that an identity of this kind should have here; None: it is out of scope.
    pub fn wants(&self, kind: &str, merged: &Merged<'_>) -> Result<Option<Desired>, RuleError> {
        let account = &self.account;
        if !self.kinds.iter().any(|own| own == kind) || !account.in_scope(kind, merged)? {
            return Ok(None);
        }
        let rules = account.attributes.iter();
        let mut values = rules
            .map(|(name, rule)| self.attribute(name, rule, kind, merged))
            .collect::<Result<Vec<Value>, RuleError>>()?;
        let named = account.by_name.iter().map(|at| {
            let value = std::mem::replace(&mut values[*at], Value::Null);
            (account.attributes[*at].0.clone(), value)
        });
        let attributes = named.collect();
        let entitlements = Entitlements { groups: self.groups(kind, merged)?, universe: account.universe.clone() };
        Ok(Some(Desired { active: true, attributes, entitlements }))
    }

    /// As `wants`, by what may have changed alone: of an account that these very rules, for an identity of this kind, wanted
    /// to be `before`, when no other attributes than the `touched` ones were different.
    pub fn wants_again(
        &self,
        kind: &str,
        merged: &Merged<'_>,
        touched: SlotSet,
        before: &Desired,
    ) -> Result<Again, RuleError> {
        let account = &self.account;
        let is_touched = |rule: &Rule| rule.expression.reads().meets(touched);
        if account.scope.as_ref().is_some_and(is_touched) && !account.in_scope(kind, merged)? {
            return Ok(Again::OutOfScope);
        }
        let mut changed = Vec::new();
        for (name, rule) in account.attributes.iter().filter(|(_, rule)| is_touched(rule)) {
            let value = self.attribute(name, rule, kind, merged)?;
            if before.attributes.get(name) != Some(&value) {
                changed.push((name, value));
            }
        }
        // Two grants may give one group: what one of them no longer gives, only all of them together can tell.
        let groups = match account.grants_read.meets(touched) {
            true => Some(self.groups(kind, merged)?).filter(|groups| *groups != before.entitlements.groups),
            false => None,
        };
        if changed.is_empty() && groups.is_none() {
            return Ok(Again::Same);
        }
        let mut desired = before.clone();
        for (name, value) in changed {
            desired.attributes.insert(name.clone(), value);
        }
        if let Some(groups) = groups {
            desired.entitlements.groups = groups;
        }
        Ok(Again::Other(desired))
    }

    fn attribute(&self, name: &str, rule: &Rule, kind: &str, merged: &Merged<'_>) -> Result<Value, RuleError> {
        match rule.evaluate(merged, kind)? {
            Value::Null if name == self.match_on => {
                Err(rule.error("it gives nothing (null), but accounts are found by it"))
            }
            // Null too: what nobody says any more is to be emptied, not to stay as it was.
            value => Ok(value),
        }
    }

    fn groups(&self, kind: &str, merged: &Merged<'_>) -> Result<BTreeSet<String>, RuleError> {
        let mut groups = BTreeSet::new();
        for grant in &self.account.grants {
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

    fn computed(&self, rule: &Rule, kind: &str, merged: &Merged<'_>) -> Result<Vec<String>, RuleError> {
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
        if let Universe::Authoritative(universe) = &self.account.universe
            && names.iter().any(|name| !universe.contains(name))
        {
            return Err(rule.error("it gives a group that is not in the target's `universe`"));
        }
        Ok(names)
    }

    /// The identity attributes that this target's answer depends on: while none of them changes, neither does the answer.
    pub fn reads(&self) -> SlotSet {
        self.account.reads
    }

    /// The names of the account's attributes.
    pub fn attribute_names(&self) -> impl Iterator<Item = &str> {
        self.account.attributes.iter().map(|(name, _)| name.as_str())
    }

    pub fn universe(&self) -> &Universe {
        &self.account.universe
    }
}
