//! What subcommands print to stdout: tables for people, JSON for machines, nothing when the reader is gone.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::{ErrorKind, Write};

/// Writes a line. A reader that has closed the pipe (`| head`) has seen enough: that is no error.
pub fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

pub fn json(value: &Value) -> anyhow::Result<()> {
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
    // Cells are padded on both sides; a terminal's copy and paste is better off without the outer ones.
    for row in table.lines() {
        line(row.strip_prefix(' ').unwrap_or(&row).trim_end())?;
    }
    Ok(())
}

/// A JSON value in a cell: text as it is, a list with commas, null as nothing.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // Control characters of a source's data must not steer a terminal.
        Value::String(text) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A JSON list in a cell, an item a line.
pub fn list(value: &Value) -> String {
    value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join("\n")
}
