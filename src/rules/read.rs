//! Reading a YAML tree into types: every mistake is collected, none stops the reading of the rest.
//!
//! A reader asks a `Fields` for each key it knows and calls `finish` last, which complains about the keys nobody asked for
//! and suggests those that were.

use super::diagnostic::{Diagnostic, Place, SourceFile, known_names};
use super::yaml::{Content, Entry, Node};
use crate::model::Value;
use std::cell::RefCell;
use std::time::Duration;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    pub value: T,
    pub place: Place,
}

/// A file that is being read, and what was found wrong so far.
#[derive(Debug)]
pub struct Page<'f> {
    pub file: &'f SourceFile,
    problems: RefCell<Vec<Diagnostic>>,
}

/// The keys of one map.
#[derive(Debug)]
pub struct Fields<'f> {
    page: &'f Page<'f>,
    place: Place,
    entries: &'f [Entry],
    known: Vec<&'static str>,
}

impl<'f> Page<'f> {
    pub fn new(file: &'f SourceFile) -> Self {
        Self { file, problems: RefCell::default() }
    }

    pub fn problem(&self, place: Place, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.problems.borrow_mut().push(self.file.diagnostic(place, message, help.into()));
    }

    pub fn report(&self, diagnostic: Diagnostic) {
        self.problems.borrow_mut().push(diagnostic);
    }

    pub fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    pub fn into_problems(self) -> Vec<Diagnostic> {
        self.problems.into_inner()
    }

    pub fn wrong_type(&self, node: &Node, wanted: &str) {
        self.problem(
            node.place,
            format!("{wanted} belongs here, not {}", node.type_name()),
            self.instead(node, wanted),
        );
    }

    /// What to write where something of another type stands.
    fn instead(&self, node: &Node, wanted: &str) -> String {
        let scalar =
            self.scalar(node).filter(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)));
        match (wanted, &node.content, scalar) {
            ("a list", _, Some(written)) => format!("put it in brackets: `[{written}]`"),
            ("a list", _, None) => "write each item after `- `, on a line of its own".to_owned(),
            ("a map", ..) => "write `key: value`, each on a line of its own".to_owned(),
            ("an expression", ..) => "put the whole expression in quotes: `\"['a', 'b']\"`".to_owned(),
            ("a value or a list of values", ..) => "write a value, `x`, or several, `[x, y]`".to_owned(),
            (_, Content::List(_), _) => "write one, without the brackets or the `- `".to_owned(),
            (_, Content::Map(_), _) => "write a single value; text with `: `, `{` or `}` needs quotes".to_owned(),
            _ => "write a single value".to_owned(),
        }
    }

    pub fn fields(&'f self, node: &'f Node) -> Option<Fields<'f>> {
        match &node.content {
            Content::Map(entries) => Some(Fields { page: self, place: node.place, entries, known: Vec::new() }),
            _ => {
                self.wrong_type(node, "a map");
                None
            }
        }
    }

    pub fn entries<'n>(&self, node: &'n Node) -> &'n [Entry] {
        match &node.content {
            Content::Map(entries) => entries,
            _ => {
                self.wrong_type(node, "a map");
                &[]
            }
        }
    }

    pub fn items<'n>(&self, node: &'n Node) -> &'n [Node] {
        match &node.content {
            Content::List(items) => items,
            _ => {
                self.wrong_type(node, "a list");
                &[]
            }
        }
    }

    /// Text that is not empty.
    pub fn text(&self, node: &Node) -> Option<Placed<String>> {
        match &node.content {
            Content::Text(text) if text.is_empty() => {
                self.problem(node.place, "this is empty", None);
                None
            }
            Content::Text(text) => Some(Placed { value: text.clone(), place: node.place }),
            Content::Bool(_) | Content::Int(_) | Content::Float(_) => {
                let help = self.scalar(node).map(|written| format!("write it in quotes: \"{written}\""));
                self.problem(node.place, format!("text belongs here, not {}", node.type_name()), help);
                None
            }
            _ => {
                self.wrong_type(node, "text");
                None
            }
        }
    }

    /// The words as they stand in the file: an expression may be written `true` or `1`.
    pub fn scalar(&self, node: &Node) -> Option<String> {
        match &node.content {
            Content::Text(text) => Some(text.clone()),
            Content::Bool(b) => Some(b.to_string()),
            Content::Int(i) => Some(i.to_string()),
            Content::Float(x) => Some(x.to_string()),
            _ => None,
        }
    }

    pub fn texts(&self, node: &Node) -> Vec<Placed<String>> {
        self.items(node).iter().filter_map(|item| self.text(item)).collect()
    }

    pub fn bool(&self, node: &Node) -> Option<bool> {
        match &node.content {
            Content::Bool(b) => Some(*b),
            _ => {
                self.problem(
                    node.place,
                    format!("true or false belongs here, not {}", node.type_name()),
                    "write `true` or `false`, without quotes".to_owned(),
                );
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn number(&self, node: &Node, least: u64, most: u64) -> Option<u64> {
        match &node.content {
            Content::Int(i) => match u64::try_from(*i) {
                Ok(n) if (least..=most).contains(&n) => Some(n),
                _ => {
                    self.problem(node.place, format!("a number from {least} to {most} belongs here"), None);
                    None
                }
            },
            _ => {
                let help = match self.scalar(node).and_then(|text| text.parse::<u64>().ok()) {
                    Some(written) => format!("write it without quotes: `{written}`"),
                    None => format!("write a number from {least} to {most}"),
                };
                self.problem(node.place, format!("a whole number belongs here, not {}", node.type_name()), help);
                None
            }
        }
    }

    /// An expression: text, or what YAML takes for a number or a bool.
    pub fn expression(&self, node: &Node) -> Option<Placed<String>> {
        match self.scalar(node) {
            Some(value) => Some(Placed { value, place: node.place }),
            None => {
                self.wrong_type(node, "an expression");
                None
            }
        }
    }

    /// A value as attributes hold it.
    pub fn value(&self, node: &Node) -> Option<Value> {
        Some(match &node.content {
            Content::Null => Value::Null,
            Content::Bool(b) => Value::Bool(*b),
            Content::Int(i) => Value::Int(*i),
            Content::Float(x) => Value::Float(*x),
            Content::Text(text) => Value::Text(text.clone().into()),
            Content::List(items) => Value::List(items.iter().map(|item| self.value(item)).collect::<Option<_>>()?),
            Content::Map(_) => {
                self.wrong_type(node, "a value or a list of values");
                return None;
            }
        })
    }

    /// Complains about a secret that is written out; the line is shown without it.
    pub fn secret_problem(&self, secret: &Placed<String>, message: &str) {
        let help = "write `${env:NAME}` or `${file:PATH}`".to_owned();
        let mut diagnostic = self.file.diagnostic(secret.place, message, Some(help));
        diagnostic.source_line = diagnostic.source_line.map(|line| {
            let before: String = line.chars().take(secret.place.column.saturating_sub(1)).collect();
            format!("{before}***")
        });
        self.report(diagnostic);
    }

    pub fn duration(&self, node: &Node) -> Option<Duration> {
        let parsed = match &node.content {
            Content::Text(text) => parse_duration(text),
            _ => None,
        };
        if parsed.is_none() {
            self.problem(
                node.place,
                "this is not a duration",
                "write a whole number and a unit: `500ms`, `10s`, `15m`, `4h`, `30d`".to_owned(),
            );
        }
        parsed
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, node: &Node, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            self.problem(
                text.place,
                format!("`{}` is not a word that is known here", text.value),
                known_names(&text.value, "words", words.iter().map(|(word, _)| *word)),
            );
        }
        found.map(|(_, value)| *value)
    }
}

impl<'f> Fields<'f> {
    pub fn page(&self) -> &'f Page<'f> {
        self.page
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// The value of a key, if it is there and not null.
    pub fn get(&mut self, key: &'static str) -> Option<&'f Node> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (!matches!(entry.value.content, Content::Null)).then_some(&entry.value)
    }

    /// Where a key stands, if it does.
    pub fn key_place(&self, key: &str) -> Option<Place> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.key_place)
    }

    /// The value of a key that has to be there.
    pub fn need(&mut self, key: &'static str, example: &str) -> Option<&'f Node> {
        let found = self.get(key);
        if found.is_none() {
            let place = self.key_place(key).unwrap_or(self.place);
            self.page.problem(place, format!("`{key}` is missing"), format!("add `{example}`"));
        }
        found
    }

    pub fn text(&mut self, key: &'static str) -> Option<Placed<String>> {
        self.get(key).and_then(|node| self.page.text(node))
    }

    pub fn need_text(&mut self, key: &'static str, example: &str) -> Option<Placed<String>> {
        self.need(key, example).and_then(|node| self.page.text(node))
    }

    pub fn texts(&mut self, key: &'static str) -> Option<Vec<Placed<String>>> {
        self.get(key).map(|node| self.page.texts(node))
    }

    pub fn bool(&mut self, key: &'static str, default: bool) -> bool {
        self.get(key).and_then(|node| self.page.bool(node)).unwrap_or(default)
    }

    pub fn number(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        self.get(key).and_then(|node| self.page.number(node, least, most))
    }

    pub fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.get(key).and_then(|node| self.page.duration(node)).unwrap_or(default)
    }

    pub fn fields(&mut self, key: &'static str) -> Option<Fields<'f>> {
        self.get(key).and_then(|node| self.page.fields(node))
    }

    pub fn entries(&mut self, key: &'static str) -> &'f [Entry] {
        match self.get(key) {
            Some(node) => self.page.entries(node),
            None => &[],
        }
    }

    pub fn items(&mut self, key: &'static str) -> &'f [Node] {
        match self.get(key) {
            Some(node) => self.page.items(node),
            None => &[],
        }
    }

    /// Complains about the keys that nobody asked for.
    pub fn finish(self) {
        for entry in self.entries {
            if !self.known.contains(&entry.key.as_str()) {
                self.page.problem(
                    entry.key_place,
                    format!("the key `{}` is not known here", entry.key),
                    known_names(&entry.key, "keys", self.known.iter().copied()),
                );
            }
        }
    }
}

/// `500ms`, `10s`, `15m`, `4h`, `30d`; up to ten years.
pub fn parse_duration(text: &str) -> Option<Duration> {
    const MOST: Duration = Duration::from_secs(10 * 366 * 86_400);
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let millis: u64 = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.checked_mul(millis)?);
    (duration <= MOST).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::yaml;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, expected) in [
            ("30d", Some(2_592_000_000)),
            ("15m", Some(900_000)),
            ("4h", Some(14_400_000)),
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("0s", Some(0)),
            ("", None),
            ("10", None),
            ("s", None),
            ("1.5h", None),
            ("-1s", None),
            ("1w", None),
            ("99999999999999999999s", None),
            ("99999d", None),
        ] {
            assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn all_mistakes_of_a_map_are_found_at_once() {
        let file = SourceFile::new("f.yaml", "nmae: x\nsize: many\non: maybe\nwait: soon\n");
        let node = yaml::parse(&file).unwrap();
        let page = Page::new(&file);
        let mut fields = page.fields(&node).unwrap();
        fields.need_text("name", "name: hr");
        fields.number("size", 1, 9);
        fields.bool("on", true);
        fields.duration("wait", Duration::ZERO);
        fields.finish();
        let messages: Vec<_> = page
            .into_problems()
            .into_iter()
            .map(|p| format!("{}:{} {} / {:?}", p.line, p.column, p.message, p.help))
            .collect();
        insta::assert_snapshot!(messages.join("\n"), @r#"
        1:1 `name` is missing / Some("add `name: hr`")
        2:7 a whole number belongs here, not text / Some("write a number from 1 to 9")
        3:5 true or false belongs here, not text / Some("write `true` or `false`, without quotes")
        4:7 this is not a duration / Some("write a whole number and a unit: `500ms`, `10s`, `15m`, `4h`, `30d`")
        1:1 the key `nmae` is not known here / Some("did you mean `name`?")
        "#);
    }
}
