// RoPE: rotates the pairs (i, i + D/2) of every head of q and k by position · inv_freq[i], in place.
#include "launch.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kThreads = 128, kHalfMax = 128;

// One row per block: its D/2 sines and cosines are computed once in shared memory for all heads. Backward
// is the transposed rotation: the sine is negated. Least bytes: 4·N·(H+G)·D.
template <bool BACKWARD>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(bf16* __restrict__ q /* in place */, bf16* __restrict__ k /* in place */, const int32_t* __restrict__ positions,
                const float* __restrict__ inv_freq, int H, int G, int D, size_t q_stride, size_t k_stride) {
    HZ_SHARED(float4, turn, [kHalfMax / 2]);  // cos, sin of one i, cos, sin of the next
    const size_t row = blockIdx.x;
    const int half = D / 2, chunks = half / 8;  // a chunk: eight pairs, two vectors
    const float position = float(positions[row]);
    for (int i = int(threadIdx.x); i < half; i += kThreads) {
        // The angle is rounded to f32 as in Hugging Face. The reduction to one turn is exact in f64;
        // sincospif then needs no further reduction (that of sincosf would spill to local memory).
        const double turns = double(position * inv_freq[i]) * 0.15915494309189533577;
        float s, c;
        sincospif(2.f * float(turns - rint(turns)), &s, &c);
        float* t = reinterpret_cast<float*>(turn) + 2 * i;
        t[0] = c;
        t[1] = BACKWARD ? -s : s;
    }
    __syncthreads();
    for (int item = int(threadIdx.x); item < (H + G) * chunks; item += kThreads) {
        const int head = item / chunks, i = item % chunks * 8;
        bf16* p = head < H ? q + row * q_stride + size_t(head) * D : k + row * k_stride + size_t(head - H) * D;
        float a[8], b[8];
        load8(p + i, a);
        load8(p + half + i, b);
        HZ_UNROLL
        for (int e = 0; e < 8; e += 2) {
            const float4 t = turn[(i + e) / 2];
            const float a0 = a[e], a1 = a[e + 1];
            a[e] = a0 * t.x - b[e] * t.y;
            b[e] = b[e] * t.x + a0 * t.y;
            a[e + 1] = a1 * t.z - b[e + 1] * t.w;
            b[e + 1] = b[e + 1] * t.z + a1 * t.w;
        }
        store8(p + i, a);
        store8(p + half + i, b);
    }
}

template <bool BACKWARD>
int launch_rope(bf16* q, bf16* k, const int32_t* positions, const float* inv_freq, int64_t N, int64_t H, int64_t G, int64_t D,
                int64_t q_stride, int64_t k_stride, cudaStream_t stream) {
    HZK_NEED_SHAPE(is_count(N) && is_width(D, 16) && D / 2 <= kHalfMax && H > 0 && G > 0 && is_count((H + G) * (D / 16)) &&
                   is_rows(q_stride, H * D) && is_rows(k_stride, G * D));
    HZK_NEED_ALIGNED(q, k);
    if (N == 0) return HZK_OK;
    HZ_LAUNCH(rope_kernel<BACKWARD>, unsigned(N), kThreads, 0, stream, q, k, positions, inv_freq, int(H), int(G), int(D),
              size_t(q_stride), size_t(k_stride));
    return launch_status();
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_rope_forward(hzk_bf16* q, hzk_bf16* k, const int32_t* positions, const float* inv_freq, int64_t N, int64_t H, int64_t G,
                     int64_t D, int64_t q_stride, int64_t k_stride, hzk_stream stream) {
    return launch_rope<false>(q, k, positions, inv_freq, N, H, G, D, q_stride, k_stride, stream);
}

int hzk_rope_backward(hzk_bf16* dq, hzk_bf16* dk, const int32_t* positions, const float* inv_freq, int64_t N, int64_t H,
                      int64_t G, int64_t D, int64_t q_stride, int64_t k_stride, hzk_stream stream) {
    return launch_rope<true>(dq, dk, positions, inv_freq, N, H, G, D, q_stride, k_stride, stream);
}
