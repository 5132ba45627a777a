//! What a step sees and what it leaves behind.

use super::MAX_EFFECTS;
use super::account::AccountRow;
use crate::model::envelope::{self, EnvelopeError};
use crate::model::{
    AccountId, Address, Alert, Body, Cause, Command, Decision, DecisionKind, IdentityId, TargetName, TenantId,
    Timestamp,
};
use crate::rules::Bundle;
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol_str::SmolStr;
use std::borrow::Cow;

/// An event with the time at which it is handled.
#[derive(Clone, Debug)]
pub struct Stamped {
    pub now: Timestamp,
    pub body: Body,
    pub cause: Cause,
}

/// An entity's own rows: `""` is its head. The runtime looks them up; a step can reach no other entity's.
pub trait Rows {
    fn get(&self, row: &str) -> Option<Cow<'_, [u8]>>;
    /// Rows whose name begins with `prefix`, in order of their names, at most `limit`; from behind the row `after` on.
    fn scan_after(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(SmolStr, Cow<'_, [u8]>)>;

    /// From the first on.
    fn scan(&self, prefix: &str, limit: usize) -> Vec<(SmolStr, Cow<'_, [u8]>)> {
        self.scan_after(prefix, None, limit)
    }
}

/// Everything that a step changes and wants done.
#[derive(Debug, Default, PartialEq)]
pub struct Transition {
    /// Rows by name; None deletes.
    pub writes: Vec<(SmolStr, Option<Vec<u8>>)>,
    /// In the order in which they were decided.
    pub effects: Vec<Effect>,
    /// Account rows among the writes, and whether something about each is open: a deprovision's clock, a dead letter.
    pub accounts: Vec<(SmolStr, bool)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Send {
        to: Address,
        body: Body,
    },
    Emit(Emission),
    /// One timer a name: setting it again moves it.
    SetTimer {
        name: SmolStr,
        due: Timestamp,
    },
    ClearTimer {
        name: SmolStr,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Emission {
    Command(Box<Command>),
    Decision(Decision),
    Alert(Alert),
    /// Takes an account's dead letter off the list.
    DeadLetterClosed {
        target: TargetName,
        account: AccountId,
    },
}

/// Why an entity can't take an event; it is quarantined with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("its {} can't be read: {error}", named(.row))]
    Undecodable { row: String, error: EnvelopeError },
    #[error("{entity} has no use for {message}: a bug in whoever sent it")]
    Misdirected { entity: &'static str, message: &'static str },
}

fn named(row: &str) -> String {
    if row == super::key::HEAD { "head".to_owned() } else { format!("row {row:?}") }
}

/// What a step may still emit when it takes up one more target: twice what the longest way through one comes to.
const MOST_EFFECTS_A_TARGET: usize = 32;

/// The step in progress: reads see its own writes.
pub(super) struct Step<'a> {
    rows: &'a dyn Rows,
    pub rules: &'a Bundle,
    pub now: Timestamp,
    pub cause: Cause,
    done: Transition,
}

impl<'a> Step<'a> {
    pub fn new(rows: &'a dyn Rows, rules: &'a Bundle, now: Timestamp, cause: Cause) -> Self {
        Self { rows, rules, now, cause, done: Transition::default() }
    }

    pub fn finish(self) -> Transition {
        self.done
    }

    pub fn get<T: DeserializeOwned>(&self, row: &str) -> Result<Option<T>, StepError> {
        if let Some((_, written)) = self.done.writes.iter().rev().find(|(name, _)| name == row) {
            return written.as_deref().map(|bytes| decode(row, bytes)).transpose();
        }
        self.rows.get(row).map(|bytes| decode(row, &bytes)).transpose()
    }

    /// Whether this step has taken the row away.
    pub fn has_deleted(&self, row: &str) -> bool {
        self.done.writes.iter().any(|(name, value)| name == row && value.is_none())
    }

    /// As it was before this step.
    pub fn scan<T: DeserializeOwned>(&self, prefix: &str, limit: usize) -> Result<Vec<(SmolStr, T)>, StepError> {
        self.rows
            .scan(prefix, limit)
            .into_iter()
            .map(|(name, bytes)| decode(&name, &bytes).map(|row| (name, row)))
            .collect()
    }

    /// As `scan`, from behind the row `after` on.
    pub fn scan_after<T: DeserializeOwned>(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(SmolStr, T)>, StepError> {
        let rows = self.rows.scan_after(prefix, Some(after), limit).into_iter();
        rows.map(|(name, bytes)| decode(&name, &bytes).map(|row| (name, row))).collect()
    }

    /// No further target fits into this step: what is left over is for a Continue.
    pub fn is_full(&self) -> bool {
        self.done.effects.len() + MOST_EFFECTS_A_TARGET >= MAX_EFFECTS
    }

    pub fn put<T: Serialize>(&mut self, row: impl Into<SmolStr>, value: &T) {
        self.write(row.into(), Some(envelope::seal(value)));
    }

    pub fn put_account(&mut self, account: &AccountRow) {
        let row = AccountRow::row(&account.target);
        self.put(row.clone(), account);
        self.done.accounts.push((row, account.is_open()));
    }

    pub fn delete(&mut self, row: impl Into<SmolStr>) {
        self.write(row.into(), None);
    }

    fn write(&mut self, row: SmolStr, value: Option<Vec<u8>>) {
        match self.done.writes.iter_mut().find(|(name, _)| *name == row) {
            Some(written) => written.1 = value,
            None => self.done.writes.push((row, value)),
        }
    }

    pub fn send(&mut self, to: Address, body: Body) {
        self.done.effects.push(Effect::Send { to, body });
    }

    pub fn emit(&mut self, emission: Emission) {
        self.done.effects.push(Effect::Emit(emission));
    }

    pub fn set_timer(&mut self, name: impl Into<SmolStr>, due: Timestamp) {
        self.done.effects.push(Effect::SetTimer { name: name.into(), due });
    }

    pub fn clear_timer(&mut self, name: impl Into<SmolStr>) {
        self.done.effects.push(Effect::ClearTimer { name: name.into() });
    }

    pub fn alert(&mut self, alert: Alert) {
        self.emit(Emission::Alert(alert));
    }

    /// A line of the audit about an identity as a whole.
    pub fn decide(&mut self, tenant: &TenantId, identity: Option<&IdentityId>, kind: DecisionKind) {
        let decision = Decision {
            tenant: tenant.clone(),
            identity: identity.cloned(),
            target: None,
            account: None,
            generation: None,
            kind,
            cause: self.cause.event.clone(),
            source_time: self.cause.time,
            at: self.now,
        };
        self.emit(Emission::Decision(decision));
    }
}

fn decode<T: DeserializeOwned>(row: &str, bytes: &[u8]) -> Result<T, StepError> {
    envelope::open(bytes).map_err(|error| StepError::Undecodable { row: row.to_owned(), error })
}
