// RMSNorm and QK norm, which is RMSNorm of every head.
#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

constexpr float kEps = 1e-5f;

template <class P>
struct Norm {
    std::vector<double> out, rstd, dx, dweight;
    // rows x C; `before` (dx's old value) may be empty
    Norm(const std::vector<bf16>& xs, const std::vector<bf16>& weight, const std::vector<bf16>& dout,
         const std::vector<bf16>& before, const std::vector<float>& dweight_before, int64_t rows, int64_t C) {
        using real = typename P::real;
        std::vector<real> dw(C);
        out.resize(rows * C), dx.resize(rows * C), rstd.resize(rows), dweight.resize(C);
        for (int64_t n = 0; n < rows; ++n) {
            real ss = 0, dot = 0;
            auto x = [&](int64_t c) { return real(value(xs[n * C + c])); };
            auto d = [&](int64_t c) { return real(value(dout[n * C + c])); };
            for (int64_t c = 0; c < C; ++c) ss += x(c) * x(c), dot += d(c) * real(value(weight[c])) * x(c);
            const real r = real(1) / std::sqrt(ss / real(C) + real(kEps));
            rstd[n] = r;
            for (int64_t c = 0; c < C; ++c) {
                const real w = value(weight[c]);
                out[n * C + c] = P::stored(x(c) * r * w);
                const real g = r * (d(c) * w - x(c) * (dot * r * r / real(C)));
                dx[n * C + c] = P::stored(g + (before.empty() ? real(0) : real(value(before[n * C + c]))));
                dw[c] += d(c) * (x(c) * r);
            }
        }
        for (int64_t c = 0; c < C; ++c) dweight[c] = real(dweight_before[c]) + dw[c];
    }
};

auto forward(int64_t N, int64_t C) {
    return [=]() -> std::function<void(Run&)> {
        const auto xs = random<bf16>(N * C, 1, 1.5f), weight = random<bf16>(C, 2);
        const std::vector<float> zeros(C);
        const Norm<Truth> t(xs, weight, xs, {}, zeros, N, C);
        const Norm<Naive> n(xs, weight, xs, {}, zeros, N, C);
        return [=](Run& run) {
            Dev<bf16> x(xs), w(weight), out(N * C);
            Dev<float> rstd(N);
            NEED(hzk_rmsnorm_forward(out, rstd, x, w, kEps, N, C, nullptr));
            run.within("out", out, t.out, n.out, 2, C);
            run.within("rstd", rstd, t.rstd, n.rstd, 2, N, 4);
        };
    };
}

auto backward(int64_t N, int64_t C) {
    return [=]() -> std::function<void(Run&)> {
        const auto xs = random<bf16>(N * C, 4, 1.5f), weight = random<bf16>(C, 5), dout = random<bf16>(N * C, 6),
                   before = random<bf16>(N * C, 7);
        const auto dweight_before = random<float>(C, 8);
        const Norm<Truth> t(xs, weight, dout, {}, dweight_before, N, C), ta(xs, weight, dout, before, dweight_before, N, C);
        const Norm<Naive> n(xs, weight, dout, {}, dweight_before, N, C), na(xs, weight, dout, before, dweight_before, N, C);
        std::vector<float> rstd(N);
        for (int64_t i = 0; i < N; ++i) rstd[i] = float(t.rstd[i]);
        return [=](Run& run) {
            Dev<bf16> x(xs), w(weight), d(dout), dx(N * C), sum(before);
            Dev<float> r(rstd), dweight(dweight_before), dweight2(dweight_before);
            Scratch scratch(hzk_rmsnorm_backward_scratch(N, C)), scratch2(hzk_rmsnorm_backward_scratch(N, C));
            NEED(hzk_rmsnorm_backward(dx, dweight, scratch, d, x, w, r, 0, N, C, nullptr));
            run.within("dx", dx, t.dx, n.dx, 3, C);
            run.within("dweight", dweight, t.dweight, n.dweight, 3, C, 2);
            NEED(hzk_rmsnorm_backward(sum, dweight2, scratch2, d, x, w, r, 1, N, C, nullptr));
            run.within("dx +=", sum, ta.dx, na.dx, 3, C);
            Dev<bf16> over(dout);
            NEED(hzk_rmsnorm_backward(over, dweight2, scratch2, over, x, w, r, 0, N, C, nullptr));  // dx is dout
            run.equal("dx over dout", over.get(), dx.get());
            NEED(hzk_rmsnorm_backward(x, dweight2, scratch2, d, x, w, r, 0, N, C, nullptr));  // dx is x
            run.equal("dx over x", x.get(), dx.get());
        };
    };
}

// Heads of D elements in rows with a larger stride: the elements between rows must not change.
auto qk_norm(int64_t N, int64_t heads, int64_t D) {
    return [=]() -> std::function<void(Run&)> {
        const int64_t width = heads * D, stride = width + 24;
        auto spread = [=](const std::vector<bf16>& dense) {
            std::vector<bf16> v(N * stride, bf16{0x4242});
            for (int64_t n = 0; n < N; ++n) std::copy_n(dense.begin() + n * width, width, v.begin() + n * stride);
            return v;
        };
        const auto xs = random<bf16>(N * width, 9), weight = random<bf16>(D, 10), dout = random<bf16>(N * width, 11);
        const auto dweight_before = random<float>(D, 12);
        const Norm<Truth> t(xs, weight, dout, {}, dweight_before, N * heads, D);
        const Norm<Naive> n(xs, weight, dout, {}, dweight_before, N * heads, D);
        std::vector<float> rstd(N * heads);
        for (size_t i = 0; i < rstd.size(); ++i) rstd[i] = float(t.rstd[i]);
        return [=](Run& run) {
            Dev<bf16> x(spread(xs)), w(weight), d(dout), out(N * width), dx(N * width);
            Dev<float> r(N * heads), saved(rstd), dweight(dweight_before);
            Scratch scratch(hzk_qk_norm_backward_scratch(N, heads, D));
            NEED(hzk_qk_norm_forward(out, r, x, w, kEps, N, heads, D, width, stride, nullptr));
            run.within("out", out, t.out, n.out, 2, D);
            run.within("rstd", r, t.rstd, n.rstd, 2, N * heads, 4);
            NEED(hzk_qk_norm_backward(dx, dweight, scratch, d, x, w, saved, N, heads, D, width, width, stride, nullptr));
            run.within("dx", dx, t.dx, n.dx, 3, D);
            run.within("dweight", dweight, t.dweight, n.dweight, 3, D, 2);
            NEED(hzk_qk_norm_forward(x, r, x, w, kEps, N, heads, D, stride, stride, nullptr));  // in place
            run.equal("out in place", x.get(), spread(out.get()));
        };
    };
}

std::function<void(Run&)> refusals() {
    return [](Run&) {
        Dev<bf16> x(512);
        Dev<float> f(512);
        auto expect = [](int got, int want) {
            if (got != want) fail("status %d, expected %d", got, want);
        };
        expect(hzk_rmsnorm_forward(x, f, x, x, kEps, 0, 8, nullptr), HZK_OK);
        expect(hzk_rmsnorm_forward(x, f, x, x, kEps, 1, 16392, nullptr), HZK_ERROR_SHAPE);
        expect(hzk_rmsnorm_forward(x, f, x, x, kEps, 1, 4, nullptr), HZK_ERROR_SHAPE);
        expect(hzk_rmsnorm_forward(x, f, x + 1, x, kEps, 1, 8, nullptr), HZK_ERROR_ALIGNMENT);
        expect(hzk_rmsnorm_backward(x, f, f + 1, x, x, x, f, 0, 1, 8, nullptr), HZK_ERROR_ALIGNMENT);
        expect(hzk_qk_norm_forward(x, f, x, x, kEps, 1, 1, 80, 80, 80, nullptr), HZK_ERROR_SHAPE);
        expect(hzk_qk_norm_forward(x, f, x, x, kEps, 1, 2, 64, 128, 120, nullptr), HZK_ERROR_SHAPE);
    };
}

const bool registered = [] {
    for (int64_t N : sizes::kRows) {
        const int64_t C = N == 1 ? 8 : N == 2 ? 2064 : N == 31 ? 1032 : N == 33 ? 264 : 1024;
        Test("rmsnorm_forward " + std::to_string(N) + "x" + std::to_string(C), forward(N, C));
        Test("rmsnorm_backward " + std::to_string(N) + "x" + std::to_string(C), backward(N, C));
    }
    for (int64_t D : sizes::kHeadDims) Test("qk_norm 33x3x" + std::to_string(D), qk_norm(33, 3, D));
    return true;
}();
TEST("rmsnorm_forward 3x8200", forward(3, sizes::kWideWidth));
TEST("rmsnorm_forward 2x4104", forward(2, 4104));
TEST("rmsnorm_backward 3x8200", backward(3, sizes::kWideWidth));
TEST("rmsnorm_backward 2x4104", backward(2, 4104));
TEST("rmsnorm_backward 1027x72", backward(sizes::kManyRows, 72));
TEST("qk_norm 1x1x64", qk_norm(1, 1, 64));
TEST("qk_norm 1027x5x64", qk_norm(sizes::kManyRows, 5, 64));
TEST("rmsnorm refusals", refusals);

}  // namespace
