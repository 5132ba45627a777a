//! The tables as they are: found once, and checked against the rules. On SQLite tables that are missing are made.

use super::call::{Cell, Database, Dialect, Row, Session, quote, quote_table};
use super::map::{Column, Kind, declared, marker};
use crate::connector::CallError;
use crate::model::Value;
use crate::rules::{SqlActive, SqlRules};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

/// Of the form of Lockstep's account ids, to try a column with.
const ACCOUNT_ID_EXAMPLE: &str = "7f1d0c6e-52a4-5f0e-9d2b-6c6f636b7374";

/// The rules' tables and columns, with the columns' types.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Quoted.
    pub(super) accounts: String,
    pub(super) key: Column,
    pub(super) new_key: NewKey,
    pub(super) owner: Option<Column>,
    pub(super) active: Option<Active>,
    /// By attribute.
    pub(super) columns: BTreeMap<String, Column>,
    pub(super) groups: Option<Groups>,
}

/// Where the key of a new row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NewKey {
    /// The database makes it; it is read back.
    Generated,
    /// It is Lockstep's account id.
    AccountId,
    /// The key is a mapped attribute's column.
    Attribute,
}

#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) column: Column,
    /// Canonical texts.
    pub(super) yes: String,
    pub(super) no: String,
}

#[derive(Clone, Debug)]
pub(super) struct Groups {
    /// Quoted.
    pub(super) table: String,
    pub(super) account: Column,
    pub(super) group: Column,
}

pub(super) enum DiscoverError {
    Call(CallError),
    /// The tables are not as the rules say; what is wrong and what to do.
    Mismatch(String),
}

impl From<CallError> for DiscoverError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Layout {
    pub(super) async fn discover(rules: &SqlRules, database: &Database) -> Result<Self, DiscoverError> {
        if database.dialect() == Dialect::Sqlite {
            make_missing(rules, database).await?;
        }
        let mut session = database.reading().await?;
        let accounts = Table::find(&mut session, &rules.accounts.table).await?;
        let groups = match &rules.groups {
            Some(groups) => Some(Table::find(&mut session, &groups.table).await?),
            None => None,
        };
        Self::check(rules, &accounts, groups.as_ref()).map_err(DiscoverError::Mismatch)
    }

    fn check(rules: &SqlRules, accounts: &Table, groups: Option<&Table>) -> Result<Self, String> {
        let declared = &rules.accounts;
        let key = accounts.column(&declared.key)?;
        let owner = declared.owner.as_ref().map(|name| accounts.column(name)).transpose()?;
        if let Some(owner) = &owner {
            owner.encode(&ACCOUNT_ID_EXAMPLE.into()).map_err(|why| {
                format!("table {}: the owner column keeps an account id, a UUID as text: {why}", accounts.name)
            })?;
        }
        let mut columns = BTreeMap::new();
        for (attribute, name) in &declared.columns {
            columns.insert(attribute.clone(), accounts.column(name)?);
        }
        let new_key = if declared.columns.values().any(|name| *name == declared.key) {
            NewKey::Attribute
        } else if key.generated {
            NewKey::Generated
        } else {
            key.encode(&ACCOUNT_ID_EXAMPLE.into()).map_err(|why| {
                format!(
                    "table {}: the database makes no key for a new row, and Lockstep's account id doesn't fit: {why}; \
                     give the column a default (generated always as identity) or map an attribute to it",
                    accounts.name
                )
            })?;
            NewKey::AccountId
        };
        let active = declared.active.as_ref().map(|active| Active::of(accounts, active)).transpose()?;
        let groups = match (groups, &rules.groups) {
            (Some(table), Some(declared)) => Some(Groups {
                table: quote_table(&table.name),
                account: table.column(&declared.account)?,
                group: table.column(&declared.group)?,
            }),
            _ => None,
        };
        Ok(Self { accounts: quote_table(&accounts.name), key, new_key, owner, active, columns, groups })
    }
}

impl Active {
    fn of(table: &Table, rules: &SqlActive) -> Result<Self, String> {
        let column = table.column(&rules.column)?;
        let place = |why: String| format!("table {}: the values of the active column: {why}", table.name);
        let yes = marker(&column, &rules.true_value).map_err(place)?;
        let no = marker(&column, &rules.false_value).map_err(place)?;
        if yes == no {
            return Err(place(format!("true and false are the same to column {}", column.name)));
        }
        Ok(Self { column, yes, no })
    }
}

struct Table {
    name: String,
    columns: Vec<Column>,
    /// Columns that can't be used, and why.
    unusable: Vec<(String, &'static str)>,
}

impl Table {
    async fn find(session: &mut Session<'_>, name: &str) -> Result<Self, DiscoverError> {
        let table = match session.dialect() {
            Dialect::Postgres => Self::find_postgres(session, name).await?,
            Dialect::Sqlite => Self::find_sqlite(session, name).await?,
        };
        if table.columns.is_empty() {
            return Err(DiscoverError::Mismatch(format!(
                "there is no table {name}, or the database user may not see it; create it or correct the name in the rules"
            )));
        }
        Ok(table)
    }

    fn column(&self, name: &str) -> Result<Column, String> {
        if let Some((_, why)) = self.unusable.iter().find(|(unusable, _)| unusable == name) {
            return Err(format!("table {}: column {name} {why}", self.name));
        }
        self.columns.iter().find(|column| column.name == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            format!("table {} has no column {name}; it has {}", self.name, names.join(", "))
        })
    }

    async fn find_postgres(session: &mut Session<'_>, name: &str) -> Result<Self, CallError> {
        let rows = session.rows(POSTGRES_COLUMNS.to_owned(), &[Some(quote_table(name))]).await?;
        let mut table = Self { name: name.to_owned(), columns: Vec::new(), unusable: Vec::new() };
        for row in rows {
            let [name, schema, type_name, base, length, required, default, computed, array] = fields(row);
            // The catalogue keeps a length with the four bytes of its header.
            let limit =
                length.parse::<usize>().ok().and_then(|length| length.checked_sub(4)).filter(|limit| *limit > 0);
            let kind = Kind::of_postgres(&base, limit);
            if computed == "true" {
                table.unusable.push((name.clone(), "is computed by the database and can't be written"));
            } else if array == "true" {
                table.unusable.push((name.clone(), "is an array; map a text column and join() the list in the rule"));
            }
            table.columns.push(Column {
                name,
                kind,
                cast: Some(format!("{}.{}", quote(&schema), quote(&type_name))),
                nullable: required != "true",
                generated: default == "true",
            });
        }
        Ok(table)
    }

    async fn find_sqlite(session: &mut Session<'_>, name: &str) -> Result<Self, CallError> {
        let (schema, table) = name.split_once('.').unwrap_or(("main", name));
        let rows = session.rows(SQLITE_COLUMNS.to_owned(), &[Some(table.to_owned()), Some(schema.to_owned())]).await?;
        let keys = rows.iter().filter(|row| row.get(4).is_some_and(|pk| pk.as_deref() != Some("0"))).count();
        let mut table = Self { name: name.to_owned(), columns: Vec::new(), unusable: Vec::new() };
        for row in rows {
            let [name, type_name, required, default, primary, hidden] = fields(row);
            if hidden != "0" {
                table.unusable.push((name.clone(), "is computed by the database and can't be written"));
            }
            // The one INTEGER PRIMARY KEY is the rowid: made by SQLite, and never null.
            let rowid = keys == 1 && primary == "1" && type_name.eq_ignore_ascii_case("integer");
            table.columns.push(Column {
                kind: Kind::of_sqlite(&type_name),
                name,
                cast: None,
                nullable: required == "0" && !rowid,
                generated: default == "1" || rowid,
            });
        }
        Ok(table)
    }
}

/// One row a column, of a table by its quoted name. A domain counts as its base type.
const POSTGRES_COLUMNS: &str = "
    SELECT a.attname::text, n.nspname::text, t.typname::text, coalesce(b.typname, t.typname)::text,
           coalesce(nullif(a.atttypmod, -1), t.typtypmod)::text, a.attnotnull::text,
           (a.atthasdef OR a.attidentity <> '')::text, (a.attgenerated <> '')::text, (t.typcategory = 'A')::text
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype
    WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum";

const SQLITE_COLUMNS: &str = "
    SELECT name, type, CAST(\"notnull\" AS TEXT), CAST(dflt_value IS NOT NULL AS TEXT), CAST(pk AS TEXT), CAST(hidden AS TEXT)
    FROM pragma_table_xinfo($1, $2)";

fn fields<const N: usize>(row: Row) -> [String; N] {
    let mut cells = row.into_iter();
    std::array::from_fn(|_| cells.next().flatten().unwrap_or_default())
}

/// So that a first try needs no set-up. Only tables that aren't there; what is there is never altered.
async fn make_missing(rules: &SqlRules, database: &Database) -> Result<(), CallError> {
    let never_committed_twice = AtomicBool::new(false);
    let mut session = database.writing(&never_committed_twice).await?;
    let accounts = &rules.accounts;
    let mut columns = vec![(accounts.key.as_str(), "TEXT NOT NULL PRIMARY KEY")];
    if let Some(owner) = &accounts.owner {
        columns.push((owner, "TEXT UNIQUE"));
    }
    columns.extend(accounts.columns.values().map(|name| (name.as_str(), "TEXT")));
    if let Some(active) = &accounts.active {
        columns.push((&active.column, declared(&active.true_value)));
    }
    make_table(&mut session, &accounts.table, &columns, None).await?;
    if let Some(groups) = &rules.groups {
        let columns = [(groups.account.as_str(), "TEXT NOT NULL"), (groups.group.as_str(), "TEXT NOT NULL")];
        make_table(&mut session, &groups.table, &columns, Some([&groups.account, &groups.group])).await?;
    }
    session.commit().await
}

async fn make_table(
    session: &mut Session<'_>,
    name: &str,
    columns: &[(&str, &str)],
    primary: Option<[&str; 2]>,
) -> Result<(), CallError> {
    let mut parts: Vec<String> = Vec::new();
    for (i, (column, kind)) in columns.iter().enumerate() {
        // Two attributes may share a column with the key.
        if columns[..i].iter().all(|(earlier, _)| earlier != column) {
            parts.push(format!("{} {kind}", quote(column)));
        }
    }
    if let Some([account, group]) = primary {
        parts.push(format!("PRIMARY KEY ({}, {})", quote(account), quote(group)));
    }
    let statement = format!("CREATE TABLE IF NOT EXISTS {} ({})", quote_table(name), parts.join(", "));
    session.run(statement, &[]).await.map(|_| ())
}

/// A cell that is the text of a column's value; for keys and owners, which are texts everywhere in Lockstep.
pub(super) fn text_cell(column: &Column, text: &str) -> Result<Cell, String> {
    column.encode(&Value::text(text))
}
