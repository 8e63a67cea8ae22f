// Causal grouped-query attention (GQA), flash style: a tile of scores at a time stays in registers and is
// never stored.
//
// Estimate in cycles of a Hopper SM at D 128, for 32 x 64 (row, key) pairs: mma at 1270 multiply-adds per
// cycle (mma.sync reaches about 62 % of wgmma's 2048), shared memory at 128 bytes per cycle (ldmatrix reads
// and cp.async writes), exponentials at 16 and other f32 operations at 128 per cycle.
//                   mma   shared memory   exponentials   other   bound   serial
//   forward         413             384            128      88     413     1013
//   dq              619             704            128      80     704     1531
//   dk, dv          826            1280            128      80    1280     2314
// Two blocks per SM overlap partly. Halfway between bound and serial, on a device whose large GEMMs run at
// 790 TFLOP/s: forward 280 (200 to 490), backward 170 (130 to 255) TFLOP/s, counting 4·D and 10·D
// operations per pair. The masked halves of the diagonal tiles add 3 % for a causal sequence of 4096 keys.
#include "attention.h"
#include "tile.h"

namespace hz {
namespace {

// ---- forward ----------------------------------------------------------------------------------------------------------
// A block owns ROWS query rows of one head and iterates over the key tiles visible to them; each warp owns
// 16·MI of the rows. K and V have one buffer each: the next K is copied during softmax and P·V, the next V
// during Q·Kᵀ.
// Operations: 4·D for every pair in the visited tiles. D 64 and 96 could use more keys; 64 leaves shared
// memory for two blocks.
template <int D>
struct Forward {
    static constexpr int WARPS = 4, THREADS = 32 * WARPS;
    static constexpr int MI = D == 256 ? 1 : 2, ROWS = 16 * MI * WARPS, KEYS = 64;
    static constexpr size_t SHARED = size_t(ROWS + 2 * KEYS) * D * sizeof(bf16);
};

template <int D>
__global__ void __launch_bounds__(Forward<D>::THREADS)
    attention_forward_kernel(bf16* __restrict__ out /* = */, float* __restrict__ lse /* = */, const bf16* __restrict__ q,
                             const bf16* __restrict__ k, const bf16* __restrict__ v, const int32_t* __restrict__ doc_start,
                             AttentionShape shape) {
    using T = Tile<D>;
    using F = Forward<D>;
    HZ_DYN_SHARED(raw, 128);
    bf16* const tile_q = reinterpret_cast<bf16*>(raw);
    bf16* const tile_k = tile_q + F::ROWS * D;
    bf16* const tile_v = tile_k + F::KEYS * D;
    const int lane = int(threadIdx.x) & 31, warp_row = int(threadIdx.x) / 32 * 16 * F::MI;
    const auto [tile, head] = query_block(shape);
    const int N = shape.N, row0 = tile * F::ROWS, row_end = min(row0 + F::ROWS, N), warp_row0 = row0 + warp_row;
    const int kv_column = head / shape.group * D;

    const int key_begin = low(doc_start, row0, shape.window), unmasked_from = low(doc_start, row_end - 1, shape.window);
    auto load_k = [&](int key0) {
        T::template load<F::KEYS, F::THREADS>(tile_k, k + opaque(kv_column), shape.k_stride, key0, row_end);
        cp_async_commit();
    };
    auto load_v = [&](int key0) {
        T::template load<F::KEYS, F::THREADS>(tile_v, v + opaque(kv_column), shape.v_stride, key0, row_end);
        cp_async_commit();
    };
    T::template load<F::ROWS, F::THREADS>(tile_q, q + size_t(head) * D, shape.q_stride, row0, row_end);
    load_k(key_begin);
    load_v(key_begin);

    RunningSoftmax softmax[F::MI];
    HZ_UNROLL
    for (int mi = 0; mi < F::MI; ++mi) softmax[mi].clear();
    float acc[F::MI][D / 8][4];
    clear(acc);
    const float to_log2 = shape.scale * kLog2E;

    cp_async_wait<1>();
    __syncthreads();  // Q and the first K have landed for all
    for (int key0 = key_begin; key0 < row_end; key0 += F::KEYS) {
        float s[F::MI][F::KEYS / 8][4];
        clear(s);
        T::template matmul_transposed<F::MI, F::KEYS>(s, tile_q, warp_row, tile_k);
        cp_async_wait<0>();
        __syncthreads();  // V has landed for all, and all are done with K
        const bool more = key0 + F::KEYS < row_end;
        if (more) load_k(key0 + F::KEYS);

        if (key0 < unmasked_from || key0 + F::KEYS - 1 > row0)
            HZ_UNROLL
            for (int mi = 0; mi < F::MI; ++mi)
                keep_visible(s[mi], warp_row0 + mi * 16, key0,
                             [&](int row) { return int2{low(doc_start, min(row, N - 1), shape.window), row}; });
        HZ_UNROLL
        for (int mi = 0; mi < F::MI; ++mi) shrink_rows(acc[mi], softmax[mi].add(s[mi], to_log2));
        T::template matmul<F::MI, F::KEYS>(acc, s, tile_v);
        if (more) {
            cp_async_wait<0>();
            __syncthreads();  // the next K has landed for all, and all are done with V
            load_v(key0 + F::KEYS);
        }
    }

    const int same_head = query_block(shape).head;  // computed again: no register holds it in the loop
    T::template store<F::MI>(out + size_t(same_head) * D, shape.out_stride, warp_row0, row_end, tile_q, warp_row, acc,
                             [&](int mi, int half) {
                                 const int row = warp_row0 + mi * 16 + half * 8 + (lane >> 2);
                                 return softmax[mi].finish(half, shape.scale, lse + size_t(same_head) * N, row, N);
                             });
}

// ---- backward ---------------------------------------------------------------------------------------------------------
// With P = e^(scale·s - lse), dP = dout·vᵀ and delta = sum over D of dout·out:  dS = P · (dP - delta),
//   dv = Pᵀ·dout,   dq = scale · dS·k,   dk = scale · dSᵀ·q.
// Two kernels of the same structure. A block has two resident tiles, with the rows of the output, and loads
// pairs of tiles in turn into shared memory (streamed). For each pair of rows it computes two matmuls,
// resident · streamedᵀ:
//   dq:      resident q, dout;  streamed k, v      s = q·kᵀ     dP = dout·vᵀ
//   dk, dv:  resident k, v;     streamed q, dout   sᵀ = k·qᵀ    dPᵀ = v·doutᵀ

// Tiles of dk and dv: 64 resident rows, 16 per warp. Double buffering of streamed tiles if they fit in 99
// KiB of shared memory.
template <int D>
struct Backward {
    static constexpr int WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * WARPS;
    static constexpr int STAGE_ROWS = D == 256 ? 32 : 64, STAGES = D == 256 ? 1 : 2;
    static constexpr size_t TILES = size_t(2 * ROWS + 2 * STAGES * STAGE_ROWS) * D * sizeof(bf16);
    static constexpr size_t SHARED = TILES + size_t(2 * STAGES * STAGE_ROWS) * sizeof(float);
};

// Tiles of dq, which has only one accumulator: if registers allow, a warp owns 32 rows, so each fragment of
// a streamed tile is used twice.
template <int D>
struct BackwardQ {
    static constexpr int WARPS = 4, THREADS = 32 * WARPS, MI = D == 256 ? 1 : 2, ROWS = 16 * MI * WARPS;
    static constexpr int STAGE_ROWS = 32, STAGES = D == 256 ? 1 : 2;
    static constexpr size_t SHARED = size_t(2 * ROWS + 2 * STAGES * STAGE_ROWS) * D * sizeof(bf16);
};

// Operations: 6·D for every pair in the visited tiles.
template <int D>
__global__ void __launch_bounds__(BackwardQ<D>::THREADS)
    attention_backward_dq_kernel(bf16* __restrict__ dq /* = */, const bf16* __restrict__ dout, const float* __restrict__ lse,
                                 const float* __restrict__ delta, const bf16* __restrict__ q, const bf16* __restrict__ k,
                                 const bf16* __restrict__ v, const int32_t* __restrict__ doc_start, AttentionShape shape) {
    using T = Tile<D>;
    using B = BackwardQ<D>;
    HZ_DYN_SHARED(raw, 128);
    bf16* const tile_q = reinterpret_cast<bf16*>(raw);
    bf16* const tile_dout = tile_q + B::ROWS * D;
    bf16* const staged = tile_dout + B::ROWS * D;  // stage by stage: K, V
    const int lane = int(threadIdx.x) & 31, warp_row = int(threadIdx.x) / 32 * 16 * B::MI;
    const auto [block_tile, head] = query_block(shape);
    const int N = shape.N, row0 = block_tile * B::ROWS, row_end = min(row0 + B::ROWS, N);
    q += size_t(head) * D;
    dout += size_t(head) * D;
    k += size_t(head / shape.group) * D;
    v += size_t(head / shape.group) * D;

    const int key_begin = low(doc_start, row0, shape.window), unmasked_from = low(doc_start, row_end - 1, shape.window);
    const int tiles = (row_end - key_begin + B::STAGE_ROWS - 1) / B::STAGE_ROWS;
    auto load_tiles = [&](int tile) {
        bf16* stage = staged + tile % B::STAGES * 2 * B::STAGE_ROWS * D;
        const int key0 = key_begin + tile * B::STAGE_ROWS;
        T::template load<B::STAGE_ROWS, B::THREADS>(stage, k, shape.k_stride, key0, row_end);
        T::template load<B::STAGE_ROWS, B::THREADS>(stage + B::STAGE_ROWS * D, v, shape.v_stride, key0, row_end);
    };
    T::template load<B::ROWS, B::THREADS>(tile_q, q, shape.q_stride, row0, row_end);
    T::template load<B::ROWS, B::THREADS>(tile_dout, dout, shape.out_stride, row0, row_end);
    load_tiles(0);
    cp_async_commit();

    float row_lse[B::MI][2], row_delta[B::MI][2];
    HZ_UNROLL
    for (int mi = 0; mi < B::MI; ++mi)
        HZ_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int row = min(row0 + warp_row + mi * 16 + half * 8 + (lane >> 2), N - 1);
            row_lse[mi][half] = lse[size_t(head) * N + row] * kLog2E;
            row_delta[mi][half] = delta[size_t(head) * N + row];
        }
    float acc[B::MI][D / 8][4];
    clear(acc);
    const float to_log2 = shape.scale * kLog2E;

    for (int tile = 0; tile < tiles; ++tile) {
        if (B::STAGES == 2 && tile + 1 < tiles) load_tiles(tile + 1);
        if (B::STAGES == 2) cp_async_commit();
        cp_async_wait<B::STAGES - 1>();
        __syncthreads();  // this tile has landed for all
        const bf16* tile_k = staged + tile % B::STAGES * 2 * B::STAGE_ROWS * D;
        const bf16* tile_v = tile_k + B::STAGE_ROWS * D;
        const int key0 = key_begin + tile * B::STAGE_ROWS;
        float s[B::MI][B::STAGE_ROWS / 8][4], dp[B::MI][B::STAGE_ROWS / 8][4];
        clear(s);
        T::template matmul_transposed<B::MI, B::STAGE_ROWS>(s, tile_q, warp_row, tile_k);
        if (key0 < unmasked_from || key0 + B::STAGE_ROWS - 1 > row0)
            HZ_UNROLL
            for (int mi = 0; mi < B::MI; ++mi)
                keep_visible(s[mi], row0 + warp_row + mi * 16, key0,
                             [&](int row) { return int2{low(doc_start, min(row, N - 1), shape.window), row}; });
        HZ_UNROLL
        for (int mi = 0; mi < B::MI; ++mi)
            HZ_UNROLL
            for (int j = 0; j < B::STAGE_ROWS / 8; ++j)
                HZ_UNROLL
                for (int e = 0; e < 4; ++e) s[mi][j][e] = exp2_approx(s[mi][j][e] * to_log2 - row_lse[mi][e >> 1]);
        clear(dp);
        T::template matmul_transposed<B::MI, B::STAGE_ROWS>(dp, tile_dout, warp_row, tile_v);
        HZ_UNROLL
        for (int mi = 0; mi < B::MI; ++mi)
            HZ_UNROLL
            for (int j = 0; j < B::STAGE_ROWS / 8; ++j)
                HZ_UNROLL
                for (int e = 0; e < 4; ++e) s[mi][j][e] *= dp[mi][j][e] - row_delta[mi][e >> 1];
        T::template matmul<B::MI, B::STAGE_ROWS>(acc, s, tile_k);
        __syncthreads();  // all are done with this stage
        if (B::STAGES == 1 && tile + 1 < tiles) {
            load_tiles(tile + 1);
            cp_async_commit();
        }
    }
    T::template store<B::MI>(dq + size_t(head) * D, shape.q_stride, row0 + warp_row, row_end, tile_q, warp_row, acc,
                             [&](int, int) { return shape.scale; });
}

// Iterates over the query heads of the group in order, and for each over the query rows that see these
// keys. DK and DV select the outputs: at D 256 both accumulators exceed the register file, so each output
// has its own launch.
// Operations: 8·D for every pair in the visited tiles and query head; DV alone 4·D, DK alone 6·D.
template <int D, bool DK, bool DV>
__global__ void __launch_bounds__(Backward<D>::THREADS)
    attention_backward_dkv_kernel(bf16* __restrict__ dk /* = */, bf16* __restrict__ dv /* = */, float* __restrict__ sums /* = */,
                                  const bf16* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta,
                                  const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                                  const int32_t* __restrict__ doc_end, AttentionShape shape) {
    using T = Tile<D>;
    using B = Backward<D>;
    HZ_DYN_SHARED(raw, 128);
    bf16* const tile_k = reinterpret_cast<bf16*>(raw);
    bf16* const tile_v = tile_k + B::ROWS * D;
    bf16* const staged = tile_v + B::ROWS * D;                            // stage by stage: Q, dout
    float* const staged_rows = reinterpret_cast<float*>(raw + B::TILES);  // stage by stage: lse, delta
    const int lane = int(threadIdx.x) & 31, warp_row = int(threadIdx.x) / 32 * 16;
    const KeyBlock block = key_block(shape);
    const int N = shape.N, key0 = block.tile * B::ROWS, key_end = min(key0 + B::ROWS, N);
    k += size_t(block.kv_head) * D;
    v += size_t(block.kv_head) * D;

    const int row_end = high(doc_end, key_end - 1, shape.window);
    const int unmasked_from = key0 + B::ROWS - 1, unmasked_to = high(doc_end, key0, shape.window);  // rows that see every key
    const int tiles = (row_end - key0 + B::STAGE_ROWS - 1) / B::STAGE_ROWS * (block.head_end - block.head);
    QueryTile ahead{block.head, key0};
    auto load_next = [&](int tile) {
        bf16* stage = staged + tile % B::STAGES * 2 * B::STAGE_ROWS * D;
        float* stage_rows = staged_rows + tile % B::STAGES * 2 * B::STAGE_ROWS;
        T::template load<B::STAGE_ROWS, B::THREADS>(stage, q + size_t(ahead.head) * D, shape.q_stride, ahead.row0, row_end);
        T::template load<B::STAGE_ROWS, B::THREADS>(stage + B::STAGE_ROWS * D, dout + size_t(ahead.head) * D, shape.out_stride,
                                                    ahead.row0, row_end);
        static_assert(2 * B::STAGE_ROWS <= B::THREADS);
        const int i = int(threadIdx.x), row = ahead.row0 + i % B::STAGE_ROWS;
        if (i < 2 * B::STAGE_ROWS)
            cp_async_4(stage_rows + i, (i < B::STAGE_ROWS ? lse : delta) + size_t(ahead.head) * N + row, row < row_end);
        ahead.advance(B::STAGE_ROWS, key0, row_end);
    };
    T::template load<B::ROWS, B::THREADS>(tile_k, k, shape.k_stride, key0, key_end);
    if (DK) T::template load<B::ROWS, B::THREADS>(tile_v, v, shape.v_stride, key0, key_end);
    load_next(0);
    cp_async_commit();

    float acc_k[1][D / 8][4], acc_v[1][D / 8][4];
    if (DK) clear(acc_k);
    if (DV) clear(acc_v);
    const float to_log2 = shape.scale * kLog2E;

    QueryTile at{block.head, key0};
    for (int tile = 0; tile < tiles; ++tile, at.advance(B::STAGE_ROWS, key0, row_end)) {
        if (B::STAGES == 2 && tile + 1 < tiles) load_next(tile + 1);
        if (B::STAGES == 2) cp_async_commit();
        cp_async_wait<B::STAGES - 1>();
        __syncthreads();  // this tile has landed for all
        const bf16* tile_q = staged + tile % B::STAGES * 2 * B::STAGE_ROWS * D;
        const bf16* tile_dout = tile_q + B::STAGE_ROWS * D;
        const float* rows_lse = staged_rows + tile % B::STAGES * 2 * B::STAGE_ROWS + (lane & 3) * 2;
        const float* rows_delta = rows_lse + B::STAGE_ROWS;
        float s[1][B::STAGE_ROWS / 8][4];
        clear(s);
        T::template matmul_transposed<1, B::STAGE_ROWS>(s, tile_k, warp_row, tile_q);
        if (at.row0 < unmasked_from || at.row0 + B::STAGE_ROWS > unmasked_to)
            keep_visible(s[0], key0 + warp_row, at.row0,
                         [&](int key) { return int2{key, (key < N ? high(doc_end, key, shape.window) : 0) - 1}; });
        HZ_UNROLL
        for (int j = 0; j < B::STAGE_ROWS / 8; ++j) {
            const float2 l = *reinterpret_cast<const float2*>(rows_lse + j * 8);
            HZ_UNROLL
            for (int e = 0; e < 4; ++e)
                s[0][j][e] = exp2_approx(s[0][j][e] * to_log2 - (e & 1 ? l.y : l.x) * kLog2E);
        }
        if (DV) T::template matmul<1, B::STAGE_ROWS>(acc_v, s, tile_dout);
        if (DK) {
            float dp[1][B::STAGE_ROWS / 8][4];
            clear(dp);
            T::template matmul_transposed<1, B::STAGE_ROWS>(dp, tile_v, warp_row, tile_dout);
            HZ_UNROLL
            for (int j = 0; j < B::STAGE_ROWS / 8; ++j) {
                const float2 d = *reinterpret_cast<const float2*>(rows_delta + j * 8);
                HZ_UNROLL
                for (int e = 0; e < 4; ++e) s[0][j][e] *= dp[0][j][e] - (e & 1 ? d.y : d.x);
            }
            T::template matmul<1, B::STAGE_ROWS>(acc_k, s, tile_q);
        }
        __syncthreads();  // all are done with this stage
        if (B::STAGES == 1 && tile + 1 < tiles) {
            load_next(tile + 1);
            cp_async_commit();
        }
    }
    if (shape.parts > 1) {
        if (DK) store_sums(sums, shape, block, false, key0 + warp_row, acc_k[0]);
        if (DV) store_sums(sums, shape, block, true, key0 + warp_row, acc_v[0]);
        return;
    }
    if (DK)
        T::template store<1>(dk + size_t(block.kv_head) * D, shape.k_stride, key0 + warp_row, key_end, tile_k, warp_row, acc_k,
                             [&](int, int) { return shape.scale; });
    if (DV)
        T::template store<1>(dv + size_t(block.kv_head) * D, shape.v_stride, key0 + warp_row, key_end, DK ? tile_v : tile_k,
                             warp_row, acc_v, [&](int, int) { return 1.f; });
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_attention_forward(hzk_bf16* out, float* lse, const hzk_bf16* q, const hzk_bf16* k, const hzk_bf16* v,
                          const int32_t* doc_start, float scale, int64_t window, int64_t N, int64_t H, int64_t G, int64_t D,
                          int64_t q_stride, int64_t k_stride, int64_t v_stride, hzk_stream stream) {
    HZK_NEED_SHAPE(is_attention(scale, N, H, G, D, q_stride, k_stride, v_stride));
    HZK_NEED_ALIGNED(out, q, k, v);
    if (N == 0) return HZK_OK;
    const AttentionShape shape = attention_shape(scale, window, N, H, G, D, q_stride, k_stride, v_stride);
    return with_head_dim(D, [&]<int DIM>() {
        using F = Forward<DIM>;
        const int status = allow_shared(attention_forward_kernel<DIM>, F::SHARED);
        if (status != HZK_OK) return status;
        HZ_LAUNCH(attention_forward_kernel<DIM>, unsigned(ceil_div(N, F::ROWS) * H), F::THREADS, F::SHARED, stream, out,
                  lse, q, k, v, doc_start, shape);
        return launch_status();
    });
}

size_t hzk_attention_backward_scratch(int64_t N, int64_t H, int64_t G, int64_t D) {
    return (sums_count(key_parts(N, H, G), N, G, D) + size_t(N) * size_t(H)) * sizeof(float);
}

int hzk_attention_backward(hzk_bf16* dq, hzk_bf16* dk, hzk_bf16* dv, void* scratch, const hzk_bf16* dout, const hzk_bf16* out,
                           const float* lse, const hzk_bf16* q, const hzk_bf16* k, const hzk_bf16* v, const int32_t* doc_start,
                           const int32_t* doc_end, float scale, int64_t window, int64_t N, int64_t H, int64_t G, int64_t D,
                           int64_t q_stride, int64_t k_stride, int64_t v_stride, hzk_stream stream) {
    HZK_NEED_SHAPE(is_attention(scale, N, H, G, D, q_stride, k_stride, v_stride));
    HZK_NEED_ALIGNED(dq, dk, dv, scratch, dout, out, q, k, v);
    if (N == 0) return HZK_OK;
    const AttentionShape shape = attention_shape(scale, window, N, H, G, D, q_stride, k_stride, v_stride);
    float* sums = static_cast<float*>(scratch);
    float* delta = sums + sums_count(shape.parts, N, G, D);
    return with_head_dim(D, [&]<int DIM>() {
        using B = Backward<DIM>;
        using Q = BackwardQ<DIM>;
        const unsigned by_query = unsigned(ceil_div(N, Q::ROWS) * H), by_key = unsigned(ceil_div(N, B::ROWS) * G * shape.parts);
        auto dkv = [&]<bool DK, bool DV>() {
            const int status = allow_shared(attention_backward_dkv_kernel<DIM, DK, DV>, B::SHARED);
            if (status != HZK_OK) return status;
            HZ_LAUNCH((attention_backward_dkv_kernel<DIM, DK, DV>), by_key, B::THREADS, B::SHARED, stream, dk, dv, sums, dout,
                      lse, delta, q, k, v, doc_end, shape);
            return launch_status();
        };
        int status = allow_shared(attention_backward_dq_kernel<DIM>, Q::SHARED);
        if (status != HZK_OK) return status;
        launch_delta<DIM>(delta, dout, out, shape, stream);
        HZ_LAUNCH(attention_backward_dq_kernel<DIM>, by_query, Q::THREADS, Q::SHARED, stream, dq, dout, lse, delta, q, k, v,
                  doc_start, shape);
        if constexpr (DIM == 256) {
            status = dkv.template operator()<false, true>();
            if (status == HZK_OK) status = dkv.template operator()<true, false>();
        } else {
            status = dkv.template operator()<true, true>();
        }
        if (status != HZK_OK) return status;
        launch_sum(dk, dv, sums, shape, DIM, stream);
        return launch_status();
    });
}
