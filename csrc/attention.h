// Code shared by the mma.sync and wgmma attention: visible key ranges, online softmax of a tile of scores,
// delta, the assignment of work to blocks, argument checks of the launchers.
//
// Rows are packed documents. Row i sees keys [low(i), i], low(i) = max(doc_start[i], i - window + 1); key j
// is seen by rows [j, high(j)), high(j) = min(doc_end[j], j + window). Both bounds are monotonic, so the
// first and last row of a tile bound the tiles to visit, and a tile inside the bounds of all its rows needs
// no mask.
//
// Exponentials are base 2: e^(scale · s) = 2^(s · scale · log2 e). Tiles of scores are in accumulator
// fragments (tile.h).
#pragma once
#include "launch.h"
#include "reduce.h"
#include "vec.h"

namespace hz {

constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;

struct AttentionShape {
    int N, heads, group;  // query heads, query heads per key/value head
    int parts;            // blocks among which dK and dV divide the query heads of a group
    int window;           // 1..N
    float scale;
    unsigned q_stride, k_stride, v_stride, out_stride;
};

__device__ __forceinline__ int low(const int32_t* doc_start, int row, int window) {
    return max(doc_start[row], row - window + 1);
}
__device__ __forceinline__ int high(const int32_t* doc_end, int key, int window) {
    return window < doc_end[key] - key ? key + window : doc_end[key];
}

// Masks the scores of 16 rows: those outside the row's visible columns become -inf. range(row): first and
// last visible column.
template <int BLOCKS, class Range>
__device__ __forceinline__ void keep_visible(float (&s)[BLOCKS][4], int row0, int col0, Range range) {
    const int lane = opaque(int(threadIdx.x) & 31);
    HZ_UNROLL
    for (int half = 0; half < 2; ++half) {
        const int2 visible = range(row0 + half * 8 + (lane >> 2));
        HZ_UNROLL
        for (int j = 0; j < BLOCKS; ++j)
            HZ_UNROLL
            for (int e = 0; e < 2; ++e) {
                const int col = col0 + j * 8 + (lane & 3) * 2 + e;
                if (col < visible.x || col > visible.y) s[j][half * 2 + e] = -INFINITY;
            }
    }
}

// The online softmax of 16 rows.
struct RunningSoftmax {
    float top[2], sum[2];  // of rows t/4 and t/4 + 8: the running maximum, and this lane's share of the sum

    __device__ __forceinline__ void clear() {
        HZ_UNROLL
        for (int half = 0; half < 2; ++half) top[half] = -INFINITY, sum[half] = 0.f;
    }

    // Turns the next scores into weights relative to the new running maximum. Returns the factors to
    // rescale earlier weights.
    template <int BLOCKS>
    __device__ __forceinline__ float2 add(float (&s)[BLOCKS][4], float to_log2) {
        float shrink[2];
        HZ_UNROLL
        for (int half = 0; half < 2; ++half) {
            float m = top[half];
            HZ_UNROLL
            for (int j = 0; j < BLOCKS; ++j) m = fmaxf(m, fmaxf(s[j][half * 2], s[j][half * 2 + 1]));
            m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 1));
            m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 2));
            const float base = m == -INFINITY ? 0.f : m * to_log2;  // no visible key of the row yet
            shrink[half] = exp2_approx(top[half] * to_log2 - base);
            top[half] = m;
            float total = sum[half] * shrink[half];
            HZ_UNROLL
            for (int j = 0; j < BLOCKS; ++j)
                HZ_UNROLL
                for (int e = half * 2; e < half * 2 + 2; ++e) {
                    s[j][e] = exp2_approx(s[j][e] * to_log2 - base);
                    total += s[j][e];
                }
            sum[half] = total;
        }
        return make_float2(shrink[0], shrink[1]);
    }

    // After the last key: returns 1 / sum of all weights of the row in `half`, and writes its log-sum-exp
    // to `lse` if the row is below `rows`.
    __device__ __forceinline__ float finish(int half, float scale, float* lse, int row, int rows) const {
        float total = sum[half];
        total += __shfl_xor_sync(kAllLanes, total, 1);
        total += __shfl_xor_sync(kAllLanes, total, 2);
        if ((int(threadIdx.x) & 3) == 0 && row < rows) lse[row] = top[half] * scale + log2f(total) * kLn2;
        return 1.f / total;
    }
};

// Rescales the rows of acc to a new running maximum.
template <int BLOCKS>
__device__ __forceinline__ void shrink_rows(float (&acc)[BLOCKS][4], float2 shrink) {
    HZ_UNROLL
    for (int j = 0; j < BLOCKS; ++j) {
        acc[j][0] *= shrink.x, acc[j][1] *= shrink.x;
        acc[j][2] *= shrink.y, acc[j][3] *= shrink.y;
    }
}

// query_block and key_block make the block index opaque: a kernel calls them again at its end instead of
// keeping registers live.
// The block's tile of query rows and its head, in forward and dq. Late rows see the most keys: the last
// tiles of all heads come first.
struct QueryBlock {
    int tile, head;
};
__device__ __forceinline__ QueryBlock query_block(const AttentionShape& shape) {
    const int block = opaque(int(blockIdx.x));
    return {(int(gridDim.x) - 1 - block) / shape.heads, block % shape.heads};
}

// The block's tile of keys, its key/value head and the query heads [head, head_end) that it sums over, in
// dK and dV. Early keys are seen by the most rows: the first tiles of all heads come first.
struct KeyBlock {
    int tile, kv_head, part, head, head_end;
};
__device__ __forceinline__ KeyBlock key_block(const AttentionShape& shape) {
    const int block = opaque(int(blockIdx.x)), unit = block / shape.parts, part = block % shape.parts;
    const int kv_heads = shape.heads / shape.group, kv_head = unit % kv_heads, heads = (shape.group + shape.parts - 1) / shape.parts;
    const int head = kv_head * shape.group + part * heads;
    return {unit / kv_heads, kv_head, part, head, min(head + heads, (kv_head + 1) * shape.group)};
}

// A tile of query rows in the iteration of a KeyBlock: head by head, the rows [first, end).
struct QueryTile {
    int head, row0;
    __device__ __forceinline__ void advance(int rows, int first, int end) {
        row0 += rows;
        if (row0 >= end) row0 = first, ++head;
    }
};

// Partial sums of dK and dV if several blocks divide a group: f32, [parts][dK, dV][N,G,D].
inline size_t sums_count(int parts, size_t N, size_t G, size_t D) { return parts > 1 ? parts * 2 * N * G * D : 0; }
__device__ __forceinline__ size_t sums_row(const AttentionShape& shape, int part, bool is_dv, int row) {
    return (size_t(part) * 2 + is_dv) * shape.N + row;
}

// Writes a warp's 16 rows of the block's partial sums, from row0; rows at or past N are skipped.
template <int BLOCKS>
__device__ __forceinline__ void store_sums(float* sums, const AttentionShape& shape, const KeyBlock& block, bool is_dv, int row0,
                                           const float (&acc)[BLOCKS][4]) {
    const int lane = int(threadIdx.x) & 31, kv_heads = shape.heads / shape.group;
    HZ_UNROLL
    for (int half = 0; half < 2; ++half) {
        const int row = row0 + half * 8 + (lane >> 2);
        float* const to = sums + (sums_row(shape, block.part, is_dv, row) * kv_heads + block.kv_head) * (BLOCKS * 8) + (lane & 3) * 2;
        if (row < shape.N)
            HZ_UNROLL
            for (int j = 0; j < BLOCKS; ++j)
                *reinterpret_cast<float2*>(to + j * 8) = make_float2(acc[j][half * 2], acc[j][half * 2 + 1]);
    }
}

// delta[h,n] = sum over D of dout · out. Least bytes: 4·N·H·D. Eight columns per lane; at D 96 four lanes
// of 16 are idle.
template <int D>
constexpr int kDeltaHeads = D == 64 ? 32 : D == 256 ? 8 : 16;  // heads per block
template <int D>
static __global__ void __launch_bounds__(256)
    attention_backward_delta_kernel(float* __restrict__ delta /* = [H,N] */, const bf16* __restrict__ dout,
                                    const bf16* __restrict__ out, unsigned N, unsigned heads) {
    constexpr int PER_BLOCK = kDeltaHeads<D>, LANES = 256 / PER_BLOCK;
    const unsigned i = blockIdx.x * PER_BLOCK + threadIdx.x / LANES;  // row · heads + head
    const int c = int(threadIdx.x) % LANES * 8;
    float sum = 0.f;
    if (i < N * heads && c < D) {
        float a[8], b[8];
        load8(dout + size_t(i) * D + c, a);
        load8_once(out + size_t(i) * D + c, b);
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) sum += a[e] * b[e];
    }
    sum = warp_sum<LANES>(sum);
    if (i < N * heads && c == 0) delta[size_t(i % heads) * N + i / heads] = sum;
}
template <int D>
inline void launch_delta(float* delta, const bf16* dout, const bf16* out, const AttentionShape& shape, cudaStream_t stream) {
    const unsigned N = unsigned(shape.N), heads = unsigned(shape.heads);
    HZ_LAUNCH(attention_backward_delta_kernel<D>, unsigned(ceil_div(int64_t(N) * heads, kDeltaHeads<D>)), 256, 0, stream, delta,
              dout, out, N, heads);
}

// Adds the partial sums in order: dk times scale (blockIdx.y 0), dv (1). Least bytes: (8·parts + 4)·N·G·D.
static __global__ void __launch_bounds__(256)
    attention_backward_sum_kernel(bf16* __restrict__ dk /* = */, bf16* __restrict__ dv /* = */, const float* __restrict__ sums,
                                  AttentionShape shape, unsigned width) {
    const unsigned chunk = blockIdx.x * 256 + threadIdx.x, row = chunk / (width / 8), column = chunk % (width / 8) * 8;
    if (row >= unsigned(shape.N)) return;
    const bool is_dv = blockIdx.y == 1;
    float total[8] = {};
    for (int part = 0; part < shape.parts; ++part) {
        const float* from = sums + sums_row(shape, part, is_dv, int(row)) * width + column;
        const float4 a = load4_once(from), b = load4_once(from + 4);
        total[0] += a.x, total[1] += a.y, total[2] += a.z, total[3] += a.w;
        total[4] += b.x, total[5] += b.y, total[6] += b.z, total[7] += b.w;
    }
    HZ_UNROLL
    for (int e = 0; e < 8; ++e) total[e] *= is_dv ? 1.f : shape.scale;
    store8(is_dv ? dv + size_t(row) * shape.v_stride + column : dk + size_t(row) * shape.k_stride + column, total);
}
inline void launch_sum(bf16* dk, bf16* dv, const float* sums, const AttentionShape& shape, int D, cudaStream_t stream) {
    if (shape.parts == 1) return;
    const unsigned width = unsigned(shape.heads / shape.group * D);
    HZ_LAUNCH(attention_backward_sum_kernel, dim3(unsigned(ceil_div(int64_t(shape.N) * (width / 8), 256)), 2), 256, 0, stream, dk, dv,
              sums, shape, width);
}

// The number of blocks among which dK and dV divide the query heads of a group: enough for two blocks of
// 128 keys per SM, if there are enough heads. The longest causal iteration is twice the mean, so with fewer
// blocks SMs would idle at the end.
inline int key_parts(int64_t N, int64_t H, int64_t G) {
    const int64_t tiles = N > 0 ? ceil_div(N, 128) * G : 1, group = H / G;
    const int64_t heads = ceil_div(group, ceil_div(2 * kMultiprocessors, tiles));
    return int(ceil_div(group, heads));
}

inline bool is_attention(float scale, int64_t N, int64_t H, int64_t G, int64_t D, int64_t q_stride, int64_t k_stride,
                         int64_t v_stride) {
    return N >= 0 && N <= kIntMax - 255 && G > 0 && H > 0 && H <= 65535 && is_count(N * H) && H % G == 0 && D > 0 && D <= 256 &&
           is_rows(q_stride, H * D) && is_rows(k_stride, G * D) && is_rows(v_stride, G * D) && scale > 0.f &&
           scale < INFINITY;
}
inline AttentionShape attention_shape(float scale, int64_t window, int64_t N, int64_t H, int64_t G, int64_t D, int64_t q_stride,
                                      int64_t k_stride, int64_t v_stride) {
    const int keys = int(window > 0 && window < N ? window : N);
    return {int(N), int(H),             int(H / G),         key_parts(N, H, G), keys,
            scale,  unsigned(q_stride), unsigned(k_stride), unsigned(v_stride), unsigned(H * D)};
}

}  // namespace hz
