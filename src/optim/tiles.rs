//! Cutting a run of parameters into tiles for the pool.

use crate::host::Pool;

/// Elements of the smallest tile: 32 KiB of weights.
const TILE_MIN: usize = 1 << 14;
/// Elements of the largest. Neighbouring tiles are taken by different threads at nearly the same time, and what
/// is asked for ahead of the end of one is the other's; see `benches/results/adam-cpu.md` for what that costs.
const TILE_MAX: usize = 1 << 18;
/// Tiles that a thread has in the mean, so that all end at nearly the same time.
const SHARES: usize = 8;
/// Bytes: what the kernel hands out at a time.
const PAGE: usize = 4096;

/// Calls `work(start, count)` by the pool's threads until every one of `elements` elements is done once. All tiles
/// but the first begin on a page border of the stream that starts at `address` with `size` bytes an element. Another
/// stream of the call has its borders on pages, too, if element 0 of both lies in the same place of a page, and on
/// cache lines if it does of a cache line.
pub fn over_tiles(
    pool: &Pool,
    elements: usize,
    address: *const u8,
    size: usize,
    work: &(dyn Fn(usize, usize) + Sync),
) {
    // Elements before the first page border, which go with the first tile.
    let lead = (address as usize).wrapping_neg() % PAGE / size;
    let tile = tile_elements(elements, pool.threads());
    let border = |number: usize| if number == 0 { 0 } else { elements.min(lead + number * tile) };
    let tiles = elements.saturating_sub(lead).div_ceil(tile).max(usize::from(elements > 0));
    pool.run(tiles, &|_, number| work(border(number), border(number + 1) - border(number)));
}

/// Elements of a tile, whole pages of every stream.
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
