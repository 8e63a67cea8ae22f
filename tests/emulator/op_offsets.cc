// Offsets past 2^31 elements: strides or row counts for which row times width overflows an int. Each launcher with a
// stride runs with a dense and a large one; the bits must be equal. The emulator uses pages of such buffers only
// where they are touched.
#include "check.h"

using namespace check;

namespace {

constexpr int64_t kFar = (int64_t(1) << 30) + 8, kRows = 3;  // the third row begins past 2^31

// Rows of `width` elements with stride `stride`.
std::vector<bf16> rows_of(const Dev<bf16>& d, int64_t width, int64_t stride) {
    std::vector<bf16> all;
    for (int64_t r = 0; r < kRows; ++r) {
        const auto row = d.get(size_t(r * stride), size_t(width));
        all.insert(all.end(), row.begin(), row.end());
    }
    return all;
}
struct Matrix : Dev<bf16> {
    Matrix(const std::vector<bf16>& dense, int64_t width, int64_t stride) : Dev<bf16>(size_t((kRows - 1) * stride + width)) {
        for (int64_t r = 0; r < kRows; ++r) put(size_t(r * stride), {dense.begin() + r * width, dense.begin() + (r + 1) * width});
    }
};

std::function<void(Run&)> cross_entropy() {
    const int64_t V = 19;
    const auto logits = random<bf16>(kRows * V, 1);
    return [=](Run& run) {
        Dev<int32_t> targets(std::vector<int32_t>{3, 0, 18});
        std::vector<bf16> results[2];
        for (int far = 0; far < 2; ++far) {
            const int64_t stride = far ? kFar : 24;
            Matrix x(logits, V, stride);
            Dev<float> logprob(kRows), weights(std::vector<float>(kRows, 1.f));
            NEED(hzk_cross_entropy_forward_backward(x, logprob, targets, weights, 1.f, kRows, V, stride, nullptr));
            results[far] = rows_of(x, V, stride);
        }
        run.equal("dlogits", results[1], results[0]);
    };
}

std::function<void(Run&)> glu() {
    const int64_t F = 16;
    const auto gate = random<bf16>(kRows * F, 2), up = random<bf16>(kRows * F, 3), dout = random<bf16>(kRows * F, 4);
    return [=](Run& run) {
        std::vector<bf16> out[2], dgate[2];
        for (int far = 0; far < 2; ++far) {
            const int64_t stride = far ? kFar : F;
            Matrix g(gate, F, stride), u(up, F, stride);
            Dev<bf16> o(kRows * F), d(dout);
            NEED(hzk_glu_forward(o, g, u, 0, kRows, F, stride, nullptr));
            out[far] = o.get();
            NEED(hzk_glu_backward(g, u, d, g, u, 0, kRows, F, stride, nullptr));
            dgate[far] = rows_of(g, F, stride);
        }
        run.equal("out", out[1], out[0]);
        run.equal("dgate", dgate[1], dgate[0]);
    };
}

std::function<void(Run&)> rmsnorm() {
    const int64_t C = 24;
    const auto xs = random<bf16>(kRows * C, 12), residual = random<bf16>(kRows * C, 13), dout = random<bf16>(kRows * C, 14),
               weight = random<bf16>(C, 15);
    return [=](Run& run) {
        std::vector<bf16> out[2], dx[2];
        for (int far = 0; far < 2; ++far) {
            const int64_t stride = far ? kFar : C;
            Matrix x(xs, C, stride), sum(residual, C, stride), d(dout, C, stride);
            Dev<bf16> w(weight);
            Dev<float> rstd(kRows), dweight(std::vector<float>(C, 0.f));
            Scratch scratch(hzk_rmsnorm_backward_scratch(kRows, C));
            NEED(hzk_rmsnorm_forward(sum, rstd, x, w, sum, 0.f, 1e-5f, kRows, C, stride, stride, nullptr));
            out[far] = rows_of(sum, C, stride);
            NEED(hzk_rmsnorm_backward(sum, dweight, scratch, d, x, w, rstd, 0.f, 1, kRows, C, stride, stride, stride, nullptr));
            dx[far] = rows_of(sum, C, stride);
        }
        run.equal("out", out[1], out[0]);
        run.equal("dx", dx[1], dx[0]);
    };
}

std::function<void(Run&)> heads() {
    const int64_t D = 64;
    const auto q = random<bf16>(kRows * D, 5), k = random<bf16>(kRows * D, 6), v = random<bf16>(kRows * D, 7),
               dout = random<bf16>(kRows * D, 8), weight = random<bf16>(D, 9);
    return [=](Run& run) {
        std::vector<bf16> results[2];
        for (int far = 0; far < 2; ++far) {
            const int64_t stride = far ? kFar : D;
            auto keep = [&](const std::vector<bf16>& v) { results[far].insert(results[far].end(), v.begin(), v.end()); };
            Dev<int32_t> start(std::vector<int32_t>(kRows, 0)), end(std::vector<int32_t>(kRows, kRows)),
                positions(std::vector<int32_t>{0, 1, 2});
            Dev<float> inv_freq(std::vector<float>(D / 2, 0.5f)), lse(kRows), rstd(kRows), dweight(std::vector<float>(D, 0.f));
            Dev<bf16> out(kRows * D), g(dout), w(weight);
            Scratch scratch(hzk_attention_backward_scratch(kRows, 1, 1, D)), sums(hzk_qk_norm_backward_scratch(kRows, 1, D));
            Matrix x(q, D, stride), y(k, D, stride), z(v, D, stride), dx(q, D, stride), dy(k, D, stride), dz(v, D, stride);
            NEED(hzk_qk_norm_forward(x, rstd, x, w, 0.f, 1e-5f, kRows, 1, D, stride, stride, nullptr));
            NEED(hzk_rope(x, y, positions, inv_freq, 0, 0, 1.f, 0.f, 1, kRows, 1, 1, D, D, stride, stride, nullptr));
            NEED(hzk_attention_forward(out, lse, x, y, z, start, 0.125f, 0, kRows, 1, 1, D, stride, stride, stride, nullptr));
            NEED(hzk_attention_backward(dx, dy, dz, scratch, g, out, lse, x, y, z, start, end, 0.125f, 0, kRows, 1, 1, D, stride,
                                        stride, stride, nullptr));
            keep(rows_of(x, D, stride)), keep(rows_of(y, D, stride)), keep(out.get());
            keep(rows_of(dx, D, stride)), keep(rows_of(dy, D, stride)), keep(rows_of(dz, D, stride));
            NEED(hzk_qk_norm_backward(dx, dweight, sums, dx, x, w, rstd, 0.f, kRows, 1, D, stride, stride, stride, nullptr));
            keep(rows_of(dx, D, stride));
        }
        run.equal("q, k, out, dq, dk, dv, dx", results[1], results[0]);
    };
}

std::function<void(Run&)> embedding() {
    const int64_t C = 16, V = (int64_t(1) << 27) + 2;  // the last rows begin past 2^31
    const auto row = random<bf16>(C, 10), dout = random<bf16>(C, 11);
    return [=](Run& run) {
        Dev<int32_t> tokens(std::vector<int32_t>{int32_t(V - 1)}), order(std::vector<int32_t>{0}),
            first(std::vector<int32_t>{0, 1});
        Dev<bf16> weight(size_t(V * C)), out(C), d(dout);
        weight.put(size_t((V - 1) * C), row);
        NEED(hzk_embedding_forward(out, tokens, weight, 1.f, 1, C, V, nullptr));
        run.equal("out", out.get(), row);
        Dev<float> dweight(size_t(V * C));
        dweight.put(size_t((V - 1) * C), std::vector<float>(C, 1.f));
        NEED(hzk_embedding_backward(dweight, d, tokens, order, first, 1.f, 1, 1, C, V, nullptr));
        std::vector<float> want;
        for (bf16 x : dout) want.push_back(1.f + value(x));
        run.equal("dweight", dweight.get(size_t((V - 1) * C), C), want);
    };
}

TEST("offsets past 2^31: cross_entropy", cross_entropy);
TEST("offsets past 2^31: glu", glu);
TEST("offsets past 2^31: rmsnorm", rmsnorm);
TEST("offsets past 2^31: qk_norm, rope, attention", heads);
TEST("offsets past 2^31: embedding", embedding);

}  // namespace
