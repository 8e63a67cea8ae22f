//! What is particular to a tensor's AdamW.
//!
//! The calling thread writes between steps, once AdamW of the tensor's unit is done; lanes read. Fields are
//! atomics for that, accessed relaxed: reaching a tick, and handing a task to a lane, order them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::base::{Error, Result, UnitIndex};
use crate::model::{Layout, TensorLayout};

/// How AdamW treats a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorOptions {
    /// Times the learning rate of every step; finite and at least 0.
    pub lr_scale: f64,
    /// Decoupled weight decay, finite and at least 0. By default that of the trainer's options for tensors of two
    /// or more dimensions, and none for the others.
    pub weight_decay: Option<f64>,
    /// Whether the tensor has no gradient: weight and moments stand still and the global norm does not count it.
    pub frozen: bool,
}

impl Default for TensorOptions {
    /// The trainer's own learning rate and decay.
    fn default() -> Self {
        TensorOptions { lr_scale: 1.0, weight_decay: None, frozen: false }
    }
}

impl TensorOptions {
    /// Refuses values that are no numbers to step with, by name.
    pub fn check(&self) -> Result<()> {
        let decay = self.weight_decay.unwrap_or(0.0);
        for (name, value) in [("lr_scale", self.lr_scale), ("weight_decay", decay)] {
            if !(value >= 0.0 && (value as f32).is_finite()) {
                return Err(Error::argument(format!("{name} is {value}; it must be finite and at least 0")));
            }
        }
        Ok(())
    }
}

/// The options of every tensor.
#[derive(Debug)]
pub struct Tuning {
    /// By unit, then by tensor as the layout has them.
    units: Vec<Vec<Tuned>>,
    /// The decay of tensors that decay, unless they have their own.
    weight_decay: f64,
}

#[derive(Debug)]
struct Tuned {
    lr_scale: AtomicU64,
    /// NaN for none of its own.
    weight_decay: AtomicU64,
    frozen: AtomicBool,
}

impl Tuning {
    /// Every tensor as the trainer's options say.
    pub fn new(layout: &Layout, weight_decay: f64) -> Tuning {
        let tuned = |_: &TensorLayout| {
            let tuned = Tuned { lr_scale: 0.into(), weight_decay: 0.into(), frozen: AtomicBool::new(false) };
            tuned.set(&TensorOptions::default());
            tuned
        };
        let units = layout.units.iter().map(|unit| unit.tensors.iter().map(tuned).collect()).collect();
        Tuning { units, weight_decay }
    }

    /// The options of tensor number `tensor` of a unit.
    pub fn get(&self, unit: UnitIndex, tensor: usize) -> TensorOptions {
        self.units[unit.at()][tensor].get()
    }

    /// Sets them. No lane is at AdamW of the unit.
    pub fn set(&self, unit: UnitIndex, tensor: usize, options: &TensorOptions) {
        self.units[unit.at()][tensor].set(options);
    }

    /// The weight decay of a tensor.
    pub fn weight_decay(&self, options: &TensorOptions, tensor: &TensorLayout) -> f64 {
        options.weight_decay.unwrap_or(if tensor.decays() { self.weight_decay } else { 0.0 })
    }

    /// The numbers of the tensors of a unit that are frozen.
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
