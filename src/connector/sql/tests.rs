//! What is particular to tables, on SQLite. What every connector must do is in `tests/contract`.

use super::*;
use crate::model::{Entitlements, Universe, Value};
use crate::rules::{SqlAccounts, SqlActive, SqlGroups};
use sqlx::SqlitePool;

struct Tables {
    folder: tempfile::TempDir,
}

impl Tables {
    async fn with(statements: &'static str) -> Self {
        let tables = Self { folder: tempfile::tempdir().unwrap() };
        tables.run(statements).await;
        tables
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("t.db").display())
    }

    async fn run(&self, statements: &'static str) {
        let pool = SqlitePool::connect(&format!("{}?mode=rwc", self.url())).await.unwrap();
        sqlx::raw_sql(statements).execute(&pool).await.unwrap();
        pool.close().await;
    }

    async fn open(&self, rules: SqlRules) -> Result<SqlConnector, OpenError> {
        let limits = Limits { timeout: Duration::from_secs(2), concurrency: 2 };
        SqlConnector::open(&rules, limits, &|text| Ok(text.replace("${data}", &self.url()))).await
    }
}

fn rules(key: &str, columns: &[(&str, &str)]) -> SqlRules {
    SqlRules {
        url: "${data}".to_owned(),
        accounts: SqlAccounts {
            table: "people".to_owned(),
            key: key.to_owned(),
            owner: None,
            columns: columns.iter().map(|(name, column)| ((*name).to_owned(), (*column).to_owned())).collect(),
            active: Some(SqlActive { column: "active".to_owned(), true_value: true.into(), false_value: false.into() }),
        },
        groups: Some(SqlGroups {
            table: "memberships".to_owned(),
            account: "person".to_owned(),
            group: "team".to_owned(),
        }),
    }
}

fn change<const N: usize>(op: Op, key: Option<&str>, attributes: [(&str, Value); N], groups: &[&str]) -> Change {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Change {
        op,
        lookup: Lookup {
            account: "a1".into(),
            external_id: key.map(str::to_owned),
            match_on: Some(("userName".to_owned(), "ada".to_owned())),
        },
        desired: Desired {
            active: true,
            attributes: crate::model::Attributes::from(attributes),
            entitlements: Entitlements { groups, universe: Universe::Additive },
        },
        revoked: BTreeSet::new(),
        observed: None,
        idempotency_key: "a1@1".to_owned(),
    }
}

#[tokio::test]
async fn rules_that_do_not_fit_the_tables_are_refused_with_what_is_there() {
    let tables = Tables::with(
        "CREATE TABLE people (id INTEGER NOT NULL, name TEXT, active BOOLEAN, low TEXT AS (lower(name)));
         CREATE TABLE memberships (person INTEGER, team TEXT);",
    )
    .await;
    for (key, column, reason) in [
        ("id", "mail", "table people has no column mail; it has id, name, active, low"),
        ("nr", "name", "table people has no column nr; it has id, name, active, low"),
        ("id", "low", "table people: column low is computed by the database and can't be written"),
        ("id", "name", "the database makes no key for a new row"),
    ] {
        let Err(error) = tables.open(rules(key, &[("userName", column)])).await else { panic!("{reason}") };
        assert!(error.to_string().contains(reason), "{error}");
    }
    let mut same = rules("name", &[("userName", "name")]);
    let SqlActive { true_value, false_value, .. } = same.accounts.active.as_mut().unwrap();
    (*true_value, *false_value) = ("yes".into(), Value::Int(1));
    let Err(error) = tables.open(same).await else { panic!("true and false are the same") };
    assert!(error.to_string().contains("true and false are the same"), "{error}");
}

#[tokio::test]
async fn urls_of_other_kinds_and_secrets_that_are_missing_are_refused_without_being_shown() {
    let tables = Tables { folder: tempfile::tempdir().unwrap() };
    for url in
        ["mysql://u:hidden@host/db", "sqlite::memory:", "sqlite:x?mode=memory", "postgres://u:hidden@host:port/db"]
    {
        let Err(error) = tables.open(SqlRules { url: url.to_owned(), ..rules("id", &[]) }).await else {
            panic!("{url}")
        };
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
    let limits = Limits { timeout: Duration::from_secs(1), concurrency: 1 };
    let refused = SqlConnector::open(&rules("id", &[]), limits, &|_| Err("X is not set".to_owned())).await;
    let Err(error) = refused else { panic!("the secret is missing") };
    assert_eq!(error.to_string(), "`connector.sql.url`: X is not set");
}

#[tokio::test]
async fn a_renamed_key_takes_its_memberships_along() {
    let tables = Tables::with(
        "CREATE TABLE people (login TEXT PRIMARY KEY, given TEXT, active BOOLEAN);
         CREATE TABLE memberships (person TEXT, team TEXT);",
    )
    .await;
    let connector = tables.open(rules("login", &[("userName", "login"), ("given", "given")])).await.unwrap();
    let created = connector.apply(&change(Op::Create, None, [("userName", "ada".into())], &["eng"])).await.unwrap();
    assert_eq!(created.external_id.as_deref(), Some("ada"));
    let rename = change(Op::Update, Some("ada"), [("userName", "ada.king".into())], &["eng"]);
    let renamed = connector.apply(&rename).await.unwrap();
    assert_eq!(renamed.external_id.as_deref(), Some("ada.king"));
    let lookup = Lookup { external_id: renamed.external_id, ..rename.lookup };
    let observed = connector.read(&lookup, Purpose::Provision).await.unwrap().unwrap();
    assert_eq!(observed.groups, Some(["eng".to_owned()].into()));
}

#[tokio::test]
async fn refusals_have_their_classes_and_name_places_not_values() {
    let tables = Tables::with(
        "CREATE TABLE people (
             id INTEGER PRIMARY KEY, login TEXT NOT NULL, mail TEXT UNIQUE, started DATE, level INTEGER NOT NULL DEFAULT 1,
             active BOOLEAN);
         CREATE TABLE teams (name TEXT PRIMARY KEY);
         CREATE TABLE memberships (person INTEGER, team TEXT REFERENCES teams (name));
         INSERT INTO people (login, mail) VALUES ('bob', 'hidden@x');
         CREATE TRIGGER no_level_nine BEFORE INSERT ON people WHEN NEW.level = 9 BEGIN SELECT RAISE(ABORT, 'hidden'); END;",
    )
    .await;
    let columns = [("userName", "login"), ("mail", "mail"), ("started", "started"), ("level", "level")];
    let connector = tables.open(rules("id", &columns)).await.unwrap();
    let create = |name: &str, value: Value, groups: &[&str]| {
        change(Op::Create, None, [("userName", "ada".into()), (name, value)], groups)
    };
    for (change, class, place) in [
        (create("mail", "hidden@x".into(), &[]), ErrorClass::Uniqueness, "people.mail"),
        (create("userName", Value::Null, &[]), ErrorClass::Invalid, "column login"),
        (create("level", Value::Null, &[]), ErrorClass::Invalid, "column level"),
        (create("level", "hidden".into(), &[]), ErrorClass::Invalid, "column level"),
        (create("level", Value::Int(9), &[]), ErrorClass::Invalid, "trigger"),
        (create("started", "hidden".into(), &[]), ErrorClass::Invalid, "column started"),
        (create("nick", "hidden".into(), &[]), ErrorClass::Unsupported, "attribute nick"),
        (create("mail", Value::Null, &["hidden"]), ErrorClass::Dependency, "referred"),
    ] {
        let error = connector.apply(&change).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains(place) && !error.message.contains("hidden"), "{error}");
    }
    assert_eq!(connector.list(None).await.unwrap().accounts.len(), 1, "bob alone: nothing was made by halves");
}

#[tokio::test]
async fn without_an_active_column_nothing_is_disabled_and_without_a_groups_table_nothing_is_granted() {
    let tables = Tables { folder: tempfile::tempdir().unwrap() };
    let mut plain = rules("id", &[("userName", "login")]);
    (plain.accounts.active, plain.groups) = (None, None);
    let connector = tables.open(plain).await.unwrap();
    let capabilities = connector.capabilities();
    assert!(!capabilities.disable && !capabilities.groups && !capabilities.owner);
    let key = connector.apply(&change(Op::Create, None, [("userName", "ada".into())], &[])).await.unwrap().external_id;
    for (op, groups) in [(Op::Disable, &[][..]), (Op::Update, &["eng"])] {
        let error = connector.apply(&change(op, key.as_deref(), [], groups)).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Unsupported, "{error}");
    }
}

#[tokio::test]
async fn a_database_that_another_process_keeps_locked_is_throttled_and_unchanged() {
    let tables = Tables { folder: tempfile::tempdir().unwrap() };
    let connector = tables.open(rules("id", &[("userName", "login")])).await.unwrap();
    let other = SqlitePool::connect(&tables.url()).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let create = change(Op::Create, None, [("userName", "ada".into())], &[]);
    let error = connector.apply(&create).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Throttled, "{error}");
    assert!(connector.read(&create.lookup, Purpose::Provision).await.unwrap().is_none(), "reading needs no lock");
    lock.rollback().await.unwrap();
    connector.apply(&create).await.unwrap();
}

#[tokio::test]
async fn a_key_that_came_again_after_a_delete_is_not_the_account_that_was_deleted() {
    const ROWID: &str = "CREATE TABLE people (id INTEGER PRIMARY KEY, login TEXT, owned TEXT, active BOOLEAN);
        CREATE TABLE memberships (person INTEGER, team TEXT);";
    const ONCE: &str = "CREATE TABLE people (id TEXT PRIMARY KEY, login TEXT, owned TEXT, active BOOLEAN);
        CREATE TABLE memberships (person TEXT, team TEXT);
        INSERT INTO people VALUES ('1', 'bob', 'b2', true);";
    for (statements, owner, found) in [
        (ROWID, Some("owned"), [false, true, false]),
        (ROWID, None, [true, true, false]),
        // Keys that come once: whoever has it is who was to be gone.
        (ONCE, Some("owned"), [false, true, true]),
        (ONCE, None, [true, true, true]),
    ] {
        let tables = Tables::with(statements).await;
        let mut rules = rules("id", &[("userName", "login")]);
        rules.accounts.owner = owner.map(str::to_owned);
        let connector = tables.open(rules).await.unwrap();
        if statements == ROWID {
            let create = change(Op::Create, None, [("userName", "ada".into())], &[]);
            let key = connector.apply(&create).await.unwrap().external_id;
            connector.apply(&change(Op::Delete, key.as_deref(), [], &[])).await.unwrap();
            tables.run("INSERT INTO people (login, owned, active) VALUES ('bob', 'b2', true)").await;
        }
        let lookup = Lookup { match_on: None, ..change(Op::Delete, Some("1"), [], &[]).lookup };
        for (purpose, found) in [Purpose::Provision, Purpose::Deprovision, Purpose::Deleted].into_iter().zip(found) {
            let read = connector.read(&lookup, purpose).await.unwrap();
            assert_eq!(read.is_some(), found, "{purpose:?}, owner {owner:?}: {statements}");
        }
    }
}

#[tokio::test]
async fn who_could_not_be_hired_for_a_value_can_leave() {
    let tables = Tables::with(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, login INTEGER NOT NULL, active BOOLEAN);
         CREATE TABLE memberships (person INTEGER, team TEXT);",
    )
    .await;
    let connector = tables.open(rules("id", &[("userName", "login")])).await.unwrap();
    for (op, class) in [
        (Op::Create, ErrorClass::Invalid),
        (Op::Update, ErrorClass::Invalid),
        (Op::Disable, ErrorClass::AlreadyGone),
        (Op::Delete, ErrorClass::AlreadyGone),
    ] {
        let change = change(op, None, [("userName", "ada".into())], &[]);
        assert_eq!(connector.apply(&change).await.unwrap_err().class, class, "{op}");
        assert_eq!(connector.read(&change.lookup, Purpose::Provision).await.unwrap(), None, "{op}");
    }
}
