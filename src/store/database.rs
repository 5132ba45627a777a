//! Opens a fjall database in a folder of ours: one process at a time, memory bounded, errors in words.
//!
//! Used by the stores (`disk`) and by the embedded bus; it knows nothing of what either keeps in it.

use super::StoreError;
use fjall::compaction::Leveled;
use fjall::config::CompressionPolicy;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// fjall writes this file last when it makes a database, so without the whole of it nothing was ever stored.
const VERSION_MARKER: &str = "version";
/// "FJL" and a byte, which are two writes: a process may be killed between them.
const VERSION_MARKER_BYTES: u64 = 4;

/// Flushing and compacting. With more than one fjall keeps one free for flushes by handing compactions back to the queue,
/// round and round for as long as another compacts: a tenth of all CPU under load.
const WORKER_THREADS: usize = 1;

/// How much of the journal may stay on disk before memtables are flushed for it. fjall's least is 64 MiB.
const JOURNAL_BYTES: u64 = 128 * 1024 * 1024;

/// Flushed tables that are gathered before they are merged into the level below. Keys come at random, so that rewrites most of
/// it; fjall's default is 4.
const FLUSHED_TABLES: u8 = 8;

/// A process that was just killed or is ending may hold the lock for a moment longer.
const LOCK_TRIES: u32 = 10;
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// fjall's keys are at most this long (`u16` in its journal).
pub(crate) const KEY_BYTES: usize = u16::MAX as usize;

/// An open database, alone in its folder. Dropping it writes to disk what the journal still holds.
pub(crate) struct Database {
    // Declared before the lock, so that it is closed before the folder is given up.
    pub(crate) fjall: fjall::Database,
    folder: PathBuf,
    _lock: FolderLock,
}

impl Database {
    /// Opens or makes the database in `folder`; the lock must be that folder's.
    pub(crate) fn open(folder: &Path, lock: FolderLock, cache_bytes: u64) -> Result<Self, StoreError> {
        remove_unfinished(folder).map_err(|e| failed(folder, "remove an unfinished database", &e))?;
        let fjall = fjall::Database::builder(folder)
            .cache_size(cache_bytes)
            .worker_threads(WORKER_THREADS)
            .max_journaling_size(JOURNAL_BYTES)
            .open()
            .map_err(|e| told(folder, "open", e))?;
        Ok(Self { fjall, folder: folder.to_owned(), _lock: lock })
    }

    /// A tree of its own; its rows are held in memory up to `memtable_bytes` before they are written out.
    pub(crate) fn keyspace(&self, name: &str, memtable_bytes: u64) -> Result<fjall::Keyspace, StoreError> {
        let options = || {
            fjall::KeyspaceCreateOptions::default()
                .max_memtable_size(memtable_bytes)
                // What is large in it is compressed already.
                .data_block_compression_policy(CompressionPolicy::disabled())
                .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(FLUSHED_TABLES)))
        };
        self.fjall.keyspace(name, options).map_err(|e| self.told("open a keyspace", e))
    }

    pub(crate) fn told(&self, doing: &'static str, error: fjall::Error) -> StoreError {
        told(&self.folder, doing, error)
    }

    pub(crate) fn path(&self) -> String {
        self.folder.display().to_string()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The right to use a folder: `<folder>.lock` beside it, so that it outlives the folder's being set aside. The operating
/// system gives it up when the process ends, however it ends.
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    pub(crate) fn acquire(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(|e| failed(folder, "make the folder", &e))?;
        let path = folder.with_extension("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| failed(&path, "open the lock file", &e))?;
        let mut tries = 0;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                    tries += 1;
                    std::thread::sleep(LOCK_RETRY);
                }
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let holder = match file.read_to_string(&mut holder) {
                        Ok(_) if !holder.trim().is_empty() => holder.trim().to_owned(),
                        _ => "another process".to_owned(),
                    };
                    return Err(StoreError::InUse { path: folder.display().to_string(), holder });
                }
                Err(TryLockError::Error(e)) => return Err(failed(&path, "lock", &e)),
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "process {}", std::process::id()))
            .map_err(|e| failed(&path, "write the lock file", &e))?;
        Ok(Self { _file: file })
    }
}

/// A process that was killed while it made a database leaves one that fjall neither opens nor makes again.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    let finished =
        std::fs::metadata(folder.join(VERSION_MARKER)).is_ok_and(|marker| marker.len() >= VERSION_MARKER_BYTES);
    if !finished {
        std::fs::remove_dir_all(folder)?;
        std::fs::create_dir_all(folder)?;
    }
    Ok(())
}

fn failed(path: &Path, doing: &'static str, error: &std::io::Error) -> StoreError {
    StoreError::Failed { path: path.display().to_string(), doing, reason: error.to_string() }
}

/// fjall's errors sorted by what helps: another process ends, the folder is rebuilt, or the cause is outside of it.
fn told(folder: &Path, doing: &'static str, error: fjall::Error) -> StoreError {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    let path = folder.display().to_string();
    match error {
        fjall::Error::Locked => StoreError::InUse { path, holder: "another process".to_owned() },
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e))
            if !matches!(e.kind(), InvalidData | NotFound | UnexpectedEof) =>
        {
            StoreError::Failed { path, doing, reason: e.to_string() }
        }
        fjall::Error::Poisoned => StoreError::Poisoned { path, doing },
        fjall::Error::KeyspaceDeleted => {
            StoreError::Failed { path, doing, reason: "the keyspace was deleted".to_owned() }
        }
        other => StoreError::Damaged { path, doing, reason: other.to_string() },
    }
}

/// The first key after all that begin with `prefix`; None where there is no such key (a prefix of 0xff only).
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

/// A signed number so that its bytes sort as it does.
pub(crate) fn ordered(number: i64) -> [u8; 8] {
    (number ^ i64::MIN).to_be_bytes()
}

pub(crate) fn from_ordered(bytes: [u8; 8]) -> i64 {
    i64::from_be_bytes(bytes) ^ i64::MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_after_a_prefix_is_after_everything_that_begins_with_it() {
        for (prefix, after) in [
            (&b"a"[..], Some(&b"b"[..])),
            (b"a\xff", Some(b"b")),
            (b"a\x00\xff\xff", Some(b"a\x01")),
            (b"\xff\xff", None),
            (b"", None),
        ] {
            assert_eq!(after_prefix(prefix).as_deref(), after, "{prefix:?}");
        }
    }

    #[test]
    fn ordered_numbers_sort_as_their_bytes_do_and_come_back() {
        let numbers = [i64::MIN, -5, -1, 0, 1, 1_000_000, i64::MAX];
        assert!(numbers.windows(2).all(|pair| ordered(pair[0]) < ordered(pair[1])));
        assert!(numbers.iter().all(|n| from_ordered(ordered(*n)) == *n));
    }

    #[test]
    fn a_second_holder_of_a_folder_is_told_who_has_it() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("state");
        let held = FolderLock::acquire(&folder).unwrap();
        let Err(StoreError::InUse { holder, .. }) = FolderLock::acquire(&folder) else { panic!("locked twice") };
        assert_eq!(holder, format!("process {}", std::process::id()));
        drop(held);
        FolderLock::acquire(&folder).unwrap();
    }

    #[test]
    fn a_database_whose_making_was_cut_short_is_made_anew() {
        for marker in [&b""[..], b"FJL"] {
            let data = tempfile::tempdir().unwrap();
            let folder = data.path().join("state");
            std::fs::create_dir_all(folder.join("keyspaces")).unwrap();
            std::fs::write(folder.join("0.jnl"), b"").unwrap();
            std::fs::write(folder.join(VERSION_MARKER), marker).unwrap();
            let lock = FolderLock::acquire(&folder).unwrap();
            Database::open(&folder, lock, 1 << 20).unwrap();
            assert_eq!(std::fs::metadata(folder.join(VERSION_MARKER)).unwrap().len(), VERSION_MARKER_BYTES);
        }
    }
}
