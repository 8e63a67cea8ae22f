#include "check.h"
#include "sizes.h"

using namespace check;

namespace {

auto bias(int64_t N, int64_t C) {
    return [=]() -> std::function<void(Run&)> {
        const auto dout = random<bf16>(N * C, 3);
        const auto before = random<float>(C, 4);
        std::vector<double> truth(C), naive(C);
        std::vector<float> sum(C);
        for (int64_t n = 0; n < N; ++n)
            for (int64_t c = 0; c < C; ++c) truth[c] += value(dout[n * C + c]), sum[c] += value(dout[n * C + c]);
        for (int64_t c = 0; c < C; ++c) truth[c] += before[c], naive[c] = before[c] + sum[c];
        return [=](Run& run) {
            Dev<bf16> d(dout);
            Dev<float> dbias(before);
            Scratch scratch(hzk_bias_backward_scratch(N, C));
            NEED(hzk_bias_backward(dbias, scratch, d, N, C, nullptr));
            run.within("dbias", dbias, truth, naive, 3, C, 2);
        };
    };
}

TEST("bias 1x8", bias(1, 8));
TEST("bias 33x264", bias(33, 264));
TEST("bias 127x2064", bias(127, 2064));
TEST("bias 1027x72", bias(sizes::kManyRows, 72));
TEST("bias 4000x16", bias(4000, 16));  // eight rows for some threads, four and a tail for others
TEST("bias refusals", [] {
    return [](Run&) {
        Dev<bf16> x(64);
        Dev<float> f(64);
        if (hzk_bias_backward(f, f, x, 0, 8, nullptr) != HZK_OK) fail("no rows refused");
        if (hzk_bias_backward(f, f, x, 1, 12, nullptr) != HZK_ERROR_SHAPE) fail("width 12 accepted");
        if (hzk_bias_backward(f + 2, f, x, 1, 8, nullptr) != HZK_ERROR_ALIGNMENT) fail("misaligned dbias accepted");
    };
});

}  // namespace
