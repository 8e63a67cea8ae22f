#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

template <class P>
std::vector<double> rotated(const std::vector<bf16>& x, const std::vector<int32_t>& positions, const std::vector<float>& inv_freq,
                            int64_t heads, int64_t D, bool backward) {
    using real = typename P::real;
    std::vector<double> out(x.size());
    const int64_t half = D / 2;
    for (size_t n = 0; n < positions.size(); ++n)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t i = 0; i < half; ++i) {
                const real angle = float(positions[n]) * inv_freq[i];  // f32 by contract
                const real c = std::cos(angle), s = backward ? -std::sin(angle) : std::sin(angle);
                const size_t at = (n * heads + h) * D + i;
                const real a = value(x[at]), b = value(x[at + half]);
                out[at] = P::stored(a * c - b * s);
                out[at + half] = P::stored(b * c + a * s);
            }
    return out;
}

auto rope(int64_t N, int64_t H, int64_t G, int64_t D) {
    return [=]() -> std::function<void(Run&)> {
        std::mt19937 g(1);
        std::vector<int32_t> positions(N);
        for (int64_t n = 0; n < N; ++n) positions[n] = n < 3 ? int32_t(n) : int32_t(g() % 200000);
        std::vector<float> inv_freq(D / 2);
        for (int64_t i = 0; i < D / 2; ++i) inv_freq[i] = float(std::pow(10000., -2. * double(i) / double(D)));
        const auto q = random<bf16>(N * H * D, 2), k = random<bf16>(N * G * D, 3);
        auto answer = [&](auto p, const std::vector<bf16>& x, int64_t heads, bool back) {
            return rotated<decltype(p)>(x, positions, inv_freq, heads, D, back);
        };
        const auto tq = answer(Truth(), q, H, false), nq = answer(Naive(), q, H, false), tk = answer(Truth(), k, G, false),
                   nk = answer(Naive(), k, G, false), bq = answer(Truth(), q, H, true), bnq = answer(Naive(), q, H, true);
        return [=](Run& run) {
            const int64_t q_stride = H * D, k_stride = G * D;
            Dev<int32_t> p(positions);
            Dev<float> f(inv_freq);
            {
                Dev<bf16> dq(q), dk(k);
                NEED(hzk_rope_forward(dq, dk, p, f, N, H, G, D, q_stride, k_stride, nullptr));
                run.within("q", dq, tq, nq, 2, D);
                run.within("k", dk, tk, nk, 2, D);
            }
            {
                Dev<bf16> dq(q), dk(k);
                NEED(hzk_rope_backward(dq, dk, p, f, N, H, G, D, q_stride, k_stride, nullptr));
                run.within("dq", dq, bq, bnq, 3, D);
            }
            // q and k are column ranges of one matrix; a third range must not change
            const int64_t stride = (H + 2 * G) * D;
            std::vector<bf16> packed(N * stride, bf16{0x4242});
            for (int64_t n = 0; n < N; ++n) {
                std::copy_n(q.begin() + n * H * D, H * D, packed.begin() + n * stride);
                std::copy_n(k.begin() + n * G * D, G * D, packed.begin() + n * stride + H * D);
            }
            Dev<bf16> both(packed), dq(q), dk(k);
            NEED(hzk_rope_forward(dq, dk, p, f, N, H, G, D, q_stride, k_stride, nullptr));
            NEED(hzk_rope_forward(both, both + H * D, p, f, N, H, G, D, stride, stride, nullptr));
            const auto want_q = dq.get(), want_k = dk.get();
            for (int64_t n = 0; n < N; ++n) {
                std::copy_n(want_q.begin() + n * H * D, H * D, packed.begin() + n * stride);
                std::copy_n(want_k.begin() + n * G * D, G * D, packed.begin() + n * stride + H * D);
            }
            run.equal("packed", both.get(), packed);
        };
    };
}

std::function<void(Run&)> at_zero() {
    const auto q = random<bf16>(2 * 64, 4), k = random<bf16>(2 * 64, 5);
    return [=](Run& run) {
        Dev<bf16> x(q), y(k);
        Dev<int32_t> p(std::vector<int32_t>{0, 0});
        Dev<float> f(std::vector<float>(32, 1.f));
        NEED(hzk_rope_forward(x, y, p, f, 2, 1, 1, 64, 64, 64, nullptr));
        run.equal("q at position 0", x.get(), q);
        run.equal("k at position 0", y.get(), k);
        if (hzk_rope_forward(x, y, p, f, 2, 1, 0, 64, 64, 64, nullptr) != HZK_ERROR_SHAPE) fail("no key heads accepted");
        if (hzk_rope_forward(x, y, p, f, 2, 1, 1, 72, 72, 72, nullptr) != HZK_ERROR_SHAPE) fail("D of 72 accepted");
        if (hzk_rope_forward(x, y, p, f, 2, 1, 1, 272, 272, 272, nullptr) != HZK_ERROR_SHAPE) fail("D of 272 accepted");
    };
}

TEST("rope 1x1x1x64", rope(1, 1, 1, 64));
TEST("rope 33x4x2x96", rope(33, 4, 2, 96));
TEST("rope 31x17x1x128", rope(31, 17, 1, 128));
TEST("rope 5x3x3x256", rope(5, 3, 3, 256));
TEST("rope at position 0", at_zero);

}  // namespace
