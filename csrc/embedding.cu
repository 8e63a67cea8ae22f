// Embedding: forward gathers rows; backward sums rows by token, without atomics.
#include "vec.h"
#include "launch.h"

namespace hz {
namespace {

// One row per block. Least bytes: 4·N·C.
__global__ void __launch_bounds__(256)
    embedding_forward_kernel(bf16* __restrict__ out /* = */, const int32_t* __restrict__ tokens,
                             const bf16* __restrict__ weight, float scale, int C, int64_t V) {
    const size_t row = blockIdx.x;
    const int64_t token = tokens[row];
    const bool valid = token >= 0 && token < V;
    const bf16* src = weight + size_t(valid ? token : 0) * C;
    for (int c = int(threadIdx.x) * 8; c < C; c += int(blockDim.x) * 8) {
        float f[8];
        load8(src + c, f);
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) f[e] *= scale;
        store8(out + row * C + c, valid ? pack8(f) : make_uint4(~0u, ~0u, ~0u, ~0u));  // bf16 NaNs
    }
}

// One token and 256 columns per block: eight warps divide the token's rows, then warp 0 adds their sums in order
// and scales the total. Eight, because frequent tokens have thousands of rows; for a token with one row seven warps are idle.
// Least bytes: 2·N·C + 8·U·C.
constexpr int kWarps = 8, kColumns = 256;
__global__ void __launch_bounds__(32 * kWarps)
    embedding_backward_kernel(float* __restrict__ dweight /* += */, const bf16* __restrict__ dout,
                              const int32_t* __restrict__ tokens, const int32_t* __restrict__ order,
                              const int32_t* __restrict__ first, float scale, int C, int64_t V) {
    HZ_SHARED(float4, sums, [kWarps][kColumns / 4]);
    const int lane = int(threadIdx.x), warp = int(threadIdx.y);
    const int c = int(blockIdx.y) * kColumns + lane * 8;
    const int begin = first[blockIdx.x], end = first[blockIdx.x + 1];
    const int64_t token = tokens[order[begin]];
    float acc[8] = {};
    if (c < C) {
        HZ_UNROLL_BY(4)
        for (int i = begin + warp; i < end; i += kWarps) {
            float f[8];
            load8_once(dout + size_t(order[i]) * C + c, f);
            HZ_UNROLL
            for (int e = 0; e < 8; ++e) acc[e] += f[e];
        }
    }
    sums[warp][lane * 2] = make_float4(acc[0], acc[1], acc[2], acc[3]);
    sums[warp][lane * 2 + 1] = make_float4(acc[4], acc[5], acc[6], acc[7]);
    __syncthreads();
    if (warp != 0 || c >= C || token < 0 || token >= V) return;
    const int warps = min(kWarps, end - begin);
    HZ_UNROLL
    for (int half = 0; half < 2; ++half) {
        float4 s = sums[0][lane * 2 + half];
        for (int w = 1; w < warps; ++w) {
            const float4 t = sums[w][lane * 2 + half];
            s.x += t.x, s.y += t.y, s.z += t.z, s.w += t.w;
        }
        float* dst = dweight + size_t(token) * C + c + half * 4;
        const float4 old = load4(dst);
        store4(dst, make_float4(old.x + scale * s.x, old.y + scale * s.y, old.z + scale * s.z, old.w + scale * s.w));
    }
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_embedding_forward(hzk_bf16* out, const int32_t* tokens, const hzk_bf16* weight, float scale, int64_t N, int64_t C,
                          int64_t V, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && is_width(C) && V > 0 && V <= kIntMax);
    HZK_NEED_ALIGNED(out, weight);
    if (N == 0) return HZK_OK;
    const int threads = int(min(int64_t(256), ceil_div(C / 8, 32) * 32));
    HZ_LAUNCH(embedding_forward_kernel, unsigned(N), threads, 0, stream, out, tokens, weight, scale, int(C), V);
    return launch_status();
}

int hzk_embedding_backward(float* dweight, const hzk_bf16* dout, const int32_t* tokens, const int32_t* order,
                           const int32_t* first, float scale, int64_t N, int64_t U, int64_t C, int64_t V, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && is_width(C) && C <= 1 << 24 && V > 0 && V <= kIntMax && U >= 0 && U <= N);
    HZK_NEED_ALIGNED(dweight, dout);
    if (U == 0) return HZK_OK;
    HZ_LAUNCH(embedding_backward_kernel, dim3(unsigned(U), unsigned(ceil_div(C, kColumns))), dim3(32, kWarps), 0, stream,
              dweight, dout, tokens, order, first, scale, int(C), V);
    return launch_status();
}
