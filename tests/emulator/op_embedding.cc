#include <algorithm>
#include <numeric>
#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

std::vector<int32_t> some_tokens(int64_t N, int64_t V, unsigned seed) {
    std::mt19937 g(seed);
    std::vector<int32_t> t(N);
    for (auto& x : t) x = g() % 3 ? int32_t(g() % uint64_t(V)) : 5 % int32_t(V);  // every third is one frequent token
    return t;
}

auto forward(int64_t N, int64_t C, float scale = 1.f) {
    return [=]() -> std::function<void(Run&)> {
        const int64_t V = 37;
        auto tokens = some_tokens(N, V, 1);
        if (N > 2) tokens[1] = int32_t(V), tokens[2] = -1;  // out of range: a row of NaN
        const auto weight = random<bf16>(V * C, 2);
        std::vector<bf16> want(N * C);
        for (int64_t n = 0; n < N; ++n)
            for (int64_t c = 0; c < C; ++c)
                want[n * C + c] = tokens[n] >= 0 && tokens[n] < V ? to_bf16(scale * value(weight[tokens[n] * C + c])) : bf16{0xffff};
        return [=](Run& run) {
            Dev<int32_t> t(tokens);
            Dev<bf16> w(weight), out(N * C);
            NEED(hzk_embedding_forward(out, t, w, scale, N, C, V, nullptr));
            run.equal("out", out.get(), want);
        };
    };
}

template <class P>
std::vector<double> dweight_of(const std::vector<float>& before, const std::vector<bf16>& dout,
                               const std::vector<int32_t>& tokens, float scale, int64_t C, int64_t V) {
    std::vector<typename P::real> sum(before.size());
    for (size_t n = 0; n < tokens.size(); ++n)
        if (tokens[n] >= 0 && tokens[n] < V)
            for (int64_t c = 0; c < C; ++c) sum[tokens[n] * C + c] += value(dout[n * C + c]);
    std::vector<double> out(before.size());
    for (size_t i = 0; i < out.size(); ++i) out[i] = typename P::real(before[i]) + typename P::real(scale) * sum[i];
    return out;
}

auto backward(int64_t N, int64_t C, float scale = 1.f) {
    return [=]() -> std::function<void(Run&)> {
        const int64_t V = 37;
        auto tokens = some_tokens(N, V, 3);
        if (N > 2) tokens[1] = int32_t(V), tokens[2] = -1;  // skipped
        std::vector<int32_t> order(N), first;
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return tokens[a] < tokens[b]; });
        for (int64_t i = 0; i < N; ++i)
            if (i == 0 || tokens[order[i]] != tokens[order[i - 1]]) first.push_back(int32_t(i));
        const int64_t U = int64_t(first.size());
        first.push_back(int32_t(N));
        const auto dout = random<bf16>(N * C, 4);
        const auto before = random<float>(V * C, 5);
        const auto truth = dweight_of<Truth>(before, dout, tokens, scale, C, V);
        const auto naive = dweight_of<Naive>(before, dout, tokens, scale, C, V);
        return [=](Run& run) {
            Dev<int32_t> t(tokens), o(order), f(first);
            Dev<bf16> d(dout);
            Dev<float> dweight(before);
            NEED(hzk_embedding_backward(dweight, d, t, o, f, scale, N, U, C, V, nullptr));
            run.within("dweight", dweight, truth, naive, 3, C);
        };
    };
}

std::function<void(Run&)> refusals() {
    return [](Run&) {
        Dev<bf16> x(64);
        Dev<int32_t> t(std::vector<int32_t>(4, 0));
        auto expect = [](int got, int want) {
            if (got != want) fail("status %d, expected %d", got, want);
        };
        expect(hzk_embedding_forward(x, t, x, 1.f, 0, 8, 2, nullptr), HZK_OK);
        expect(hzk_embedding_forward(x, t, x, 1.f, 2, 12, 2, nullptr), HZK_ERROR_SHAPE);
        expect(hzk_embedding_forward(x, t, x, 1.f, -1, 8, 2, nullptr), HZK_ERROR_SHAPE);
        expect(hzk_embedding_forward(x, t, x, 1.f, int64_t(1) << 31, 8, 2, nullptr), HZK_ERROR_SHAPE);
        expect(hzk_embedding_forward(x + 4, t, x, 1.f, 2, 8, 2, nullptr), HZK_ERROR_ALIGNMENT);
    };
}

TEST("embedding_forward 1x8", forward(1, 8));
TEST("embedding_forward 33x264", forward(33, 264));
TEST("embedding_forward 127x2064", forward(127, 2064));
TEST("embedding_forward 31x72 scaled", forward(31, 72, 33.94f));
TEST("embedding_backward 1x8", backward(1, 8));
TEST("embedding_backward 31x264", backward(31, 264));
TEST("embedding_backward 127x1032", backward(127, 1032));
TEST("embedding_backward 1027x72", backward(sizes::kManyRows, 72));
TEST("embedding_backward 127x72 scaled", backward(127, 72, 33.94f));
TEST("embedding refusals", refusals);

}  // namespace
