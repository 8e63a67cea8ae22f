//! How an op is timed, and what its figure is held against.

// Each bench uses its part of it.
#![allow(dead_code)]

pub mod cpu;
pub mod cuda;

use std::sync::OnceLock;

use horizon::base::{DType, Dims, Shape, master};
use horizon::device::DeviceSpan;
use horizon::ops::Kernels;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// What an op must do at least.
#[derive(Clone, Copy)]
pub enum Work {
    /// Floating-point operations, 2 a multiply-add: held against the rate of products.
    Flops(f64),
    /// Bytes read and written: held against the rate of memory.
    Bytes(f64),
}

impl Work {
    pub fn amount(self) -> f64 {
        match self {
            Work::Flops(amount) | Work::Bytes(amount) => amount,
        }
    }
}

/// A model's sizes, those of a micro-batch, and rows of logits at a time.
pub type Model = (&'static str, Dims, Shape, usize);

/// A device with its clock.
pub trait Meter {
    /// What is computed on it.
    fn kernels(&self) -> &dyn Kernels;

    /// Names of the attention kernels for heads of a dimension.
    fn attentions(&self, head_dim: usize) -> Vec<&'static str>;

    /// Chooses the attention kernel of this place among them.
    fn select_attention(&mut self, at: usize);

    /// Memory of these bytes, aligned to 256, that lives as long as the meter.
    fn memory(&self, bytes: &[u8]) -> DeviceSpan;

    /// Times an op and prints a line.
    fn time(&mut self, name: &str, work: Work, op: &dyn Fn(&dyn Kernels));
}

/// Inputs: normal numbers, or a tenth of them where they are weights, that repeat after some million.
pub struct Inputs<'a>(pub &'a dyn Meter);

/// Normal numbers: a GPU multiplies constants faster, since they take less power.
fn numbers() -> &'static [f32] {
    const PERIOD: usize = (1 << 20) + 7;
    static NUMBERS: OnceLock<Vec<f32>> = OnceLock::new();
    NUMBERS.get_or_init(|| StandardNormal.sample_iter(ChaCha8Rng::seed_from_u64(1)).take(PERIOD).collect())
}

impl Inputs<'_> {
    fn repeated<const BYTES: usize>(&self, count: usize, value: impl Fn(f32) -> [u8; BYTES]) -> DeviceSpan {
        let once: Vec<u8> = numbers().iter().take(count).flat_map(|number| value(*number)).collect();
        let mut bytes = once.repeat(count.div_ceil(numbers().len()));
        bytes.truncate(count * BYTES);
        self.0.memory(&bytes)
    }

    pub fn f32s(&self, count: usize) -> DeviceSpan {
        self.repeated(count, f32::to_ne_bytes)
    }

    pub fn bf16s(&self, count: usize) -> DeviceSpan {
        self.repeated(count, |number| master::round(number / 10.0).to_ne_bytes())
    }

    pub fn i32s(&self, count: usize, value: impl Fn(usize) -> usize) -> DeviceSpan {
        self.0.memory(&(0..count).flat_map(|i| (value(i) as i32).to_ne_bytes()).collect::<Vec<u8>>())
    }

    pub fn zeros(&self, bytes: usize) -> DeviceSpan {
        self.0.memory(&vec![0; bytes])
    }

    /// Of the device's storage type.
    pub fn activations(&self, count: usize) -> DeviceSpan {
        match self.0.kernels().storage() {
            DType::F32 => self.f32s(count),
            DType::Bf16 => self.repeated(count, |number| master::round(number).to_ne_bytes()),
        }
    }
}
