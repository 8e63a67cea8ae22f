// Copies of matrix rows to tiles in shared memory, with cp.async.
#pragma once
#include "vec.h"

namespace hz {

// Issues cp.async for rows [row0, row0 + ROWS) of a matrix with D columns; rows at or past `end` become
// zeros. Layout::at(row, chunk) is the offset of 8 elements in the tile. It repeats every 8 rows, so a
// thread computes one address per phase and adds constants.
template <class Layout, int D, int ROWS, int THREADS>
__device__ __forceinline__ void copy_rows(bf16* tile, const bf16* matrix, size_t stride, int row0, int end) {
    constexpr int CHUNKS = D / 8;
    constexpr int PHASES = CHUNKS % 3 == 0 ? 3 : THREADS < 8 * CHUNKS ? 8 * CHUNKS / THREADS : 1;
    constexpr int STEP = PHASES * THREADS / CHUNKS;  // rows
    static_assert(PHASES * THREADS % CHUNKS == 0 && STEP % 8 == 0 && ROWS % STEP == 0);
    const int thread = opaque(int(threadIdx.x));
    HZ_UNROLL
    for (int phase = 0; phase < PHASES; ++phase) {
        const int i = phase * THREADS + thread, row = row0 + i / CHUNKS, chunk = i % CHUNKS;
        bf16* const to = tile + Layout::at(i / CHUNKS, chunk);
        const bf16* from = matrix + size_t(row) * stride + chunk * 8;
        HZ_UNROLL
        for (int n = 0; n < ROWS; n += STEP, from += STEP * stride) cp_async_16(to + Layout::at(n, 0), from, row + n < end);
    }
}

}  // namespace hz
