//! The suite on SQLite and PostgreSQL, each with tables of two kinds.

use super::{Fault, SHORT, TIMEOUT, Target, apply, change, desired, lookup, whole};
use async_trait::async_trait;
use lockstep::connector::{Connector, Limits, OpenError, Purpose, open};
use lockstep::model::{AccountId, ErrorClass, Op, Value};
use lockstep::rules::{ConnectorRules, SqlAccounts, SqlActive, SqlGroups, SqlRules};
use sqlx::{AssertSqlSafe, PgPool, Row as _, SqlitePool};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl Pool {
    /// Rows as texts. The tests' own statements and values, so they are put together as text.
    async fn rows(&self, statement: String) -> Vec<Vec<Option<String>>> {
        match self {
            Self::Postgres(pool) => {
                let rows = sqlx::query(AssertSqlSafe(statement)).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|i| row.get(i)).collect()).collect()
            }
            Self::Sqlite(pool) => {
                let rows = sqlx::query(AssertSqlSafe(statement)).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|i| row.get(i)).collect()).collect()
            }
        }
    }

    async fn run(&self, statement: String) {
        match self {
            Self::Postgres(pool) => drop(sqlx::raw_sql(AssertSqlSafe(statement)).execute(pool).await.unwrap()),
            Self::Sqlite(pool) => drop(sqlx::raw_sql(AssertSqlSafe(statement)).execute(pool).await.unwrap()),
        }
    }
}

struct Tables {
    pool: Pool,
    rules: SqlRules,
    connector: Arc<dyn Connector>,
    longest: Option<usize>,
    _folder: Option<tempfile::TempDir>,
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn literal(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        other => other.to_json().to_string(),
    }
}

impl Tables {
    fn active(&self) -> &SqlActive {
        self.rules.accounts.active.as_ref().unwrap()
    }

    fn is(&self, key: &str) -> String {
        format!("CAST({} AS TEXT) = {}", self.rules.accounts.key, quoted(key))
    }

    async fn number(&self, statement: String) -> usize {
        self.pool.rows(statement).await[0][0].as_ref().unwrap().parse().unwrap()
    }
}

#[async_trait]
impl Target for Tables {
    fn connector(&self) -> Arc<dyn Connector> {
        self.connector.clone()
    }

    async fn broken(&self, fault: Fault) -> Option<Arc<dyn Connector>> {
        let Pool::Postgres(_) = self.pool else { return None };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match fault {
            // The tests' server trusts everybody that it knows.
            Fault::Credentials => self.rules.url.replace("postgres@", "stranger:secret@"),
            Fault::Gone => {
                drop(listener);
                format!("postgres://postgres@127.0.0.1:{port}/postgres")
            }
            Fault::Hanging => {
                // Kept open for as long as the process lives.
                std::mem::forget(listener);
                format!("postgres://postgres@127.0.0.1:{port}/postgres")
            }
        };
        let rules = SqlRules { url, ..self.rules.clone() };
        Some(opened(&rules, SHORT).await.unwrap())
    }

    async fn seed(&self, user_name: &str, owner: Option<&AccountId>) -> String {
        let accounts = &self.rules.accounts;
        let owner = owner.map_or("NULL".to_owned(), |owner| quoted(&owner.0));
        let (mut keys, mut values) = (String::new(), String::new());
        if accounts.table.ends_with("keyed") || accounts.table == "made" {
            (keys, values) = (format!("{}, ", accounts.key), format!("{}, ", quoted(&format!("k-{user_name}"))));
        }
        let name = quoted(user_name);
        let statement = format!(
            "INSERT INTO {} ({keys}user_name, given_name, family_name, owner, {}) VALUES ({values}{name}, 'x', 'y', {owner}, {}) \
             RETURNING CAST({} AS TEXT)",
            accounts.table,
            self.active().column,
            literal(&self.active().true_value),
            accounts.key
        );
        self.pool.rows(statement).await[0][0].clone().unwrap()
    }

    async fn raw(&self, key: &str) -> Option<BTreeMap<String, String>> {
        let names = ["user_name", "given_name", "family_name", "mail", "mobile", "department", "owner"];
        let selected: Vec<String> = names.iter().map(|name| format!("CAST({name} AS TEXT)")).collect();
        let table = &self.rules.accounts.table;
        let rows = self.pool.rows(format!("SELECT {} FROM {table} WHERE {}", selected.join(", "), self.is(key))).await;
        rows.into_iter().next().map(|row| {
            names.iter().zip(row).filter_map(|(name, cell)| cell.map(|cell| ((*name).to_owned(), cell))).collect()
        })
    }

    async fn count(&self) -> usize {
        self.number(format!("SELECT CAST(count(*) AS TEXT) FROM {}", self.rules.accounts.table)).await
    }

    async fn set(&self, key: &str, attribute: &str, value: &str) {
        let accounts = &self.rules.accounts;
        let (table, column) = (&accounts.table, &accounts.columns[attribute]);
        self.pool.run(format!("UPDATE {table} SET {column} = {} WHERE {}", quoted(value), self.is(key))).await;
    }

    async fn mark(&self, key: &str, owner: &AccountId) {
        let table = &self.rules.accounts.table;
        self.pool.run(format!("UPDATE {table} SET owner = {} WHERE {}", quoted(&owner.0), self.is(key))).await;
    }

    async fn set_active(&self, key: &str, active: bool) {
        let table = &self.rules.accounts.table;
        let SqlActive { column, true_value, false_value } = self.active();
        let value = literal(if active { true_value } else { false_value });
        self.pool.run(format!("UPDATE {table} SET {column} = {value} WHERE {}", self.is(key))).await;
    }

    async fn join(&self, key: &str, group: &str) {
        let SqlGroups { table, account, group: column } = self.rules.groups.as_ref().unwrap();
        let statement =
            format!("INSERT INTO {table} ({account}, {column}) VALUES ({}, {})", quoted(key), quoted(group));
        self.pool.run(statement).await;
    }

    async fn leave(&self, key: &str, group: &str) {
        let SqlGroups { table, account, group: column } = self.rules.groups.as_ref().unwrap();
        let statement =
            format!("DELETE FROM {table} WHERE {account} = {} AND {column} = {}", quoted(key), quoted(group));
        self.pool.run(statement).await;
    }

    async fn memberships(&self, key: &str, group: &str) -> usize {
        let SqlGroups { table, account, group: column } = self.rules.groups.as_ref().unwrap();
        let is = format!("CAST({account} AS TEXT) = {} AND {column} = {}", quoted(key), quoted(group));
        self.number(format!("SELECT CAST(count(*) AS TEXT) FROM {table} WHERE {is}")).await
    }

    fn unstorable(&self) -> Option<String> {
        Some(match self.rules.accounts.table.ends_with(".people") {
            true => "x".repeat(201),
            false => "x\0".to_owned(),
        })
    }

    fn longest_department(&self) -> Option<usize> {
        self.longest
    }
}

async fn opened(rules: &SqlRules, timeout: Duration) -> Result<Arc<dyn Connector>, OpenError> {
    let limits = Limits { timeout, concurrency: 4 };
    open(&ConnectorRules::Sql(rules.clone()), limits, &|text| Ok(text.to_owned())).await
}

fn rules(url: &str, prefix: &str, accounts: &str, active: [Value; 2]) -> SqlRules {
    let [true_value, false_value] = active;
    let columns = [
        ("userName", "user_name"),
        ("givenName", "given_name"),
        ("familyName", "family_name"),
        ("mail", "mail"),
        ("mobile", "mobile"),
        ("department", "department"),
    ];
    SqlRules {
        url: url.to_owned(),
        accounts: SqlAccounts {
            table: format!("{prefix}{accounts}"),
            key: "id".to_owned(),
            owner: Some("owner".to_owned()),
            columns: columns.into_iter().map(|(attribute, column)| (attribute.to_owned(), column.to_owned())).collect(),
            active: Some(SqlActive { column: "active".to_owned(), true_value, false_value }),
        },
        groups: Some(SqlGroups {
            table: format!("{prefix}{accounts}_groups"),
            account: "account".to_owned(),
            group: "name".to_owned(),
        }),
    }
}

async fn sqlite(statements: &str, accounts: &str, active: [Value; 2], longest: Option<usize>) -> Tables {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("target.db").display());
    let pool = SqlitePool::connect(&format!("{url}?mode=rwc")).await.unwrap();
    let pool = Pool::Sqlite(pool);
    pool.run(statements.to_owned()).await;
    let rules = rules(&url, "", accounts, active);
    let connector = opened(&rules, TIMEOUT).await.unwrap();
    Tables { pool, rules, connector, longest, _folder: Some(folder) }
}

async fn postgres(statements: &str, accounts: &str, active: [Value; 2]) -> Tables {
    let url = std::env::var("LOCKSTEP_TEST_POSTGRES").expect("LOCKSTEP_TEST_POSTGRES names a database");
    let schema = format!("contract_{}_{accounts}", std::process::id());
    let pool = Pool::Postgres(PgPool::connect(&url).await.unwrap());
    pool.run(format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")).await;
    pool.run(statements.replace("SCHEMA", &schema)).await;
    let rules = rules(&url, &format!("{schema}."), accounts, active);
    let connector = opened(&rules, TIMEOUT).await.unwrap();
    Tables { pool, rules, connector, longest: Some(64), _folder: None }
}

#[tokio::test]
async fn sqlite_tables_that_lockstep_makes() {
    whole(&sqlite("SELECT 1", "made", [true.into(), false.into()], None).await).await;
}

#[tokio::test]
async fn sqlite_tables_that_were_there() {
    let statements = "
        CREATE TABLE people (
            id INTEGER PRIMARY KEY, user_name VARCHAR(200) NOT NULL UNIQUE, given_name TEXT NOT NULL, family_name TEXT,
            mail TEXT, mobile TEXT, department TEXT CHECK (length(department) <= 64), owner TEXT, active TEXT NOT NULL);
        CREATE TABLE people_groups (account INTEGER NOT NULL REFERENCES people (id), name TEXT NOT NULL);";
    whole(&sqlite(statements, "people", ["yes".into(), "locked".into()], Some(64)).await).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run connector"]
async fn postgres_tables_with_keys_of_their_own() {
    let statements = "
        CREATE TABLE SCHEMA.people (
            id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_name varchar(200) NOT NULL UNIQUE,
            given_name text NOT NULL, family_name text, mail varchar(200), mobile char(20), department varchar(64), owner uuid,
            active boolean NOT NULL);
        CREATE TABLE SCHEMA.people_groups (
            account integer NOT NULL REFERENCES SCHEMA.people (id), name text NOT NULL, PRIMARY KEY (account, name));";
    whole(&postgres(statements, "people", [true.into(), false.into()]).await).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run connector"]
async fn postgres_tables_keyed_by_the_account_id() {
    let statements = "
        CREATE DOMAIN SCHEMA.short AS varchar(64);
        CREATE TYPE SCHEMA.state AS ENUM ('on', 'off');
        CREATE TABLE SCHEMA.keyed (
            id varchar(300) PRIMARY KEY, user_name text NOT NULL UNIQUE, given_name text NOT NULL, family_name text, mail text,
            mobile text, department SCHEMA.short, owner text UNIQUE, active SCHEMA.state NOT NULL);
        CREATE TABLE SCHEMA.teams (name text PRIMARY KEY);
        INSERT INTO SCHEMA.teams VALUES ('eng'), ('ops'), ('vpn');
        CREATE TABLE SCHEMA.keyed_groups (
            account varchar(300) NOT NULL, name text NOT NULL REFERENCES SCHEMA.teams (name));";
    whole(&postgres(statements, "keyed", ["on".into(), "off".into()]).await).await;
}

/// A PostgreSQL table with a column of every kind, and what becomes of values in them.
#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run connector"]
async fn postgres_types_locks_and_rights() {
    let statements = "
        CREATE TABLE SCHEMA.typed (
            id bigserial PRIMARY KEY, user_name varchar(200) NOT NULL, given_name text, family_name text, mail text, mobile text,
            department text, owner text, active boolean NOT NULL, started date, seen timestamptz, level smallint, rate numeric(8,2),
            score real, code uuid, note varchar(5) CHECK (note <> 'bad'));
        CREATE TABLE SCHEMA.typed_groups (account bigint, name text);";
    let mut tables = postgres(statements, "typed", [true.into(), false.into()]).await;
    for column in ["started", "seen", "level", "rate", "score", "code", "note"] {
        tables.rules.accounts.columns.insert(column.to_owned(), column.to_owned());
    }
    tables.connector = opened(&tables.rules, Duration::from_secs(2)).await.unwrap();
    let mut wanted = desired("ada", &[]);
    for (name, value) in [
        ("started", "2026-03-02T00:00:00+01:00".into()),
        ("seen", "2026-03-02T09:00:00.5+01:00".into()),
        ("level", Value::Float(3.0)),
        ("rate", "007.50".into()),
        ("score", Value::Float(0.1)),
        ("code", "7F1D0C6E-52A4-4F0E-9D2B-6C6F636B7374".into()),
        ("note", "\u{e9}t\u{e9}".into()),
    ] {
        wanted.attributes.insert(name.to_owned(), value);
    }
    let create = change(Op::Create, &lookup("ada", None), &wanted, &[]);
    let created = apply(&tables, &create).await.unwrap().unwrap();
    assert_eq!(created.attributes.get("level"), Some(&Value::Int(3)));
    assert_eq!(created.attributes.get("started"), Some(&Value::from("2026-03-02")));
    assert_eq!(created.attributes.get("seen"), Some(&Value::from("2026-03-02T08:00:00.5Z")));

    for (name, value, class) in [
        ("note", "bad", ErrorClass::Invalid),
        ("note", "sixsix", ErrorClass::Invalid),
        ("level", "70000", ErrorClass::Invalid),
        ("started", "2026-02-30", ErrorClass::Invalid),
        ("givenName", "a\0b", ErrorClass::Invalid),
    ] {
        let mut refused = wanted.clone();
        refused.attributes.insert(name.to_owned(), value.into());
        let update = change(Op::Update, &create.lookup, &refused, &[]);
        let error = tables.connector.apply(&update).await.unwrap_err();
        assert_eq!(error.class, class, "{name}: {error}");
        assert!(!error.message.contains(value), "{error}");
    }

    // A row that somebody else holds: the server gives up first, and says so.
    let Pool::Postgres(pool) = &tables.pool else { panic!("it is PostgreSQL") };
    let table = &tables.rules.accounts.table;
    let mut other = pool.begin().await.unwrap();
    sqlx::query(AssertSqlSafe(format!("SELECT FROM {table} FOR UPDATE"))).execute(&mut *other).await.unwrap();
    let disable = change(Op::Disable, &create.lookup, &wanted, &[]);
    let error = tables.connector.apply(&disable).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::UnknownOutcome, "{error}");
    other.rollback().await.unwrap();

    // Its sessions ended behind its back: the next call opens another.
    let end = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE application_name = 'lockstep' AND query LIKE '%typed%'";
    tables.pool.run(end.to_owned()).await;
    assert!(tables.connector.apply(&disable).await.is_ok());

    // A user that may read and not write.
    let (schema, _) = table.split_once('.').unwrap();
    let reader = format!("reader_{schema}");
    tables
        .pool
        .run(format!("CREATE ROLE {reader} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {reader}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader}"))
        .await;
    let rules = SqlRules { url: tables.rules.url.replace("postgres@", &format!("{reader}@")), ..tables.rules.clone() };
    let connector = opened(&rules, TIMEOUT).await.unwrap();
    assert!(connector.read(&create.lookup, Purpose::Provision).await.unwrap().is_some());
    assert_eq!(connector.apply(&disable).await.unwrap_err().class, ErrorClass::Permission);
    tables.pool.run(format!("DROP OWNED BY {reader}; DROP ROLE {reader}")).await;

    // The tables went away.
    tables.pool.run(format!("DROP SCHEMA {schema} CASCADE")).await;
    assert_eq!(
        tables.connector.read(&create.lookup, Purpose::Provision).await.unwrap_err().class,
        ErrorClass::ServerFault
    );
    let Err(error) = opened(&tables.rules, TIMEOUT).await else { panic!("there is no table") };
    assert!(error.to_string().contains("there is no table"), "{error}");
}
