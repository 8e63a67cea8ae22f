// Bias: out[n] += bias; dbias += sum over rows of dout.
#include "column_sum.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kThreads = 256;

// Least bytes: 4·N·C.
__global__ void __launch_bounds__(kThreads)
    bias_forward_kernel(bf16* __restrict__ out /* += */, const bf16* __restrict__ bias, int N, int C) {
    const int c = (int(blockIdx.x) * kThreads + int(threadIdx.x)) * 8;
    if (c >= C) return;
    float b[8];
    load8(bias + c, b);
    for (int row = int(blockIdx.y); row < N; row += int(gridDim.y)) {
        float f[8];
        bf16* p = out + size_t(row) * C + c;
        load8(p, f);
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) f[e] += b[e];
        store8(p, f);
    }
}

// Stage one: the sum of rows y, y + gridDim.y, ... of this thread's columns, to partial[y]. Least bytes: 2·N·C.
__global__ void __launch_bounds__(kThreads)
    bias_backward_kernel(float* __restrict__ partial /* = [gridDim.y, C] */, const bf16* __restrict__ dout, int N, int C) {
    const int c = (int(blockIdx.x) * kThreads + int(threadIdx.x)) * 8;
    if (c >= C) return;
    float acc[8] = {};
    HZ_UNROLL_BY(4)
    for (int row = int(blockIdx.y); row < N; row += int(gridDim.y)) {
        float f[8];
        load8_once(dout + size_t(row) * C + c, f);
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) acc[e] += f[e];
    }
    float* p = partial + size_t(blockIdx.y) * C + c;
    store4(p, make_float4(acc[0], acc[1], acc[2], acc[3]));
    store4(p + 4, make_float4(acc[4], acc[5], acc[6], acc[7]));
}

unsigned column_blocks(int64_t C) { return unsigned(ceil_div(C, kThreads * 8)); }

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_bias_forward(hzk_bf16* out, const hzk_bf16* bias, int64_t N, int64_t C, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && is_width(C) && C <= kIntMax - kThreads * 8);
    HZK_NEED_ALIGNED(out, bias);
    if (N == 0) return HZK_OK;
    const dim3 grid(column_blocks(C), unsigned(min(N, int64_t(65535))));
    HZ_LAUNCH(bias_forward_kernel, grid, kThreads, 0, stream, out, bias, int(N), int(C));
    return launch_status();
}

size_t hzk_bias_backward_scratch(int64_t N, int64_t C) { return size_t(partial_rows(N)) * size_t(C) * sizeof(float); }

int hzk_bias_backward(float* dbias, void* scratch, const hzk_bf16* dout, int64_t N, int64_t C, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && is_width(C) && C <= kIntMax - kThreads * 8);
    HZK_NEED_ALIGNED(dbias, scratch, dout);
    if (N == 0) return HZK_OK;
    float* partial = static_cast<float*>(scratch);
    const dim3 grid(column_blocks(C), unsigned(partial_rows(N)));
    HZ_LAUNCH(bias_backward_kernel, grid, kThreads, 0, stream, partial, dout, int(N), int(C));
    launch_column_sum(dbias, partial, int(grid.y), int(C), stream);
    return launch_status();
}
