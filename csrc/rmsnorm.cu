// RMSNorm: rstd = 1 / sqrt(mean(x²) + eps), out = residual + x · rstd · (offset + weight).
#include "column_sum.h"
#include "launch.h"
#include "reduce.h"
#include "vec.h"

namespace hz {
namespace {

// One row per block, in registers between the two passes, so it is read once. Each thread has VECS vectors
// of eight columns, so a block covers THREADS·VECS·8 columns. Least bytes: 4·N·C, with a residual 6·N·C.
// With RESIDUAL, it is loaded together with x, so a row waits for device memory once. out may be residual, and without
// RESIDUAL it may be x: each thread reads its columns before it writes them.
template <int THREADS, int VECS, bool RESIDUAL>
__global__ void __launch_bounds__(THREADS)
    rmsnorm_forward_kernel(bf16* out /* = */, float* __restrict__ rstd /* = */, const bf16* x, const bf16* __restrict__ weight,
                           const bf16* residual, float offset, float eps, int C, size_t out_stride, size_t x_stride) {
    HZ_SHARED(float, slots, [THREADS / 32]);
    const size_t row = blockIdx.x, base = row * out_stride;
    uint4 vx[VECS] = {}, old[VECS];
    HZ_UNROLL
    for (int v = 0; v < VECS; ++v) {
        const int c = (v * THREADS + int(threadIdx.x)) * 8;
        if (c < C) {
            vx[v] = load8_once(x + row * x_stride + c);
            if constexpr (RESIDUAL) old[v] = load8_once(residual + base + c);
        }
    }
    float sum = 0.f;
    HZ_UNROLL
    for (int v = 0; v < VECS; ++v) {
        float f[8];
        unpack8(vx[v], f);
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) sum += f[e] * f[e];
    }
    sum = block_sum(sum, slots);
    const float r = 1.f / sqrtf(sum / float(C) + eps);
    if (threadIdx.x == 0) rstd[row] = r;
    HZ_UNROLL
    for (int v = 0; v < VECS; ++v) {
        const int c = (v * THREADS + int(threadIdx.x)) * 8;
        if (c >= C) continue;
        float f[8], w[8];
        unpack8(vx[v], f);
        load8(weight + c, w);
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) f[e] = f[e] * r * (offset + w[e]);
        if constexpr (RESIDUAL) {
            float before[8];
            unpack8(old[v], before);
            HZ_UNROLL
            for (int e = 0; e < 8; ++e) f[e] += before[e];
        }
        store8(out + base + c, f);
    }
}

// Stage one: block b computes dx of rows b, b + gridDim.x, ..., sums their contribution to dweight in
// registers and writes it to partial[b]. Stage two is column_sum. Least bytes: 6·N·C, accumulating 8·N·C.
// All loads of a row are issued before the first use, so a row waits for device memory once. The barrier
// after them keeps the compiler from moving loads down.
// Without ACCUMULATE, dx may be dout or x: each thread reads its columns of a row before it writes them.
template <int THREADS, int VECS, bool ACCUMULATE>
__global__ void __launch_bounds__(THREADS)
    rmsnorm_backward_kernel(bf16* dx /* = or += */, float* __restrict__ partial /* = [gridDim.x, C] */, const bf16* dout,
                            const bf16* x, const bf16* __restrict__ weight, const float* __restrict__ rstd, float offset, int N,
                            int C, size_t dx_stride, size_t dout_stride, size_t x_stride) {
    HZ_SHARED(float, slots, [THREADS / 32]);
    float dweight[VECS][8] = {};
    for (int row = int(blockIdx.x); row < N; row += int(gridDim.x)) {
        uint4 vx[VECS], vd[VECS], old[VECS];
        HZ_UNROLL
        for (int v = 0; v < VECS; ++v) {
            const int c = (v * THREADS + int(threadIdx.x)) * 8;
            if (c < C) {
                vx[v] = load8_once(x + row * x_stride + c);
                vd[v] = load8_once(dout + row * dout_stride + c);
                if constexpr (ACCUMULATE) old[v] = load8_once(dx + row * dx_stride + c);
            }
        }
        const float r = __ldcs(rstd + row);
        __syncthreads();  // also: all have read the sum of the row before
        float dot = 0.f;
        HZ_UNROLL
        for (int v = 0; v < VECS; ++v) {
            const int c = (v * THREADS + int(threadIdx.x)) * 8;
            if (c >= C) continue;
            float fx[8], fd[8], w[8];
            unpack8(vx[v], fx);
            unpack8(vd[v], fd);
            load8(weight + c, w);
            HZ_UNROLL
            for (int e = 0; e < 8; ++e) dot += fd[e] * (offset + w[e]) * fx[e];
        }
        dot = block_sum(dot, slots) * r * r / float(C);
        HZ_UNROLL
        for (int v = 0; v < VECS; ++v) {
            const int c = (v * THREADS + int(threadIdx.x)) * 8;
            if (c >= C) continue;
            float fx[8], fd[8], w[8], g[8];
            unpack8(vx[v], fx);
            unpack8(vd[v], fd);
            load8(weight + c, w);
            HZ_UNROLL
            for (int e = 0; e < 8; ++e) {
                g[e] = r * (fd[e] * (offset + w[e]) - fx[e] * dot);
                dweight[v][e] += fd[e] * (fx[e] * r);
            }
            if constexpr (ACCUMULATE) {
                float f[8];
                unpack8(old[v], f);
                HZ_UNROLL
                for (int e = 0; e < 8; ++e) g[e] += f[e];
            }
            store8(dx + row * dx_stride + c, g);
        }
    }
    HZ_UNROLL
    for (int v = 0; v < VECS; ++v) {
        const int c = (v * THREADS + int(threadIdx.x)) * 8;
        if (c >= C) continue;
        float* p = partial + size_t(blockIdx.x) * C + c;
        store4(p, make_float4(dweight[v][0], dweight[v][1], dweight[v][2], dweight[v][3]));
        store4(p + 4, make_float4(dweight[v][4], dweight[v][5], dweight[v][6], dweight[v][7]));
    }
}

constexpr int64_t kWidthMax = 16384;

// Calls launch<THREADS, VECS>() for the smallest block that covers C.
template <class Launch>
int with_block_for(int64_t C, Launch launch) {
    if (C <= 1024) return launch.template operator()<128, 1>();
    if (C <= 2048) return launch.template operator()<256, 1>();
    if (C <= 4096) return launch.template operator()<256, 2>();
    if (C <= 8192) return launch.template operator()<512, 2>();
    return launch.template operator()<1024, 2>();
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_rmsnorm_forward(hzk_bf16* out, float* rstd, const hzk_bf16* x, const hzk_bf16* weight, const hzk_bf16* residual,
                        float offset, float eps, int64_t N, int64_t C, int64_t out_stride, int64_t x_stride, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && C <= kWidthMax && is_rows(out_stride, C) && is_rows(x_stride, C));
    HZK_NEED_ALIGNED(out, x, weight, residual);
    if (N == 0) return HZK_OK;
    return with_block_for(C, [&]<int THREADS, int VECS>() {
        if (residual)
            HZ_LAUNCH((rmsnorm_forward_kernel<THREADS, VECS, true>), unsigned(N), THREADS, 0, stream, out, rstd, x, weight,
                      residual, offset, eps, int(C), size_t(out_stride), size_t(x_stride));
        else
            HZ_LAUNCH((rmsnorm_forward_kernel<THREADS, VECS, false>), unsigned(N), THREADS, 0, stream, out, rstd, x, weight,
                      residual, offset, eps, int(C), size_t(out_stride), size_t(x_stride));
        return launch_status();
    });
}

size_t hzk_rmsnorm_backward_scratch(int64_t N, int64_t C) { return size_t(partial_rows(N)) * size_t(C) * sizeof(float); }

int hzk_rmsnorm_backward(hzk_bf16* dx, float* dweight, void* scratch, const hzk_bf16* dout, const hzk_bf16* x,
                         const hzk_bf16* weight, const float* rstd, float offset, int accumulate, int64_t N, int64_t C,
                         int64_t dx_stride, int64_t dout_stride, int64_t x_stride, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && C <= kWidthMax && is_rows(dx_stride, C) && is_rows(dout_stride, C) && is_rows(x_stride, C));
    HZK_NEED_ALIGNED(dx, dweight, scratch, dout, x, weight);
    if (N == 0) return HZK_OK;
    float* partial = static_cast<float*>(scratch);
    const unsigned blocks = unsigned(partial_rows(N));
    const int status = with_block_for(C, [&]<int THREADS, int VECS>() {
        if (accumulate)
            HZ_LAUNCH((rmsnorm_backward_kernel<THREADS, VECS, true>), blocks, THREADS, 0, stream, dx, partial, dout, x,
                      weight, rstd, offset, int(N), int(C), size_t(dx_stride), size_t(dout_stride), size_t(x_stride));
        else
            HZ_LAUNCH((rmsnorm_backward_kernel<THREADS, VECS, false>), blocks, THREADS, 0, stream, dx, partial, dout, x,
                      weight, rstd, offset, int(N), int(C), size_t(dx_stride), size_t(dout_stride), size_t(x_stride));
        return launch_status();
    });
    if (status != HZK_OK) return status;
    launch_column_sum(dweight, partial, int(blocks), int(C), stream);
    return launch_status();
}
