// Every warp primitive and PTX wrapper once. The expected results in op_conform.cc follow the PTX manual, not the
// emulator, so the same test checks the emulator here and ptx.h on a GPU.
#include "conform.h"
#include "vec.h"

namespace hz {
namespace {

// One warp. A is [16,16], B is [8,16] (the column operand, transposed), both row-major.
__global__ void __launch_bounds__(32)
    conform_kernel(float* __restrict__ mma /* = [16,8] */, uint32_t* __restrict__ words /* = [kConformWords,32] */,
                   const bf16* __restrict__ A, const bf16* __restrict__ B) {
    const int t = int(threadIdx.x);
    HZ_DYN_SHARED(raw, 128);
    uint16_t* s = reinterpret_cast<uint16_t*>(raw);  // 32 rows of 8: four 8x8 matrices; then 32 rows and 32 words that cp.async fills

    uint32_t a[4], b[2];
    float d[4] = {};
    auto pair = [](const bf16* p) { return uint32_t(p[0].bits) | uint32_t(p[1].bits) << 16; };
    HZ_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = pair(A + (t / 4 + (i & 1) * 8) * 16 + (t % 4) * 2 + (i >> 1) * 8);
    HZ_UNROLL
    for (int i = 0; i < 2; ++i) b[i] = pair(B + (t / 4) * 16 + (t % 4) * 2 + i * 8);
    mma_bf16(d, a, b[0], b[1]);
    HZ_UNROLL
    for (int i = 0; i < 4; ++i) mma[(t / 4 + (i >> 1) * 8) * 8 + (t % 4) * 2 + (i & 1)] = d[i];

    for (int i = 0; i < 8; ++i) s[t * 8 + i] = uint16_t(t * 8 + i);
    cp_async_16(s + 256 + t * 8, A + t * 8, t % 2 == 0);  // odd rows are filled with zeros
    cp_async_4(s + 512 + t * 2, A + 2 + t * 2, t % 3 != 0);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    uint32_t r[4];
    int k = 0;
    auto put = [&](uint32_t v) { words[32 * k++ + t] = v; };
    ldmatrix_x4(r, s, t * 16);
    HZ_UNROLL
    for (int i = 0; i < 4; ++i) put(r[i]);
    ldmatrix_x4_trans(r, s, t * 16);
    HZ_UNROLL
    for (int i = 0; i < 4; ++i) put(r[i]);
    put(s[256 + ((t * 8 + 8) & 255)]);
    put(uint32_t(s[512 + (t ^ 1) * 2]) | uint32_t(s[512 + (t ^ 1) * 2 + 1]) << 16);
    put(uint32_t(__shfl_sync(~0u, t, 5)));
    put(uint32_t(__shfl_sync(~0u, t, 3, 8)));
    put(uint32_t(__shfl_xor_sync(~0u, t, 6)));
    put(uint32_t(__shfl_xor_sync(~0u, t, 9, 8)));
    put(uint32_t(__shfl_down_sync(~0u, t, 3)));
    put(uint32_t(__shfl_down_sync(~0u, t, 3, 16)));
    put(uint32_t(__shfl_up_sync(~0u, t, 3)));
    put(uint32_t(__shfl_up_sync(~0u, t, 3, 16)));
    put(__ballot_sync(~0u, t % 3 == 0));
    put(uint32_t(__any_sync(~0u, t == 40)));
    put(uint32_t(__all_sync(~0u, t < 32)));
    put(uint32_t(__reduce_add_sync(~0u, t)));
    put(uint32_t(__reduce_max_sync(~0u, t * 7 % 31)));
    put(__reduce_or_sync(~0u, 1u << (t & 15)));
    put(__match_any_sync(~0u, t / 5));
    put(t < 16 ? uint32_t(__shfl_xor_sync(0xffffu, t, 1)) : uint32_t(__shfl_xor_sync(0xffff0000u, t, 2)));
    put(pack_bf16x2(1.f + float(t) / 256.f, __uint_as_float(0x7f7f8000u)));  // ties; the largest that rounds to infinity
    put(__float_as_uint(exp2_approx(float(t - 16))));                        // powers of two are exact
    put(__float_as_uint(exp2_approx(-INFINITY)));
}

}  // namespace
}  // namespace hz

int conform(float* mma, uint32_t* words, const hzk_bf16* A, const hzk_bf16* B) {
    HZ_LAUNCH(hz::conform_kernel, 1, 32, 2 * 32 * 16 + 32 * 4, nullptr, mma, words, A, B);
    return int(cudaGetLastError());
}
