//! Hashes of training data: XXH3 (64 bits) over every token, mask bit and document start.
//!
//! Tokens in memory are hashed whenever data is opened. Token files may be larger than RAM: their
//! bytes are hashed in the pass that checks their tokens, and a [`Cache`] remembers the result.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::base::{Error, Result};
use crate::host::folder::{private_folder, replace_file};
#[cfg(doc)]
use crate::host::input::InputFile;
use crate::host::input::read_text;

/// Adds numbers to a hash.
pub fn hash_numbers<T: Copy, const BYTES: usize>(
    hash: &mut Xxh3,
    numbers: &[T],
    bytes: fn(T) -> [u8; BYTES],
) {
    let mut block = [[0; BYTES]; 512];
    for numbers in numbers.chunks(block.len()) {
        let block = &mut block[..numbers.len()];
        block.iter_mut().zip(numbers).for_each(|(out, &number)| *out = bytes(number));
        hash.update(block.as_flattened());
    }
}

/// Hash and largest token of a token file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Hash of all bytes.
    pub hash: u64,
    /// The largest token; 0 if there is none.
    pub largest: u32,
}

/// Settings for hashing token files.
#[derive(Clone, Copy)]
pub struct Hashing<'a> {
    /// Results of earlier passes.
    pub cache: Option<&'a Cache>,
    /// Called with the number of further bytes done. An error ends the pass.
    pub progress: &'a dyn Fn(u64) -> Result<()>,
}

impl Hashing<'_> {
    /// Hashes without a cache and without reporting progress.
    pub const PLAIN: Hashing<'static> = Hashing { cache: None, progress: &|_| Ok(()) };

    /// Returns the content of an open file, from the cache if the file is unchanged, otherwise by
    /// `scan`. `metadata` is [`InputFile::synced_metadata`] of it.
    pub(super) fn content(
        &self,
        path: &Path,
        bytes: u64,
        metadata: impl Fn() -> Result<Option<Metadata>>,
        scan: impl FnOnce() -> Result<Content>,
    ) -> Result<Content> {
        let Some(cache) = self.cache.filter(|cache| bytes >= cache.bytes_min) else { return scan() };
        let Some(before) = metadata()? else { return scan() };
        let key = key(path, &before);
        if let Some(content) = cache.find(key) {
            (self.progress)(before.len())?;
            return Ok(content);
        }
        let content = scan()?;
        let after = metadata()?.map(|after| self::key(path, &after));
        if is_settled(&before, SystemTime::now()) && after == Some(key) {
            // Best effort: without an entry the next run hashes again.
            let _ = cache.store(key, content);
        }
        Ok(content)
    }
}

/// Identifies path and state of a file. Once it is synced, every write changes mtime and ctime, and
/// no program can set ctime back.
fn key(path: &Path, metadata: &Metadata) -> u64 {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut hash = Xxh3::new();
    let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
    hash_numbers(&mut hash, &[metadata.len(), metadata.ino(), metadata.dev()], u64::to_le_bytes);
    hash_numbers(&mut hash, &times, i64::to_le_bytes);
    hash.update(path.as_os_str().as_bytes());
    hash.digest()
}

/// True if the last change is so old that a later one has another time stamp: some file systems
/// count whole seconds.
fn is_settled(metadata: &Metadata, now: SystemTime) -> bool {
    const SECONDS: i64 = 3;
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    now.saturating_sub(metadata.mtime().max(metadata.ctime())) >= SECONDS
}

/// Hashes of large token files, in one small file. A cache that is damaged, belongs to another user
/// or cannot be written is ignored.
///
/// The file's first line is the XXH3 of the second, which is a JSON list of entries, oldest first.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Smaller files are always hashed.
    bytes_min: u64,
}

/// Key, hash and largest token.
type Entry = (u64, u64, u32);

impl Cache {
    /// The cache of the user: `$XDG_CACHE_HOME/horizon`, or `~/.cache/horizon`.
    pub fn of_user() -> Option<Cache> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches =
            variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))?;
        // Hashed in a few milliseconds.
        let bytes_min = 64 << 20;
        Some(Cache { folder: caches.join("horizon"), bytes_min })
    }

    fn file(&self) -> PathBuf {
        self.folder.join("token-files")
    }

    fn entries(&self) -> Option<Vec<Entry>> {
        const BYTES_MAX: u64 = 1 << 20;
        private_folder(&self.folder, false).ok()?;
        let text = read_text(&self.file(), BYTES_MAX).ok()?;
        let (checksum, entries) = text.split_once('\n')?;
        (checksum == sum(entries)).then(|| serde_json::from_str(entries).ok())?
    }

    fn find(&self, key: u64) -> Option<Content> {
        let (_, hash, largest) = self.entries()?.into_iter().find(|(other, ..)| *other == key)?;
        Some(Content { hash, largest })
    }

    fn store(&self, key: u64, content: Content) -> Result<()> {
        const ENTRIES_MAX: usize = 1000;
        let mut entries = self.entries().unwrap_or_default();
        entries.push((key, content.hash, content.largest));
        entries.drain(..entries.len().saturating_sub(ENTRIES_MAX));
        let text = serde_json::to_string(&entries).map_err(|error| Error::internal(error.to_string()))?;
        private_folder(&self.folder, true)?;
        replace_file(&self.file(), |out| {
            write!(out, "{}\n{text}", sum(&text)).map_err(|error| Error::writing(&self.file(), &error))
        })
    }
}

fn sum(text: &str) -> String {
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

#[cfg(test)]
mod tests;
