// Attention with Hopper's wgmma, for D 64 and 128: as attention.cu, with the same tile order and another
// order of sums inside tiles.
//
// wgmma is asynchronous: it overlaps with other work of the warps that issued it. Two warpgroups of 64 rows
// share the streamed tiles.
//
//              wgmma groups, in issue order            overlapped work
//   forward    scores of tile t + 1, P·V of t          softmax of t + 1 under P·V
//   dq         scores and dP of t + 1; dS·K of t       exponentials under dP; dS of t + 1 under dS·K of t
//   dk, dv     dSᵀ·Q of t, scores and dP of t + 1;     exponentials under dP; dS under Pᵀ·dout
//              Pᵀ·dout of t + 1
// cp.async copies are issued after the wgmma groups. ptxas reorders: within a loop body it moves a wait
// before preceding work, so forward waits for P·V at the start of the next iteration; and for some orders
// of wgmma and waits it serializes every wgmma. tests/emulator/sass_order.py checks the order in the SASS,
// and tests/emulator/nvcc.sh that no wgmma is serialized.
//
// Estimate in cycles of a Hopper SM at D 128, for 128 x 128 (row, key) pairs: wgmma at 2048 multiply-adds
// per cycle, shared memory at 128 bytes per cycle (one or both operands of a wgmma, and cp.async writes),
// exponentials at 16 per cycle.
//                 wgmma   shared memory   exponentials   other   bound
//   forward        2048            1792           1024     700    2048
//   dq             3072            2560           1024     640    3072
//   dk, dv         4096            3584           1024     640    4096
// The masked halves of diagonal tiles add 3 % at 4096 keys. benches/results/never-run-on-a-gpu.md converts
// this to TFLOP/s.
#include "attention.h"
#include "warpgroup.h"

namespace hz {
namespace {

constexpr int kWarpgroups = 2, kThreads = 128 * kWarpgroups, kRows = 64 * kWarpgroups;

// Waits for this thread's cp.async groups except the last `LATER`, makes them visible to wgmma, and
// synchronizes the block.
template <int LATER>
__device__ __forceinline__ void await_copies() {
    cp_async_wait<LATER>();
    fence_proxy_async();
    __syncthreads();
}

// ---- forward ----------------------------------------------------------------------------------------------------------
// A block owns kRows query rows of one head and iterates over the key tiles visible to them. While P·V of
// tile t runs, the scores of tile t + 1 become weights, and K of t + 2 and V of t + 1 are copied.
// Operations: 4·D for every pair in the visited tiles.
template <int D>
struct Forward {
    static constexpr int KEYS = 128, STAGES = 2;
    static constexpr size_t SHARED = size_t(kRows + 2 * STAGES * KEYS) * D * sizeof(bf16);
};

template <int D>
__global__ void __launch_bounds__(kThreads, 1)
    attention_wgmma_forward_kernel(bf16* __restrict__ out /* = */, float* __restrict__ lse /* = */, const bf16* __restrict__ q,
                                   const bf16* __restrict__ k, const bf16* __restrict__ v, const int32_t* __restrict__ doc_start,
                                   AttentionShape shape) {
    using F = Forward<D>;
    using Queries = Panels<D, kRows>;
    using Keys = Panels<D, F::KEYS>;
    HZ_DYN_SHARED(raw, 1024);
    bf16* const tile_q = reinterpret_cast<bf16*>(raw);
    bf16* const tiles_k = tile_q + kRows * D;
    bf16* const tiles_v = tiles_k + F::STAGES * F::KEYS * D;
    const int lane = int(threadIdx.x) & 31, warp_row = int(threadIdx.x) / 32 * 16, group_row = warp_row & ~63;
    const auto [tile_row, head] = query_block(shape);
    const int N = shape.N, row0 = tile_row * kRows, row_end = min(row0 + kRows, N);
    q += size_t(head) * D;
    k += size_t(head / shape.group) * D;
    v += size_t(head / shape.group) * D;

    const int key_begin = low(doc_start, row0, shape.window), unmasked_from = low(doc_start, row_end - 1, shape.window);
    const int tiles = (row_end - key_begin + F::KEYS - 1) / F::KEYS;
    auto stage = [&](bf16* stages, int tile) { return stages + tile % F::STAGES * F::KEYS * D; };
    auto load_k = [&](int tile) {
        Keys::template load<kThreads>(stage(tiles_k, tile), k, shape.k_stride, key_begin + tile * F::KEYS, row_end);
    };
    auto load_v = [&](int tile) {
        Keys::template load<kThreads>(stage(tiles_v, tile), v, shape.v_stride, key_begin + tile * F::KEYS, row_end);
    };
    Queries::template load<kThreads>(tile_q, q, shape.q_stride, row0, row_end);
    load_k(0);
    cp_async_commit();
    if (tiles > 1) load_k(1);
    load_v(0);
    cp_async_commit();

    RunningSoftmax softmax;
    softmax.clear();
    float acc[D / 8][4], s[F::KEYS / 8][4];
    uint32_t weights[F::KEYS / 16][4];
    HZ_UNROLL
    for (int j = 0; j < D / 8; ++j) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.f;
    const float to_log2 = shape.scale * kLog2E;
    auto weigh = [&](int tile) {
        const int key0 = key_begin + tile * F::KEYS;
        if (key0 < unmasked_from || key0 + F::KEYS - 1 > row0)
            keep_visible(s, row0 + warp_row, key0,
                         [&](int row) { return int2{low(doc_start, min(row, N - 1), shape.window), row}; });
        return softmax.add(s, to_log2);
    };
    auto queue_scores = [&](int tile) {
        Queries::template queue_matmul_transposed<F::KEYS>(s, tile_q, group_row, stage(tiles_k, tile));
        wgmma_commit();
    };
    auto queue_output = [&](int tile) {
        Keys::queue_matmul(acc, weights, stage(tiles_v, tile), true);
        wgmma_commit();
    };
    // Packs the new weights as the left operand of P·V, once the previous P·V has finished.
    auto take_weights = [&](float2 shrink) {
        wgmma_wait<0>();
        wgmma_landed(acc);
        shrink_rows(acc, shrink);
        pack_fragments(weights, s);
    };

    await_copies<1>();  // Q and the first K
    wgmma_fence();
    queue_scores(0);
    wgmma_wait<0>();
    wgmma_landed(s);
    float2 shrink = weigh(0);
    for (int tile = 0; tile + 1 < tiles; ++tile) {
        take_weights(shrink);
        await_copies<0>();  // this V and the next K; and all are done with this K and the last V
        wgmma_fence();
        queue_scores(tile + 1);
        queue_output(tile);
        if (tile + 2 < tiles) load_k(tile + 2);
        load_v(tile + 1);
        cp_async_commit();
        wgmma_wait<1>();
        wgmma_landed(s);
        shrink = weigh(tile + 1);
    }
    take_weights(shrink);
    await_copies<0>();  // the last V
    wgmma_fence();
    queue_output(tiles - 1);
    wgmma_wait<0>();
    wgmma_landed(acc);
    Queries::store(out + size_t(head) * D, shape.out_stride, row0 + warp_row, row_end, tile_q, warp_row, acc, [&](int half) {
        const int row = row0 + warp_row + half * 8 + (lane >> 2);
        return softmax.finish(half, shape.scale, lse + size_t(head) * N, row, N);
    });
}

// ---- backward ---------------------------------------------------------------------------------------------------------
// The two kernels of attention.cu, with kRows rows per resident tile and 64 rows per streamed tile. dq has
// the wgmma of the previous tile in flight while it copies the next tile, hence four stages; dK and dV need
// only three.
template <int D>
struct Backward {
    static constexpr int STAGE_ROWS = 64, STAGES = 4;
    static constexpr size_t TILES = size_t(2 * kRows + 2 * STAGES * STAGE_ROWS) * D * sizeof(bf16);
    static constexpr size_t SHARED = TILES + size_t(2 * STAGES * STAGE_ROWS) * sizeof(float);
};

// Q stays in registers as the left operand of the scores, which halves the shared memory reads for them.
// Operations: 6·D for every pair in the visited tiles.
template <int D>
__global__ void __launch_bounds__(kThreads, 1)
    attention_wgmma_backward_dq_kernel(bf16* __restrict__ dq /* = */, const bf16* __restrict__ dout, const float* __restrict__ lse,
                                       const float* __restrict__ delta, const bf16* __restrict__ q, const bf16* __restrict__ k,
                                       const bf16* __restrict__ v, const int32_t* __restrict__ doc_start, AttentionShape shape) {
    using B = Backward<D>;
    using Queries = Panels<D, kRows>;
    using Keys = Panels<D, B::STAGE_ROWS>;
    HZ_DYN_SHARED(raw, 1024);
    bf16* const tile_q = reinterpret_cast<bf16*>(raw);
    bf16* const tile_dout = tile_q + kRows * D;
    bf16* const staged = tile_dout + kRows * D;  // stage by stage: K, V
    const int lane = int(threadIdx.x) & 31, warp_row = int(threadIdx.x) / 32 * 16, group_row = warp_row & ~63;
    const auto [tile_row, head] = query_block(shape);
    const int N = shape.N, row0 = tile_row * kRows, row_end = min(row0 + kRows, N);
    q += size_t(head) * D;
    dout += size_t(head) * D;
    k += size_t(head / shape.group) * D;
    v += size_t(head / shape.group) * D;

    const int key_begin = low(doc_start, row0, shape.window), unmasked_from = low(doc_start, row_end - 1, shape.window);
    const int tiles = (row_end - key_begin + B::STAGE_ROWS - 1) / B::STAGE_ROWS;
    auto stage = [&](int tile) { return staged + tile % B::STAGES * 2 * B::STAGE_ROWS * D; };
    auto load_tiles = [&](int tile) {
        const int key0 = key_begin + tile * B::STAGE_ROWS;
        Keys::template load<kThreads>(stage(tile), k, shape.k_stride, key0, row_end);
        Keys::template load<kThreads>(stage(tile) + B::STAGE_ROWS * D, v, shape.v_stride, key0, row_end);
    };
    Queries::template load<kThreads>(tile_q, q, shape.q_stride, row0, row_end);
    Queries::template load<kThreads>(tile_dout, dout, shape.out_stride, row0, row_end);
    load_tiles(0);
    cp_async_commit();
    if (tiles > 1) load_tiles(1);
    cp_async_commit();

    float row_lse[2], row_delta[2];
    HZ_UNROLL
    for (int half = 0; half < 2; ++half) {
        const int row = min(row0 + warp_row + half * 8 + (lane >> 2), N - 1);
        row_lse[half] = lse[size_t(head) * N + row] * kLog2E;
        row_delta[half] = delta[size_t(head) * N + row];
    }
    float acc[D / 8][4], s[B::STAGE_ROWS / 8][4], dp[B::STAGE_ROWS / 8][4];
    uint32_t rows_q[D / 16][4], ds[B::STAGE_ROWS / 16][4], last_ds[B::STAGE_ROWS / 16][4];  // matmuls in flight read last_ds
    const float to_log2 = shape.scale * kLog2E;
    auto queue_scores = [&](int tile) {
        Queries::template queue_matmul_transposed<B::STAGE_ROWS>(s, rows_q, stage(tile));
        wgmma_commit();
        Queries::template queue_matmul_transposed<B::STAGE_ROWS>(dp, tile_dout, group_row, stage(tile) + B::STAGE_ROWS * D);
        wgmma_commit();
    };
    auto weigh = [&](int tile) {
        const int key0 = key_begin + tile * B::STAGE_ROWS;
        if (key0 < unmasked_from || key0 + B::STAGE_ROWS - 1 > row0)
            keep_visible(s, row0 + warp_row, key0,
                         [&](int row) { return int2{low(doc_start, min(row, N - 1), shape.window), row}; });
        HZ_UNROLL
        for (int j = 0; j < B::STAGE_ROWS / 8; ++j)
            HZ_UNROLL
            for (int e = 0; e < 4; ++e) s[j][e] = exp2_approx(s[j][e] * to_log2 - row_lse[e >> 1]);
    };
    auto make_ds = [&] {
        HZ_UNROLL
        for (int j = 0; j < B::STAGE_ROWS / 8; ++j)
            HZ_UNROLL
            for (int e = 0; e < 4; ++e) s[j][e] *= dp[j][e] - row_delta[e >> 1];
        pack_fragments(ds, s);
    };

    await_copies<1>();  // Q, dout and the first tile
    Queries::load_fragments(rows_q, tile_q, warp_row);
    wgmma_fence();
    queue_scores(0);
    wgmma_wait<1>();
    wgmma_landed(s);
    weigh(0);
    wgmma_wait<0>();
    wgmma_landed(dp);
    make_ds();
    for (int tile = 1; tile < tiles; ++tile) {
        await_copies<0>();  // this tile; all threads have waited for the matmuls of tile - 3
        wgmma_fence();
        queue_scores(tile);
        if (tile + 1 < tiles) load_tiles(tile + 1);
        cp_async_commit();
        wgmma_wait<1>();
        wgmma_landed(acc);
        wgmma_landed(s);
        HZ_UNROLL
        for (int k = 0; k < B::STAGE_ROWS / 16; ++k)
            HZ_UNROLL
            for (int e = 0; e < 4; ++e) last_ds[k][e] = ds[k][e];
        weigh(tile);
        wgmma_fence();
        Keys::queue_matmul(acc, last_ds, stage(tile - 1), tile > 1);
        wgmma_commit();
        wgmma_wait<1>();
        wgmma_landed(dp);
        make_ds();
    }
    wgmma_fence();
    Keys::queue_matmul(acc, ds, stage(tiles - 1), tiles > 1);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_landed(acc);
    __syncwarp();  // all lanes have read the warp's rows of Q
    Queries::store(dq + size_t(head) * D, shape.q_stride, row0 + warp_row, row_end, tile_q, warp_row, acc,
                   [&](int) { return shape.scale; });
}

// Iterates over the block's query heads in order, and for each over the query rows that see these keys.
// Operations: 8·D for every pair in the visited tiles and query head.
template <int D>
__global__ void __launch_bounds__(kThreads, 1)
    attention_wgmma_backward_dkv_kernel(bf16* __restrict__ dk /* = */, bf16* __restrict__ dv /* = */, float* __restrict__ sums /* = */,
                                        const bf16* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta,
                                        const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                                        const int32_t* __restrict__ doc_end, AttentionShape shape) {
    using B = Backward<D>;
    using Keys = Panels<D, kRows>;
    using Queries = Panels<D, B::STAGE_ROWS>;
    HZ_DYN_SHARED(raw, 1024);
    bf16* const tile_k = reinterpret_cast<bf16*>(raw);
    bf16* const tile_v = tile_k + kRows * D;
    bf16* const staged = tile_v + kRows * D;                              // stage by stage: Q, dout
    float* const staged_rows = reinterpret_cast<float*>(raw + B::TILES);  // stage by stage: lse, delta
    const int lane = int(threadIdx.x) & 31, warp_row = int(threadIdx.x) / 32 * 16, group_row = warp_row & ~63;
    const KeyBlock block = key_block(shape);
    const int N = shape.N, key0 = block.tile * kRows, key_end = min(key0 + kRows, N);
    k += size_t(block.kv_head) * D;
    v += size_t(block.kv_head) * D;

    const int row_end = high(doc_end, key_end - 1, shape.window);
    const int unmasked_from = key0 + kRows - 1, unmasked_to = high(doc_end, key0, shape.window);  // rows that see every key
    const int tiles = (row_end - key0 + B::STAGE_ROWS - 1) / B::STAGE_ROWS * (block.head_end - block.head);
    auto stage = [&](int tile) { return staged + tile % B::STAGES * 2 * B::STAGE_ROWS * D; };
    auto stage_rows = [&](int tile) { return staged_rows + tile % B::STAGES * 2 * B::STAGE_ROWS; };
    auto load_tiles = [&](int tile, QueryTile at) {
        Queries::template load<kThreads>(stage(tile), q + size_t(at.head) * D, shape.q_stride, at.row0, row_end);
        Queries::template load<kThreads>(stage(tile) + B::STAGE_ROWS * D, dout + size_t(at.head) * D, shape.out_stride, at.row0,
                                         row_end);
        static_assert(2 * B::STAGE_ROWS <= kThreads);
        const int i = int(threadIdx.x), row = at.row0 + i % B::STAGE_ROWS;
        if (i < 2 * B::STAGE_ROWS)
            cp_async_4(stage_rows(tile) + i, (i < B::STAGE_ROWS ? lse : delta) + size_t(at.head) * N + row, row < row_end);
    };
    Keys::template load<kThreads>(tile_k, k, shape.k_stride, key0, key_end);
    Keys::template load<kThreads>(tile_v, v, shape.v_stride, key0, key_end);
    QueryTile ahead{block.head, key0};
    auto load_next = [&](int tile) {
        if (tile < tiles) load_tiles(tile, ahead);
        cp_async_commit();
        ahead.advance(B::STAGE_ROWS, key0, row_end);
    };
    load_next(0);
    load_next(1);

    float acc_k[D / 8][4], acc_v[D / 8][4], s[B::STAGE_ROWS / 8][4], dp[B::STAGE_ROWS / 8][4];
    uint32_t p[B::STAGE_ROWS / 16][4], ds[B::STAGE_ROWS / 16][4];
    const float to_log2 = shape.scale * kLog2E;
    auto queue_scores = [&](int tile) {
        Keys::template queue_matmul_transposed<B::STAGE_ROWS>(s, tile_k, group_row, stage(tile));
        wgmma_commit();
        Keys::template queue_matmul_transposed<B::STAGE_ROWS>(dp, tile_v, group_row, stage(tile) + B::STAGE_ROWS * D);
        wgmma_commit();
    };

    await_copies<1>();  // K, V and the first tile
    wgmma_fence();
    queue_scores(0);
    QueryTile at{block.head, key0};
    for (int tile = 0;; ++tile) {
        const float* rows = stage_rows(tile) + (lane & 3) * 2;
        wgmma_wait<1>();  // the last tile's matmuls, and s
        wgmma_landed(acc_k);
        wgmma_landed(acc_v);
        wgmma_landed(s);
        if (at.row0 < unmasked_from || at.row0 + B::STAGE_ROWS > unmasked_to)
            keep_visible(s, key0 + warp_row, at.row0,
                         [&](int key) { return int2{key, (key < N ? high(doc_end, key, shape.window) : 0) - 1}; });
        HZ_UNROLL
        for (int j = 0; j < B::STAGE_ROWS / 8; ++j) {
            const float2 l = *reinterpret_cast<const float2*>(rows + j * 8);
            HZ_UNROLL
            for (int e = 0; e < 4; ++e) s[j][e] = exp2_approx(s[j][e] * to_log2 - (e & 1 ? l.y : l.x) * kLog2E);
        }
        pack_fragments(p, s);
        wgmma_fence();
        Queries::queue_matmul(acc_v, p, stage(tile) + B::STAGE_ROWS * D, tile > 0);
        wgmma_commit();
        wgmma_wait<1>();
        wgmma_landed(dp);
        HZ_UNROLL
        for (int j = 0; j < B::STAGE_ROWS / 8; ++j) {
            const float2 d = *reinterpret_cast<const float2*>(rows + B::STAGE_ROWS + j * 8);
            HZ_UNROLL
            for (int e = 0; e < 4; ++e) s[j][e] *= dp[j][e] - (e & 1 ? d.y : d.x);
        }
        pack_fragments(ds, s);
        await_copies<0>();  // the next tile; all threads are done with the last tile's matmuls, at the end with K and V
        wgmma_fence();
        Queries::queue_matmul(acc_k, ds, stage(tile), tile > 0);
        wgmma_commit();
        if (tile + 1 == tiles) break;
        queue_scores(tile + 1);
        load_next(tile + 2);
        at.advance(B::STAGE_ROWS, key0, row_end);
    }
    wgmma_wait<0>();
    wgmma_landed(acc_k);
    wgmma_landed(acc_v);
    const KeyBlock same = key_block(shape);  // computed again: no register holds it in the loop
    if (shape.parts > 1) {
        store_sums(sums, shape, same, false, key0 + warp_row, acc_k);
        store_sums(sums, shape, same, true, key0 + warp_row, acc_v);
        return;
    }
    Keys::store(dk + size_t(same.kv_head) * D, shape.k_stride, key0 + warp_row, key_end, tile_k, warp_row, acc_k,
                [&](int) { return shape.scale; });
    Keys::store(dv + size_t(same.kv_head) * D, shape.v_stride, key0 + warp_row, key_end, tile_v, warp_row, acc_v,
                [&](int) { return 1.f; });
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_attention_wgmma_forward(hzk_bf16* out, float* lse, const hzk_bf16* q, const hzk_bf16* k, const hzk_bf16* v,
                                const int32_t* doc_start, float scale, int64_t window, int64_t N, int64_t H, int64_t G, int64_t D,
                                int64_t q_stride, int64_t k_stride, int64_t v_stride, hzk_stream stream) {
    HZK_NEED_SHAPE(is_attention(scale, N, H, G, D, q_stride, k_stride, v_stride));
    HZK_NEED_ALIGNED(out, q, k, v);
    if (N == 0) return HZK_OK;
    const AttentionShape shape = attention_shape(scale, window, N, H, G, D, q_stride, k_stride, v_stride);
    return with_head_dim<64, 128>(D, [&]<int DIM>() {
        using F = Forward<DIM>;
        const int status = allow_shared<kSharedMaxHopper>(attention_wgmma_forward_kernel<DIM>, F::SHARED);
        if (status != HZK_OK) return status;
        HZ_LAUNCH(attention_wgmma_forward_kernel<DIM>, unsigned(ceil_div(N, kRows) * H), kThreads, F::SHARED, stream,
                  out, lse, q, k, v, doc_start, shape);
        return launch_status();
    });
}

int hzk_attention_wgmma_backward(hzk_bf16* dq, hzk_bf16* dk, hzk_bf16* dv, void* scratch, const hzk_bf16* dout,
                                 const hzk_bf16* out, const float* lse, const hzk_bf16* q, const hzk_bf16* k, const hzk_bf16* v,
                                 const int32_t* doc_start, const int32_t* doc_end, float scale, int64_t window, int64_t N, int64_t H,
                                 int64_t G, int64_t D, int64_t q_stride, int64_t k_stride, int64_t v_stride, hzk_stream stream) {
    HZK_NEED_SHAPE(is_attention(scale, N, H, G, D, q_stride, k_stride, v_stride));
    HZK_NEED_ALIGNED(dq, dk, dv, scratch, dout, out, q, k, v);
    if (N == 0) return HZK_OK;
    const AttentionShape shape = attention_shape(scale, window, N, H, G, D, q_stride, k_stride, v_stride);
    float* sums = static_cast<float*>(scratch);
    float* delta = sums + sums_count(shape.parts, N, G, D);
    return with_head_dim<64, 128>(D, [&]<int DIM>() {
        using B = Backward<DIM>;
        const int64_t tiles = ceil_div(N, kRows);
        int status = allow_shared<kSharedMaxHopper>(attention_wgmma_backward_dq_kernel<DIM>, B::TILES);
        if (status != HZK_OK) return status;
        status = allow_shared<kSharedMaxHopper>(attention_wgmma_backward_dkv_kernel<DIM>, B::SHARED);
        if (status != HZK_OK) return status;
        launch_delta<DIM>(delta, dout, out, shape, stream);
        HZ_LAUNCH(attention_wgmma_backward_dq_kernel<DIM>, unsigned(tiles * H), kThreads, B::TILES, stream, dq, dout, lse, delta, q, k,
                  v, doc_start, shape);
        HZ_LAUNCH(attention_wgmma_backward_dkv_kernel<DIM>, unsigned(tiles * G * shape.parts), kThreads, B::SHARED, stream, dk, dv,
                  sums, dout, lse, delta, q, k, v, doc_end, shape);
        launch_sum(dk, dv, sums, shape, DIM, stream);
        return launch_status();
    });
}
