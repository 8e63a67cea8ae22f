// Test harness of the ops. A test prepares inputs and two references once, then runs its launchers under several
// schedules:
//   truth   the formula in double precision; rounded are only values that are stored between two kernels;
//   naive   the same loops in the kernel's precision: f32 sums, bf16 where the kernel stores bf16.
// The error of a kernel may be twice (backward: three times) that of the naive version, and its bits must be equal
// under every schedule. Outputs are filled with NaN before the launch, or with known values where the mode is +=. The
// tests link with the emulator (-DHZ_EMU) or with the CUDA runtime.
#pragma once
#include <cuda_runtime.h>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>
#include "kernels.h"

namespace check {

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- numbers ----
using bf16 = hzk_bf16;
inline float value(float v) { return v; }
inline double value(double v) { return v; }
inline float value(bf16 v) {
    const uint32_t bits = uint32_t(v.bits) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
inline bf16 to_bf16(float v) {  // ties to even
    uint32_t b;
    memcpy(&b, &v, 4);
    if ((b & 0x7fffffffu) > 0x7f800000u) return bf16{0x7fff};
    return bf16{uint16_t((b + 0x7fffu + (b >> 16 & 1)) >> 16)};
}
// The arithmetic of the two references.
struct Truth {
    using real = double;
    static double stored(double v) { return v; }
};
struct Naive {
    using real = float;
    static float stored(float v) { return value(to_bf16(v)); }
};

// ---- inputs ----
template <class T>
std::vector<T> random(size_t n, unsigned seed, float scale = 1.f) {
    std::mt19937 g(seed);
    std::normal_distribution<float> d(0.f, scale);
    std::vector<T> v(n);
    for (auto& x : v) {
        if constexpr (std::is_same_v<T, bf16>)
            x = to_bf16(d(g));
        else
            x = d(g);
    }
    return v;
}
template <class T>
std::vector<double> widened(const std::vector<T>& v) {
    std::vector<double> d(v.size());
    for (size_t i = 0; i < v.size(); ++i) d[i] = value(v[i]);
    return d;
}

// ---- device memory ----
void need(cudaError_t, const char* what);
inline void need(int status, const char* what) {
    if (status != HZK_OK) fail("%s returned status %d", what, status);
}
#define NEED(call) ::check::need((call), #call)

template <class T>
class Dev {
  public:
    explicit Dev(size_t n) : n_(n) {  // filled with 0xff, which is NaN in every type
        need(cudaMalloc(reinterpret_cast<void**>(&p_), n * sizeof(T)), "cudaMalloc");
#if !defined(HZ_EMU)  // the emulator does it, and detects reads of uninitialized memory
        need(cudaMemset(p_, 0xff, n * sizeof(T)), "cudaMemset");
#endif
    }
    explicit Dev(const std::vector<T>& host) : n_(host.size()) {
        need(cudaMalloc(reinterpret_cast<void**>(&p_), n_ * sizeof(T)), "cudaMalloc");
        need(cudaMemcpy(p_, host.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    Dev(const Dev&) = delete;
    Dev& operator=(const Dev&) = delete;
    ~Dev() { cudaFree(p_); }
    operator T*() const { return p_; }
    // A range, for buffers too large to copy.
    void put(size_t at, const std::vector<T>& host) const {
        need(cudaMemcpy(p_ + at, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    std::vector<T> get(size_t at, size_t n) const {
        std::vector<T> host(n);
        need(cudaDeviceSynchronize(), "kernel");
        need(cudaMemcpy(host.data(), p_ + at, n * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
        return host;
    }
    std::vector<T> get() const { return get(0, n_); }

  private:
    T* p_ = nullptr;
    size_t n_;
};
struct Scratch : Dev<char> {
    explicit Scratch(size_t bytes) : Dev<char>(bytes) {}
    operator void*() const { return static_cast<char*>(*this); }
};

// ---- runs and comparisons ----
// One run of a test under one schedule. Compared values are recorded, for bit equality between runs.
class Run {
  public:
    std::vector<uint8_t> bits;
    std::string where;  // prefix of failure messages

    template <class T>
    void record(const std::vector<T>& v) {
        const auto* p = reinterpret_cast<const uint8_t*>(v.data());
        bits.insert(bits.end(), p, p + v.size() * sizeof(T));
    }
    // Checks |got - truth| <= factor · max(largest error of the naive version among the same `width` elements, `ulps`
    // ulp of the truth). Returns got.
    template <class T>
    std::vector<T> within(const char* name, const Dev<T>& dev, const std::vector<double>& truth,
                          const std::vector<double>& naive, double factor, size_t width, double ulps = 0.5) {
        std::vector<T> got = dev.get();
        record(got);
        compare(name, widened(got), truth, naive, factor, width, ulps, std::is_same_v<T, bf16> ? 8 : 24);
        return got;
    }
    template <class T>
    void equal(const char* name, const std::vector<T>& got, const std::vector<T>& want) {
        record(got);
        if (got.size() != want.size()) fail("%s: %zu values, expected %zu", name, got.size(), want.size());
        for (size_t i = 0; i < got.size(); ++i)
            if (memcmp(&got[i], &want[i], sizeof(T)) != 0)
                fail("%s[%zu] = %g, expected exactly %g", name, i, double(value(got[i])), double(value(want[i])));
    }

  private:
    static void compare(const char* name, const std::vector<double>& got, const std::vector<double>& truth,
                        const std::vector<double>& naive, double factor, size_t width, double ulps, int mantissa_bits);
};

// Registers a test. `prepare` is called once and returns the function of every run.
struct Test {
    Test(const std::string& name, std::function<std::function<void(Run&)>()> prepare);
};
#define TEST_CONCAT_(a, b) a##b
#define TEST_CONCAT(a, b) TEST_CONCAT_(a, b)
#define TEST(name, ...) static const ::check::Test TEST_CONCAT(test_, __LINE__)(name, __VA_ARGS__)

}  // namespace check
