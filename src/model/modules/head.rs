//! The head: final norm, logits, loss.
//!
//! Logits never exist whole: the head works through its rows in chunks, and a chunk's logits become their own gradient before the
//! next chunk's take their place.

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
    /// The loss and the gradients of all that it depends on. The stream becomes its own gradient.
    LossBackward,
    /// The log-probabilities of the targets.
    Logprobs,
    /// The gradients under a loss of which `Logprobs` is the gradient of each log-probability. The stream becomes its own gradient.
    Backward,
    /// The logits of one row, the only one of the stream.
    Logits,
}

impl HeadTask {
    /// All of them.
    pub const ALL: [HeadTask; 5] =
        [HeadTask::Loss, HeadTask::LossBackward, HeadTask::Logprobs, HeadTask::Backward, HeadTask::Logits];

    /// Returns true where it gives gradients.
    pub fn is_backward(self) -> bool {
        matches!(self, HeadTask::LossBackward | HeadTask::Backward)
    }
}

/// The head over `n` rows, with the logits of `chunk` rows at a time.
pub fn head(b: &mut Builder, config: &ModelConfig, task: HeadTask, n: usize, chunk: usize) {
    let Dims { c, v, .. } = config.dims;
    let (n, stride) = (if task == HeadTask::Logits { 1 } else { n }, config.dims.logits_stride());
    let chunk = chunk.clamp(1, n);
    let stream = b.input(External::ResidualStream, Element::Activation, n * c);
    let norm = Norm::forward(b, "model.norm.weight", stream, config.norm_eps, [n, c]);
    let lm = match config.tied {
        true => b.borrowed(v * c),
        false => b.parameters(&[("lm_head.weight", v)], Some(c)),
    };
    if task.is_backward() {
        b.zero_padding();
    }
    let rows = Rows::of(b, task, n);
    let mut logits = b.own(Element::Activation, chunk * stride);
    for first in (0..n).step_by(chunk) {
        let rows_here = chunk.min(n - first);
        let normed = b.slice(norm.out, Element::Activation, first * c, rows_here * c);
        let sizes = Linear { n: rows_here, k: c, m: v, out_stride: stride };
        let (weight, residual, bias) = (lm.weights, None, None);
        b.push(LinearForward { out: logits, x: normed, weight, residual, bias, sizes });
        let dlogits = rows.ask(b, task, logits, first, sizes);
        if let Some(dlogits) = dlogits {
            lm_backward(b, dlogits, normed, lm, sizes);
        }
        // The next chunk's take their place.
        logits = dlogits.unwrap_or(logits).next();
    }
    if task.is_backward() {
        let dnormed = b.whole(norm.out);
        norm.backward(b, dnormed, stream.next(), Write::Set);
    }
}

/// The gradient of the LM head, and that of the rows it read, which are read for the last time here: it takes their place.
fn lm_backward(b: &mut Builder, dlogits: Value, normed: Value, lm: Weights, sizes: Linear) {
    let (dweight, dweight_write) = b.contribution(lm.gradient);
    b.push(LinearBackwardWeight { dweight, dout: dlogits, x: normed, dweight_write, sizes });
    let (dx, dx_write, weight) = (normed.next(), Write::Set, lm.weights);
    b.push(LinearBackwardInput { dx, dout: dlogits, weight, dx_write, sizes });
}

/// The rows of a micro-batch that the head is given.
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
        let loss = has_loss.then(|| b.sum(External::Loss, Element::F64, 1));
        if let Some(out) = loss.filter(|_| b.write() == Write::Set) {
            b.push(Zero { out, bytes: 8 });
        }
        Rows { targets, weights, logprobs, loss }
    }

    /// Does with a chunk of logits what is asked; returns their gradient if that is part of it.
    fn ask(
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
            // All of them are arrays of four bytes.
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
