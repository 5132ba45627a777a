//! The token that every request but health and metrics has to bear. Made at the first start, kept under the data folder.

use sha2::{Digest, Sha256};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Random bytes of a token: 256 bits, as hex.
const RANDOM_BYTES: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token's file {path}: {reason}")]
    File { path: PathBuf, reason: std::io::Error },
    #[error("the token's file {path} holds no token; remove it and start again: a new one is made")]
    Malformed { path: PathBuf },
    #[error("the system gave no random bytes for a token: {0}")]
    Random(getrandom::Error),
}

/// What a request's token is compared with. Has no `Debug`: it must not get into a log.
#[derive(Clone)]
pub struct Token {
    /// Of the token: comparing digests takes the same time wherever two tokens begin to differ.
    digest: [u8; 32],
    path: PathBuf,
}

impl Token {
    /// Where the token of a data folder is.
    pub fn path(data: &Path) -> PathBuf {
        data.join("token")
    }

    /// The token of a data folder, made if there is none yet: readable by its owner only.
    pub fn open_or_create(data: &Path) -> Result<Self, TokenError> {
        let path = Self::path(data);
        match Self::read(&path) {
            Err(TokenError::File { reason, .. }) if reason.kind() == ErrorKind::NotFound => create(&path)?,
            Err(other) => return Err(other),
            Ok(_) => {}
        }
        // Read in both cases: of two processes that start at once, one wrote it.
        let text = Self::read(&path)?;
        // Who is told where it is may be in another folder.
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(Self { digest: Sha256::digest(text.as_bytes()).into(), path })
    }

    /// A token that is in no file, with its text: for an api that only this process asks.
    pub fn of_process() -> Result<(Self, String), TokenError> {
        let text = random()?;
        Ok((Self { digest: Sha256::digest(text.as_bytes()).into(), path: PathBuf::from("no file") }, text))
    }

    /// The token's text, for a client.
    pub fn read(path: &Path) -> Result<String, TokenError> {
        let text = std::fs::read_to_string(path)
            .map_err(|reason| TokenError::File { path: path.to_owned(), reason })?
            .trim()
            .to_owned();
        if text.len() != 2 * RANDOM_BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TokenError::Malformed { path: path.to_owned() });
        }
        Ok(text)
    }

    /// In constant time.
    pub fn matches(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let different = self.digest.iter().zip(presented).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(different) == 0
    }

    /// Where a person finds it.
    pub fn file(&self) -> &Path {
        &self.path
    }
}

/// Writes a new token beside its place and links it there: a reader sees all of it or none, and never loses one that another
/// process has just made.
fn create(path: &Path) -> Result<(), TokenError> {
    let text = random()?;
    let beside = path.with_extension(format!("new.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| writeln!(file, "{text}").and_then(|()| file.sync_all()))
        .and_then(|()| match std::fs::hard_link(&beside, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        });
    // Gone already, or left behind unreadable to others: neither stops a start.
    let _ = std::fs::remove_file(&beside);
    written.map_err(|reason| TokenError::File { path: path.to_owned(), reason })
}

fn random() -> Result<String, TokenError> {
    let mut random = [0u8; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(TokenError::Random)?;
    Ok(hex::encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_reads_it() {
        let data = tempfile::tempdir().unwrap();
        let token = Token::open_or_create(data.path()).unwrap();
        let text = Token::read(token.file()).unwrap();
        assert_eq!(text.len(), 64);
        assert_eq!(std::fs::metadata(token.file()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(token.matches(&text));
        for wrong in ["", &text[1..], &format!("{text} "), &"0".repeat(64)] {
            assert!(!token.matches(wrong), "{wrong}");
        }
        let again = Token::open_or_create(data.path()).unwrap();
        assert!(again.matches(&text));
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(!Token::open_or_create(tempfile::tempdir().unwrap().path()).unwrap().matches(&text));
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused_rather_than_used() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(Token::path(data.path()), "\n").unwrap();
        assert!(matches!(Token::open_or_create(data.path()), Err(TokenError::Malformed { .. })));
        let missing = data.path().join("nowhere");
        assert!(matches!(Token::open_or_create(&missing), Err(TokenError::File { .. })));
    }
}
