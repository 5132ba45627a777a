//! Secrets by reference: `${env:NAME}`, `${file:PATH}`, and `${data}` for the data folder.

use std::fmt;
use std::path::{Path, PathBuf};

/// A password or token is a line; a key file has a few thousand bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a reference can't be resolved. It names the variable or file, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    #[error("the environment variable {0} is not valid text")]
    NotText(String),
    #[error("can't read the secret file {}: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: std::io::Error },
    #[error("the secret file {} is larger than {MAX_SECRET_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("`${{{0}}}` is no reference that is known")]
    Unknown(String),
    #[error("a reference begins with `${{` and has no `}}` after it")]
    Unfinished,
}

impl SecretError {
    /// What can be done about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotSet(_) => "set it where this process starts, or use `${file:PATH}`",
            Self::NotText(_) => "set it to UTF-8 text",
            Self::Unreadable { .. } => "let this process read it, or name another",
            Self::TooLarge(_) => "name the file that holds the secret alone",
            Self::Unknown(_) | Self::Unfinished => "write `${env:NAME}`, `${file:PATH}` or `${data}`",
        }
    }
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for the call that needs it, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Puts what the references in `text` stand for in their place.
pub fn resolve(text: &str, data_dir: &Path) -> Result<Secret, SecretError> {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        resolved.push_str(&rest[..start]);
        let after = &rest[start + 2..];
        let end = after.find('}').ok_or(SecretError::Unfinished)?;
        resolved.push_str(&referenced(&after[..end], data_dir)?);
        rest = &after[end + 1..];
    }
    resolved.push_str(rest);
    Ok(Secret(resolved))
}

fn referenced(reference: &str, data_dir: &Path) -> Result<String, SecretError> {
    if reference == "data" {
        return Ok(data_dir.display().to_string());
    }
    match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|error| match error {
            std::env::VarError::NotPresent => SecretError::NotSet(name.to_owned()),
            std::env::VarError::NotUnicode(_) => SecretError::NotText(name.to_owned()),
        }),
        Some(("file", path)) => secret_file(Path::new(path)),
        _ => Err(SecretError::Unknown(reference.to_owned())),
    }
}

fn secret_file(path: &Path) -> Result<String, SecretError> {
    let unreadable = |reason| SecretError::Unreadable { path: path.to_owned(), reason };
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_SECRET_BYTES {
        return Err(SecretError::TooLarge(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    // Editors and `echo` end a file with a line end that is no part of the secret.
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "s3cret\n").unwrap();
        let home = std::env::var("PATH").unwrap();
        for (text, expected) in [
            ("plain".to_owned(), "plain".to_owned()),
            ("sqlite:${data}/a.db".to_owned(), format!("sqlite:{}/a.db", dir.path().display())),
            (format!("${{file:{}}}", file.display()), "s3cret".to_owned()),
            (format!("a ${{env:PATH}} b ${{file:{}}}", file.display()), format!("a {home} b s3cret")),
            ("$x {y}".to_owned(), "$x {y}".to_owned()),
        ] {
            assert_eq!(resolve(&text, dir.path()).unwrap().expose(), expected, "{text}");
        }
    }

    #[test]
    fn what_can_not_be_resolved_is_named_and_nothing_is_shown() {
        let dir = Path::new("/nowhere");
        for (text, expected) in [
            ("${env:LOCKSTEP_NOT_SET}", "the environment variable LOCKSTEP_NOT_SET is not set"),
            ("${file:/nowhere/x}", "can't read the secret file /nowhere/x"),
            ("${vault:x}", "`${vault:x}` is no reference that is known"),
            ("${env:PATH", "a reference begins with `${`"),
        ] {
            let error = resolve(text, dir).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        assert_eq!(format!("{0} {0:?}", Secret::new("hunter2")), "*** ***");
    }
}
