//! Files as memory, and the two questions to the file system that the standard library does not ask.

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

/// A file seen as bytes, read as they are touched.
///
/// Nobody may shrink or rewrite the file while it is mapped: reading past a new end kills the process
/// (`SIGBUS`), and rewritten bytes change under the reader. Replacing it by rename is safe.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a whole file read-only. An empty file gives no bytes.
    pub fn open(path: &Path) -> Result<MappedFile> {
        let read = |error: io::Error| Error::reading(path, &error);
        let file = File::open(path).map_err(read)?;
        if file.metadata().map_err(read)?.is_dir() {
            return Err(read(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        // SAFETY: the map is private and read-only; that nobody rewrites a file in use is this type's
        // documented condition, and every reader checks values and bounds again after it has copied them.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        Ok(MappedFile(map))
    }
}

impl MappedFile {
    /// Brings a part of the file into memory in one go, where the system can, and lets it begin with the `ahead`
    /// bytes behind.
    pub fn fetch(&self, part: Range<usize>, ahead: usize) {
        // These are hints: whatever does not come now is read as it is touched. The second waits for pages one by one
        // and reads little ahead, so the first has the disk working on all of them by then.
        let end = self.0.len().min(part.end.saturating_add(ahead));
        let _ = self.0.advise_range(Advice::WillNeed, part.start, end - part.start);
        let _ = self.0.advise_range(Advice::PopulateRead, part.start, part.len());
    }

    /// Gives the pages that lie wholly in a part back to the system; touched again they are read again.
    pub fn release(&self, part: Range<usize>) {
        let page = linux::page_bytes();
        let (start, end) = (part.start.next_multiple_of(page), part.end / page * page);
        if start < end && end <= self.0.len() {
            // SAFETY: the map is private, read-only and of a file, so a page that is dropped is read again, with
            // the bytes it had.
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

/// Swaps what two paths of one file system name, in one step that nobody can see half-done.
/// Errors: `Unsupported` or `InvalidInput` where the file system cannot.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?)
}

/// Gives a file its length and, where the file system can, its place on the disk, so that no later write finds the
/// disk full.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)?;
    let length = i64::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    if length == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Bytes that this user may still write to the file system of an existing path.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let facts = statvfs(path)?;
    Ok(facts.blocks_available().saturating_mul(facts.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Status;

    #[test]
    fn a_mapped_file_is_its_bytes() {
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
    fn folders_change_places() {
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
    fn free_space_is_known() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
        assert!(free_bytes(Path::new("/no/such/path")).is_err());
    }
}
