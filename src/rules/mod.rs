//! The rules: what users write, checked and compiled once, then evaluated for every event.
//!
//! Pure: no file, no clock, no environment. `Bundle::compile` takes the texts of the config folder (all but lockstep.yaml)
//! and gives either compiled rules or every mistake it found, each with its place. The compiled rules answer: what does an
//! identity look like (`KindRules::merge`), is it to have access (`KindRules::lifecycle`), and what should its account at a
//! target be (`TargetRules::wants`). No attribute value ever stands in an error or a `Debug`.

pub mod bundle;
pub mod connector;
pub mod diagnostic;
pub mod example;
pub mod expression;
pub mod function;
pub mod kind;
pub mod lifecycle;
pub mod merged;
pub mod poll;
pub mod read;
pub mod shape;
pub mod source;
pub mod target;
pub mod yaml;

mod check;
mod entitlement;
mod identity;
mod program;
mod steps;
mod syntax;
mod target_draft;

#[cfg(test)]
mod tests;

use crate::model::Value;
use expression::{EvaluationError, Expression};

pub use bundle::{Bundle, GuardLimit, RulesMark};
pub use connector::{ConnectorRules, ScimRules, SqlAccounts, SqlActive, SqlGroups, SqlRules};
pub use diagnostic::{Diagnostic, Place, SourceFile};
pub use example::{TestOutcome, TestReport};
pub use kind::{KindRules, Origin};
pub use lifecycle::{LastDay, Lifecycle, Phase};
pub use merged::{Merged, SlotSet};
pub use poll::{KeycloakLogin, KeycloakPollRules, PollRules};
pub use source::{
    AttributeRule, AttributeType, EventMeaning, EventPath, EventRules, RecordRules, SourceFormat, SourceRules,
    TenantRule, Tombstones, TopicPattern,
};
pub use target::{Again, LeaverRules, PublicFormat, TargetRules};

/// A rule that can't be applied to an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rule at {rule} can't be applied: {reason}")]
pub struct RuleError {
    /// File, line and column, and what is said there; no values.
    pub rule: String,
    /// No values.
    pub reason: String,
}

/// An expression in its place.
#[derive(Debug)]
pub struct Rule {
    pub expression: Expression,
    /// File, line and column, and what is said there.
    pub rule: String,
}

impl Rule {
    fn evaluate(&self, merged: &Merged<'_>, kind: &str) -> Result<Value, RuleError> {
        self.expression.evaluate(merged, kind).map_err(|EvaluationError(reason)| self.error(&reason))
    }

    fn is_true(&self, merged: &Merged<'_>, kind: &str) -> Result<bool, RuleError> {
        self.expression.is_true(merged, kind).map_err(|EvaluationError(reason)| self.error(&reason))
    }

    fn error(&self, reason: &str) -> RuleError {
        RuleError { rule: self.rule.clone(), reason: reason.to_owned() }
    }
}
