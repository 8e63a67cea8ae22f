// Gradients that leave the device: rounded or copied, and squared and summed for the norm in the same pass.
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

// Least bytes: 6·n. The tail of n % 8 values is the last thread's.
__global__ void __launch_bounds__(kThreads)
    widen_kernel(float* __restrict__ out /* = */, const bf16* __restrict__ inp, int64_t n) {
    const int64_t i = (int64_t(blockIdx.x) * kThreads + int(threadIdx.x)) * kVector;
    if (i + kVector <= n) {
        float f[8];
        load8_once(inp + i, f);
        store4(out + i, make_float4(f[0], f[1], f[2], f[3]));
        store4(out + i + 4, make_float4(f[4], f[5], f[6], f[7]));
    } else {
        for (int64_t j = i; j < n; ++j) out[j] = to_float(inp[j]);
    }
}

__device__ __forceinline__ void store_one(bf16* out, float f) { *out = bf16{uint16_t(store_bits(f))}; }
__device__ __forceinline__ void store_one(float* out, float f) { *out = f; }
__device__ __forceinline__ void store_vector(bf16* out, const float (&f)[kVector]) {
    store8(out, make_uint4(store_pair(f[0], f[1]), store_pair(f[2], f[3]), store_pair(f[4], f[5]), store_pair(f[6], f[7])));
}
__device__ __forceinline__ void store_vector(float* out, const float (&f)[kVector]) {
    store4(out, make_float4(f[0], f[1], f[2], f[3]));
    store4(out + 4, make_float4(f[4], f[5], f[6], f[7]));
}

// Vectors dealt round robin to the threads of the grid. With STORE they go to out; with SQUARES their squares are summed in
// f64, each block's sum to partial[block]. Least bytes: 4·n, and with STORE those of out.
template <class OUT, bool STORE, bool SQUARES>
__global__ void __launch_bounds__(kThreads)
    grad_kernel(OUT* __restrict__ out /* = */, double* __restrict__ partial /* = [gridDim.x] */, const float* __restrict__ grad,
                int64_t n) {
    HZ_SHARED(double, slots, [kThreads / 32]);
    double sum = 0.;
    const int64_t step = int64_t(gridDim.x) * kThreads * kVector;
    for (int64_t i = (int64_t(blockIdx.x) * kThreads + int(threadIdx.x)) * kVector; i < n; i += step) {
        float f[kVector] = {};
        if (i + kVector <= n) {
            const float4 a = load4_once(grad + i), b = load4_once(grad + i + 4);
            f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
            if constexpr (STORE) store_vector(out + i, f);
        } else {
            HZ_UNROLL
            for (int e = 0; e < kVector; ++e)
                if (i + e < n) {
                    f[e] = grad[i + e];
                    if constexpr (STORE) store_one(out + i + e, f[e]);
                }
        }
        if constexpr (SQUARES) {
            HZ_UNROLL
            for (int e = 0; e < kVector; ++e) sum += double(f[e]) * double(f[e]);
        }
    }
    if constexpr (SQUARES) {
        sum = block_sum(sum, slots);
        if (threadIdx.x == 0) partial[blockIdx.x] = sum;
    }
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

template <class OUT, bool STORE, bool SQUARES>
int launch(OUT* out, double* sumsq, void* scratch, const float* grad, int64_t n, cudaStream_t stream) {
    double* partial = static_cast<double*>(scratch);
    const int blocks = int(blocks_for(n));
    if (n > 0) HZ_LAUNCH((grad_kernel<OUT, STORE, SQUARES>), unsigned(blocks), kThreads, 0, stream, out, partial, grad, n);
    if constexpr (SQUARES) HZ_LAUNCH(grad_sumsq_kernel, 1, kThreads, 0, stream, sumsq, partial, blocks);
    return launch_status();
}

template <class OUT>
int launch_store(OUT* out, double* sumsq, void* scratch, const float* grad, int64_t n, cudaStream_t stream) {
    HZK_NEED_SHAPE(n >= 0);
    HZK_NEED_ALIGNED(out, grad);
    return sumsq ? launch<OUT, true, true>(out, sumsq, scratch, grad, n, stream)
                 : launch<OUT, true, false>(out, nullptr, nullptr, grad, n, stream);
}

}  // namespace
}  // namespace hz

using namespace hz;

size_t hzk_grad_scratch(int64_t n) { return size_t(blocks_for(n)) * sizeof(double); }

int hzk_grad_store(hzk_bf16* out, double* sumsq, void* scratch, const float* grad, int64_t n, hzk_stream stream) {
    return launch_store(out, sumsq, scratch, grad, n, stream);
}

int hzk_grad_copy(float* out, double* sumsq, void* scratch, const float* grad, int64_t n, hzk_stream stream) {
    return launch_store(out, sumsq, scratch, grad, n, stream);
}

int hzk_grad_sumsq(double* sumsq, void* scratch, const float* grad, int64_t n, hzk_stream stream) {
    HZK_NEED_SHAPE(n >= 0);
    HZK_NEED_ALIGNED(grad);
    return launch<float, false, true>(nullptr, sumsq, scratch, grad, n, stream);
}

int hzk_widen(float* out, const hzk_bf16* inp, int64_t n, hzk_stream stream) {
    const int64_t blocks = n < 0 ? 0 : ceil_div(n, kThreads * kVector);
    HZK_NEED_SHAPE(n >= 0 && blocks <= kIntMax);
    HZK_NEED_ALIGNED(out, inp);
    if (n == 0) return HZK_OK;
    HZ_LAUNCH(widen_kernel, unsigned(blocks), kThreads, 0, stream, out, inp, n);
    return launch_status();
}
