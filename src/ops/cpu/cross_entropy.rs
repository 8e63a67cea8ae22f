//! Softmax cross-entropy over rows of logits.

use crate::base::IGNORED_TARGET;
use crate::ops::LossRows;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{exp_and_sum, maximum, scale, sum_of_exp};
use crate::ops::cpu::view::{Matrix, read};

/// What the rows should predict.
pub(super) struct Targets<'a> {
    classes: &'a [i32],
    weights: &'a [f32],
    scale: f32,
}

impl<'a> Targets<'a> {
    pub fn new(rows: &'a LossRows, n: usize) -> Self {
        Targets { classes: read(&rows.targets, n), weights: read(&rows.weights, n), scale: rows.scale }
    }

    /// The class of a row that counts.
    ///
    /// # Panics
    /// If the class is beyond V; whoever brings targets in checks them.
    fn class(&self, row: usize, v: usize) -> Option<usize> {
        let class = self.classes[row];
        if class == IGNORED_TARGET {
            return None;
        }
        let class = usize::try_from(class).unwrap_or(usize::MAX);
        assert!(class < v, "target {} is beyond a vocabulary of {v}", self.classes[row]);
        Some(class)
    }
}

/// Log of Σ exp(x), given the largest x and Σ exp(x − largest).
fn log_sum_exp(largest: f32, sum: f32) -> f32 {
    largest + sum.ln()
}

pub(super) fn forward(cpu: &CpuKernels, loss: &mut f64, logits: Matrix, targets: Targets) {
    let v = logits.columns();
    let mut terms = cpu.scratch.wide_partials.lock();
    let terms = terms.take(logits.rows());
    each(&cpu.pool, Rows::new(terms, 1, 1), |_, (row, term)| {
        let row = row.start;
        term[0] = targets.class(row, v).map_or(0.0, |class| {
            let logits = logits.row(row);
            let largest = maximum(logits);
            let nll = log_sum_exp(largest, sum_of_exp(logits, largest)) - logits[class];
            f64::from(targets.weights[row]) * f64::from(nll)
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
        let Some(class) = targets.class(row, v) else {
            logits.fill(0.0);
            term[0] = 0.0;
            return;
        };
        let (largest, logit) = (maximum(logits), logits[class]);
        let sum = exp_and_sum(logits, largest);
        let factor = targets.weights[row] * targets.scale;
        scale(logits, factor / sum);
        logits[class] -= factor;
        term[0] = f64::from(targets.weights[row]) * f64::from(log_sum_exp(largest, sum) - logit);
    });
    add_in_order(loss, terms);
}

/// Adds the terms of the rows to the loss, in row order.
fn add_in_order(loss: &mut f64, terms: &[f64]) {
    for term in terms {
        *loss += term;
    }
}
