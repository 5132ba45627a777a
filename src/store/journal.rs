//! Cuts off what a loss of power tore at the end of fjall's journal.
//!
//! Between two syncs the pages of a file reach the disk in any order, so after a loss of power a batch that was not synced
//! may have its header and its end but zeros in between. fjall then refuses to open the database, although all that was
//! synced is there. This keeps the whole batches at the beginning, and puts the rest in a file beside the journal.
//!
//! The format is that of fjall 3 (`journal/entry.rs` and `journal/writer.rs` there); the tests write journals with fjall
//! itself, so another format shows.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Ends the end marker.
const TRAILER: &[u8] = b"FJL\x03";

/// What was cut off, and where it is now.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) bytes: usize,
    pub(crate) kept_in: PathBuf,
}

/// None if the newest journal ends in a whole batch. Only that one may be torn: fjall syncs it before it begins another.
pub(crate) fn cut_torn_tail(folder: &Path) -> std::io::Result<Option<Cut>> {
    let Some(journal) = newest(folder)? else { return Ok(None) };
    // At most fjall's 64 MiB and a batch.
    let bytes = std::fs::read(&journal)?;
    let mut good = 0;
    while let Some(length) = whole_batch(&bytes[good..]) {
        good += length;
    }
    // fjall makes the file longer than it needs, with zeros.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if written <= good {
        return Ok(None);
    }
    let kept_in = journal.with_extension("torn");
    let mut kept = std::fs::File::create(&kept_in)?;
    kept.write_all(&bytes[good..written])?;
    kept.sync_all()?;
    let file = std::fs::File::options().write(true).open(&journal)?;
    file.set_len(good as u64)?;
    file.sync_all()?;
    Ok(Some(Cut { bytes: written - good, kept_in }))
}

/// Journals are named by number: `12.jnl`.
fn newest(folder: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == "jnl"))
            && newest.as_ref().is_none_or(|(highest, _)| number > *highest)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// The length of the batch at the beginning of `bytes`, if it is there to its end and its checksum is right.
fn whole_batch(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    if take(&mut rest, 1)? != [START] {
        return None;
    }
    let items = u32::from_le_bytes(*take(&mut rest, 4)?.first_chunk()?);
    take(&mut rest, 8)?; // its sequence number
    let mut checksum = Xxh3::new();
    for _ in 0..items {
        let length = item_length(rest)?;
        checksum.update(take(&mut rest, length)?);
    }
    if take(&mut rest, 1)? != [END] {
        return None;
    }
    let expected = u64::from_le_bytes(*take(&mut rest, 8)?.first_chunk()?);
    let whole = checksum.digest() == expected && take(&mut rest, TRAILER.len())? == TRAILER;
    whole.then_some(bytes.len() - rest.len())
}

/// A change: tag, kind, compression, keyspace (8), key length (2), length of the value (4) and as it is stored (4), then both.
fn item_length(bytes: &[u8]) -> Option<usize> {
    const HEADER: usize = 21;
    match *bytes.first()? {
        ITEM => {
            let header = bytes.get(..HEADER)?;
            let key = u16::from_le_bytes(*header.get(11..)?.first_chunk()?);
            let value = u32::from_le_bytes(*header.get(17..)?.first_chunk()?);
            Some(HEADER + usize::from(key) + usize::try_from(value).ok()?)
        }
        CLEAR => Some(9),
        _ => None,
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCHES: usize = 100;

    /// A database of batches of two rows each, n and a copy.
    fn written(folder: &Path, value: usize) {
        let db = fjall::Database::builder(folder).open().unwrap();
        let rows = db.keyspace("rows", fjall::KeyspaceCreateOptions::default).unwrap();
        for n in 0..BATCHES {
            let mut batch = db.batch();
            batch.insert(&rows, format!("a{n:05}"), vec![7; value]);
            batch.insert(&rows, format!("b{n:05}"), vec![7; value]);
            batch.remove(&rows, "never");
            batch.commit().unwrap();
        }
    }

    /// How many batches are there; panics if they are not the first ones, or not whole.
    fn read(folder: &Path) -> usize {
        let db = fjall::Database::builder(folder).open().unwrap();
        let rows = db.keyspace("rows", fjall::KeyspaceCreateOptions::default).unwrap();
        let keys: Vec<String> =
            rows.iter().map(|row| String::from_utf8(row.key().unwrap().to_vec()).unwrap()).collect();
        let count = keys.len() / 2;
        let expected = ["a", "b"].iter().flat_map(|letter| (0..count).map(move |n| format!("{letter}{n:05}")));
        assert_eq!(keys, expected.collect::<Vec<_>>());
        count
    }

    #[test]
    fn a_journal_that_is_whole_stays_as_it_is() {
        for value in [1, 10_000] {
            let folder = tempfile::tempdir().unwrap();
            written(folder.path(), value);
            assert!(cut_torn_tail(folder.path()).unwrap().is_none(), "values of {value} bytes");
            assert_eq!(read(folder.path()), BATCHES);
        }
    }

    #[test]
    fn of_a_torn_journal_the_whole_batches_before_the_tear_are_left() {
        let mut refused = 0;
        for value in [300, 3000] {
            for tear in [50, 700, 20_000, 33_333] {
                let folder = tempfile::tempdir().unwrap();
                written(folder.path(), value);
                let path = folder.path().join("0.jnl");
                let mut bytes = std::fs::read(&path).unwrap();
                // Not the batches' length, so that it falls on something else each time.
                bytes[tear..tear + 150].fill(0);
                std::fs::write(&path, bytes).unwrap();
                refused += usize::from(fjall::Database::builder(folder.path()).open().is_err());

                // Where fjall could open it, it has cut it by itself.
                let _ = cut_torn_tail(folder.path()).unwrap();
                let count = read(folder.path());
                assert_eq!(count, tear / (2 * (value + 27) + 26 + 26), "values of {value} bytes, torn at {tear}");
            }
        }
        assert!(refused > 0, "fjall opens them all: this file is not needed any more");
    }
}
