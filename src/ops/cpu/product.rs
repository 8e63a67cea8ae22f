//! Matrix products of one tile: the door to the `gemm` library.

use gemm::Parallelism;

use crate::ops::Write;
use crate::ops::cpu::view::{Matrix, TileMut};

/// `out`, by `write`: `factor · a · b`, on the calling thread.
///
/// # Panics
/// If the sizes do not fit one another.
pub(super) fn multiply(out: &mut TileMut<f32>, write: Write, factor: f32, a: Matrix, b: Matrix) {
    let (m, n, k) = (out.rows(), out.columns(), a.columns());
    assert!(a.rows() == m && b.rows() == k && b.columns() == n, "the sizes of a product do not fit");
    let (a_strides, b_strides, stride) = (a.strides(), b.strides(), out.stride());
    // SAFETY: `Matrix` and `TileMut` hold that every element within their sizes and strides is theirs to read
    // and to write; `out` is exclusive, so it overlaps neither `a` nor `b`; when `write` is Set the library
    // does not read `out`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.address(),
            1,
            stride as isize,
            write == Write::Add,
            a.address(),
            a_strides.1 as isize,
            a_strides.0 as isize,
            b.address(),
            b_strides.1 as isize,
            b_strides.0 as isize,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
