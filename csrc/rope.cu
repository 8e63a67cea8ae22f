// RoPE: rotates the pairs (i, i + R/2), or (2i, 2i + 1), of every head of q and k by position · inv_freq[i], in place.
#include "launch.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kThreads = 128, kHalfMax = 128;

__device__ __forceinline__ void rotate(float& a, float& b, float cos, float sin) {
    const float a0 = a;
    a = a0 * cos - b * sin;
    b = b * cos + a0 * sin;
}

// One row per block: its R/2 sines and cosines, times `factor`, and the factor of its queries are computed
// once in shared memory for all heads. Backward is the transposed rotation: the sine is negated.
// Least bytes: 4·N·(H+G)·R.
template <bool BACKWARD, bool INTERLEAVED>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(bf16* __restrict__ q /* in place */, bf16* __restrict__ k /* in place */, const int32_t* __restrict__ positions,
                const float* __restrict__ inv_freq, float factor, float beta, int every, int H, int G, int D, int R,
                size_t q_stride, size_t k_stride) {
    HZ_SHARED(float4, turn, [kHalfMax / 2]);  // cos, sin of one i, cos, sin of the next
    HZ_SHARED(float, of_queries, [1]);
    const size_t row = blockIdx.x;
    const int half = R / 2, chunks = half / 8;  // a chunk: vectors i and half + i of a head, eight pairs
    const int position = positions[row];
    for (int i = int(threadIdx.x); i < half; i += kThreads) {
        // The angle is rounded to f32 as in Hugging Face. The reduction to one turn is exact in f64;
        // sincospif then needs no further reduction (that of sincosf would spill to local memory).
        const double turns = double(float(position) * inv_freq[i]) * 0.15915494309189533577;
        float s, c;
        sincospif(2.f * float(turns - rint(turns)), &s, &c);
        float* t = reinterpret_cast<float*>(turn) + 2 * i;
        t[0] = c * factor;
        t[1] = (BACKWARD ? -s : s) * factor;
    }
    if (beta != 0.f && threadIdx.x == kThreads - 1) of_queries[0] = 1.f + beta * logf(float(1 + position / every));
    __syncthreads();
    for (int item = int(threadIdx.x); item < (H + G) * chunks; item += kThreads) {
        const int head = item / chunks, i = item % chunks * 8;
        const bool is_query = head < H;
        bf16* p = is_query ? q + row * q_stride + size_t(head) * D : k + row * k_stride + size_t(head - H) * D;
        float a[8], b[8];
        load8(p + i, a);
        load8(p + half + i, b);
        if (beta != 0.f && is_query) {
            const float scale = of_queries[0];
            HZ_UNROLL
            for (int e = 0; e < 8; ++e) a[e] *= scale, b[e] *= scale;
        }
        if constexpr (INTERLEAVED) {
            HZ_UNROLL
            for (int e = 0; e < 8; e += 4) {
                const float4 t = turn[(i + e) / 4], u = turn[(half + i + e) / 4];
                rotate(a[e], a[e + 1], t.x, t.y);
                rotate(a[e + 2], a[e + 3], t.z, t.w);
                rotate(b[e], b[e + 1], u.x, u.y);
                rotate(b[e + 2], b[e + 3], u.z, u.w);
            }
        } else {
            HZ_UNROLL
            for (int e = 0; e < 8; e += 2) {
                const float4 t = turn[(i + e) / 2];
                rotate(a[e], b[e], t.x, t.y);
                rotate(a[e + 1], b[e + 1], t.z, t.w);
            }
        }
        store8(p + i, a);
        store8(p + half + i, b);
    }
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_rope(hzk_bf16* q, hzk_bf16* k, const int32_t* positions, const float* inv_freq, int backward, int interleaved,
             float factor, float beta, int64_t every, int64_t N, int64_t H, int64_t G, int64_t D, int64_t R, int64_t q_stride,
             int64_t k_stride, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && is_width(D) && is_width(R, 16) && R <= D && R / 2 <= kHalfMax && H > 0 && G > 0 &&
                   is_count((H + G) * (R / 16)) && is_rows(q_stride, H * D) && is_rows(k_stride, G * D));
    HZK_NEED_SHAPE(every > 0 && (beta == 0.f || R == D));
    HZK_NEED_ALIGNED(q, k);
    if (N == 0) return HZK_OK;
    const auto launch = [&]<bool BACKWARD, bool INTERLEAVED>() {
        HZ_LAUNCH((rope_kernel<BACKWARD, INTERLEAVED>), unsigned(N), kThreads, 0, stream, q, k, positions, inv_freq, factor, beta,
                  int(min(every, kIntMax)), int(H), int(G), int(D), int(R), size_t(q_stride), size_t(k_stride));
        return launch_status();
    };
    if (interleaved) return backward ? launch.template operator()<true, true>() : launch.template operator()<false, true>();
    return backward ? launch.template operator()<true, false>() : launch.template operator()<false, false>();
}
