//! What differs from step to step, and what a step reports.
//!
//! Fields are atomics because lanes read what the calling thread wrote, and it reads what they wrote. All
//! accesses are relaxed: handing a task to a lane, and reaching its tick, order them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use crate::base::UnitIndex;
use crate::engine::gather::Numbers;

/// One step's inputs and results.
#[derive(Debug, Default)]
pub struct StepState {
    lr: AtomicU64,
    step: AtomicU64,
    weight: AtomicU64,
    row: AtomicU32,
    loss: AtomicU64,
    norm: AtomicU64,
    factor: AtomicU32,
    commit: AtomicBool,
    committed: AtomicU32,
    refused: AtomicU32,
    abandoned: AtomicBool,
    /// The tokens of the next step, where they were announced. Written before the list is issued; AdamW and the
    /// calling thread read them at the same time.
    pub next: RwLock<Numbers>,
}

/// What the calling thread sets before a list is issued.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs {
    /// Learning rate.
    pub lr: f64,
    /// The optimizer's step number, counted from 1.
    pub step: u64,
    /// Σ weights over the unmasked targets of the whole step.
    pub weight: f64,
    /// The row whose logits are asked for.
    pub row: u32,
}

/// What `DecideClip` found.
#[derive(Clone, Copy, Debug)]
pub struct ClipDecision {
    /// Σ weight · nll / Σ weight.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub norm: f64,
    /// What gradients are multiplied by.
    pub factor: f32,
    /// Whether everything was finite.
    pub commit: bool,
}

/// `refused` when no unit was.
const NONE: u32 = u32::MAX;

impl StepState {
    /// A frame for steps over a vocabulary of `vocabulary` tokens.
    pub fn new(vocabulary: usize) -> Self {
        StepState { next: RwLock::new(Numbers::of(vocabulary)), ..StepState::default() }
    }

    /// Opens the frame for a list.
    pub fn open(&self, inputs: Inputs) {
        self.lr.store(inputs.lr.to_bits(), Relaxed);
        self.step.store(inputs.step, Relaxed);
        self.weight.store(inputs.weight.to_bits(), Relaxed);
        self.row.store(inputs.row, Relaxed);
        self.committed.store(0, Relaxed);
        self.refused.store(NONE, Relaxed);
        self.abandoned.store(false, Relaxed);
    }

    /// What [`StepState::open`] was given.
    pub fn inputs(&self) -> Inputs {
        Inputs {
            lr: f64::from_bits(self.lr.load(Relaxed)),
            step: self.step.load(Relaxed),
            weight: f64::from_bits(self.weight.load(Relaxed)),
            row: self.row.load(Relaxed),
        }
    }

    /// Gives the list up: whatever of it has not run is passed over. Nothing is lost by that, since the next list uploads
    /// all that it reads, and AdamW comes last.
    pub fn abandon(&self) {
        self.abandoned.store(true, Relaxed);
    }

    /// Whether the list was given up.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed)
    }

    /// Written by `DecideClip`.
    pub fn decide(&self, clip_decision: ClipDecision) {
        self.loss.store(clip_decision.loss.to_bits(), Relaxed);
        self.norm.store(clip_decision.norm.to_bits(), Relaxed);
        self.factor.store(clip_decision.factor.to_bits(), Relaxed);
        self.commit.store(clip_decision.commit, Relaxed);
    }

    /// Read by AdamW and by the calling thread.
    pub fn clip_decision(&self) -> ClipDecision {
        ClipDecision {
            loss: f64::from_bits(self.loss.load(Relaxed)),
            norm: f64::from_bits(self.norm.load(Relaxed)),
            factor: f32::from_bits(self.factor.load(Relaxed)),
            commit: self.commit.load(Relaxed),
        }
    }

    /// AdamW under backward: a part of a unit was updated.
    pub fn count_committed(&self) {
        self.committed.fetch_add(1, Relaxed);
    }

    /// AdamW under backward: a unit's gradient was not finite; the first such unit is kept.
    pub fn refuse(&self, unit: UnitIndex) {
        let _ = self.refused.compare_exchange(NONE, unit.0, Relaxed, Relaxed);
    }

    /// Under backward: the first refused unit, and whether any other was updated.
    pub fn refused(&self) -> Option<(UnitIndex, bool)> {
        let unit = self.refused.load(Relaxed);
        (unit != NONE).then(|| (UnitIndex(unit), self.committed.load(Relaxed) > 0))
    }
}
