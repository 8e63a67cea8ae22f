#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

// Heads and their rotation; `every` and `beta` scale queries.
struct Shape {
    int64_t N, H, G, D, R = D;
    bool interleaved = false;
    float factor = 1.f, beta = 0.f;
    int64_t every = 1;
};

template <class P>
std::vector<double> rotated(const std::vector<bf16>& x, const std::vector<int32_t>& positions, const std::vector<float>& inv_freq,
                            const Shape& shape, bool is_query, bool backward) {
    using real = typename P::real;
    const int64_t heads = is_query ? shape.H : shape.G, half = shape.R / 2;
    std::vector<double> out = widened(x);
    for (size_t n = 0; n < positions.size(); ++n) {
        real factor = shape.factor;
        if (is_query) factor *= 1 + real(shape.beta) * std::log(real(1 + positions[n] / shape.every));
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t i = 0; i < half; ++i) {
                const real angle = float(positions[n]) * inv_freq[i];  // f32 by contract
                const real c = factor * std::cos(angle), s = factor * (backward ? -std::sin(angle) : std::sin(angle));
                const size_t head = (n * heads + h) * shape.D;
                const size_t first = head + (shape.interleaved ? 2 * i : i), second = shape.interleaved ? first + 1 : first + half;
                const real a = value(x[first]), b = value(x[second]);
                out[first] = P::stored(a * c - b * s);
                out[second] = P::stored(b * c + a * s);
            }
    }
    return out;
}

auto rope(Shape shape) {
    return [=]() -> std::function<void(Run&)> {
        const int64_t N = shape.N, H = shape.H, G = shape.G, D = shape.D, R = shape.R;
        std::mt19937 g(1);
        std::vector<int32_t> positions(N);
        for (int64_t n = 0; n < N; ++n) positions[n] = n < 3 ? int32_t(n) : int32_t(g() % 200000);
        std::vector<float> inv_freq(R / 2);
        for (int64_t i = 0; i < R / 2; ++i) inv_freq[i] = float(std::pow(10000., -2. * double(i) / double(R)));
        const auto q = random<bf16>(N * H * D, 2), k = random<bf16>(N * G * D, 3);
        auto answer = [&](auto p, bool is_query, bool back) {
            return rotated<decltype(p)>(is_query ? q : k, positions, inv_freq, shape, is_query, back);
        };
        const auto tq = answer(Truth(), true, false), nq = answer(Naive(), true, false), tk = answer(Truth(), false, false),
                   nk = answer(Naive(), false, false), bq = answer(Truth(), true, true), bnq = answer(Naive(), true, true),
                   bk = answer(Truth(), false, true), bnk = answer(Naive(), false, true);
        return [=](Run& run) {
            const int64_t q_stride = H * D, k_stride = G * D, stride = (H + 2 * G) * D;
            Dev<int32_t> p(positions);
            Dev<float> f(inv_freq);
            auto call = [&](bf16* q, bf16* k, bool backward, int64_t q_stride, int64_t k_stride) {
                NEED(hzk_rope(q, k, p, f, backward, shape.interleaved, shape.factor, shape.beta, shape.every, N, H, G, D, R,
                              q_stride, k_stride, nullptr));
            };
            auto tails = [=](const std::vector<bf16>& all) {
                std::vector<bf16> tail;
                for (size_t head = 0; head < all.size(); head += D)
                    tail.insert(tail.end(), all.begin() + head + R, all.begin() + head + D);
                return tail;
            };
            Dev<bf16> dq(q), dk(k);
            call(dq, dk, false, q_stride, k_stride);
            const auto got_q = run.within("q", dq, tq, nq, 2, D), got_k = run.within("k", dk, tk, nk, 2, D);
            run.equal("the rest of q", tails(got_q), tails(q));
            run.equal("the rest of k", tails(got_k), tails(k));
            {
                Dev<bf16> dq(q), dk(k);
                call(dq, dk, true, q_stride, k_stride);
                run.within("dq", dq, bq, bnq, 3, D);
                run.within("dk", dk, bk, bnk, 3, D);
            }
            // q and k are column ranges of one matrix; a third range must not change
            auto packed = [=](const std::vector<bf16>& q, const std::vector<bf16>& k) {
                std::vector<bf16> all(N * stride, bf16{0x4242});
                for (int64_t n = 0; n < N; ++n) {
                    std::copy_n(q.begin() + n * H * D, H * D, all.begin() + n * stride);
                    std::copy_n(k.begin() + n * G * D, G * D, all.begin() + n * stride + H * D);
                }
                return all;
            };
            Dev<bf16> both(packed(q, k));
            call(both, both + H * D, false, stride, stride);
            run.equal("packed", both.get(), packed(got_q, got_k));
        };
    };
}

std::function<void(Run&)> at_zero() {
    const auto q = random<bf16>(2 * 64, 4), k = random<bf16>(2 * 64, 5);
    return [=](Run& run) {
        Dev<bf16> x(q), y(k);
        Dev<int32_t> p(std::vector<int32_t>{0, 0});
        Dev<float> f(std::vector<float>(32, 1.f));
        for (int interleaved = 0; interleaved < 2; ++interleaved)
            NEED(hzk_rope(x, y, p, f, 0, interleaved, 1.f, 0.5f, int64_t(1) << 40, 2, 1, 1, 64, 64, 64, 64, nullptr));
        run.equal("q at position 0", x.get(), q);
        run.equal("k at position 0", y.get(), k);
        auto refused = [&](const char* what, float beta, int64_t every, int64_t G, int64_t D, int64_t R) {
            const int64_t stride = (D + 7) / 8 * 8;
            if (hzk_rope(x, y, p, f, 0, 0, 1.f, beta, every, 2, 1, G, D, R, stride, stride, nullptr) != HZK_ERROR_SHAPE)
                fail("%s accepted", what);
        };
        refused("no key heads", 0.f, 1, 0, 64, 64);
        refused("D of 68", 0.f, 1, 1, 68, 64);
        refused("R of 72", 0.f, 1, 1, 72, 72);
        refused("R of 272", 0.f, 1, 1, 272, 272);
        refused("R of 0", 0.f, 1, 1, 64, 0);
        refused("R above D", 0.f, 1, 1, 64, 80);
        refused("scaling of queries with R below D", 0.1f, 1, 1, 64, 32);
        refused("every of 0", 0.1f, 0, 1, 64, 64);
    };
}

TEST("rope 1x1x1x64", rope({1, 1, 1, 64}));
TEST("rope 33x4x2x96", rope({33, 4, 2, 96}));
TEST("rope 31x17x1x128", rope({31, 17, 1, 128}));
TEST("rope 5x3x3x256", rope({5, 3, 3, 256}));
TEST("rope 33x3x1x96 interleaved", rope({.N = 33, .H = 3, .G = 1, .D = 96, .interleaved = true}));
TEST("rope 31x3x2x128 interleaved, 64 of 128", rope({.N = 31, .H = 3, .G = 2, .D = 128, .R = 64, .interleaved = true}));
TEST("rope 31x2x1x72 48 of 72, times 1.2", rope({.N = 31, .H = 2, .G = 1, .D = 72, .R = 48, .factor = 1.2f}));
TEST("rope 33x3x2x64 queries scaled", rope({.N = 33, .H = 3, .G = 2, .D = 64, .factor = 0.9f, .beta = 0.1f, .every = 8192}));
TEST("rope 5x1x1x256 interleaved, queries scaled",
     rope({.N = 5, .H = 1, .G = 1, .D = 256, .interleaved = true, .beta = 0.3f, .every = 1000}));
TEST("rope at position 0", at_zero);

}  // namespace
