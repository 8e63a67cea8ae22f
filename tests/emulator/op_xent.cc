#include <algorithm>
#include <limits>
#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

constexpr bf16 kPadding{0x4242};
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <class P>
struct Xent {
    std::vector<double> logprob, dlogits, dlogits_given;  // gradients dense, [R,V]
    Xent(const std::vector<bf16>& logits, const std::vector<int32_t>& targets, const std::vector<float>& weights,
         const std::vector<float>& dlogprob, float scale, int64_t V, int64_t stride) {
        using real = typename P::real;
        for (size_t r = 0; r < targets.size(); ++r) {
            const int32_t target = targets[r];
            auto x = [&](int64_t c) { return real(value(logits[r * stride + c])); };
            if (target < 0 || target >= V) {
                const double fill = target == -100 ? 0. : kNaN;
                logprob.push_back(fill);
                dlogits.insert(dlogits.end(), V, fill), dlogits_given.insert(dlogits_given.end(), V, fill);
                continue;
            }
            real m = x(0), sum = 0;
            for (int64_t c = 1; c < V; ++c) m = std::max(m, x(c));
            for (int64_t c = 0; c < V; ++c) sum += std::exp(x(c) - m);
            const real lp = x(target) - (m + std::log(sum)), w = weights.empty() ? 1.f : weights[r];
            logprob.push_back(lp);
            for (int64_t c = 0; c < V; ++c) {
                const real off = std::exp(x(c) - m) / sum - real(c == target);
                dlogits.push_back(P::stored(w * real(scale) * off));
                dlogits_given.push_back(P::stored(-real(dlogprob[r]) * off));
            }
        }
    }
};

// The dense part of a padded matrix; fails where the padding was touched.
std::vector<bf16> dense_of(const std::vector<bf16>& v, int64_t V, int64_t stride) {
    std::vector<bf16> dense;
    for (size_t row = 0; row < v.size(); row += size_t(stride)) {
        dense.insert(dense.end(), v.begin() + long(row), v.begin() + long(row) + V);
        for (int64_t c = V; c < stride; ++c)
            if (v[row + size_t(c)].bits != kPadding.bits) fail("column %ld past V was written", long(c));
    }
    return dense;
}

auto xent(int64_t R, int64_t V, int64_t stride, bool weighted, float spread) {
    return [=]() -> std::function<void(Run&)> {
        auto logits = random<bf16>(R * stride, 1, spread);
        std::mt19937 g(2);
        std::vector<int32_t> targets(R);
        for (auto& t : targets) t = int32_t(g() % uint64_t(V));
        targets[R - 1] = int32_t(V) - 1;                                // the last column, in the tail
        if (R > 4) targets[1] = targets[4] = -100, targets[2] = int32_t(V), targets[3] = -1;
        for (int64_t r = 0; r < R; ++r) std::fill_n(logits.begin() + r * stride + V, stride - V, kPadding);
        if (R > 6 && V > 64) std::fill_n(logits.begin() + 6 * stride, 64, to_bf16(-INFINITY));  // whole vectors of masked logits
        if (R > 6 && targets[6] < 64) targets[6] = int32_t(V) - 1;
        if (R > 6 && V > 64) std::fill_n(logits.begin() + 5 * stride, 8, bf16{0x7fc0});  // a vector of NaN: the row is NaN
        if (R > 6 && V % 8) logits[0 * stride + V - 1] = bf16{0xffc0};                    // and so is one with a NaN in the tail
        std::vector<float> weights, dlogprob = random<float>(R, 4);
        if (weighted)
            for (float w : random<float>(R, 3)) weights.push_back(std::fabs(w));
        const float scale = 1.f / 23.f;
        const Xent<Truth> t(logits, targets, weights, dlogprob, scale, V, stride);
        const Xent<Naive> n(logits, targets, weights, dlogprob, scale, V, stride);
        return [=](Run& run) {
            Dev<int32_t> target(targets);
            Dev<float> logprob(R), again(R), given(dlogprob), w(weighted ? weights : dlogprob);
            const float* weight = weighted ? static_cast<float*>(w) : nullptr;
            Dev<bf16> x(logits), y(logits);
            NEED(hzk_xent_forward(logprob, x, target, R, V, stride, nullptr));
            run.within("logprob", logprob, t.logprob, n.logprob, 2, R, 2);
            run.equal("logits after forward", x.get(), logits);
            NEED(hzk_xent_forward_backward(x, again, target, weight, scale, R, V, stride, nullptr));
            run.equal("logprob of forward_backward", again.get(), logprob.get());
            Dev<bf16> dlogits(dense_of(x.get(), V, stride));
            run.within("dlogits", dlogits, t.dlogits, n.dlogits, 3, V);
            NEED(hzk_xent_backward(y, target, given, R, V, stride, nullptr));
            Dev<bf16> dlogits_given(dense_of(y.get(), V, stride));
            run.within("dlogits of dlogprob", dlogits_given, t.dlogits_given, n.dlogits_given, 3, V);
        };
    };
}

TEST("xent 1x1", xent(1, 1, 8, false, 1));            // one column: loss 0, gradient 0
TEST("xent 2x7", xent(2, 7, 8, true, 1));             // no whole vector
TEST("xent 7x264", xent(7, 264, 264, false, 3));      // no tail
TEST("xent 7x1003", xent(7, 1003, 1008, true, 3));    // a tail
TEST("xent 9x4103", xent(9, 4103, 4200, true, 12));   // half of the threads have a vector; peaked rows
TEST("xent 9x50", xent(9, 50, 56, true, 2));          // most threads idle
TEST("xent 3x8999", xent(3, 8999, 9000, false, 0.1f));  // every thread one vector and some a second; flat rows
TEST("xent 1x60007", xent(1, 60007, 60008, true, 3));  // more than shared memory holds, and than a round of four vectors
// The sum over rows, from what stood there before. Rows: fewer than threads, as many, more.
auto loss(int64_t R, bool weighted) {
    return [=]() -> std::function<void(Run&)> {
        const auto logprob = random<float>(R, 1, 4.f), weights = random<float>(R, 2);
        double sum = 3.5;
        for (int64_t r = 0; r < R; ++r) sum -= double(weighted ? weights[r] : 1.f) * double(logprob[r]);
        return [=](Run& run) {
            Dev<float> lp(logprob), w(weights);
            Dev<double> total(std::vector<double>{3.5});
            NEED(hzk_xent_loss(total, lp, weighted ? static_cast<float*>(w) : nullptr, R, nullptr));
            run.keep(total.get());
            if (!(std::fabs(total.get()[0] - sum) <= 1e-13 * double(R))) fail("loss %.17g, want %.17g", total.get()[0], sum);
        };
    };
}
TEST("xent loss 1", loss(1, false));
TEST("xent loss 33", loss(33, true));
TEST("xent loss 512", loss(512, true));
TEST("xent loss 2051", loss(2051, true));
TEST("xent loss of none, and of NaN", [] {
    return [](Run& run) {
        Dev<float> lp(std::vector<float>{1.f, NAN});
        Dev<double> total(std::vector<double>{3.5});
        NEED(hzk_xent_loss(total, lp, nullptr, 0, nullptr));
        run.equal("loss", total.get(), std::vector<double>{3.5});
        NEED(hzk_xent_loss(total, lp, nullptr, 2, nullptr));
        if (!std::isnan(total.get()[0])) fail("a NaN got lost");
        if (hzk_xent_loss(total, lp, nullptr, -1, nullptr) != HZK_ERROR_SHAPE) fail("less than no rows accepted");
    };
});
TEST("xent refusals", [] {
    return [](Run&) {
        Dev<bf16> x(64);
        Dev<int32_t> t(std::vector<int32_t>(4, 0));
        Dev<float> f(4);
        if (hzk_xent_forward(f, x, t, 0, 8, 8, nullptr) != HZK_OK) fail("no rows refused");
        if (hzk_xent_forward(f, x, t, 1, 9, 8, nullptr) != HZK_ERROR_SHAPE) fail("stride below V accepted");
        if (hzk_xent_forward(f, x, t, 1, 7, 12, nullptr) != HZK_ERROR_SHAPE) fail("stride 12 accepted");
        if (hzk_xent_forward(f, x + 1, t, 1, 8, 8, nullptr) != HZK_ERROR_ALIGNMENT) fail("misaligned logits accepted");
    };
});

}  // namespace
