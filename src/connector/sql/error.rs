//! What a database's refusal means. Messages name tables, columns and constraints; never the database's own message or
//! detail, which quote values.

use crate::connector::CallError;
use crate::model::ErrorClass;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

/// How far a call had come: what a lost connection means depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Connect,
    Read,
    /// Inside the transaction: nothing holds before the commit.
    Write,
    Commit,
}

pub(super) fn call_error(error: &sqlx::Error, step: Step) -> CallError {
    if let sqlx::Error::Database(refused) = error {
        if let Some(postgres) = refused.try_downcast_ref::<PgDatabaseError>() {
            return postgres_error(postgres, step);
        }
        if let Some(sqlite) = refused.try_downcast_ref::<SqliteError>() {
            return sqlite_error(sqlite);
        }
    }
    match error {
        sqlx::Error::PoolTimedOut => CallError::new(
            ErrorClass::Unreachable,
            "no connection to the database in time: it refuses connections, is starting, or has none to spare",
        ),
        sqlx::Error::Tls(_) => CallError::new(
            ErrorClass::Unreachable,
            "the database's TLS handshake failed; check sslmode and certificates",
        ),
        sqlx::Error::Io(io) => lost(step, &io.kind().to_string()),
        _ => lost(step, "the connection broke"),
    }
}

fn lost(step: Step, why: &str) -> CallError {
    match step {
        Step::Connect => CallError::new(ErrorClass::Unreachable, format!("could not connect to the database: {why}")),
        Step::Read => CallError::new(ErrorClass::Unreachable, format!("lost the database while reading: {why}")),
        Step::Write => CallError::new(
            ErrorClass::Unreachable,
            format!("lost the database before the commit, so nothing was changed: {why}"),
        ),
        Step::Commit => CallError::new(
            ErrorClass::UnknownOutcome,
            format!("lost the database during the commit, so it may or may not have happened: {why}"),
        ),
    }
}

/// SQLSTATE: PostgreSQL documentation, appendix A.
fn postgres_error(error: &PgDatabaseError, step: Step) -> CallError {
    let code = error.code();
    let place = postgres_place(error);
    let (class, what) = match code {
        "23505" | "23P01" => (ErrorClass::Uniqueness, "a value that must be unique is another row's"),
        "23503" => (ErrorClass::Dependency, "a row that is referred to is not there, or is still referred to"),
        "23502" => (ErrorClass::Invalid, "a value is required"),
        "23514" => (ErrorClass::Invalid, "a value breaks a check"),
        "22001" => (ErrorClass::Invalid, "a text is too long for its column"),
        "22021" | "22P05" => (ErrorClass::Invalid, "a text has a character that the database can't store"),
        "P0001" => (ErrorClass::Invalid, "a trigger refused the change"),
        "42501" => (ErrorClass::Permission, "the database user may not do this; grant it"),
        "25006" => (ErrorClass::Permission, "the database is read-only"),
        "42P01" | "42703" | "42704" | "3F000" => (
            ErrorClass::ServerFault,
            "the tables are no longer as the rules say; check the target's mapping and restart",
        ),
        "57014" if step == Step::Read => (ErrorClass::Unreachable, "the statement took too long and was cancelled"),
        "57014" => (ErrorClass::UnknownOutcome, "the statement took too long and was cancelled"),
        "40001" | "40P01" | "55P03" => (ErrorClass::VersionConflict, "another transaction was in the way"),
        "57P01" | "57P02" | "57P03" => (ErrorClass::Unreachable, "the database is starting or stopping"),
        "25P03" | "25P04" => (ErrorClass::Unreachable, "the transaction was idle for too long and was ended"),
        "3D000" => (ErrorClass::Credentials, "the database of the url does not exist, or the user may not see it"),
        "0A000" => (ErrorClass::Unsupported, "the database does not support this"),
        _ => match &code[..code.len().min(2)] {
            "28" => (ErrorClass::Credentials, "the database refused the user or password"),
            "22" | "23" => (ErrorClass::Invalid, "the database refused a value"),
            "40" => (ErrorClass::UnknownOutcome, "the transaction was rolled back or its outcome is unknown"),
            "53" => (ErrorClass::Capacity, "the database is out of connections, memory or disk"),
            "08" if step == Step::Commit => (ErrorClass::UnknownOutcome, "the connection broke during the commit"),
            "08" => (ErrorClass::Unreachable, "the connection broke"),
            _ => (ErrorClass::ServerFault, "the database refused the statement"),
        },
    };
    CallError::new(class, format!("{what} ({place}SQLSTATE {code})"))
}

fn postgres_place(error: &PgDatabaseError) -> String {
    let mut place = String::new();
    for (what, name) in [("table", error.table()), ("column", error.column()), ("constraint", error.constraint())] {
        if let Some(name) = name {
            place.push_str(&format!("{what} {name}, "));
        }
    }
    place
}

/// Primary result code in the low byte, the extended one above it: sqlite.org/rescode.html.
fn sqlite_error(error: &SqliteError) -> CallError {
    let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
    let (class, what) = match code {
        1555 | 2067 | 2579 => (ErrorClass::Uniqueness, "a value that must be unique is another row's"),
        787 => (ErrorClass::Dependency, "a row that is referred to is not there, or is still referred to"),
        1299 => (ErrorClass::Invalid, "a value is required"),
        275 => (ErrorClass::Invalid, "a value breaks a check"),
        1811 => (ErrorClass::Invalid, "a trigger refused the change"),
        _ => match code & 0xff {
            1 => (
                ErrorClass::ServerFault,
                "SQLite refused the statement; the tables may no longer be as the rules say: check the mapping and restart",
            ),
            3 | 8 | 23 => (ErrorClass::Permission, "the database file may not be written"),
            5 | 6 => (ErrorClass::Throttled, "another process keeps the database locked"),
            13 => (ErrorClass::Capacity, "the disk is full"),
            14 => (ErrorClass::Unreachable, "the database file can't be opened"),
            18..=20 => (ErrorClass::Invalid, "SQLite refused a value"),
            26 => (ErrorClass::ServerFault, "the file is not an SQLite database"),
            _ => (ErrorClass::ServerFault, "SQLite failed"),
        },
    };
    // "UNIQUE constraint failed: accounts.user_name": after the colon stand names, and for a check its name or expression.
    let place = match code & 0xff {
        19 if code != 1811 => {
            error.message().split_once(": ").map(|(_, names)| format!("{names}, ")).unwrap_or_default()
        }
        _ => String::new(),
    };
    CallError::new(class, format!("{what} ({place}SQLite result code {code})"))
}
