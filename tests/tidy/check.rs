//! The checks. Each gives the faults of a file, or of the tree, with their places.

use crate::source::{File, without_strings};
use std::collections::BTreeSet;
use std::fmt;

/// The rooms of the house from top to bottom: each may use those before it, and no other. As in src/lib.rs.
pub const ROOMS: [&str; 16] = [
    "model",
    "rules",
    "entity",
    "lane",
    "config",
    "telemetry",
    "codec",
    "store",
    "bus",
    "runtime",
    "connector",
    "source",
    "worker",
    "api",
    "console",
    "cli",
];
/// Rooms without clock, file, socket, thread, environment and chance: the time comes in with an event, and no value is logged.
const PURE: [&str; 4] = ["model", "rules", "entity", "lane"];
/// Words that lead outside. A space before one stands for the beginning of a word.
const OUTSIDE: [&str; 22] = [
    " std::fs",
    " std::net",
    " std::thread",
    " std::env",
    " std::process",
    " std::io",
    " std::os",
    " thread::",
    " fs::",
    " env::",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    " rand::",
    " getrandom",
    "new_v4",
    " tokio",
    " reqwest",
    " tracing",
    " println!",
    " eprintln!",
];
/// Parts of `use std::{…}` that lead outside.
const OUTSIDE_OF_STD: [&str; 7] = ["fs", "net", "thread", "env", "process", "io", "os"];
/// A file that a reader can still hold in the head.
pub const MOST_LINES: usize = 700;
/// The one place of metric names.
pub const METRICS: &str = "src/telemetry/metrics.rs";
/// Names of what may hold attribute values: they have no place in a log's arguments.
const VALUES: [&str; 11] = [
    "attributes",
    "attribute_value",
    "desired",
    "merged",
    "observed",
    "shadow",
    "payload",
    "value",
    "values",
    "password",
    "secret",
];
const LOG_MACROS: [&str; 5] =
    ["tracing::trace!", "tracing::debug!", "tracing::info!", "tracing::warn!", "tracing::error!"];

/// What is wrong, and where.
#[derive(Debug)]
pub struct Fault {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

fn fault(file: &File, line: usize, what: impl Into<String>) -> Fault {
    Fault { path: file.path.clone(), line, what: what.into() }
}

/// A room uses only rooms above it, in its tests too.
pub fn rooms(file: &File) -> Vec<Fault> {
    let Some(room) = file.room() else { return Vec::new() };
    let Some(own) = place(room) else { return vec![fault(file, 1, format!("`{room}` is no room of src/lib.rs"))] };
    let mut faults = Vec::new();
    let mut in_braces = false;
    for (line, code) in file.code() {
        let mut used: Vec<&str> =
            code.match_indices("crate::").map(|(at, found)| word(&code[at + found.len()..])).collect();
        // `use crate::{a::B, c::D};` over lines: a name that begins a path.
        if code.contains("crate::{") {
            in_braces = true;
        }
        if in_braces {
            let from = code.find("crate::{").map_or(0, |at| at + "crate::{".len());
            used.extend(code[from..].split([',', '{', '}']).map(|part| word(part.trim())));
            in_braces = !code.contains(';');
        }
        for other in used {
            if let Some(at) = place(other)
                && at > own
            {
                faults.push(fault(
                    file,
                    line,
                    format!("the room `{room}` may not use `{other}`, which is not above it"),
                ));
            }
        }
    }
    faults
}

/// Nothing in a pure room leads outside; its tests may.
pub fn purity(file: &File) -> Vec<Fault> {
    if !file.room().is_some_and(|room| PURE.contains(&room)) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (line, code) in file.product() {
        // Each word's beginning gets a space, so that `operand::` is not taken for `rand::`.
        let code = without_strings(&code);
        let outside = OUTSIDE.iter().find(|wanted| match wanted.strip_prefix(' ') {
            Some(bare) => code.match_indices(bare).any(|(at, _)| begins_word(&code, at)),
            None => code.contains(**wanted),
        });
        let of_std = code.split_once("std::{").and_then(|(_, rest)| {
            rest.split([',', '{', '}']).map(|part| word(part.trim())).find(|part| OUTSIDE_OF_STD.contains(part))
        });
        if let Some(found) = outside.map(|found| found.trim()).or(of_std) {
            faults.push(fault(
                file,
                line,
                format!("a pure room reaches outside: `{found}`; let it come in with the event"),
            ));
        }
    }
    faults
}

pub fn length(file: &File) -> Vec<Fault> {
    let lines = file.text.lines().count();
    if lines <= MOST_LINES {
        return Vec::new();
    }
    let what = format!("{lines} lines, at most {MOST_LINES}: what else is it about that could have a file of its own?");
    vec![fault(file, lines, what)]
}

pub fn heading(file: &File) -> Vec<Fault> {
    let first = file.text.lines().next().unwrap_or_default();
    match first.strip_prefix("//! ") {
        Some(words) if !words.trim().is_empty() => Vec::new(),
        _ => vec![fault(file, 1, "the file begins with `//!` and what it is for")],
    }
}

/// Nothing unfinished, and no lint allowed away for a whole file (`#[expect]` with a reason says when it is no longer needed).
pub fn leftovers(file: &File) -> Vec<Fault> {
    let macros = ["todo", "dbg", "unimplemented"];
    let mut faults = Vec::new();
    for (line, code) in file.code() {
        let code = without_strings(&code);
        for name in macros {
            let found = code.match_indices(&format!("{name}!")).any(|(at, _)| begins_word(&code, at));
            if found {
                faults.push(fault(file, line, format!("`{name}!` is left over")));
            }
        }
        if file.path.starts_with("src/") && code.contains(concat!("#![", "allow(")) {
            faults.push(fault(file, line, "a lint is allowed away for the whole file: use #[expect] with a reason"));
        }
    }
    faults
}

/// No log argument is something that holds attribute values, as far as its name tells, and nothing is logged by `Debug`:
/// whatever a struct holds would come along.
pub fn logs(file: &File) -> Vec<Fault> {
    if !file.path.starts_with("src/") {
        return Vec::new();
    }
    let lines = file.product();
    let code: String = lines.iter().map(|(_, code)| format!("{code}\n")).collect();
    let number = |at: usize| lines.get(code[..at].matches('\n').count()).map_or(0, |(line, _)| *line);
    let mut faults = Vec::new();
    for name in LOG_MACROS {
        for (at, _) in code.match_indices(name) {
            let rest = &code[at + name.len()..];
            let all = inside(rest);
            let arguments = without_strings(all);
            let debug = arguments.contains('?')
                && arguments.match_indices('?').any(|(at, _)| {
                    // A sigil stands before a name; the operator behind an expression.
                    arguments[at + 1..].starts_with(|c: char| c.is_alphabetic() || c == '_')
                });
            let formatted = all.contains(":?}");
            let words: BTreeSet<&str> = arguments.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let found = VALUES.iter().find(|value| words.contains(**value));
            if debug || formatted {
                faults.push(fault(
                    file,
                    number(at),
                    "a log prints by Debug, with all that is in it: name what is meant",
                ));
            } else if let Some(found) = found {
                faults.push(fault(
                    file,
                    number(at),
                    format!("a log's argument is `{found}`: no attribute value is logged"),
                ));
            }
        }
    }
    faults
}

/// Metric names and the crate that makes metrics are in one file.
pub fn metrics(files: &[File]) -> Vec<Fault> {
    let Some(home) = files.iter().find(|file| file.path == METRICS) else {
        return vec![Fault { path: METRICS.to_owned(), line: 1, what: "is not there".to_owned() }];
    };
    let names = metric_names(&home.text);
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.path != METRICS && file.path.starts_with("src/")) {
        for (line, code) in file.product() {
            if let Some(name) = names.iter().find(|name| code.contains(&format!("\"{name}\""))) {
                faults.push(fault(file, line, format!("the metric {name} is named outside of {METRICS}")));
            }
            if code.match_indices("prometheus::").any(|(at, _)| begins_word(&code, at)) {
                faults.push(fault(file, line, format!("metrics are made in {METRICS} alone")));
            }
        }
    }
    faults
}

/// Metrics that a text asks for and nobody makes.
pub fn unknown_metrics(path: &str, text: &str, home: &str) -> Vec<Fault> {
    let names = metric_names(home);
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices("lockstep_").filter(|(at, _)| begins_word(line, *at)) {
            let name = word(&line[at..]);
            let bare =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            if !names.contains(name) && !names.contains(bare) {
                let what = format!("there is no metric {name} in {METRICS}");
                faults.push(Fault { path: path.to_owned(), line: index + 1, what });
            }
        }
    }
    faults
}

/// src/lib.rs lists the rooms, these and in this order.
pub fn order(lib: &str) -> Vec<Fault> {
    let listed: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    if listed == ROOMS {
        return Vec::new();
    }
    let what = format!("the rooms are {}, the check knows {}", listed.join(" "), ROOMS.join(" "));
    vec![Fault { path: "src/lib.rs".to_owned(), line: 1, what }]
}

fn metric_names(home: &str) -> BTreeSet<&str> {
    home.match_indices("\"lockstep_").map(|(at, _)| word(&home[at + 1..])).collect()
}

fn place(room: &str) -> Option<usize> {
    ROOMS.iter().position(|known| *known == room)
}

/// The name that a text begins with.
fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn begins_word(text: &str, at: usize) -> bool {
    !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// What stands between the parentheses that a text begins with.
fn inside(text: &str) -> &str {
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '(' if !in_string => depth += 1,
            ')' if !in_string => {
                depth -= 1;
                if depth == 0 {
                    return &text[1..at];
                }
            }
            _ => {}
        }
    }
    text
}
