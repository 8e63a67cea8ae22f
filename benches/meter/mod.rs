//! How an op is timed, and what its figure is held against.

// Each bench uses its part of it.
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

/// What an op must do at least.
#[derive(Clone, Copy)]
pub enum Work {
    /// Floating-point operations, 2 a multiply-add: held against the rate of products.
    Flops(f64),
    /// Bytes read and written: held against the rate of memory.
    Bytes(f64),
}

impl Work {
    /// The work of an op by its contract; of attention only what lies below the diagonal and within the window.
    pub fn of(op: &Op, activation_dtype: DType) -> Work {
        // One of attention's matrix products.
        let product = |shape: Shape, window: usize, heads: Heads| {
            let window = if window == 0 { shape.t } else { window.min(shape.t) };
            let seen = window * (window + 1) / 2 + (shape.t - window) * window;
            (2 * shape.b * seen * heads.attention_width()) as f64
        };
        match (*op, op.contract().flops()) {
            (Op::AttentionForward(AttentionForward { shape, window, heads, .. }), _) => {
                Work::Flops(2.0 * product(shape, window, heads))
            }
            (Op::AttentionBackward(AttentionBackward { shape, window, heads, .. }), _) => {
                Work::Flops(5.0 * product(shape, window, heads))
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

/// A model's sizes, those of a micro-batch, and rows of logits at a time.
pub type Model = (&'static str, Dims, Shape, usize);

/// A device with its clock.
pub trait Meter {
    /// The kernels that ops are timed on.
    fn kernels(&self) -> &dyn Kernels;

    /// Names of the attention kernels for heads of a dimension.
    fn attentions(&self, head_dim: usize) -> Vec<&'static str>;

    /// Chooses the attention kernel of this place among them.
    fn select_attention(&mut self, at: usize);

    /// Memory of these bytes, aligned to 256, that lives as long as the meter.
    fn memory(&self, bytes: &[u8]) -> DeviceSpan;

    /// Times an op and prints a line.
    fn time(&mut self, name: &str, op: &Op);
}

/// The bytes of an operand: normal numbers that repeat after some million, a tenth of them for weights; zeros where sums of
/// rows or plain bytes are written.
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

/// Normal numbers as bf16.
pub fn normal(count: usize, scale: f32) -> Vec<u8> {
    repeated(count, |number| master::round(number * scale).to_ne_bytes())
}

/// Normal numbers: a GPU multiplies constants faster, since they take less power.
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
