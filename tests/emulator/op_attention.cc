#include <algorithm>
#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

struct Case {
    int64_t N, H, G, D, window;
    std::vector<int> cuts;   // starts of documents, except 0
    bool packed = false;     // q, k, v as column ranges of one matrix
    float spread = 1.f;      // of q: large values give peaked rows
    bool wgmma = false;      // with Hopper's warpgroup mma
};

struct Documents {
    std::vector<int32_t> start, end;
    explicit Documents(const Case& c) : start(c.N), end(c.N) {
        auto cuts = c.cuts;
        cuts.insert(cuts.begin(), 0), cuts.push_back(int(c.N));
        for (size_t d = 0; d + 1 < cuts.size(); ++d)
            for (int i = cuts[d]; i < cuts[d + 1]; ++i) start[i] = cuts[d], end[i] = cuts[d + 1];
    }
    bool sees(int64_t row, int64_t key, int64_t window) const {
        return key <= row && key >= start[row] && (window <= 0 || row - key < window);
    }
};

// Naive: complete score rows in f32; P and dS rounded to bf16 where they are operands of a bf16 mma.
template <class P>
struct Attention {
    std::vector<double> out, lse, dq, dk, dv;
    // Backward takes the truth's `out` and `lse`, rounded as stored, in both versions.
    Attention(const Case& c, const Documents& docs, float scale, const std::vector<bf16>& q, const std::vector<bf16>& k,
              const std::vector<bf16>& v, const std::vector<bf16>& dout, const std::vector<bf16>* saved_out) {
        using real = typename P::real;
        const int64_t N = c.N, H = c.H, G = c.G, D = c.D;
        out.resize(N * H * D), lse.resize(H * N), dq.resize(N * H * D);
        std::vector<real> sum_k(N * G * D), sum_v(N * G * D), p(N), ds(N), o(D), gq(D);
        for (int64_t h = 0; h < H; ++h)
            for (int64_t i = 0; i < N; ++i) {
                const int64_t g = h / (H / G);
                auto qi = [&](int64_t d) { return real(value(q[(i * H + h) * D + d])); };
                auto gi = [&](int64_t d) { return real(value(dout[(i * H + h) * D + d])); };
                real m = -INFINITY, total = 0;
                for (int64_t j = 0; j <= i; ++j) {
                    if (!docs.sees(i, j, c.window)) continue;
                    real s = 0;
                    for (int64_t d = 0; d < D; ++d) s += qi(d) * real(value(k[(j * G + g) * D + d]));
                    p[j] = s * real(scale), m = std::max(m, p[j]);
                }
                for (int64_t j = 0; j <= i; ++j)
                    if (docs.sees(i, j, c.window)) total += p[j] = std::exp(p[j] - m);
                lse[h * N + i] = m + std::log(total);
                std::fill(o.begin(), o.end(), real(0));
                for (int64_t j = 0; j <= i; ++j)
                    if (docs.sees(i, j, c.window)) {
                        p[j] = P::stored(p[j] / total);
                        for (int64_t d = 0; d < D; ++d) o[d] += p[j] * real(value(v[(j * G + g) * D + d]));
                    }
                for (int64_t d = 0; d < D; ++d) out[(i * H + h) * D + d] = P::stored(o[d]);
                if (!saved_out) continue;
                real delta = 0;
                for (int64_t d = 0; d < D; ++d) delta += gi(d) * real(value((*saved_out)[(i * H + h) * D + d]));
                std::fill(gq.begin(), gq.end(), real(0));
                for (int64_t j = 0; j <= i; ++j) {
                    if (!docs.sees(i, j, c.window)) continue;
                    real dp = 0;
                    for (int64_t d = 0; d < D; ++d) dp += gi(d) * real(value(v[(j * G + g) * D + d]));
                    const real dsj = P::stored(p[j] * (dp - delta));
                    for (int64_t d = 0; d < D; ++d) {
                        gq[d] += dsj * real(value(k[(j * G + g) * D + d]));
                        sum_k[(j * G + g) * D + d] += dsj * qi(d);
                        sum_v[(j * G + g) * D + d] += p[j] * gi(d);
                    }
                }
                for (int64_t d = 0; d < D; ++d) dq[(i * H + h) * D + d] = P::stored(gq[d] * real(scale));
            }
        for (auto x : sum_k) dk.push_back(P::stored(x * real(scale)));
        for (auto x : sum_v) dv.push_back(P::stored(x));
    }
};

template <class T>
std::vector<T> rounded(const std::vector<double>& v) {
    std::vector<T> r;
    for (double x : v) {
        if constexpr (std::is_same_v<T, bf16>)
            r.push_back(to_bf16(float(x)));
        else
            r.push_back(T(x));
    }
    return r;
}

auto attention(Case c) {
    return [=]() -> std::function<void(Run&)> {
        const int64_t wq = c.H * c.D, wk = c.G * c.D;
        const int64_t q_stride = c.packed ? wq + 2 * wk : wq, k_stride = c.packed ? q_stride : wk;
        const Documents docs(c);
        const float scale = 1.f / std::sqrt(float(c.D));
        const auto q = random<bf16>(c.N * wq, 1, c.spread), k = random<bf16>(c.N * wk, 2), v = random<bf16>(c.N * wk, 3),
                   dout = random<bf16>(c.N * wq, 4);
        const Attention<Truth> first(c, docs, scale, q, k, v, dout, nullptr);
        const auto saved_out = rounded<bf16>(first.out);
        const auto saved_lse = rounded<float>(first.lse);
        const Attention<Truth> t(c, docs, scale, q, k, v, dout, &saved_out);
        const Attention<Naive> n(c, docs, scale, q, k, v, dout, &saved_out);
        auto spread = [=](const std::vector<bf16>& a, const std::vector<bf16>& b, const std::vector<bf16>& d) {
            std::vector<bf16> all;
            for (int64_t i = 0; i < c.N; ++i) {
                all.insert(all.end(), a.begin() + i * wq, a.begin() + (i + 1) * wq);
                all.insert(all.end(), b.begin() + i * wk, b.begin() + (i + 1) * wk);
                all.insert(all.end(), d.begin() + i * wk, d.begin() + (i + 1) * wk);
            }
            return all;
        };
        return [=](Run& run) {
            Dev<int32_t> start(docs.start), end(docs.end);
            Dev<bf16> out(c.N * wq), g(dout), saved(saved_out);
            Dev<float> lse(c.H * c.N), saved_l(saved_lse);
            Scratch scratch(hzk_attention_backward_scratch(c.N, c.H, c.G, c.D));
            std::vector<bf16> dq, dk, dv;
            const auto forward = c.wgmma ? hzk_attention_wgmma_forward : hzk_attention_forward;
            const auto backward = c.wgmma ? hzk_attention_wgmma_backward : hzk_attention_backward;
            if (c.packed) {
                Dev<bf16> qkv(spread(q, k, v)), grads(c.N * q_stride);
                NEED(forward(out, lse, qkv, qkv + wq, qkv + wq + wk, start, scale, c.window, c.N, c.H, c.G, c.D,
                                           q_stride, k_stride, k_stride, nullptr));
                NEED(backward(grads, grads + wq, grads + wq + wk, scratch, g, saved, saved_l, qkv, qkv + wq,
                                            qkv + wq + wk, start, end, scale, c.window, c.N, c.H, c.G, c.D, q_stride, k_stride,
                                            k_stride, nullptr));
                const auto all = grads.get();
                for (int64_t i = 0; i < c.N; ++i) {
                    const auto row = all.begin() + i * q_stride;
                    dq.insert(dq.end(), row, row + wq), dk.insert(dk.end(), row + wq, row + wq + wk);
                    dv.insert(dv.end(), row + wq + wk, row + wq + 2 * wk);
                }
            } else {
                Dev<bf16> x(q), y(k), z(v), a(c.N * wq), b(c.N * wk), d(c.N * wk);
                NEED(forward(out, lse, x, y, z, start, scale, c.window, c.N, c.H, c.G, c.D, wq, wk, wk, nullptr));
                NEED(backward(a, b, d, scratch, g, saved, saved_l, x, y, z, start, end, scale, c.window, c.N, c.H,
                                            c.G, c.D, wq, wk, wk, nullptr));
                dq = a.get(), dk = b.get(), dv = d.get();
            }
            // Sixteen rows share a bound: in a row of few keys the naive version may have no error by chance.
            run.within("out", out, t.out, n.out, 2, 16 * wq);
            run.within("lse", lse, t.lse, n.lse, 2, c.N, 4);
            run.within("dv", Dev<bf16>(dv), t.dv, n.dv, 3, 16 * wk);
            run.within("dq", Dev<bf16>(dq), t.dq, n.dq, 3, 16 * wq);
            run.within("dk", Dev<bf16>(dk), t.dk, n.dk, 3, 16 * wk);
        };
    };
}

TEST("attention 1x1x1x64", attention({1, 1, 1, 64, 0, {}}));                               // one row: out = v
TEST("attention 2x1x1x128", attention({2, 1, 1, 128, 0, {}}));
TEST("attention 33x2x1x96", attention({33, 2, 1, 96, 0, {}}));                              // less than a tile
TEST("attention 64x1x1x64", attention({64, 1, 1, 64, 0, {}}));                              // exactly one tile of keys
TEST("attention 257x2x2x64", attention({257, 2, 2, 64, 0, {}}));                            // several tiles and one row
TEST("attention 200x4x2x64 grouped, packed", attention({200, 4, 2, 64, 0, {}, true}));
TEST("attention 192x3x1x64 group divided", attention({192, 3, 1, 64, 0, {}}));  // two heads per block, one in the last
TEST("attention 200x1x1x96 documents", attention({200, 1, 1, 96, 0, {1, 65, 66, 130}}));   // of 1, 64, 1, 64, 70 rows
TEST("attention 300x2x1x64 documents", attention({300, 2, 1, 64, 0, {37, 170}, true}));   // borders inside tiles
TEST("attention 260x1x1x64 window 70", attention({260, 1, 1, 64, 70, {}}));                 // past one tile
TEST("attention 150x2x1x128 window 1", attention({150, 2, 1, 128, 1, {}}));                 // out = v
TEST("attention 230x1x1x64 window 33, documents", attention({230, 1, 1, 64, 33, {20, 140}}));
TEST("attention 130x2x1x128", attention({130, 2, 1, 128, 0, {}}));
TEST("attention 193x1x1x128 peaked", attention({193, 1, 1, 128, 0, {}, false, 8.f}));
TEST("attention 70x1x1x256", attention({70, 1, 1, 256, 0, {}}));
TEST("attention 100x2x1x256", attention({100, 2, 1, 256, 0, {40}}));
auto wgmma(Case c) {
    c.wgmma = true;
    return attention(c);
}
TEST("attention_wgmma 1x1x1x64", wgmma({1, 1, 1, 64, 0, {}}));
TEST("attention_wgmma 33x2x1x128", wgmma({33, 2, 1, 128, 0, {}}));                             // less than a tile
TEST("attention_wgmma 128x1x1x64", wgmma({128, 1, 1, 64, 0, {}}));                             // exactly one tile
TEST("attention_wgmma 385x1x1x64", wgmma({385, 1, 1, 64, 0, {}}));                             // several tiles and one row
TEST("attention_wgmma 200x4x2x64 grouped, packed", wgmma({200, 4, 2, 64, 0, {}, true}));
TEST("attention_wgmma 192x3x1x64 group divided", wgmma({192, 3, 1, 64, 0, {}}));  // two heads per block, one in the last
TEST("attention_wgmma 300x2x1x64 documents", wgmma({300, 2, 1, 64, 0, {37, 170}, true}));     // borders inside tiles
TEST("attention_wgmma 330x1x1x64 window 140", wgmma({330, 1, 1, 64, 140, {}}));                // past one tile
TEST("attention_wgmma 150x2x1x128 window 1", wgmma({150, 2, 1, 128, 1, {}}));                  // out = v
TEST("attention_wgmma 260x1x1x64 window 33, documents", wgmma({260, 1, 1, 64, 33, {20, 140}}));
TEST("attention_wgmma 193x1x1x128 peaked", wgmma({193, 1, 1, 128, 0, {}, false, 8.f}));
TEST("attention_wgmma 290x2x2x128", wgmma({290, 2, 2, 128, 0, {}}));
TEST("attention refusals", [] {
    return [](Run&) {
        Dev<bf16> x(1024);
        Dev<float> f(16);
        Dev<int32_t> d(std::vector<int32_t>(4, 0));
        auto forward = [&](int64_t N, int64_t H, int64_t G, int64_t D, float scale, const bf16* q, int64_t stride) {
            return hzk_attention_forward(x, f, q, x, x, d, scale, 0, N, H, G, D, stride, G * D, G * D, nullptr);
        };
        if (forward(0, 1, 1, 64, 1.f, x, 64) != HZK_OK) fail("no rows refused");
        if (forward(1, 1, 1, 80, 1.f, x, 80) != HZK_ERROR_SHAPE) fail("D of 80 accepted");
        if (forward(1, 3, 2, 64, 1.f, x, 192) != HZK_ERROR_SHAPE) fail("3 heads in groups of 2 accepted");
        if (forward(1, 2, 1, 64, 1.f, x, 120) != HZK_ERROR_SHAPE) fail("stride below width accepted");
        if (forward(1, 1, 1, 64, 0.f, x, 64) != HZK_ERROR_SHAPE) fail("scale 0 accepted");
        if (forward(1, 1, 1, 64, 1.f, x + 1, 64) != HZK_ERROR_ALIGNMENT) fail("misaligned q accepted");
    };
});

}  // namespace
