// Sums over a warp and over a block, in an order that depends only on their size.
#pragma once
#include "gpu.h"

namespace hz {

constexpr unsigned kAllLanes = 0xffffffffu;

// Sums over aligned groups of LANES lanes; every lane gets the sum of its group.
template <int LANES = 32, class T>
__device__ __forceinline__ T warp_sum(T v) {
    HZ_UNROLL
    for (int d = LANES / 2; d; d >>= 1) v += __shfl_xor_sync(kAllLanes, v, d);
    return v;
}

// Sums over a block of WARPS warps; every thread gets the sum. `slots` has one value per warp; the caller
// must synchronize the block before reusing it.
template <int WARPS, class T>
__device__ __forceinline__ T block_sum(T v, T (&slots)[WARPS]) {
    v = warp_sum(v);
    if constexpr (WARPS == 1) return v;
    const int warp = int(threadIdx.x) >> 5, lane = int(threadIdx.x) & 31;
    if (lane == 0) slots[warp] = v;
    __syncthreads();
    return warp_sum(lane < WARPS ? slots[lane] : T(0));
}

}  // namespace hz
