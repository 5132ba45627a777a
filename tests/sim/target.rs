//! A target in memory that fails as real ones do: it is away, it loses requests and answers, it says yes and does nothing.

use crate::random::Random;
use crate::world::Counted;
use async_trait::async_trait;
use lockstep::connector::{Applied, CallError, Capabilities, Change, Connector, Lookup, Observed, Page};
use lockstep::model::{AccountId, Desired, ErrorClass, Generation, Op, Universe};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// What one change at the target was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applies {
    pub account: AccountId,
    pub generation: Generation,
    pub op: Op,
    /// A read of the account came since the change before it.
    pub read_before: bool,
    pub groups: BTreeSet<String>,
    pub revoked: BTreeSet<String>,
    pub lie: bool,
}

#[derive(Default)]
pub struct Contents {
    pub accounts: BTreeMap<String, Observed>,
    pub log: Vec<Applies>,
    read_since: BTreeSet<AccountId>,
    next_id: u64,
}

pub struct SimTarget {
    pub contents: Mutex<Contents>,
    random: Mutex<Random>,
    pub counted: Mutex<Counted>,
    /// Faults stop when the story is told, so that all may come to rest.
    pub faulty: Mutex<bool>,
}

impl SimTarget {
    pub fn new(seed: u64) -> Self {
        Self {
            contents: Mutex::default(),
            random: Mutex::new(Random::new(seed)),
            counted: Mutex::default(),
            faulty: Mutex::new(true),
        }
    }

    fn fault(&self, chance: u64) -> bool {
        *self.faulty.lock().unwrap() && self.random.lock().unwrap().percent(chance)
    }
}

fn find<'a>(contents: &'a Contents, lookup: &Lookup) -> Option<&'a Observed> {
    let owned = |observed: &&Observed| observed.owner.as_deref() == Some(lookup.account.as_str());
    lookup
        .external_id
        .as_ref()
        .and_then(|id| contents.accounts.get(id))
        .or_else(|| contents.accounts.values().find(owned))
}

fn unreachable() -> CallError {
    CallError::new(ErrorClass::Unreachable, "away")
}

#[async_trait]
impl Connector for SimTarget {
    fn capabilities(&self) -> Capabilities {
        Capabilities { groups: true, disable: true, delete: true, list: true, owner: true }
    }

    async fn read(&self, lookup: &Lookup) -> Result<Option<Observed>, CallError> {
        if self.fault(5) {
            return Err(unreachable());
        }
        let mut contents = self.contents.lock().unwrap();
        contents.read_since.insert(lookup.account.clone());
        Ok(find(&contents, lookup).cloned())
    }

    async fn apply(&self, change: &Change) -> Result<Applied, CallError> {
        if self.fault(8) {
            self.counted.lock().unwrap().calls_lost += 1;
            return Err(CallError::new(ErrorClass::UnknownOutcome, "no answer"));
        }
        if self.fault(5) {
            return Err(unreachable());
        }
        let lie = self.fault(6);
        let applied = apply(&mut self.contents.lock().unwrap(), change, lie)?;
        if lie {
            self.counted.lock().unwrap().lies += 1;
        }
        if self.fault(8) {
            self.counted.lock().unwrap().answers_lost += 1;
            return Err(CallError::new(ErrorClass::UnknownOutcome, "no answer"));
        }
        Ok(applied)
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
        if !observed.active {
            names.push("active".to_owned());
        }
        if observed.attributes != desired.attributes {
            names.push("attributes".to_owned());
        }
        let groups = observed.groups.clone().unwrap_or_default();
        if !desired.entitlements.groups.is_subset(&groups) || !revoked.is_disjoint(&groups) {
            names.push("groups".to_owned());
        }
        names
    }
}

fn apply(contents: &mut Contents, change: &Change, lie: bool) -> Result<Applied, CallError> {
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
    };
    let missing = |class| Err(CallError::new(class, "not there"));
    let id = match (change.op, found) {
        (Op::Disable | Op::Delete, None) => return missing(ErrorClass::AlreadyGone),
        (Op::Update | Op::Enable, None) => return missing(ErrorClass::MissingOnUpdate),
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
            contents.accounts.get_mut(&id).expect("just found").active = false;
        }
        _ => {
            let before = contents.accounts.remove(&id).and_then(|observed| observed.groups).unwrap_or_default();
            let mut groups: BTreeSet<String> = before.difference(&change.revoked).cloned().collect();
            if let Universe::Authoritative(universe) = &change.desired.entitlements.universe {
                groups.retain(|group| !universe.contains(group));
            }
            groups.extend(change.desired.entitlements.groups.iter().cloned());
            let observed = Observed {
                external_id: id.clone(),
                active: true,
                attributes: change.desired.attributes.clone(),
                groups: Some(groups),
                owner: Some(change.lookup.account.to_string()),
                version: None,
            };
            contents.accounts.insert(id.clone(), observed);
        }
    }
    Ok(Applied { external_id: Some(id) })
}
