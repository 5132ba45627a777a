//! Quiet: at which targets an identity's evaluation left nothing to be done, so that the next one need not look there unless
//! something that these targets' rules read has changed.
//!
//! It is the permission to skip, and holds for one step only: an evaluation takes it away first and gives a new one last.
//! Whatever ends on another way leaves none behind, and without one everything is decided anew.

use super::account::{AccountRow, AccountState, Removal};
use crate::rules::{Bundle, RulesMark};
use serde::{Deserialize, Deserializer, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// The rules that were evaluated, as the release that did it reads them.
    rules: RulesMark,
    /// A bit a target, by its place in the bundle; those beyond the last bit are never quiet.
    targets: u128,
}

impl Quiet {
    pub fn nowhere(rules: &Bundle) -> Self {
        Self { rules: rules.mark(), targets: 0 }
    }

    pub fn is_by(&self, rules: &Bundle) -> bool {
        self.rules == rules.mark()
    }

    pub fn insert(&mut self, target: usize) {
        if let Ok(place) = u32::try_from(target) {
            self.targets |= 1u128.checked_shl(place).unwrap_or(0);
        }
    }

    pub fn contains(&self, target: usize) -> bool {
        u32::try_from(target).ok().and_then(|place| 1u128.checked_shl(place)).is_some_and(|bit| self.targets & bit != 0)
    }
}

/// None where a row ends before it: those of the first version have none, and nothing comes after it.
pub(super) fn or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Quiet>, D::Error> {
    Ok(Option::deserialize(deserializer).unwrap_or_default())
}

impl AccountRow {
    /// It is as it is wanted, and nothing is on its way to change that.
    pub(super) fn is_quiet(&self) -> bool {
        self.state == AccountState::Present
            && self.removal == Removal::None
            && self.clock.is_none()
            && self.delete_due.is_none()
            && self.desired.as_ref().is_some_and(|desired| desired.active)
    }
}

#[cfg(test)]
mod tests;
