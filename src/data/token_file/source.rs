//! The bytes of a token file, on the disk or in memory.

use std::ops::Range;

use super::layout::PROBE_BYTES;
use crate::base::Result;
use crate::host::input::InputFile;

/// Bytes that are scanned at a time; they stay in the L2 cache.
const SCAN_BYTES: usize = 1 << 18;

#[derive(Debug)]
pub(super) enum Source {
    File(InputFile),
    Memory(Vec<u8>),
}

impl Source {
    /// Size in bytes when it was opened.
    pub fn bytes(&self) -> u64 {
        match self {
            Source::File(file) => file.bytes(),
            Source::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `out` with the bytes from `offset` on. Errors: as [`InputFile::read_at`].
    ///
    /// # Panics
    /// If the range is not within the bytes in memory.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Source::File(file) => file.read_at(offset, out),
            Source::Memory(bytes) => {
                out.copy_from_slice(&bytes[offset as usize..][..out.len()]);
                Ok(())
            }
        }
    }

    /// Returns the first bytes: all that decide what the file is.
    pub fn head(&self) -> Result<Vec<u8>> {
        let mut head = vec![0; self.bytes().min(PROBE_BYTES) as usize];
        self.read_at(0, &mut head)?;
        Ok(head)
    }

    /// Calls `take` with consecutive blocks of a range, all but the last a multiple of 8 bytes long,
    /// until it returns something.
    pub fn scan<T>(&self, range: Range<u64>, mut take: impl FnMut(&[u8]) -> Option<T>) -> Result<Option<T>> {
        let mut buffer = vec![0; (range.end - range.start).min(SCAN_BYTES as u64) as usize];
        let mut at = range.start;
        while at < range.end {
            let block = &mut buffer[..(range.end - at).min(SCAN_BYTES as u64) as usize];
            self.read_at(at, block)?;
            at += block.len() as u64;
            if let Some(found) = take(block) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// True if all bytes are 0; `head` is their beginning.
    pub fn is_zero(&self, head: &[u8]) -> Result<bool> {
        let other = |bytes: &[u8]| bytes.iter().any(|&byte| byte != 0).then_some(());
        if other(head).is_some() {
            return Ok(false);
        }
        Ok(self.scan(head.len() as u64..self.bytes(), other)?.is_none())
    }
}
