//! The tree's files, and their text without comments and without the insides of strings.

use std::path::{Path, PathBuf};

/// A source file, by its path from the repository's root.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    /// The folder under `src/`, for all but lib.rs and main.rs.
    pub fn room(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split_once('/').map(|(room, _)| room)
    }

    /// Lines from 1 with comments taken out; strings stay.
    pub fn code(&self) -> Vec<(usize, String)> {
        let mut code = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            code.push((index + 1, without_comment(line)));
        }
        code
    }

    /// The code that runs outside of tests, which stand last or in files of their own.
    pub fn product(&self) -> Vec<(usize, String)> {
        if self.path.split('/').any(|part| part == "tests" || part == "tests.rs") {
            return Vec::new();
        }
        let mut code = self.code();
        let Some(at) = code.iter().position(|(_, line)| line.trim() == "#[cfg(test)]") else { return code };
        // `#[cfg(test)] mod tests;` may stand among the other modules: what follows is no test then.
        match code.get(at + 1) {
            Some((_, next)) if next.trim().ends_with(';') => drop(code.drain(at..at + 2)),
            _ => code.truncate(at),
        }
        code
    }
}

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below these folders.
pub fn all(folders: &[&str]) -> Vec<File> {
    let mut files = Vec::new();
    for folder in folders {
        let path = root().join(folder);
        if path.is_dir() {
            read(&path, &mut files);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn read(folder: &Path, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            files.push(File { path: path.strip_prefix(root()).unwrap().display().to_string(), text });
        }
    }
}

/// Up to `//`, unless that stands in a string.
fn without_comment(line: &str) -> String {
    let mut in_string = false;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '/' if !in_string && line[at..].starts_with("//") => return line[..at].to_owned(),
            _ => {}
        }
    }
    line.to_owned()
}

/// The same length with what stands between quotes made blank: words in messages are no code. `{name}` stays, for it is.
pub fn without_strings(code: &str) -> String {
    let (mut text, mut in_string, mut escaped, mut in_braces) = (String::new(), false, false, false);
    for c in code.chars() {
        let kept = !in_string || in_braces;
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => (in_string, in_braces) = (!in_string, false),
            '{' if in_string => in_braces = true,
            '}' if in_string => in_braces = false,
            _ if kept => {
                text.push(c);
                continue;
            }
            _ => {}
        }
        text.push(if matches!(c, '"' | '{' | '}' | '\n') { c } else { ' ' });
    }
    text
}
