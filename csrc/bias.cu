// Bias backward: dbias += sum over rows of dout. Bias forward is an epilogue of the GEMM.
#include "column_sum.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 4;  // row loads in flight per thread

// Stage one: sums rows y, y + gridDim.y, ... of this thread's columns into partial[y], y = blockIdx.y.
// Least bytes: 2·N·C.
__global__ void __launch_bounds__(kThreads)
    bias_backward_kernel(float* __restrict__ partial /* = [gridDim.y, C] */, const bf16* __restrict__ dout, int N, int C) {
    const int c = (int(blockIdx.x) * kThreads + int(threadIdx.x)) * 8;
    if (c >= C) return;
    float acc[8] = {};
    auto add = [&](const uint4& vector) {
        float f[8];
        unpack8(vector, f);
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) acc[e] += f[e];
    };
    const int step = int(gridDim.y);
    int row = int(blockIdx.y);
    for (; N - row > (kAtOnce - 1) * step; row += kAtOnce * step) {
        uint4 vectors[kAtOnce];
        HZ_UNROLL
        for (int n = 0; n < kAtOnce; ++n) vectors[n] = load8_once(dout + (size_t(row) + n * step) * C + c);
        HZ_UNROLL
        for (int n = 0; n < kAtOnce; ++n) add(vectors[n]);
    }
    for (; row < N; row += step) add(load8_once(dout + size_t(row) * C + c));
    float* p = partial + size_t(blockIdx.y) * C + c;
    store4(p, make_float4(acc[0], acc[1], acc[2], acc[3]));
    store4(p + 4, make_float4(acc[4], acc[5], acc[6], acc[7]));
}

}  // namespace
}  // namespace hz

using namespace hz;

size_t hzk_bias_backward_scratch(int64_t N, int64_t C) { return size_t(partial_rows(N)) * size_t(C) * sizeof(float); }

int hzk_bias_backward(float* dbias, void* scratch, const hzk_bf16* dout, int64_t N, int64_t C, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && is_width(C) && C <= kIntMax - kThreads * 8);
    HZK_NEED_ALIGNED(dbias, scratch, dout);
    if (N == 0) return HZK_OK;
    float* partial = static_cast<float*>(scratch);
    const dim3 grid(unsigned(ceil_div(C, kThreads * 8)), unsigned(partial_rows(N)));
    HZ_LAUNCH(bias_backward_kernel, grid, kThreads, 0, stream, partial, dout, int(N), int(C));
    launch_column_sum(dbias, partial, int(grid.y), int(C), stream);
    return launch_status();
}
