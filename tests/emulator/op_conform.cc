// Results of the primitives by the PTX manual.
#include "check.h"
#include "conform.h"

using namespace check;

namespace {

template <class P>
std::vector<double> matmul(const std::vector<bf16>& a, const std::vector<bf16>& b, int M, int N, int K) {
    std::vector<double> c(size_t(M) * N);
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < N; ++j) {
            typename P::real s = 0;
            for (int k = 0; k < K; ++k) s += typename P::real(value(a[i * K + k])) * value(b[j * K + k]);
            c[i * N + j] = s;
        }
    return c;
}

std::function<void(Run&)> primitives() {
    const auto a = random<bf16>(256, 1), b = random<bf16>(128, 2);
    std::vector<uint32_t> want;
    auto all = [&](auto f) {
        for (int t = 0; t < 32; ++t) want.push_back(uint32_t(f(t)));
    };
    // ldmatrix: of each matrix, lane t has row t/4, columns 2(t%4) and 2(t%4) + 1; transposed: column t/4
    for (int i = 0; i < 4; ++i) all([&](int t) { const int e = i * 64 + t / 4 * 8 + t % 4 * 2; return e | (e + 1) << 16; });
    for (int i = 0; i < 4; ++i) all([&](int t) { const int e = i * 64 + t % 4 * 2 * 8 + t / 4; return e | (e + 8) << 16; });
    all([&](int t) { const int row = (t + 1) % 32; return row % 2 ? 0 : int(a[size_t(row) * 8].bits); });
    all([&](int t) { const int w = t ^ 1; return w % 3 ? a[2 + w * 2].bits | int(a[3 + w * 2].bits) << 16 : 0; });
    all([](int) { return 5; });
    all([](int t) { return t / 8 * 8 + 3; });
    all([](int t) { return t ^ 6; });
    all([](int t) { return (t ^ 9) / 8 > t / 8 ? t : t ^ 9; });  // its own value past the end of its segment of 8
    all([](int t) { return t + 3 < 32 ? t + 3 : t; });
    all([](int t) { return t % 16 + 3 < 16 ? t + 3 : t; });
    all([](int t) { return t >= 3 ? t - 3 : t; });
    all([](int t) { return t % 16 >= 3 ? t - 3 : t; });
    uint32_t ballot = 0;
    for (int t = 0; t < 32; t += 3) ballot |= 1u << t;
    all([&](int) { return ballot; });
    all([](int) { return 0; });
    all([](int) { return 1; });
    all([](int) { return 496; });
    all([](int) { return 30; });
    all([](int) { return 0xffff; });
    all([](int t) {
        uint32_t m = 0;
        for (int j = 0; j < 32; ++j) m |= uint32_t(j / 5 == t / 5) << j;
        return m;
    });
    all([](int t) { return t < 16 ? t ^ 1 : t ^ 2; });
    // bf16 values near 1 + t/256 have a distance of 1/128: odd t are ties, rounded to even
    all([](int t) { const int half = t / 2; return (0x3f80 + half + t % 2 * (half % 2)) | 0x7f80 << 16; });
    all([](int t) { return (t - 16 + 127) << 23; });
    all([](int) { return 0; });
    if (want.size() != size_t(kConformWords) * 32) fail("%zu expected words, not %d", want.size(), kConformWords * 32);
    const auto truth = matmul<Truth>(a, b, 16, 8, 16), naive = matmul<Naive>(a, b, 16, 8, 16);
    return [=](Run& run) {
        Dev<bf16> A(a), B(b);
        Dev<float> C(128);
        Dev<uint32_t> words(want.size());
        NEED(conform(C, words, A, B));
        run.within("mma", C, truth, naive, 2, 128, 2);
        const auto got = words.get();
        for (size_t i = 0; i < want.size(); ++i)
            if (got[i] != want[i]) fail("word %zu of lane %zu is %#x, expected %#x", i / 32, i % 32, got[i], want[i]);
    };
}

auto wgmma(int M, int N, int K) {
    return [=]() -> std::function<void(Run&)> {
        const auto a = random<bf16>(size_t(M) * K, 3), b = random<bf16>(size_t(N) * K, 4);
        const auto truth = matmul<Truth>(a, b, M, N, K), naive = matmul<Naive>(a, b, M, N, K);
        std::vector<bf16> c, transposed(size_t(K) * N);
        for (double x : truth) c.push_back(to_bf16(float(x)));
        for (int n = 0; n < N; ++n)
            for (int k = 0; k < K; ++k) transposed[size_t(k) * N + n] = b[size_t(n) * K + k];
        const auto back_truth = matmul<Truth>(c, transposed, M, K, N);
        // C may be rounded to the other neighbour.
        std::vector<bf16> d;
        for (double x : naive) d.push_back(to_bf16(float(x * (1 + 1.0 / 512))));
        const auto other_side = matmul<Naive>(d, transposed, M, K, N);
        return [=](Run& run) {
            Dev<bf16> A(a), B(b);
            Dev<float> C(size_t(M) * N), from_registers(size_t(M) * N), back(size_t(M) * K);
            NEED(conform_wgmma(C, from_registers, back, A, B, M, N, K));
            run.within("C", C, truth, naive, 2, N, 4);
            run.within("C from registers", from_registers, truth, naive, 2, N, 4);
            run.within("back", back, back_truth, other_side, 2, K, 4);
        };
    };
}

TEST("conform primitives", primitives);
TEST("conform wgmma 64x64x64", wgmma(64, 64, 64));
TEST("conform wgmma 64x128x64", wgmma(64, 128, 64));
TEST("conform wgmma 128x64x128", wgmma(128, 64, 128));
TEST("conform wgmma 128x128x128", wgmma(128, 128, 128));

}  // namespace
