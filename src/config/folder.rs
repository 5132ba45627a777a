//! Which files of the config folder are rules, and what is there that should not be.

use super::ConfigError;
use crate::rules::bundle::FileRole;
use crate::rules::diagnostic::{Diagnostic, SourceFile, did_you_mean};
use crate::rules::yaml::MAX_FILE_BYTES;
use std::fs::DirEntry;
use std::path::Path;

/// More files than this in one folder is no config folder.
const MAX_FILES: usize = 2_000;

#[derive(Debug, Default)]
pub struct Folder {
    pub installation: Option<SourceFile>,
    /// Sorted by path.
    pub rules: Vec<SourceFile>,
    pub problems: Vec<Diagnostic>,
}

/// Reads lockstep.yaml, identity.yaml, entitlements.yaml, sources/ and targets/. What else is YAML, or lies in one
/// of the two folders, is a mistake; the rest (a README, events) is left alone, unless it looks like one of these misspelt.
pub fn read(dir: &Path) -> Result<Folder, ConfigError> {
    if !dir.is_dir() {
        return Err(ConfigError::Absent { dir: dir.to_owned() });
    }
    let mut folder = Folder::default();
    for entry in entries(dir)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        match (entry.path().is_dir(), name.as_str()) {
            (true, "sources" | "targets") => {
                for inner in entries(&entry.path())? {
                    let path = format!("{name}/{}", inner.file_name().to_string_lossy());
                    folder.take(&inner.path(), path)?;
                }
            }
            (true, _) => folder.problems.extend(misspelt(&name, &["sources", "targets"])),
            (false, _) if is_yaml(&name) => folder.take(&entry.path(), name)?,
            (false, _) => {}
        }
    }
    folder.rules.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(folder)
}

impl Folder {
    fn take(&mut self, path: &Path, name: String) -> Result<(), ConfigError> {
        if path.is_dir() || !is_yaml(&name) {
            let help = "this folder holds .yaml files only: move it elsewhere".to_owned();
            self.problems.push(Diagnostic::of_file(name, "this is not a rule file", Some(help)));
            return Ok(());
        }
        let unreadable = |reason| ConfigError::Unreadable { path: path.to_owned(), reason };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > MAX_FILE_BYTES as u64 {
            let message = format!("the file has {length} bytes, more than the {MAX_FILE_BYTES} that are read");
            self.problems.push(Diagnostic::of_file(name, message, Some("split it".to_owned())));
            return Ok(());
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let Ok(text) = String::from_utf8(bytes) else {
            let help = "save it as UTF-8".to_owned();
            self.problems.push(Diagnostic::of_file(name, "the file is not UTF-8 text", Some(help)));
            return Ok(());
        };
        let file = SourceFile::new(name, text);
        match FileRole::of(&file.path) {
            Some(FileRole::Installation) if self.installation.is_some() => {
                let help = "keep one of lockstep.yaml and lockstep.yml".to_owned();
                self.problems.push(Diagnostic::of_file(&file.path, "this file stands twice", Some(help)));
            }
            Some(FileRole::Installation) => self.installation = Some(file),
            // The rules say themselves what has no place among them.
            _ => self.rules.push(file),
        }
        Ok(())
    }
}

/// Sorted by name, without hidden ones.
fn entries(dir: &Path) -> Result<Vec<DirEntry>, ConfigError> {
    let unreadable = |reason| ConfigError::Unreadable { path: dir.to_owned(), reason };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            entries.push(entry);
        }
        if entries.len() > MAX_FILES {
            let reason = std::io::Error::other(format!("it holds more than {MAX_FILES} files"));
            return Err(unreadable(reason));
        }
    }
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

fn is_yaml(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}

fn misspelt(name: &str, right: &[&str]) -> Option<Diagnostic> {
    let near = did_you_mean(name, right.iter().copied())?;
    Some(Diagnostic::of_file(name, "this folder is not read", Some(format!("did you mean `{near}`?"))))
}
