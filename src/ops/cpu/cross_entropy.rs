//! Softmax cross-entropy over rows of logits.

use crate::ops::LossRows;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::vector::{exp_and_sum, maximum, scale, sum_of_exp};
use crate::ops::cpu::view::{Grid, read};

/// The target of a row that does not count.
const IGNORED: i32 = -100;

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
        if class == IGNORED {
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

pub(super) fn forward(
    cpu: &CpuKernels,
    loss: Grid<f64>,
    logits: &[f32],
    targets: Targets,
    n: usize,
    v: usize,
) {
    each_row(cpu, loss, n, &|row| {
        let class = targets.class(row, v)?;
        let logits = &logits[row * v..][..v];
        let largest = maximum(logits);
        let nll = log_sum_exp(largest, sum_of_exp(logits, largest)) - logits[class];
        Some(f64::from(targets.weights[row]) * f64::from(nll))
    });
}

pub(super) fn forward_backward(
    cpu: &CpuKernels,
    loss: Grid<f64>,
    logits: Grid<f32>,
    targets: Targets,
    n: usize,
    v: usize,
) {
    each_row(cpu, loss, n, &|row| {
        // SAFETY: `each_row` gives every row to one worker, once.
        let logits = unsafe { logits.rows_mut(row..row + 1) };
        let Some(class) = targets.class(row, v) else {
            logits.fill(0.0);
            return None;
        };
        let (largest, logit) = (maximum(logits), logits[class]);
        let sum = exp_and_sum(logits, largest);
        let factor = targets.weights[row] * targets.scale;
        scale(logits, factor / sum);
        logits[class] -= factor;
        Some(f64::from(targets.weights[row]) * f64::from(log_sum_exp(largest, sum) - logit))
    });
}

/// Adds what `term` gives for each row to the loss, in row order. Rows are tiles.
fn each_row(cpu: &CpuKernels, loss: Grid<f64>, n: usize, term: &(dyn Fn(usize) -> Option<f64> + Sync)) {
    let mut terms = cpu.scratch.wide_partials.lock();
    let terms = Grid::of(terms.take(n), n, 1);
    cpu.pool.run(n, &|_, row| {
        // SAFETY: each row has its own element and is one tile, which runs once.
        let place = unsafe { terms.rows_mut(row..row + 1) };
        place[0] = term(row).unwrap_or(0.0);
    });
    // SAFETY: the job is over; nobody else holds the terms or the loss.
    let (terms, loss) = unsafe { (terms.rows(0..n), loss.rows_mut(0..1)) };
    for term in terms {
        loss[0] += term;
    }
}
