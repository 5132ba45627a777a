//! What subcommands print to stdout: tables for people, JSON for machines, nothing when the reader is gone.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::{ErrorKind, Write};

/// Characters of a name in a list: more than people's names have.
const LONGEST_NAME: usize = 60;

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

/// Control characters of a source's data must not steer a terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A name in a list or on the board, plain; a very long one is cut, so that the rest of its line stays in sight.
pub fn name(text: &str) -> String {
    let plain = plain(text);
    match plain.char_indices().nth(LONGEST_NAME) {
        None => plain,
        Some(_) => plain.chars().take(LONGEST_NAME - 1).chain(['…']).collect(),
    }
}

/// A JSON value in a cell: text as it is, a list with commas, null as nothing.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A field of an item in a cell of a list.
pub fn cell(item: &Value, field: &str) -> String {
    let text = text(&item[field]);
    if field == "name" { name(&text) } else { text }
}

/// A JSON list in a cell, an item a line.
pub fn list(value: &Value) -> String {
    value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn control_characters_steer_no_terminal_and_a_long_name_is_cut() {
        assert_eq!(plain("\u{1b}[31mred\nline\u{9b}1m"), "\u{fffd}[31mred\u{fffd}line\u{fffd}1m");
        assert_eq!(text(&json!(["a\tb", "ä"])), "a\u{fffd}b, ä");
        assert_eq!(name(&"ä".repeat(LONGEST_NAME)), "ä".repeat(LONGEST_NAME));
        let cut = name(&"ä\n".repeat(LONGEST_NAME));
        assert!(cut.ends_with('…') && cut.starts_with("ä\u{fffd}ä"), "{cut}");
        assert_eq!(cut.chars().count(), LONGEST_NAME);
    }
}
