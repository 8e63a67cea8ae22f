//! The pinned words in which lanes tell each other how far they are.
//!
//! Every lane has one, on a cache line of its own: the count of tasks it has done, round 2^32. A thread lane's is
//! written by its thread and waited for by streams; a stream lane's is written by its stream, behind each task, so
//! that it still tells how far the stream came when the device no longer answers.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::calls::Calls;
use crate::base::{Result, Status};
use crate::device::Lane;

/// Bytes from word to word.
const STRIDE: usize = 128;

/// One word per lane.
#[derive(Debug)]
pub struct Words<C: Calls> {
    memory: C::Pinned,
    base: NonNull<u8>,
}

// SAFETY: the base is the address of the memory beside it, and is used atomically only.
unsafe impl<C: Calls> Send for Words<C> {}
// SAFETY: as every access is atomic, threads may share it.
unsafe impl<C: Calls> Sync for Words<C> {}

impl<C: Calls> Words<C> {
    /// Takes the words and tries them on a stream: nothing where streams cannot wait for words.
    pub fn take(calls: &C, stream: &C::Stream) -> Result<Option<Words<C>>> {
        let memory = calls.take_pinned(STRIDE * Lane::COUNT)?;
        let words = Words { base: calls.pinned_base(&memory), memory };
        Lane::ALL.iter().for_each(|lane| words.set(*lane, 0));
        let (from, to) = (Lane::Host, Lane::Compute);
        words.set(from, 1);
        let tried = words.wait(calls, stream, from, 1).and_then(|()| words.write(calls, stream, to, 1));
        // Whatever was queued is done before the words may go.
        calls.synchronize_stream(stream)?;
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
        unsafe { AtomicU32::from_ptr(self.base.add(STRIDE * lane.at()).as_ptr().cast()) }
    }

    /// A thread lane has done so many tasks: all that it wrote before is to be seen by whoever waits.
    pub fn set(&self, lane: Lane, count: u64) {
        self.word(lane).store(count as u32, Ordering::Release);
    }

    /// How many tasks a lane of which `issued` are issued says it has done. The lane is less than 2^32 behind.
    pub fn done(&self, lane: Lane, issued: u64) -> u64 {
        issued.saturating_sub(u64::from((issued as u32).wrapping_sub(self.get(lane))))
    }

    fn get(&self, lane: Lane) -> u32 {
        self.word(lane).load(Ordering::Acquire)
    }

    /// Later work of the stream waits until the lane has done `count` tasks. Less than 2^31 are missing.
    pub fn wait(&self, calls: &C, stream: &C::Stream, lane: Lane, count: u64) -> Result<()> {
        // SAFETY: the lane's own word; the lanes close, and their streams with them, before the words go.
        unsafe { calls.wait_word(stream, &self.memory, STRIDE * lane.at(), count as u32) }
    }

    /// The stream says, behind what it has been given, that its lane has done `count` tasks.
    pub fn write(&self, calls: &C, stream: &C::Stream, lane: Lane, count: u64) -> Result<()> {
        // SAFETY: the word of the stream's lane, which lasts until the stream is drained.
        unsafe { calls.write_word(stream, &self.memory, STRIDE * lane.at(), count as u32) }
    }
}
