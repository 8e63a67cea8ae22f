// C = A·Bᵀ with Hopper's warpgroup mma: one warpgroup a 64x64 tile, 128-byte swizzle, two stages of 64 along K. No kernel of the
// library uses wgmma yet; this keeps its wrappers true until one does.
#include "conform.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kTile = 64 * 64;  // bf16 elements: 64 rows of 128 bytes

[[maybe_unused]] __device__ __forceinline__ void load_tile(bf16* dst, const bf16* src, int width) {
    HZ_UNROLL
    for (int i = int(threadIdx.x); i < 64 * 8; i += 128) {
        const int r = i >> 3, chunk = i & 7;
        cp_async_16(dst + r * 64 + ((chunk ^ (r & 7)) << 3), src + size_t(r) * width + chunk * 8);
    }
}

__global__ void __launch_bounds__(128)
    conform_wgmma_kernel(float* __restrict__ C /* = */, const bf16* __restrict__ A, const bf16* __restrict__ B, int N, int K) {
#if HZ_HAS_WGMMA
    HZ_DYN_SHARED(raw, 1024);
    bf16* smem = reinterpret_cast<bf16*>(raw);
    const int m0 = int(blockIdx.y) * 64, n0 = int(blockIdx.x) * 64, tiles = K / 64;
    A += size_t(m0) * K;
    B += size_t(n0) * K;
    load_tile(smem, A, K);
    load_tile(smem + kTile, B, K);
    cp_async_commit();
    float acc[32];
    HZ_UNROLL
    for (int i = 0; i < 32; ++i) acc[i] = 0.f;
    for (int t = 0; t < tiles; ++t) {
        bf16* now = smem + (t & 1) * 2 * kTile;
        bf16* next = smem + ((t + 1) & 1) * 2 * kTile;
        if (t + 1 < tiles) {
            load_tile(next, A + (t + 1) * 64, K);
            load_tile(next + kTile, B + (t + 1) * 64, K);
        }
        cp_async_commit();
        cp_async_wait<1>();
        fence_proxy_async();  // wgmma reads shared memory through another proxy than the copies wrote it
        __syncthreads();
        const uint64_t a = wgmma_desc_sw128(now), b = wgmma_desc_sw128(now + kTile);
        wgmma_fence();
        HZ_UNROLL
        for (int k = 0; k < 4; ++k) wgmma_m64n64k16(acc, a + uint64_t(k * 2), b + uint64_t(k * 2), true);
        wgmma_commit();
        wgmma_wait<0>();
        __syncthreads();  // this stage may be refilled
    }
    const int warp = int(threadIdx.x) >> 5, lane = int(threadIdx.x) & 31;
    HZ_UNROLL
    for (int j = 0; j < 8; ++j)
        HZ_UNROLL
        for (int h = 0; h < 2; ++h) {
            const int row = m0 + warp * 16 + (lane >> 2) + h * 8, col = n0 + j * 8 + (lane & 3) * 2;
            *reinterpret_cast<float2*>(C + size_t(row) * N + col) = make_float2(acc[j * 4 + h * 2], acc[j * 4 + h * 2 + 1]);
        }
#else
    (void)C, (void)A, (void)B, (void)N, (void)K;
#endif
}

}  // namespace
}  // namespace hz

int conform_wgmma(float* C, const hzk_bf16* A, const hzk_bf16* B, int M, int N, int K) {
    const size_t smem = 4 * hz::kTile * sizeof(hzk_bf16);
    const cudaError_t e = cudaFuncSetAttribute(reinterpret_cast<const void*>(&hz::conform_wgmma_kernel),
                                               cudaFuncAttributeMaxDynamicSharedMemorySize, int(smem));
    if (e != cudaSuccess) return int(e);
    HZ_LAUNCH(hz::conform_wgmma_kernel, dim3(unsigned(N) / 64, unsigned(M) / 64), 128, smem, nullptr, C, A, B, N, K);
    return int(cudaGetLastError());
}
