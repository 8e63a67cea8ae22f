// Sums over a warp and over a block, in an order that depends on nothing but their size.
#pragma once
#include "gpu.h"

namespace hz {

constexpr unsigned kAllLanes = 0xffffffffu;

// Sum over aligned groups of LANES lanes; every lane gets its group's.
template <int LANES = 32, class T>
__device__ __forceinline__ T warp_sum(T v) {
    HZ_UNROLL
    for (int d = LANES / 2; d; d >>= 1) v += __shfl_xor_sync(kAllLanes, v, d);
    return v;
}

// Sum over a block of WARPS warps; every thread gets it. `slots` holds one value per warp: before it is used again, the caller
// puts a barrier.
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
