//! File system calls that the standard library does not have.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::statvfs::statvfs;

/// Atomically exchanges two paths of one file system.
/// Errors: `Unsupported` or `InvalidInput` if the file system cannot.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?)
}

/// Sets a file's length and, if the file system can, allocates its disk space, so that no later
/// write finds the disk full.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)?;
    let length = i64::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    if length == 0 {
        return Ok(());
    }
    match retried(|| fallocate(file, FallocateFlags::empty(), 0, length)) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// The bytes that this user may still write to the file system of an existing path.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let facts = retried(|| statvfs(path))?;
    Ok(facts.blocks_available().saturating_mul(facts.fragment_size()))
}

/// Repeats a system call as long as signals interrupt it, as the standard library does with its own.
fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
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
        let mut outcomes = [Err(Errno::EINTR), Err(Errno::EINTR), Ok(3), Ok(4)].into_iter();
        assert_eq!(retried(|| outcomes.next().unwrap()), Ok(3));
        assert_eq!(retried(|| Err::<(), _>(Errno::ENOSPC)), Err(Errno::ENOSPC));
    }

    #[test]
    fn free_space_is_positive_and_needs_an_existing_path() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
        assert!(free_bytes(Path::new("/no/such/path")).is_err());
    }
}
