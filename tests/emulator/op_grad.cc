#include <limits>
#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

bf16 as_stored(float f) {
    uint32_t b;
    memcpy(&b, &f, 4);
    return std::isnan(f) ? bf16{0x7fc0} : bf16{uint16_t((b + 0x8000u) >> 16)};
}

auto store(int64_t n) {
    return [=]() -> std::function<void(Run&)> {
        auto grad = random<float>(n, 1);
        std::vector<double> truth(1), naive(1);
        for (float g : grad) truth[0] += double(g) * double(g);
        naive[0] = truth[0];
        std::vector<bf16> want(n);
        for (int64_t i = 0; i < n; ++i) want[i] = as_stored(grad[i]);
        return [=](Run& run) {
            Dev<float> g(grad);
            Dev<bf16> out(n), unsummed(n);
            Dev<float> copy(n), unsummed_copy(n);
            Dev<double> sumsq(1), of_copy(1), alone(1);
            Scratch scratch(hzk_grad_scratch(n));
            NEED(hzk_grad_store(out, sumsq, scratch, g, n, nullptr));
            run.equal("out", out.get(), want);
            const double got = sumsq.get()[0];
            if (!(std::fabs(got - truth[0]) <= 1e-15 * double(n + 16) * truth[0])) fail("sumsq = %.17g, want %.17g", got, truth[0]);
            NEED(hzk_grad_copy(copy, of_copy, scratch, g, n, nullptr));
            run.equal("copy", copy.get(), grad);
            run.equal("sumsq of a copy", of_copy.get(), sumsq.get());
            NEED(hzk_grad_sumsq(alone, scratch, g, n, nullptr));
            run.equal("sumsq alone", alone.get(), sumsq.get());
            NEED(hzk_grad_store(unsummed, nullptr, nullptr, g, n, nullptr));
            run.equal("out without a sum", unsummed.get(), want);
            NEED(hzk_grad_copy(unsummed_copy, nullptr, nullptr, g, n, nullptr));
            run.equal("copy without a sum", unsummed_copy.get(), grad);
        };
    };
}

// Bit patterns where roundings differ: ties, the largest finite, infinities, NaNs whose payload a carry would overflow, zeros.
std::function<void(Run&)> patterns() {
    std::vector<float> grad;
    std::vector<bf16> want;
    for (uint32_t upper : {0x0000u, 0x0001u, 0x3f80u, 0x3f81u, 0x7f7fu, 0x7f80u, 0x7fc0u, 0x7fffu, 0x8000u, 0xbf80u, 0xff7fu,
                           0xff80u, 0xffffu})
        for (uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
            const uint32_t bits = upper << 16 | lower;
            float f;
            memcpy(&f, &bits, 4);
            grad.push_back(f), want.push_back(as_stored(f));
        }
    return [=](Run& run) {
        Dev<float> g(grad);
        Dev<bf16> out(grad.size());
        Dev<double> sumsq(1);
        Scratch scratch(hzk_grad_scratch(int64_t(grad.size())));
        NEED(hzk_grad_store(out, sumsq, scratch, g, int64_t(grad.size()), nullptr));
        run.equal("out", out.get(), want);
        if (!std::isnan(sumsq.get()[0])) fail("a NaN left no trace in sumsq");
    };
}

auto widen(int64_t n) {
    return [=]() -> std::function<void(Run&)> {
        const auto inp = random<bf16>(n, 2);
        std::vector<float> want(n);
        for (int64_t i = 0; i < n; ++i) want[i] = value(inp[i]);
        return [=](Run& run) {
            Dev<bf16> x(inp);
            Dev<float> out(n);
            NEED(hzk_widen(out, x, n, nullptr));
            run.equal("out", out.get(), want);
        };
    };
}

std::function<void(Run&)> nothing() {
    return [](Run& run) {
        Dev<float> g(4);
        Dev<bf16> out(8);
        Dev<double> sumsq(1);
        Scratch scratch(8);
        NEED(hzk_widen(g, out, 0, nullptr));
        NEED(hzk_grad_store(out, nullptr, nullptr, g, 0, nullptr));
        NEED(hzk_grad_store(out, sumsq, scratch, g, 0, nullptr));
        run.equal("sumsq of nothing", sumsq.get(), std::vector<double>{0.});
        if (hzk_grad_store(out, sumsq, scratch, g, -1, nullptr) != HZK_ERROR_SHAPE) fail("n of -1 accepted");
        if (hzk_grad_copy(g + 2, sumsq, scratch, g, 1, nullptr) != HZK_ERROR_ALIGNMENT) fail("a misaligned copy accepted");
        if (hzk_widen(g, out, -1, nullptr) != HZK_ERROR_SHAPE) fail("a width of -1 accepted");
        if (hzk_grad_sumsq(sumsq, scratch, g + 1, 1, nullptr) != HZK_ERROR_ALIGNMENT) fail("misaligned gradient accepted");
    };
}

const bool registered = [] {
    for (int64_t n : sizes::kSpans) {
        Test("grad_store " + std::to_string(n), store(n));
        Test("grad widen " + std::to_string(n), widen(n));
    }
    return true;
}();
TEST("grad_store patterns", patterns);
TEST("grad nothing", nothing);

}  // namespace
