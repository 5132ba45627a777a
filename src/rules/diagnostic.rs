//! What is wrong in a user's file: where, the line itself, and what to write instead; rendered as rustc does.
//!
//! Every check of the config folder speaks through `Diagnostic`. A line of a rule file may be shown; where a line may hold
//! a secret it is masked before it gets here.

use std::fmt;

/// One file of the config folder: its path relative to the folder, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

/// A stretch of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters; at least one is shown.
    pub width: usize,
    /// Of the first byte in the file's text.
    pub offset: usize,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub file: String,
    pub line: usize,
    pub column: usize,
    /// Characters to underline.
    pub width: usize,
    /// The line itself; None where the file as a whole is meant.
    pub source_line: Option<String>,
    pub message: String,
    pub help: Option<String>,
}

impl SourceFile {
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// A diagnostic at a place of this file.
    pub fn diagnostic(&self, place: Place, message: impl Into<String>, help: Option<String>) -> Diagnostic {
        Diagnostic {
            file: self.path.clone(),
            line: place.line,
            column: place.column,
            width: place.width.max(1),
            source_line: place.line.checked_sub(1).and_then(|n| self.text.lines().nth(n)).map(masked),
            message: message.into(),
            help,
        }
    }
}

/// A line as it may be shown: what looks like a secret is starred, even where the mistake is another one beside it.
fn masked(line: &str) -> String {
    const SECRETS: &[&str] = &["password", "secret", "token", "jaas", "key.pem"];
    let mut shown: Vec<char> = line.chars().collect();
    let lower: Vec<char> = shown.iter().map(char::to_ascii_lowercase).collect();
    let mut star = |from: usize, to: usize| {
        let reference = lower[from..to].starts_with(&['$', '{']);
        if !reference {
            shown[from..to].fill('*');
        }
    };
    let end_of = |from: usize, ends: &dyn Fn(char) -> bool| {
        lower[from..].iter().position(|c| ends(*c)).map_or(lower.len(), |found| from + found)
    };
    for at in 0..lower.len() {
        let rest = &lower[at..];
        // postgres://user:password@host
        if rest.starts_with(&[':', '/', '/']) {
            let end = end_of(at + 3, &|c| matches!(c, '/' | '?' | '"' | '\'' | ' '));
            let host = lower[at + 3..end].iter().rposition(|c| *c == '@').map(|found| at + 3 + found);
            let user = lower[at + 3..end].iter().position(|c| *c == ':').map(|found| at + 4 + found);
            if let (Some(user), Some(host)) = (user, host)
                && user < host
            {
                star(user, host);
            }
        }
        // sasl.password: …
        if SECRETS.iter().any(|word| word.chars().eq(rest.iter().copied().take(word.chars().count()))) {
            let colon = end_of(at, &|c| c == ':');
            let Some(from) = (colon + 1..lower.len()).find(|i| !matches!(lower[*i], ' ' | '"' | '\'')) else {
                continue;
            };
            let in_braces = lower[..at].contains(&'{');
            star(from, end_of(from, &|c| in_braces && matches!(c, ',' | '}')));
        }
    }
    shown.into_iter().collect()
}

impl Diagnostic {
    /// About a file as a whole, or one that isn't there.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>, help: Option<String>) -> Self {
        Self { file: file.into(), line: 0, column: 0, width: 0, source_line: None, message: message.into(), help }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        let Some(text) = &self.source_line else {
            write!(f, "  --> {}", self.file)?;
            return self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n  = help: {}", indented(help, 4)));
        };
        let gutter = self.line.to_string().len();
        // Tabs have no width that is known: the carets' line repeats them, so that both lines move alike.
        let before: String =
            text.chars().take(self.column.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let room = text.chars().count().saturating_sub(self.column.saturating_sub(1)).max(1);
        writeln!(f, "{:gutter$}--> {}:{}:{}", "", self.file, self.line, self.column)?;
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{} | {}", self.line, text)?;
        write!(f, "{:gutter$} | {before}{}", "", "^".repeat(self.width.clamp(1, room)))?;
        match &self.help {
            Some(help) => {
                write!(f, "\n{:gutter$} |\n{:gutter$} = help: {}", "", "", indented(help, gutter + 9))
            }
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// All of them, in the order of the files, with an empty line between.
pub fn render(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n\n")
}

fn indented(text: &str, by: usize) -> String {
    text.replace('\n', &format!("\n{}", " ".repeat(by)))
}

/// `write `x`` for the candidate that is nearest to what was written, if one is near enough.
pub fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One slip in three characters is a slip; more is another word.
    let allowed = (written.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// The help for a name that is not known: the nearest one, else all there are.
pub fn known_names<'a>(written: &str, what: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = did_you_mean(written, candidates.clone()) {
        return format!("did you mean `{near}`?");
    }
    let mut all: Vec<&str> = candidates.into_iter().collect();
    all.sort_unstable();
    all.dedup();
    /// More names than this don't help anybody.
    const SHOWN: usize = 24;
    match all.len() {
        0 => format!("there is no {what} yet"),
        n if n > SHOWN => format!("{what} known here: {}, and {} more", quoted(&all[..SHOWN]), n - SHOWN),
        _ => format!("{what} known here: {}", quoted(&all)),
    }
}

/// What to write instead of a pattern that is none.
pub const PATTERN_HELP: &str = "close what is opened; a character that means itself stands in brackets: `[(]`, `[*]`";

/// The last line says what is wrong, the others draw it.
pub fn pattern_problem(error: &regex::Error) -> String {
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
    format!("this is not a pattern: {reason}")
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_reads_like_rustcs() {
        let file = SourceFile::new("identity.yaml", "kinds:\n  person:\n    anchor: hrr\n");
        let place = Place { line: 3, column: 13, width: 3, offset: 0 };
        let shown = file.diagnostic(place, "no source is named `hrr`", Some("did you mean `hr`?".into())).to_string();
        insta::assert_snapshot!(shown, @r"
        error: no source is named `hrr`
         --> identity.yaml:3:13
          |
        3 |     anchor: hrr
          |             ^^^
          |
          = help: did you mean `hr`?
        ");
        let whole = Diagnostic::of_file("sources/", "there is no source", Some("write one\nor more".into()));
        insta::assert_snapshot!(whole, @r"
        error: there is no source
          --> sources/
          = help: write one
            or more
        ");
    }

    #[test]
    fn carets_stay_within_the_line_and_follow_tabs() {
        let file = SourceFile::new("a.yaml", "\tkey: värde");
        let place = Place { line: 1, column: 7, width: 99, offset: 0 };
        insta::assert_snapshot!(file.diagnostic(place, "no", None).to_string(), @"
        error: no
         --> a.yaml:1:7
          |
        1 | 	key: värde
          | 	     ^^^^^
        ");
    }

    #[test]
    fn a_secret_is_never_shown_whatever_is_wrong_beside_it() {
        for (line, expected) in [
            ("sasl.password: hunter2, really", "sasl.password: ***************"),
            ("{ sasl.password: 'hunter2', x: 1 }", "{ sasl.password: '********, x: 1 }"),
            ("token: ${env:TOKEN}", "token: ${env:TOKEN}"),
            ("url: postgres://app:hunter2@db/x", "url: postgres://app:*******@db/x"),
            ("url: postgres://app:${env:P}@db/x", "url: postgres://app:${env:P}@db/x"),
            ("url: postgres://db:5432/x", "url: postgres://db:5432/x"),
            ("title: worker.title", "title: worker.title"),
        ] {
            assert_eq!(masked(line), expected, "{line}");
        }
    }

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        for (written, expected) in [
            ("hrr", Some("hr")),
            ("departmnet", Some("department")),
            ("givenname", Some("givenName")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(written, ["hr", "department", "givenName"]), expected, "{written}");
        }
    }
}
