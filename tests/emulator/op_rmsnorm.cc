// RMSNorm and QK norm, which is RMSNorm of every head.
#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

constexpr float kEps = 1e-5f;

template <class P>
struct Norm {
    std::vector<double> out, rstd, dx, dweight;
    // rows x C; `before` (the residual, and dx's old value) may be empty
    Norm(const std::vector<bf16>& xs, const std::vector<bf16>& weight, float offset, const std::vector<bf16>& dout,
         const std::vector<bf16>& before, const std::vector<float>& dweight_before, int64_t rows, int64_t C) {
        using real = typename P::real;
        std::vector<real> dw(C);
        out.resize(rows * C), dx.resize(rows * C), rstd.resize(rows), dweight.resize(C);
        for (int64_t n = 0; n < rows; ++n) {
            real ss = 0, dot = 0;
            auto x = [&](int64_t c) { return real(value(xs[n * C + c])); };
            auto d = [&](int64_t c) { return real(value(dout[n * C + c])); };
            auto w = [&](int64_t c) { return real(offset) + real(value(weight[c])); };
            auto old = [&](int64_t c) { return before.empty() ? real(0) : real(value(before[n * C + c])); };
            for (int64_t c = 0; c < C; ++c) ss += x(c) * x(c), dot += d(c) * w(c) * x(c);
            const real r = real(1) / std::sqrt(ss / real(C) + real(kEps));
            rstd[n] = r;
            for (int64_t c = 0; c < C; ++c) {
                out[n * C + c] = P::stored(x(c) * r * w(c) + old(c));
                dx[n * C + c] = P::stored(r * (d(c) * w(c) - x(c) * (dot * r * r / real(C))) + old(c));
                dw[c] += d(c) * (x(c) * r);
            }
        }
        for (int64_t c = 0; c < C; ++c) dweight[c] = real(dweight_before[c]) + dw[c];
    }
};

// Rows with a stride, and back. The elements between rows must not change.
std::vector<bf16> spread(const std::vector<bf16>& dense, int64_t width, int64_t stride) {
    const int64_t rows = int64_t(dense.size()) / width;
    std::vector<bf16> v(rows * stride, bf16{0x4242});
    for (int64_t n = 0; n < rows; ++n) std::copy_n(dense.begin() + n * width, width, v.begin() + n * stride);
    return v;
}
std::vector<bf16> dense(const std::vector<bf16>& spread, int64_t width, int64_t stride) {
    std::vector<bf16> v;
    for (size_t at = 0; at < spread.size(); at += stride) v.insert(v.end(), spread.begin() + at, spread.begin() + at + width);
    return v;
}
std::vector<bf16> rows_of(Run& run, const Dev<bf16>& matrix, int64_t width, int64_t stride) {
    const auto all = matrix.get(), rows = dense(all, width, stride);
    run.equal("between rows", all, spread(rows, width, stride));
    return rows;
}

// `pad` makes strides larger than C.
auto forward(int64_t N, int64_t C, float offset = 0.f, int64_t pad = 0) {
    return [=]() -> std::function<void(Run&)> {
        const auto xs = random<bf16>(N * C, 1, 1.5f), weight = random<bf16>(C, 2), residual = random<bf16>(N * C, 3);
        const std::vector<float> zeros(C);
        const Norm<Truth> t(xs, weight, offset, xs, {}, zeros, N, C), tr(xs, weight, offset, xs, residual, zeros, N, C);
        const Norm<Naive> n(xs, weight, offset, xs, {}, zeros, N, C), nr(xs, weight, offset, xs, residual, zeros, N, C);
        return [=](Run& run) {
            const int64_t x_stride = C + pad, out_stride = C + 2 * pad;
            const auto nothing = spread(std::vector<bf16>(N * C, bf16{0xffff}), C, out_stride);
            Dev<bf16> x(spread(xs, C, x_stride)), w(weight), out(nothing), sum(nothing), both(spread(residual, C, out_stride));
            Dev<float> rstd(N);
            auto call = [&](bf16* to, const bf16* residual, int64_t to_stride) {
                NEED(hzk_rmsnorm_forward(to, rstd, x, w, residual, offset, kEps, N, C, to_stride, x_stride, nullptr));
            };
            call(out, nullptr, out_stride);
            const auto rows = rows_of(run, out, C, out_stride);
            run.within("out", Dev<bf16>(rows), t.out, n.out, 2, C);
            run.within("rstd", rstd, t.rstd, n.rstd, 2, N, 4);
            call(sum, both, out_stride);
            run.within("residual + out", Dev<bf16>(rows_of(run, sum, C, out_stride)), tr.out, nr.out, 2, C);
            call(both, both, out_stride);
            run.equal("residual is out", both.get(), sum.get());
            call(x, nullptr, x_stride);
            run.equal("out is x", rows_of(run, x, C, x_stride), rows);
        };
    };
}

auto backward(int64_t N, int64_t C, float offset = 0.f, int64_t pad = 0) {
    return [=]() -> std::function<void(Run&)> {
        const auto xs = random<bf16>(N * C, 4, 1.5f), weight = random<bf16>(C, 5), dout = random<bf16>(N * C, 6),
                   before = random<bf16>(N * C, 7);
        const auto dweight_before = random<float>(C, 8);
        const Norm<Truth> t(xs, weight, offset, dout, {}, dweight_before, N, C),
            ta(xs, weight, offset, dout, before, dweight_before, N, C);
        const Norm<Naive> n(xs, weight, offset, dout, {}, dweight_before, N, C),
            na(xs, weight, offset, dout, before, dweight_before, N, C);
        std::vector<float> rstd(N);
        for (int64_t i = 0; i < N; ++i) rstd[i] = float(t.rstd[i]);
        return [=](Run& run) {
            const int64_t dx_stride = C + pad, dout_stride = C + 2 * pad, x_stride = C + 3 * pad;
            Dev<bf16> x(spread(xs, C, x_stride)), w(weight), d(spread(dout, C, dout_stride)),
                dx(spread(std::vector<bf16>(N * C, bf16{0xffff}), C, dx_stride)), sum(spread(before, C, dx_stride));
            Dev<float> r(rstd), dweight(dweight_before), dweight2(dweight_before);
            Scratch scratch(hzk_rmsnorm_backward_scratch(N, C)), scratch2(hzk_rmsnorm_backward_scratch(N, C));
            NEED(hzk_rmsnorm_backward(dx, dweight, scratch, d, x, w, r, offset, 0, N, C, dx_stride, dout_stride, x_stride, nullptr));
            const auto rows = rows_of(run, dx, C, dx_stride);
            run.within("dx", Dev<bf16>(rows), t.dx, n.dx, 3, C);
            run.within("dweight", dweight, t.dweight, n.dweight, 3, C, 2);
            auto call = [&](bf16* to, const bf16* dout, int accumulate, int64_t to_stride) {
                NEED(hzk_rmsnorm_backward(to, dweight2, scratch2, dout, x, w, r, offset, accumulate, N, C, to_stride, dout_stride,
                                          x_stride, nullptr));
            };
            call(sum, d, 1, dx_stride);
            run.within("dx +=", Dev<bf16>(rows_of(run, sum, C, dx_stride)), ta.dx, na.dx, 3, C);
            Dev<bf16> over(d.get());
            call(over, over, 0, dout_stride);
            run.equal("dx over dout", rows_of(run, over, C, dout_stride), rows);
            call(x, d, 0, x_stride);
            run.equal("dx over x", rows_of(run, x, C, x_stride), rows);
        };
    };
}

// Heads of D elements in rows with a larger stride.
auto qk_norm(int64_t N, int64_t heads, int64_t D, float offset = 0.f) {
    return [=]() -> std::function<void(Run&)> {
        const int64_t width = heads * D, stride = width + 24;
        const auto xs = random<bf16>(N * width, 9), weight = random<bf16>(D, 10), dout = random<bf16>(N * width, 11);
        const auto dweight_before = random<float>(D, 12);
        const Norm<Truth> t(xs, weight, offset, dout, {}, dweight_before, N * heads, D);
        const Norm<Naive> n(xs, weight, offset, dout, {}, dweight_before, N * heads, D);
        std::vector<float> rstd(N * heads);
        for (size_t i = 0; i < rstd.size(); ++i) rstd[i] = float(t.rstd[i]);
        return [=](Run& run) {
            Dev<bf16> x(spread(xs, width, stride)), w(weight), d(dout), out(N * width), dx(N * width);
            Dev<float> r(N * heads), saved(rstd), dweight(dweight_before);
            Scratch scratch(hzk_qk_norm_backward_scratch(N, heads, D));
            NEED(hzk_qk_norm_forward(out, r, x, w, offset, kEps, N, heads, D, width, stride, nullptr));
            run.within("out", out, t.out, n.out, 2, D);
            run.within("rstd", r, t.rstd, n.rstd, 2, N * heads, 4);
            NEED(hzk_qk_norm_backward(dx, dweight, scratch, d, x, w, saved, offset, N, heads, D, width, width, stride, nullptr));
            run.within("dx", dx, t.dx, n.dx, 3, D);
            run.within("dweight", dweight, t.dweight, n.dweight, 3, D, 2);
            NEED(hzk_qk_norm_forward(x, r, x, w, offset, kEps, N, heads, D, stride, stride, nullptr));  // in place
            run.equal("out in place", rows_of(run, x, width, stride), out.get());
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
        auto forward = [&](const bf16* in, const bf16* residual, int64_t N, int64_t C, int64_t out_stride, int64_t x_stride) {
            return hzk_rmsnorm_forward(x, f, in, x, residual, 0.f, kEps, N, C, out_stride, x_stride, nullptr);
        };
        expect(forward(x, nullptr, 0, 8, 8, 8), HZK_OK);
        expect(forward(x, nullptr, 1, 16392, 16392, 16392), HZK_ERROR_SHAPE);
        expect(forward(x, nullptr, 1, 4, 8, 8), HZK_ERROR_SHAPE);
        expect(forward(x, nullptr, 1, 16, 8, 16), HZK_ERROR_SHAPE);
        expect(forward(x, nullptr, 1, 16, 16, 20), HZK_ERROR_SHAPE);
        expect(forward(x + 1, nullptr, 1, 8, 8, 8), HZK_ERROR_ALIGNMENT);
        expect(forward(x, x + 1, 1, 8, 8, 8), HZK_ERROR_ALIGNMENT);
        auto backward = [&](float* scratch, int64_t dx_stride, int64_t dout_stride, int64_t x_stride) {
            return hzk_rmsnorm_backward(x, f, scratch, x, x, x, f, 0.f, 0, 1, 8, dx_stride, dout_stride, x_stride, nullptr);
        };
        expect(backward(f + 1, 8, 8, 8), HZK_ERROR_ALIGNMENT);
        expect(backward(f, 4, 8, 8), HZK_ERROR_SHAPE);
        expect(backward(f, 8, 4, 8), HZK_ERROR_SHAPE);
        expect(backward(f, 8, 8, 4), HZK_ERROR_SHAPE);
        expect(hzk_qk_norm_forward(x, f, x, x, 0.f, kEps, 1, 1, 80, 80, 80, nullptr), HZK_ERROR_SHAPE);
        expect(hzk_qk_norm_forward(x, f, x, x, 0.f, kEps, 1, 2, 64, 128, 120, nullptr), HZK_ERROR_SHAPE);
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
TEST("rmsnorm_forward 33x264 plus one, strided", forward(33, 264, 1.f, 8));
TEST("rmsnorm_forward 2x4104 plus one, strided", forward(2, 4104, 1.f, 24));
TEST("rmsnorm_backward 3x8200", backward(3, sizes::kWideWidth));
TEST("rmsnorm_backward 2x4104", backward(2, 4104));
TEST("rmsnorm_backward 1027x72", backward(sizes::kManyRows, 72));
TEST("rmsnorm_backward 33x264 plus one, strided", backward(33, 264, 1.f, 8));
TEST("rmsnorm_backward 2x4104 plus one, strided", backward(2, 4104, 1.f, 24));
TEST("qk_norm 33x3x96 plus one", qk_norm(33, 3, 96, 1.f));
TEST("qk_norm 33x2x256 plus one", qk_norm(33, 2, 256, 1.f));
TEST("qk_norm 1x1x64", qk_norm(1, 1, 64));
TEST("qk_norm 1027x5x64", qk_norm(sizes::kManyRows, 5, 64));
TEST("rmsnorm refusals", refusals);

}  // namespace
