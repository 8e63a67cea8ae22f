//! Softmax cross-entropy over rows of logits.

use crate::base::IGNORED_TARGET;
use crate::device::DeviceSpan;
use crate::ops::LossRows;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{exp_and_sum, maximum, scale, sum_of_exp};
use crate::ops::cpu::view::{Matrix, read};

/// What the rows should predict.
#[derive(Clone, Copy)]
pub(super) struct Classes<'a>(&'a [i32]);

impl<'a> Classes<'a> {
    pub fn new(targets: &'a DeviceSpan, n: usize) -> Self {
        Classes(read(targets, n))
    }

    /// The class of a row that counts.
    ///
    /// # Panics
    /// If the class is beyond V; whoever brings targets in checks them.
    fn of(&self, row: usize, v: usize) -> Option<usize> {
        let class = self.0[row];
        if class == IGNORED_TARGET {
            return None;
        }
        let class = usize::try_from(class).unwrap_or(usize::MAX);
        assert!(class < v, "target {} is beyond a vocabulary of {v}", self.0[row]);
        Some(class)
    }
}

/// What the rows should predict, and how much each counts.
pub(super) struct Targets<'a> {
    classes: Classes<'a>,
    weights: &'a [f32],
    scale: f32,
}

impl<'a> Targets<'a> {
    pub fn new(rows: &'a LossRows, n: usize) -> Self {
        let classes = Classes::new(&rows.targets, n);
        Targets { classes, weights: read(&rows.weights, n), scale: rows.scale }
    }
}

/// Log of Σ exp(x), given the largest x and Σ exp(x − largest).
fn log_sum_exp(largest: f32, sum: f32) -> f32 {
    largest + sum.ln()
}

/// The log-probability of a class under a row of logits.
fn logprob(logits: &[f32], class: usize) -> f32 {
    let largest = maximum(logits);
    logits[class] - log_sum_exp(largest, sum_of_exp(logits, largest))
}

/// The same, and the logits become `factor` · (softmax − onehot).
fn logprob_backward(logits: &mut [f32], class: usize, factor: f32) -> f32 {
    let (largest, logit) = (maximum(logits), logits[class]);
    let sum = exp_and_sum(logits, largest);
    scale(logits, factor / sum);
    logits[class] -= factor;
    logit - log_sum_exp(largest, sum)
}

pub(super) fn forward(cpu: &CpuKernels, loss: &mut f64, logits: Matrix, targets: Targets) {
    let v = logits.columns();
    let mut terms = cpu.scratch.wide_partials.lock();
    let terms = terms.take(logits.rows());
    each(&cpu.pool, Rows::new(terms, 1, 1), |_, (row, term)| {
        let row = row.start;
        term[0] = targets.classes.of(row, v).map_or(0.0, |class| {
            -f64::from(targets.weights[row]) * f64::from(logprob(logits.row(row), class))
        });
    });
    add_in_order(loss, terms);
}

pub(super) fn forward_backward(
    cpu: &CpuKernels,
    loss: &mut f64,
    logits: &mut [f32],
    targets: Targets,
    v: usize,
    stride: usize,
) {
    let mut terms = cpu.scratch.wide_partials.lock();
    let terms = terms.take(logits.len() / stride);
    let rows = (Rows::new(terms, 1, 1), Rows::new(logits, stride, 1));
    each(&cpu.pool, rows, |_, ((row, term), (_, logits))| {
        let (row, logits) = (row.start, &mut logits[..v]);
        let Some(class) = targets.classes.of(row, v) else {
            logits.fill(0.0);
            term[0] = 0.0;
            return;
        };
        let weight = targets.weights[row];
        let logprob = logprob_backward(logits, class, weight * targets.scale);
        term[0] = -f64::from(weight) * f64::from(logprob);
    });
    add_in_order(loss, terms);
}

pub(super) fn logprobs(cpu: &CpuKernels, out: &mut [f32], logits: Matrix, classes: Classes) {
    let v = logits.columns();
    each(&cpu.pool, Rows::new(out, 1, 1), |_, (row, out)| {
        let row = row.start;
        out[0] = classes.of(row, v).map_or(0.0, |class| logprob(logits.row(row), class));
    });
}

pub(super) fn backward(
    cpu: &CpuKernels,
    logits: &mut [f32],
    classes: Classes,
    dlogprobs: &[f32],
    v: usize,
    stride: usize,
) {
    each(&cpu.pool, Rows::new(logits, stride, 1), |_, (row, logits)| {
        let (row, logits) = (row.start, &mut logits[..v]);
        match classes.of(row, v) {
            Some(class) => {
                logprob_backward(logits, class, -dlogprobs[row]);
            }
            None => logits.fill(0.0),
        }
    });
}

/// Adds the terms of the rows to the loss, in row order.
fn add_in_order(loss: &mut f64, terms: &[f64]) {
    for term in terms {
        *loss += term;
    }
}
