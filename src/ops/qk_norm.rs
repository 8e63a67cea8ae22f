//! QK-norm: RMSNorm of queries and keys on packed rows of queries, keys and values; of each head (Henry et al.
//! 2020; Qwen3), or of all query heads of a row and all key heads of a row (OLMo 2).

use std::ptr;

use crate::base::DType;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::column_sum::{self, ROWS};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::dot;
use crate::ops::cpu::view::{read, write};
use crate::ops::cuda::{CudaKernels, PARTIAL_ROWS_MAX, address::*, both_heads, launch};
use crate::ops::rmsnorm::{Gain, forward_row, set_row, weighted_sum};
use crate::ops::{Heads, Write, op};

/// The columns that are normalised together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormSpan {
    /// Those of one head, with a weight that all query heads, or all key heads, share.
    Head,
    /// Those of all query heads, and those of all key heads.
    AllHeads,
}

impl NormSpan {
    /// Spans of a row and columns of a span, of the queries and of the keys.
    pub fn counts(self, heads: &Heads) -> [(usize, usize); 2] {
        [heads.h, heads.g].map(|count| match self {
            NormSpan::Head => (count, heads.d),
            NormSpan::AllHeads => (1, count * heads.d),
        })
    }

    /// Spans of a row, of queries and keys.
    pub fn spans(self, heads: &Heads) -> usize {
        self.counts(heads).iter().map(|(spans, _)| spans).sum()
    }

    /// Lengths of the weights of queries and keys.
    pub fn widths(self, heads: &Heads) -> [usize; 2] {
        self.counts(heads).map(|(_, width)| width)
    }
}

op! {
    /// `out =` `qkv` with its query and key heads normalised, as by `RmsnormForward`, and its values copied.
    QkNormForward {
        /// `[N, (H+2G)·D]`.
        out: P = Set, Element::Activation, n * heads.qkv();
        /// One per row and span: those of the queries of all rows, followed by those of the keys.
        rstd: P = Set, Element::F32, n * span.spans(&heads);
        /// `[N, (H+2G)·D]`.
        qkv: P = Read, Element::Activation, n * heads.qkv();
        /// `[D]` or `[H·D]`.
        q_weight: P = Read, Element::BF16, span.widths(&heads)[0];
        /// `[D]` or `[G·D]`.
        k_weight: P = Read, Element::BF16, span.widths(&heads)[1];
    }
    /// The columns that are normalised together.
    span: NormSpan;
    /// Added to the weights, as in `RmsnormForward`.
    offset: f32;
    /// Added to the mean squares.
    eps: f32;
    /// N: rows.
    n: usize;
    /// The heads of a row.
    heads: Heads;
}

op! {
    /// The gradient of [`QkNormForward`].
    QkNormBackward {
        /// `[N, (H+2G)·D]`: the gradient of the output, replaced by that of `qkv`.
        dqkv: P = Update, Element::Activation, n * heads.qkv();
        /// As `q_weight`.
        dq_weight: P = dweight_write.into(), Element::F32, span.widths(&heads)[0];
        /// As `k_weight`.
        dk_weight: P = dweight_write.into(), Element::F32, span.widths(&heads)[1];
        /// `[N, (H+2G)·D]`.
        qkv: P = Read, Element::Activation, n * heads.qkv();
        /// The `rstd` of forward.
        rstd: P = Read, Element::F32, n * span.spans(&heads);
        /// `[D]` or `[H·D]`.
        q_weight: P = Read, Element::BF16, span.widths(&heads)[0];
        /// `[D]` or `[G·D]`.
        k_weight: P = Read, Element::BF16, span.widths(&heads)[1];
    }
    /// As in forward.
    span: NormSpan;
    /// As in forward.
    offset: f32;
    /// `=` or `+=` for the weights' gradients.
    dweight_write: Write;
    /// N: rows.
    n: usize;
    /// The heads of a row.
    heads: Heads;
    {
        /// Values are not touched.
        fn traffic(&self, activation_dtype: DType) -> usize {
            3 * self.n * self.heads.normed() * self.heads.d * activation_dtype.bytes()
        }

        /// An upper bound: the launcher's blocks process several heads each.
        fn scratch_bytes(&self) -> usize {
            let [(spans, width), _] = self.span.counts(&self.heads);
            (self.n * spans).min(PARTIAL_ROWS_MAX) * width * 4
        }
    }
}

impl QkNormForward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let QkNormForward { span, offset, eps, n, heads, .. } = self;
        let (counts, stride) = (span.counts(&heads), heads.qkv());
        let [(q_spans, q_width), (k_spans, k_width)] = counts;
        let qkv: &[f32] = read(&self.qkv, n * stride);
        let gains = [(&self.q_weight, q_width), (&self.k_weight, k_width)]
            .map(|(weight, width)| Gain { weight: read(weight, width), offset });
        let (q_rstd, k_rstd) = write(&mut self.rstd, n * (q_spans + k_spans)).split_at_mut(n * q_spans);
        let out = Rows::new(write(&mut self.out, n * stride), stride, ROWS);
        let tiles = (out, (Rows::new(q_rstd, q_spans, ROWS), Rows::new(k_rstd, k_spans, ROWS)));
        each(&cpu.pool, tiles, |_, ((rows, out), ((_, q_rstd), (_, k_rstd)))| {
            let qkv = &qkv[rows.start * stride..rows.end * stride];
            let rstd = q_rstd.chunks_exact_mut(q_spans).zip(k_rstd.chunks_exact_mut(k_spans));
            for ((out, x), (q_rstd, k_rstd)) in
                out.chunks_exact_mut(stride).zip(qkv.chunks_exact(stride)).zip(rstd)
            {
                let (q, rest) = out.split_at_mut(q_spans * q_width);
                let (k, values) = rest.split_at_mut(k_spans * k_width);
                let (x_q, x_rest) = x.split_at(q.len());
                let (x_k, x_values) = x_rest.split_at(k.len());
                let both = [(q, x_q, q_rstd, q_width), (k, x_k, k_rstd, k_width)];
                for ((out, x, rstd, width), gain) in both.into_iter().zip(gains) {
                    let spans = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
                    for ((out, x), rstd) in spans.zip(rstd) {
                        *rstd = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
                        forward_row(out, x, gain, *rstd);
                    }
                }
                values.copy_from_slice(x_values);
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let QkNormForward { out, rstd, qkv, q_weight, k_weight, span, offset, eps, n, heads } = self;
        cuda.copy_values(&out, &qkv, n, &heads);
        let both = both_heads(&out, &rstd, span, n, &heads).into_iter().zip(both_heads(&qkv, &rstd, span, n, &heads));
        for ((to, from), weight) in both.zip([q_weight, k_weight]) {
            let (weight, n) = (bf16s(&weight, to.width), n as i64);
            let (count, width, to_stride, from_stride) = (to.spans as i64, to.width as i64, to.stride, from.stride);
            match span {
                NormSpan::Head => launch!(cuda.hzk_qk_norm_forward(
                    to.base, to.rstd, from.base, weight, offset, eps, n, count, width, to_stride, from_stride,
                )),
                NormSpan::AllHeads => launch!(cuda.hzk_rmsnorm_forward(
                    to.base, to.rstd, from.base, weight, ptr::null(), offset, eps, n, width, to_stride, from_stride,
                )),
            }
        }
    }
}

impl QkNormBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let QkNormBackward { span, offset, dweight_write, n, heads, .. } = self;
        let (counts, stride) = (span.counts(&heads), heads.qkv());
        let [(q_spans, q_width), (k_spans, k_width)] = counts;
        let qkv: &[f32] = read(&self.qkv, n * stride);
        let (q_rstd, k_rstd) = read::<f32>(&self.rstd, n * (q_spans + k_spans)).split_at(n * q_spans);
        let gains = [(&self.q_weight, q_width), (&self.k_weight, k_width)]
            .map(|(weight, width)| Gain { weight: read(weight, width), offset });
        let mut partials = cpu.scratch.partials.lock();
        // Each row: partial sums for the query weight, then for the key weight.
        let columns = q_width + k_width;
        let partials = partials.take(n.div_ceil(ROWS) * columns);
        // A copy of a span's gradient, which is overwritten in place.
        cpu.scratch.reserve(q_width);
        let dqkv = Rows::new(write(&mut self.dqkv, n * stride), stride, ROWS);
        each(&cpu.pool, (dqkv, Rows::new(partials, columns, 1)), |worker, ((rows, dqkv), (_, dweights))| {
            let mut scratch = cpu.scratch.worker(worker);
            let memory = scratch.take(q_width);
            dweights.fill(0.0);
            let (dq_weight, dk_weight) = dweights.split_at_mut(q_width);
            for (n, dqkv) in rows.zip(dqkv.chunks_exact_mut(stride)) {
                let (dq, rest) = dqkv.split_at_mut(q_spans * q_width);
                let dk = &mut rest[..k_spans * k_width];
                let x = &qkv[n * stride..][..stride];
                let (x_q, x_k) = x.split_at(dq.len());
                let both = [
                    (dq, x_q, &q_rstd[n * q_spans..][..q_spans], &mut *dq_weight),
                    (dk, x_k, &k_rstd[n * k_spans..][..k_spans], &mut *dk_weight),
                ];
                for ((dx, x, rstd, dweight), gain) in both.into_iter().zip(gains) {
                    let width = dweight.len();
                    let dout = &mut memory[..width];
                    for ((dx, x), &rstd) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(rstd) {
                        dout.copy_from_slice(dx);
                        let mean = weighted_sum(dout, x, gain) * rstd / width as f32;
                        set_row(dx, dweight, dout, x, gain, rstd, mean);
                    }
                }
            }
        });
        let gradients = [(&mut self.dq_weight, q_width, 0), (&mut self.dk_weight, k_width, q_width)];
        for (dweight, width, first) in gradients {
            column_sum::fold(cpu, write(dweight, width), dweight_write, partials, columns, first);
        }
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let QkNormBackward {
            dqkv, dq_weight, dk_weight, qkv, rstd, q_weight, k_weight, span, offset, dweight_write, n, heads,
        } = self;
        let both = both_heads(&dqkv, &rstd, span, n, &heads).into_iter().zip(both_heads(&qkv, &rstd, span, n, &heads));
        for ((to, from), (dweight, weight)) in both.zip([(dq_weight, q_weight), (dk_weight, k_weight)]) {
            cuda.start_accumulator(&dweight, to.width, dweight_write);
            let (dweight, weight, scratch) = (f32s(&dweight, to.width), bf16s(&weight, to.width), cuda.scratch_of(&self));
            let (n, count, width, stride) = (n as i64, to.spans as i64, to.width as i64, to.stride);
            match span {
                NormSpan::Head => launch!(cuda.hzk_qk_norm_backward(
                    to.base, dweight, scratch, to.base, from.base, weight, from.rstd, offset, n, count, width, stride,
                    stride, stride,
                )),
                NormSpan::AllHeads => launch!(cuda.hzk_rmsnorm_backward(
                    to.base, dweight, scratch, to.base, from.base, weight, from.rstd, offset, 0, n, width, stride,
                    stride, stride,
                )),
            }
        }
    }
}
