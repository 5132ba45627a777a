//! The data folder: there or to be made, writable, its owner's alone, with room.

use super::finding::Finding;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const CHECK: &str = "data";
/// Below this the stores and the embedded bus have no room for a compaction.
const TOO_LITTLE_BYTES: u64 = 128 << 20;
/// A million identities take some 1.5 GiB with room to compact.
const LITTLE_BYTES: u64 = 2 << 30;

pub(super) fn folder(path: &Path) -> Finding {
    let shown = path.display();
    let other = || "name a folder of this user's with --data".to_owned();
    let (there, folder) = match nearest(path) {
        Some(found) => (found == path, found),
        None => return Finding::bad(CHECK, "", format!("{shown} has no folder above it"), other()),
    };
    let metadata = match std::fs::metadata(&folder) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return Finding::bad(CHECK, "", format!("{} is no folder", folder.display()), other()),
        Err(error) => return Finding::bad(CHECK, "", format!("{}: {error}", folder.display()), other()),
    };
    if let Err(error) = writable(&folder) {
        return Finding::bad(CHECK, "", format!("{} can't be written to: {error}", folder.display()), other());
    }
    let free = free_bytes(&folder);
    let room = free.map_or_else(String::new, |bytes| format!(", {} GiB free", tenths_of_gib(bytes)));
    let more = || "make room, or name a folder elsewhere with --data".to_owned();
    match free {
        Some(bytes) if bytes < TOO_LITTLE_BYTES => {
            return Finding::bad(CHECK, "", format!("{shown}: hardly any room{room}"), more());
        }
        Some(bytes) if bytes < LITTLE_BYTES => {
            return Finding::warn(CHECK, "", format!("{shown}: little room{room}"), more());
        }
        _ => {}
    }
    if !there {
        return Finding::ok(CHECK, "", format!("{shown} will be made at the first start{room}"));
    }
    let (mode, own) = (metadata.permissions().mode() & 0o777, effective_user());
    if metadata.uid() != own {
        let what = format!("{shown} belongs to user {}, this is user {own}", metadata.uid());
        return Finding::warn(CHECK, "", what, "run Lockstep as one user always: others can't read what it writes");
    }
    if mode & 0o077 != 0 {
        let what = format!("{shown} is open to other users (mode {mode:o}): it holds personal data and the token");
        return Finding::warn(CHECK, "", what, format!("`chmod 700 {shown}`"));
    }
    Finding::ok(CHECK, "", format!("{shown}: writable, this user's alone{room}"))
}

/// The folder itself, or the nearest above it that is there.
fn nearest(path: &Path) -> Option<PathBuf> {
    let whole = std::path::absolute(path).ok()?;
    let found = whole.ancestors().find(|folder| folder.exists())?;
    Some(if found == whole { path.to_owned() } else { found.to_owned() })
}

/// Really writes: permissions alone don't tell of a read-only file system or a quota.
fn writable(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, b"x");
    let removed = std::fs::remove_file(&probe);
    written.and(removed)
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: the path ends with a zero byte, and the kernel fills the whole struct where it answers 0.
    unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        let answered = libc::statvfs(path.as_ptr(), &mut found) == 0;
        #[allow(clippy::unnecessary_cast, reason = "the fields are u32 on some systems")]
        answered.then(|| (found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
    }
}

fn effective_user() -> u32 {
    // SAFETY: it has no arguments and can't fail.
    unsafe { libc::geteuid() }
}

fn tenths_of_gib(bytes: u64) -> String {
    let tenths = bytes / ((1 << 30) / 10);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_data_folder_is_judged_as_it_is_found() {
        let parent = tempfile::tempdir().unwrap();
        let own = parent.path().join("own");
        let absent = folder(&own.join("deeper"));
        assert!(absent.what.contains("will be made") && absent.state != State::Bad, "{absent:?}");
        assert!(!own.exists(), "it makes nothing");
        std::fs::create_dir(&own).unwrap();
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
        let open = folder(&own);
        assert!(open.what.contains("mode 755") || open.what.contains("room"), "{open:?}");
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).unwrap();
        let fine = folder(&own);
        assert!(fine.what.contains("this user's alone") || fine.what.contains("room"), "{fine:?}");
        assert_eq!(std::fs::read_dir(&own).unwrap().count(), 0, "nothing is left behind");
        std::fs::write(parent.path().join("file"), "").unwrap();
        assert_eq!(folder(&parent.path().join("file")).state, State::Bad);
        assert_eq!(folder(&parent.path().join("file/data")).state, State::Bad);
    }

    #[test]
    fn room_is_told_in_tenths() {
        assert_eq!(tenths_of_gib((3 << 30) / 2), "1.5");
    }
}
