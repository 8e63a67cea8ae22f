//! RMSNorm of query and key heads, one by one (Henry et al. 2020), on packed rows of queries, keys and values.

use crate::base::Dims;
use crate::ops::Write;
use crate::ops::cpu::CpuKernels;
use crate::ops::cpu::column_sum::{self, ROWS};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::rmsnorm::{forward_row, set_row, weighted_sum};
use crate::ops::cpu::vector::dot;

pub(super) fn forward(
    cpu: &CpuKernels,
    out: &mut [f32],
    (q_rstd, k_rstd): (&mut [f32], &mut [f32]),
    qkv: &[f32],
    weights: [&[u16]; 2],
    eps: f32,
    dims: &Dims,
) {
    let Dims { h, g, d, .. } = *dims;
    let stride = dims.qkv();
    let tiles = (Rows::new(out, stride, ROWS), (Rows::new(q_rstd, h, ROWS), Rows::new(k_rstd, g, ROWS)));
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

/// What backward reads.
pub(super) struct Saved<'a> {
    pub qkv: &'a [f32],
    /// Of query heads and of key heads.
    pub rstd: (&'a [f32], &'a [f32]),
    pub weights: [&'a [u16]; 2],
}

pub(super) fn backward(
    cpu: &CpuKernels,
    dqkv: &mut [f32],
    dweights: [&mut [f32]; 2],
    write: Write,
    saved: Saved,
    dims: &Dims,
) {
    let Dims { h, g, d, .. } = *dims;
    let stride = dims.qkv();
    let mut partials = cpu.scratch.partials.lock();
    // A row of partial sums: those of the queries' weight, then those of the keys'.
    let partials = partials.take((dqkv.len() / stride).div_ceil(ROWS) * 2 * d);
    // A head's gradient is copied here first, because its place is overwritten.
    cpu.scratch.reserve(d);
    let cut = (Rows::new(dqkv, stride, ROWS), Rows::new(partials, 2 * d, 1));
    each(&cpu.pool, cut, |worker, ((rows, dqkv), (_, dweights))| {
        let mut scratch = cpu.scratch.worker(worker);
        let dout = scratch.take(d);
        dweights.fill(0.0);
        for (n, dqkv) in rows.zip(dqkv.chunks_exact_mut(stride)) {
            let x = saved.qkv[n * stride..][..(h + g) * d].chunks_exact(d);
            let rstd = saved.rstd.0[n * h..][..h].iter().chain(&saved.rstd.1[n * g..][..g]);
            for (head, ((dx, x), &rstd)) in dqkv.chunks_exact_mut(d).zip(x).zip(rstd).enumerate() {
                let which = usize::from(head >= h);
                let (weight, dweight) = (saved.weights[which], &mut dweights[which * d..][..d]);
                dout.copy_from_slice(dx);
                let mean = weighted_sum(dout, x, weight) * rstd / d as f32;
                set_row(dx, dweight, dout, x, weight, rstd, mean);
            }
        }
    });
    for (which, dweight) in dweights.into_iter().enumerate() {
        column_sum::fold(cpu, dweight, write, partials, 2 * d, which * d);
    }
}
