//! The inputs and results of a step.
//!
//! Fields are atomics because the calling thread and the lanes write and read them. All accesses
//! are relaxed: issuing a task to a lane, and reaching its tick, order them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use crate::base::{Result, UnitIndex};
use crate::engine::cancel::Phase;
use crate::engine::gather::Numbers;

/// One step's inputs and results.
#[derive(Debug, Default)]
pub struct StepState {
    lr: AtomicU64,
    step: AtomicU64,
    weight: AtomicU64,
    row: AtomicU32,
    updates: AtomicU32,
    loss: AtomicU64,
    norm: AtomicU64,
    factor: AtomicU32,
    commit: AtomicBool,
    /// Operations of AdamW that have begun to update their part, and those that are done.
    begun: AtomicU32,
    done: AtomicU32,
    refused: AtomicU32,
    /// Open while the list can be cancelled.
    pub phase: Arc<Phase>,
    /// The announced tokens of the next step. Written before the list is issued; then read by AdamW
    /// and the calling thread at the same time.
    pub next: RwLock<Numbers>,
}

/// Inputs, set by the calling thread before a list is issued.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs {
    /// Learning rate.
    pub lr: f64,
    /// The optimizer's step number, counted from 1.
    pub step: u64,
    /// Σ weights over the unmasked targets of the whole step.
    pub weight: f64,
    /// The row whose logits to compute.
    pub row: u32,
    /// Operations of AdamW.
    pub updates: u32,
}

/// The results of `ClipDecision`.
#[derive(Clone, Copy, Debug)]
pub struct ClipDecision {
    /// Σ weight · nll / Σ weight.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub norm: f64,
    /// The factor by which AdamW scales gradients.
    pub factor: f32,
    /// True if loss and norm are finite.
    pub commit: bool,
}

/// The value of `refused` while no unit was refused.
const NONE: u32 = u32::MAX;

impl StepState {
    /// A state for steps over a vocabulary of `vocabulary` tokens.
    pub fn new(vocabulary: usize) -> Result<Self> {
        Ok(StepState { next: RwLock::new(Numbers::of(vocabulary)?), ..StepState::default() })
    }

    /// Sets the inputs of a list, resets the results and opens the phase.
    pub fn open(&self, inputs: Inputs) {
        self.lr.store(inputs.lr.to_bits(), Relaxed);
        self.step.store(inputs.step, Relaxed);
        self.weight.store(inputs.weight.to_bits(), Relaxed);
        self.row.store(inputs.row, Relaxed);
        self.updates.store(inputs.updates, Relaxed);
        self.begun.store(0, Relaxed);
        self.done.store(0, Relaxed);
        self.commit.store(false, Relaxed);
        self.refused.store(NONE, Relaxed);
        self.phase.open();
    }

    /// The inputs passed to [`StepState::open`].
    pub fn inputs(&self) -> Inputs {
        Inputs {
            lr: f64::from_bits(self.lr.load(Relaxed)),
            step: self.step.load(Relaxed),
            weight: f64::from_bits(self.weight.load(Relaxed)),
            row: self.row.load(Relaxed),
            updates: self.updates.load(Relaxed),
        }
    }

    /// Stores the clip decision. Called by `ClipDecision`.
    pub fn decide(&self, clip_decision: ClipDecision) {
        self.loss.store(clip_decision.loss.to_bits(), Relaxed);
        self.norm.store(clip_decision.norm.to_bits(), Relaxed);
        self.factor.store(clip_decision.factor.to_bits(), Relaxed);
        self.commit.store(clip_decision.commit, Relaxed);
    }

    /// The clip decision, for AdamW and the calling thread.
    pub fn clip_decision(&self) -> ClipDecision {
        ClipDecision {
            loss: f64::from_bits(self.loss.load(Relaxed)),
            norm: f64::from_bits(self.norm.load(Relaxed)),
            factor: f32::from_bits(self.factor.load(Relaxed)),
            commit: self.commit.load(Relaxed),
        }
    }

    /// Runs an operation of AdamW that updates its part of the state.
    pub fn updating(&self, update: impl FnOnce()) {
        self.begun.fetch_add(1, Relaxed);
        update();
        self.done.fetch_add(1, Relaxed);
    }

    /// Returns true if the clip decision has committed the step.
    pub fn is_committed(&self) -> bool {
        self.commit.load(Relaxed)
    }

    /// Returns true if AdamW has updated all of the state, or none of it because the step was not
    /// committed. To be called when the lanes are idle.
    pub fn is_whole(&self) -> bool {
        let (begun, done) = (self.begun.load(Relaxed), self.done.load(Relaxed));
        done == self.updates.load(Relaxed) || (begun == 0 && !self.is_committed())
    }

    /// AdamW under backward: records a unit whose gradient is not finite. The first such unit is
    /// kept.
    pub fn refuse(&self, unit: UnitIndex) {
        let _ = self.refused.compare_exchange(NONE, unit.0, Relaxed, Relaxed);
    }

    /// AdamW under backward: the first refused unit, and true if any other unit was updated.
    pub fn refused(&self) -> Option<(UnitIndex, bool)> {
        let unit = self.refused.load(Relaxed);
        (unit != NONE).then(|| (UnitIndex(unit), self.begun.load(Relaxed) > 0))
    }
}
