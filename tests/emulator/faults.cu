// Programs with one planted fault each, and correct ones named ok..., to test that the emulator detects faults.
// `faults_<build>` lists them; `faults_<build> NAME SEED` runs one and returns 0 if nothing was detected. faults.sh
// prints the table.
#include "gpu.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>
namespace {
const unsigned F = 0xffffffffu;
__global__ void ok(const float* x, float* y, int n) {
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) y[i] = x[i];
}
__global__ void oob_read(const float* x, float* y, int n) {
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i <= n) y[i % n] = x[i];
}
__global__ void oob_write(const float* x, float* y, int n) {
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i <= n) y[i] = x[i % n];
}
__global__ void oob_far(const float* x, float* y, int n) {
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) y[i] = x[i + (i == 7 ? 1 << 16 : 0)];
}
__global__ void sh_oob(const float* x, float* y, int n) {
    HZ_SHARED(float, s, [64]);
    int i = int(threadIdx.x);
    if (i < 64) s[i] = 0;
    __syncthreads();
    if (i == 0) {
        volatile int j = 64;
        float* q = &s[0];
        q[j] = 1;
    }
    if (i < n) y[i] = x[i];
}
__global__ void dyn_oob(const float* x, float* y, int n) {
    HZ_DYN_SHARED(raw, 16);
    float* s = reinterpret_cast<float*>(raw);
    int i = int(threadIdx.x);
    s[i + 1] = 1;
    if (i < n) y[i] = x[i];
}
__global__ void misalign(const float* x, float* y, int n) {
    int i = int(threadIdx.x);
    float4 v = make_float4(0, 0, 0, 0);
    if (i < n - 8) v = *reinterpret_cast<const float4*>(x + i + 1);
    if (i < n) y[i] = x[i] + 0 * v.x;
}
__global__ void sh_underaligned(const float* x, float* y, int n) {
    HZ_SHARED(float, s, [256]);
    int i = int(threadIdx.x);
    s[i] = s[i + 128] = i < n ? x[i] : 0;
    __syncthreads();
    float4 v = *reinterpret_cast<float4*>(&s[i / 4 * 4]);
    if (i < n) y[i] = i % 4 == 0 ? v.x : i % 4 == 1 ? v.y : i % 4 == 2 ? v.z : v.w;
}
__global__ void div_sync(const float* x, float* y, int n) {
    int i = int(threadIdx.x);
    if (i < 64) __syncthreads();
    if (i < n) y[i] = x[i];
}
__global__ void early_exit(const float* x, float* y, int n) {
    int i = int(threadIdx.x);
    if (i >= n) return;
    __syncthreads();
    y[i] = x[i];
}
__global__ void two_syncs(const float* x, float* y, int n) {
    int i = int(threadIdx.x);
    if (i < 64)
        __syncthreads();
    else
        __syncthreads();
    if (i < n) y[i] = x[i];
}
__global__ void shfl_branch(const float* x, float* y, int n) {
    int i = int(threadIdx.x);
    float v = i < n ? x[i] : 0;
    if (i < 16) v += __shfl_xor_sync(F, v, 1) * 0;
    if (i < n) y[i] = v;
}
__global__ void shfl_src(const float* x, float* y, int n) {
    int i = int(threadIdx.x);
    float v = i < n ? x[i] : 0;
    if ((i & 31) < 16) v += __shfl_sync(0xffffu, v, 20) * 0;
    if (i < n) y[i] = v;
}
__global__ void no_syncwarp(const float* x, float* y, int n) {
    HZ_SHARED(float, s, [128]);
    int i = int(threadIdx.x);
    s[i] = i < n ? x[i] : 0;
    float t = __shfl_xor_sync(F, 1.f, 1);
    if (i < n) y[i] = s[i ^ 1 ^ 1] * t + 0 * s[i ^ 1];
}
__global__ void no_syncwarp2(const float* x, float* y, int n) {
    HZ_SHARED(float, s, [128]);
    int i = int(threadIdx.x);
    s[i ^ 1] = (i ^ 1) < n ? x[i ^ 1] : 0;
    if (i < n) y[i] = s[i];
}
__global__ void block_race(const float* x, float* y, int n) {
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) y[i] = x[i];
    if (threadIdx.x == 0) y[0] = x[0];
}
__global__ void block_order(const float* x, float* y, int n) {
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) y[i] = x[i];
    if (threadIdx.x == 0 && blockIdx.x == 1) y[n - 1] = y[0] == x[0] ? x[n - 1] : -1;
}
__global__ void sh_uninit(const float* x, float* y, int n) {
    HZ_SHARED(int, s, [128]);
    int i = int(threadIdx.x);
    if (i < 100) s[i] = 1;
    __syncthreads();
    if (i < n) y[i] = s[i] ? x[i] : 0;
}
__global__ void reg_uninit(const float* x, float* y, int n) {
    int i = int(threadIdx.x);
    float a[4];
    for (int k = 0; k < 4; ++k) {
        if (k || n < 0) a[k] = 0;
    }
    a[0] += 1;
    if (i < n) y[i] = x[i] * a[0];
}
__global__ void overflow(const float* x, float* y, int n) {
    int i = int(threadIdx.x);
    int big = (n + 70000) * (n + 70000);
    if (i < n) y[i] = big == 12345 ? 0 : x[i];
}
__global__ void lost_update(const float* x, float* y, int n) {
    HZ_SHARED(int, c, [1]);
    int i = int(threadIdx.x);
    if (i == 0) c[0] = 0;
    __syncthreads();
    c[0] = c[0] + 1;
    __syncthreads();
    if (i < n) y[i] = c[0] == 128 ? x[i] : -1;
}
__global__ void cp_misalign(const float* x, float* y, int n) {
    HZ_DYN_SHARED(s, 16);
    int i = int(threadIdx.x);
    if (i == 0) {
        hz::cp_async_16(s + 4, x);
        hz::cp_async_commit();
        hz::cp_async_wait<0>();
    }
    __syncthreads();
    if (i < n) y[i] = x[i];
}
__global__ void cp_no_barrier(const float* x, float* y, int n) {
    HZ_DYN_SHARED(s, 16);
    int i = int(threadIdx.x);
    if (i < n / 4) hz::cp_async_16(s + i * 16, x + i * 4);
    hz::cp_async_commit();
    hz::cp_async_wait<0>();
    if (i < n) y[i] = reinterpret_cast<float*>(s)[i];
}
__global__ void stack_big(const float* x, float* y, int n) {
    volatile float a[1 << 16];
    int i = int(threadIdx.x);
    a[(i * 999) & 0xffff] = 0;
    a[0] = 1;
    if (i < n) y[i] = x[i] * a[0];
}
__global__ void bar_count(const float* x, float* y, int n) {
    int i = int(threadIdx.x);
    if (i < 64) hz::bar_sync(1, 96);
    if (i < n) y[i] = x[i];
}
__global__ void private_ptr(const float* x, float* y, int n, const float* host) {
    int i = int(threadIdx.x);
    if (i < n) y[i] = x[i] + 0 * host[i];
}
__global__ void shfl_barrier_reuse(const float* x, float* y,
                                   int n) {  // two block reductions without a barrier in between
    HZ_SHARED(float, red, [4]);
    int i = int(threadIdx.x), w = i >> 5;
    float t[2];
    for (int r = 0; r < 2; ++r) {
        if ((i & 31) == 0) red[w] = float(w + r * 10);
        __syncthreads();
        t[r] = red[0] + red[1] + red[2] + red[3];
    }
    if (i < n) y[i] = x[i] + (t[0] - 6) + (t[1] - 46);
}
// correct for BUG = false
template <bool BUG>
__global__ void named(const float* x, float* y, int n) {  // warp 0 produces, warps 1..3 consume, two buffers
    HZ_SHARED(float, buf, [2][96]);
    HZ_SHARED(float, sum, [128]);
    const int i = int(threadIdx.x), w = i >> 5;
    if (w == 0) {
        for (int t = 0; t < 6; ++t) {
            if (t > 1 && !BUG) hz::bar_sync(3 + (t & 1), 128);
            for (int k = i; k < 96; k += 32) buf[t & 1][k] = float(t);
            hz::bar_arrive(1 + (t & 1), 128);
        }
    } else {
        float a = 0;
        for (int t = 0; t < 6; ++t) {
            hz::bar_sync(1 + (t & 1), 128);
            a += buf[t & 1][i - 32];
            if (t < 4 && !BUG) hz::bar_arrive(3 + (t & 1), 128);
        }
        sum[i] = a;
    }
    __syncthreads();
    if (i < n) y[i] = x[i] + (sum[32 + i % 96] - 15);
}
template <bool BUG>
__global__ void last_block(const float* x, float* y, int n, float* part,
                           unsigned* count) {  // communication between blocks through a counter
    HZ_SHARED(int, last, [1]);
    const int i = int(threadIdx.x);
    if (i == 0) {
        part[blockIdx.x] = 1;
        if (!BUG) __threadfence();
        last[0] = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last[0]) {
        float s = 0;
        for (unsigned b = 0; b < gridDim.x; ++b) s += part[b];
        for (int k = i; k < n; k += int(blockDim.x)) y[k] = x[k] * s / float(gridDim.x);
    }
}
}  // namespace
#define K(name, smem) {#name, [&] { HZ_LAUNCH(name, grid, 128, smem, nullptr, x, y, n); }}
int main(int argc, char** argv) {
    const int n = 120;
    float *x, *y;
    std::vector<float> h(n), o(n);
    for (int i = 0; i < n; ++i) h[size_t(i)] = float(i);
    (void)cudaMalloc(reinterpret_cast<void**>(&x), n * 4);
    (void)cudaMalloc(reinterpret_cast<void**>(&y), n * 4);
    (void)cudaMemcpy(x, h.data(), n * 4, cudaMemcpyHostToDevice);
    const dim3 grid(1);
    const std::vector<std::pair<std::string, std::function<void()>>> t = {
        K(ok, 0),
        {"ok_named_barrier", [&] { HZ_LAUNCH(named<false>, 1, 128, 0, nullptr, x, y, n); }},
        {"named_no_free_wait", [&] { HZ_LAUNCH(named<true>, 1, 128, 0, nullptr, x, y, n); }},
        {"ok_last_block",
         [&] {
             float* p;
             unsigned* c;
             (void)cudaMalloc(reinterpret_cast<void**>(&p), 32);
             (void)cudaMalloc(reinterpret_cast<void**>(&c), 4);
             (void)cudaMemset(c, 0, 4);
             HZ_LAUNCH(last_block<false>, 8, 64, 0, nullptr, x, y, n, p, c);
             (void)cudaFree(p);
             (void)cudaFree(c);
         }},
        {"last_block_no_fence",
         [&] {
             float* p;
             unsigned* c;
             (void)cudaMalloc(reinterpret_cast<void**>(&p), 32);
             (void)cudaMalloc(reinterpret_cast<void**>(&c), 4);
             (void)cudaMemset(c, 0, 4);
             HZ_LAUNCH(last_block<true>, 8, 64, 0, nullptr, x, y, n, p, c);
             (void)cudaFree(p);
             (void)cudaFree(c);
         }},
        K(oob_read, 0),
        K(oob_write, 0),
        K(oob_far, 0),
        K(sh_oob, 0),
        K(dyn_oob, 512),
        K(misalign, 0),
        K(sh_underaligned, 0),
        K(div_sync, 0),
        K(early_exit, 0),
        K(two_syncs, 0),
        K(shfl_branch, 0),
        K(shfl_src, 0),
        K(no_syncwarp, 0),
        K(no_syncwarp2, 0),
        K(sh_uninit, 0),
        K(reg_uninit, 0),
        K(overflow, 0),
        K(lost_update, 0),
        K(cp_misalign, 512),
        K(cp_no_barrier, 480),
        K(stack_big, 0),
        K(bar_count, 0),
        K(shfl_barrier_reuse, 0),
        {"smem_limit", [&] { HZ_LAUNCH(ok, 1, 128, 50 << 10, nullptr, x, y, n); }},
        {"odd_block",
         [&] {
             HZ_LAUNCH(no_syncwarp2, 1, 120, 0, nullptr, x, y, n);
             HZ_LAUNCH(shfl_branch, 1, 120, 0, nullptr, x, y, n);
         }},
        {"block_race", [&] { HZ_LAUNCH(block_race, 4, 32, 0, nullptr, x, y, n); }},
        {"block_order", [&] { HZ_LAUNCH(block_order, 2, 64, 0, nullptr, x, y, n); }},
        {"host_pointer", [&] { HZ_LAUNCH(private_ptr, 1, 128, 0, nullptr, x, y, n, h.data()); }},
        {"use_after_free",
         [&] {
             float* z;
             (void)cudaMalloc(reinterpret_cast<void**>(&z), n * 4);
             (void)cudaMemset(z, 0, n * 4);
             (void)cudaFree(z);
             HZ_LAUNCH(private_ptr, 1, 128, 0, nullptr, x, y, n, z);
         }},
        {"uninit_global",
         [&] {
             float* z;
             (void)cudaMalloc(reinterpret_cast<void**>(&z), n * 4);
             HZ_LAUNCH(private_ptr, 1, 128, 0, nullptr, x, y, n, z);
             (void)cudaFree(z);
         }},
    };
    if (argc < 2) {
        for (auto& e : t) puts(e.first.c_str());
        return 0;
    }
    hz::emu::set_seed(argc > 2 ? strtoull(argv[2], nullptr, 10) : 0);
    hz::emu::set_resident_blocks(0);
    for (auto& e : t)
        if (e.first == argv[1]) {
            try {
                e.second();
            } catch (const std::exception& ex) {
                puts(ex.what());
                return 1;
            }
            (void)cudaMemcpy(o.data(), y, n * 4, cudaMemcpyDeviceToHost);
            for (int i = 0; i < n; ++i)
                if (!(o[size_t(i)] == h[size_t(i)])) {
                    printf("wrong result y[%d] = %g\n", i, double(o[size_t(i)]));
                    return 2;
                }
        }
    cudaFree(x);
    cudaFree(y);
    return 0;
}
