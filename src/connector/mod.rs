//! Connectors carry commands out in a target. One trait, one contract suite (`tests/contract`), the same files each.
//!
//! A connector reads, applies, lists and says what it can. It keeps no state of an account, never retries, and never sleeps:
//! retry, order, rate and verification are the lanes' (`crate::lane`, `crate::worker`). Every call has a time-out, given by
//! its caller. Errors carry a class and a sentence without attribute values.

pub mod scim;
pub mod sql;

use crate::model::{AccountId, Attributes, Desired, ErrorClass, Op};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::time::Duration;

/// An account as the target shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub external_id: String,
    pub active: bool,
    /// Under the names the rules use, and only those the mapping knows.
    pub attributes: Attributes,
    /// None where the target can't say.
    pub groups: Option<BTreeSet<String>>,
    /// The account id Lockstep left there (SCIM `externalId`, a column), where the target keeps one.
    pub owner: Option<String>,
    /// The target's own version (SCIM ETag), where it has one.
    pub version: Option<String>,
}

/// How an account is found: by the target's own id if known, else by Lockstep's account id, else by the match attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    pub account: AccountId,
    pub external_id: Option<String>,
    /// The match attribute's name and value.
    pub match_on: Option<(String, String)>,
}

/// What to make true.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub op: Op,
    pub lookup: Lookup,
    pub desired: Desired,
    /// Groups to be removed even under `additive`: Lockstep granted them before.
    pub revoked: BTreeSet<String>,
    /// What a read just before showed; None: it was not read, or is not there.
    pub observed: Option<Observed>,
    pub idempotency_key: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// None after a delete.
    pub external_id: Option<String>,
}

/// One page of `list`.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub accounts: Vec<Observed>,
    /// Where the next page begins; None: this was the last.
    pub next: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub groups: bool,
    pub disable: bool,
    pub delete: bool,
    pub list: bool,
    /// The target keeps Lockstep's account id, so an account that is ours is known for sure.
    pub owner: bool,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {message}")]
pub struct CallError {
    pub class: ErrorClass,
    /// For the operator; no attribute values.
    pub message: String,
    /// How long the target asked to be left alone.
    pub retry_after: Option<Duration>,
}

impl CallError {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), retry_after: None }
    }
}

#[async_trait]
pub trait Connector: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// The account, or None where there is none. More than one match is `ErrorClass::Uniqueness`.
    async fn read(&self, lookup: &Lookup) -> Result<Option<Observed>, CallError>;

    /// Makes the change. Create on an account that is there and ours (or unowned: the match attribute finds it) is an update;
    /// on one that is another's it is `Uniqueness`. Delete and disable of one that is gone is `AlreadyGone`; update or enable
    /// of one that is gone is `MissingOnUpdate`: a disable never creates.
    async fn apply(&self, change: &Change) -> Result<Applied, CallError>;

    /// All accounts, a page at a time, from `cursor` (None: the beginning).
    async fn list(&self, cursor: Option<&str>) -> Result<Page, CallError>;

    /// Which of the desired attributes, `active` and groups the target shows otherwise, by name. Empty: verified.
    /// Compares as the target stores: case, missing and empty, order of lists, as this connector knows it.
    fn differences(
        &self,
        op: Op,
        desired: &Desired,
        revoked: &BTreeSet<String>,
        observed: Option<&Observed>,
    ) -> Vec<String>;
}
