//! File system calls that the standard library does not have, or does not repeat after a signal.

use std::fs::{self, DirEntry, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::statvfs::statvfs;

/// Atomically exchanges two paths of one file system.
/// Errors: `Unsupported` or `InvalidInput` if the file system cannot.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    retried(|| Ok(renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?))
}

/// Sets a file's length and, if the file system can, allocates its disk space, so that no later
/// write finds the disk full.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)?;
    let length = i64::try_from(bytes).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    if length == 0 {
        return Ok(());
    }
    match retried(|| Ok(fallocate(file, FallocateFlags::empty(), 0, length)?)) {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        outcome => outcome,
    }
}

/// The bytes that this user may still write to the file system of an existing path.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let facts = retried(|| Ok(statvfs(path)?))?;
    Ok(facts.blocks_available().saturating_mul(facts.fragment_size()))
}

/// Returns the entries of a folder.
pub fn entries(folder: &Path) -> io::Result<Vec<DirEntry>> {
    retried(|| fs::read_dir(folder)?.collect())
}

/// Removes a folder with everything in it. Links are not followed.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    retried(|| fs::remove_dir_all(folder))
}

/// Locks a file or folder; false if it is locked already.
/// Errors: among others, the file system has no locks.
pub fn try_lock(file: &File) -> io::Result<bool> {
    retried(|| match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    })
}

/// Repeats a call as long as signals interrupt it. The standard library does so only with some:
/// to open, read, write, sync and resize files.
pub fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchange_swaps_two_folders() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(one.join("a"), "").unwrap();
        if let Err(error) = exchange(&one, &other) {
            println!("skipped: this file system cannot exchange names ({error})");
            return;
        }
        assert!(other.join("a").exists() && !one.join("a").exists());
    }

    #[test]
    fn interrupted_calls_are_repeated() {
        let (interrupted, full) = (ErrorKind::Interrupted, ErrorKind::StorageFull);
        let mut outcomes = [Err(interrupted.into()), Err(interrupted.into()), Ok(3), Ok(4)].into_iter();
        assert_eq!(retried(|| outcomes.next().unwrap()).unwrap(), 3);
        assert_eq!(retried(|| Err::<(), _>(full.into())).unwrap_err().kind(), full);
    }

    #[test]
    fn free_space_is_positive_and_needs_an_existing_path() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
        assert!(free_bytes(Path::new("/no/such/path")).is_err());
    }
}
