#include <algorithm>
#include <limits>
#include "check.h"
#include "sizes.h"
#if defined(HZ_EMU)
#include "emu.h"
#endif

using namespace check;

namespace {

constexpr bf16 kPadding{0x4242};
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <class P>
struct CrossEntropy {
    std::vector<double> logprob, dlogits, dlogits_given;  // gradients dense, [R,V]
    CrossEntropy(const std::vector<bf16>& logits, const std::vector<int32_t>& targets, const std::vector<float>& weights,
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
            const real lp = x(target) - (m + std::log(sum)), w = weights[r];
            logprob.push_back(lp);
            for (int64_t c = 0; c < V; ++c) {
                const real off = std::exp(x(c) - m) / sum - real(c == target);
                dlogits.push_back(P::stored(w * real(scale) * off));
                dlogits_given.push_back(P::stored(-real(dlogprob[r]) * off));
            }
        }
    }
};

// Returns a padded matrix without its padding, which must be unchanged.
std::vector<bf16> dense_of(const std::vector<bf16>& v, int64_t V, int64_t stride) {
    std::vector<bf16> dense;
    for (size_t row = 0; row < v.size(); row += size_t(stride)) {
        dense.insert(dense.end(), v.begin() + long(row), v.begin() + long(row) + V);
        for (int64_t c = V; c < stride; ++c)
            if (v[row + size_t(c)].bits != kPadding.bits) fail("column %ld past V was written", long(c));
    }
    return dense;
}

#if defined(HZ_EMU)
// A device with shared memory for 256 columns of a row.
struct LittleSharedMemory {
    LittleSharedMemory() { hz::emu::set_shared_memory((2 << 10) + 256 * sizeof(bf16)); }
    ~LittleSharedMemory() { hz::emu::set_shared_memory(0); }
};
#endif

auto cross_entropy(int64_t R, int64_t V, int64_t stride, float spread) {
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
        if (R > 6 && V % 8) logits[0 * stride + V - 1] = bf16{0xffc0};                    // a NaN in the tail: the row is NaN
        std::vector<float> weights, dlogprob = random<float>(R, 4);
        for (float w : random<float>(R, 3)) weights.push_back(std::fabs(w));
        const float scale = 1.f / 23.f;
        const CrossEntropy<Truth> t(logits, targets, weights, dlogprob, scale, V, stride);
        const CrossEntropy<Naive> n(logits, targets, weights, dlogprob, scale, V, stride);
        return [=](Run& run) {
            Dev<int32_t> target(targets);
            Dev<float> logprob(R), again(R), given(dlogprob), w(weights);
            Dev<bf16> x(logits), y(logits);
            NEED(hzk_cross_entropy_forward(logprob, x, target, R, V, stride, nullptr));
            run.within("logprob", logprob, t.logprob, n.logprob, 2, R, 2);
            run.equal("logits after forward", x.get(), logits);
            NEED(hzk_cross_entropy_forward_backward(x, again, target, w, scale, R, V, stride, nullptr));
            run.equal("logprob of forward_backward", again.get(), logprob.get());
            Dev<bf16> dlogits(dense_of(x.get(), V, stride));
            run.within("dlogits", dlogits, t.dlogits, n.dlogits, 3, V);
            NEED(hzk_cross_entropy_backward(y, target, given, R, V, stride, nullptr));
            Dev<bf16> dlogits_given(dense_of(y.get(), V, stride));
            run.within("dlogits of dlogprob", dlogits_given, t.dlogits_given, n.dlogits_given, 3, V);
#if defined(HZ_EMU)
            const LittleSharedMemory little;
            Dev<bf16> x_read_twice(logits), y_read_twice(logits);
            NEED(hzk_cross_entropy_forward_backward(x_read_twice, again, target, w, scale, R, V, stride, nullptr));
            run.equal("logprob of rows read twice", again.get(), logprob.get());
            run.equal("dlogits of rows read twice", x_read_twice.get(), x.get());
            NEED(hzk_cross_entropy_backward(y_read_twice, target, given, R, V, stride, nullptr));
            run.equal("dlogits of dlogprob and rows read twice", y_read_twice.get(), y.get());
#endif
        };
    };
}

TEST("cross_entropy 1x1", cross_entropy(1, 1, 8, 1));              // one column: loss 0, gradient 0
TEST("cross_entropy 2x7", cross_entropy(2, 7, 8, 1));              // no whole vector
TEST("cross_entropy 7x264", cross_entropy(7, 264, 264, 3));        // no tail; one vector more than the shared memory
TEST("cross_entropy 7x1003", cross_entropy(7, 1003, 1008, 3));     // a tail
TEST("cross_entropy 9x4103", cross_entropy(9, 4103, 4200, 12));    // half the threads have a vector; peaked rows
TEST("cross_entropy 9x50", cross_entropy(9, 50, 56, 2));           // most threads idle
TEST("cross_entropy 3x8999", cross_entropy(3, 8999, 9000, 0.1f));  // one vector per thread, two for some; flat rows
TEST("cross_entropy 1x60007", cross_entropy(1, 60007, 60008, 3));  // more than 4 vectors per thread and 99 KiB
TEST("cross_entropy 1x115300", cross_entropy(1, 115300, 115304, 3));  // more than Hopper's shared memory
// The sum over rows, added to the previous value. Rows: fewer than threads, as many, more.
auto loss(int64_t R) {
    return [=]() -> std::function<void(Run&)> {
        const auto logprob = random<float>(R, 1, 4.f), weights = random<float>(R, 2);
        double sum = 3.5;
        for (int64_t r = 0; r < R; ++r) sum -= double(weights[r]) * double(logprob[r]);
        return [=](Run& run) {
            Dev<float> lp(logprob), w(weights);
            Dev<double> total(std::vector<double>{3.5});
            NEED(hzk_cross_entropy_loss(total, lp, w, R, nullptr));
            run.record(total.get());
            if (!(std::fabs(total.get()[0] - sum) <= 1e-13 * double(R))) fail("loss %.17g, expected %.17g", total.get()[0], sum);
        };
    };
}
TEST("cross_entropy loss 1", loss(1));
TEST("cross_entropy loss 33", loss(33));
TEST("cross_entropy loss 512", loss(512));
TEST("cross_entropy loss 2051", loss(2051));
TEST("cross_entropy loss of none, and of NaN", [] {
    return [](Run& run) {
        Dev<float> lp(std::vector<float>{1.f, NAN}), w(std::vector<float>{1.f, 1.f});
        Dev<double> total(std::vector<double>{3.5});
        NEED(hzk_cross_entropy_loss(total, lp, w, 0, nullptr));
        run.equal("loss", total.get(), std::vector<double>{3.5});
        NEED(hzk_cross_entropy_loss(total, lp, w, 2, nullptr));
        if (!std::isnan(total.get()[0])) fail("a NaN did not reach the loss");
        if (hzk_cross_entropy_loss(total, lp, w, -1, nullptr) != HZK_ERROR_SHAPE) fail("-1 rows accepted");
    };
});
TEST("cross_entropy refusals", [] {
    return [](Run&) {
        Dev<bf16> x(64);
        Dev<int32_t> t(std::vector<int32_t>(4, 0));
        Dev<float> f(4);
        if (hzk_cross_entropy_forward(f, x, t, 0, 8, 8, nullptr) != HZK_OK) fail("no rows refused");
        if (hzk_cross_entropy_forward(f, x, t, 1, 9, 8, nullptr) != HZK_ERROR_SHAPE) fail("stride below V accepted");
        if (hzk_cross_entropy_forward(f, x, t, 1, 7, 12, nullptr) != HZK_ERROR_SHAPE) fail("stride 12 accepted");
        if (hzk_cross_entropy_forward(f, x + 1, t, 1, 8, 8, nullptr) != HZK_ERROR_ALIGNMENT) fail("misaligned logits accepted");
    };
});

}  // namespace
