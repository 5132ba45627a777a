//! The envelope around everything internal that is stored or sent: one version byte, then `postcard`.
//!
//! Release N reads N-1, so a rolling update never meets bytes it can't read. A type that changes shape raises `VERSION`
//! and says in `open` how the former one is read.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// The version that this release writes.
pub const VERSION: u8 = 1;

/// Why bytes could not be opened. It holds no content: bytes that can't be read may still be personal data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("empty: there is not even a version")]
    Empty,
    #[error("version {0} is not one this release reads (it reads {VERSION})")]
    Version(u8),
    #[error("undecodable as {0}")]
    Undecodable(&'static str),
}

pub fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    // Our own types hold no sequence of unknown length and no map with odd keys: encoding to a growing buffer can't fail.
    postcard::to_extend(value, vec![VERSION]).expect("plain data encodes")
}

/// For a field that a release adds at the end of a row: the default where the row, of the former release, ends before it. None
/// but others like it may come after.
pub fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(T::deserialize(deserializer).unwrap_or_default())
}

pub fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EnvelopeError> {
    match bytes.split_first() {
        None => Err(EnvelopeError::Empty),
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|_| EnvelopeError::Undecodable(std::any::type_name::<T>()))
        }
        Some((&version, _)) => Err(EnvelopeError::Version(version)),
    }
}
