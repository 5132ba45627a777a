//! What stands in a target, read as its owner would read it.

use sqlx::{Column, Connection, Row, SqliteConnection, ValueRef};
use std::path::Path;

/// The rows of a query, cells in a line, what is not there as `-`.
pub fn rows(database: &Path, query: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = SqliteConnection::connect(&format!("sqlite:{}", database.display())).await.unwrap();
        let rows = sqlx::query(sqlx::AssertSqlSafe(query.to_owned())).fetch_all(&mut connection).await.unwrap();
        let cell = |row: &sqlx::sqlite::SqliteRow, at: usize| {
            if row.try_get_raw(at).unwrap().is_null() {
                return "-".to_owned();
            }
            row.try_get::<String, _>(at).unwrap_or_else(|_| row.get::<i64, _>(at).to_string())
        };
        rows.iter()
            .map(|row| row.columns().iter().map(|column| cell(row, column.ordinal())).collect::<Vec<_>>().join(" | "))
            .collect()
    })
}
