// t_<build> --list: lists the tests in libtest's format. t_<build> [filter] [first seed] [last seed]: runs every test
// whose name contains `filter` under each schedule. Seed 0 is the natural order, odd seeds choose threads uniformly,
// even seeds by random warp priorities. With the CUDA runtime instead of the emulator, a seed is one more run.
// HZ_FAIL_FAST stops at the first failure.
#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdlib>
#include "check.h"
#if defined(HZ_EMU)
#include "emu.h"
#endif

namespace check {
namespace {
struct Entry {
    std::string name;
    std::function<std::function<void(Run&)>()> prepare;
};
std::vector<Entry>& tests() {
    static std::vector<Entry> all;
    return all;
}
}  // namespace

Test::Test(const std::string& name, std::function<std::function<void(Run&)>()> prepare) {
    tests().push_back({name, std::move(prepare)});
}

void fail(const char* format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    throw Failure(text);
}

void need(cudaError_t status, const char* what) {
    if (status != cudaSuccess) fail("%s: %s", what, cudaGetErrorString(status));
}

void Run::compare(const char* name, const std::vector<double>& got, const std::vector<double>& truth,
                  const std::vector<double>& naive, double factor, size_t width, double ulps, int mantissa_bits) {
    if (got.size() != truth.size() || naive.size() != truth.size())
        fail("%s: %zu values, %zu of truth, %zu naive", name, got.size(), truth.size(), naive.size());
    for (size_t row = 0; row < truth.size(); row += width) {
        const size_t end = std::min(row + width, truth.size());
        double allowed = 0;
        for (size_t i = row; i < end; ++i) allowed = std::max(allowed, std::fabs(naive[i] - truth[i]));
        for (size_t i = row; i < end; ++i) {
            if (std::isnan(truth[i]) && std::isnan(got[i])) continue;
            int exponent = 0;
            (void)std::frexp(truth[i], &exponent);
            const double ulp = std::ldexp(1.0, exponent - mantissa_bits), error = std::fabs(got[i] - truth[i]);
            if (!(error <= factor * std::max(allowed, ulps * ulp)))
                fail("%s[%zu·%zu+%zu] = %.9g, expected %.9g: error %.3g, largest naive error in this row %.3g, one ulp is %.3g",
                     name, row / width, width, i - row, got[i], truth[i], error, allowed, ulp);
        }
    }
}
}  // namespace check

int main(int argc, char** argv) {
    using namespace check;
    const std::string filter = argc > 1 ? argv[1] : "";
    const long first = argc > 2 ? atol(argv[2]) : 0, last = argc > 3 ? atol(argv[3]) : first + 1;
    std::sort(tests().begin(), tests().end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
    if (filter == "--list") {
        for (const Entry& test : tests()) printf("%s: test\n", test.name.c_str());
        return 0;
    }
    int ran = 0, failed = 0;
    double total = 0;
    for (const Entry& test : tests()) {
        if (failed && getenv("HZ_FAIL_FAST")) break;
        if (test.name.find(filter) == std::string::npos) continue;
        const auto start = std::chrono::steady_clock::now();
        std::string why;
        long seed = first;
        try {
            const auto run = test.prepare();
            std::vector<uint8_t> bits;
            for (; seed <= last; ++seed) {
#if defined(HZ_EMU)
                hz::emu::set_seed(uint64_t(seed));
                hz::emu::set_resident_blocks(seed == 0 ? 1 : 0);
#endif
                Run r;
                run(r);
                if (seed == first)
                    bits = r.bits;
                else if (bits != r.bits)
                    fail("the bits differ from those of seed %ld", first);
            }
        } catch (const std::exception& e) {
            why = e.what();
        }
        const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
        total += ms, ++ran;
        if (why.empty())
            printf("ok    %-44s %8.0f ms\n", test.name.c_str(), ms);
        else
            printf("FAIL  %-44s %8.0f ms  seed %ld: %s\n", test.name.c_str(), ms, seed, why.c_str()), ++failed;
        fflush(stdout);
    }
    printf("%d tests, %d failed, seeds %ld..%ld, %.1f s\n", ran, failed, first, last, total / 1000);
    return ran == 0 || failed != 0;
}
