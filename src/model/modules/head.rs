//! The head: final norm, logits and loss.
//!
//! Logits never exist as a whole: the head processes its rows in chunks, and the gradient of a
//! chunk's logits replaces them before the next chunk reuses the memory.

use crate::base::Dims;
use crate::model::ModelConfig;
use crate::model::modules::Norm;
use crate::model::program::{Builder, External, Value, Weights};
use crate::ops::{
    CrossEntropyBackward, CrossEntropyForward, CrossEntropyForwardBackward, CrossEntropyLogprobs, Element,
    Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, Widen, Write, Zero,
};

/// A task of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadTask {
    /// The loss.
    Loss,
    /// The loss and all gradients. The residual stream is replaced by its gradient.
    LossBackward,
    /// The log-probabilities of the targets.
    Logprobs,
    /// The gradients for an external loss: `Logprobs` holds its gradient with respect to each
    /// log-probability. The residual stream is replaced by its gradient.
    Backward,
    /// The logits of one row, the only row of the residual stream.
    Logits,
}

impl HeadTask {
    /// All tasks.
    pub const ALL: [HeadTask; 5] =
        [HeadTask::Loss, HeadTask::LossBackward, HeadTask::Logprobs, HeadTask::Backward, HeadTask::Logits];

    /// Returns true if the task computes gradients.
    pub fn is_backward(self) -> bool {
        matches!(self, HeadTask::LossBackward | HeadTask::Backward)
    }
}

/// Emits the head for `n` rows, with logits of `chunk` rows at a time.
pub fn head(b: &mut Builder, config: &ModelConfig, task: HeadTask, n: usize, chunk: usize) {
    let Dims { c, v, .. } = config.dims;
    let (n, stride) = (if task == HeadTask::Logits { 1 } else { n }, config.dims.logits_stride());
    let chunk = chunk.clamp(1, n);
    let residual_stream = b.input(External::ResidualStream, Element::Activation, n * c);
    let norm = Norm::forward(b, config, "model.norm.weight", residual_stream, n, None);
    let lm = match config.tied {
        true => b.borrowed(v * c),
        false => b.parameters(&[("lm_head.weight", v)], Some(c)),
    };
    if task.is_backward() {
        b.zero_padding();
    }
    let (rows, scale) = (Rows::of(b, task, n), config.multipliers.logits);
    let mut logits = b.own(Element::Activation, chunk * stride);
    for first in (0..n).step_by(chunk) {
        let rows_here = chunk.min(n - first);
        let normed = b.slice(norm.out, Element::Activation, first * c, rows_here * c);
        let sizes = Linear { n: rows_here, k: c, m: v, out_stride: stride };
        let (weight, residual, bias) = (lm.weights, None, None);
        b.push(LinearForward { out: logits, x: normed, weight, residual, bias, scale, sizes });
        let dlogits = rows.run_task(b, task, logits, first, sizes);
        if let Some(dlogits) = dlogits {
            lm_backward(b, dlogits, normed, (lm, scale), sizes);
        }
        // The next chunk reuses the memory.
        logits = dlogits.unwrap_or(logits).next();
    }
    if task.is_backward() {
        let dnormed = b.whole(norm.out);
        norm.backward(b, dnormed, residual_stream.next(), Write::Set);
    }
}

/// Emits the gradients of the LM head's weight and of its input. The latter replaces the input,
/// which is read here for the last time.
fn lm_backward(b: &mut Builder, dlogits: Value, normed: Value, (lm, scale): (Weights, f32), sizes: Linear) {
    let (dweight, dweight_write) = b.contribution(lm.gradient);
    b.push(LinearBackwardWeight { dweight, dout: dlogits, x: normed, scale, dweight_write, sizes });
    let (dx, dx_write, weight) = (normed.next(), Write::Set, lm.weights);
    b.push(LinearBackwardInput { dx, dout: dlogits, weight, scale, dx_write, sizes });
}

/// The per-row inputs and outputs of a task of the head.
struct Rows {
    targets: Option<Value>,
    weights: Option<Value>,
    logprobs: Option<Value>,
    loss: Option<Value>,
}

impl Rows {
    fn of(b: &mut Builder, task: HeadTask, n: usize) -> Rows {
        let has_loss = matches!(task, HeadTask::Loss | HeadTask::LossBackward);
        let targets = (task != HeadTask::Logits).then(|| b.input(External::Targets, Element::I32, n));
        let weights = has_loss.then(|| b.input(External::TargetWeights, Element::F32, n));
        let logprobs = match task {
            HeadTask::Logprobs => Some(b.output(External::Logprobs, Element::F32, n)),
            HeadTask::Backward => Some(b.input(External::Logprobs, Element::F32, n)),
            _ => None,
        };
        let loss = has_loss.then(|| b.accumulator(External::Loss, Element::F64, 1));
        if let Some(out) = loss.filter(|_| b.write() == Write::Set) {
            b.push(Zero { out, bytes: 8 });
        }
        Rows { targets, weights, logprobs, loss }
    }

    /// Emits the task for a chunk of logits; returns their gradient if the task computes it.
    fn run_task(
        &self,
        b: &mut Builder,
        task: HeadTask,
        logits: Value,
        first: usize,
        sizes: Linear,
    ) -> Option<Value> {
        let Linear { n, m: v, out_stride: stride, .. } = sizes;
        let mut cut = |rows: Option<Value>| {
            let rows = rows.expect("the task has these rows");
            // All of these are arrays of four-byte elements.
            b.slice(rows, Element::F32, first, n)
        };
        match task {
            HeadTask::Loss => {
                let (targets, weights) = (cut(self.targets), cut(self.weights));
                let loss = b.contribution(self.loss?).0;
                b.push(CrossEntropyForward { loss, logits, targets, weights, n, v, stride });
            }
            HeadTask::LossBackward => {
                let (targets, weights) = (cut(self.targets), cut(self.weights));
                let (loss, scale) = (b.contribution(self.loss?).0, 0.0);
                b.push(CrossEntropyForwardBackward { loss, logits, targets, weights, scale, n, v, stride });
            }
            HeadTask::Logprobs => {
                let (targets, logprobs) = (cut(self.targets), cut(self.logprobs));
                b.push(CrossEntropyLogprobs { logprobs, logits, targets, n, v, stride });
            }
            HeadTask::Backward => {
                let (targets, dlogprobs) = (cut(self.targets), cut(self.logprobs));
                b.push(CrossEntropyBackward { logits, targets, dlogprobs, n, v, stride });
            }
            HeadTask::Logits => {
                let out = b.output(External::Logits, Element::F32, v);
                b.push(Widen { out, x: logits, n: v });
            }
        }
        task.is_backward().then(|| logits.next())
    }
}
