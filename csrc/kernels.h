/* The kernels of Horizon: every launcher, and what a caller must know of it. Plain C; bindgen reads it, and Rust's table of
 * launchers follows from it: after a change `HZ_CUDA_BINDINGS=write cargo build` renews the committed bindings.
 *
 * CALLING
 *   A launcher checks its arguments, queues its kernels on `stream` and returns; it neither waits nor allocates. Pointers are
 *   device memory. Results are there when the stream has got that far. Launchers may be called from any thread whose current
 *   device is the stream's; they hold no state.
 *   Status: HZK_OK, or HZK_ERROR_* (nothing was queued), or the positive cudaError_t of the launch. Errors of a kernel's
 *   execution surface, as always with CUDA, at a later call.
 *   A size of zero rows is legal and queues nothing.
 *
 * SIZES (int64_t)
 *   N rows (tokens), C width, H query heads, G key/value heads (H is a multiple of G), D head dimension, F feed-forward width,
 *   V vocabulary. Matrices are row-major. A `_stride` is the distance between rows in elements: at least the row's width, and a
 *   multiple of 8; it lets q, k, v (or gate, up) be column ranges of one product's output. N <= 2^31-1, widths <= 2^31-1;
 *   offsets are computed in 64 bits, so no product of sizes is too large.
 *
 * TYPES
 *   hzk_bf16 is stored, f32 is computed. An output is rounded once, ties to even; only gradients that leave the device follow
 *   the store's rounding, (bits + 0x8000) >> 16. Accumulators (dweight, dbias) are f32.
 *
 * WRITE MODES
 *   Every output says = or +=. Where it says "= or +=", the argument `accumulate` chooses: zero overwrites.
 *
 * ALIGNMENT
 *   Every bf16 and f32 matrix starts at a multiple of 16 bytes and its row stride keeps that (widths and strides are multiples
 *   of 8 elements unless a launcher says otherwise). Vectors of one value a row need only their natural alignment.
 *
 * BITS
 *   Same arguments, same bits, on every run and every device of one architecture: no float atomics, no order that depends on
 *   the number of multiprocessors. Where a `scratch` is asked for, its size is a function of shape; its content means nothing
 *   before or after.
 *
 * ALIASING
 *   None, except where a launcher says "may be": then the two are the same matrix, never shifted ones.
 */
#ifndef HZK_KERNELS_H
#define HZK_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HZK_OK 0
#define HZK_ERROR_SHAPE (-1)     /* a size, stride or scalar outside the limits stated here */
#define HZK_ERROR_ALIGNMENT (-2) /* a pointer that is not aligned as stated here */

typedef struct hzk_bf16 {
    uint16_t bits; /* the upper half of an IEEE f32 */
} hzk_bf16;

typedef struct CUstream_st* hzk_stream; /* cudaStream_t; null is the default stream */

/* ---- embedding ----------------------------------------------------------------------------------------------------------
 * out[n] = weight[tokens[n]].
 * A token outside [0, V) reads nothing: its row becomes NaN and the step's non-finite guard finds it.
 * Least bytes: 4·N·C + 4·N.
 */
int hzk_embedding_forward(hzk_bf16* out /* = [N,C] */, const int32_t* tokens /* [N] */, const hzk_bf16* weight /* [V,C] */,
                          int64_t N, int64_t C, int64_t V, hzk_stream stream);

/* dweight[v] += sum of dout[n] over the rows n whose token is v, in rising n.
 * The host, which knows the tokens before the step, sorts: `order` holds the row numbers 0..N-1 sorted by token, equal tokens by
 * rising row (a stable counting sort); `first` holds, for each of the U distinct tokens, the position in `order` where its rows
 * begin, and first[U] = N. So every row of dweight has one writer and one order of addition, with no atomics and no zeroed
 * scratch. Rows of out-of-range tokens are skipped.
 * Limits: C <= 2^24.
 * Least bytes: 2·N·C + 8·U·C.
 */
int hzk_embedding_backward(float* dweight /* += [V,C] */, const hzk_bf16* dout /* [N,C] */, const int32_t* tokens /* [N] */,
                           const int32_t* order /* [N] */, const int32_t* first /* [U+1] */, int64_t N, int64_t U, int64_t C,
                           int64_t V, hzk_stream stream);

/* ---- RMSNorm ------------------------------------------------------------------------------------------------------------
 * rstd[n] = 1 / sqrt(mean(x[n]²) + eps);  out = x · rstd · weight.
 * Limits: C <= 16384.
 * Least bytes: 4·N·C.
 */
int hzk_rmsnorm_forward(hzk_bf16* out /* = [N,C] */, float* rstd /* = [N] */, const hzk_bf16* x /* [N,C] */,
                        const hzk_bf16* weight /* [C] */, float eps, int64_t N, int64_t C, hzk_stream stream);

/* With g = dout · weight:  dx (+)= rstd · (g - x · rstd² · mean(g · x));  dweight += sum over rows of dout · x · rstd.
 * With `accumulate` the sum dx + ... is made in f32 and rounded once: the branch's gradient joining the residual stream's.
 * `dx` may be `dout` or `x` when accumulate is 0.
 * scratch: hzk_rmsnorm_backward_scratch(N, C) bytes, 16-byte aligned.
 * Least bytes: 6·N·C (8·N·C accumulating).
 */
size_t hzk_rmsnorm_backward_scratch(int64_t N, int64_t C);
int hzk_rmsnorm_backward(hzk_bf16* dx /* = or += [N,C] */, float* dweight /* += [C] */, void* scratch,
                         const hzk_bf16* dout /* [N,C] */, const hzk_bf16* x /* [N,C] */, const hzk_bf16* weight /* [C] */,
                         const float* rstd /* [N] */, int accumulate, int64_t N, int64_t C, hzk_stream stream);

/* ---- QK norm ------------------------------------------------------------------------------------------------------------
 * RMSNorm of every head by itself, one weight for all heads, as in Qwen3. Call once for q (heads = H), once for k (heads = G).
 * rstd is [N,heads]. `out` may be `x`, `dx` may be `dout` (with equal strides).
 * Limits: D is 64, 96, 128 or 256; N·heads <= 2^31-1.
 * Least bytes: forward 4·N·heads·D, backward 6·N·heads·D.
 */
int hzk_qk_norm_forward(hzk_bf16* out /* = [N,heads,D] */, float* rstd /* = [N,heads] */, const hzk_bf16* x /* [N,heads,D] */,
                        const hzk_bf16* weight /* [D] */, float eps, int64_t N, int64_t heads, int64_t D, int64_t out_stride,
                        int64_t x_stride, hzk_stream stream);
size_t hzk_qk_norm_backward_scratch(int64_t N, int64_t heads, int64_t D);
int hzk_qk_norm_backward(hzk_bf16* dx /* = [N,heads,D] */, float* dweight /* += [D] */, void* scratch,
                         const hzk_bf16* dout /* [N,heads,D] */, const hzk_bf16* x /* [N,heads,D] */,
                         const hzk_bf16* weight /* [D] */, const float* rstd /* [N,heads] */, int64_t N, int64_t heads, int64_t D,
                         int64_t dx_stride, int64_t dout_stride, int64_t x_stride, hzk_stream stream);

/* ---- RoPE ---------------------------------------------------------------------------------------------------------------
 * Rotates q and k in place, Hugging Face's halves convention: element i pairs with i + D/2, angle = position · inv_freq[i].
 * `inv_freq` carries the scaling: plain base^(-2i/D), `linear` that over the factor, `llama3` its piecewise blend; the host makes
 * it once. `positions` is given per row, so documents restart by restarting it. The angle is the f32 product, as in Hugging
 * Face; its sine and cosine are exact to f32 at any size.
 * backward rotates dq and dk by the opposite angle.
 * Limits: D is a multiple of 16, D <= 256; 0 <= position < 2^24.
 * Least bytes: 4·N·(H+G)·D.
 */
int hzk_rope_forward(hzk_bf16* q /* in place [N,H,D] */, hzk_bf16* k /* in place [N,G,D] */, const int32_t* positions /* [N] */,
                     const float* inv_freq /* [D/2] */, int64_t N, int64_t H, int64_t G, int64_t D, int64_t q_stride,
                     int64_t k_stride, hzk_stream stream);
int hzk_rope_backward(hzk_bf16* dq /* in place [N,H,D] */, hzk_bf16* dk /* in place [N,G,D] */,
                      const int32_t* positions /* [N] */, const float* inv_freq /* [D/2] */, int64_t N, int64_t H, int64_t G,
                      int64_t D, int64_t q_stride, int64_t k_stride, hzk_stream stream);

/* ---- SwiGLU -------------------------------------------------------------------------------------------------------------
 * out = silu(gate) · up, silu(x) = x / (1 + e^-x). gate and up share `stride`; out is dense.
 * Least bytes: 6·N·F.
 */
int hzk_swiglu_forward(hzk_bf16* out /* = [N,F] */, const hzk_bf16* gate /* [N,F] */, const hzk_bf16* up /* [N,F] */, int64_t N,
                       int64_t F, int64_t stride, hzk_stream stream);

/* dgate = dout · up · silu'(gate);  dup = dout · silu(gate). All four of gate, up, dgate, dup share `stride`; dgate may be gate,
 * dup may be up.
 * Least bytes: 10·N·F.
 */
int hzk_swiglu_backward(hzk_bf16* dgate /* = [N,F] */, hzk_bf16* dup /* = [N,F] */, const hzk_bf16* dout /* [N,F] */,
                        const hzk_bf16* gate /* [N,F] */, const hzk_bf16* up /* [N,F] */, int64_t N, int64_t F, int64_t stride,
                        hzk_stream stream);

/* ---- bias ---------------------------------------------------------------------------------------------------------------
 * dbias += sum over rows of dout. Forward is an epilogue of the matmul. Backward is not: cuBLASLt's (BGRADB) would set dbias
 * where micro-batches add to it, and documents no order of its sum.
 * scratch: hzk_bias_backward_scratch(N, C) bytes, 16-byte aligned.
 * Least bytes: 2·N·C.
 */
size_t hzk_bias_backward_scratch(int64_t N, int64_t C);
int hzk_bias_backward(float* dbias /* += [C] */, void* scratch, const hzk_bf16* dout /* [N,C] */, int64_t N, int64_t C,
                      hzk_stream stream);

/* ---- softmax cross-entropy ----------------------------------------------------------------------------------------------
 * Over a chunk of R rows of logits, [R,V] with row stride `stride` (a multiple of 8, at least V; V itself is free). Columns
 * V..stride are neither read nor written. logprob = logit[target] - log(sum of e^logit).
 * A target of -100 ignores the row: zero loss, logprob and gradient. Any other target outside [0, V) makes all three NaN.
 *
 * forward: logprob only, logits stay.
 *   Least bytes: 2·R·V.
 * forward_backward: logprob too, and logits become d loss / d logits = weights[r] · scale · (softmax - onehot) with
 *   scale = 1/W of the step, in place.
 *   Least bytes: 4·R·V.
 * backward: logits become dlogprob[r] · (onehot - softmax), in place: the head's gradient under a caller's own loss.
 *   Least bytes: 4·R·V.
 * loss: loss += -sum of weights[r] · logprob[r], in f64 and in an order fixed by R; not yet divided by the step's W.
 *   Least bytes: 8·R.
 */
int hzk_cross_entropy_forward(float* logprob /* = [R] */, const hzk_bf16* logits /* [R,V] */, const int32_t* targets /* [R] */,
                              int64_t R, int64_t V, int64_t stride, hzk_stream stream);
int hzk_cross_entropy_forward_backward(hzk_bf16* logits /* in place [R,V] */, float* logprob /* = [R] */,
                                       const int32_t* targets /* [R] */, const float* weights /* [R] */, float scale, int64_t R,
                                       int64_t V, int64_t stride, hzk_stream stream);
int hzk_cross_entropy_backward(hzk_bf16* logits /* in place [R,V] */, const int32_t* targets /* [R] */,
                               const float* dlogprob /* [R] */, int64_t R, int64_t V, int64_t stride, hzk_stream stream);
int hzk_cross_entropy_loss(double* loss /* += [1] */, const float* logprob /* [R] */, const float* weights /* [R] */, int64_t R,
                           hzk_stream stream);

/* ---- gradients ----------------------------------------------------------------------------------------------------------
 * n values, any n; a span starts at a multiple of 16 bytes.
 *
 * store: out = (bits + 0x8000) >> 16 of each f32 (a NaN stays a NaN). Unless squares is null, the same pass computes
 *   squares[b] = the sum of the squares of the f32 values of block b, HZK_NORM_BLOCK values (the last block may have fewer), in
 *   f64 and in a fixed order.
 *   Least bytes: 6·n.
 * copy: the same for gradients that leave as f32: out = grad.
 *   Least bytes: 8·n.
 * squares: the sums of squares alone, with the bits of the other two.
 *   Least bytes: 4·n.
 *
 * widen: out = inp as f32.
 *   Least bytes: 6·n.
 */
#define HZK_NORM_BLOCK 65536
int hzk_gradient_store(hzk_bf16* out /* = [n] */, double* squares /* = [ceil(n / HZK_NORM_BLOCK)] or null */,
                       const float* grad /* [n] */, int64_t n, hzk_stream stream);
int hzk_gradient_copy(float* out /* = [n] */, double* squares /* = [ceil(n / HZK_NORM_BLOCK)] or null */,
                      const float* grad /* [n] */, int64_t n, hzk_stream stream);
int hzk_gradient_squares(double* squares /* = [ceil(n / HZK_NORM_BLOCK)] */, const float* grad /* [n] */, int64_t n,
                         hzk_stream stream);
int hzk_widen(float* out /* = [n] */, const hzk_bf16* inp /* [n] */, int64_t n, hzk_stream stream);

/* ---- attention ----------------------------------------------------------------------------------------------------------
 * Causal grouped-query attention over N packed rows, flash style: memory linear in N.
 *
 * A batch of B sequences and the documents packed inside them are one thing here: each row belongs to a document, a range of
 * consecutive rows, and sees only that document. doc_start[n] is the first row of n's document, doc_end[n] one past its last;
 * both never fall as n rises. Row i sees key j when doc_start[i] <= j <= i, and, with window > 0, i - j < window.
 * Query head h reads key/value head h / (H/G).
 *
 * forward: out = softmax(scale · q·kᵀ) · v, and lse[h,n] = log(sum of e^(scale · score)), natural, f32.
 *   Operations: 2·H·D per visible (row, key) pair, twice.
 * backward: needs what forward was given and gave. dq, dk, dv have the strides of q, k, v. Deterministic by construction: one
 *   kernel owns rows of dq, another owns rows of dk and dv and walks its group's query heads in order; the price is that scores
 *   and their gradients are computed in both (7 products of forward's size where 5 are the least). Where N·G is too small to occupy
 *   a device, several blocks divide the heads of a group, and a third kernel adds their f32 sums in order.
 *   scratch: hzk_attention_backward_scratch(N, H, G, D) bytes, 16-byte aligned.
 * Limits: D is 64, 96, 128 or 256; H <= 65535; N <= 2^31 - 256 and N·H <= 2^31-1; scale is finite and positive.
 */
int hzk_attention_forward(hzk_bf16* out /* = [N,H,D] */, float* lse /* = [H,N] */, const hzk_bf16* q /* [N,H,D] */,
                          const hzk_bf16* k /* [N,G,D] */, const hzk_bf16* v /* [N,G,D] */, const int32_t* doc_start /* [N] */,
                          float scale, int64_t window, int64_t N, int64_t H, int64_t G, int64_t D, int64_t q_stride,
                          int64_t k_stride, int64_t v_stride, hzk_stream stream);
size_t hzk_attention_backward_scratch(int64_t N, int64_t H, int64_t G, int64_t D);
int hzk_attention_backward(hzk_bf16* dq /* = [N,H,D] */, hzk_bf16* dk /* = [N,G,D] */, hzk_bf16* dv /* = [N,G,D] */,
                           void* scratch, const hzk_bf16* dout /* [N,H,D] */, const hzk_bf16* out /* [N,H,D] */,
                           const float* lse /* [H,N] */, const hzk_bf16* q /* [N,H,D] */, const hzk_bf16* k /* [N,G,D] */,
                           const hzk_bf16* v /* [N,G,D] */, const int32_t* doc_start /* [N] */, const int32_t* doc_end /* [N] */,
                           float scale, int64_t window, int64_t N, int64_t H, int64_t G, int64_t D, int64_t q_stride,
                           int64_t k_stride, int64_t v_stride, hzk_stream stream);

/* The same by the warpgroup mma of Hopper (compute capability 9.0, code for sm_90a), for D 64 and 128: the same values up to the
 * order of sums. Arguments, scratch and limits are those above. Elsewhere the kernel stops with an error. */
int hzk_attention_wgmma_forward(hzk_bf16* out, float* lse, const hzk_bf16* q, const hzk_bf16* k, const hzk_bf16* v,
                                const int32_t* doc_start, float scale, int64_t window, int64_t N, int64_t H, int64_t G, int64_t D,
                                int64_t q_stride, int64_t k_stride, int64_t v_stride, hzk_stream stream);
int hzk_attention_wgmma_backward(hzk_bf16* dq, hzk_bf16* dk, hzk_bf16* dv, void* scratch, const hzk_bf16* dout,
                                 const hzk_bf16* out, const float* lse, const hzk_bf16* q, const hzk_bf16* k, const hzk_bf16* v,
                                 const int32_t* doc_start, const int32_t* doc_end, float scale, int64_t window, int64_t N, int64_t H,
                                 int64_t G, int64_t D, int64_t q_stride, int64_t k_stride, int64_t v_stride, hzk_stream stream);

#ifdef __cplusplus
}
#endif
#endif /* HZK_KERNELS_H */
