//! The pinned words in which lanes tell each other how far they are.
//!
//! Every lane has one, on a cache line of its own: the count of tasks it has done, round 2^32. A thread lane's is
//! written by its thread and waited for by streams; a stream lane's is written by its stream, behind each task, and
//! read by whoever waits for the lane. It still tells how far the stream came when the device no longer answers.

use std::ffi::OsStr;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::base::{Error, Result, Status};
use crate::device::Lane;
use crate::sys::cuda::{Driver, PinnedMemory, Stream, device_address};

/// Set to `off`, it makes lanes do without words.
const VARIABLE: &str = "HZ_CUDA_STREAM_MEMORY_OPS";

/// Bytes from word to word.
const STRIDE: usize = 128;

/// One word per lane.
#[derive(Debug)]
pub struct Words {
    memory: PinnedMemory,
    /// Where the device sees the memory.
    seen: NonNull<u8>,
    driver: Driver,
}

// SAFETY: `seen` is an address of the memory beside it; the words are used atomically only.
unsafe impl Send for Words {}
// SAFETY: as every access is atomic, threads may share it.
unsafe impl Sync for Words {}

impl Words {
    /// Takes the words and tries them on a stream: `None` where streams cannot wait for words, or shall not.
    pub fn take(driver: Driver, stream: &Stream) -> Result<Option<Words>> {
        if !allowed(std::env::var_os(VARIABLE).as_deref())? {
            return Ok(None);
        }
        let memory = PinnedMemory::take(STRIDE * Lane::COUNT)?;
        let words = Words { seen: device_address(memory.base())?, memory, driver };
        Lane::ALL.iter().for_each(|lane| words.set(*lane, 0));
        let (from, to) = (Lane::Host, Lane::Compute);
        words.set(from, 1);
        let tried = words.wait(stream, from, 1).and_then(|()| words.write(stream, to, 1));
        // Whatever was queued is done before the words may go.
        stream.synchronize()?;
        let works = match tried {
            Ok(()) => words.get(to) == 1,
            Err(error) if error.status() == Status::Unsupported => false,
            Err(error) => return Err(error),
        };
        words.set(from, 0);
        words.set(to, 0);
        Ok(works.then_some(words))
    }

    fn word(&self, lane: Lane) -> &AtomicU32 {
        // SAFETY: aligned and inside the memory, which lives as long as the borrow; the device writes it whole.
        unsafe { AtomicU32::from_ptr(self.memory.base().add(STRIDE * lane.at()).as_ptr().cast()) }
    }

    /// The device's address of a word.
    fn seen(&self, lane: Lane) -> NonNull<u8> {
        // SAFETY: the device's view of the memory is as long as the memory.
        unsafe { self.seen.add(STRIDE * lane.at()) }
    }

    /// A thread lane has done so many tasks: all that it wrote before is to be seen by whoever waits.
    pub fn set(&self, lane: Lane, count: u64) {
        self.word(lane).store(count as u32, Ordering::Release);
    }

    /// How many tasks a lane says it has done. It is less than 2^31 behind `issued`, the number that are issued, or one
    /// ahead: of a task that is just being issued.
    pub fn done(&self, lane: Lane, issued: u64) -> u64 {
        let behind = (issued as u32).wrapping_sub(self.get(lane)) as i32;
        issued.saturating_add_signed(-i64::from(behind))
    }

    fn get(&self, lane: Lane) -> u32 {
        self.word(lane).load(Ordering::Acquire)
    }

    /// Later work of the stream waits until the lane has done `count` tasks. Less than 2^31 are missing.
    pub fn wait(&self, stream: &Stream, lane: Lane, count: u64) -> Result<()> {
        // SAFETY: the lane's own word; the lanes close, and their streams with them, before the words go.
        unsafe { self.driver.wait_value(stream, self.seen(lane), count as u32) }
    }

    /// The stream says, behind what it has been given, that its lane has done `count` tasks.
    pub fn write(&self, stream: &Stream, lane: Lane, count: u64) -> Result<()> {
        // SAFETY: the word of the stream's lane, which lasts until the stream is drained.
        unsafe { self.driver.write_value(stream, self.seen(lane), count as u32) }
    }
}

/// The meaning of [`VARIABLE`].
fn allowed(value: Option<&OsStr>) -> Result<bool> {
    match value.map(|value| value.to_string_lossy()).as_deref() {
        None | Some("" | "on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(Error::argument(format!("{VARIABLE} is `{other}`; it is one of on, off"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_turns_words_off() {
        let allowed = |value: &str| allowed(Some(OsStr::new(value)));
        assert_eq!((allowed("on"), allowed(""), allowed("off")), (Ok(true), Ok(true), Ok(false)));
        assert_eq!(super::allowed(None), Ok(true));
        assert!(allowed("no").unwrap_err().message().contains("HZ_CUDA_STREAM_MEMORY_OPS is `no`"));
    }
}
