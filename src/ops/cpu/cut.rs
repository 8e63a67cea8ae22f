//! Outputs in pieces: how the workers of a pool come to write one memory together.
//!
//! An operation takes each output as an exclusive borrow, lays a [`Cut`] over it, or over several outputs at
//! a time, and gives it to [`each`], which hands every piece to one worker. A cut consists of numbers that
//! make its pieces disjoint, so operations need no `unsafe` and cannot name the same element twice.

use std::marker::PhantomData;
use std::ops::Range;

use crate::host::Pool;
use crate::ops::cpu::block;
use crate::ops::cpu::view::{Element, TileMut};

/// Exclusive memory in pieces.
///
/// # Safety
/// Pieces of different indices share no element, and any thread may hold any of them.
pub(in crate::ops) unsafe trait Cut: Sync {
    /// What a worker gets: where its piece lies, and the piece.
    type Chunk;

    /// How many pieces there are.
    fn chunks(&self) -> usize;

    /// One piece.
    ///
    /// # Safety
    /// `index` is below [`Cut::pieces`], and is asked for once in the life of the cut.
    unsafe fn chunk(&self, index: usize) -> Self::Chunk;
}

/// Calls `job(worker, piece)` for every piece of a cut, on the threads of a pool, in the order of
/// [`Pool::run`]; `worker` is what it is there.
#[inline(always)]
pub(in crate::ops) fn each<C: Cut>(pool: &Pool, cut: C, job: impl Fn(usize, C::Chunk) + Sync) {
    pool.run(cut.chunks(), &|worker, tile| {
        // SAFETY: a pool takes every tile of a job once, and the cut is gone when the job is over.
        job(worker, unsafe { cut.chunk(tile) });
    });
}

/// Blocks of whole rows. A piece is `(rows, elements)`.
pub(in crate::ops) struct Rows<'a, T> {
    base: *mut T,
    rows: usize,
    columns: usize,
    block: usize,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: what the cut lends to threads are exclusive slices of numbers, which may go to any thread.
unsafe impl<T: Element> Sync for Rows<'_, T> {}

impl<'a, T: Element> Rows<'a, T> {
    /// All of `elements`, rows of `columns` elements, in blocks of `block` rows.
    ///
    /// # Panics
    /// If the elements are not whole rows.
    pub fn new(elements: &'a mut [T], columns: usize, block: usize) -> Self {
        assert!(elements.len().is_multiple_of(columns), "{} elements in rows of {columns}", elements.len());
        let rows = elements.len() / columns;
        Rows { base: elements.as_mut_ptr(), rows, columns, block, memory: PhantomData }
    }
}

// SAFETY: the blocks of different indices are different rows of one exclusive slice.
unsafe impl<'a, T: Element> Cut for Rows<'a, T> {
    type Chunk = (Range<usize>, &'a mut [T]);

    fn chunks(&self) -> usize {
        self.rows.div_ceil(self.block)
    }

    /// # Safety
    /// There is such a block, and its rows are asked for once.
    #[inline(always)]
    unsafe fn chunk(&self, index: usize) -> Self::Chunk {
        let rows = block(index, self.block, self.rows);
        let (start, elements) = (rows.start * self.columns, rows.len() * self.columns);
        // SAFETY: the index is that of a block, so these rows lie in the slice that `new` borrowed for 'a, and
        // the caller asks for them once.
        (rows, unsafe { std::slice::from_raw_parts_mut(self.base.add(start), elements) })
    }
}

/// How a matrix is cut into rectangles. Rows come in groups (the sequences of a batch, or all rows as one), and no
/// rectangle reaches across two. Within a group rectangles go down first, then across.
struct Grid {
    rows: usize,
    columns: usize,
    /// Rows of a group.
    group: usize,
    /// Rows and columns of a rectangle that no border cuts short.
    block: (usize, usize),
}

impl Grid {
    /// # Panics
    /// If the rows are not whole groups.
    fn new((rows, columns): (usize, usize), group: usize, block: (usize, usize)) -> Self {
        assert!(rows.is_multiple_of(group), "{rows} rows in groups of {group}");
        Grid { rows, columns, group, block }
    }

    /// Rectangles of a group, down and across.
    fn counts(&self) -> (usize, usize) {
        (self.group.div_ceil(self.block.0), self.columns.div_ceil(self.block.1))
    }

    fn chunks(&self) -> usize {
        let (down, across) = self.counts();
        // Without rows there is no group to count.
        self.rows.checked_div(self.group).map_or(0, |groups| groups * down * across)
    }

    /// The rows and columns of a rectangle: two indices differ in the group, in the rows within it or in the columns,
    /// and blocks of any of these are disjoint.
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

/// Rectangles, by a grid. A piece is `(rows, columns, tile)`.
pub(in crate::ops) struct Tiles<'a, T> {
    whole: TileMut<'a, T>,
    grid: Grid,
}

// SAFETY: what the cut lends to threads are exclusive rectangles of numbers, which may go to any thread.
unsafe impl<T: Element> Sync for Tiles<'_, T> {}

impl<'a, T: Element> Tiles<'a, T> {
    /// Rectangles of `block` rows and columns; all rows are one group.
    pub fn new(whole: TileMut<'a, T>, block: (usize, usize)) -> Self {
        let (rows, columns) = (whole.rows(), whole.columns());
        Tiles { whole, grid: Grid { rows, columns, group: rows, block } }
    }

    /// Rectangles of `block` rows and columns within groups of `group` rows.
    ///
    /// # Panics
    /// If the rows are not whole groups.
    pub fn in_groups(whole: TileMut<'a, T>, group: usize, block: (usize, usize)) -> Self {
        let grid = Grid::new((whole.rows(), whole.columns()), group, block);
        Tiles { whole, grid }
    }
}

// SAFETY: the rectangles of different indices are disjoint in the grid; the whole is exclusive.
unsafe impl<'a, T: Element> Cut for Tiles<'a, T> {
    type Chunk = (Range<usize>, Range<usize>, TileMut<'a, T>);

    fn chunks(&self) -> usize {
        self.grid.chunks()
    }

    /// # Safety
    /// There is such a rectangle, and it is asked for once.
    #[inline(always)]
    unsafe fn chunk(&self, index: usize) -> Self::Chunk {
        let (rows, columns) = self.grid.chunk(index);
        // SAFETY: the caller asks for this index once, and no other index has an element of this rectangle.
        let tile = unsafe { self.whole.cut(rows.clone(), columns.clone()) };
        (rows, columns, tile)
    }
}

/// The rectangles of a matrix that lies transposed, cut and counted as [`Tiles`] cuts and counts the matrix itself.
/// A piece is `(rows, columns, tile)`; the tile lies as the whole does, `columns × rows`.
pub(in crate::ops) struct TransposedTiles<'a, T>(Tiles<'a, T>);

impl<'a, T: Element> TransposedTiles<'a, T> {
    /// As [`Tiles::in_groups`] of the transpose of `whole`.
    ///
    /// # Panics
    /// If the columns of `whole` are not whole groups.
    pub fn in_groups(whole: TileMut<'a, T>, group: usize, block: (usize, usize)) -> Self {
        let grid = Grid::new((whole.columns(), whole.rows()), group, block);
        TransposedTiles(Tiles { whole, grid })
    }
}

// SAFETY: as of `Tiles`, with rows and columns exchanged.
unsafe impl<'a, T: Element> Cut for TransposedTiles<'a, T> {
    type Chunk = (Range<usize>, Range<usize>, TileMut<'a, T>);

    fn chunks(&self) -> usize {
        self.0.grid.chunks()
    }

    /// # Safety
    /// There is such a rectangle, and it is asked for once.
    #[inline(always)]
    unsafe fn chunk(&self, index: usize) -> Self::Chunk {
        let (rows, columns) = self.0.grid.chunk(index);
        // SAFETY: the grid is that of the transpose, so columns and rows lie in the whole; asked for once, by the caller.
        let tile = unsafe { self.0.whole.cut(columns.clone(), rows.clone()) };
        (rows, columns, tile)
    }
}

// SAFETY: both are cuts, and a piece takes from each the piece of its own index.
unsafe impl<A: Cut, B: Cut> Cut for (A, B) {
    type Chunk = (A::Chunk, B::Chunk);

    /// # Panics
    /// If the two are cut into different numbers of pieces.
    fn chunks(&self) -> usize {
        let chunks = self.0.chunks();
        assert_eq!(chunks, self.1.chunks(), "outputs that are not cut alike");
        chunks
    }

    /// # Safety
    /// Both have the index, and neither is asked for it elsewhere.
    #[inline(always)]
    unsafe fn chunk(&self, index: usize) -> Self::Chunk {
        // SAFETY: what the caller promises of the pair's index holds for the index of each.
        unsafe { (self.0.chunk(index), self.1.chunk(index)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each piece adds to an element: its place among all, and a visit in the unit above all places.
    fn visited(rows: usize, columns: usize) -> Vec<f64> {
        let visit = (rows * columns) as f64;
        (0..rows * columns).map(|place| visit + place as f64).collect()
    }

    /// Every element is in one piece, once, and the piece says truly where it lies.
    #[test]
    fn row_blocks_cover_everything_once() {
        let pool = Pool::new(3).unwrap();
        for (rows, columns, block) in [(0, 3, 4), (1, 1, 1), (7, 5, 1), (8, 5, 4), (9, 2, 4), (3, 2, 64)] {
            let (mut out, mut beside) = (vec![0.0f64; rows * columns], vec![0.0f64; rows]);
            let cut = (Rows::new(&mut out, columns, block), Rows::new(&mut beside, 1, block));
            each(&pool, cut, |_, ((rows_here, chunk), (rows_beside, beside))| {
                assert_eq!((&rows_here, chunk.len()), (&rows_beside, rows_here.len() * columns));
                for (i, element) in chunk.iter_mut().enumerate() {
                    *element += (rows * columns + rows_here.start * columns + i) as f64;
                }
                beside.iter_mut().for_each(|element| *element += 1.0);
            });
            assert_eq!(out, visited(rows, columns), "{rows} × {columns} in blocks of {block}");
            assert_eq!(beside, vec![1.0; rows]);
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
            let beside = Tiles::in_groups(TileMut::of(&mut out, rows, columns), group, block);
            let cut = TransposedTiles::in_groups(TileMut::of(&mut transposed, columns, rows), group, block);
            each(
                &pool,
                (beside, cut),
                |_, ((rows_beside, columns_beside, _), (rows_here, columns_here, mut tile))| {
                    assert_eq!((rows_beside, columns_beside), (rows_here.clone(), columns_here.clone()));
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
    #[should_panic(expected = "not cut alike")]
    fn outputs_in_different_numbers_of_pieces_are_refused() {
        let (mut a, mut b) = ([0f32; 4], [0f32; 5]);
        each(&Pool::new(1).unwrap(), (Rows::new(&mut a, 1, 2), Rows::new(&mut b, 1, 2)), |_, _| {});
    }
}
