//! Memory-mapped files, and file system calls that the standard library does not have.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Advice, Mmap, UncheckedAdvice};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::statvfs::statvfs;

use crate::base::{Error, Result};
use crate::sys::linux;

/// A read-only memory-mapped file.
///
/// The file must not be shortened or rewritten while it is mapped: reading past its new end kills
/// the process (`SIGBUS`), and rewritten bytes change under the reader. Replacing the file by
/// rename is safe.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a whole file. An empty file gives an empty slice.
    pub fn open(path: &Path) -> Result<MappedFile> {
        let read = |error: io::Error| Error::reading(path, &error);
        let file = File::open(path).map_err(read)?;
        if file.metadata().map_err(read)?.is_dir() {
            return Err(read(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        // SAFETY: the map is private and read-only; that the file is not changed is this type's
        // documented condition, and every reader checks values and bounds after copying them.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        Ok(MappedFile(map))
    }
}

impl MappedFile {
    /// Reads a range of the file into memory, if the system supports it, and starts reading the
    /// next `ahead` bytes.
    pub fn fetch(&self, range: Range<usize>, ahead: usize) {
        // Both calls are hints: if one fails, pages are read when they are touched. `PopulateRead`
        // waits for page after page with little readahead, so `WillNeed` first queues all of them
        // on the disk.
        let end = self.0.len().min(range.end.saturating_add(ahead));
        let _ = self.0.advise_range(Advice::WillNeed, range.start, end - range.start);
        let _ = self.0.advise_range(Advice::PopulateRead, range.start, range.len());
    }

    /// Releases the pages that lie wholly in a range; they are read again when touched.
    pub fn release(&self, range: Range<usize>) {
        let page = linux::page_bytes();
        let (start, end) = (range.start.next_multiple_of(page), range.end / page * page);
        if start < end && end <= self.0.len() {
            // SAFETY: the map is private, read-only and backed by a file, so a dropped page is read
            // again with the same bytes.
            let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

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
    use crate::base::Status;

    #[test]
    fn a_mapped_file_equals_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bytes");
        std::fs::write(&path, b"horizon").unwrap();
        assert_eq!(&*MappedFile::open(&path).unwrap(), b"horizon");
        std::fs::write(&path, b"").unwrap();
        assert!(MappedFile::open(&path).unwrap().is_empty());
        assert_eq!(MappedFile::open(&dir.path().join("none")).unwrap_err().status(), Status::NotFound);
        assert_eq!(MappedFile::open(dir.path()).unwrap_err().status(), Status::Io);
    }

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
