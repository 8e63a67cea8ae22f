// Hopper's warpgroup mma as the kernels use it: C = A·Bᵀ with both operands in shared memory and with A in registers,
// then C·B with C in registers. One warpgroup per block of 64 rows.
#include "conform.h"
#include "launch.h"
#include "warpgroup.h"

namespace hz {
namespace {

template <int D, int ROWS>
__global__ void __launch_bounds__(128)
    conform_wgmma_kernel(float* __restrict__ C /* = [M,ROWS] */, float* __restrict__ from_registers /* = [M,ROWS] */,
                         float* __restrict__ back /* = [M,D] */, const bf16* __restrict__ A, const bf16* __restrict__ B) {
#if HZ_HAS_WGMMA
    using Left = Panels<D, 64>;
    using Right = Panels<D, ROWS>;
    HZ_DYN_SHARED(raw, 1024);
    bf16 *const left = reinterpret_cast<bf16*>(raw), *const right = left + 64 * D;
    const int m0 = int(blockIdx.x) * 64;
    Left::template load<128>(left, A, D, m0, m0 + 64);
    Right::template load<128>(right, B, D, 0, ROWS);
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
    float c[ROWS / 8][4], c_registers[ROWS / 8][4], d[D / 8][4];
    uint32_t a[D / 16][4], w[ROWS / 16][4];
    Left::load_fragments(a, left, int(threadIdx.x) / 32 * 16);
    wgmma_fence();
    Left::template queue_matmul_transposed<ROWS>(c, left, 0, right);
    Left::template queue_matmul_transposed<ROWS>(c_registers, a, right);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_landed(c);
    wgmma_landed(c_registers);
    pack_fragments(w, c);
    wgmma_fence();
    Right::queue_matmul(d, w, right, false);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_landed(d);
    const int lane = int(threadIdx.x) & 31, row = m0 + int(threadIdx.x) / 32 * 16 + (lane >> 2), col = (lane & 3) * 2;
    HZ_UNROLL
    for (int half = 0; half < 2; ++half) {
        HZ_UNROLL
        for (int j = 0; j < ROWS / 8; ++j) {
            const size_t at = size_t(row + half * 8) * ROWS + j * 8 + col;
            *reinterpret_cast<float2*>(C + at) = make_float2(c[j][half * 2], c[j][half * 2 + 1]);
            *reinterpret_cast<float2*>(from_registers + at) = make_float2(c_registers[j][half * 2], c_registers[j][half * 2 + 1]);
        }
        HZ_UNROLL
        for (int j = 0; j < D / 8; ++j)
            *reinterpret_cast<float2*>(back + size_t(row + half * 8) * D + j * 8 + col) =
                make_float2(d[j][half * 2], d[j][half * 2 + 1]);
    }
#else
    (void)C, (void)from_registers, (void)back, (void)A, (void)B;
#endif
}

template <int D, int ROWS>
int launch(float* C, float* from_registers, float* back, const bf16* A, const bf16* B, int M) {
    const size_t smem = size_t(64 + ROWS) * D * sizeof(bf16);
    const int status = allow_shared(conform_wgmma_kernel<D, ROWS>, smem);
    if (status != HZK_OK) return status;
    HZ_LAUNCH((conform_wgmma_kernel<D, ROWS>), unsigned(M) / 64, 128, smem, nullptr, C, from_registers, back, A, B);
    return launch_status();
}

}  // namespace
}  // namespace hz

int conform_wgmma(float* C, float* from_registers, float* back, const hzk_bf16* A, const hzk_bf16* B, int M, int N, int K) {
    if (K == 64 && N == 64) return hz::launch<64, 64>(C, from_registers, back, A, B, M);
    if (K == 64 && N == 128) return hz::launch<64, 128>(C, from_registers, back, A, B, M);
    if (K == 128 && N == 64) return hz::launch<128, 64>(C, from_registers, back, A, B, M);
    if (K == 128 && N == 128) return hz::launch<128, 128>(C, from_registers, back, A, B, M);
    return HZK_ERROR_SHAPE;
}
