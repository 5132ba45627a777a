//! What subcommands print to stdout: tables for people, JSON for machines, nothing when the reader is gone.

use comfy_table::{ContentArrangement, Table, presets};
use std::io::{ErrorKind, Write};

/// Writes a line. A reader that has closed the pipe (`| head`) has seen enough: that is no error.
pub fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

pub fn json(value: &serde_json::Value) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// A table with these column heads, as wide as the terminal.
pub fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(heads);
    table
}

/// Prints a table, or what its being empty means.
pub fn show(table: &Table, when_empty: &str) -> anyhow::Result<()> {
    if table.is_empty() {
        return line(when_empty);
    }
    // Columns are padded to the right; a terminal's copy and paste is better off without.
    for row in table.lines() {
        line(row.trim_end())?;
    }
    Ok(())
}
