//! YAML as a tree in which every key and value knows its place: what the readers of all files begin with.
//!
//! Bounds hold before anything is built: see `LIMITS`. Errors of the YAML itself come out as diagnostics; what the keys
//! mean is the readers' business.

use super::diagnostic::{Diagnostic, Place, SourceFile};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, Location, Spanned};
use std::fmt;

/// A file of rules is written by people: one that is larger is a mistake or an attack.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;
/// The deepest shape there is has 9 levels; tables may add a few.
const MAX_DEPTH: usize = 24;
/// Far more than a megabyte of real rules holds.
const MAX_NODES: usize = 200_000;
/// Aliases repeat what their anchors hold: a few are handy, many are a bomb.
const MAX_ALIASES: usize = 100;

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub content: Content,
}

#[derive(Clone)]
pub enum Content {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_place: Place,
    pub value: Node,
}

/// Reads one file. An empty one is an empty map.
pub fn parse(file: &SourceFile) -> Result<Node, Diagnostic> {
    if file.text.len() > MAX_FILE_BYTES {
        return Err(Diagnostic::of_file(
            &file.path,
            format!("the file has {} bytes, more than the {MAX_FILE_BYTES} that are read", file.text.len()),
            Some("split it".to_owned()),
        ));
    }
    let empty = file.text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if empty {
        return Ok(Node { place: Place::default(), content: Content::Map(Vec::new()) });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_documents: 1,
        },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(&file.text, options).map_err(|error| {
        let place = error.location().map(|location| place_of(&file.text, &location)).unwrap_or_default();
        let reason = reason_of(&error);
        let line = file.text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default();
        let before: String = line.chars().take(place.column.saturating_sub(1)).collect();
        let help = help_of(&reason, &before);
        file.diagnostic(place, reason, Some(help.to_owned()))
    })?;
    Ok(node(raw, &file.text))
}

/// Types only: a file may hold a secret that is about to be refused.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Bool(_) => f.write_str("Bool"),
            Self::Int(_) => f.write_str("Int"),
            Self::Float(_) => f.write_str("Float"),
            Self::Text(_) => f.write_str("Text"),
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Map(entries) => f.debug_list().entries(entries).finish(),
        }
    }
}

impl Node {
    /// For messages.
    pub fn type_name(&self) -> &'static str {
        match &self.content {
            Content::Null => "nothing",
            Content::Bool(_) => "true or false",
            Content::Int(_) | Content::Float(_) => "a number",
            Content::Text(_) => "text",
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
        }
    }
}

/// The parser's words, without the place (which is shown anyway); ours where its are for programmers.
fn reason_of(error: &Error) -> String {
    let reason = match error.without_snippet() {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` stands twice"),
        Error::DuplicateMappingKey { .. } => "a key stands twice".to_owned(),
        Error::MultipleDocuments { .. } | Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            "a second document begins here".to_owned()
        }
        Error::Budget { .. } => "it is nested too deep, or there is too much of it".to_owned(),
        Error::NullIntoString { .. } => "a key is missing before its `:`".to_owned(),
        Error::Unexpected { .. } => "a key is a single text".to_owned(),
        Error::NonFiniteFloat { value, .. } => format!("`{value}` is no number"),
        error => {
            let text = error.to_string();
            let text = text.lines().next().unwrap_or_default();
            let text = text.split(" at line ").next().unwrap_or(text);
            let mut chars = text.trim().trim_end_matches('.').chars();
            chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
        }
    };
    format!("this is not the YAML it should be: {reason}")
}

/// What to write instead, by what is wrong; `before` is what stands before it in its line.
fn help_of(reason: &str, before: &str) -> &'static str {
    const HELP: &[(&str, &str)] = &[
        ("stands twice", "a key may stand only once: join the two"),
        ("a second document", "one file holds one document: remove the `---`"),
        ("nested too deep", "split the file"),
        ("a key is", "write `key: value`, the key as plain text"),
        ("tabs disallowed", TABS),
        ("a tab", TABS),
        ("unclosed bracket '['", "close the `[` by a `]`"),
        ("unclosed bracket '{'", "close the `{` by a `}`"),
        ("bracket", "close each `[` by a `]`, each `{` by a `}`, and nothing else by them"),
        ("illegal placement of ':'", "is a `[` or `{` above not closed?"),
        ("unclosed quote", "close the quote; a `'` within `'…'` is written twice"),
        ("trailing content after", "put the whole text in quotes: `\"'Sales' == department\"`"),
        ("unknown escape", "within `\"…\"` write a backslash twice, or use `'…'`"),
        ("expected '-' indicator", "begin each item of a list with `- `, all in the same column"),
        ("expected key", "begin keys that belong together in the same column"),
        ("expected ':'", "end a key with `: `, and begin an item of a list with `- `"),
        ("expected ','", "put a comma between two entries; text with `: ` needs quotes"),
        ("sequence entries are not allowed", "begin a list on a line of its own, below its key"),
        ("comment intercepting", "move the comment above, or put the whole text in quotes"),
        ("unexpected character", LEADING),
        ("unknown anchor", LEADING),
        ("is no number", "put text in quotes"),
    ];
    const TABS: &str = "indent with spaces, not with tabs";
    const LEADING: &str = "text with a leading `*`, `&`, `!`, `@`, `%` or a backtick needs quotes";
    // Either a second `: ` in the line, or a line that doesn't stand where its neighbours do.
    if reason.contains("mapping values are not allowed") {
        return match before.contains(": ") {
            true => "text with `: ` needs quotes",
            false => "begin keys that belong together in the same column, and end a key with `:` on the line before",
        };
    }
    let help = HELP.iter().find(|(wrong, _)| reason.contains(wrong)).map(|(_, help)| *help);
    help.unwrap_or("look at the indentation, the quotes and the brackets of this line and the one before")
}

/// As it comes out of the parser, keys and values each with a location.
enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let place = place_of(text, &raw.referenced);
    let content = match raw.value {
        Raw::Null => Content::Null,
        Raw::Bool(b) => Content::Bool(b),
        Raw::Int(i) => Content::Int(i),
        Raw::Float(x) => Content::Float(x),
        Raw::Text(s) => Content::Text(s),
        Raw::List(items) => Content::List(items.into_iter().map(|item| node(item, text)).collect()),
        Raw::Map(entries) => Content::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key_place: place_of(text, &key.referenced),
                    key: key.value,
                    value: node(value, text),
                })
                .collect(),
        ),
    };
    Node { place, content }
}

fn place_of(text: &str, location: &Location) -> Place {
    let span = location.span();
    let at = |n: Option<u64>| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let offset = at(span.byte_offset()).min(text.len());
    // A block scalar or a map goes on over lines: the first one is shown.
    let width = text
        .get(offset..)
        .map_or(1, |rest| rest.lines().next().unwrap_or_default().trim_end().chars().count())
        .min(usize::try_from(span.len()).unwrap_or(1));
    Place { line: at(Some(location.line())), column: at(Some(location.column())), width: width.max(1), offset }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: de::Error>(self, b: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(b))
    }

    fn visit_i64<E: de::Error>(self, i: i64) -> Result<Raw, E> {
        Ok(Raw::Int(i))
    }

    fn visit_u64<E: de::Error>(self, u: u64) -> Result<Raw, E> {
        Ok(i64::try_from(u).map_or(Raw::Float(u as f64), Raw::Int))
    }

    fn visit_f64<E: de::Error>(self, x: f64) -> Result<Raw, E> {
        Ok(Raw::Float(x))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(node: &Node, out: &mut Vec<String>) {
        let Place { line, column, width, .. } = node.place;
        match &node.content {
            Content::List(items) => items.iter().for_each(|item| flat(item, out)),
            Content::Map(entries) => {
                for entry in entries {
                    let key = entry.key_place;
                    out.push(format!("{} {}:{}+{}", entry.key, key.line, key.column, key.width));
                    flat(&entry.value, out);
                }
            }
            other => out.push(format!("= {other:?} {line}:{column}+{width}")),
        }
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let text = "a: 1\nb: [true, \"x y\", null, 007]\nc:\n  dé: |\n    one\n    two\n  e: { f: 2026-03-02 }\n";
        let mut out = Vec::new();
        flat(&parse(&SourceFile::new("f.yaml", text)).unwrap(), &mut out);
        insta::assert_snapshot!(out.join("\n"), @r#"
        a 1:1+1
        = Int 1:4+1
        b 2:1+1
        = Bool 2:5+4
        = Text 2:11+5
        = Null 2:18+4
        = Text 2:24+3
        c 3:1+1
        dé 4:3+2
        = Text 5:5+3
        e 7:3+1
        f 7:8+1
        = Text 7:11+10
        "#);
    }

    #[test]
    fn broken_yaml_is_a_diagnostic() {
        for text in ["a: [1, 2\nb: 3\n", "a: 1\na: 2\n", "a: 1\n---\nb: 2\n", "a: {b: 1", "a: *nope"] {
            let shown = parse(&SourceFile::new("f.yaml", text)).unwrap_err().to_string();
            assert!(shown.starts_with("error: this is not the YAML it should be"), "{shown}");
            assert!(shown.contains("--> f.yaml:"), "{shown}");
        }
    }

    #[test]
    fn broken_yaml_says_what_to_write_instead() {
        let mut out = Vec::new();
        for text in [
            "a:\n\tb: 1\n",
            "a:\n  b: 1\n\tc: 2\n",
            "a:\n  b: 1\n c: 2\n",
            "a:\n  b: 1\n   c: 2\n",
            "a:\n  - b\n  c: d\n",
            "a: 1\nb\n",
            "a: - b\n",
            "a: b: c\n",
            "a: { b: c: d }\n",
            "a: [1, 2\nb: 3\n",
            "a: [x\n",
            "a: [x}\n",
            "a: [x, y]]\n",
            "a: 'x\n",
            "a: 'x' == y\n",
            "a: \"\\d\"\n",
            "a: @x\n",
            "a: *x\n",
            "a: 1\na: 2\n",
            "a: 1\n---\nb: 2\n",
            "a: .nan\n",
            "[a]: b\n",
            ": b\n",
        ] {
            let problem = parse(&SourceFile::new("f.yaml", text)).unwrap_err();
            let reason = problem.message.strip_prefix("this is not the YAML it should be: ").unwrap();
            let help = problem.help.unwrap_or_default();
            out.push(format!("{text:?} {}:{} {reason} ({help})", problem.line, problem.column));
        }
        insta::assert_snapshot!(out.join("\n"), @r#"
        "a:\n\tb: 1\n" 2:2 tabs disallowed within this context (block indentation) (indent with spaces, not with tabs)
        "a:\n  b: 1\n\tc: 2\n" 2:6 while scanning a plain scalar, found a tab (indent with spaces, not with tabs)
        "a:\n  b: 1\n c: 2\n" 3:2 while parsing a block mapping, did not find expected key (begin keys that belong together in the same column)
        "a:\n  b: 1\n   c: 2\n" 3:5 mapping values are not allowed in this context (begin keys that belong together in the same column, and end a key with `:` on the line before)
        "a:\n  - b\n  c: d\n" 3:3 while parsing a block collection, did not find expected '-' indicator (begin each item of a list with `- `, all in the same column)
        "a: 1\nb\n" 2:1 simple key expected ':' (end a key with `: `, and begin an item of a list with `- `)
        "a: - b\n" 1:4 block sequence entries are not allowed in this context (begin a list on a line of its own, below its key)
        "a: b: c\n" 1:5 mapping values are not allowed in this context (text with `: ` needs quotes)
        "a: { b: c: d }\n" 1:10 while parsing a flow mapping, did not find expected ',' or '}' (put a comma between two entries; text with `: ` needs quotes)
        "a: [1, 2\nb: 3\n" 2:2 illegal placement of ':' indicator (is a `[` or `{` above not closed?)
        "a: [x\n" 1:4 unclosed bracket '[' (close the `[` by a `]`)
        "a: [x}\n" 1:4 mismatched bracket '[' closed by '}' (close each `[` by a `]`, each `{` by a `}`, and nothing else by them)
        "a: [x, y]]\n" 1:10 misplaced bracket (close each `[` by a `]`, each `{` by a `}`, and nothing else by them)
        "a: 'x\n" 1:4 unclosed quote (close the quote; a `'` within `'…'` is written twice)
        "a: 'x' == y\n" 1:8 invalid trailing content after single-quoted scalar (put the whole text in quotes: `"'Sales' == department"`)
        "a: \"\\d\"\n" 1:4 while parsing a quoted scalar, found unknown escape character (within `"…"` write a backslash twice, or use `'…'`)
        "a: @x\n" 1:4 unexpected character: `@' (text with a leading `*`, `&`, `!`, `@`, `%` or a backtick needs quotes)
        "a: *x\n" 1:4 alias references unknown anchor (text with a leading `*`, `&`, `!`, `@`, `%` or a backtick needs quotes)
        "a: 1\na: 2\n" 2:1 the key `a` stands twice (a key may stand only once: join the two)
        "a: 1\n---\nb: 2\n" 2:1 a second document begins here (one file holds one document: remove the `---`)
        "a: .nan\n" 1:4 `.nan` is no number (put text in quotes)
        "[a]: b\n" 1:1 a key is a single text (write `key: value`, the key as plain text)
        ": b\n" 1:1 a key is missing before its `:` (write `key: value`, the key as plain text)
        "#);
    }

    #[test]
    fn deep_and_large_files_are_refused() {
        let deep = format!("a: {}1{}", "[".repeat(100), "]".repeat(100));
        assert!(parse(&SourceFile::new("f.yaml", deep)).is_err());
        assert!(parse(&SourceFile::new("f.yaml", "x".repeat(MAX_FILE_BYTES + 1))).is_err());
    }
}
