#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

enum Activation { kSilu, kGelu };  // as in kernels.h

template <class P>
struct Glu {
    std::vector<double> out, dgate, dup;
    Glu(const std::vector<bf16>& gate, const std::vector<bf16>& up, const std::vector<bf16>& dout, Activation activation)
        : out(gate.size()), dgate(gate.size()), dup(gate.size()) {
        using real = typename P::real;
        const real scale = std::sqrt(real(8) / std::acos(real(-1))), cubic = real(0.044715);
        for (size_t i = 0; i < gate.size(); ++i) {
            const real g = value(gate[i]), u = value(up[i]), d = value(dout[i]);
            real z = g, slope = 1;
            if (activation == kGelu) {
                const real square = std::min(g * g, real(1e4));  // finite; past 100, s is 0 or 1
                z = scale * g * (1 + cubic * square), slope = scale * (1 + 3 * cubic * square);
            }
            const real s = real(1) / (real(1) + std::exp(-z)), act = g * s;
            out[i] = P::stored(act * u);
            dgate[i] = P::stored(d * u * (s + act * (slope * (real(1) - s))));
            dup[i] = P::stored(d * act);
        }
    }
};

auto glu(int64_t N, int64_t F, bool packed, Activation activation) {
    return [=]() -> std::function<void(Run&)> {
        auto gate = random<bf16>(N * F, 1, 3.f);
        const auto up = random<bf16>(N * F, 2), dout = random<bf16>(N * F, 3);
        const float edges[] = {0.f, -0.f, 88.f, -88.f, -100.f, 200.f, -3e38f, 3e38f};  // around the f32 range of e^-x
        for (int e = 0; e < 8; ++e) gate[e] = to_bf16(edges[e]);
        const Glu<Truth> t(gate, up, dout, activation);
        const Glu<Naive> n(gate, up, dout, activation);
        // packed: gate | up, as one matmul writes them
        const int64_t stride = packed ? 2 * F : F;
        std::vector<bf16> both(2 * N * F);
        for (int64_t row = 0; row < N; ++row) {
            std::copy_n(gate.begin() + row * F, F, both.begin() + row * stride);
            std::copy_n(up.begin() + row * F, F, both.begin() + (packed ? row * stride + F : (N + row) * F));
        }
        auto range = [=](const std::vector<bf16>& v, bool second) {
            std::vector<bf16> dense(N * F);
            for (int64_t row = 0; row < N; ++row)
                std::copy_n(v.begin() + (packed ? row * stride + second * F : (second * N + row) * F), F, dense.begin() + row * F);
            return dense;
        };
        return [=](Run& run) {
            const int64_t to_up = packed ? F : N * F;
            Dev<bf16> x(both), dx(2 * N * F), out(N * F), d(dout);
            NEED(hzk_glu_forward(out, x, x + to_up, activation, N, F, stride, nullptr));
            run.within("out", out, t.out, n.out, 2, 8);
            NEED(hzk_glu_backward(dx, dx + to_up, d, x, x + to_up, activation, N, F, stride, nullptr));
            const auto grads = dx.get();
            Dev<bf16> dgate(range(grads, false)), dup(range(grads, true));
            run.within("dgate", dgate, t.dgate, n.dgate, 3, 8);
            run.within("dup", dup, t.dup, n.dup, 3, 8);
            NEED(hzk_glu_backward(x, x + to_up, d, x, x + to_up, activation, N, F, stride, nullptr));  // in place
            run.equal("in place", x.get(), grads);
        };
    };
}

TEST("glu silu 1x8", glu(1, 8, false, kSilu));
TEST("glu silu 33x264", glu(33, 264, false, kSilu));
TEST("glu silu 31x2064 packed", glu(31, 2064, true, kSilu));
TEST("glu gelu 1x8", glu(1, 8, false, kGelu));
TEST("glu gelu 33x264 packed", glu(33, 264, true, kGelu));
TEST("glu refusals", [] {
    return [](Run&) {
        Dev<bf16> x(64);
        if (hzk_glu_forward(x, x, x, kSilu, 0, 8, 8, nullptr) != HZK_OK) fail("no rows refused");
        if (hzk_glu_forward(x, x, x, kSilu, 1, 9, 16, nullptr) != HZK_ERROR_SHAPE) fail("width 9 accepted");
        if (hzk_glu_forward(x, x, x, kSilu, 1, 16, 8, nullptr) != HZK_ERROR_SHAPE) fail("stride below width accepted");
        if (hzk_glu_forward(x, x + 4, x, kSilu, 1, 8, 8, nullptr) != HZK_ERROR_ALIGNMENT) fail("misaligned gate accepted");
        if (hzk_glu_forward(x, x, x, 2, 1, 8, 8, nullptr) != HZK_ERROR_SHAPE) fail("activation 2 accepted");
        if (hzk_glu_backward(x, x, x, x, x, -1, 1, 8, 8, nullptr) != HZK_ERROR_SHAPE) fail("activation -1 accepted");
    };
});

}  // namespace
