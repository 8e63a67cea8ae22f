//! Matrix products of one tile, on one thread: `out = factor · a · b` or `out += factor · a · b`.
//!
//! The right operand is packed into *panels* of [`PANEL`] columns, depth-major, so that the innermost loop reads
//! it in order; bf16 weights are widened on the way. The left operand is read where it stands, in either
//! direction. A kernel keeps a few rows of a panel's width in registers and walks the depth once (Goto & van
//! de Geijn 2008).
//!
//! Every element of a product is one chain of fused multiply-adds in the order of the depth, whatever the
//! instruction set and wherever the element lies in its tile. So bits depend on how callers cut the depth, and
//! on nothing else; a plain library call would make them depend on cache sizes.

use std::ops::Range;

use crate::base::master;
use crate::ops::Write;
use crate::ops::cpu::vector::vectorised;
use crate::ops::cpu::view::{Matrix, TileMut};

/// Columns of a panel: two AVX-512 registers, four AVX2 ones.
pub(super) const PANEL: usize = 32;
/// Rows that a kernel works on at most: 12 · 2 sums, 2 terms and a factor are 27 of 32 AVX-512 registers.
const ROWS: usize = 12;

/// A right operand in panels.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    elements: &'a [f32],
    depth: usize,
    columns: usize,
}

/// Elements that the panels of a right operand take.
pub(super) fn panel_elements(depth: usize, columns: usize) -> usize {
    depth * columns.next_multiple_of(PANEL)
}

/// Numbers a right operand may be stored in.
pub(super) trait Source: Copy {
    /// Packs rows of the depth: `rows` has `columns` numbers every `stride`.
    fn pack_rows(panel: &mut [f32], rows: &[Self], stride: usize, columns: usize);
    /// Packs columns that stand as rows: `columns` has a run of the depth every `stride`.
    fn pack_columns(panel: &mut [f32], columns: &[Self], stride: usize, depth: usize);
}

impl<'a> Panels<'a> {
    /// A right operand whose row of the depth `p` is `source[p · stride ..]`, from `columns.start` on.
    pub fn of_rows<T: Source>(
        memory: &'a mut [f32],
        source: &[T],
        stride: usize,
        depth: usize,
        columns: Range<usize>,
    ) -> Self {
        let memory = &mut memory[..panel_elements(depth, columns.len())];
        for (panel, memory) in memory.chunks_exact_mut(depth * PANEL).enumerate() {
            let first = columns.start + panel * PANEL;
            T::pack_rows(memory, &source[first..], stride, PANEL.min(columns.end - first));
        }
        Panels { elements: memory, depth, columns: columns.len() }
    }

    /// A right operand whose column `j` is `source[j · stride + depth.start ..]`, `columns` of them.
    pub fn of_columns<T: Source>(
        memory: &'a mut [f32],
        source: &[T],
        stride: usize,
        depth: Range<usize>,
        columns: usize,
    ) -> Self {
        let memory = &mut memory[..panel_elements(depth.len(), columns)];
        for (panel, memory) in memory.chunks_exact_mut(depth.len() * PANEL).enumerate() {
            let first = panel * PANEL;
            let last = (first + PANEL).min(columns) - 1;
            let source = &source[first * stride + depth.start..last * stride + depth.end];
            T::pack_columns(memory, source, stride, depth.len());
        }
        Panels { elements: memory, depth: depth.len(), columns }
    }
}

/// The bodies of [`Source`], for numbers that `widen` turns into f32.
macro_rules! source {
    ($type:ty, $rows:ident, $columns:ident, $widen:expr) => {
        vectorised! {
            fn $rows(panel: &mut [f32], rows: &[$type], stride: usize, columns: usize) {
                for (panel, row) in panel.chunks_exact_mut(PANEL).zip(rows.chunks(stride)) {
                    if let (PANEL, Some(row)) = (columns, row.get(..PANEL)) {
                        for (out, &x) in panel.iter_mut().zip(row) {
                            *out = $widen(x);
                        }
                    } else {
                        panel.fill(0.0);
                        for (out, &x) in panel.iter_mut().zip(&row[..columns]) {
                            *out = $widen(x);
                        }
                    }
                }
            }
        }
        vectorised! {
            fn $columns(panel: &mut [f32], columns: &[$type], stride: usize, depth: usize) {
                if columns.len() != (PANEL - 1) * stride + depth {
                    panel.fill(0.0);
                }
                for (j, column) in columns.chunks(stride).enumerate() {
                    for (p, &x) in column[..depth].iter().enumerate() {
                        panel[p * PANEL + j] = $widen(x);
                    }
                }
            }
        }
        impl Source for $type {
            fn pack_rows(panel: &mut [f32], rows: &[$type], stride: usize, columns: usize) {
                $rows(panel, rows, stride, columns);
            }
            fn pack_columns(panel: &mut [f32], columns: &[$type], stride: usize, depth: usize) {
                $columns(panel, columns, stride, depth);
            }
        }
    };
}
source!(f32, pack_f32_rows, pack_f32_columns, |x| x);
source!(u16, pack_bf16_rows, pack_bf16_columns, master::widen);

/// A few rows of sums.
type Sums = [[f32; PANEL]; ROWS];

/// `out`, by `write`: `factor · a · b`.
///
/// # Panics
/// If the sizes do not fit one another.
pub(super) fn multiply(out: &mut TileMut<f32>, write: Write, factor: f32, a: Matrix, b: Panels) {
    assert!(
        a.rows() == out.rows() && a.columns() == b.depth && b.columns == out.columns(),
        "the sizes of a product do not fit"
    );
    let mut sums: Sums = [[0.0; PANEL]; ROWS];
    for first in (0..a.rows()).step_by(ROWS) {
        let rows = first..(first + ROWS).min(a.rows());
        for (panel, terms) in b.elements.chunks_exact(b.depth * PANEL).enumerate() {
            kernel(&mut sums, a, rows.clone(), terms);
            let columns = panel * PANEL..((panel + 1) * PANEL).min(b.columns);
            for (row, sums) in rows.clone().zip(&sums) {
                finish(&mut out.row(row)[columns.clone()], write == Write::Add, factor, sums);
            }
        }
    }
}

vectorised! {
    fn finish(out: &mut [f32], add: bool, factor: f32, sums: &[f32; PANEL]) {
        match (add, <&mut [f32; PANEL]>::try_from(&mut *out)) {
            (true, Ok(out)) => (0..PANEL).for_each(|i| out[i] += factor * sums[i]),
            (false, Ok(out)) => (0..PANEL).for_each(|i| out[i] = factor * sums[i]),
            (true, Err(_)) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += factor * sum),
            (false, Err(_)) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = factor * sum),
        }
    }
}

/// Rows of `a` times one panel.
fn kernel(sums: &mut Sums, a: Matrix, rows: Range<usize>, panel: &[f32]) {
    let (count, depth, (row_stride, depth_stride)) = (rows.len(), panel.len() / PANEL, a.strides());
    assert!(rows.end <= a.rows() && depth == a.columns() && count <= ROWS, "the rows leave the matrix");
    let a = a.from(rows.start);
    #[cfg(target_arch = "x86_64")]
    {
        use crate::ops::cpu::vector::{InstructionSet, instruction_set};
        macro_rules! by_count {
            ($kernel:ident: $($n:literal)*) => {
                match count {
                    // SAFETY: the processor has the instructions; `count` rows of `depth` elements lie behind
                    // `a` at these strides, as asserted above, and the panel holds `depth` rows.
                    $($n => unsafe { $kernel::<$n>(sums, a, row_stride, depth_stride, panel) },)*
                    _ => unreachable!("a kernel has 1 … {ROWS} rows"),
                }
            };
        }
        match instruction_set() {
            InstructionSet::Avx512 => return by_count!(avx512: 1 2 3 4 5 6 7 8 9 10 11 12),
            InstructionSet::Avx2 => {
                for first in (0..count).step_by(AVX2_ROWS) {
                    let here = AVX2_ROWS.min(count - first);
                    let sums = &mut sums[first..first + here];
                    // SAFETY: these rows are among the `count` rows of the matrix.
                    let a = unsafe { a.add(first * row_stride) };
                    match here {
                        // SAFETY: the processor has AVX2 and FMA, and one row lies behind `a`.
                        1 => unsafe { avx2::<1>(sums, a, row_stride, depth_stride, panel) },
                        // SAFETY: the processor has AVX2 and FMA, and two rows lie behind `a`.
                        2 => unsafe { avx2::<2>(sums, a, row_stride, depth_stride, panel) },
                        // SAFETY: the processor has AVX2 and FMA, and three rows lie behind `a`.
                        _ => unsafe { avx2::<AVX2_ROWS>(sums, a, row_stride, depth_stride, panel) },
                    }
                }
                return;
            }
            InstructionSet::Baseline => {}
        }
    }
    for (row, sums) in sums[..count].iter_mut().enumerate() {
        *sums = [0.0; PANEL];
        for (p, terms) in panel.chunks_exact(PANEL).enumerate() {
            // SAFETY: row `row` < `count` and depth `p` lie in the matrix, as asserted above.
            let x = unsafe { *a.add(row * row_stride + p * depth_stride) };
            for (sum, &term) in sums.iter_mut().zip(terms) {
                *sum = x.mul_add(term, *sum);
            }
        }
    }
}

/// Rows of the AVX2 kernel: 3 · 4 sums and 4 terms are all of its 16 registers.
#[cfg(target_arch = "x86_64")]
const AVX2_ROWS: usize = 3;

/// A kernel in one instruction set's words.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($name:ident, $features:literal, $lanes:literal, $zero:ident, $load:ident, $splat:ident, $fma:ident, $store:ident) => {
        /// # Safety
        /// `a[r · row_stride + p · depth_stride]` can be read for `r < R` and `p <` the depth of the panel, and
        /// `sums` holds `R` rows.
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize>(
            sums: &mut [[f32; PANEL]],
            a: *const f32,
            row_stride: usize,
            depth_stride: usize,
            panel: &[f32],
        ) {
            use std::arch::x86_64::*;
            const VECTORS: usize = PANEL / $lanes;
            let mut totals = [[$zero(); VECTORS]; R];
            let mut a = a;
            for panel in panel.chunks_exact(PANEL) {
                let mut terms = [$zero(); VECTORS];
                for v in 0..VECTORS {
                    // SAFETY: the chunk holds VECTORS vectors.
                    terms[v] = unsafe { $load(panel.as_ptr().add(v * $lanes)) };
                }
                for r in 0..R {
                    // SAFETY: row r of this depth can be read, by the caller's promise.
                    let x = $splat(unsafe { *a.add(r * row_stride) });
                    for v in 0..VECTORS {
                        totals[r][v] = $fma(x, terms[v], totals[r][v]);
                    }
                }
                a = a.wrapping_add(depth_stride);
            }
            for (sums, totals) in sums.iter_mut().zip(&totals) {
                for v in 0..VECTORS {
                    // SAFETY: a row of sums holds VECTORS vectors.
                    unsafe { $store(sums.as_mut_ptr().add(v * $lanes), totals[v]) };
                }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
kernel!(
    avx512,
    "avx512f",
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
kernel!(
    avx2,
    "avx2,fma",
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_storeu_ps
);
