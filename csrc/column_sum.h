// Second stage of all sums over rows (dweight of norms, dbias). The first stage writes one partial row per block.
#pragma once
#include "launch.h"

namespace hz {

// The largest number of first-stage blocks, and so of partial rows. Fixed: the order of a sum must not
// depend on the device.
constexpr int64_t kPartialRowsMax = 512;
inline int64_t partial_rows(int64_t rows) { return rows < kPartialRowsMax ? rows : kPartialRowsMax; }

// out[c] += sum of partial[r][c] over r < rows. 32 columns per block; 8 groups of threads sum interleaved
// rows, then the group sums are added in order.
// Least bytes: 4·rows·cols + 8·cols.
constexpr int kColumnGroups = 8;
static __global__ void __launch_bounds__(32 * kColumnGroups)
    column_sum_kernel(float* __restrict__ out /* += */, const float* __restrict__ partial, int rows, int cols) {
    HZ_SHARED(float, sums, [kColumnGroups][32]);
    const int lane = int(threadIdx.x), group = int(threadIdx.y);
    const int c = int(blockIdx.x) * 32 + lane;
    float s = 0.f;
    if (c < cols)
        for (int r = group; r < rows; r += kColumnGroups) s += partial[size_t(r) * cols + c];
    sums[group][lane] = s;
    __syncthreads();
    if (group == 0 && c < cols) {
        HZ_UNROLL
        for (int g = 1; g < kColumnGroups; ++g) s += sums[g][lane];
        out[c] += s;
    }
}
inline void launch_column_sum(float* out, const float* partial, int rows, int cols, cudaStream_t stream) {
    HZ_LAUNCH(column_sum_kernel, unsigned(ceil_div(cols, 32)), dim3(32, kColumnGroups), 0, stream, out, partial, rows,
              cols);
}

}  // namespace hz
