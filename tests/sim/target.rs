//! A target in memory that fails as real ones do: it is away, it loses requests and answers, it refuses, it says yes and
//! does nothing, it undoes what was done. Each exchange takes two moments, its request's arrival and its answer's, between
//! which anything else may happen.

use crate::faults::Faults;
use crate::truth::Account;
use async_trait::async_trait;
use lockstep::bus::embedded::{Clock, VirtualClock};
use lockstep::connector::{Applied, CallError, Capabilities, Change, Connector, Lookup, Observed, Page, Purpose};
use lockstep::model::{AccountId, Attributes, Desired, ErrorClass, Generation, Op, Timestamp, Universe, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

/// A group that somebody else puts people into: never Lockstep's to take away.
pub const FOREIGN_GROUP: &str = "chess";

/// What one change at the target was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applies {
    pub account: AccountId,
    pub generation: Generation,
    pub op: Op,
    /// A read of the account came since the change before it, or was tried and failed where access is to end.
    pub read_before: bool,
    pub groups: BTreeSet<String>,
    pub revoked: BTreeSet<String>,
    pub lie: bool,
    pub at: Timestamp,
}

#[derive(Default)]
pub struct Contents {
    pub accounts: BTreeMap<String, Observed>,
    pub log: Vec<Applies>,
    /// Accounts that someone undid something of, behind Lockstep's back, until Lockstep says so or does it again.
    pub undone: BTreeSet<AccountId>,
    pub undoings: Vec<(Timestamp, AccountId)>,
    read_since: BTreeSet<AccountId>,
    next_id: u64,
    away_until: Timestamp,
    /// Accounts whose content it refuses.
    refused: BTreeSet<AccountId>,
    /// Accounts that it lets nobody take away.
    locked: BTreeSet<AccountId>,
}

pub struct SimTarget {
    pub contents: Mutex<Contents>,
    clock: VirtualClock,
    faults: Faults,
}

/// Gives way once.
#[derive(Default)]
struct Moment(bool);

impl Future for Moment {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl SimTarget {
    pub fn new(clock: VirtualClock, faults: Faults) -> Self {
        Self { contents: Mutex::default(), clock, faults }
    }

    /// All faults are over: what it refused it takes now.
    pub fn mend(&self) {
        let mut contents = self.contents.lock().unwrap();
        contents.refused.clear();
        contents.locked.clear();
        contents.away_until = Timestamp::default();
    }

    /// Somebody gives a disabled account its access back, soon enough to be seen by a later look.
    pub fn undo(&self, within: Duration) -> Option<AccountId> {
        let now = self.clock.now();
        let mut contents = self.contents.lock().unwrap();
        let disabled =
            |entry: &&Applies| entry.op == Op::Disable && !entry.lie && now < entry.at.plus(within) && now > entry.at;
        let account = contents.log.iter().rev().find(disabled)?.account.clone();
        let owned = |observed: &&mut Observed| observed.owner.as_deref() == Some(account.as_str());
        match contents.accounts.values_mut().find(owned) {
            Some(observed) if !observed.active => observed.active = true,
            _ => return None,
        }
        contents.undone.insert(account.clone());
        contents.undoings.push((now, account.clone()));
        Some(account)
    }

    /// What it shows, by its accounts' owners: active or not, and with what.
    pub fn shown(&self) -> BTreeMap<AccountId, (bool, Account)> {
        let contents = self.contents.lock().unwrap();
        let shown = contents.accounts.values().map(|observed| {
            let owner = observed.owner.clone().expect("Lockstep leaves its id");
            let groups = observed.groups.iter().flatten().filter(|group| *group != FOREIGN_GROUP).cloned().collect();
            let account = Account { attributes: plain(&observed.attributes), groups };
            (AccountId::from(owner.as_str()), (observed.active, account))
        });
        shown.collect()
    }

    fn is_away(&self) -> bool {
        let now = self.clock.now();
        if self.faults.happens("target away", 3) {
            let minutes = 1 + self.faults.below(90);
            self.contents.lock().unwrap().away_until = now.plus(Duration::from_secs(60 * minutes));
        }
        now < self.contents.lock().unwrap().away_until || self.faults.happens("target unreachable", 30)
    }
}

/// Attributes that have a value, as text.
pub fn plain(attributes: &Attributes) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::Null => None,
        value => Some(value.as_text().map_or_else(|| value.to_json().to_string(), str::to_owned)),
    };
    attributes.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect()
}

fn find<'a>(contents: &'a Contents, lookup: &Lookup) -> Option<&'a Observed> {
    let owned = |observed: &&Observed| observed.owner.as_deref() == Some(lookup.account.as_str());
    let by_id = lookup.external_id.as_ref().and_then(|id| contents.accounts.get(id));
    by_id.or_else(|| contents.accounts.values().find(owned))
}

fn fails(class: ErrorClass) -> CallError {
    CallError::new(class, "simulated")
}

#[async_trait]
impl Connector for SimTarget {
    fn capabilities(&self) -> Capabilities {
        Capabilities { groups: true, disable: true, delete: true, list: true, owner: true }
    }

    async fn read(&self, lookup: &Lookup, purpose: Purpose) -> Result<Option<Observed>, CallError> {
        Moment::default().await;
        if self.is_away() {
            if purpose != Purpose::Provision {
                // An end of access is called for all the same.
                self.contents.lock().unwrap().read_since.insert(lookup.account.clone());
            }
            return Err(fails(ErrorClass::Unreachable));
        }
        let found = {
            let mut contents = self.contents.lock().unwrap();
            contents.read_since.insert(lookup.account.clone());
            find(&contents, lookup).cloned()
        };
        Moment::default().await;
        if self.faults.happens("answer to a read lost", 20) {
            return Err(fails(ErrorClass::UnknownOutcome));
        }
        Ok(found)
    }

    async fn apply(&self, change: &Change) -> Result<Applied, CallError> {
        Moment::default().await;
        if self.faults.happens("call lost", 50) {
            return Err(fails(ErrorClass::UnknownOutcome));
        }
        if self.is_away() {
            return Err(fails(ErrorClass::Unreachable));
        }
        for (kind, usual, class) in [
            ("throttled", 20, ErrorClass::Throttled),
            ("server fault", 20, ErrorClass::ServerFault),
            ("credentials refused", 5, ErrorClass::Credentials),
        ] {
            if self.faults.happens(kind, usual) {
                let retry_after = (kind == "throttled").then(|| Duration::from_secs(self.faults.below(120)));
                return Err(CallError { retry_after, ..fails(class) });
            }
        }
        let account = &change.lookup.account;
        if !change.op.is_deprovision() {
            if self.faults.happens("content refused", 15) {
                self.contents.lock().unwrap().refused.insert(account.clone());
            }
            if self.contents.lock().unwrap().refused.contains(account) {
                return Err(fails(ErrorClass::Invalid));
            }
        }
        if change.op == Op::Disable && self.faults.happens("disable refused", 15) {
            self.contents.lock().unwrap().locked.insert(account.clone());
        }
        if change.op.is_deprovision() && self.contents.lock().unwrap().locked.contains(account) {
            return Err(fails(ErrorClass::Permission));
        }
        let lie = self.faults.happens("lie", 40);
        let foreign = change.op == Op::Create && self.faults.below(4) == 0;
        let applied = apply(&mut self.contents.lock().unwrap(), change, lie, foreign, self.clock.now());
        Moment::default().await;
        if self.faults.happens("answer to a call lost", 50) {
            return Err(fails(ErrorClass::UnknownOutcome));
        }
        applied
    }

    async fn list(&self, _cursor: Option<&str>) -> Result<Page, CallError> {
        Ok(Page { accounts: self.contents.lock().unwrap().accounts.values().cloned().collect(), next: None })
    }

    fn differences(
        &self,
        op: Op,
        desired: &Desired,
        revoked: &BTreeSet<String>,
        observed: Option<&Observed>,
    ) -> Vec<String> {
        let Some(observed) = observed else {
            return if op.is_deprovision() { Vec::new() } else { vec!["account".to_owned()] };
        };
        match op {
            Op::Delete => return vec!["account".to_owned()],
            Op::Disable => return if observed.active { vec!["active".to_owned()] } else { Vec::new() },
            _ => {}
        }
        let mut names = Vec::new();
        if observed.active != desired.active {
            names.push("active".to_owned());
        }
        if plain(&observed.attributes) != plain(&desired.attributes) {
            names.push("attributes".to_owned());
        }
        let groups = observed.groups.clone().unwrap_or_default();
        let kept = groups_after(&groups, desired, revoked);
        if kept != groups {
            names.push("groups".to_owned());
        }
        names
    }
}

/// The memberships that a change leaves: it takes away what is managed and not granted, and nothing else.
fn groups_after(before: &BTreeSet<String>, desired: &Desired, revoked: &BTreeSet<String>) -> BTreeSet<String> {
    let mut groups: BTreeSet<String> = before.difference(revoked).cloned().collect();
    if let Universe::Authoritative(universe) = &desired.entitlements.universe {
        groups.retain(|group| !universe.contains(group));
    }
    groups.extend(desired.entitlements.groups.iter().cloned());
    groups
}

fn apply(
    contents: &mut Contents,
    change: &Change,
    lie: bool,
    foreign: bool,
    at: Timestamp,
) -> Result<Applied, CallError> {
    let found = find(contents, &change.lookup).map(|observed| observed.external_id.clone());
    let (account, generation) = change.idempotency_key.split_once('@').expect("an idempotency key has a generation");
    let entry = Applies {
        account: account.into(),
        generation: Generation(generation.parse().expect("a number")),
        op: change.op,
        read_before: contents.read_since.remove(&change.lookup.account),
        groups: change.desired.entitlements.groups.clone(),
        revoked: change.revoked.clone(),
        lie,
        at,
    };
    let id = match (change.op, found) {
        (Op::Disable | Op::Delete, None) => return Err(fails(ErrorClass::AlreadyGone)),
        (Op::Update | Op::Enable, None) => return Err(fails(ErrorClass::MissingOnUpdate)),
        (_, Some(id)) => id,
        (_, None) => {
            contents.next_id += 1;
            format!("x{}", contents.next_id)
        }
    };
    contents.log.push(entry);
    if lie {
        return Ok(Applied { external_id: Some(id) });
    }
    match change.op {
        Op::Delete => {
            contents.accounts.remove(&id);
            return Ok(Applied { external_id: None });
        }
        Op::Disable => {
            contents.undone.remove(&change.lookup.account);
            contents.accounts.get_mut(&id).expect("just found").active = false;
        }
        _ => {
            if !change.desired.active {
                contents.undone.remove(&change.lookup.account);
            }
            let mut before = contents.accounts.remove(&id).and_then(|observed| observed.groups).unwrap_or_default();
            if foreign {
                before.insert(FOREIGN_GROUP.to_owned());
            }
            let observed = Observed {
                external_id: id.clone(),
                active: change.desired.active,
                attributes: change.desired.attributes.clone(),
                groups: Some(groups_after(&before, &change.desired, &change.revoked)),
                owner: Some(change.lookup.account.as_str().to_owned()),
                version: None,
            };
            contents.accounts.insert(id.clone(), observed);
        }
    }
    Ok(Applied { external_id: Some(id) })
}
