//! The two databases behind one face: a transaction that takes statements with numbered parameters, all of them text or null.
//!
//! Text is enough: PostgreSQL casts each parameter to its column's type (`map::Column::parameter`), SQLite converts by its
//! column's affinity. Values are only ever bound; what a statement's text is made of are quoted names from the rules.

use super::error::{Step, call_error};
use crate::connector::{CallError, OpenError};
use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool, Postgres, Row as _, Sqlite, SqlitePool, Transaction};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is bound and what is read: a text, or null.
pub(super) type Cell = Option<String>;
pub(super) type Row = Vec<Cell>;

/// sqlx goes on trying while a server refuses connections; beyond this a call fails and the lane's breaker takes over.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// SQLite writes one transaction at a time anyway: one connection queues them fairly instead of by lock and sleep.
const SQLITE_CONNECTIONS: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    Sqlite,
}

pub(super) enum Database {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl Database {
    /// Connects at the first call, not here. `connections`: at most as many as calls at once.
    pub(super) fn open(url: &str, connections: u32, timeout: Duration) -> Result<Self, OpenError> {
        let refused =
            |reason: &str| OpenError::Rules { place: "connector.sql.url".to_owned(), reason: reason.to_owned() };
        let connect = CONNECT_LIMIT.min(timeout / 2);
        // The server gives up before the caller does, so that its answer says what took so long.
        let statement = timeout * 3 / 4;
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => {
                let options = PgConnectOptions::from_str(url)
                    .map_err(|_| refused("not a PostgreSQL url; write postgres://user:password@host:port/database"))?
                    .application_name("lockstep")
                    .options([
                        ("statement_timeout", statement.as_millis().to_string()),
                        ("idle_in_transaction_session_timeout", timeout.as_millis().to_string()),
                    ])
                    .disable_statement_logging();
                let pool = PgPoolOptions::new().max_connections(connections.max(1)).acquire_timeout(connect);
                Ok(Self::Postgres(unmaintained(pool).connect_lazy_with(options)))
            }
            Some("sqlite") if url.contains(":memory:") || url.contains("mode=memory") => {
                Err(refused("accounts in memory are lost with the process; name a file: sqlite:path/to/file.db"))
            }
            Some("sqlite") => {
                let options = SqliteConnectOptions::from_str(url)
                    .map_err(|_| refused("not an SQLite url; write sqlite:path/to/file.db"))?
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .busy_timeout(statement)
                    .disable_statement_logging();
                // Calls queue for the connection, so waiting for it may take as long as a call may.
                let pool = SqlitePoolOptions::new().max_connections(SQLITE_CONNECTIONS).acquire_timeout(timeout);
                Ok(Self::Sqlite(unmaintained(pool).connect_lazy_with(options)))
            }
            _ => Err(refused("unknown database; write postgres://… or sqlite:…")),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// A transaction to read in; left without a commit.
    pub(super) async fn reading(&self) -> Result<Session<'_>, CallError> {
        self.begin("BEGIN", Step::Read, None).await
    }

    /// A transaction to write in. `committing` is set right before the commit is sent: until then nothing was changed.
    pub(super) async fn writing<'a>(&self, committing: &'a AtomicBool) -> Result<Session<'a>, CallError> {
        // IMMEDIATE: a deferred SQLite transaction that turns from reading to writing can't wait for its turn.
        self.begin("BEGIN IMMEDIATE", Step::Write, Some(committing)).await
    }

    async fn begin<'a>(
        &self,
        sqlite: &'static str,
        step: Step,
        committing: Option<&'a AtomicBool>,
    ) -> Result<Session<'a>, CallError> {
        let transaction = match self {
            Self::Postgres(pool) => pool.begin().await.map(Open::Postgres),
            Self::Sqlite(pool) => pool.begin_with(sqlite).await.map(Open::Sqlite),
        };
        match transaction {
            Ok(transaction) => Ok(Session { transaction, step, committing }),
            Err(e) => Err(call_error(&e, Step::Connect)),
        }
    }
}

/// No connection is closed for its age: the task of the pool that does it may begin to spin and keep its thread for ever, so that
/// the process can't end either (sqlx#3645; mended by sqlx#4289, which is in no release yet). One that is dead is found when it
/// is next taken, as it is asked for an answer first.
fn unmaintained<DB: sqlx::Database>(pool: PoolOptions<DB>) -> PoolOptions<DB> {
    pool.idle_timeout(None).max_lifetime(None)
}

enum Open {
    Postgres(Transaction<'static, Postgres>),
    Sqlite(Transaction<'static, Sqlite>),
}

/// One transaction; dropped without a commit it is rolled back.
pub(super) struct Session<'a> {
    transaction: Open,
    step: Step,
    committing: Option<&'a AtomicBool>,
}

impl Session<'_> {
    pub(super) fn dialect(&self) -> Dialect {
        match self.transaction {
            Open::Postgres(_) => Dialect::Postgres,
            Open::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Whether rows that are read are to be locked.
    pub(super) fn writes(&self) -> bool {
        self.step == Step::Write
    }

    /// The rows of a query; every selected expression must be text.
    pub(super) async fn rows(&mut self, statement: String, cells: &[Cell]) -> Result<Vec<Row>, CallError> {
        let rows = match &mut self.transaction {
            Open::Postgres(transaction) => {
                let query =
                    cells.iter().fold(sqlx::query(AssertSqlSafe(statement)), |query, cell| query.bind(cell.clone()));
                let rows = query.fetch_all(&mut **transaction).await;
                rows.and_then(|rows| rows.iter().map(|row| (0..row.len()).map(|i| row.try_get(i)).collect()).collect())
            }
            Open::Sqlite(transaction) => {
                let query =
                    cells.iter().fold(sqlx::query(AssertSqlSafe(statement)), |query, cell| query.bind(cell.clone()));
                let rows = query.fetch_all(&mut **transaction).await;
                rows.and_then(|rows| rows.iter().map(|row| (0..row.len()).map(|i| row.try_get(i)).collect()).collect())
            }
        };
        rows.map_err(|e| call_error(&e, self.step))
    }

    /// Runs a statement and says how many rows it changed.
    pub(super) async fn run(&mut self, statement: String, cells: &[Cell]) -> Result<u64, CallError> {
        let changed = match &mut self.transaction {
            Open::Postgres(transaction) => {
                let query =
                    cells.iter().fold(sqlx::query(AssertSqlSafe(statement)), |query, cell| query.bind(cell.clone()));
                query.execute(&mut **transaction).await.map(|done| done.rows_affected())
            }
            Open::Sqlite(transaction) => {
                let query =
                    cells.iter().fold(sqlx::query(AssertSqlSafe(statement)), |query, cell| query.bind(cell.clone()));
                query.execute(&mut **transaction).await.map(|done| done.rows_affected())
            }
        };
        changed.map_err(|e| call_error(&e, self.step))
    }

    pub(super) async fn commit(self) -> Result<(), CallError> {
        if let Some(committing) = self.committing {
            committing.store(true, Ordering::Relaxed);
        }
        match self.transaction {
            Open::Postgres(transaction) => transaction.commit().await,
            Open::Sqlite(transaction) => transaction.commit().await,
        }
        .map_err(|e| call_error(&e, Step::Commit))
    }
}

/// A name as SQL takes it literally; `hr.accounts` is a table in a schema.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn quote_table(name: &str) -> String {
    name.split('.').map(quote).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With any of these there is a task of the pool, which may spin.
    #[tokio::test]
    async fn a_pool_has_no_task_of_its_own() {
        let open = |url| Database::open(url, 4, Duration::from_secs(2)).unwrap_or_else(|_| panic!("{url}"));
        let Database::Postgres(postgres) = open("postgres://127.0.0.1/nothing") else { panic!("it is PostgreSQL") };
        let Database::Sqlite(sqlite) = open("sqlite:nothing.db") else { panic!("it is SQLite") };
        let of_postgres = postgres.options();
        assert_eq!((of_postgres.get_idle_timeout(), of_postgres.get_max_lifetime()), (None, None));
        let of_sqlite = sqlite.options();
        assert_eq!((of_sqlite.get_idle_timeout(), of_sqlite.get_max_lifetime()), (None, None));
        assert_eq!((of_postgres.get_min_connections(), of_sqlite.get_min_connections()), (0, 0));
    }
}
