//! AdamW options of single tensors.
//!
//! The calling thread writes them between steps, after AdamW of the tensor's unit; lanes read them.
//! Fields are therefore atomics, with relaxed accesses: reaching a tick, and issuing a task to a
//! lane, order them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::base::{Result, UnitIndex, check_f32};
use crate::model::{Layout, TensorLayout};

/// AdamW options of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorOptions {
    /// Multiplies the learning rate of every step; finite and at least 0.
    pub lr_scale: f64,
    /// Decoupled weight decay, finite and at least 0. Default: the trainer's for tensors with two
    /// or more dimensions, otherwise 0.
    pub weight_decay: Option<f64>,
    /// Freezes the tensor: weights and moments do not change, and the global norm excludes it.
    pub frozen: bool,
}

impl Default for TensorOptions {
    /// The trainer's learning rate and weight decay.
    fn default() -> Self {
        TensorOptions { lr_scale: 1.0, weight_decay: None, frozen: false }
    }
}

impl TensorOptions {
    /// Refuses values that are negative or not finite as f32, by name.
    pub fn check(&self) -> Result<()> {
        check_f32("lr_scale", self.lr_scale, 0.0)?;
        check_f32("weight_decay", self.weight_decay.unwrap_or(0.0), 0.0)
    }
}

/// The options of every tensor.
#[derive(Debug)]
pub struct Tuning {
    /// By unit, then by tensor in layout order.
    units: Vec<Vec<Tuned>>,
    /// The default weight decay of tensors that decay.
    weight_decay: f64,
}

#[derive(Debug)]
struct Tuned {
    lr_scale: AtomicU64,
    /// NaN for the default.
    weight_decay: AtomicU64,
    frozen: AtomicBool,
}

impl Tuning {
    /// Default options for every tensor.
    pub fn new(layout: &Layout, weight_decay: f64) -> Tuning {
        let tuned = |_: &TensorLayout| {
            let tuned = Tuned { lr_scale: 0.into(), weight_decay: 0.into(), frozen: AtomicBool::new(false) };
            tuned.set(&TensorOptions::default());
            tuned
        };
        let units = layout.units.iter().map(|unit| unit.tensors.iter().map(tuned).collect()).collect();
        Tuning { units, weight_decay }
    }

    /// The options of the `tensor`-th tensor of a unit.
    pub fn get(&self, unit: UnitIndex, tensor: usize) -> TensorOptions {
        self.units[unit.at()][tensor].get()
    }

    /// Sets the options of a tensor. AdamW of the unit must not be running.
    pub fn set(&self, unit: UnitIndex, tensor: usize, options: &TensorOptions) {
        self.units[unit.at()][tensor].set(options);
    }

    /// The weight decay of a tensor.
    pub fn weight_decay(&self, options: &TensorOptions, tensor: &TensorLayout) -> f64 {
        options.weight_decay.unwrap_or(if tensor.decays() { self.weight_decay } else { 0.0 })
    }

    /// The indices of a unit's frozen tensors.
    pub fn frozen(&self, unit: UnitIndex) -> impl Iterator<Item = usize> {
        let tuned = self.units[unit.at()].iter().enumerate();
        tuned.filter(|(_, tuned)| tuned.frozen.load(Relaxed)).map(|(tensor, _)| tensor)
    }
}

impl Tuned {
    fn get(&self) -> TensorOptions {
        let decay = f64::from_bits(self.weight_decay.load(Relaxed));
        TensorOptions {
            lr_scale: f64::from_bits(self.lr_scale.load(Relaxed)),
            weight_decay: (!decay.is_nan()).then_some(decay),
            frozen: self.frozen.load(Relaxed),
        }
    }

    fn set(&self, options: &TensorOptions) {
        self.lr_scale.store(options.lr_scale.to_bits(), Relaxed);
        self.weight_decay.store(options.weight_decay.unwrap_or(f64::NAN).to_bits(), Relaxed);
        self.frozen.store(options.frozen, Relaxed);
    }
}
