// Softmax cross-entropy over a chunk of rows of logits: log-probabilities, losses, and the gradient, which
// overwrites the logits.
#include "launch.h"
#include "reduce.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
static_assert(kWarps == 32, "one warp merges the results of all warps");
constexpr int kAtOnce = 4;  // vector loads in flight per thread
constexpr int kIgnored = -100;
constexpr float kLog2E = 1.44269504088896340736f;

// A sum of e^x as s · e^max; the empty sum is {-inf, 0}. fmaxf drops NaNs, so s propagates them.
struct MaxSum {
    float max, s;
};
__device__ __forceinline__ MaxSum merged(MaxSum a, MaxSum b) {
    const float m = fmaxf(a.max, b.max);
    if (m == -INFINITY) return {m, a.s + b.s};
    return {m, a.s * exp2_approx((a.max - m) * kLog2E) + b.s * exp2_approx((b.max - m) * kLog2E)};
}
__device__ __forceinline__ MaxSum warp_merged(MaxSum v) {
    HZ_UNROLL
    for (int d = 16; d; d >>= 1) v = merged(v, {__shfl_xor_sync(~0u, v.max, d), __shfl_xor_sync(~0u, v.s, d)});
    return v;
}

enum class Pass { forward, forward_backward, backward };

// One row per block, one block per SM. The row is read once for its maximum and sum. For the gradient the
// first `held` columns stay in shared memory (as many as fit: 225 KiB, 115200 columns, on Hopper); the rest
// is read again, from L2: 10 MB for 132 rows of 152000 columns. Each thread reads back only its own writes.
// `held` changes no bit.
// per_row: weights for forward_backward, dlogprob for backward.
// Least bytes: forward 2·R·V, the others 4·R·V.
template <Pass PASS>
__global__ void __launch_bounds__(kThreads, 1)
    cross_entropy_kernel(bf16* __restrict__ logits /* in place, forward reads only */, float* __restrict__ logprob /* = */,
                         const int32_t* __restrict__ targets, const float* __restrict__ per_row, float scale, int V,
                         size_t stride, int held) {
    HZ_DYN_SHARED(raw, 16);
    bf16* const waiting = reinterpret_cast<bf16*>(raw);
    HZ_SHARED(MaxSum, parts, [kWarps]);
    HZ_SHARED(float, target_logit, [1]);
    const size_t row = blockIdx.x;
    const int tid = int(threadIdx.x), target = targets[row];
    constexpr int kStep = kThreads * 8;
    const int whole = V & ~7;  // columns in whole vectors; the rest go one by one
    bf16* const x = logits + row * stride;
    const bool valid = target >= 0 && target < V;
    if (!valid) {  // the whole block
        const float fill = target == kIgnored ? 0.f : NAN;
        if (PASS != Pass::backward && tid == 0) logprob[row] = fill;
        if (PASS != Pass::forward) {
            const float fills[8] = {fill, fill, fill, fill, fill, fill, fill, fill};
            for (int c = tid * 8; c < whole; c += kStep) store8(x + c, fills);
            if (whole + tid < V) x[whole + tid] = to_bf16(fill);
        }
        return;
    }
    if (tid == 0) target_logit[0] = to_float(x[target]);

    MaxSum v{-INFINITY, 0.f};
    auto take = [&](int c, const uint4& vector) {
        if (PASS != Pass::forward && c < held) store8(waiting + c, vector);
        float f[8];
        unpack8(vector, f);
        MaxSum u{f[0], 0.f};
        HZ_UNROLL
        for (int e = 1; e < 8; ++e) u.max = fmaxf(u.max, f[e]);
        if (u.max == -INFINITY) return;
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) u.s += exp2_approx((f[e] - u.max) * kLog2E);
        v = merged(v, u);
    };
    int c = tid * 8;
    for (; c + (kAtOnce - 1) * kStep < whole; c += kAtOnce * kStep) {
        uint4 vectors[kAtOnce];
        HZ_UNROLL
        for (int n = 0; n < kAtOnce; ++n) vectors[n] = load8(x + c + n * kStep);
        HZ_UNROLL
        for (int n = 0; n < kAtOnce; ++n) take(c + n * kStep, vectors[n]);
    }
    for (; c < whole; c += kStep) take(c, load8(x + c));
    if (whole + tid < V) {
        const float logit = to_float(x[whole + tid]);
        v = merged(v, {logit, logit == logit ? 1.f : logit});
    }
    v = warp_merged(v);
    if (tid % 32 == 0) parts[tid / 32] = v;
    __syncthreads();  // also: the target's logit is read before any logit is overwritten
    v = warp_merged(parts[tid % 32]);

    if (PASS != Pass::backward && tid == 0) logprob[row] = target_logit[0] - v.max - logf(v.s);
    if constexpr (PASS != Pass::forward) {
        const float factor = PASS == Pass::backward ? -per_row[row] : per_row[row] * scale, inverse = 1.f / v.s;
        auto gradient = [&](float logit, int c) {
            return (exp2_approx((logit - v.max) * kLog2E) * inverse - (c == target ? 1.f : 0.f)) * factor;
        };
        for (c = tid * 8; c < whole; c += kStep) {
            float f[8];
            unpack8(c < held ? load8(waiting + c) : load8(x + c), f);
            HZ_UNROLL
            for (int e = 0; e < 8; ++e) f[e] = gradient(f[e], c + e);
            store8(x + c, f);
        }
        if (whole + tid < V) x[whole + tid] = to_bf16(gradient(to_float(x[whole + tid]), whole + tid));
    }
}

// One block; rows are assigned to threads round robin, so the order of the sum depends only on R. Least bytes: 8·R.
__global__ void __launch_bounds__(kThreads)
    cross_entropy_loss_kernel(double* __restrict__ loss /* += [1] */, const float* __restrict__ logprob,
                              const float* __restrict__ weights, int R) {
    HZ_SHARED(double, slots, [kWarps]);
    double sum = 0.;
    for (int r = int(threadIdx.x); r < R; r += kThreads) sum -= double(weights[r]) * double(logprob[r]);
    sum = block_sum(sum, slots);
    if (threadIdx.x == 0) *loss += sum;
}

template <Pass PASS>
int launch_cross_entropy(bf16* logits, float* logprob, const int32_t* targets, const float* per_row, float scale, int64_t R,
                         int64_t V, int64_t stride, cudaStream_t stream) {
    HZK_NEED_SHAPE(is_count(R) && V > 0 && V <= kIntMax - kThreads * 8 * kAtOnce && is_width(stride) && stride >= V);
    HZK_NEED_ALIGNED(logits);
    if (R == 0) return HZK_OK;
    size_t shared = 0;
    if (PASS != Pass::forward) {
        int status = shared_max_here(shared);
        if (status != HZK_OK) return status;
        shared = min(size_t(V & ~int64_t(7)) * sizeof(bf16), shared & ~size_t(15));
        status = allow_shared<kSharedMaxHopper>(cross_entropy_kernel<PASS>, shared);
        if (status != HZK_OK) return status;
    }
    HZ_LAUNCH(cross_entropy_kernel<PASS>, unsigned(R), kThreads, shared, stream, logits, logprob, targets, per_row, scale, int(V),
              size_t(stride), int(shared / sizeof(bf16)));
    return launch_status();
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_cross_entropy_forward(float* logprob, const hzk_bf16* logits, const int32_t* targets, int64_t R, int64_t V,
                              int64_t stride, hzk_stream stream) {
    return launch_cross_entropy<Pass::forward>(const_cast<hzk_bf16*>(logits), logprob, targets, nullptr, 0.f, R, V, stride, stream);
}

int hzk_cross_entropy_forward_backward(hzk_bf16* logits, float* logprob, const int32_t* targets, const float* weights,
                                       float scale, int64_t R, int64_t V, int64_t stride, hzk_stream stream) {
    return launch_cross_entropy<Pass::forward_backward>(logits, logprob, targets, weights, scale, R, V, stride, stream);
}

int hzk_cross_entropy_backward(hzk_bf16* logits, const int32_t* targets, const float* dlogprob, int64_t R, int64_t V,
                               int64_t stride, hzk_stream stream) {
    return launch_cross_entropy<Pass::backward>(logits, nullptr, targets, dlogprob, 1.f, R, V, stride, stream);
}

int hzk_cross_entropy_loss(double* loss, const float* logprob, const float* weights, int64_t R, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(R));
    if (R == 0) return HZK_OK;
    HZ_LAUNCH(cross_entropy_loss_kernel, 1, kThreads, 0, stream, loss, logprob, weights, int(R));
    return launch_status();
}
