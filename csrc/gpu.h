// The only header through which kernels access the GPU. With nvcc it includes CUDA and our PTX; with
// -DHZ_EMU and a host compiler it includes a GPU emulator with the same names (tests/emulator/emu.h), so
// that the same source runs under sanitizers.
//
// Rules for kernels, so that both work:
//  1. No inline PTX outside ptx.h.
//  2. Blocks consist of whole warps. No thread returns before a barrier or warp collective that others of
//     its block reach.
//  3. Accesses to shared memory within one warp are ordered by __syncwarp; a shuffle orders nothing.
//  4. No two unordered writes to one address, even of equal values. No float atomics.
//  5. A thread waits for all its cp.async before it exits.
//  6. Features are tested by name (HZ_HAS_WGMMA), never by __CUDA_ARCH__.
#pragma once

#if defined(HZ_EMU)
#include "emu.h"
#else

#include <cuda_runtime.h>
#include <stdint.h>

// HZ_LAUNCH(kernel, grid, block, dynamic_shared_bytes, cuda_stream, args...). A kernel name with commas in
// its template arguments needs parentheses: HZ_LAUNCH((k<A, B>), ...).
#define HZ_LAUNCH(kernel, grid, block, smem, cuda_stream, ...) \
    (kernel)<<<(grid), (block), (smem), (cuda_stream)>>>(__VA_ARGS__)

// HZ_SHARED(float, tile, [16][17]);   HZ_DYN_SHARED(buf, 128) declares `unsigned char* const buf`.
#define HZ_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define HZ_DYN_SHARED(name, alignment)                              \
    extern __shared__ __align__(1024) unsigned char hz_dyn_smem_[]; \
    static_assert((alignment) <= 1024, "alignment");                \
    unsigned char* const name = hz_dyn_smem_

#define HZ_UNROLL _Pragma("unroll")
#define HZ_PRAGMA(text) _Pragma(#text)
#define HZ_UNROLL_BY(n) HZ_PRAGMA(unroll n)
#define HZ_NOINLINE __attribute__((noinline))
#include "ptx.h"

namespace hz {
// The number of SMs that launchers try to occupy, about that of a large GPU. A constant, so that no result
// depends on the device.
constexpr int kMultiprocessors = 128;
}  // namespace hz
#endif
