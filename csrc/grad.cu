// Gradients on their way out of the device: summing in f32, rounding as the store rounds, and the sum of squares for the norm.
#include "launch.h"
#include "reduce.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kThreads = 256, kVector = 8;
constexpr int64_t kBlocksMax = 1024;  // fixed: the order of a sum must not depend on the device

// The store's rounding, half away from zero. A NaN whose payload the carry would overflow stays a NaN.
__device__ __forceinline__ uint32_t store_bits(float f) {
    const uint32_t bits = __float_as_uint(f);
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : (bits + 0x8000u) >> 16;
}
__device__ __forceinline__ uint32_t store_pair(float lo, float hi) { return store_bits(lo) | store_bits(hi) << 16; }

// Least bytes: 6·n, accumulating 10·n. The tail of n % 8 values is the last thread's.
template <bool ACCUMULATE>
__global__ void __launch_bounds__(kThreads)
    grad_accumulate_kernel(float* __restrict__ sum /* = or += */, const bf16* __restrict__ grad, int64_t n) {
    const int64_t i = (int64_t(blockIdx.x) * kThreads + int(threadIdx.x)) * kVector;
    if (i + kVector <= n) {
        float f[8];
        load8_once(grad + i, f);
        HZ_UNROLL
        for (int half = 0; half < 2; ++half) {
            float4 s = make_float4(f[half * 4], f[half * 4 + 1], f[half * 4 + 2], f[half * 4 + 3]);
            if constexpr (ACCUMULATE) {
                const float4 old = load4_once(sum + i + half * 4);
                s.x += old.x, s.y += old.y, s.z += old.z, s.w += old.w;
            }
            store4(sum + i + half * 4, s);
        }
    } else {
        for (int64_t j = i; j < n; ++j) sum[j] = to_float(grad[j]) + (ACCUMULATE ? sum[j] : 0.f);
    }
}

// Squares in f64, vectors dealt round robin to the threads of the grid, each block's sum to partial[block].
// Least bytes: 4·n, with STORE 6·n.
template <bool STORE>
__global__ void __launch_bounds__(kThreads)
    grad_store_kernel(bf16* __restrict__ out /* = */, double* __restrict__ partial /* = [gridDim.x] */,
                      const float* __restrict__ grad, int64_t n) {
    HZ_SHARED(double, slots, [kThreads / 32]);
    double sum = 0.;
    const int64_t step = int64_t(gridDim.x) * kThreads * kVector;
    for (int64_t i = (int64_t(blockIdx.x) * kThreads + int(threadIdx.x)) * kVector; i < n; i += step) {
        float f[8] = {};
        if (i + kVector <= n) {
            const float4 a = load4_once(grad + i), b = load4_once(grad + i + 4);
            f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
            if constexpr (STORE)
                store8(out + i, make_uint4(store_pair(f[0], f[1]), store_pair(f[2], f[3]), store_pair(f[4], f[5]),
                                           store_pair(f[6], f[7])));
        } else {
            HZ_UNROLL
            for (int e = 0; e < kVector; ++e)
                if (i + e < n) {
                    f[e] = grad[i + e];
                    if constexpr (STORE) out[i + e] = bf16{uint16_t(store_bits(f[e]))};
                }
        }
        HZ_UNROLL
        for (int e = 0; e < kVector; ++e) sum += double(f[e]) * double(f[e]);
    }
    sum = block_sum(sum, slots);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    grad_sumsq_kernel(double* __restrict__ sumsq /* = [1] */, const double* __restrict__ partial, int blocks) {
    HZ_SHARED(double, slots, [kThreads / 32]);
    double sum = 0.;
    for (int i = int(threadIdx.x); i < blocks; i += kThreads) sum += partial[i];
    sum = block_sum(sum, slots);
    if (threadIdx.x == 0) *sumsq = sum;
}

int64_t blocks_for(int64_t n) { return min(ceil_div(n, kThreads * kVector), kBlocksMax); }

template <bool STORE>
int launch_store(bf16* out, double* sumsq, void* scratch, const float* grad, int64_t n, cudaStream_t stream) {
    double* partial = static_cast<double*>(scratch);
    const int blocks = int(blocks_for(n));
    if (n > 0) HZ_LAUNCH(grad_store_kernel<STORE>, unsigned(blocks), kThreads, 0, stream, out, partial, grad, n);
    HZ_LAUNCH(grad_sumsq_kernel, 1, kThreads, 0, stream, sumsq, partial, blocks);
    return launch_status();
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_grad_accumulate(float* sum, const hzk_bf16* grad, int accumulate, int64_t n, hzk_stream stream) {
    const int64_t blocks = n < 0 ? 0 : ceil_div(n, kThreads * kVector);
    HZK_NEED_SHAPE(n >= 0 && blocks <= kIntMax);
    HZK_NEED_ALIGNED(sum, grad);
    if (n == 0) return HZK_OK;
    if (accumulate)
        HZ_LAUNCH(grad_accumulate_kernel<true>, unsigned(blocks), kThreads, 0, stream, sum, grad, n);
    else
        HZ_LAUNCH(grad_accumulate_kernel<false>, unsigned(blocks), kThreads, 0, stream, sum, grad, n);
    return launch_status();
}

size_t hzk_grad_scratch(int64_t n) { return size_t(blocks_for(n)) * sizeof(double); }

int hzk_grad_store(hzk_bf16* out, double* sumsq, void* scratch, const float* grad, int64_t n, hzk_stream stream) {
    HZK_NEED_SHAPE(n >= 0);
    HZK_NEED_ALIGNED(out, grad);
    return launch_store<true>(out, sumsq, scratch, grad, n, stream);
}

int hzk_grad_sumsq(double* sumsq, void* scratch, const float* grad, int64_t n, hzk_stream stream) {
    HZK_NEED_SHAPE(n >= 0);
    HZK_NEED_ALIGNED(grad);
    return launch_store<false>(nullptr, sumsq, scratch, grad, n, stream);
}
