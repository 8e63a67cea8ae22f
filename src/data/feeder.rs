//! Prepares batches on a separate thread, so that steps do not wait for data.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};

use crate::base::{Error, Position, Result};
use crate::data::{Data, Loader, Micro};
use crate::host::start_thread;

/// The micro-batches of a step.
#[derive(Clone, Debug)]
pub struct StepData {
    /// Micro-batches in training order.
    pub micros: Vec<Micro>,
    /// Position of the data after this step.
    pub next: Position,
}

/// Most steps that are ready; one more may be in preparation.
const AHEAD: usize = 2;

/// A loader that prepares a few steps ahead.
#[derive(Debug)]
pub struct Feeder {
    /// `None` once dropped.
    ready: Option<Receiver<Result<StepData>>>,
    /// The next step, if [`Feeder::peek`] has received it.
    next: Option<Result<StepData>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Starts the thread; a step has `micros` micro-batches.
    pub fn start(data: Arc<Data>, mut loader: Loader, micros: usize) -> Result<Feeder> {
        let (sender, ready) = bounded(AHEAD);
        let work = move || {
            loop {
                let micros = (0..micros).map(|_| loader.next(&data)).collect::<Result<Vec<Micro>>>();
                let step = micros.map(|micros| StepData { micros, next: loader.position(&data) });
                let failed = step.is_err();
                // Sending fails once the feeder is dropped.
                if sender.send(step).is_err() || failed {
                    return;
                }
            }
        };
        Ok(Feeder { ready: Some(ready), next: None, thread: Some(start_thread("data", work)?) })
    }

    /// Returns the next step; blocks until it is ready.
    pub fn take(&mut self) -> Result<StepData> {
        let step = self.next.take().or_else(|| self.ready.as_ref().and_then(|ready| ready.recv().ok()));
        step.ok_or_else(|| Error::internal("the thread that prepares data has ended"))?
    }

    /// Returns the step that [`Feeder::take`] will return next, if it is ready.
    pub fn peek(&mut self) -> Option<&StepData> {
        if self.next.is_none() {
            self.next = self.ready.as_ref().and_then(|ready| ready.try_recv().ok());
        }
        self.next.as_ref()?.as_ref().ok()
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // Closing the queue ends the thread at its next step.
        self.ready = None;
        if let Some(thread) = self.thread.take() {
            // An error means that the thread panicked; `take` has reported that already.
            let _ = thread.join();
        }
    }
}
