//! Accounts as rows of a table, in PostgreSQL or SQLite, and memberships as rows of another.
//!
//! One transaction a change, so that a change is there whole or not at all. Only columns that differ are written: a change that
//! is made already writes nothing. Without an `owner` column an account is known by its key or its match attribute alone.

mod call;
mod error;
mod groups;
mod map;
mod schema;

#[cfg(test)]
mod tests;

use super::{
    Applied, CallError, Capabilities, Change, Connector, GroupChanges, Limits, Lookup, Observed, OpenError, Page,
    Purpose, Resolve, compare, remarked,
};
use crate::model::{AccountId, Desired, ErrorClass, Op};
use crate::rules::SqlRules;
use async_trait::async_trait;
use call::{Cell, Database, Dialect, Row, Session};
use map::Column;
use schema::{DiscoverError, Layout, NewKey, text_cell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;

/// Accounts on a page of `list`: a page's memberships are one query with a parameter an account.
const PAGE: usize = 200;

pub struct SqlConnector {
    rules: SqlRules,
    database: Database,
    timeout: Duration,
    layout: OnceCell<Layout>,
}

/// An account's row, as texts.
struct Stored {
    key: String,
    owner: Cell,
    active: Cell,
    /// By attribute.
    cells: BTreeMap<String, Cell>,
}

/// A cell as it should be.
struct Wanted<'a> {
    column: &'a Column,
    cell: Cell,
    /// None: it is the active flag.
    attribute: Option<&'a str>,
}

enum Located {
    Ours(Stored),
    /// The row of our key, which another account owns by now; only where access is to end.
    Remarked(Stored),
    /// The match attribute is that of another account of Lockstep's.
    Anothers,
    Nowhere,
}

impl SqlConnector {
    /// Checks the rules against the tables, where the database answers; else at the first call that it answers.
    pub async fn open(rules: &SqlRules, limits: Limits, resolve: Resolve<'_>) -> Result<Self, OpenError> {
        let timeout = limits.timeout;
        let url = resolve(&rules.url).map_err(|reason| OpenError::Secret { place: "connector.sql.url", reason })?;
        let connections = u32::try_from(limits.concurrency).unwrap_or(u32::MAX);
        let database = Database::open(&url, connections, timeout)?;
        let connector = Self { rules: rules.clone(), database, timeout, layout: OnceCell::new() };
        match tokio::time::timeout(timeout, connector.discover()).await {
            Ok(Err(DiscoverError::Mismatch(reason))) => Err(OpenError::Target(reason)),
            Ok(Err(DiscoverError::Call(error))) => {
                tracing::warn!(class = %error.class, "the target's tables could not be checked yet: {}", error.message);
                Ok(connector)
            }
            Ok(Ok(_)) | Err(_) => Ok(connector),
        }
    }

    async fn discover(&self) -> Result<&Layout, DiscoverError> {
        self.layout.get_or_try_init(|| Layout::discover(&self.rules, &self.database)).await
    }

    async fn layout(&self) -> Result<&Layout, CallError> {
        self.discover().await.map_err(|error| match error {
            DiscoverError::Call(error) => error,
            DiscoverError::Mismatch(reason) => CallError::new(ErrorClass::ServerFault, reason),
        })
    }

    /// Bounds a call. Before the commit is sent a call that is given up has changed nothing.
    async fn within<T>(
        &self,
        committing: &AtomicBool,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) if committing.load(Ordering::Relaxed) => Err(CallError::new(
                ErrorClass::UnknownOutcome,
                format!("the database did not confirm the commit within {} s", self.timeout.as_secs_f32()),
            )),
            Err(_) => Err(CallError::new(
                ErrorClass::Unreachable,
                format!("no answer from the database within {} s; nothing was changed", self.timeout.as_secs_f32()),
            )),
        }
    }

    async fn change(&self, change: &Change, committing: &AtomicBool) -> Result<Applied, CallError> {
        let layout = self.layout().await?;
        let mut session = self.database.writing(committing).await?;
        let purpose = Purpose::of(change.op, &change.desired);
        let located = layout.locate(&mut session, &change.lookup, purpose).await?;
        let external_id = match (change.op, located) {
            (Op::Create, Located::Anothers) => {
                return Err(CallError::new(
                    ErrorClass::Uniqueness,
                    format!("the row with this {} belongs to another account", match_name(&change.lookup)),
                ));
            }
            (Op::Disable, Located::Remarked(stored)) if !layout.is_active(&stored) => {
                return Ok(Applied { external_id: Some(stored.key) });
            }
            (_, Located::Remarked(_)) => return Err(remarked("owner")),
            (Op::Create, Located::Nowhere) => Some(layout.insert(&mut session, change).await?),
            (Op::Create | Op::Update | Op::Enable, Located::Ours(stored)) => {
                Some(layout.update(&mut session, change, &stored).await?)
            }
            (Op::Update | Op::Enable, Located::Anothers | Located::Nowhere) => {
                return Err(CallError::new(ErrorClass::MissingOnUpdate, "the account's row is not there"));
            }
            (Op::Disable, Located::Ours(stored)) => {
                layout.disable(&mut session, &stored).await?;
                Some(stored.key)
            }
            (Op::Delete, Located::Ours(stored)) => {
                layout.delete(&mut session, &stored).await?;
                None
            }
            (Op::Disable | Op::Delete, Located::Anothers | Located::Nowhere) => {
                return Err(CallError::new(ErrorClass::AlreadyGone, "the account's row is not there"));
            }
            (Op::Verify, Located::Ours(stored)) => return Ok(Applied { external_id: Some(stored.key) }),
            (Op::Verify, Located::Anothers | Located::Nowhere) => return Ok(Applied { external_id: None }),
        };
        session.commit().await?;
        Ok(Applied { external_id })
    }

    async fn find(&self, lookup: &Lookup, purpose: Purpose) -> Result<Option<Observed>, CallError> {
        let layout = self.layout().await?;
        let mut session = self.database.reading().await?;
        match layout.locate(&mut session, lookup, purpose).await? {
            Located::Ours(stored) | Located::Remarked(stored) => {
                let groups = match &layout.groups {
                    Some(groups) if purpose == Purpose::Provision => Some(groups.of(&mut session, &stored.key).await?),
                    _ => None,
                };
                Ok(Some(layout.observed(stored, groups)))
            }
            Located::Anothers | Located::Nowhere => Ok(None),
        }
    }

    async fn page(&self, cursor: Option<&str>) -> Result<Page, CallError> {
        let layout = self.layout().await?;
        let mut session = self.database.reading().await?;
        let key = &layout.key;
        let (place, cells) = match cursor {
            Some(cursor) => {
                let after = text_cell(key, cursor).map_err(|why| CallError::new(ErrorClass::Invalid, why))?;
                (format!("WHERE a.{} > {}", key.quoted(), key.parameter(1)), vec![after])
            }
            None => (String::new(), Vec::new()),
        };
        let statement = format!("{} {place} ORDER BY a.{} LIMIT {PAGE}", layout.select(), key.quoted());
        let rows: Vec<Stored> =
            session.rows(statement, &cells).await?.into_iter().map(|row| layout.stored(row)).collect();
        let next = if rows.len() == PAGE { rows.last().map(|stored| stored.key.clone()) } else { None };
        let mut groups = match &layout.groups {
            Some(groups) => Some(groups.of_all(&mut session, rows.iter().map(|stored| stored.key.as_str())).await?),
            None => None,
        };
        let accounts = rows
            .into_iter()
            .map(|stored| {
                let groups = groups.as_mut().map(|groups| groups.remove(&stored.key).unwrap_or_default());
                layout.observed(stored, groups)
            })
            .collect();
        Ok(Page { accounts, next })
    }
}

#[async_trait]
impl Connector for SqlConnector {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            groups: self.rules.groups.is_some(),
            disable: self.rules.accounts.active.is_some(),
            delete: true,
            list: true,
            owner: self.rules.accounts.owner.is_some(),
        }
    }

    async fn read(&self, lookup: &Lookup, purpose: Purpose) -> Result<Option<Observed>, CallError> {
        self.within(&AtomicBool::new(false), self.find(lookup, purpose)).await
    }

    async fn apply(&self, change: &Change) -> Result<Applied, CallError> {
        let committing = AtomicBool::new(false);
        self.within(&committing, self.change(change, &committing)).await
    }

    async fn list(&self, cursor: Option<&str>) -> Result<Page, CallError> {
        self.within(&AtomicBool::new(false), self.page(cursor)).await
    }

    fn differences(
        &self,
        op: Op,
        desired: &Desired,
        revoked: &BTreeSet<String>,
        observed: Option<&Observed>,
    ) -> Vec<String> {
        let layout = self.layout.get();
        compare(
            op,
            desired,
            revoked,
            observed,
            |name, observed| {
                let (wanted, shown) = (desired.attributes.get(name), observed.attributes.get(name));
                match (wanted, shown, layout.and_then(|layout| layout.columns.get(name))) {
                    (Some(wanted), Some(shown), Some(column)) => !column.same(wanted, shown),
                    // Not mapped, so never written: the change is refused before.
                    (wanted, shown, _) => wanted != shown,
                }
            },
            BTreeSet::clone,
        )
    }
}

impl Layout {
    /// `SELECT … FROM accounts AS a`, in the order that `stored` reads.
    fn select(&self) -> String {
        let columns: Vec<String> = std::iter::once(&self.key)
            .chain(&self.owner)
            .chain(self.active.as_ref().map(|active| &active.column))
            .chain(self.columns.values())
            .map(|column| column.select("a"))
            .collect();
        format!("SELECT {} FROM {} AS a", columns.join(", "), self.accounts)
    }

    fn stored(&self, row: Row) -> Stored {
        let mut cells = row.into_iter();
        let mut next = || cells.next().flatten();
        Stored {
            key: next().unwrap_or_default(),
            owner: self.owner.as_ref().and_then(|_| next()),
            active: self.active.as_ref().and_then(|_| next()),
            cells: self.columns.keys().map(|name| (name.clone(), next())).collect(),
        }
    }

    fn observed(&self, stored: Stored, groups: Option<BTreeSet<String>>) -> Observed {
        let attributes = self
            .columns
            .iter()
            .filter_map(|(name, column)| stored.cells.get(name).map(|cell| (name.clone(), column.decode(cell))));
        Observed {
            active: self.is_active(&stored),
            attributes: attributes.collect(),
            external_id: stored.key,
            groups,
            owner: stored.owner,
            version: None,
        }
    }

    /// What is not the value of "false" may let someone in, so it counts as active.
    fn is_active(&self, stored: &Stored) -> bool {
        let inactive = |active: &schema::Active| active.column.holds(&Some(active.no.clone()), &stored.active);
        !self.active.as_ref().is_some_and(inactive)
    }

    /// Whether the key of a row that was deleted may be another's by now: a mapped attribute's can be, and SQLite gives the
    /// highest rowid again unless the table is declared AUTOINCREMENT. A sequence, a UUID and an account id come once.
    fn keys_come_again(&self, dialect: Dialect) -> bool {
        match self.new_key {
            NewKey::AccountId => false,
            NewKey::Generated => dialect == Dialect::Sqlite,
            NewKey::Attribute => true,
        }
    }

    /// By the key, else the owner, else the match attribute; never a row that another account of Lockstep's owns, but to say
    /// that the row of our key is by now. That may be a row in the place of one which somebody deleted by hand, where keys
    /// come again: a person has to look. After a delete of our own it is taken for that, and only the owner tells.
    async fn locate(&self, session: &mut Session<'_>, lookup: &Lookup, purpose: Purpose) -> Result<Located, CallError> {
        let foreign = |stored: &Stored| stored.owner.as_ref().is_some_and(|owner| *owner != lookup.account.0);
        let key_tells = purpose != Purpose::Deleted || !self.keys_come_again(session.dialect());
        let mut remarked = None;
        if let Some(key) = &lookup.external_id
            && key_tells
            && let Ok(cell) = text_cell(&self.key, key)
            && let Some(stored) = self.only(session, &self.key, cell, "key").await?
        {
            if !foreign(&stored) {
                return Ok(Located::Ours(stored));
            }
            remarked = Some(stored).filter(|_| purpose != Purpose::Provision);
        }
        if let Some(owner) = &self.owner
            && let Some(stored) = self.only(session, owner, Some(lookup.account.0.to_string()), "owner").await?
        {
            return Ok(Located::Ours(stored));
        }
        if let Some(stored) = remarked {
            return Ok(Located::Remarked(stored));
        }
        let Some((name, value)) = &lookup.match_on else { return Ok(Located::Nowhere) };
        let column = self.column(name)?;
        let found = match text_cell(column, value) {
            Ok(cell) => self.only(session, column, cell, name).await,
            Err(why) => Err(CallError::new(ErrorClass::Invalid, why)),
        };
        match found {
            Ok(Some(stored)) if foreign(&stored) => Ok(Located::Anothers),
            Ok(Some(stored)) => Ok(Located::Ours(stored)),
            Ok(None) => Ok(Located::Nowhere),
            // What the column can't hold is in no row; only for who is to write it is that a fault.
            Err(error) if error.class == ErrorClass::Invalid => match session.writes() && purpose == Purpose::Provision
            {
                true => Err(error),
                false => Ok(Located::Nowhere),
            },
            Err(error) => Err(error),
        }
    }

    /// The one row with a value.
    async fn only(
        &self,
        session: &mut Session<'_>,
        column: &Column,
        cell: Cell,
        what: &str,
    ) -> Result<Option<Stored>, CallError> {
        let lock = if session.writes() && session.dialect() == Dialect::Postgres { " FOR UPDATE" } else { "" };
        let statement =
            format!("{} WHERE a.{} = {} LIMIT 2{lock}", self.select(), column.quoted(), column.parameter(1));
        let mut rows = session.rows(statement, &[cell]).await?;
        match (rows.pop(), rows.pop()) {
            (Some(_), Some(_)) => Err(CallError::new(
                ErrorClass::Uniqueness,
                format!("more than one row has this {what}; make column {} unique", column.name),
            )),
            (row, _) => Ok(row.map(|row| self.stored(row))),
        }
    }

    fn column(&self, attribute: &str) -> Result<&Column, CallError> {
        self.columns.get(attribute).ok_or_else(|| {
            let reason = format!("attribute {attribute} has no column; map it under connector.sql.accounts.columns");
            CallError::new(ErrorClass::Unsupported, reason)
        })
    }

    /// The desired attributes and active flag as cells of their columns.
    fn wanted(&self, desired: &Desired) -> Result<Vec<Wanted<'_>>, CallError> {
        let mut cells = Vec::new();
        for (name, value) in desired.attributes.iter() {
            let column = self.column(name)?;
            let cell = column.encode(value).map_err(|why| CallError::new(ErrorClass::Invalid, why))?;
            let name = self.columns.get_key_value(name.as_str()).map(|(name, _)| name.as_str());
            cells.push(Wanted { column, cell, attribute: name });
        }
        match &self.active {
            Some(active) => {
                let marker = if desired.active { &active.yes } else { &active.no };
                cells.push(Wanted { column: &active.column, cell: Some(marker.clone()), attribute: None });
            }
            None if !desired.active => return Err(no_active_column()),
            None => {}
        }
        Ok(cells)
    }

    fn owned_by(&self, account: &AccountId) -> Option<(&Column, Cell)> {
        self.owner.as_ref().map(|owner| (owner, Some(account.0.to_string())))
    }

    async fn insert(&self, session: &mut Session<'_>, change: &Change) -> Result<String, CallError> {
        let mut cells: Vec<(&Column, Cell)> =
            self.wanted(&change.desired)?.into_iter().map(|wanted| (wanted.column, wanted.cell)).collect();
        cells.extend(self.owned_by(&change.lookup.account));
        if self.new_key == NewKey::AccountId {
            cells.push((&self.key, Some(change.lookup.account.0.to_string())));
        }
        let columns: Vec<String> = cells.iter().map(|(column, _)| column.quoted()).collect();
        let parameters: Vec<String> =
            cells.iter().enumerate().map(|(i, (column, _))| column.parameter(i + 1)).collect();
        let statement = format!(
            "INSERT INTO {} ({}) VALUES ({}) RETURNING CAST({} AS TEXT)",
            self.accounts,
            columns.join(", "),
            parameters.join(", "),
            self.key.quoted()
        );
        let cells: Vec<Cell> = cells.into_iter().map(|(_, cell)| cell).collect();
        let key = session.rows(statement, &cells).await?.pop().and_then(|row| row.into_iter().next().flatten());
        let key = key.ok_or_else(|| CallError::new(ErrorClass::ServerFault, "the new row has no key"))?;
        self.regroup(session, change, &key).await?;
        Ok(key)
    }

    /// Writes what differs; the row becomes ours if it was nobody's.
    async fn update(&self, session: &mut Session<'_>, change: &Change, stored: &Stored) -> Result<String, CallError> {
        let mut cells: Vec<(&Column, Cell)> = Vec::new();
        for Wanted { column, cell, attribute } in self.wanted(&change.desired)? {
            let shown = match attribute {
                Some(attribute) => stored.cells.get(attribute).unwrap_or(&None),
                None => &stored.active,
            };
            if !column.holds(&cell, shown) || (cell != *shown && matches!(column.kind, map::Kind::Text { .. })) {
                cells.push((column, cell));
            }
        }
        if stored.owner.is_none() {
            cells.extend(self.owned_by(&change.lookup.account));
        }
        let mut key = stored.key.clone();
        if !cells.is_empty() {
            self.write(session, &cells, &stored.key).await?;
            if let Some((_, Some(new))) = cells.iter().find(|(column, _)| column.name == self.key.name) {
                if let Some(groups) = &self.groups {
                    groups.rename(session, &stored.key, new).await?;
                }
                key.clone_from(new);
            }
        }
        self.regroup(session, change, &key).await?;
        Ok(key)
    }

    async fn disable(&self, session: &mut Session<'_>, stored: &Stored) -> Result<(), CallError> {
        let active = self.active.as_ref().ok_or_else(no_active_column)?;
        let no = Some(active.no.clone());
        if active.column.holds(&no, &stored.active) {
            return Ok(());
        }
        self.write(session, &[(&active.column, no)], &stored.key).await
    }

    async fn delete(&self, session: &mut Session<'_>, stored: &Stored) -> Result<(), CallError> {
        if let Some(groups) = &self.groups {
            groups.clear(session, &stored.key).await?;
        }
        let statement =
            format!("DELETE FROM {} WHERE {} = {}", self.accounts, self.key.quoted(), self.key.parameter(1));
        one_row(session.run(statement, &[Some(stored.key.clone())]).await?)
    }

    async fn write(&self, session: &mut Session<'_>, cells: &[(&Column, Cell)], key: &str) -> Result<(), CallError> {
        let sets: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(i, (column, _))| format!("{} = {}", column.quoted(), column.parameter(i + 1)))
            .collect();
        let statement = format!(
            "UPDATE {} SET {} WHERE {} = {}",
            self.accounts,
            sets.join(", "),
            self.key.quoted(),
            self.key.parameter(cells.len() + 1)
        );
        let mut parameters: Vec<Cell> = cells.iter().map(|(_, cell)| cell.clone()).collect();
        parameters.push(Some(key.to_owned()));
        one_row(session.run(statement, &parameters).await?)
    }

    async fn regroup(&self, session: &mut Session<'_>, change: &Change, key: &str) -> Result<(), CallError> {
        match &self.groups {
            Some(groups) => groups.regroup(session, change, key).await,
            None if !GroupChanges::are_possible(&change.desired.entitlements, &change.revoked) => Ok(()),
            None => Err(CallError::new(
                ErrorClass::Unsupported,
                "the rules say something of groups here, but the target has no groups table; declare connector.sql.groups",
            )),
        }
    }
}

fn no_active_column() -> CallError {
    CallError::new(
        ErrorClass::Unsupported,
        "the target has no active column, so an account can't be disabled; declare connector.sql.accounts.active, or let the leaver action be delete",
    )
}

fn one_row(changed: u64) -> Result<(), CallError> {
    match changed {
        1 => Ok(()),
        0 => Err(CallError::new(
            ErrorClass::Permission,
            "the row was there but could not be changed; check row policies",
        )),
        _ => Err(CallError::new(ErrorClass::Uniqueness, "more than one row has this key; make the key column unique")),
    }
}

fn match_name(lookup: &Lookup) -> &str {
    lookup.match_on.as_ref().map_or("match attribute", |(name, _)| name.as_str())
}
