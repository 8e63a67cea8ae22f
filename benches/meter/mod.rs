//! Timing of ops, and the ceilings that figures are compared with.

// Each bench uses a part of this module.
#![allow(dead_code)]

pub mod cpu;
pub mod cuda;

use std::sync::OnceLock;

use horizon::base::{DType, Dims, Shape, master};
use horizon::device::DeviceSpan;
use horizon::ops::{AttentionBackward, AttentionForward, Element, Flops, Heads, Kernels, Op, Operand};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use support::operands::Fill;

/// The minimum work of an op.
#[derive(Clone, Copy)]
pub enum Work {
    /// FLOPs, 2 per multiply-add; compared with the throughput of matmuls.
    Flops(f64),
    /// Bytes read and written; compared with the memory bandwidth.
    Bytes(f64),
}

impl Work {
    /// The work of an op by its contract; attention counts only pairs below the diagonal and within
    /// the window.
    pub fn of(op: &Op, activation_dtype: DType) -> Work {
        // FLOPs of one of attention's matmuls.
        let matmul = |shape: Shape, window: usize, heads: Heads| {
            let window = if window == 0 { shape.t } else { window.min(shape.t) };
            let seen = window * (window + 1) / 2 + (shape.t - window) * window;
            (2 * shape.b * seen * heads.attention_width()) as f64
        };
        match (*op, op.contract().flops()) {
            (Op::AttentionForward(AttentionForward { shape, window, heads, .. }), _) => {
                Work::Flops(2.0 * matmul(shape, window, heads))
            }
            (Op::AttentionBackward(AttentionBackward { shape, window, heads, .. }), _) => {
                Work::Flops(5.0 * matmul(shape, window, heads))
            }
            (_, Flops::Matmul([n, k, m])) => Work::Flops(2.0 * (n * k * m) as f64),
            _ => Work::Bytes(op.contract().traffic(activation_dtype) as f64),
        }
    }

    pub fn amount(self) -> f64 {
        match self {
            Work::Flops(amount) | Work::Bytes(amount) => amount,
        }
    }
}

/// Name, sizes of a model, shape of a micro-batch, and rows of a chunk of logits.
pub type Model = (&'static str, Dims, Shape, usize);

/// A device that times ops.
pub trait Meter {
    /// The kernels that run the ops.
    fn kernels(&self) -> &dyn Kernels;

    /// Names of the attention kernels for a head dimension.
    fn attentions(&self, head_dim: usize) -> Vec<&'static str>;

    /// Selects the attention kernel with this index in [`Meter::attentions`].
    fn select_attention(&mut self, at: usize);

    /// Allocates memory with these bytes, aligned to 256, that lives as long as the meter.
    fn memory(&self, bytes: &[u8]) -> DeviceSpan;

    /// Times an op and prints a line.
    fn time(&mut self, name: &str, op: &Op);
}

/// The bytes of an operand: normal numbers that repeat after about a million, scaled by 0.1 for
/// weights; zeros for f64, integers and bytes.
pub fn content(operand: &Operand<&Fill>, activation_dtype: DType) -> Vec<u8> {
    let count = operand.elements;
    match (operand.at, operand.element) {
        (Fill::Rows(rows), _) => rows.iter().flat_map(|row| row.to_ne_bytes()).collect(),
        (Fill::Any, Element::Activation) if activation_dtype == DType::Bf16 => normal(count, 1.0),
        (Fill::Any, Element::Fixed(DType::Bf16)) => normal(count, 0.1),
        (Fill::Any, Element::Activation | Element::Fixed(DType::F32)) => repeated(count, f32::to_ne_bytes),
        (Fill::Any, Element::F64 | Element::I32 | Element::Byte) => vec![0; operand.bytes(activation_dtype)],
    }
}

/// Normal numbers in bf16.
pub fn normal(count: usize, scale: f32) -> Vec<u8> {
    repeated(count, |number| master::round(number * scale).to_ne_bytes())
}

/// Repeated normal numbers. Not constants, because a GPU draws less power and runs faster on those.
fn repeated<const BYTES: usize>(count: usize, value: impl Fn(f32) -> [u8; BYTES]) -> Vec<u8> {
    const PERIOD: usize = (1 << 20) + 7;
    static NUMBERS: OnceLock<Vec<f32>> = OnceLock::new();
    let numbers = NUMBERS
        .get_or_init(|| StandardNormal.sample_iter(ChaCha8Rng::seed_from_u64(1)).take(PERIOD).collect());
    let once: Vec<u8> = numbers.iter().take(count).flat_map(|number| value(*number)).collect();
    let mut bytes = once.repeat(count.div_ceil(PERIOD));
    bytes.truncate(count * BYTES);
    bytes
}
