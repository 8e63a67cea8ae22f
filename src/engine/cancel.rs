//! Cancelling a running call from another thread.
//!
//! A call has two [phases](Phase): its preparation, until a step state is free, and that of its
//! step state. [`Canceller::cancel`] abandons those that are open. An abandoned list is issued all
//! the same, so that the state of `sync` and `check` stays true, but its remaining operations do
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};

use crate::base::{Error, Status};

/// Neither running nor abandoned: the call has ended, or its result stands.
const CLOSED: u8 = 0;
/// The call runs and can be cancelled.
const OPEN: u8 = 1;
const ABANDONED: u8 = 2;

/// A part of a call that can be cancelled until it is closed.
#[derive(Debug, Default)]
pub struct Phase(AtomicU8);

impl Phase {
    /// Opens the phase.
    pub fn open(&self) {
        self.0.store(OPEN, Release);
    }

    /// Abandons the phase if it is open.
    pub fn abandon(&self) {
        let _ = self.0.compare_exchange(OPEN, ABANDONED, AcqRel, Acquire);
    }

    /// Closes the phase: abandoning has no effect from now on. Returns false if it was abandoned.
    pub fn close(&self) -> bool {
        self.0.compare_exchange(OPEN, CLOSED, AcqRel, Acquire) != Err(ABANDONED)
    }

    /// Returns true if the phase was abandoned.
    pub fn is_abandoned(&self) -> bool {
        self.0.load(Acquire) == ABANDONED
    }
}

/// Cancels the call that a trainer is running; made by [`Trainer::canceller`]. Any thread may use
/// it, also after the trainer was dropped.
///
/// [`Trainer::canceller`]: super::Trainer::canceller
#[derive(Clone, Debug)]
pub struct Canceller(Arc<[Arc<Phase>]>);

impl Canceller {
    /// Cancels whichever of these phases is open.
    pub(super) fn of(phases: impl IntoIterator<Item = Arc<Phase>>) -> Canceller {
        Canceller(phases.into_iter().collect())
    }

    /// Cancels the step, update, evaluation, logits or log-probabilities that the trainer is
    /// computing: that call returns `Cancelled` early. AdamW of the step before and operations that
    /// have begun run to their end (on CUDA also those that are enqueued), all others do nothing.
    /// Does not block.
    ///
    /// The call then has changed nothing: weights, moments and step number are as before, no
    /// micro-batch stays accumulated, and the next call has the bits that it would have without the
    /// cancelled one. A save that is running is not affected. Announced tokens are dropped, and
    /// gradients are unspecified until the next step.
    ///
    /// Without effect if no such call is running: a call that starts later is not cancelled. Too
    /// late, and without effect, once the call's clip decision is made or, with AdamW under
    /// backward, once AdamW of the first unit begins.
    pub fn cancel(&self) {
        self.0.iter().for_each(|phase| phase.abandon());
    }
}

/// The error of a cancelled call.
pub fn cancelled() -> Error {
    let message = "the call was cancelled: weights, moments and step number are unchanged, and no micro-batch \
                   is accumulated";
    Error::new(Status::Cancelled, message)
}
