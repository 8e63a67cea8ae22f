//! Softmax cross-entropy over rows of logits.
//!
//! Rows of `logits [n, V]` have a stride of `stride` elements; the elements between rows are neither read nor written. Rows
//! with target [`IGNORED_TARGET`] add nothing.

use crate::base::IGNORED_TARGET;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{exp_and_sum, maximum, scale, sum_of_exp};
use crate::ops::cpu::view::{Matrix, read, write};
use crate::ops::cuda::{CudaKernels, address::*, launch};
use crate::ops::op;

op! {
    /// The loss of a chunk of rows: `loss += Σ weight · nll`, in an order fixed by n.
    CrossEntropyForward {
        /// `[1]`.
        loss: P = Update, Element::F64, 1;
        /// `[n, V]`.
        logits: P = Read, Element::Activation, n * stride;
        /// `[n]`: the class to predict per row, or [`IGNORED_TARGET`].
        targets: P = Read, Element::I32, n;
        /// `[n]`: the weight of each row.
        weights: P = Read, Element::F32, n;
    }
    /// Rows.
    n: usize;
    /// V: classes.
    v: usize;
    /// Elements from one row of logits to the next.
    stride: usize;
    {
        fn scratch_bytes(&self) -> usize {
            self.n * 4
        }
    }
}

op! {
    /// The loss of [`CrossEntropyForward`] and its gradient, weight · scale · (softmax − onehot), which is zero
    /// for ignored rows.
    CrossEntropyForwardBackward {
        /// `[1]`.
        loss: P = Update, Element::F64, 1;
        /// `[n, V]`: the logits, replaced by their gradient.
        logits: P = Update, Element::Activation, n * stride;
        /// `[n]`: the class to predict per row, or [`IGNORED_TARGET`].
        targets: P = Read, Element::I32, n;
        /// `[n]`: the weight of each row.
        weights: P = Read, Element::F32, n;
    }
    /// 1 / Σ weights over the unmasked targets of the whole step. Set before each step.
    scale: f32;
    /// Rows.
    n: usize;
    /// V: classes.
    v: usize;
    /// Elements from one row of logits to the next.
    stride: usize;
    {
        fn scratch_bytes(&self) -> usize {
            self.n * 4
        }
    }
}

op! {
    /// `logprobs =` logit of the target − log-sum-exp of the row, zero for ignored rows.
    CrossEntropyLogprobs {
        /// `[n]`.
        logprobs: P = Set, Element::F32, n;
        /// `[n, V]`.
        logits: P = Read, Element::Activation, n * stride;
        /// `[n]`: the class of each row, or [`IGNORED_TARGET`].
        targets: P = Read, Element::I32, n;
    }
    /// Rows.
    n: usize;
    /// V: classes.
    v: usize;
    /// Elements from one row of logits to the next.
    stride: usize;
}

op! {
    /// The gradient of [`CrossEntropyLogprobs`]: dlogprob · (onehot − softmax), zero for ignored rows. With
    /// dlogprob = −weight · scale it equals [`CrossEntropyForwardBackward`] bit for bit.
    CrossEntropyBackward {
        /// `[n, V]`: the logits, replaced by their gradient.
        logits: P = Update, Element::Activation, n * stride;
        /// `[n]`: the class of each row, or [`IGNORED_TARGET`].
        targets: P = Read, Element::I32, n;
        /// `[n]`: the gradient of each row's log-probability.
        dlogprobs: P = Read, Element::F32, n;
    }
    /// Rows.
    n: usize;
    /// V: classes.
    v: usize;
    /// Elements from one row of logits to the next.
    stride: usize;
}

/// Returns the class of a target; `None` for ignored targets.
///
/// # Panics
/// If the class is not below V: the caller has to check targets.
fn class_of(target: i32, v: usize) -> Option<usize> {
    if target == IGNORED_TARGET {
        return None;
    }
    let class = usize::try_from(target).unwrap_or(usize::MAX);
    assert!(class < v, "target {target} is beyond a vocabulary of {v}");
    Some(class)
}

/// Log of Σ exp(x), given the largest x and Σ exp(x − largest).
fn log_sum_exp(largest: f32, sum: f32) -> f32 {
    largest + sum.ln()
}

/// Log-probability of a class, given a row of logits.
fn logprob(logits: &[f32], class: usize) -> f32 {
    let largest = maximum(logits);
    logits[class] - log_sum_exp(largest, sum_of_exp(logits, largest))
}

/// Returns [`logprob`] and replaces the logits by `factor` · (softmax − onehot).
fn logprob_backward(logits: &mut [f32], class: usize, factor: f32) -> f32 {
    let (largest, logit) = (maximum(logits), logits[class]);
    let sum = exp_and_sum(logits, largest);
    scale(logits, factor / sum);
    logits[class] -= factor;
    logit - log_sum_exp(largest, sum)
}

impl CrossEntropyForward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let CrossEntropyForward { n, v, stride, .. } = self;
        let logits = Matrix::new(read(&self.logits, n * stride), n, v, stride);
        let (targets, weights): (&[i32], &[f32]) = (read(&self.targets, n), read(&self.weights, n));
        let mut terms = cpu.scratch.wide_partials.lock();
        let terms = terms.take(n);
        each(&cpu.pool, Rows::new(terms, 1, 1), |_, (row, term)| {
            let row = row.start;
            term[0] = class_of(targets[row], v).map_or(0.0, |class| {
                -f64::from(weights[row]) * f64::from(logprob(logits.row(row), class))
            });
        });
        add_in_order(&mut write(&mut self.loss, 1)[0], terms);
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let CrossEntropyForward { loss, logits, targets, weights, n, v, stride } = self;
        let logprobs = cuda.scratch_of(&self).cast::<f32>();
        let (logits, targets, weights) = (bf16s(&logits, n * stride), i32s(&targets, n), f32s(&weights, n));
        let (n, v, stride) = (n as i64, v as i64, stride as i64);
        launch!(cuda.hzk_cross_entropy_forward(logprobs, logits, targets, n, v, stride));
        launch!(cuda.hzk_cross_entropy_loss(f64s(&loss, 1), logprobs, weights, n));
    }
}

impl CrossEntropyForwardBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let CrossEntropyForwardBackward { scale, n, v, stride, .. } = self;
        let (targets, weights): (&[i32], &[f32]) = (read(&self.targets, n), read(&self.weights, n));
        let mut terms = cpu.scratch.wide_partials.lock();
        let terms = terms.take(n);
        let logits = Rows::new(write(&mut self.logits, n * stride), stride, 1);
        each(&cpu.pool, (Rows::new(terms, 1, 1), logits), |_, ((row, term), (_, logits))| {
            let (row, logits) = (row.start, &mut logits[..v]);
            let Some(class) = class_of(targets[row], v) else {
                logits.fill(0.0);
                term[0] = 0.0;
                return;
            };
            let logprob = logprob_backward(logits, class, weights[row] * scale);
            term[0] = -f64::from(weights[row]) * f64::from(logprob);
        });
        add_in_order(&mut write(&mut self.loss, 1)[0], terms);
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let CrossEntropyForwardBackward { loss, logits, targets, weights, scale, n, v, stride } = self;
        let logprobs = cuda.scratch_of(&self).cast::<f32>();
        let (logits, targets, weights) = (bf16s(&logits, n * stride), i32s(&targets, n), f32s(&weights, n));
        let (n, v, stride) = (n as i64, v as i64, stride as i64);
        launch!(cuda.hzk_cross_entropy_forward_backward(logits, logprobs, targets, weights, scale, n, v, stride));
        launch!(cuda.hzk_cross_entropy_loss(f64s(&loss, 1), logprobs, weights, n));
    }
}

impl CrossEntropyLogprobs {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let CrossEntropyLogprobs { n, v, stride, .. } = self;
        let logits = Matrix::new(read(&self.logits, n * stride), n, v, stride);
        let targets: &[i32] = read(&self.targets, n);
        each(&cpu.pool, Rows::new(write(&mut self.logprobs, n), 1, 1), |_, (row, out)| {
            let row = row.start;
            out[0] = class_of(targets[row], v).map_or(0.0, |class| logprob(logits.row(row), class));
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let CrossEntropyLogprobs { logprobs, logits, targets, n, v, stride } = self;
        let (logprobs, logits, targets) = (f32s(&logprobs, n), bf16s(&logits, n * stride), i32s(&targets, n));
        launch!(cuda.hzk_cross_entropy_forward(logprobs, logits, targets, n as i64, v as i64, stride as i64));
    }
}

impl CrossEntropyBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let CrossEntropyBackward { n, v, stride, .. } = self;
        let (targets, dlogprobs): (&[i32], &[f32]) = (read(&self.targets, n), read(&self.dlogprobs, n));
        let logits = Rows::new(write(&mut self.logits, n * stride), stride, 1);
        each(&cpu.pool, logits, |_, (row, logits)| {
            let (row, logits) = (row.start, &mut logits[..v]);
            match class_of(targets[row], v) {
                Some(class) => {
                    logprob_backward(logits, class, -dlogprobs[row]);
                }
                None => logits.fill(0.0),
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let CrossEntropyBackward { logits, targets, dlogprobs, n, v, stride } = self;
        let (logits, targets, dlogprobs) = (bf16s(&logits, n * stride), i32s(&targets, n), f32s(&dlogprobs, n));
        launch!(cuda.hzk_cross_entropy_backward(logits, targets, dlogprobs, n as i64, v as i64, stride as i64));
    }
}

/// Adds the terms to the loss in row order.
fn add_in_order(loss: &mut f64, terms: &[f64]) {
    for term in terms {
        *loss += term;
    }
}
