//! A target's tables. Nothing in them is unique but the key, so that what is made twice shows; triggers write down every
//! change of an account in the order in which it took place.

use crate::load::{Row, Rows};
use sqlx::pool::PoolOptions;
use sqlx::{AssertSqlSafe, Connection as _, Database, PgConnection, PgPool, Postgres, Row as _, Sqlite, SqlitePool};
use std::collections::{BTreeMap, BTreeSet};
use tokio::runtime::Runtime;

pub struct Tables {
    tokio: Runtime,
    pool: Pool,
    /// The schema's name and a dot, or nothing.
    schema: String,
}

/// A lock that is held.
pub struct Held<'a> {
    tokio: &'a Runtime,
    connection: Option<PgConnection>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.tokio.block_on(self.connection.take().unwrap().close()).unwrap();
    }
}

enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

const ACCOUNTS: &str =
    "owner TEXT, user_name TEXT NOT NULL, department TEXT, version TEXT, active INTEGER NOT NULL DEFAULT 1";
const AUDIT: &str = "what TEXT, owner TEXT, version TEXT, content TEXT";

impl Tables {
    pub fn sqlite(file: &std::path::Path) -> Self {
        let tokio = runtime();
        let pool =
            tokio.block_on(unmaintained::<Sqlite>().connect(&format!("sqlite:{}?mode=rwc", file.display()))).unwrap();
        Self { tokio, pool: Pool::Sqlite(pool), schema: String::new() }
    }

    /// In a schema of its own.
    pub fn postgres(url: &str, schema: &str) -> Self {
        let tokio = runtime();
        let pool = tokio.block_on(unmaintained::<Postgres>().connect(url)).unwrap();
        let tables = Self { tokio, pool: Pool::Postgres(pool), schema: format!("{schema}.") };
        tables.run(&format!("CREATE SCHEMA {schema}"));
        tables
    }

    pub fn make(&self) {
        let schema = &self.schema;
        match &self.pool {
            Pool::Sqlite(_) => {
                self.run(&format!(
                    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, {ACCOUNTS});
                     CREATE TABLE memberships (account_id INTEGER NOT NULL, group_name TEXT NOT NULL);
                     CREATE TABLE audit (seq INTEGER PRIMARY KEY, {AUDIT})"
                ));
                for (what, row) in [("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")] {
                    self.run(&format!(
                        "CREATE TRIGGER audit_{what} AFTER {what} ON accounts BEGIN
                           INSERT INTO audit (what, owner, version, content) VALUES ('{what}', {row}.owner, {row}.version,
                             {row}.id || '|' || {row}.user_name || '|' || {row}.department || '|' || {row}.version || '|' || {row}.active);
                         END"
                    ));
                }
            }
            Pool::Postgres(_) => self.run(&format!(
                "CREATE TABLE {schema}accounts (id BIGSERIAL PRIMARY KEY, {ACCOUNTS});
                 CREATE TABLE {schema}memberships (account_id BIGINT NOT NULL, group_name TEXT NOT NULL);
                 CREATE TABLE {schema}audit (seq BIGSERIAL PRIMARY KEY, at TIMESTAMPTZ DEFAULT clock_timestamp(), {AUDIT});
                 CREATE FUNCTION {schema}audit() RETURNS trigger LANGUAGE plpgsql AS $$
                   DECLARE r {schema}accounts;
                   BEGIN
                     IF TG_OP = 'DELETE' THEN r := OLD; ELSE r := NEW; END IF;
                     INSERT INTO {schema}audit (what, owner, version, content)
                       VALUES (lower(TG_OP), r.owner, r.version, concat_ws('|', r.id, r.user_name, r.department, r.version, r.active));
                     RETURN NULL;
                   END $$;
                 CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON {schema}accounts
                   FOR EACH ROW EXECUTE FUNCTION {schema}audit()"
            )),
        }
    }

    pub fn run(&self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        match &self.pool {
            Pool::Postgres(pool) => drop(self.tokio.block_on(sqlx::raw_sql(statement).execute(pool)).unwrap()),
            Pool::Sqlite(pool) => drop(self.tokio.block_on(sqlx::raw_sql(statement).execute(pool)).unwrap()),
        }
    }

    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Holds an advisory lock of PostgreSQL until it is dropped.
    pub fn hold(&self, lock: u32) -> Held<'_> {
        let Pool::Postgres(pool) = &self.pool else { panic!("SQLite has no such locks") };
        let mut connection = self.tokio.block_on(pool.acquire()).unwrap().detach();
        let statement = AssertSqlSafe(format!("SELECT pg_advisory_lock({lock})"));
        self.tokio.block_on(sqlx::raw_sql(statement).execute(&mut connection)).unwrap();
        Held { tokio: &self.tokio, connection: Some(connection) }
    }

    /// Rows of texts, from tables of this target.
    pub fn texts(&self, statement: &str) -> Vec<Vec<Option<String>>> {
        self.texts_as_they_are(&statement.replace("FROM ", &format!("FROM {}", self.schema)))
    }

    pub fn texts_as_they_are(&self, statement: &str) -> Vec<Vec<Option<String>>> {
        let statement = AssertSqlSafe(statement.to_owned());
        match &self.pool {
            Pool::Postgres(pool) => {
                let rows = self.tokio.block_on(sqlx::query(statement).fetch_all(pool)).unwrap();
                rows.iter().map(|row| (0..row.len()).map(|i| row.get(i)).collect()).collect()
            }
            Pool::Sqlite(pool) => {
                let rows = self.tokio.block_on(sqlx::query(statement).fetch_all(pool)).unwrap();
                rows.iter().map(|row| (0..row.len()).map(|i| row.get(i)).collect()).collect()
            }
        }
    }

    /// The accounts that are active. Of one that is out it depends on the moments what else it shows: commands that were overtaken
    /// were never carried out, and one that left before it was made has no row.
    pub fn rows(&self) -> Rows {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in self.texts("SELECT CAST(account_id AS TEXT), group_name FROM memberships") {
            let mut row = row.into_iter().map(Option::unwrap);
            groups.entry(row.next().unwrap()).or_default().push(row.next().unwrap());
        }
        let mut rows = Rows::new();
        for row in self.texts("SELECT CAST(id AS TEXT), user_name, department, version FROM accounts WHERE active = 1")
        {
            let [id, name, department, version] = <[_; 4]>::try_from(row).unwrap().map(Option::unwrap);
            let groups = groups.remove(&id).unwrap_or_default();
            let distinct: BTreeSet<String> = groups.iter().cloned().collect();
            assert_eq!(groups.len(), distinct.len(), "{name} is in a group twice: {groups:?}");
            let before = rows.insert(name.clone(), Row { department, version, groups: distinct });
            assert_eq!(before, None, "{name} has two active accounts");
        }
        rows
    }

    /// When people got in and lost access, in ms since the epoch, with the owner that their account has: by the number with
    /// which their user name ends. PostgreSQL only.
    pub fn changes_of_access(&self) -> BTreeMap<String, (String, Vec<(i64, bool)>)> {
        let mut people: BTreeMap<String, (String, Vec<(i64, bool)>)> = BTreeMap::new();
        let statement =
            "SELECT what, owner, content, CAST(floor(extract(epoch from at) * 1000) AS TEXT) FROM audit ORDER BY seq";
        for change in self.texts(statement) {
            let [what, owner, content, at] = <[_; 4]>::try_from(change).unwrap().map(Option::unwrap);
            let cells: Vec<&str> = content.split('|').collect();
            let number: String = cells[1].chars().filter(char::is_ascii_digit).collect();
            let number = number[number.len() - 5..].to_owned();
            let at = at.split('.').next().unwrap().parse().unwrap();
            let (_, changes) = people.entry(number).or_insert_with(|| (owner, Vec::new()));
            changes.push((at, what != "delete" && cells[4] == "1"));
        }
        people
    }

    /// No account was made while it was there, no older content followed a newer one, and no change was made twice. Gives how
    /// many changes there were.
    pub fn check_audit(&self) -> usize {
        let mut accounts: BTreeMap<String, (bool, u64, String)> = BTreeMap::new();
        let changes = self.texts("SELECT what, owner, version, content FROM audit ORDER BY seq");
        let count = changes.len();
        for change in changes {
            let [what, owner, version, content] = <[_; 4]>::try_from(change).unwrap().map(Option::unwrap);
            let version: u64 = version.parse().unwrap();
            let known = accounts.entry(owner.clone()).or_insert((false, 0, String::new()));
            assert_eq!(known.0, what != "insert", "{owner}: {what} of {content}, after {known:?}");
            assert!(known.1 <= version, "{owner}: an older version after a newer: {content}, after {known:?}");
            assert!(what == "delete" || known.2 != content, "{owner}: {what} of {content} was made twice");
            *known = (what != "delete", version, if what == "delete" { String::new() } else { content });
        }
        count
    }
}

/// The pool's own task may spin for ever (sqlx#3645).
fn unmaintained<DB: Database>() -> PoolOptions<DB> {
    PoolOptions::new().idle_timeout(None).max_lifetime(None)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
