//! The read model's rows as people and machines see them: JSON with names, RFC 3339 times, and no attribute value outside
//! of a single identity's own page.

use super::model::Rows;
use crate::entity::{AccountRow, Held, IdentityHead, IdentityRecord, Removal, key};
use crate::model::{
    AccountId, Address, Attributes, DeadLetter, EntityKey, Generation, IdentityId, ResultEvent, RoutingKey, TargetName,
    TenantId, Timestamp, Value, envelope,
};
use crate::runtime::{Quarantined, quarantine_id};
use serde::{Serialize, Serializer};

/// An identity in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdentityLine {
    pub tenant: TenantId,
    pub identity: IdentityId,
    pub kind: String,
    pub phase: &'static str,
    pub since: Time,
    /// What people call it, from the first record that says so; null where none does.
    pub name: Option<String>,
    /// `<source>/<record>`
    pub records: Vec<String>,
    pub accounts: Vec<AccountLine>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccountLine {
    pub target: TargetName,
    pub account: AccountId,
    pub state: &'static str,
    pub generation: Generation,
    /// Of the last result, and when it was; null before the first.
    pub outcome: Option<&'static str>,
    pub at: Option<Time>,
    /// `held`, `dead_letter`, `overdue`, `deprovisioning`, `rejected`, `drifted`: what isn't as it should be, worst first.
    pub marks: Vec<&'static str>,
}

/// One identity with all that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdentityPage {
    #[serde(flatten)]
    pub line: IdentityLine,
    pub routing_key: String,
    pub ended: Option<Time>,
    /// Rules that failed when it was last evaluated.
    pub failing: Vec<String>,
    pub record_rows: Vec<RecordPage>,
    pub account_rows: Vec<AccountPage>,
    pub quarantined: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordPage {
    pub source: String,
    pub record: String,
    pub time: Time,
    pub attributes: Attributes,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccountPage {
    #[serde(flatten)]
    pub line: AccountLine,
    pub external_id: Option<String>,
    pub last_op: Option<&'static str>,
    pub last_error: Option<&'static str>,
    pub attributes: Option<Attributes>,
    pub groups: Vec<String>,
    pub effective: Option<Time>,
    pub deadline: Option<Time>,
    pub delete_due: Option<Time>,
}

/// A deprovision whose clock runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeprovisionLine {
    pub tenant: TenantId,
    pub identity: IdentityId,
    pub name: Option<String>,
    pub target: TargetName,
    pub account: AccountId,
    pub effective: Time,
    pub deadline: Time,
    pub age_seconds: f64,
    pub overdue: bool,
    /// `guard`, `dead_letter` or `worker`.
    pub waits_for: &'static str,
    pub last_outcome: Option<&'static str>,
    pub last_error: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldLine {
    pub tenant: TenantId,
    pub identity: Option<IdentityId>,
    pub name: Option<String>,
    pub target: TargetName,
    pub account: AccountId,
    pub source: String,
    pub since: Time,
    pub cause: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeadLetterLine {
    pub tenant: TenantId,
    pub identity: IdentityId,
    pub name: Option<String>,
    pub target: TargetName,
    pub account: AccountId,
    pub op: &'static str,
    pub generation: Generation,
    pub error: &'static str,
    pub message: String,
    pub attempts: u32,
    pub at: Time,
    pub deadline: Time,
    pub cause: String,
    /// Names of the attributes that the command sets.
    pub attributes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultLine {
    pub tenant: TenantId,
    pub identity: IdentityId,
    pub name: Option<String>,
    pub target: TargetName,
    pub account: AccountId,
    pub op: &'static str,
    pub generation: Generation,
    pub outcome: &'static str,
    pub error: Option<&'static str>,
    pub message: Option<String>,
    pub attempt: u32,
    pub at: Time,
    /// Milliseconds since the source event.
    pub millis: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuarantineLine {
    pub id: String,
    pub tenant: TenantId,
    pub entity: String,
    pub reason: String,
    pub since: Time,
    /// Messages that wait, the one that it can't take included.
    pub waiting: u64,
}

/// One quarantined entity with what waits for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuarantinePage {
    #[serde(flatten)]
    pub line: QuarantineLine,
    /// Whose it is, where it is an identity.
    pub identity: Option<IdentityId>,
    /// The first of what waits: the one that it can't take.
    pub first: u64,
    pub next: u64,
}

/// A time as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A line about somebody. Lists are made without names: only what is shown of a long one is looked up (`Rows::name`).
pub trait AboutSomebody {
    fn tenant(&self) -> &TenantId;
    fn identity(&self) -> Option<&IdentityId>;
    fn set_name(&mut self, name: Option<String>);
}

impl AboutSomebody for DeprovisionLine {
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn identity(&self) -> Option<&IdentityId> {
        Some(&self.identity)
    }

    fn set_name(&mut self, name: Option<String>) {
        self.name = name;
    }
}

impl AboutSomebody for HeldLine {
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn identity(&self) -> Option<&IdentityId> {
        self.identity.as_ref()
    }

    fn set_name(&mut self, name: Option<String>) {
        self.name = name;
    }
}

impl AboutSomebody for DeadLetterLine {
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn identity(&self) -> Option<&IdentityId> {
        Some(&self.identity)
    }

    fn set_name(&mut self, name: Option<String>) {
        self.name = name;
    }
}

impl AboutSomebody for ResultLine {
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn identity(&self) -> Option<&IdentityId> {
        Some(&self.identity)
    }

    fn set_name(&mut self, name: Option<String>) {
        self.name = name;
    }
}

impl Rows {
    /// Puts the names in.
    pub fn name<T: AboutSomebody>(&self, lines: &mut [T]) {
        for line in lines {
            let whole = line.identity().and_then(|identity| self.whole(line.tenant(), identity));
            line.set_name(whole.and_then(|whole| whole.name()));
        }
    }

    /// Identities in the order of their keys, from after `after` (a state key) on, that `search` matches: by id, record id or
    /// any attribute's text. The second is where the next page begins.
    pub fn identities(
        &self,
        tenant: Option<&TenantId>,
        search: Option<&str>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> (Vec<IdentityLine>, Option<Vec<u8>>) {
        let prefix = key::identities(tenant);
        let search = search.map(str::to_lowercase);
        let mut lines = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        let start = after.filter(|after| *after > prefix.as_slice()).unwrap_or(&prefix);
        for (row_key, value) in self.state.range(start.to_vec()..).take_while(|(k, _)| k.starts_with(&prefix)) {
            if after.is_some_and(|after| row_key.as_slice() <= after) {
                continue;
            }
            let Some((entity @ EntityKey::Identity { .. }, row)) = key::parse(row_key) else { continue };
            if row != key::HEAD {
                continue;
            }
            let Ok(head) = envelope::open::<IdentityHead>(value) else { continue };
            let Some(whole) = Whole::gather(self, &entity, head) else { continue };
            if !search.as_deref().is_none_or(|text| whole.matches(text)) {
                continue;
            }
            if lines.len() == limit {
                return (lines, last);
            }
            last = Some(row_key.clone());
            lines.push(whole.line());
        }
        (lines, None)
    }

    pub fn identity(&self, tenant: &TenantId, identity: &IdentityId) -> Option<IdentityPage> {
        Some(self.whole(tenant, identity)?.page(self))
    }

    /// Open deprovisions, the oldest first.
    pub fn deprovisions(&self, tenant: Option<&TenantId>, now: Timestamp) -> Vec<DeprovisionLine> {
        let mut lines: Vec<_> =
            self.clocks.iter().filter_map(|row| self.deprovision(row, now)).filter(|l| is(tenant, &l.tenant)).collect();
        lines.sort_by(|a, b| (a.effective, &a.account).cmp(&(b.effective, &b.account)));
        lines
    }

    /// What the Guard holds, the oldest first.
    pub fn held(&self, tenant: Option<&TenantId>) -> Vec<HeldLine> {
        let prefix = key::guards();
        let rows = self.state.range(prefix.clone()..).take_while(|(k, _)| k.starts_with(&prefix));
        let mut lines: Vec<_> = rows
            .filter_map(|(row_key, value)| {
                let (entity, row) = key::parse(row_key)?;
                let held = row.starts_with("held/").then(|| envelope::open::<Held>(value).ok())??;
                is(tenant, entity.tenant()).then(|| held_line(entity.tenant(), held))
            })
            .collect();
        lines.sort_by(|a, b| (a.since, &a.account).cmp(&(b.since, &b.account)));
        lines
    }

    pub fn dead_letter(&self, target: &TargetName, account: &AccountId) -> Option<&DeadLetter> {
        self.dead_letters.get(&(target.clone(), account.clone()))
    }

    /// Dead letters, the oldest first.
    pub fn dead_letter_lines(&self, tenant: Option<&TenantId>, target: Option<&TargetName>) -> Vec<DeadLetterLine> {
        let mut lines: Vec<_> = self
            .dead_letters
            .values()
            .filter(|l| is(tenant, &l.command.tenant) && is(target, &l.command.target))
            .map(dead_letter_line)
            .collect();
        lines.sort_by(|a, b| (a.at, &a.account).cmp(&(b.at, &b.account)));
        lines
    }

    /// The latest results, the newest first.
    pub fn recent_results(&self, tenant: Option<&TenantId>) -> Vec<ResultLine> {
        self.results.iter().rev().filter(|result| is(tenant, &result.tenant)).map(result_line).collect()
    }

    pub fn quarantined(&self, tenant: Option<&TenantId>) -> Vec<QuarantineLine> {
        let marks = self.quarantines.iter().filter_map(|row_key| self.mark(row_key));
        let mut lines: Vec<_> =
            marks.filter(|marked| is(tenant, marked.to.entity.tenant())).map(quarantine_line).collect();
        lines.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        lines
    }

    pub fn quarantine_page(&self, id: &str) -> Option<QuarantinePage> {
        let marked = self.quarantine_mark(id)?;
        let identity = match &marked.to.entity {
            EntityKey::Identity { identity, .. } => Some(identity.clone()),
            _ => None,
        };
        let (first, next) = (marked.first, marked.next);
        Some(QuarantinePage { line: quarantine_line(marked), identity, first, next })
    }

    /// The quarantined entity with that id.
    pub fn quarantine_mark(&self, id: &str) -> Option<Quarantined> {
        let marked = self.quarantines.iter().filter_map(|row_key| self.mark(row_key));
        marked.into_iter().find(|marked| quarantine_id(&marked.to.entity) == id)
    }

    /// One whose row can't be read is shown as well: it is written anew with the next message for it.
    fn mark(&self, row_key: &[u8]) -> Option<Quarantined> {
        let (entity, _) = key::parse(row_key)?;
        let unreadable = |error| Quarantined {
            to: Address { routing_key: RoutingKey::new(""), entity },
            reason: format!("its quarantine row can't be read: {error}"),
            since: Timestamp::default(),
            first: 0,
            next: 0,
        };
        Some(envelope::open(self.state.get(row_key)?).unwrap_or_else(unreadable))
    }

    fn whole(&self, tenant: &TenantId, identity: &IdentityId) -> Option<Whole> {
        let entity = EntityKey::Identity { tenant: tenant.clone(), identity: identity.clone() };
        let head = envelope::open(self.state.get(&key::row(&entity, key::HEAD))?).ok()?;
        Whole::gather(self, &entity, head)
    }

    fn deprovision(&self, row_key: &[u8], now: Timestamp) -> Option<DeprovisionLine> {
        let (EntityKey::Identity { tenant, identity }, _) = key::parse(row_key)? else { return None };
        let row: AccountRow = envelope::open(self.state.get(row_key)?).ok()?;
        let clock = row.clock?;
        let waits_for = match (&row.removal, row.dead) {
            (Removal::Asked { .. } | Removal::Held { .. }, _) => "guard",
            (_, true) => "dead_letter",
            _ => "worker",
        };
        // What a former command came to says nothing of this one.
        let last = row.last.filter(|last| Some(last.generation) == clock.generation);
        Some(DeprovisionLine {
            name: None,
            tenant,
            identity,
            target: row.target,
            account: row.account,
            effective: Time(clock.effective),
            deadline: Time(clock.deadline),
            age_seconds: now.since(clock.effective).as_secs_f64(),
            overdue: now > clock.deadline,
            waits_for,
            last_outcome: last.as_ref().map(|last| last.outcome.as_str()),
            last_error: last.as_ref().and_then(|last| last.error).map(|error| error.as_str()),
        })
    }
}

/// An identity's rows, gathered.
struct Whole {
    tenant: TenantId,
    identity: IdentityId,
    head: IdentityHead,
    records: Vec<IdentityRecord>,
    accounts: Vec<AccountRow>,
}

impl Whole {
    fn gather(rows: &Rows, entity: &EntityKey, head: IdentityHead) -> Option<Self> {
        let EntityKey::Identity { tenant, identity } = entity else { return None };
        let mut whole = Self {
            tenant: tenant.clone(),
            identity: identity.clone(),
            head,
            records: Vec::new(),
            accounts: Vec::new(),
        };
        let prefix = key::entity(entity);
        for (row_key, value) in rows.state.range(prefix.clone()..).take_while(|(k, _)| k.starts_with(&prefix)) {
            let Some(name) = row_key.get(prefix.len()..) else { continue };
            if name.starts_with(b"record/") {
                whole.records.extend(envelope::open::<IdentityRecord>(value).ok());
            } else if name.starts_with(b"account/") {
                whole.accounts.extend(envelope::open::<AccountRow>(value).ok());
            }
        }
        Some(whole)
    }

    /// `search` is in lower case.
    fn matches(&self, search: &str) -> bool {
        let found = |text: &str| text.to_lowercase().contains(search);
        found(&self.identity.0)
            || self.name().is_some_and(|name| found(&name))
            || self.accounts.iter().any(|account| found(&account.account.0))
            || self.records.iter().any(|record| {
                found(record.record.as_str()) || record.attributes.values().filter_map(Value::as_text).any(found)
            })
            || self.records.is_empty() && self.commanded().any(|of| of.values().filter_map(Value::as_text).any(found))
    }

    /// What its accounts were last to hold: all that is left of somebody whose records are gone.
    fn commanded(&self) -> impl Iterator<Item = &Attributes> {
        self.accounts.iter().filter_map(|account| account.desired.as_ref()).map(|desired| &desired.attributes)
    }

    /// What people call it. The names of attributes are the users' own; these are the usual ones.
    fn name(&self) -> Option<String> {
        let text = |attributes: &Attributes, name: &str| -> Option<String> {
            attributes.get(name).and_then(Value::as_text).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let records = self.records.iter().map(|record| &record.attributes);
        records.chain(self.commanded()).find_map(|attributes| {
            let of = |name| text(attributes, name);
            match (of("displayName").or_else(|| of("name")), of("givenName"), of("familyName")) {
                (Some(name), _, _) => Some(name),
                (None, Some(given), Some(family)) => Some(format!("{given} {family}")),
                (None, given, family) => given.or(family).or_else(|| of("userName")).or_else(|| of("mail")),
            }
        })
    }

    fn line(&self) -> IdentityLine {
        IdentityLine {
            tenant: self.tenant.clone(),
            identity: self.identity.clone(),
            kind: self.head.kind.clone(),
            phase: phase(&self.head),
            since: Time(self.head.since),
            name: self.name(),
            records: self.records.iter().map(|record| format!("{}/{}", record.source, record.record)).collect(),
            accounts: self.accounts.iter().map(account_line).collect(),
        }
    }

    fn page(&self, rows: &Rows) -> IdentityPage {
        let entity = EntityKey::Identity { tenant: self.tenant.clone(), identity: self.identity.clone() };
        let record = |record: &IdentityRecord| RecordPage {
            source: record.source.0.to_string(),
            record: record.record.0.to_string(),
            time: Time(record.time),
            attributes: record.attributes.clone(),
        };
        IdentityPage {
            line: self.line(),
            routing_key: self.head.routing_key.0.to_string(),
            ended: self.head.ended.map(Time),
            failing: self.head.failing.iter().cloned().collect(),
            record_rows: self.records.iter().map(record).collect(),
            account_rows: self.accounts.iter().map(account_page).collect(),
            quarantined: rows.quarantines.contains(&key::row(&entity, key::QUARANTINE)),
        }
    }
}

fn is<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
    wanted.is_none_or(|wanted| wanted == found)
}

fn phase(head: &IdentityHead) -> &'static str {
    use crate::rules::Phase;
    match head.phase {
        None => "new",
        Some(Phase::Future) => "future",
        Some(Phase::Active) => "active",
        Some(Phase::Ended) => "ended",
    }
}

fn account_line(row: &AccountRow) -> AccountLine {
    let mut marks = Vec::new();
    if row.dead {
        marks.push("dead_letter");
    }
    if row.clock.as_ref().is_some_and(|clock| clock.overdue) {
        marks.push("overdue");
    }
    match row.removal {
        Removal::Held { .. } => marks.push("held"),
        Removal::Rejected { .. } => marks.push("rejected"),
        Removal::None | Removal::Asked { .. } | Removal::Permitted => {}
    }
    if row.clock.as_ref().is_some_and(|clock| !clock.overdue) {
        marks.push("deprovisioning");
    }
    if row.drifted {
        marks.push("drifted");
    }
    AccountLine {
        target: row.target.clone(),
        account: row.account.clone(),
        state: row.state.as_str(),
        generation: row.generation,
        outcome: row.last.as_ref().map(|last| last.outcome.as_str()),
        at: row.last.as_ref().map(|last| Time(last.at)),
        marks,
    }
}

fn account_page(row: &AccountRow) -> AccountPage {
    AccountPage {
        line: account_line(row),
        external_id: row.external_id.clone(),
        last_op: row.last.as_ref().map(|last| last.op.as_str()),
        last_error: row.last.as_ref().and_then(|last| last.error).map(|error| error.as_str()),
        attributes: row.desired.as_ref().map(|desired| desired.attributes.clone()),
        groups: row.desired.iter().flat_map(|desired| desired.entitlements.groups.iter().cloned()).collect(),
        effective: row.clock.as_ref().map(|clock| Time(clock.effective)),
        deadline: row.clock.as_ref().map(|clock| Time(clock.deadline)),
        delete_due: row.delete_due.map(Time),
    }
}

fn held_line(tenant: &TenantId, held: Held) -> HeldLine {
    let identity = match held.asker.entity {
        EntityKey::Identity { identity, .. } => Some(identity),
        _ => None,
    };
    HeldLine {
        tenant: tenant.clone(),
        name: None,
        identity,
        target: held.target,
        account: held.account,
        source: held.source.0.to_string(),
        since: Time(held.since),
        cause: held.cause,
    }
}

fn quarantine_line(marked: Quarantined) -> QuarantineLine {
    QuarantineLine {
        id: quarantine_id(&marked.to.entity),
        tenant: marked.to.entity.tenant().clone(),
        entity: marked.to.entity.to_string(),
        waiting: marked.waiting(),
        reason: marked.reason,
        since: Time(marked.since),
    }
}

fn dead_letter_line(letter: &DeadLetter) -> DeadLetterLine {
    let command = &letter.command;
    DeadLetterLine {
        tenant: command.tenant.clone(),
        identity: command.identity.clone(),
        name: None,
        target: command.target.clone(),
        account: command.account.clone(),
        op: command.op.as_str(),
        generation: command.generation,
        error: letter.error.as_str(),
        message: letter.message.clone(),
        attempts: letter.attempts,
        at: Time(letter.at),
        deadline: Time(command.deadline),
        cause: command.cause.event.0.to_string(),
        attributes: command.desired.attributes.keys().map(ToString::to_string).collect(),
    }
}

fn result_line(result: &ResultEvent) -> ResultLine {
    ResultLine {
        tenant: result.tenant.clone(),
        identity: result.identity.clone(),
        name: None,
        target: result.target.clone(),
        account: result.account.clone(),
        op: result.op.as_str(),
        generation: result.generation,
        outcome: result.outcome.as_str(),
        error: result.error.map(|error| error.as_str()),
        message: result.message.clone(),
        attempt: result.attempt,
        at: Time(result.at),
        millis: u64::try_from(result.at.since(result.source_time).as_millis()).unwrap_or(u64::MAX),
    }
}
