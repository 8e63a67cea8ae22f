//! Division of a run of parameters into tiles for the pool.

use crate::host::Pool;

/// Elements of the smallest tile: 32 KiB of weights.
const TILE_MIN: usize = 1 << 14;
/// Elements of the largest tile. Threads take neighbouring tiles at nearly the same time, and
/// prefetches at the end of a tile load lines of the next; `benches/results/adam-cpu.md` has the
/// cost.
const TILE_MAX: usize = 1 << 18;
/// Average number of tiles per thread, so that all threads finish at nearly the same time.
const SHARES: usize = 8;
/// Bytes of a memory page.
const PAGE: usize = 4096;

/// Calls `work(start, count)` on the pool's threads until each of `elements` elements is covered
/// once. All tiles but the first start on a page border of the array at `address` with `size` bytes
/// per element. They also start on page borders of another array if element 0 has the same offset
/// in its page, and on cache-line borders if it has the same offset in its cache line.
pub fn over_tiles(
    pool: &Pool,
    elements: usize,
    address: *const u8,
    size: usize,
    work: &(dyn Fn(usize, usize) + Sync),
) {
    // Elements before the first page border belong to the first tile.
    let lead = (address as usize).wrapping_neg() % PAGE / size;
    let tile = tile_elements(elements, pool.threads());
    let border = |number: usize| if number == 0 { 0 } else { elements.min(lead + number * tile) };
    let tiles = elements.saturating_sub(lead).div_ceil(tile).max(usize::from(elements > 0));
    pool.run(tiles, &|_, number| work(border(number), border(number + 1) - border(number)));
}

/// Elements of a tile: whole pages of every array.
fn tile_elements(elements: usize, threads: usize) -> usize {
    (elements / (SHARES * threads)).clamp(TILE_MIN, TILE_MAX) / TILE_MIN * TILE_MIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn tiles_cover_every_element_once_and_begin_on_pages() {
        for threads in [1, 2, 7] {
            let pool = Pool::new(threads).unwrap();
            for elements in [0, 1, 31, TILE_MIN, TILE_MIN + 1, 100_003, 5_000_000] {
                for (size, phase) in [(2, 0), (2, 2), (2, 4094), (4, 8), (4, 4092)] {
                    let address = (1 << 20) + phase;
                    let found = Mutex::new(Vec::new());
                    over_tiles(&pool, elements, address as *const u8, size, &|start, count| {
                        found.lock().push((start, count));
                    });
                    let mut found = found.into_inner();
                    found.sort();
                    let mut next = 0;
                    for (number, (start, count)) in found.into_iter().enumerate() {
                        assert_eq!(start, next, "{elements} elements, {threads} threads");
                        assert!(number == 0 || (address + start * size).is_multiple_of(PAGE));
                        assert!(count > 0 && count <= TILE_MAX + PAGE);
                        next = start + count;
                    }
                    assert_eq!(next, elements);
                }
            }
        }
    }

    #[test]
    fn tiles_are_whole_pages_and_enough_for_all() {
        for threads in [1, 2, 64] {
            for elements in [1, 1 << 14, 1 << 20, 1 << 24, 1 << 32] {
                let tile = tile_elements(elements, threads);
                assert!(tile.is_multiple_of(PAGE) && (TILE_MIN..=TILE_MAX).contains(&tile));
                assert!(tile == TILE_MIN || elements / tile >= SHARES * threads);
            }
        }
    }
}
