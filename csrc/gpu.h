// The only header through which a kernel sees the device. nvcc gets CUDA and our PTX; with -DHZ_EMU the host compiler gets
// an emulated GPU of the same names (tests/emulator/emu.h), so that the same source runs under sanitizers.
//
// Rules that keep both true:
//  1. No inline PTX outside ptx.h.
//  2. Blocks are whole warps. No thread returns before a barrier or warp collective that others of its block reach.
//  3. Shared memory that only one warp uses is ordered by __syncwarp; a shuffle orders nothing.
//  4. No two threads write one address without order, equal values included. No float atomics.
//  5. Every cp.async is waited for before its thread exits.
//  6. Features are asked for by name (HZ_HAS_WGMMA), never by __CUDA_ARCH__.
#pragma once

#if defined(HZ_EMU)
#include "emu.h"
#else

#include <cuda_runtime.h>
#include <stdint.h>

// HZ_LAUNCH(kernel, grid, block, dynamic_shared_bytes, stream, args...); a template kernel whose arguments hold commas goes
// in parentheses: HZ_LAUNCH((k<A, B>), ...).
#define HZ_LAUNCH(kernel, grid, block, smem, stream, ...) \
    (kernel)<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)

// HZ_SHARED(float, tile, [16][17]);   HZ_DYN_SHARED(buf, 128) gives `unsigned char* const buf`.
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
// Multiprocessors that a launcher tries to occupy: about those of a large device. A constant, so that no result depends on the device.
constexpr int kMultiprocessors = 128;
}  // namespace hz
#endif
