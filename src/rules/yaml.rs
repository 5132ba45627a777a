//! YAML as a tree in which every key and value knows its place: what the readers of all files begin with.
//!
//! Bounds hold before anything is built: see `LIMITS`. Errors of the YAML itself come out as diagnostics; what the keys
//! mean is the readers' business.

use super::diagnostic::{Diagnostic, Place, SourceFile};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};
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
        file.diagnostic(place, reason_of(&error), help_of(&error))
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

/// The parser's words, without the place (which is shown anyway).
fn reason_of(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.split(" at line ").next().unwrap_or(text);
    let mut chars = text.trim().trim_end_matches('.').chars();
    let text = chars.next().map(|first| first.to_lowercase().chain(chars).collect::<String>()).unwrap_or_default();
    format!("this is not the YAML it should be: {text}")
}

fn help_of(error: &serde_saphyr::Error) -> Option<String> {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { .. } => Some("a key may stand only once: join the two".to_owned()),
        serde_saphyr::Error::MultipleDocuments { .. } => {
            Some("one file holds one document: remove the `---`".to_owned())
        }
        _ => Some("text with `: `, ` #`, or a leading `{`, `[`, `*`, `&`, `!`, `@` or `%` needs quotes".to_owned()),
    }
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
    fn deep_and_large_files_are_refused() {
        let deep = format!("a: {}1{}", "[".repeat(100), "]".repeat(100));
        assert!(parse(&SourceFile::new("f.yaml", deep)).is_err());
        assert!(parse(&SourceFile::new("f.yaml", "x".repeat(MAX_FILE_BYTES + 1))).is_err());
    }
}
