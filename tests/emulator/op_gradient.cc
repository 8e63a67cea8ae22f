#include <algorithm>
#include <limits>
#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

// Lengths around one block.
constexpr int64_t kAroundBlocks[] = {HZK_NORM_BLOCK, HZK_NORM_BLOCK + 1, 2 * HZK_NORM_BLOCK + 13};

bf16 as_stored(float f) {
    uint32_t b;
    memcpy(&b, &f, 4);
    return std::isnan(f) ? bf16{0x7fc0} : bf16{uint16_t((b + 0x8000u) >> 16)};
}

int64_t blocks_of(int64_t n) { return (n + HZK_NORM_BLOCK - 1) / HZK_NORM_BLOCK; }

auto store(int64_t n) {
    return [=]() -> std::function<void(Run&)> {
        const auto grad = random<float>(n, 1);
        const int64_t blocks = blocks_of(n);
        std::vector<double> truth(blocks);
        for (int64_t i = 0; i < n; ++i) truth[i / HZK_NORM_BLOCK] += double(grad[i]) * double(grad[i]);
        std::vector<bf16> want(n);
        for (int64_t i = 0; i < n; ++i) want[i] = as_stored(grad[i]);
        return [=](Run& run) {
            Dev<float> g(grad);
            Dev<bf16> out(n), unsummed(n);
            Dev<float> copy(n), unsummed_copy(n);
            Dev<double> squares(blocks), of_copy(blocks), alone(blocks);
            NEED(hzk_gradient_store(out, squares, g, n, nullptr));
            run.equal("out", out.get(), want);
            const auto got = squares.get();
            for (int64_t b = 0; b < blocks; ++b)
                if (!(std::fabs(got[b] - truth[b]) <= 1e-15 * double(std::min<int64_t>(n, HZK_NORM_BLOCK) + 16) * truth[b]))
                    fail("squares[%d] = %.17g, expected %.17g", int(b), got[b], truth[b]);
            NEED(hzk_gradient_copy(copy, of_copy, g, n, nullptr));
            run.equal("copy", copy.get(), grad);
            run.equal("squares of a copy", of_copy.get(), got);
            NEED(hzk_gradient_squares(alone, g, n, nullptr));
            run.equal("squares alone", alone.get(), got);
            NEED(hzk_gradient_store(unsummed, nullptr, g, n, nullptr));
            run.equal("out without squares", unsummed.get(), want);
            NEED(hzk_gradient_copy(unsummed_copy, nullptr, g, n, nullptr));
            run.equal("copy without squares", unsummed_copy.get(), grad);
        };
    };
}

// The squares of a span have the same bits if it is divided between blocks, or followed by zeros.
std::function<void(Run&)> pieces() {
    constexpr int64_t n = 2 * HZK_NORM_BLOCK + 1001, padded = n + 23;
    auto grad = random<float>(n, 3);
    grad.resize(padded);
    return [=](Run& run) {
        Dev<float> g(grad);
        Dev<bf16> out(padded);
        Dev<double> whole(3), cut(3), long_one(3);
        NEED(hzk_gradient_squares(whole, g, n, nullptr));
        NEED(hzk_gradient_store(out, cut, g, HZK_NORM_BLOCK, nullptr));
        NEED(hzk_gradient_store(out + HZK_NORM_BLOCK, cut + 1, g + HZK_NORM_BLOCK, n - HZK_NORM_BLOCK, nullptr));
        run.equal("squares of the divided span", cut.get(), whole.get());
        NEED(hzk_gradient_squares(long_one, g, padded, nullptr));
        run.equal("squares with trailing zeros", long_one.get(), whole.get());
    };
}

// Bit patterns that rounding modes treat differently: ties, the largest finite value, infinities, NaNs with a full
// payload, zeros.
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
        Dev<double> squares(1);
        NEED(hzk_gradient_store(out, squares, g, int64_t(grad.size()), nullptr));
        run.equal("out", out.get(), want);
        if (!std::isnan(squares.get()[0])) fail("a NaN did not reach the sum of its block");
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
        Dev<double> squares(1);
        const auto untouched = squares.get();
        NEED(hzk_widen(g, out, 0, nullptr));
        NEED(hzk_gradient_store(out, nullptr, g, 0, nullptr));
        NEED(hzk_gradient_store(out, squares, g, 0, nullptr));
        NEED(hzk_gradient_squares(squares, g, 0, nullptr));
        run.equal("squares of nothing", squares.get(), untouched);
        if (hzk_gradient_store(out, squares, g, -1, nullptr) != HZK_ERROR_SHAPE) fail("n of -1 accepted");
        if (hzk_gradient_squares(squares, g, (int64_t(1) << 47) + 1, nullptr) != HZK_ERROR_SHAPE) fail("2^31 + 1 blocks accepted");
        if (hzk_gradient_copy(g + 2, squares, g, 1, nullptr) != HZK_ERROR_ALIGNMENT) fail("a misaligned copy accepted");
        if (hzk_widen(g, out, -1, nullptr) != HZK_ERROR_SHAPE) fail("a width of -1 accepted");
        if (hzk_gradient_squares(squares, g + 1, 1, nullptr) != HZK_ERROR_ALIGNMENT) fail("misaligned gradient accepted");
    };
}

const bool registered = [] {
    for (int64_t n : sizes::kSpans) {
        Test("gradient_store " + std::to_string(n), store(n));
        Test("gradient widen " + std::to_string(n), widen(n));
    }
    for (int64_t n : kAroundBlocks) Test("gradient_store " + std::to_string(n), store(n));
    return true;
}();
TEST("gradient_store pieces", pieces);
TEST("gradient_store patterns", patterns);
TEST("gradient nothing", nothing);

}  // namespace
