//! QK-norm: RMSNorm of each query and key head (Henry et al. 2020), as in Qwen3, on packed rows of queries,
//! keys and values.

use crate::base::DType;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::column_sum::{self, ROWS};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::dot;
use crate::ops::cpu::view::{read, write};
use crate::ops::cuda::{CudaKernels, PARTIAL_ROWS_MAX, address::*, both_heads, launch};
use crate::ops::rmsnorm::{forward_row, set_row, weighted_sum};
use crate::ops::{Heads, Write, op};

op! {
    /// `out =` `qkv` with its query and key heads normalised and its values copied.
    QkNormForward {
        /// `[N, (H+2G)·D]`.
        out: P = Set, Element::Activation, n * heads.qkv();
        /// `[N, H]` of the query heads, followed by `[N, G]` of the key heads.
        rstd: P = Set, Element::F32, n * heads.normed();
        /// `[N, (H+2G)·D]`.
        qkv: P = Read, Element::Activation, n * heads.qkv();
        /// `[D]`, shared by all query heads.
        q_weight: P = Read, Element::BF16, heads.d;
        /// `[D]`, shared by all key heads.
        k_weight: P = Read, Element::BF16, heads.d;
    }
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
        /// `[D]`.
        dq_weight: P = dweight_write.into(), Element::F32, heads.d;
        /// `[D]`.
        dk_weight: P = dweight_write.into(), Element::F32, heads.d;
        /// `[N, (H+2G)·D]`.
        qkv: P = Read, Element::Activation, n * heads.qkv();
        /// The `rstd` of forward.
        rstd: P = Read, Element::F32, n * heads.normed();
        /// `[D]`.
        q_weight: P = Read, Element::BF16, heads.d;
        /// `[D]`.
        k_weight: P = Read, Element::BF16, heads.d;
    }
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
            (self.n * self.heads.h).min(PARTIAL_ROWS_MAX) * self.heads.d * 4
        }
    }
}

impl QkNormForward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let QkNormForward { eps, n, heads, .. } = self;
        let (Heads { h, g, d }, stride) = (heads, heads.qkv());
        let qkv: &[f32] = read(&self.qkv, n * stride);
        let weights: [&[u16]; 2] = [read(&self.q_weight, d), read(&self.k_weight, d)];
        let (q_rstd, k_rstd) = write(&mut self.rstd, n * (h + g)).split_at_mut(n * h);
        let out = Rows::new(write(&mut self.out, n * stride), stride, ROWS);
        let tiles = (out, (Rows::new(q_rstd, h, ROWS), Rows::new(k_rstd, g, ROWS)));
        each(&cpu.pool, tiles, |_, ((rows, out), ((_, q_rstd), (_, k_rstd)))| {
            let qkv = &qkv[rows.start * stride..rows.end * stride];
            let rstd = q_rstd.chunks_exact_mut(h).zip(k_rstd.chunks_exact_mut(g));
            for ((out, x), (q_rstd, k_rstd)) in
                out.chunks_exact_mut(stride).zip(qkv.chunks_exact(stride)).zip(rstd)
            {
                let (x_heads, values) = x.split_at((h + g) * d);
                let (out_heads, out_values) = out.split_at_mut((h + g) * d);
                let heads = out_heads.chunks_exact_mut(d).zip(x_heads.chunks_exact(d));
                for (head, ((out, x), rstd)) in heads.zip(q_rstd.iter_mut().chain(k_rstd)).enumerate() {
                    *rstd = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
                    forward_row(out, x, weights[usize::from(head >= h)], *rstd);
                }
                out_values.copy_from_slice(values);
            }
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let QkNormForward { out, rstd, qkv, q_weight, k_weight, eps, n, heads } = self;
        cuda.copy_values(&out, &qkv, n, &heads);
        let both = both_heads(&out, &rstd, n, &heads).into_iter().zip(both_heads(&qkv, &rstd, n, &heads));
        for ((to, from), weight) in both.zip([q_weight, k_weight]) {
            let (weight, n, count, d) = (bf16s(&weight, heads.d), n as i64, to.heads as i64, heads.d as i64);
            let (to_stride, from_stride) = (to.stride, from.stride);
            launch!(cuda.hzk_qk_norm_forward(
                to.base, to.rstd, from.base, weight, eps, n, count, d, to_stride, from_stride,
            ));
        }
    }
}

impl QkNormBackward {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let QkNormBackward { dweight_write, n, heads, .. } = self;
        let (Heads { h, g, d }, stride) = (heads, heads.qkv());
        let qkv: &[f32] = read(&self.qkv, n * stride);
        let (q_rstd, k_rstd) = read::<f32>(&self.rstd, n * (h + g)).split_at(n * h);
        let weights: [&[u16]; 2] = [read(&self.q_weight, d), read(&self.k_weight, d)];
        let mut partials = cpu.scratch.partials.lock();
        // Each row: partial sums for the query weight, then for the key weight.
        let partials = partials.take(n.div_ceil(ROWS) * 2 * d);
        // A copy of a head's gradient, which is overwritten in place.
        cpu.scratch.reserve(d);
        let dqkv = Rows::new(write(&mut self.dqkv, n * stride), stride, ROWS);
        each(&cpu.pool, (dqkv, Rows::new(partials, 2 * d, 1)), |worker, ((rows, dqkv), (_, dweights))| {
            let mut scratch = cpu.scratch.worker(worker);
            let dout = scratch.take(d);
            dweights.fill(0.0);
            for (n, dqkv) in rows.zip(dqkv.chunks_exact_mut(stride)) {
                let x = qkv[n * stride..][..(h + g) * d].chunks_exact(d);
                let rstd = q_rstd[n * h..][..h].iter().chain(&k_rstd[n * g..][..g]);
                for (head, ((dx, x), &rstd)) in dqkv.chunks_exact_mut(d).zip(x).zip(rstd).enumerate() {
                    let which = usize::from(head >= h);
                    let (weight, dweight) = (weights[which], &mut dweights[which * d..][..d]);
                    dout.copy_from_slice(dx);
                    let mean = weighted_sum(dout, x, weight) * rstd / d as f32;
                    set_row(dx, dweight, dout, x, weight, rstd, mean);
                }
            }
        });
        for (which, dweight) in [&mut self.dq_weight, &mut self.dk_weight].into_iter().enumerate() {
            column_sum::fold(cpu, write(dweight, d), dweight_write, partials, 2 * d, which * d);
        }
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let QkNormBackward { dqkv, dq_weight, dk_weight, qkv, rstd, q_weight, k_weight, dweight_write, n, heads } =
            self;
        let both = both_heads(&dqkv, &rstd, n, &heads).into_iter().zip(both_heads(&qkv, &rstd, n, &heads));
        for ((gradient, from), (dweight, weight)) in both.zip([(dq_weight, q_weight), (dk_weight, k_weight)]) {
            cuda.start_accumulator(&dweight, heads.d, dweight_write);
            let (count, d, stride) = (gradient.heads as i64, heads.d as i64, gradient.stride);
            launch!(cuda.hzk_qk_norm_backward(
                gradient.base,
                f32s(&dweight, heads.d),
                cuda.scratch_of(&self),
                gradient.base,
                from.base,
                bf16s(&weight, heads.d),
                from.rstd,
                n as i64,
                count,
                d,
                stride,
                stride,
                stride,
            ));
        }
    }
}
