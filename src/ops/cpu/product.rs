//! Matrix products of one tile, on one thread: `out = factor · a · b` or `out += factor · a · b`.
//!
//! The right operand is packed into *panels* of [`PANEL`] columns, depth-major, so that the innermost loop reads
//! it in order. The left operand is read where it stands, or packed too where that would touch a page an
//! element. A kernel keeps a few rows of a panel's width in registers and walks the depth once (Goto & van de
//! Geijn 2008).
//!
//! Every element of a product is one chain of fused multiply-adds in the order of the depth, whatever the
//! instruction set and wherever the element lies in its tile.
//!
//! Why this is not a call to a library: nothing allocates inside a call; the callers cut the depth, so the bits
//! do not depend on the machine's cache sizes; and bf16 weights are widened while they are packed, with no copy
//! of them in f32.

use std::ops::Range;

use crate::base::master;
use crate::ops::Write;
use crate::ops::cpu::vector::{prefetch, vectorised};
use crate::ops::cpu::view::{Matrix, TileMut};

/// Columns of a panel: two AVX-512 registers, four AVX2 ones.
pub(super) const PANEL: usize = 32;
/// Rows that a kernel works on at most: 12 · 2 sums, 2 terms and a factor are 27 of 32 AVX-512 registers.
pub(super) const ROWS: usize = 12;

/// A right operand in panels.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    elements: &'a [f32],
    depth: usize,
    columns: usize,
}

/// Elements that the panels of a right operand take.
pub(super) fn panel_elements(depth: usize, columns: usize) -> usize {
    columns.div_ceil(PANEL) * piece_elements(PANEL, depth)
}

/// Numbers a right operand may be stored in.
pub(super) trait Source: Copy {
    /// Packs `depth` rows, which stand every `stride`, into panels.
    fn pack_rows(panels: &mut [f32], rows: &[Self], stride: usize, depth: usize, columns: Range<usize>);
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
        T::pack_rows(memory, source, stride, depth, columns.clone());
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
        let pieces = memory.chunks_exact_mut(piece_elements(PANEL, depth.len()));
        for (panel, memory) in pieces.enumerate() {
            let first = panel * PANEL;
            let last = (first + PANEL).min(columns) - 1;
            let source = &source[first * stride + depth.start..last * stride + depth.end];
            T::pack_columns(&mut memory[..depth.len() * PANEL], source, stride, depth.len());
        }
        Panels { elements: memory, depth: depth.len(), columns }
    }
}

/// A left operand whose rows stand as columns, in blocks of as many rows as a kernel takes, depth-major: read
/// where it stands, every depth would be on a line, and on a page, of its own.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    elements: &'a [f32],
    depth: usize,
    rows: usize,
}

/// Elements that the blocks of a left operand take.
pub(super) fn block_elements(depth: usize, rows: usize) -> usize {
    rows.div_ceil(ROWS) * piece_elements(ROWS, depth)
}

impl<'a> Blocks<'a> {
    /// A left operand whose row `r` has at depth `p` the element `source[p · stride + r]`, `r` from
    /// `rows.start` on.
    pub fn of_columns(
        memory: &'a mut [f32],
        source: &[f32],
        stride: usize,
        depth: usize,
        rows: Range<usize>,
    ) -> Self {
        let memory = &mut memory[..block_elements(depth, rows.len())];
        pack_blocks(memory, source, stride, depth, rows.clone());
        Blocks { elements: memory, depth, rows: rows.len() }
    }
}

vectorised! {
    fn pack_blocks(blocks: &mut [f32], source: &[f32], stride: usize, depth: usize, rows: Range<usize>) {
        scatter(blocks, ROWS, source, stride, depth, rows, |x| x);
    }
}

/// Elements between two pieces, so that places at the same depth fall on different lines of the cache.
const GAP: usize = 16;

/// Rows that are asked for before they are cut: they are far apart, and the processor does not guess.
const AHEAD: usize = 6;

/// Elements from one piece to the next.
fn piece_elements(width: usize, depth: usize) -> usize {
    width * depth + GAP
}

/// Cuts `depth` rows, which stand every `stride`, into pieces `width` wide, each depth-major in memory of its
/// own. Rows are read from end to end; a last piece that is not full is filled up with zeros.
#[inline(always)]
fn scatter<T: Copy>(
    out: &mut [f32],
    width: usize,
    rows: &[T],
    stride: usize,
    depth: usize,
    columns: Range<usize>,
    widen: impl Fn(T) -> f32,
) {
    for p in 0..depth {
        let row = &rows[p * stride..][columns.clone()];
        if let Some(ahead) = rows.get((p + AHEAD) * stride..).and_then(|rows| rows.get(columns.clone())) {
            prefetch(ahead);
        }
        let mut pieces = row.chunks_exact(width);
        let mut at = p * width;
        for piece in &mut pieces {
            for (out, &x) in out[at..at + width].iter_mut().zip(piece) {
                *out = widen(x);
            }
            at += piece_elements(width, depth);
        }
        if !pieces.remainder().is_empty() {
            let out = &mut out[at..at + width];
            out.fill(0.0);
            for (out, &x) in out.iter_mut().zip(pieces.remainder()) {
                *out = widen(x);
            }
        }
    }
}

/// A left operand.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Read where it stands.
    Plain(Matrix<'a>),
    /// Packed.
    Packed(Blocks<'a>),
}

impl Left<'_> {
    fn sizes(&self) -> (usize, usize) {
        match self {
            Left::Plain(matrix) => (matrix.rows(), matrix.columns()),
            Left::Packed(blocks) => (blocks.rows, blocks.depth),
        }
    }

    /// Asks for every `step`-th of the next kernel's rows, from `first` on, where rows stand apart.
    fn prefetch(&self, first: usize, step: usize, end: usize) {
        if let Left::Plain(matrix) = self
            && matrix.strides().1 == 1
        {
            for row in (first..end.min(first + ROWS)).step_by(step) {
                prefetch(matrix.row(row));
            }
        }
    }

    /// The rows of a kernel, from a multiple of [`ROWS`] on.
    fn rows(&self, rows: Range<usize>) -> Matrix<'_> {
        match self {
            Left::Plain(matrix) => matrix.some_rows(rows),
            Left::Packed(blocks) => {
                let at = rows.start / ROWS * piece_elements(ROWS, blocks.depth);
                let block = &blocks.elements[at..at + blocks.depth * ROWS];
                Matrix::new(block, blocks.depth, rows.len(), ROWS).transposed()
            }
        }
    }
}

/// The bodies of [`Source`], for numbers that `widen` turns into f32.
macro_rules! source {
    ($type:ty, $rows:ident, $columns:ident, $widen:expr) => {
        vectorised! {
            fn $rows(panels: &mut [f32], rows: &[$type], stride: usize, depth: usize, columns: Range<usize>) {
                scatter(panels, PANEL, rows, stride, depth, columns, $widen);
            }
        }
        vectorised! {
            fn $columns(panel: &mut [f32], columns: &[$type], stride: usize, depth: usize) {
                if columns.len() != (PANEL - 1) * stride + depth {
                    panel.fill(0.0);
                }
                let columns = columns.chunks(stride);
                // Squares are transposed in registers; what is left over, an element at a time.
                for (group, first) in (0..columns.len()).step_by(SQUARE).enumerate() {
                    let mut square: [&[$type]; SQUARE] = [&[]; SQUARE];
                    let mut count = 0;
                    for (place, column) in square.iter_mut().zip(columns.clone().skip(first)) {
                        *place = &column[..depth];
                        count += 1;
                    }
                    let whole = if count == SQUARE { depth / SQUARE * SQUARE } else { 0 };
                    for p in (0..whole).step_by(SQUARE) {
                        let rows = square.map(|column| -> [f32; SQUARE] {
                            let piece: &[$type; SQUARE] = column[p..p + SQUARE].try_into().expect("a whole piece");
                            piece.map($widen)
                        });
                        for (i, row) in transpose(&rows).iter().enumerate() {
                            panel[(p + i) * PANEL + group * SQUARE..][..SQUARE].copy_from_slice(row);
                        }
                    }
                    for (j, column) in square[..count].iter().enumerate() {
                        for p in whole..depth {
                            panel[p * PANEL + first + j] = $widen(column[p]);
                        }
                    }
                }
            }
        }
        impl Source for $type {
            fn pack_rows(panels: &mut [f32], rows: &[$type], stride: usize, depth: usize, columns: Range<usize>) {
                $rows(panels, rows, stride, depth, columns);
            }
            fn pack_columns(panel: &mut [f32], columns: &[$type], stride: usize, depth: usize) {
                $columns(panel, columns, stride, depth);
            }
        }
    };
}
source!(f32, pack_f32_rows, pack_f32_columns, |x| x);
source!(u16, pack_bf16_rows, pack_bf16_columns, master::widen);

/// Rows and columns of what is transposed in registers.
const SQUARE: usize = 8;

/// The transpose of a square.
#[inline(always)]
fn transpose(rows: &[[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::ops::cpu::vector::{InstructionSet, instruction_set};
        if instruction_set() != InstructionSet::Baseline {
            // SAFETY: the processor has AVX2.
            return unsafe { transpose_avx2(rows) };
        }
    }
    std::array::from_fn(|row| std::array::from_fn(|column| rows[column][row]))
}

/// The transpose by exchanging neighbours, then pairs, then halves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn transpose_avx2(rows: &[[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
    use std::arch::x86_64::*;
    // SAFETY: a row is as long as the vector that is loaded.
    let rows = std::array::from_fn::<__m256, SQUARE, _>(|r| unsafe { _mm256_loadu_ps(rows[r].as_ptr()) });
    let mut halves = [_mm256_setzero_ps(); SQUARE];
    for four in [0, 4] {
        let low = [0, 2].map(|r| _mm256_unpacklo_ps(rows[four + r], rows[four + r + 1]));
        let high = [0, 2].map(|r| _mm256_unpackhi_ps(rows[four + r], rows[four + r + 1]));
        halves[four] = _mm256_shuffle_ps::<0x44>(low[0], low[1]);
        halves[four + 1] = _mm256_shuffle_ps::<0xee>(low[0], low[1]);
        halves[four + 2] = _mm256_shuffle_ps::<0x44>(high[0], high[1]);
        halves[four + 3] = _mm256_shuffle_ps::<0xee>(high[0], high[1]);
    }
    let mut out = [[0.0; SQUARE]; SQUARE];
    for i in 0..4 {
        let (left, right) = (halves[i], halves[i + 4]);
        // SAFETY: `i` is below SQUARE, and a row of the result is as long as the vector that is stored.
        unsafe { _mm256_storeu_ps(out[i].as_mut_ptr(), _mm256_permute2f128_ps::<0x20>(left, right)) };
        // SAFETY: as many rows again follow row `i`, each of one vector.
        unsafe { _mm256_storeu_ps(out[i + 4].as_mut_ptr(), _mm256_permute2f128_ps::<0x31>(left, right)) };
    }
    out
}

/// What becomes of the sums of a kernel.
#[derive(Clone, Copy)]
struct Finish {
    add: bool,
    factor: f32,
}

/// `out`, by `write`: `factor · a · b`.
///
/// # Panics
/// If the sizes do not fit one another.
pub(super) fn multiply(out: &mut TileMut<f32>, write: Write, factor: f32, a: Left, b: Panels) {
    let (m, depth) = a.sizes();
    assert!(
        m == out.rows() && depth == b.depth && b.columns == out.columns(),
        "the sizes of a product do not fit"
    );
    let finish = Finish { add: write == Write::Add, factor };
    let mut narrow = [0.0; ROWS * PANEL];
    let (all, panels) = (a, b.columns.div_ceil(PANEL));
    for first in (0..m).step_by(ROWS) {
        let rows = first..(first + ROWS).min(m);
        let a = a.rows(rows.clone());
        for (panel, terms) in b.elements.chunks_exact(piece_elements(PANEL, b.depth)).enumerate() {
            let terms = &terms[..b.depth * PANEL];
            let columns = panel * PANEL..((panel + 1) * PANEL).min(b.columns);
            all.prefetch(rows.end + panel, panels, m);
            let mut out = out.part(rows.clone(), columns.clone());
            if columns.len() == PANEL {
                kernel(&mut out, finish, a, terms);
            } else {
                // The kernel writes whole panels: the last columns go through one.
                let mut whole = TileMut::of(&mut narrow, rows.len(), PANEL);
                kernel(&mut whole, Finish { add: false, factor }, a, terms);
                for row in 0..rows.len() {
                    let pairs = out.row(row).iter_mut().zip(whole.row(row));
                    match write {
                        Write::Set => pairs.for_each(|(out, sum)| *out = *sum),
                        Write::Add => pairs.for_each(|(out, sum)| *out += *sum),
                    }
                }
            }
        }
    }
}

/// A few rows times one panel.
fn kernel(out: &mut TileMut<f32>, finish: Finish, a: Matrix, panel: &[f32]) {
    let count = a.rows();
    assert!(
        panel.len() == a.columns() * PANEL
            && out.columns() == PANEL
            && out.rows() == count
            && (1..=ROWS).contains(&count),
        "the sizes do not fit a kernel"
    );
    #[cfg(target_arch = "x86_64")]
    {
        use crate::ops::cpu::vector::{InstructionSet, instruction_set};
        macro_rules! by_count {
            ($($n:literal)*) => {
                match count {
                    // SAFETY: the processor has AVX-512, and the sizes are those asserted above.
                    $($n => unsafe { avx512::<$n>(out, finish, a, panel) },)*
                    _ => unreachable!("a kernel has 1 … {ROWS} rows"),
                }
            };
        }
        match instruction_set() {
            InstructionSet::Avx512 => return by_count!(1 2 3 4 5 6 7 8 9 10 11 12),
            InstructionSet::Avx2 => {
                for first in (0..count).step_by(AVX2_ROWS) {
                    let rows = first..(first + AVX2_ROWS).min(count);
                    let (mut out, a) = (out.part(rows.clone(), 0..PANEL), a.some_rows(rows.clone()));
                    match rows.len() {
                        // SAFETY: the processor has AVX2 and FMA, and both tiles have one row.
                        1 => unsafe { avx2::<1>(&mut out, finish, a, panel) },
                        // SAFETY: the processor has AVX2 and FMA, and both tiles have two rows.
                        2 => unsafe { avx2::<2>(&mut out, finish, a, panel) },
                        // SAFETY: the processor has AVX2 and FMA, and both tiles have three rows.
                        _ => unsafe { avx2::<AVX2_ROWS>(&mut out, finish, a, panel) },
                    }
                }
                return;
            }
            InstructionSet::Baseline => {}
        }
    }
    plain(out, finish, a, panel);
}

/// The kernels' arithmetic without their instructions.
fn plain(out: &mut TileMut<f32>, finish: Finish, a: Matrix, panel: &[f32]) {
    for row in 0..a.rows() {
        let mut sums = [0f32; PANEL];
        for (p, terms) in panel.chunks_exact(PANEL).enumerate() {
            let x = a.at(row, p);
            for (sum, &term) in sums.iter_mut().zip(terms) {
                *sum = x.mul_add(term, *sum);
            }
        }
        for (out, sum) in out.row(row).iter_mut().zip(sums) {
            let value = finish.factor * sum;
            *out = if finish.add { *out + value } else { value };
        }
    }
}

/// Rows of the AVX2 kernel: 3 · 4 sums and 4 terms are all of its 16 registers.
#[cfg(target_arch = "x86_64")]
const AVX2_ROWS: usize = 3;

/// A kernel in one instruction set's words.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($name:ident, $features:literal, $lanes:literal, $zero:ident, $load:ident, $splat:ident, $fma:ident, $mul:ident,
     $add:ident, $store:ident) => {
        /// # Safety
        /// `out` and `a` have `R` rows, `out` has [`PANEL`] columns, and `panel` has a row for each column of `a`.
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize>(out: &mut TileMut<f32>, finish: Finish, a: Matrix, panel: &[f32]) {
            use std::arch::x86_64::*;
            const VECTORS: usize = PANEL / $lanes;
            let (row_stride, depth_stride) = a.strides();
            for row in 0..R {
                // What is stored at the end arrives while the sums are formed.
                prefetch(out.row(row));
            }
            let mut totals = [[$zero(); VECTORS]; R];
            let mut a = a.address();
            for panel in panel.chunks_exact(PANEL) {
                let mut terms = [$zero(); VECTORS];
                for v in 0..VECTORS {
                    // SAFETY: the chunk holds VECTORS vectors.
                    terms[v] = unsafe { $load(panel.as_ptr().add(v * $lanes)) };
                }
                for r in 0..R {
                    // SAFETY: `a` has this row, and a column for each chunk of the panel.
                    let x = $splat(unsafe { *a.add(r * row_stride) });
                    for v in 0..VECTORS {
                        totals[r][v] = $fma(x, terms[v], totals[r][v]);
                    }
                }
                a = a.wrapping_add(depth_stride);
            }
            let (factor, stride, out) = ($splat(finish.factor), out.stride(), out.address());
            for r in 0..R {
                for v in 0..VECTORS {
                    let mut value = $mul(factor, totals[r][v]);
                    // SAFETY: a row of `out` holds VECTORS vectors, and it has R rows.
                    let place = unsafe { out.add(r * stride + v * $lanes) };
                    if finish.add {
                        // SAFETY: `place` is that of a vector in `out`, as said above.
                        value = $add(unsafe { $load(place) }, value);
                    }
                    // SAFETY: `out` is exclusive, and `place` is that of a vector in it.
                    unsafe { $store(place, value) };
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
    _mm512_mul_ps,
    _mm512_add_ps,
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
    _mm256_mul_ps,
    _mm256_add_ps,
    _mm256_storeu_ps
);

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i + seed).wrapping_mul(2_654_435_761) % 8191) as f32 / 4096.0 - 1.0).collect()
    }

    /// Every row count, on tails of the depth, by this machine's kernels and by the plain one.
    #[test]
    fn kernels_have_the_bits_of_the_plain_one() {
        for depth in [1, 2, 31, 64, 129] {
            let (a, panel) = (numbers(ROWS * depth, 1), numbers(depth * PANEL, 2));
            for rows in 1..=ROWS {
                for (add, factor) in [(false, 1.0), (true, 0.3)] {
                    let a = Matrix::new(&a, rows, depth, depth);
                    let (finish, before) = (Finish { add, factor }, numbers(rows * PANEL, 3));
                    let mut expected = before.clone();
                    plain(&mut TileMut::of(&mut expected, rows, PANEL), finish, a, &panel);
                    let mut fast = before.clone();
                    kernel(&mut TileMut::of(&mut fast, rows, PANEL), finish, a, &panel);
                    assert_eq!(fast, expected, "{rows} rows, depth {depth}, add {add}");
                    #[cfg(target_arch = "x86_64")]
                    if rows == AVX2_ROWS
                        && is_x86_feature_detected!("avx2")
                        && is_x86_feature_detected!("fma")
                    {
                        let mut narrow = before.clone();
                        let mut out = TileMut::of(&mut narrow, rows, PANEL);
                        // SAFETY: the processor has AVX2 and FMA, and the sizes are those of the other kernels.
                        unsafe { avx2::<AVX2_ROWS>(&mut out, finish, a, &panel) };
                        assert_eq!(narrow, expected, "AVX2, depth {depth}, add {add}");
                    }
                }
            }
        }
    }

    /// Columns that stand as rows give the panels of rows, for every tail of the squares and of the panels.
    #[test]
    fn both_ways_of_packing_agree() {
        for depth in [1, 7, 8, 9, 20] {
            for columns in [1, 7, 8, 31, 32, 33, 47, 64] {
                let rows = numbers(depth * columns, 4);
                let transposed: Vec<f32> =
                    (0..columns * depth).map(|i| rows[i % depth * columns + i / depth]).collect();
                let elements = panel_elements(depth, columns);
                let (mut left, mut right) = (vec![0.0; elements], vec![0.0; elements]);
                Panels::of_rows(&mut left, &rows, columns, depth, 0..columns);
                Panels::of_columns(&mut right, &transposed, depth, 0..depth, columns);
                assert_eq!(left, right, "depth {depth}, {columns} columns");
            }
        }
    }
}
