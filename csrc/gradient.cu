// Gradients before their download: rounded or copied, with sums of squares for the norm in the same pass.
#include "launch.h"
#include "reduce.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kThreads = 256, kVector = 8;
// Enough loads in flight to saturate memory bandwidth, and blocks short enough for a small tail effect.
constexpr int kBlockThreads = 512, kBlocksPerSm = 3;

// Rounds as the store does, half away from zero. A NaN stays a NaN, also if the carry would overflow its payload.
__device__ __forceinline__ uint32_t store_bits(float f) {
    const uint32_t bits = __float_as_uint(f);
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : (bits + 0x8000u) >> 16;
}
__device__ __forceinline__ uint32_t store_pair(float lo, float hi) { return store_bits(lo) | store_bits(hi) << 16; }

// Least bytes: 6·n. The last thread converts the tail of n % 8 values.
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

// One block per HZK_NORM_BLOCK values; vectors are assigned to threads round robin. STORE writes them to
// out; SQUARES sums their squares in f64. Least bytes: 4·n, plus those of out with STORE.
template <class OUT, bool STORE, bool SQUARES>
__global__ void __launch_bounds__(kBlockThreads, kBlocksPerSm)
    gradient_kernel(OUT* __restrict__ out /* = */, double* __restrict__ squares /* = [gridDim.x] */,
                    const float* __restrict__ grad, int64_t n) {
    HZ_SHARED(double, slots, [kBlockThreads / 32]);
    double sum = 0.;
    const int64_t first = int64_t(blockIdx.x) * HZK_NORM_BLOCK;
    const int values = int(min(n - first, int64_t(HZK_NORM_BLOCK)));
    grad += first;
    if constexpr (STORE) out += first;
    for (int i = int(threadIdx.x) * kVector; i < values; i += kBlockThreads * kVector) {
        float f[kVector] = {};
        if (i + kVector <= values) {
            const float4 a = load4_once(grad + i), b = load4_once(grad + i + 4);
            f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
            if constexpr (STORE) store_vector(out + i, f);
        } else {
            HZ_UNROLL
            for (int e = 0; e < kVector; ++e)
                if (i + e < values) {
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
        if (threadIdx.x == 0) squares[blockIdx.x] = sum;
    }
}

template <class OUT, bool STORE, bool SQUARES>
int launch(OUT* out, double* squares, const float* grad, int64_t n, cudaStream_t stream) {
    const int64_t blocks = n < 0 ? 0 : ceil_div(n, HZK_NORM_BLOCK);
    HZK_NEED_SHAPE(n >= 0 && blocks <= kIntMax);
    if (n == 0) return HZK_OK;
    HZ_LAUNCH((gradient_kernel<OUT, STORE, SQUARES>), unsigned(blocks), kBlockThreads, 0, stream, out, squares, grad, n);
    return launch_status();
}

template <class OUT>
int launch_store(OUT* out, double* squares, const float* grad, int64_t n, cudaStream_t stream) {
    HZK_NEED_ALIGNED(out, grad);
    return squares ? launch<OUT, true, true>(out, squares, grad, n, stream)
                   : launch<OUT, true, false>(out, nullptr, grad, n, stream);
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_gradient_store(hzk_bf16* out, double* squares, const float* grad, int64_t n, hzk_stream stream) {
    return launch_store(out, squares, grad, n, stream);
}

int hzk_gradient_copy(float* out, double* squares, const float* grad, int64_t n, hzk_stream stream) {
    return launch_store(out, squares, grad, n, stream);
}

int hzk_gradient_squares(double* squares, const float* grad, int64_t n, hzk_stream stream) {
    HZK_NEED_ALIGNED(grad);
    return launch<float, false, true>(nullptr, squares, grad, n, stream);
}

int hzk_widen(float* out, const hzk_bf16* inp, int64_t n, hzk_stream stream) {
    const int64_t blocks = n < 0 ? 0 : ceil_div(n, kThreads * kVector);
    HZK_NEED_SHAPE(n >= 0 && blocks <= kIntMax);
    HZK_NEED_ALIGNED(out, inp);
    if (n == 0) return HZK_OK;
    HZ_LAUNCH(widen_kernel, unsigned(blocks), kThreads, 0, stream, out, inp, n);
    return launch_status();
}
