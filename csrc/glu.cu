// Gated linear units: out = act(gate) · up, act(x) = x · sigmoid(z(x)).
#include "launch.h"
#include "vec.h"

namespace hz {
namespace {

constexpr int kThreads = 256;

// __fdividef is accurate to 2 ulp and returns 0 where 1 + e^-z exceeds 2^126; x·sigmoid(z) is below 1e-35 there.
__device__ __forceinline__ float sigmoid(float z) { return __fdividef(1.f, 1.f + exp2_approx(z * -1.44269504088896340736f)); }

// z, and its derivative if asked for.
struct Silu {
    static __device__ __forceinline__ float argument(float x) { return x; }
    static __device__ __forceinline__ float slope(float) { return 1.f; }
};
// GELU by tanh: (1 + tanh(z/2)) / 2 = sigmoid(z).
struct GeluTanh {
    static constexpr float kScale = 1.59576912160573071175f, kCubic = 0.044715f;  // sqrt(8/pi)
    // Finite for every x. Past 16 the sigmoid is 0 or 1, so the bound changes nothing.
    static __device__ __forceinline__ float square(float x) { return fminf(x * x, 256.f); }
    static __device__ __forceinline__ float argument(float x) { return kScale * x * (1.f + kCubic * square(x)); }
    static __device__ __forceinline__ float slope(float x) { return kScale * (1.f + 3.f * kCubic * square(x)); }
};

// Eight columns per thread; blockIdx.y is the row, so no thread divides. Least bytes: 6·N·F.
template <class Activation>
__global__ void __launch_bounds__(kThreads)
    glu_forward_kernel(bf16* __restrict__ out /* = */, const bf16* __restrict__ gate, const bf16* __restrict__ up, int N, int F,
                       size_t stride) {
    const int c = (int(blockIdx.x) * kThreads + int(threadIdx.x)) * 8;
    if (c >= F) return;
    for (int row = int(blockIdx.y); row < N; row += int(gridDim.y)) {
        float g[8], u[8];
        load8_once(gate + row * stride + c, g);
        load8_once(up + row * stride + c, u);
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) g[e] = g[e] * sigmoid(Activation::argument(g[e])) * u[e];
        store8(out + size_t(row) * F + c, g);
    }
}

// Least bytes: 10·N·F. Each thread reads its columns before it writes them, so outputs may alias inputs.
template <class Activation>
__global__ void __launch_bounds__(kThreads)
    glu_backward_kernel(bf16* dgate /* = */, bf16* dup /* = */, const bf16* __restrict__ dout, const bf16* gate, const bf16* up,
                        int N, int F, size_t stride) {
    const int c = (int(blockIdx.x) * kThreads + int(threadIdx.x)) * 8;
    if (c >= F) return;
    for (int row = int(blockIdx.y); row < N; row += int(gridDim.y)) {
        float g[8], u[8], d[8];
        load8_once(gate + row * stride + c, g);
        load8_once(up + row * stride + c, u);
        load8_once(dout + size_t(row) * F + c, d);
        HZ_UNROLL
        for (int e = 0; e < 8; ++e) {
            const float s = sigmoid(Activation::argument(g[e])), act = g[e] * s;
            g[e] = d[e] * u[e] * (s + act * (Activation::slope(g[e]) * (1.f - s)));
            u[e] = d[e] * act;
        }
        store8(dgate + row * stride + c, g);
        store8(dup + row * stride + c, u);
    }
}

dim3 grid_for(int64_t N, int64_t F) { return dim3(unsigned(ceil_div(F, kThreads * 8)), unsigned(min(N, int64_t(65535)))); }

// Calls launch<Activation>(); returns HZK_ERROR_SHAPE if there is no such activation.
template <class Launch>
int with_activation(int activation, Launch launch) {
    switch (activation) {
        case 0: return launch.template operator()<Silu>();
        case 1: return launch.template operator()<GeluTanh>();
        default: return HZK_ERROR_SHAPE;
    }
}

}  // namespace
}  // namespace hz

using namespace hz;

int hzk_glu_forward(hzk_bf16* out, const hzk_bf16* gate, const hzk_bf16* up, int activation, int64_t N, int64_t F, int64_t stride,
                    hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && is_width(F) && F <= kIntMax - kThreads * 8 && is_rows(stride, F));
    HZK_NEED_ALIGNED(out, gate, up);
    return with_activation(activation, [&]<class Activation>() {
        if (N == 0) return HZK_OK;
        HZ_LAUNCH(glu_forward_kernel<Activation>, grid_for(N, F), kThreads, 0, stream, out, gate, up, int(N), int(F),
                  size_t(stride));
        return launch_status();
    });
}

int hzk_glu_backward(hzk_bf16* dgate, hzk_bf16* dup, const hzk_bf16* dout, const hzk_bf16* gate, const hzk_bf16* up,
                     int activation, int64_t N, int64_t F, int64_t stride, hzk_stream stream) {
    HZK_NEED_SHAPE(is_count(N) && is_width(F) && F <= kIntMax - kThreads * 8 && is_rows(stride, F));
    HZK_NEED_ALIGNED(dgate, dup, dout, gate, up);
    return with_activation(activation, [&]<class Activation>() {
        if (N == 0) return HZK_OK;
        HZ_LAUNCH(glu_backward_kernel<Activation>, grid_for(N, F), kThreads, 0, stream, dgate, dup, dout, gate, up, int(N), int(F),
                  size_t(stride));
        return launch_status();
    });
}
