//! The envelope around everything internal that is stored or sent: one version byte, then `postcard`.
//!
//! Release N reads N-1, so a rolling update never meets bytes it can't read. A type that changes shape raises `VERSION`
//! and says in `open` how the former one is read.

use postcard::ser_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use std::cell::Cell;

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

/// What a thread keeps to encode into: rows are sealed several times an event, and a buffer that grows each time costs as much as
/// the encoding.
const SCRATCH_BYTES: usize = 64 << 10;

pub fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    thread_local! {
        static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut scratch = SCRATCH.take();
    scratch.push(VERSION);
    // Our own types hold no sequence of unknown length and no map with odd keys: encoding to a growing buffer can't fail.
    postcard::serialize_with_flavor(value, Growing(&mut scratch)).expect("plain data encodes");
    let sealed = scratch.as_slice().to_vec();
    scratch.clear();
    scratch.shrink_to(SCRATCH_BYTES);
    SCRATCH.set(scratch);
    sealed
}

/// Appends slices whole, where postcard's own goes byte by byte.
struct Growing<'a>(&'a mut Vec<u8>);

impl Flavor for Growing<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
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
