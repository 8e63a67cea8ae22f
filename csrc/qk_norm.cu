// QK norm: RMSNorm per head, with one weight of size D for all heads; the gain is offset + weight.
#include "column_sum.h"
#include "reduce.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kWarps = 8;

// Lanes per head, eight columns each; at D 96 = 12·8 four of the 16 lanes are idle.
template <int D>
constexpr int kLanes = D == 64 ? 8 : D == 256 ? 32 : 16;
template <int D>
constexpr int kHeadsPerBlock = 32 * kWarps / kLanes<D>;

// Index i of a head is row · heads + head. 32 / LANES heads per warp.
// Least bytes: 4·N·heads·D. out may be x: a thread reads its columns before it writes them.
template <int D>
__global__ void __launch_bounds__(32 * kWarps)
    qk_norm_forward_kernel(bf16* out /* = */, float* __restrict__ rstd /* = */, const bf16* x,
                           const bf16* __restrict__ weight, float offset, float eps, unsigned total, unsigned heads,
                           size_t out_stride, size_t x_stride) {
    constexpr int LANES = kLanes<D>, PER_BLOCK = kHeadsPerBlock<D>;
    const int c = int(threadIdx.x) % LANES * 8;
    const unsigned i = blockIdx.x * PER_BLOCK + threadIdx.x / LANES;
    const bool here = i < total && c < D;
    const size_t row = i / heads, column = size_t(i % heads) * D + c;
    float f[8] = {}, sum = 0.f;
    if (here) load8_once(x + row * x_stride + column, f);
    HZ_UNROLL
    for (int e = 0; e < 8; ++e) sum += f[e] * f[e];
    sum = warp_sum<LANES>(sum);
    const float r = 1.f / sqrtf(sum / float(D) + eps);
    if (!here) return;
    if (c == 0) rstd[i] = r;
    float w[8];
    load8(weight + c, w);
    HZ_UNROLL
    for (int e = 0; e < 8; ++e) f[e] = f[e] * r * (offset + w[e]);
    store8(out + row * out_stride + column, f);
}

// Stage one as in rmsnorm.cu: dx of this block's heads, and their contribution to dweight, summed in
// registers over the heads of a lane group, then over the groups in order into partial[block]. Least bytes:
// 6·N·heads·D.
template <int D>
__global__ void __launch_bounds__(32 * kWarps)
    qk_norm_backward_kernel(bf16* dx /* = */, float* __restrict__ partial /* = [gridDim.x, D] */, const bf16* dout,
                            const bf16* __restrict__ x, const bf16* __restrict__ weight, const float* __restrict__ rstd,
                            float offset, unsigned total, unsigned heads, size_t dx_stride, size_t dout_stride,
                            size_t x_stride) {
    constexpr int LANES = kLanes<D>, PER_BLOCK = kHeadsPerBlock<D>;
    HZ_SHARED(float4, shares, [PER_BLOCK * D / 4]);
    float* sums = reinterpret_cast<float*>(shares);  // [PER_BLOCK][D]
    const int group = int(threadIdx.x) / LANES, c = int(threadIdx.x) % LANES * 8;
    float dweight[8] = {}, w[8] = {};
    if (c < D) load8(weight + c, w);
    HZ_UNROLL
    for (int e = 0; e < 8; ++e) w[e] += offset;
    const unsigned step = gridDim.x * PER_BLOCK;
    for (unsigned block0 = blockIdx.x * PER_BLOCK; block0 < total; block0 += step) {  // whole warps go round
        const unsigned i = block0 + unsigned(group);
        const bool here = i < total && c < D;
        const size_t row = i / heads, column = size_t(i % heads) * D + c;
        float fx[8] = {}, fd[8] = {}, r = 0.f, dot = 0.f;
        if (here) {
            load8_once(x + row * x_stride + column, fx);
            load8_once(dout + row * dout_stride + column, fd);
            r = rstd[i];
        }
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) dot += fd[e] * w[e] * fx[e];
        dot = warp_sum<LANES>(dot);
        if (!here) continue;
        dot *= r * r / float(D);
        float g[8];
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) {
            g[e] = r * (fd[e] * w[e] - fx[e] * dot);
            dweight[e] += fd[e] * (fx[e] * r);
        }
        store8(dx + row * dx_stride + column, g);
    }
    if (c < D) {
        store4(sums + group * D + c, make_float4(dweight[0], dweight[1], dweight[2], dweight[3]));
        store4(sums + group * D + c + 4, make_float4(dweight[4], dweight[5], dweight[6], dweight[7]));
    }
    __syncthreads();
    if (int(threadIdx.x) < D) {
        float s = 0.f;
        for (int g = 0; g < PER_BLOCK; ++g) s += sums[g * D + int(threadIdx.x)];
        partial[size_t(blockIdx.x) * D + threadIdx.x] = s;
    }
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_qk_norm_forward(hzk_bf16* out, float* rstd, const hzk_bf16* x, const hzk_bf16* weight, float offset, float eps,
                        int64_t N, int64_t heads, int64_t D, int64_t out_stride, int64_t x_stride, hzk_stream stream) {
    HZK_NEED_SHAPE(heads > 0 && heads <= kIntMax && is_count(N) && is_count(N * heads) && is_rows(out_stride, heads * D) &&
                   is_rows(x_stride, heads * D));
    HZK_NEED_ALIGNED(out, x, weight);
    if (N == 0) return HZK_OK;
    return with_head_dim(D, [&]<int DIM>() {
        const unsigned blocks = unsigned(ceil_div(N * heads, kHeadsPerBlock<DIM>));
        HZ_LAUNCH(qk_norm_forward_kernel<DIM>, blocks, 32 * kWarps, 0, stream, out, rstd, x, weight, offset, eps,
                  unsigned(N * heads), unsigned(heads), size_t(out_stride), size_t(x_stride));
        return launch_status();
    });
}

size_t hzk_qk_norm_backward_scratch(int64_t N, int64_t heads, int64_t D) {
    size_t bytes = 0;
    with_head_dim(D, [&]<int DIM>() {
        bytes = size_t(partial_rows(ceil_div(N * heads, kHeadsPerBlock<DIM>))) * DIM * sizeof(float);
        return HZK_OK;
    });
    return bytes;
}

int hzk_qk_norm_backward(hzk_bf16* dx, float* dweight, void* scratch, const hzk_bf16* dout, const hzk_bf16* x,
                         const hzk_bf16* weight, const float* rstd, float offset, int64_t N, int64_t heads, int64_t D,
                         int64_t dx_stride, int64_t dout_stride, int64_t x_stride, hzk_stream stream) {
    HZK_NEED_SHAPE(heads > 0 && heads <= kIntMax && is_count(N) && is_count(N * heads) && is_rows(dx_stride, heads * D) &&
                   is_rows(dout_stride, heads * D) && is_rows(x_stride, heads * D));
    HZK_NEED_ALIGNED(dx, dweight, scratch, dout, x, weight);
    if (N == 0) return HZK_OK;
    float* partial = static_cast<float*>(scratch);
    return with_head_dim(D, [&]<int DIM>() {
        const unsigned blocks = unsigned(partial_rows(ceil_div(N * heads, kHeadsPerBlock<DIM>)));
        HZ_LAUNCH(qk_norm_backward_kernel<DIM>, blocks, 32 * kWarps, 0, stream, dx, partial, dout, x, weight, rstd,
                  offset, unsigned(N * heads), unsigned(heads), size_t(dx_stride), size_t(dout_stride), size_t(x_stride));
        launch_column_sum(dweight, partial, int(blocks), DIM, stream);
        return launch_status();
    });
}
