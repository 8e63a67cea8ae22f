// Tiles in shared memory with rows of D bf16, in the layout of Hopper's wgmma, and matmuls of such tiles.
//
// A tile is divided into panels of 64 columns. A row of a panel is 128 bytes, with swizzled 16-byte chunks.
// The same tile serves as a K-major and as an MN-major operand, so it is loaded once for both of its
// matmuls.
//
// A warpgroup is four warps; each owns 16 of the 64 rows of a result, in the accumulator fragments of
// tile.h. wgmma is asynchronous: until the wait operands must not be written and accumulators must not be
// accessed. A group begins with wgmma_fence and ends with wgmma_commit.
#pragma once
#include "copy.h"

namespace hz {

template <int D, int ROWS>
struct Panels {
    static_assert((D == 64 || D == 128) && ROWS % 64 == 0);
    static constexpr int CHUNKS = D / 8;
    static constexpr int BYTES = ROWS * D * 2, PANEL_BYTES = ROWS * 128;

    // The offset of a row's chunk, in elements.
    static __device__ __forceinline__ int at(int row, int chunk) {
        return (chunk >> 3) * (ROWS * 64) + row * 64 + (((chunk ^ row) & 7) << 3);
    }

    // Issues cp.async for rows [row0, row0 + ROWS) of a matrix; rows at or past `end` become zeros.
    template <int THREADS>
    static __device__ __forceinline__ void load(bf16* tile, const bf16* matrix, size_t stride, int row0, int end) {
        copy_rows<Panels, D, ROWS, THREADS>(tile, matrix, stride, row0, end);
    }

    // Issues wgmma: acc = 64 rows of `left`, from row0, times the transpose of `right`.
    template <int RIGHT_ROWS>
    static __device__ __forceinline__ void queue_matmul_transposed(float (&acc)[RIGHT_ROWS / 8][4], const bf16* left, int row0,
                                                                   const bf16* right) {
        using Right = Panels<D, RIGHT_ROWS>;
        const uint64_t a = wgmma_descriptor(left + opaque(row0) * 64), b = wgmma_descriptor(right);
        HZ_UNROLL
        for (int k = 0; k < D / 16; ++k)
            wgmma_shared<RIGHT_ROWS>(acc, a + uint64_t(k / 4 * PANEL_BYTES + k % 4 * 32) / 16,
                                     b + uint64_t(k / 4 * Right::PANEL_BYTES + k % 4 * 32) / 16, k > 0);
    }

    // Loads the calling warp's 16 rows, from row0, as left operands of wgmma, one for each 16 columns.
    static __device__ __forceinline__ void load_fragments(uint32_t (&left)[D / 16][4], const bf16* tile, int row0) {
        const int lane = int(threadIdx.x) & 31;
        HZ_UNROLL
        for (int k = 0; k < D / 16; ++k) ldmatrix_x4(left[k], tile, 2 * at(row0 + (lane & 15), k * 2 + (lane >> 4)));
    }

    // Issues wgmma: acc = left times the transpose of `right`.
    template <int RIGHT_ROWS>
    static __device__ __forceinline__ void queue_matmul_transposed(float (&acc)[RIGHT_ROWS / 8][4],
                                                                   const uint32_t (&left)[D / 16][4], const bf16* right) {
        const uint64_t b = wgmma_descriptor(right);
        HZ_UNROLL
        for (int k = 0; k < D / 16; ++k)
            wgmma_registers<RIGHT_ROWS, true>(acc, left[k], b + uint64_t(k / 4 * Panels<D, RIGHT_ROWS>::PANEL_BYTES + k % 4 * 32) / 16,
                                              k > 0);
    }

    // Issues wgmma: acc (+)= w · tile; add = false overwrites acc.
    static __device__ __forceinline__ void queue_matmul(float (&acc)[D / 8][4], const uint32_t (&w)[ROWS / 16][4],
                                                        const bf16* tile, bool add) {
        const uint64_t b = wgmma_descriptor(tile, PANEL_BYTES);
        HZ_UNROLL
        for (int k = 0; k < ROWS / 16; ++k) wgmma_registers<D, false>(acc, w[k], b + uint64_t(k * 16 * 128) / 16, add || k > 0);
    }

    // Writes the 16 rows of a warp, acc · scale(half), as bf16 to rows row0.. of a matrix, skipping rows at
    // or past `end`. Stages them in rows tile_row0.. of `tile`, which must be unused, so that each lane
    // writes 16 bytes to global memory.
    template <class Scale>
    static __device__ __forceinline__ void store(bf16* matrix, size_t stride, int row0, int end, bf16* tile, int tile_row0,
                                                 const float (&acc)[D / 8][4], Scale scale) {
        const int lane = int(threadIdx.x) & 31;
        HZ_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int row = tile_row0 + half * 8 + (lane >> 2);
            const float s = scale(half);
            HZ_UNROLL
            for (int j = 0; j < CHUNKS; ++j)
                *reinterpret_cast<uint32_t*>(tile + at(row, j) + (lane & 3) * 2) =
                    pack_bf16x2(acc[j][half * 2] * s, acc[j][half * 2 + 1] * s);
        }
        __syncwarp();
        HZ_UNROLL
        for (int n = 0; n < 16 * CHUNKS / 32; ++n) {
            const int i = n * 32 + lane, row = i / CHUNKS, chunk = i % CHUNKS;
            if (row0 + row < end)
                store8(matrix + size_t(row0 + row) * stride + chunk * 8, load8(tile + at(tile_row0 + row, chunk)));
        }
    }
};

// Packs accumulator fragments with BLOCKS · 8 columns to bf16, as the left operand for a tile with BLOCKS · 8 rows.
template <int BLOCKS>
__device__ __forceinline__ void pack_fragments(uint32_t (&w)[BLOCKS / 2][4], const float (&s)[BLOCKS][4]) {
    HZ_UNROLL
    for (int k = 0; k < BLOCKS / 2; ++k)
        HZ_UNROLL
        for (int e = 0; e < 4; ++e) {
            const float* pair = &s[k * 2 + (e >> 1)][(e & 1) * 2];
            w[k][e] = pack_bf16x2(pair[0], pair[1]);
        }
}

}  // namespace hz
