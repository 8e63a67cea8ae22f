//! The matmul of one tile, by the `gemm` crate (its f32 half).
//!
//! **Bits.** The terms of an element are summed in order of the inner dimension, [`DEPTH`] at a
//! time, independent of the thread. The crate fits its blocks to the machine's caches, but never
//! splits an inner dimension of up to 512, so cache sizes change no bit. The instruction set may:
//! the crate has kernels for each.
//!
//! **Memory.** The crate packs operands whose layout does not suit it, into a buffer of the size of
//! the L2 cache, allocated once per thread, and into allocator memory of at most the size of the
//! operands, freed at the end of each call.

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;

use crate::ops::Write;
use crate::ops::cpu::view::{Matrix, TileMut};

/// Terms summed per call of the library.
pub(in crate::ops) const DEPTH: usize = 256;

/// Sets or adds `factor · a · b` to `out`, on the calling thread.
///
/// # Panics
/// If the sizes do not match.
pub(in crate::ops) fn multiply(out: &mut TileMut<f32>, mut write: Write, factor: f32, a: Matrix, b: Matrix) {
    let (m, n, k) = (out.rows(), out.columns(), a.columns());
    assert!(a.rows() == m && b.rows() == k && b.columns() == n, "the operands of a matmul do not match");
    let (a_strides, b_strides, stride) = (a.strides(), b.strides(), out.stride());
    let gemm = get_gemm_fn();
    for first in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - first);
        // The crate requires outputs with contiguous columns, so all operands are passed transposed.
        //
        // SAFETY: `Matrix` and `TileMut` guarantee that every element within their sizes and strides may be
        // read and written, and these terms are among them; `out` is exclusive, so it overlaps
        // neither `a` nor `b`; when `write` is Set the crate does not read `out`. `get_gemm_fn`
        // returns a function that this processor supports.
        unsafe {
            gemm(
                n,
                m,
                depth,
                out.address(),
                stride as isize,
                1,
                write == Write::Add,
                b.address().add(first * b_strides.0),
                b_strides.0 as isize,
                b_strides.1 as isize,
                a.address().add(first * a_strides.1),
                a_strides.0 as isize,
                a_strides.1 as isize,
                1.0,
                factor,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        write = Write::Add;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i + seed).wrapping_mul(2_654_435_761) % 8191) as f32 / 4096.0 - 1.0).collect()
    }

    /// An element is one chain of fused multiply-adds in order of the inner dimension, restarted
    /// every [`DEPTH`] terms: the library did not split it further on this machine.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn sums_run_in_order_of_the_inner_dimension() {
        if !is_x86_feature_detected!("fma") {
            println!("skipped: the processor has no fused multiply-add");
            return;
        }
        for (m, n) in [(17, 33), (64, 64), (70, 130), (5, 257)] {
            for k in [3, 31, 64, DEPTH, 2 * DEPTH + 1] {
                let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
                let transposed: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
                let chain = |row: usize, column: usize| {
                    let terms: Vec<(f32, f32)> =
                        (0..k).map(|p| (a[row * k + p], transposed[column * k + p])).collect();
                    let chunk =
                        |terms: &[(f32, f32)]| terms.iter().fold(0f32, |sum, (a, b)| a.mul_add(*b, sum));
                    terms.chunks(DEPTH).map(chunk).reduce(|sum, chunk| sum + chunk).expect("some terms")
                };
                for b in [Matrix::new(&b, k, n, n), Matrix::new(&transposed, n, k, k).transposed()] {
                    let mut out = vec![f32::NAN; m * n];
                    let mut tile = TileMut::of(&mut out, m, n);
                    multiply(&mut tile, Write::Set, 1.0, Matrix::new(&a, m, k, k), b);
                    for (i, out) in out.into_iter().enumerate() {
                        assert_eq!(out, chain(i / n, i % n), "{m} × {k} × {n}, element {i}");
                    }
                }
            }
        }
    }
}
