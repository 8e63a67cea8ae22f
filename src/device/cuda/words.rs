//! Progress counters of lanes in pinned host memory ("words").
//!
//! Each lane has one word, on its own cache line: the number of finished tasks modulo 2^32. A
//! thread lane's word is written by its thread, and CUDA streams wait for it. A CUDA stream lane's
//! word is written by the lane's stream after each task, and waiting threads read it. It is
//! readable, and shows the lane's progress, after the device has failed.

use std::ffi::OsStr;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::base::{Error, Result, Status};
use crate::device::Lane;
use crate::sys::cuda::{Driver, PinnedMemory, Stream, device_address};

/// The environment variable that turns words off: `on` (default) or `off`.
const VARIABLE: &str = "HZ_CUDA_STREAM_MEMORY_OPS";

/// Bytes from one word to the next.
const STRIDE: usize = 128;

/// One word per lane.
#[derive(Debug)]
pub struct Words {
    memory: PinnedMemory,
    /// The device address of the memory.
    device_base: NonNull<u8>,
    driver: Driver,
}

// SAFETY: `device_base` is an address of `memory`, and all accesses to the words are atomic.
unsafe impl Send for Words {}
// SAFETY: all accesses to the words are atomic.
unsafe impl Sync for Words {}

impl Words {
    /// Allocates the words and tests them on a CUDA stream. Returns `None` if stream memory
    /// operations do not work or are turned off.
    pub fn take(driver: Driver, stream: &Stream) -> Result<Option<Words>> {
        if !allowed(std::env::var_os(VARIABLE).as_deref())? {
            return Ok(None);
        }
        let memory = PinnedMemory::take(STRIDE * Lane::COUNT)?;
        let words = Words { device_base: device_address(memory.base())?, memory, driver };
        Lane::ALL.iter().for_each(|lane| words.set(*lane, 0));
        let (from, to) = (Lane::Host, Lane::Compute);
        words.set(from, 1);
        let tried = words.wait(stream, from, 1).and_then(|()| words.write(stream, to, 1));
        // All enqueued work is done before the words may be dropped.
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
        // SAFETY: aligned and inside the memory, which lives as long as the borrow; the device
        // writes words atomically.
        unsafe { AtomicU32::from_ptr(self.memory.base().add(STRIDE * lane.at()).as_ptr().cast()) }
    }

    /// The device address of a word.
    fn device_word(&self, lane: Lane) -> NonNull<u8> {
        // SAFETY: the device mapping is as long as the memory.
        unsafe { self.device_base.add(STRIDE * lane.at()) }
    }

    /// Sets the word of a thread lane that has done `count` tasks. `Release`: readers of the word
    /// see the tasks' writes.
    pub fn set(&self, lane: Lane, count: u64) {
        self.word(lane).store(count as u32, Ordering::Release);
    }

    /// The number of tasks that a lane has done. `issued` is the number of issued tasks; the word
    /// is less than 2^31 behind it, or one ahead if a task is being issued.
    pub fn done(&self, lane: Lane, issued: u64) -> u64 {
        let behind = (issued as u32).wrapping_sub(self.get(lane)) as i32;
        issued.saturating_add_signed(-i64::from(behind))
    }

    fn get(&self, lane: Lane) -> u32 {
        self.word(lane).load(Ordering::Acquire)
    }

    /// Makes later work of the CUDA stream wait until the lane has done `count` tasks, less than
    /// 2^31 more than now.
    pub fn wait(&self, stream: &Stream, lane: Lane, count: u64) -> Result<()> {
        // SAFETY: the lane's word; closing the lanes drains their CUDA streams before the words are
        // dropped.
        unsafe { self.driver.wait_value(stream, self.device_word(lane), count as u32) }
    }

    /// Enqueues a write of `count` to the lane's word, after the work enqueued so far on its
    /// CUDA stream.
    pub fn write(&self, stream: &Stream, lane: Lane, count: u64) -> Result<()> {
        // SAFETY: the word of the CUDA stream's lane, which lives until that CUDA stream is drained.
        unsafe { self.driver.write_value(stream, self.device_word(lane), count as u32) }
    }
}

/// Parses the value of [`VARIABLE`]; true if words are allowed.
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
    fn the_environment_variable_turns_words_off() {
        let allowed = |value: &str| allowed(Some(OsStr::new(value)));
        assert_eq!((allowed("on"), allowed(""), allowed("off")), (Ok(true), Ok(true), Ok(false)));
        assert_eq!(super::allowed(None), Ok(true));
        assert!(allowed("no").unwrap_err().message().contains("HZ_CUDA_STREAM_MEMORY_OPS is `no`"));
    }
}
