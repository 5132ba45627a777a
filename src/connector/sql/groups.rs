//! Memberships: rows of a table, one an account and group.

use super::call::{Cell, Session};
use super::schema::{Groups, text_cell};
use crate::connector::{CallError, Change, GroupChanges};
use crate::model::ErrorClass;
use std::collections::{BTreeMap, BTreeSet};

impl Groups {
    fn account_cell(&self, key: &str) -> Result<Cell, CallError> {
        text_cell(&self.account, key).map_err(|why| CallError::new(ErrorClass::Invalid, why))
    }

    pub(super) async fn of(&self, session: &mut Session<'_>, key: &str) -> Result<BTreeSet<String>, CallError> {
        let mut groups = self.of_all(session, std::iter::once(key)).await?;
        Ok(groups.remove(key).unwrap_or_default())
    }

    pub(super) async fn of_all<'k>(
        &self,
        session: &mut Session<'_>,
        keys: impl Iterator<Item = &'k str>,
    ) -> Result<BTreeMap<String, BTreeSet<String>>, CallError> {
        let cells: Vec<Cell> = keys.map(|key| self.account_cell(key)).collect::<Result<_, _>>()?;
        let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        if cells.is_empty() {
            return Ok(groups);
        }
        let parameters: Vec<String> = (1..=cells.len()).map(|number| self.account.parameter(number)).collect();
        let statement = format!(
            "SELECT {}, {} FROM {} AS g WHERE g.{} IN ({})",
            self.account.select("g"),
            self.group.select("g"),
            self.table,
            self.account.quoted(),
            parameters.join(", ")
        );
        for row in session.rows(statement, &cells).await? {
            if let [Some(account), Some(group)] = row.as_slice() {
                groups.entry(account.clone()).or_default().insert(group.clone());
            }
        }
        Ok(groups)
    }

    pub(super) async fn regroup(&self, session: &mut Session<'_>, change: &Change, key: &str) -> Result<(), CallError> {
        let current = self.of(session, key).await?;
        let changes = GroupChanges::of(&change.desired.entitlements, &change.revoked, &current);
        let (account, group) = (self.account.quoted(), self.group.quoted());
        let (first, second) = (self.account.parameter(1), self.group.parameter(2));
        // Nothing to do where somebody else added it since it was read.
        let add = format!(
            "INSERT INTO {} ({account}, {group}) VALUES ({first}, {second}) ON CONFLICT DO NOTHING",
            self.table
        );
        let remove = format!("DELETE FROM {} WHERE {account} = {first} AND {group} = {second}", self.table);
        for (statement, names) in [(add, changes.add), (remove, changes.remove)] {
            for name in names {
                let name = text_cell(&self.group, &name).map_err(|why| CallError::new(ErrorClass::Invalid, why))?;
                session.run(statement.clone(), &[self.account_cell(key)?, name]).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn clear(&self, session: &mut Session<'_>, key: &str) -> Result<(), CallError> {
        let statement =
            format!("DELETE FROM {} WHERE {} = {}", self.table, self.account.quoted(), self.account.parameter(1));
        session.run(statement, &[self.account_cell(key)?]).await.map(|_| ())
    }

    /// Carries memberships over to a changed key; a foreign key that cascades has done so already.
    pub(super) async fn rename(&self, session: &mut Session<'_>, old: &str, new: &str) -> Result<(), CallError> {
        let account = self.account.quoted();
        let statement = format!(
            "UPDATE {} SET {account} = {} WHERE {account} = {}",
            self.table,
            self.account.parameter(1),
            self.account.parameter(2)
        );
        session.run(statement, &[self.account_cell(new)?, self.account_cell(old)?]).await.map(|_| ())
    }
}
