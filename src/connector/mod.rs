//! Connectors carry commands out in a target. One trait, one contract suite (`tests/contract`), the same files each.
//!
//! A connector reads, applies, lists and says what it can. It keeps no state of an account, never retries, and never sleeps:
//! retry, order, rate and verification are the lanes' (`crate::lane`, `crate::worker`). Every call has a time-out, given by
//! its caller. Errors carry a class and a sentence without attribute values.

pub mod scim;
pub mod sql;

use crate::model::{AccountId, Attributes, Desired, Entitlements, ErrorClass, Op, Universe};
use crate::rules::ConnectorRules;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// An account as the target shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub external_id: String,
    pub active: bool,
    /// Under the names the rules use, and only those the mapping knows.
    pub attributes: Attributes,
    /// None where the target can't say, and where access is to end: then they aren't asked for.
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
    /// The match attribute's name and value; None where it may be another person's by now.
    pub match_on: Option<(String, String)>,
}

/// What an account is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To make it, to change it, or to compare all of it. One that bears another's mark is not ours.
    Provision,
    /// To end its access, or to see that it has ended. That takes no groups, so they are left out: what is wrong with a target's
    /// groups keeps nobody in. One that was ours by its id and bears another's mark by now is shown, and
    /// never taken for gone: it may still let somebody in.
    Deprovision,
    /// To see that it is gone, after we deleted it. A target that gives ids again may have given its id to another's.
    Deleted,
}

impl Purpose {
    pub fn of(op: Op, desired: &Desired) -> Self {
        match op {
            Op::Disable | Op::Delete => Self::Deprovision,
            Op::Verify if !desired.active => Self::Deprovision,
            Op::Create | Op::Update | Op::Enable | Op::Verify => Self::Provision,
        }
    }
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

/// Why a connector can't be made from its rules. A target that is down is no such reason: its calls fail instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("`{place}`: {reason}")]
    Secret { place: &'static str, reason: String },
    #[error("`{place}`: {reason}")]
    Rules { place: String, reason: String },
    #[error("{0}")]
    Target(String),
}

/// Gives a text with its `${env:…}`, `${file:…}` and `${data}` replaced, or says what is missing, without the secret.
pub type Resolve<'a> = &'a (dyn Fn(&str) -> Result<String, String> + Sync);

/// How hard a target may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one call of the trait as a whole, whatever it takes in the target.
    pub timeout: Duration,
    /// Calls at once: no more connections than that are held.
    pub concurrency: usize,
}

/// The connector of a target's rules.
pub async fn open(
    rules: &ConnectorRules,
    limits: Limits,
    resolve: Resolve<'_>,
) -> Result<Arc<dyn Connector>, OpenError> {
    Ok(match rules {
        ConnectorRules::Sql(sql) => Arc::new(sql::SqlConnector::open(sql, limits, resolve).await?),
        ConnectorRules::Scim(scim) => Arc::new(scim::ScimConnector::open(scim, limits, resolve)?),
    })
}

/// Which memberships a change adds and takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupChanges {
    pub add: BTreeSet<String>,
    pub remove: BTreeSet<String>,
}

impl GroupChanges {
    /// From the groups that an account is in. Never touches a group that is neither granted, revoked nor in the universe.
    pub fn of(entitlements: &Entitlements, revoked: &BTreeSet<String>, current: &BTreeSet<String>) -> Self {
        let granted = &entitlements.groups;
        let managed = |group: &&String| match &entitlements.universe {
            Universe::Additive => revoked.contains(*group),
            Universe::Authoritative(universe) => universe.contains(*group) || revoked.contains(*group),
        };
        Self {
            add: granted.difference(current).cloned().collect(),
            remove: current.difference(granted).filter(managed).cloned().collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Whether there are groups that an account may have to be put into or taken out of.
    pub fn are_possible(entitlements: &Entitlements, revoked: &BTreeSet<String>) -> bool {
        let managed = match &entitlements.universe {
            Universe::Additive => false,
            Universe::Authoritative(universe) => !universe.is_empty(),
        };
        managed || !entitlements.groups.is_empty() || !revoked.is_empty()
    }
}

/// The account that was ours by its id is marked as another's: ending that one's access is not ours to do, and saying that
/// ours has ended would be untrue.
fn remarked(mark: &str) -> CallError {
    let message = format!(
        "the account was ours by its id and bears another's {mark} by now: it is left alone, and may still let somebody in; \
         put the {mark} right, or end its access in the target, then redrive"
    );
    CallError::new(ErrorClass::Uniqueness, message)
}

/// The part of `Connector::differences` that depends on the operation only. `differs` says whether the target shows an
/// attribute otherwise; `groups` gives memberships in the rules' spelling.
fn compare(
    op: Op,
    desired: &Desired,
    revoked: &BTreeSet<String>,
    observed: Option<&Observed>,
    differs: impl Fn(&str, &Observed) -> bool,
    groups: impl Fn(&BTreeSet<String>) -> BTreeSet<String>,
) -> Vec<String> {
    let ends = Purpose::of(op, desired) == Purpose::Deprovision;
    match observed {
        None if ends => Vec::new(),
        None => vec!["account".to_owned()],
        Some(_) if op == Op::Delete => vec!["account".to_owned()],
        // A disable leaves everything else as it was, so there is nothing else to compare after it.
        Some(observed) if ends => observed.active.then(|| "active".to_owned()).into_iter().collect(),
        Some(observed) => {
            let mut names: Vec<String> =
                desired.attributes.keys().filter(|name| differs(name, observed)).map(ToString::to_string).collect();
            if observed.active != desired.active {
                names.push("active".to_owned());
            }
            let entitlements = &desired.entitlements;
            let regrouped = match &observed.groups {
                Some(shown) => !GroupChanges::of(entitlements, revoked, &groups(shown)).is_empty(),
                // Nobody knows, which is not to say that they are as they should be.
                None => GroupChanges::are_possible(entitlements, revoked),
            };
            if regrouped {
                names.push("groups".to_owned());
            }
            names
        }
    }
}

#[async_trait]
pub trait Connector: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// The account, or None where there is none. More than one match is `ErrorClass::Uniqueness`.
    async fn read(&self, lookup: &Lookup, purpose: Purpose) -> Result<Option<Observed>, CallError>;

    /// Makes the change. Create on an account that is there and ours (or unowned: the match attribute finds it) is an update;
    /// on one that is another's it is `Uniqueness`. Delete and disable of one that is gone is `AlreadyGone`; update or enable
    /// of one that is gone is `MissingOnUpdate`: a disable never creates. Delete, and disable of what is still active, is
    /// `Uniqueness` where the id that was ours bears another's mark.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn groups_that_nobody_can_see_are_as_they_should_be_only_where_none_are_managed() {
        let universe = |names: &[&str]| Universe::Authoritative(set(names));
        for (granted, universe, revoked, differences) in [
            (&[][..], Universe::Additive, &[][..], &[][..]),
            (&[], universe(&[]), &[], &[]),
            (&["eng"], Universe::Additive, &[], &["groups"]),
            (&[], Universe::Additive, &["eng"], &["groups"]),
            (&[], universe(&["eng"]), &[], &["groups"]),
        ] {
            let entitlements = Entitlements { groups: set(granted), universe };
            let desired = Desired { active: true, attributes: Attributes::default(), entitlements };
            let observed = Observed {
                external_id: "1".to_owned(),
                active: true,
                attributes: Attributes::default(),
                groups: None,
                owner: None,
                version: None,
            };
            let shown = compare(Op::Update, &desired, &set(revoked), Some(&observed), |_, _| false, BTreeSet::clone);
            assert_eq!(shown, differences, "{desired:?}, revoked {revoked:?}");
        }
    }

    #[test]
    fn groups_outside_of_what_is_managed_are_left_alone() {
        let authoritative = Universe::Authoritative(set(&["eng", "ops"]));
        for (universe, revoked, current, add, remove) in [
            (Universe::Additive, &[][..], &[][..], &["eng", "vpn"][..], &[][..]),
            (Universe::Additive, &[], &["eng", "vpn", "chess"], &[], &[]),
            (Universe::Additive, &["ops"], &["eng", "ops", "chess"], &["vpn"], &["ops"]),
            // Granted wins over revoked.
            (Universe::Additive, &["eng"], &["eng", "vpn"], &[], &[]),
            (authoritative.clone(), &[], &["vpn", "ops", "chess"], &["eng"], &["ops"]),
            (authoritative, &["chess"], &["eng", "vpn", "ops", "chess"], &[], &["ops", "chess"]),
        ] {
            let entitlements = Entitlements { groups: set(&["eng", "vpn"]), universe };
            let changes = GroupChanges::of(&entitlements, &set(revoked), &set(current));
            assert_eq!(changes, GroupChanges { add: set(add), remove: set(remove) }, "{entitlements:?} {current:?}");
        }
    }
}
