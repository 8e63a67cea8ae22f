/* The CUDA kernels of Horizon: all launchers and their contracts. Plain C. bindgen generates the Rust
 * bindings from this header: after a change `HZ_CUDA_BINDINGS=write cargo build` updates the committed
 * bindings.
 *
 * CALLING
 *   A launcher checks its arguments, enqueues its kernels on `stream` and returns; it does not wait or
 *   allocate. Pointers are device memory. Results are valid once the CUDA stream has run the kernels.
 *   Launchers have no state and may be called from any thread whose current device is that of the
 *   CUDA stream.
 *   Status: HZK_OK, or HZK_ERROR_* (nothing was enqueued), or the positive cudaError_t of the launch. As
 *   always with CUDA, errors during the execution of a kernel are returned by a later call.
 *   Zero rows are allowed and enqueue nothing.
 *
 * SIZES (int64_t)
 *   N rows (tokens), C hidden size, H query heads, G key/value heads (GQA; H is a multiple of G), D head
 *   size, F intermediate size, V vocabulary. Matrices are row-major. A `_stride` is the distance between
 *   rows in elements: at least the row's width, and a multiple of 8; q, k, v (or gate, up) can thus be
 *   column ranges of one GEMM's output. N <= 2^31-1, widths <= 2^31-1; offsets are computed in 64 bits, so
 *   no product of sizes is too large.
 *
 * TYPES
 *   Storage is hzk_bf16, arithmetic is f32. An output is rounded once, to nearest even, except for
 *   hzk_gradient_store, which rounds as the host's split master, (bits + 0x8000) >> 16. Accumulators
 *   (dweight, dbias) are f32.
 *
 * WRITE MODES
 *   Every output is marked = (overwrite) or += (accumulate). For "= or +=" the argument `accumulate`
 *   chooses; zero overwrites.
 *
 * ALIGNMENT
 *   Every bf16 and f32 matrix, and every one of its rows, is 16-byte aligned (widths and strides are
 *   multiples of 8 elements unless a launcher states otherwise). Vectors with one value per row need only
 *   their natural alignment.
 *
 * DETERMINISM
 *   Equal arguments give equal bits, on every run and every device of one architecture: no float atomics,
 *   no order that depends on the number of SMs. The size of a `scratch` depends only on the shape; its
 *   content is undefined before and after.
 *
 * ALIASING
 *   None, unless a launcher states "may be": then both are the same matrix, without an offset.
 */
#ifndef HZK_KERNELS_H
#define HZK_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HZK_OK 0
#define HZK_ERROR_SHAPE (-1)     /* a size, stride or scalar is outside the stated limits */
#define HZK_ERROR_ALIGNMENT (-2) /* a pointer is not aligned as stated */

typedef struct hzk_bf16 {
    uint16_t bits; /* the upper half of an IEEE f32 */
} hzk_bf16;

typedef struct CUstream_st* hzk_stream; /* cudaStream_t; null is the default CUDA stream */

/* ---- embedding ----------------------------------------------------------------------------------------------------------
 * out[n] = scale · weight[tokens[n]].
 * The row of a token outside [0, V) becomes NaN, which the step's non-finite check detects.
 * Least bytes: 4·N·C + 4·N.
 */
int hzk_embedding_forward(hzk_bf16* out /* = [N,C] */, const int32_t* tokens /* [N] */, const hzk_bf16* weight /* [V,C] */,
                          float scale, int64_t N, int64_t C, int64_t V, hzk_stream stream);

/* dweight[v] += sum of scale · dout[n] over the rows n whose token is v, in ascending n.
 * The host sorts the tokens before the step: `order` contains the rows 0..N-1, sorted stably by token;
 * `first` contains, for each of the U distinct tokens, the position in `order` of its first row, and
 * first[U] = N. Each row of dweight thus has one writer and a fixed order of addition, without atomics or
 * zeroed scratch. Rows of out-of-range tokens are skipped.
 * Limits: C <= 2^24.
 * Least bytes: 2·N·C + 8·U·C.
 */
int hzk_embedding_backward(float* dweight /* += [V,C] */, const hzk_bf16* dout /* [N,C] */, const int32_t* tokens /* [N] */,
                           const int32_t* order /* [N] */, const int32_t* first /* [U+1] */, float scale, int64_t N, int64_t U,
                           int64_t C, int64_t V, hzk_stream stream);

/* ---- RMSNorm ------------------------------------------------------------------------------------------------------------
 * rstd[n] = 1 / sqrt(mean(x[n]²) + eps);  out = residual + x · rstd · (offset + weight).
 * `residual` may be null: then nothing is added. The sum is computed in f32 and rounded once. The residual has
 * the stride of `out` and may be `out`. `out` may be `x` if there is no residual, with equal strides.
 * Limits: C <= 16384.
 * Least bytes: 4·N·C (6·N·C with a residual).
 */
int hzk_rmsnorm_forward(hzk_bf16* out /* = [N,C] */, float* rstd /* = [N] */, const hzk_bf16* x /* [N,C] */,
                        const hzk_bf16* weight /* [C] */, const hzk_bf16* residual /* [N,C] or null */, float offset, float eps,
                        int64_t N, int64_t C, int64_t out_stride, int64_t x_stride, hzk_stream stream);

/* With g = dout · (offset + weight):  dx (+)= rstd · (g - x · rstd² · mean(g · x));
 *                                     dweight += sum over rows of dout · x · rstd.
 * With `accumulate` the sum dx + ... is computed in f32 and rounded once: it adds the branch's gradient to
 * that of the residual stream.
 * `dx` may be `dout` or `x` when accumulate is 0, with equal strides.
 * scratch: hzk_rmsnorm_backward_scratch(N, C) bytes, 16-byte aligned.
 * Least bytes: 6·N·C (8·N·C accumulating).
 */
size_t hzk_rmsnorm_backward_scratch(int64_t N, int64_t C);
int hzk_rmsnorm_backward(hzk_bf16* dx /* = or += [N,C] */, float* dweight /* += [C] */, void* scratch,
                         const hzk_bf16* dout /* [N,C] */, const hzk_bf16* x /* [N,C] */, const hzk_bf16* weight /* [C] */,
                         const float* rstd /* [N] */, float offset, int accumulate, int64_t N, int64_t C, int64_t dx_stride,
                         int64_t dout_stride, int64_t x_stride, hzk_stream stream);

/* ---- QK norm ------------------------------------------------------------------------------------------------------------
 * RMSNorm per head, with one weight for all heads, as in Qwen3. Call once for q (heads = H), once for k
 * (heads = G).
 * rstd is [N,heads]. `out` may be `x`, `dx` may be `dout` (with equal strides).
 * Limits: D is 64, 96, 128 or 256; N·heads <= 2^31-1.
 * Least bytes: forward 4·N·heads·D, backward 6·N·heads·D.
 */
int hzk_qk_norm_forward(hzk_bf16* out /* = [N,heads,D] */, float* rstd /* = [N,heads] */, const hzk_bf16* x /* [N,heads,D] */,
                        const hzk_bf16* weight /* [D] */, float offset, float eps, int64_t N, int64_t heads, int64_t D,
                        int64_t out_stride, int64_t x_stride, hzk_stream stream);
size_t hzk_qk_norm_backward_scratch(int64_t N, int64_t heads, int64_t D);
int hzk_qk_norm_backward(hzk_bf16* dx /* = [N,heads,D] */, float* dweight /* += [D] */, void* scratch,
                         const hzk_bf16* dout /* [N,heads,D] */, const hzk_bf16* x /* [N,heads,D] */,
                         const hzk_bf16* weight /* [D] */, const float* rstd /* [N,heads] */, float offset, int64_t N,
                         int64_t heads, int64_t D, int64_t dx_stride, int64_t dout_stride, int64_t x_stride, hzk_stream stream);

/* ---- RoPE ---------------------------------------------------------------------------------------------------------------
 * Rotates the first R elements of every head of q and k in place, by angle = position · inv_freq[i] for pair
 * i, and multiplies them by `factor`. Pair i is (i, i + R/2), or (2i, 2i + 1) if `interleaved`. Queries are
 * also multiplied by 1 + beta · ln(1 + floor(position / every)); beta 0 means no such factor.
 * With `backward`, q and k are gradients and the angles are negated; the factors are the same.
 * `inv_freq` includes all scaling of frequencies; the host computes it once. `positions` has one value per
 * row; it restarts at each document. The angle is position · inv_freq[i] rounded to f32, as in Hugging Face;
 * its sine and cosine have f32 accuracy at any size.
 * Limits: D is a multiple of 8, R a multiple of 16, R <= D, R <= 256; R = D if beta is not 0; every >= 1;
 * 0 <= position < 2^24.
 * Least bytes: 4·N·(H+G)·R.
 */
int hzk_rope(hzk_bf16* q /* in place [N,H,D] */, hzk_bf16* k /* in place [N,G,D] */, const int32_t* positions /* [N] */,
             const float* inv_freq /* [R/2] */, int backward, int interleaved, float factor, float beta, int64_t every, int64_t N,
             int64_t H, int64_t G, int64_t D, int64_t R, int64_t q_stride, int64_t k_stride, hzk_stream stream);

/* ---- GLU ----------------------------------------------------------------------------------------------------------------
 * out = act(gate) · up, act(x) = x / (1 + e^-z(x)). gate and up share `stride`; out is dense.
 * activation: 0 is SiLU, z(x) = x; 1 is GELU by tanh, z(x) = sqrt(8/pi) · (x + 0.044715·x³).
 * Least bytes: 6·N·F.
 */
int hzk_glu_forward(hzk_bf16* out /* = [N,F] */, const hzk_bf16* gate /* [N,F] */, const hzk_bf16* up /* [N,F] */, int activation,
                    int64_t N, int64_t F, int64_t stride, hzk_stream stream);

/* dgate = dout · up · act'(gate);  dup = dout · act(gate). All four of gate, up, dgate, dup share
 * `stride`; dgate may be gate, dup may be up.
 * Least bytes: 10·N·F.
 */
int hzk_glu_backward(hzk_bf16* dgate /* = [N,F] */, hzk_bf16* dup /* = [N,F] */, const hzk_bf16* dout /* [N,F] */,
                     const hzk_bf16* gate /* [N,F] */, const hzk_bf16* up /* [N,F] */, int activation, int64_t N, int64_t F,
                     int64_t stride, hzk_stream stream);

/* ---- bias ---------------------------------------------------------------------------------------------------------------
 * dbias += sum over rows of dout. Forward is an epilogue of the GEMM. Backward is not: cuBLASLt's epilogue
 * (BGRADB) overwrites dbias instead of accumulating over micro-batches, and does not document the order of
 * its sum.
 * scratch: hzk_bias_backward_scratch(N, C) bytes, 16-byte aligned.
 * Least bytes: 2·N·C.
 */
size_t hzk_bias_backward_scratch(int64_t N, int64_t C);
int hzk_bias_backward(float* dbias /* += [C] */, void* scratch, const hzk_bf16* dout /* [N,C] */, int64_t N, int64_t C,
                      hzk_stream stream);

/* ---- softmax cross-entropy ----------------------------------------------------------------------------------------------
 * Operates on a chunk of R rows of logits, [R,V] with row stride `stride` (a multiple of 8, at least V; V
 * is arbitrary). Columns V..stride are neither read nor written.
 * logprob = logit[target] - log(sum of e^logit).
 * A target of -100 ignores the row: zero loss, logprob and gradient. Any other target outside [0, V) makes
 * all three NaN.
 *
 * forward: logprob only; logits are unchanged.
 *   Least bytes: 2·R·V.
 * forward_backward: logprob, and logits become d loss / d logits = weights[r] · scale · (softmax - onehot),
 *   in place; scale = 1/W, W being the step's sum of weights.
 *   Least bytes: 4·R·V.
 * backward: logits become dlogprob[r] · (onehot - softmax), in place: the gradient for a loss computed by
 *   the caller.
 *   Least bytes: 4·R·V.
 * loss: loss += -sum of weights[r] · logprob[r], in f64, in an order that depends only on R; not divided by W.
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
 * n values, any n; arrays are 16-byte aligned.
 *
 * store: out = (bits + 0x8000) >> 16 of each f32 (a NaN stays a NaN). Unless squares is null, the same pass
 *   computes squares[b] = sum of squares of the f32 values of block b, in f64 and in a fixed order. A block
 *   has HZK_NORM_BLOCK values, the last block possibly fewer.
 *   Least bytes: 6·n.
 * copy: as store, but out = grad, for gradients stored as f32.
 *   Least bytes: 8·n.
 * squares: only the sums of squares, bit-equal to those of store and copy.
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
 * Causal grouped-query attention (GQA) over N packed rows, flash style: memory is linear in N.
 *
 * Sequences of a batch and documents packed inside them are treated alike: each row belongs to a document,
 * a range of consecutive rows, and sees only that document. doc_start[n] is the first row of n's document,
 * doc_end[n] one past its last; both are non-decreasing. Row i sees key j if doc_start[i] <= j <= i, and,
 * with window > 0, i - j < window.
 * Query head h reads key/value head h / (H/G).
 *
 * forward: out = softmax(scale · q·kᵀ) · v, and lse[h,n] = log(sum of e^(scale · score)), natural logarithm, f32.
 *   Operations: 2·H·D per visible (row, key) pair, twice.
 * backward: reads the inputs and outputs of forward. dq, dk, dv have the strides of q, k, v. Deterministic:
 *   one kernel owns rows of dq, another owns rows of dk and dv and iterates over its group's query heads in
 *   order. The cost is that both compute the scores and their gradients (7 matmuls of forward's size
 *   instead of 5). If N·G is too small to occupy a GPU, several blocks divide the heads of a group, and a
 *   third kernel adds their f32 sums in order.
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

/* The same with Hopper's wgmma (compute capability 9.0, compiled for sm_90a), for D 64 and 128: the same
 * values up to the order of sums. Arguments, scratch and limits are as above. On other devices the kernel
 * traps. */
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
