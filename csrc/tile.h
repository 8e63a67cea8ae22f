// Tiles in shared memory with rows of D bf16, and fragments of mma.m16n8k16 loaded from them.
//
// Rows are dense; within a row the 16-byte chunks are swizzled, so that the eight rows of an ldmatrix are
// in different banks. D is 64, 96, 128 or 256.
//
// Accumulator fragments: of a 16x8 block, lane t of a warp holds rows r = t/4 and r + 8, columns c = 2(t%4)
// and c + 1: {[r][c], [r][c+1], [r+8][c], [r+8][c+1]}.
#pragma once
#include "copy.h"

namespace hz {

template <int D>
struct Tile {
    static_assert(D == 64 || D == 96 || D == 128 || D == 256);
    static constexpr int CHUNKS = D / 8;

    // The offset of a row's chunk, in elements. At D 96 a row starts 64 bytes after the previous one,
    // modulo the 128 bytes of all banks: two rows share a phase, and four phases keep the chunk inside its
    // row.
    static __device__ __forceinline__ int at(int row, int chunk) {
        return row * D + ((D == 96 ? chunk ^ (row >> 1 & 3) : chunk ^ (row & 7)) << 3);
    }

    // Issues cp.async for rows [row0, row0 + ROWS) of a matrix; rows at or past `end` become zeros.
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void load(bf16* tile, const bf16* matrix, size_t stride, int row0, int end) {
        copy_rows<Tile, D, ROWS, THREADS>(tile, matrix, stride, row0, end);
    }

    // Left operand: rows row0..+16, columns 16·k..+16.
    static __device__ __forceinline__ void left(uint32_t (&a)[4], const bf16* tile, int lane, int row0, int k) {
        ldmatrix_x4(a, tile, 2 * at(row0 + (lane & 15), k * 2 + (lane >> 4)));
    }
    // Right operand for · tileᵀ: rows row0..+16 are two blocks of output columns, {b[0], b[1]} and {b[2], b[3]};
    // columns 16·k..+16.
    static __device__ __forceinline__ void right_transposed(uint32_t (&b)[4], const bf16* tile, int lane, int row0, int k) {
        ldmatrix_x4(b, tile, 2 * at(row0 + (lane & 7) + ((lane >> 4) << 3), k * 2 + (lane >> 3 & 1)));
    }
    // Right operand for · tile: rows row0..+16 are the reduction dimension; columns 16·n..+16 are two
    // blocks of output columns.
    static __device__ __forceinline__ void right(uint32_t (&b)[4], const bf16* tile, int lane, int row0, int n) {
        ldmatrix_x4_trans(b, tile, 2 * at(row0 + (lane & 15), n * 2 + (lane >> 4)));
    }

    // acc[MI][COLS/8] += rows row0 + 16·mi of `a` times the first COLS rows of `b`, transposed.
    template <int MI, int COLS>
    static __device__ __forceinline__ void matmul_transposed(float (&acc)[MI][COLS / 8][4], const bf16* a, int row0,
                                                             const bf16* b) {
        const int lane = opaque(int(threadIdx.x) & 31);
        HZ_UNROLL_BY(2)
        for (int k = 0; k < D / 16; ++k) {
            uint32_t fa[MI][4];
            HZ_UNROLL
            for (int mi = 0; mi < MI; ++mi) left(fa[mi], a, lane, row0 + mi * 16, k);
            HZ_UNROLL
            for (int n = 0; n < COLS / 16; ++n) {
                uint32_t fb[4];
                right_transposed(fb, b, lane, n * 16, k);
                HZ_UNROLL
                for (int mi = 0; mi < MI; ++mi) {
                    mma_bf16(acc[mi][n * 2], fa[mi], fb[0], fb[1]);
                    mma_bf16(acc[mi][n * 2 + 1], fa[mi], fb[2], fb[3]);
                }
            }
        }
    }

    // acc[MI][D/8] += w · tile; w has ROWS columns, in accumulator fragments, and is rounded to bf16.
    template <int MI, int ROWS>
    static __device__ __forceinline__ void matmul(float (&acc)[MI][D / 8][4], const float (&w)[MI][ROWS / 8][4],
                                                  const bf16* tile) {
        const int lane = opaque(int(threadIdx.x) & 31);
        HZ_UNROLL
        for (int k = 0; k < ROWS / 16; ++k) {
            uint32_t a[MI][4];
            HZ_UNROLL
            for (int mi = 0; mi < MI; ++mi)
                HZ_UNROLL
                for (int e = 0; e < 4; ++e) {
                    const float* pair = &w[mi][k * 2 + (e >> 1)][(e & 1) * 2];
                    a[mi][e] = pack_bf16x2(pair[0], pair[1]);
                }
            HZ_UNROLL
            for (int n = 0; n < D / 16; ++n) {
                uint32_t b[4];
                right(b, tile, lane, k * 16, n);
                HZ_UNROLL
                for (int mi = 0; mi < MI; ++mi) {
                    mma_bf16(acc[mi][n * 2], a[mi], b[0], b[1]);
                    mma_bf16(acc[mi][n * 2 + 1], a[mi], b[2], b[3]);
                }
            }
        }
    }

    // Writes acc · scale(mi, half) as bf16 to rows row0 + (0..16·MI) of a matrix, skipping rows at or past
    // `end`. Stages the rows in the warp's own rows of `tile`, so that each lane writes 16 bytes to global
    // memory. A barrier is required after the last read of these rows.
    template <int MI, class Scale>
    static __device__ __forceinline__ void store(bf16* matrix, size_t stride, int row0, int end, bf16* tile, int tile_row0,
                                                 const float (&acc)[MI][D / 8][4], Scale scale) {
        const int lane = int(threadIdx.x) & 31;
        HZ_UNROLL
        for (int mi = 0; mi < MI; ++mi)
            HZ_UNROLL
            for (int half = 0; half < 2; ++half) {
                const int row = tile_row0 + mi * 16 + half * 8 + (lane >> 2);
                const float s = scale(mi, half);
                HZ_UNROLL
                for (int j = 0; j < D / 8; ++j)
                    *reinterpret_cast<uint32_t*>(tile + at(row, j) + (lane & 3) * 2) =
                        pack_bf16x2(acc[mi][j][half * 2] * s, acc[mi][j][half * 2 + 1] * s);
            }
        __syncwarp();
        HZ_UNROLL
        for (int n = 0; n < MI * 16 * CHUNKS / 32; ++n) {
            const int i = n * 32 + lane, row = i / CHUNKS, chunk = i % CHUNKS;
            if (row0 + row < end)
                store8(matrix + size_t(row0 + row) * stride + chunk * 8, load8(tile + at(tile_row0 + row, chunk)));
        }
    }
};

template <int MI, int COLS>
__device__ __forceinline__ void clear(float (&acc)[MI][COLS][4]) {
    HZ_UNROLL
    for (int mi = 0; mi < MI; ++mi)
        HZ_UNROLL
        for (int j = 0; j < COLS; ++j)
            HZ_UNROLL
            for (int e = 0; e < 4; ++e) acc[mi][j][e] = 0.f;
}

}  // namespace hz
