//! Disjoint chunks of outputs, so that the workers of a pool can write one output together.
//!
//! An op borrows each output exclusively, wraps one or several outputs in a [`Cut`] and passes it
//! to [`each`], which gives every chunk to one worker. The sizes in a cut make its chunks disjoint
//! by construction, so ops need no `unsafe` and cannot access an element twice.

use std::marker::PhantomData;
use std::ops::Range;

use crate::host::Pool;
use crate::ops::cpu::block;
use crate::ops::cpu::view::{Element, TileMut};

/// Exclusive memory, cut into chunks.
///
/// # Safety
/// Chunks of different indices share no element, and any thread may hold any of them.
pub(in crate::ops) unsafe trait Cut: Sync {
    /// The argument of a job: the position of a chunk, and its memory.
    type Chunk;

    /// The number of chunks.
    fn chunks(&self) -> usize;

    /// Returns one chunk.
    ///
    /// # Safety
    /// `index` is below [`Cut::chunks`], and is passed at most once in the life of the cut.
    unsafe fn chunk(&self, index: usize) -> Self::Chunk;
}

/// Calls `job(worker, chunk)` for every chunk of a cut on the threads of a pool. `worker` and the
/// order of chunks are those of [`Pool::run`].
#[inline(always)]
pub(in crate::ops) fn each<C: Cut>(pool: &Pool, cut: C, job: impl Fn(usize, C::Chunk) + Sync) {
    pool.run(cut.chunks(), &|worker, tile| {
        // SAFETY: a pool takes every tile of a job once, and the cut is dropped when the job ends.
        job(worker, unsafe { cut.chunk(tile) });
    });
}

/// Blocks of whole rows. A chunk is `(rows, elements)`.
pub(in crate::ops) struct Rows<'a, T> {
    base: *mut T,
    rows: usize,
    columns: usize,
    block: usize,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: threads get disjoint exclusive slices of numbers, which may be sent to any thread.
unsafe impl<T: Element> Sync for Rows<'_, T> {}

impl<'a, T: Element> Rows<'a, T> {
    /// Cuts `elements`, in rows of `columns` elements, into blocks of `block` rows.
    ///
    /// # Panics
    /// If the length is not a multiple of `columns`.
    pub fn new(elements: &'a mut [T], columns: usize, block: usize) -> Self {
        assert!(
            elements.len().is_multiple_of(columns),
            "{} elements are not a multiple of the row length, {columns}",
            elements.len()
        );
        let rows = elements.len() / columns;
        Rows { base: elements.as_mut_ptr(), rows, columns, block, memory: PhantomData }
    }
}

// SAFETY: blocks of different indices are different rows of one exclusive slice.
unsafe impl<'a, T: Element> Cut for Rows<'a, T> {
    type Chunk = (Range<usize>, &'a mut [T]);

    fn chunks(&self) -> usize {
        self.rows.div_ceil(self.block)
    }

    /// # Safety
    /// The index is below the number of blocks and is passed once.
    #[inline(always)]
    unsafe fn chunk(&self, index: usize) -> Self::Chunk {
        let rows = block(index, self.block, self.rows);
        let (start, elements) = (rows.start * self.columns, rows.len() * self.columns);
        // SAFETY: the index is below the number of blocks, so these rows are within the slice that `new`
        // borrowed for 'a, and the caller passes each index once.
        (rows, unsafe { std::slice::from_raw_parts_mut(self.base.add(start), elements) })
    }
}

/// Cuts a matrix into rectangles. Rows form groups (the sequences of a batch, or all rows as one),
/// and no rectangle spans two groups. Within a group, indices run down the rows first, then across
/// the columns.
struct Grid {
    rows: usize,
    columns: usize,
    /// Rows of a group.
    group: usize,
    /// Rows and columns of a full rectangle; rectangles at the borders may be smaller.
    block: (usize, usize),
}

impl Grid {
    /// # Panics
    /// If the number of rows is not a multiple of the group.
    fn new((rows, columns): (usize, usize), group: usize, block: (usize, usize)) -> Self {
        assert!(rows.is_multiple_of(group), "{rows} rows are not a multiple of the group, {group}");
        Grid { rows, columns, group, block }
    }

    /// Number of rectangles in a group: by rows, by columns.
    fn counts(&self) -> (usize, usize) {
        (self.group.div_ceil(self.block.0), self.columns.div_ceil(self.block.1))
    }

    fn chunks(&self) -> usize {
        let (down, across) = self.counts();
        // `Tiles::new` without rows has a group of 0 rows.
        self.rows.checked_div(self.group).map_or(0, |groups| groups * down * across)
    }

    /// The rows and columns of a rectangle. Two indices differ in the group, in the rows within it
    /// or in the columns, so their rectangles are disjoint.
    #[inline(always)]
    fn chunk(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let (down, across) = self.counts();
        let (index, in_group) = (index % down, index / down);
        let (group, column) = (in_group / across, in_group % across);
        let within = block(index, self.block.0, self.group);
        let rows = group * self.group + within.start..group * self.group + within.end;
        (rows, block(column, self.block.1, self.columns))
    }
}

/// Rectangles of a grid. A chunk is `(rows, columns, tile)`.
pub(in crate::ops) struct Tiles<'a, T> {
    whole: TileMut<'a, T>,
    grid: Grid,
}

// SAFETY: threads get disjoint exclusive rectangles of numbers, which may be sent to any thread.
unsafe impl<T: Element> Sync for Tiles<'_, T> {}

impl<'a, T: Element> Tiles<'a, T> {
    /// Cuts a matrix into rectangles of `block` (rows, columns); all rows form one group.
    pub fn new(whole: TileMut<'a, T>, block: (usize, usize)) -> Self {
        let (rows, columns) = (whole.rows(), whole.columns());
        Tiles { whole, grid: Grid { rows, columns, group: rows, block } }
    }

    /// Cuts a matrix into rectangles of `block` (rows, columns) within groups of `group` rows.
    ///
    /// # Panics
    /// If the number of rows is not a multiple of the group.
    pub fn in_groups(whole: TileMut<'a, T>, group: usize, block: (usize, usize)) -> Self {
        let grid = Grid::new((whole.rows(), whole.columns()), group, block);
        Tiles { whole, grid }
    }
}

// SAFETY: rectangles of different indices are disjoint in the grid, and the whole matrix is
// exclusive.
unsafe impl<'a, T: Element> Cut for Tiles<'a, T> {
    type Chunk = (Range<usize>, Range<usize>, TileMut<'a, T>);

    fn chunks(&self) -> usize {
        self.grid.chunks()
    }

    /// # Safety
    /// The index is below the number of rectangles and is passed once.
    #[inline(always)]
    unsafe fn chunk(&self, index: usize) -> Self::Chunk {
        let (rows, columns) = self.grid.chunk(index);
        // SAFETY: the caller passes this index once, and no other index covers an element of this
        // rectangle.
        let tile = unsafe { self.whole.cut(rows.clone(), columns.clone()) };
        (rows, columns, tile)
    }
}

/// The rectangles of a matrix stored transposed, with the indices that [`Tiles`] gives the matrix
/// itself. A chunk is `(rows, columns, tile)`; the tile is stored like the whole, `columns × rows`.
pub(in crate::ops) struct TransposedTiles<'a, T>(Tiles<'a, T>);

impl<'a, T: Element> TransposedTiles<'a, T> {
    /// As [`Tiles::in_groups`] for the transpose of `whole`.
    ///
    /// # Panics
    /// If the number of columns of `whole` is not a multiple of the group.
    pub fn in_groups(whole: TileMut<'a, T>, group: usize, block: (usize, usize)) -> Self {
        let grid = Grid::new((whole.columns(), whole.rows()), group, block);
        TransposedTiles(Tiles { whole, grid })
    }
}

// SAFETY: as for `Tiles`, with rows and columns exchanged.
unsafe impl<'a, T: Element> Cut for TransposedTiles<'a, T> {
    type Chunk = (Range<usize>, Range<usize>, TileMut<'a, T>);

    fn chunks(&self) -> usize {
        self.0.grid.chunks()
    }

    /// # Safety
    /// The index is below the number of rectangles and is passed once.
    #[inline(always)]
    unsafe fn chunk(&self, index: usize) -> Self::Chunk {
        let (rows, columns) = self.0.grid.chunk(index);
        // SAFETY: the grid is that of the transpose, so the ranges are within the whole; the caller passes
        // each index once.
        let tile = unsafe { self.0.whole.cut(columns.clone(), rows.clone()) };
        (rows, columns, tile)
    }
}

// SAFETY: both are cuts, and a chunk of the pair takes the chunk of the same index from each.
unsafe impl<A: Cut, B: Cut> Cut for (A, B) {
    type Chunk = (A::Chunk, B::Chunk);

    /// # Panics
    /// If the two have different numbers of chunks.
    fn chunks(&self) -> usize {
        let chunks = self.0.chunks();
        assert_eq!(chunks, self.1.chunks(), "two outputs are cut into different numbers of chunks");
        chunks
    }

    /// # Safety
    /// The index is valid for both, and neither gets it elsewhere.
    #[inline(always)]
    unsafe fn chunk(&self, index: usize) -> Self::Chunk {
        // SAFETY: the caller's promise for the pair's index holds for each of the two.
        unsafe { (self.0.chunk(index), self.1.chunk(index)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected elements after each was visited once: a job adds its position to each, and `rows ·
    /// columns` per visit.
    fn visited(rows: usize, columns: usize) -> Vec<f64> {
        let visit = (rows * columns) as f64;
        (0..rows * columns).map(|position| visit + position as f64).collect()
    }

    /// Every element is in exactly one chunk, and the chunk's ranges match its position.
    #[test]
    fn row_blocks_cover_everything_once() {
        let pool = Pool::new(3).unwrap();
        for (rows, columns, block) in [(0, 3, 4), (1, 1, 1), (7, 5, 1), (8, 5, 4), (9, 2, 4), (3, 2, 64)] {
            let (mut out, mut other) = (vec![0.0f64; rows * columns], vec![0.0f64; rows]);
            let cut = (Rows::new(&mut out, columns, block), Rows::new(&mut other, 1, block));
            each(&pool, cut, |_, ((rows_here, chunk), (other_rows, other))| {
                assert_eq!((&rows_here, chunk.len()), (&other_rows, rows_here.len() * columns));
                for (i, element) in chunk.iter_mut().enumerate() {
                    *element += (rows * columns + rows_here.start * columns + i) as f64;
                }
                other.iter_mut().for_each(|element| *element += 1.0);
            });
            assert_eq!(out, visited(rows, columns), "{rows} × {columns} in blocks of {block}");
            assert_eq!(other, vec![1.0; rows]);
        }
    }

    #[test]
    fn tiles_cover_everything_once() {
        let pool = Pool::new(3).unwrap();
        for (groups, group, columns, block) in [
            (1, 1, 1, (1, 1)),
            (1, 9, 7, (4, 3)),
            (1, 5, 6, (64, 2)),
            (3, 5, 6, (2, 6)),
            (3, 4, 7, (4, 2)),
            (2, 7, 5, (3, 64)),
            (0, 4, 5, (3, 2)),
        ] {
            let rows = groups * group;
            let mut out = vec![0.0f64; rows * columns];
            let cut = Tiles::in_groups(TileMut::of(&mut out, rows, columns), group, block);
            each(&pool, cut, |_, (rows_here, columns_here, mut tile)| {
                assert_eq!((rows_here.len(), columns_here.len()), (tile.rows(), tile.columns()));
                assert_eq!(rows_here.start / group, (rows_here.end - 1) / group, "a tile in two groups");
                for (i, row) in rows_here.enumerate() {
                    for (element, column) in tile.row(i).iter_mut().zip(columns_here.clone()) {
                        *element += (rows * columns + row * columns + column) as f64;
                    }
                }
            });
            assert_eq!(out, visited(rows, columns), "{groups} · {group} × {columns} in {block:?}");
            let mut transposed = vec![0.0f64; rows * columns];
            let other = Tiles::in_groups(TileMut::of(&mut out, rows, columns), group, block);
            let cut = TransposedTiles::in_groups(TileMut::of(&mut transposed, columns, rows), group, block);
            each(
                &pool,
                (other, cut),
                |_, ((other_rows, other_columns, _), (rows_here, columns_here, mut tile))| {
                    assert_eq!((other_rows, other_columns), (rows_here.clone(), columns_here.clone()));
                    for (i, column) in columns_here.enumerate() {
                        for (element, row) in tile.row(i).iter_mut().zip(rows_here.clone()) {
                            *element += (rows * columns + column * rows + row) as f64;
                        }
                    }
                },
            );
            assert_eq!(
                transposed,
                visited(columns, rows),
                "transposed, {columns} × {groups} · {group} in {block:?}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "different numbers of chunks")]
    fn outputs_in_different_numbers_of_chunks_are_refused() {
        let (mut a, mut b) = ([0f32; 4], [0f32; 5]);
        each(&Pool::new(1).unwrap(), (Rows::new(&mut a, 1, 2), Rows::new(&mut b, 1, 2)), |_, _| {});
    }
}
