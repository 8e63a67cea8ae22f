//! Batches prepared on a thread of their own, so that no step waits for data.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};

use crate::base::{Error, Position, Result};
use crate::data::{Data, Loader, Micro};

/// The micro-batches of a step.
#[derive(Clone, Debug)]
pub struct StepData {
    /// In the order they are taken.
    pub micros: Vec<Micro>,
    /// Where the step after it begins.
    pub next: Position,
}

/// Steps that are ready, beside the one in the making.
const AHEAD: usize = 2;

/// A loader that runs ahead of the steps, but not far.
#[derive(Debug)]
pub struct Feeder {
    /// `None` once closed.
    ready: Option<Receiver<Result<StepData>>>,
    /// The next step, if it was looked at.
    next: Option<Result<StepData>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Starts to prepare steps of so many micro-batches.
    pub fn start(data: Arc<Data>, mut loader: Loader, micros: usize) -> Result<Feeder> {
        let (give, ready) = bounded(AHEAD);
        let work = move || {
            loop {
                let micros = (0..micros).map(|_| loader.next(&data)).collect::<Result<Vec<Micro>>>();
                let step = micros.map(|micros| StepData { micros, next: loader.position(&data) });
                let failed = step.is_err();
                // Nobody takes steps any more once the feeder is dropped.
                if give.send(step).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("horizon-data".to_owned())
            .spawn(work)
            .map_err(|error| Error::io("cannot start the thread that prepares data", &error))?;
        Ok(Feeder { ready: Some(ready), next: None, thread: Some(thread) })
    }

    /// The next step; waits for it if it is not ready.
    pub fn take(&mut self) -> Result<StepData> {
        let step = self.next.take().or_else(|| self.ready.as_ref().and_then(|ready| ready.recv().ok()));
        step.ok_or_else(|| Error::internal("the thread that prepares data has ended"))?
    }

    /// The step that [`Feeder::take`] gives next, if it is ready.
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
            // It panicked if it does; whoever asked it for a step has been told.
            let _ = thread.join();
        }
    }
}
