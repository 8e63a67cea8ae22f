// A GPU emulated on the host, for tests. csrc/gpu.h includes this file when g++ compiles a kernel with -DHZ_EMU.
// Each function is the host version of a CUDA intrinsic or of a wrapper in csrc/ptx.h. Layouts (fragments, swizzles,
// shared-memory windows) and visibility (barriers, asynchronous copies) are exact; the summation order within an mma
// and the last bits of approximate functions are not.
#pragma once
#if defined(__CUDACC__)
#error "emu.h is for the host test build only"
#endif
// CUDA's own header in plain C++ mode: vector types, dim3, empty __global__ and the like.
#include <cuda_runtime.h>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace hz {
namespace emu {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Fiber {  // one CUDA thread; emu_internal.h has the rest
    uint3 tid, bid;
    unsigned linear, lane, warp;
    bool fenced;  // __threadfence since the last atomic
};
extern Fiber* g_cur;  // running thread, null on the host side
extern dim3 g_block_dim, g_grid_dim;
extern int g_atomic;  // >0 while an atomic executes (for the race build)
extern void (*g_on_atomic)(const void*);

struct Loc {
    const char* file;
    int line;
};

// ---- runtime entry points (emu.cc) ----
void set_seed(uint64_t seed);     // 0: natural order; otherwise a random schedule
void set_resident_blocks(int n);  // blocks interleaved at a time (0: 1..3, by the seed)
void set_shared_memory(size_t bytes);  // most dynamic shared memory of a block (0: HZ_EMU_SMEM bytes, or Hopper's)
struct Stats {
    uint64_t switches, collectives, mmas, blocks, threads;
};
extern Stats g_stats;
[[noreturn]] void fail(const char* fmt, ...) __attribute__((format(printf, 1, 2)));
using Invoke = void (*)(void* pack);
void run_grid(const char* name, const void* key, dim3 g, dim3 b, size_t smem, Invoke, void* pack,
              size_t pack_bytes);

void barrier(int id, int threads, bool arrive_only, const char* what, Loc, int* red = nullptr,
             int red_op = 0);
using CollFn = void (*)(void* const* lanes, unsigned mask);
enum Op { OpSyncwarp, OpShfl, OpVote, OpReduce, OpMatch, OpLdmatrix, OpMma, OpWgFence, OpWgmma, OpWgCommit, OpWgWait };
void collective(int op, const char* what, unsigned mask, void* payload, CollFn fn, Loc, bool aligned);
void* shared_static(const void* key, size_t bytes, size_t align, const char* name);
unsigned char* shared_dynamic(size_t align, const char* name);
unsigned shared_offset(const void* p);  // 32-bit shared-window address; fails if p is not shared
void check_shared(const void* p, size_t n, size_t align, const char* what);
bool is_shared(const void* p);
struct CpReq {
    void* dst;
    const void* src;
    uint4 val;
    unsigned group;
    size_t bytes;  // 4 or 16
    bool zfill;
};
void cp_async_push(const CpReq&);
void cp_async_commit_group();
bool cp_async_pop(unsigned keep, CpReq* out);  // next request that must be complete
void yield();                                  // for spin loops
void note_proxy_fence();

void mma_fn(void* const*, unsigned);
void wgmma_fence_fn(void* const*, unsigned);
void wgmma_issue_fn(void* const*, unsigned);
void wgmma_commit_fn(void* const*, unsigned);
void wgmma_wait_fn(void* const*, unsigned);

// Work of a CUDA stream and its kernel. Runs at once, unless an enqueue function is set (library.cc).
using Work = std::function<void()>;
using Enqueue = void (*)(cudaStream_t stream, const void* kernel, Work* work);
extern Enqueue g_enqueue;
void enqueue(cudaStream_t stream, const void* kernel, Work work);

template <class... P>
struct Pack {
    std::tuple<P...> args;
    void (*k)(P...);
};
template <class... P>
void invoke_pack(void* p) {
    auto* a = static_cast<Pack<P...>*>(p);
    std::apply(a->k, a->args);  // every thread gets its own copy of the parameters
}
template <class... P, class... A>
void launch(const char* name, void (*k)(P...), dim3 g, dim3 b, size_t smem, cudaStream_t stream, A&&... a) {
    Pack<P...> pk{std::tuple<P...>(std::forward<A>(a)...), k};
    const void* key = reinterpret_cast<const void*>(k);
    enqueue(stream, key, [=]() mutable { run_grid(name, key, g, b, smem, &invoke_pack<P...>, &pk, sizeof pk); });
}
#define HZ_LOC const char *hz_f = __builtin_FILE(), int hz_l = __builtin_LINE()
#define HZ_L (::hz::emu::Loc{hz_f, hz_l})
#define HZ_INL \
    inline __attribute__((always_inline))  // so that sanitizer reports name the kernel line, not this file
}  // namespace emu
}  // namespace hz

// ---- language ----
#define HZ_LAUNCH(kernel, grid, block, smem, cuda_stream, ...) \
    ::hz::emu::launch(#kernel, (kernel), (grid), (block), (smem), (cuda_stream), ##__VA_ARGS__)
#define HZ_SHARED(T, name, ...)                           \
    static char hz_key_##name;                            \
    using hz_type_##name = T __VA_ARGS__;                 \
    hz_type_##name& name = *static_cast<hz_type_##name*>( \
        ::hz::emu::shared_static(&hz_key_##name, sizeof(hz_type_##name), alignof(hz_type_##name), #name))
#define HZ_DYN_SHARED(name, alignment) \
    unsigned char* const name = ::hz::emu::shared_dynamic((alignment), #name)
#define HZ_UNROLL
#define HZ_UNROLL_BY(n)
#define HZ_NOINLINE __attribute__((noinline))
#define HZ_HAS_WGMMA 1
#undef __shared__
#define __shared__ HZ_USE_THE_HZ_SHARED_MACRO  // plain __shared__ would silently be a per-thread variable
#define __launch_bounds__(...)
#define threadIdx (::hz::emu::g_cur->tid)
#define blockIdx (::hz::emu::g_cur->bid)
#define blockDim (::hz::emu::g_block_dim)
#define gridDim (::hz::emu::g_grid_dim)
#define warpSize 32

// ---- barriers and warp collectives ----
inline void __syncthreads(HZ_LOC) { hz::emu::barrier(0, 0, false, "__syncthreads", HZ_L); }
inline int __syncthreads_count(int p, HZ_LOC) {
    int r = !!p;
    hz::emu::barrier(0, 0, false, "__syncthreads_count", HZ_L, &r, 1);
    return r;
}
inline int __syncthreads_or(int p, HZ_LOC) {
    int r = !!p;
    hz::emu::barrier(0, 0, false, "__syncthreads_or", HZ_L, &r, 2);
    return r;
}
inline int __syncthreads_and(int p, HZ_LOC) {
    int r = !!p;
    hz::emu::barrier(0, 0, false, "__syncthreads_and", HZ_L, &r, 3);
    return r;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, HZ_LOC) {
    hz::emu::collective(hz::emu::OpSyncwarp, "__syncwarp", mask, nullptr, nullptr, HZ_L, false);
}

namespace hz {
namespace emu {
template <class T>
struct shfl_type : std::integral_constant<bool, std::is_arithmetic<T>::value && sizeof(T) >= 4> {};
template <class T>
struct ShflP {
    T in, out;
    int src;
};
template <class T>
void shfl_fn(void* const* L, unsigned mask) {
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) {
            auto* p = static_cast<ShflP<T>*>(L[i]);
            if (!L[p->src])
                fail("shuffle: lane %u reads lane %d, which is not in mask 0x%08x", i, p->src, mask);
            p->out = static_cast<ShflP<T>*>(L[p->src])->in;
        }
}
template <class T>
T shfl(const char* what, unsigned mask, T v, int src, Loc loc) {
    static_assert(shfl_type<T>::value, "CUDA has no shuffle for this type");
    ShflP<T> p{v, v, src};
    collective(OpShfl, what, mask, &p, &shfl_fn<T>, loc, false);
    return p.out;
}
inline int seg(int w) { return 32 - w; }
}  // namespace emu
}  // namespace hz

template <class T>
HZ_INL T __shfl_sync(unsigned m, T v, int src, int w = 32, HZ_LOC) {
    int l = int(hz::emu::g_cur->lane), s = hz::emu::seg(w);
    return hz::emu::shfl("__shfl_sync", m, v, (l & s) | (src & ~s & 31), HZ_L);
}
template <class T>
HZ_INL T __shfl_xor_sync(unsigned m, T v, int x, int w = 32, HZ_LOC) {
    int l = int(hz::emu::g_cur->lane), s = hz::emu::seg(w), j = l ^ x;
    return hz::emu::shfl("__shfl_xor_sync", m, v, j <= ((l & s) | (~s & 31)) ? j : l, HZ_L);
}
template <class T>
HZ_INL T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32, HZ_LOC) {
    int l = int(hz::emu::g_cur->lane), s = hz::emu::seg(w), j = l + int(d);
    return hz::emu::shfl("__shfl_down_sync", m, v, j <= ((l & s) | (~s & 31)) ? j : l, HZ_L);
}
template <class T>
HZ_INL T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32, HZ_LOC) {
    int l = int(hz::emu::g_cur->lane), s = hz::emu::seg(w), j = l - int(d);
    return hz::emu::shfl("__shfl_up_sync", m, v, j >= (l & s) ? j : l, HZ_L);
}

namespace hz {
namespace emu {
struct VoteP {
    int pred;
    unsigned out;
};
inline void vote_fn(void* const* L, unsigned mask) {
    unsigned b = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) b |= unsigned(static_cast<VoteP*>(L[i])->pred != 0) << i;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) static_cast<VoteP*>(L[i])->out = b;
}
inline unsigned vote(const char* what, unsigned mask, int p, Loc loc) {
    VoteP v{p, 0};
    collective(OpVote, what, mask, &v, &vote_fn, loc, false);
    return v.out;
}
template <class T>
struct RedP {
    T v;
    int op;
};
template <class T>
void red_fn(void* const* L, unsigned mask) {
    T acc{};
    bool first = true;
    int op = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) {
            auto* p = static_cast<RedP<T>*>(L[i]);
            if (first) {
                acc = p->v;
                op = p->op;
                first = false;
                continue;
            }
            if (p->op != op) fail("__reduce_*_sync: lanes disagree on the operation");
            switch (op) {
                case 0:
                    acc = T(unsigned(acc) + unsigned(p->v));
                    break;
                case 1:
                    acc = p->v < acc ? p->v : acc;
                    break;
                case 2:
                    acc = p->v > acc ? p->v : acc;
                    break;
                case 3:
                    acc = T(acc & p->v);
                    break;
                case 4:
                    acc = T(acc | p->v);
                    break;
                default:
                    acc = T(acc ^ p->v);
            }
        }
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) static_cast<RedP<T>*>(L[i])->v = acc;
}
template <class T>
T reduce(unsigned mask, T v, int op, Loc loc) {
    static_assert(std::is_same<T, int>::value || std::is_same<T, unsigned>::value,
                  "__reduce_*_sync takes int or unsigned");
    RedP<T> p{v, op};
    collective(OpReduce, "__reduce_sync", mask, &p, &red_fn<T>, loc, false);
    return p.v;
}
template <class T>
struct MatchP {
    T v;
    unsigned out;
};
template <class T>
void match_fn(void* const* L, unsigned mask) {
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) {
            unsigned b = 0;
            for (unsigned j = 0; j < 32; ++j)
                if (mask >> j & 1)
                    b |= unsigned(static_cast<MatchP<T>*>(L[i])->v == static_cast<MatchP<T>*>(L[j])->v) << j;
            static_cast<MatchP<T>*>(L[i])->out = b;
        }
}
}  // namespace emu
}  // namespace hz
inline unsigned __ballot_sync(unsigned m, int p, HZ_LOC) {
    return hz::emu::vote("__ballot_sync", m, p, HZ_L);
}
inline int __any_sync(unsigned m, int p, HZ_LOC) { return hz::emu::vote("__any_sync", m, p, HZ_L) != 0; }
inline int __all_sync(unsigned m, int p, HZ_LOC) { return hz::emu::vote("__all_sync", m, p, HZ_L) == m; }
template <class T>
T __reduce_add_sync(unsigned m, T v, HZ_LOC) {
    return hz::emu::reduce(m, v, 0, HZ_L);
}
template <class T>
T __reduce_min_sync(unsigned m, T v, HZ_LOC) {
    return hz::emu::reduce(m, v, 1, HZ_L);
}
template <class T>
T __reduce_max_sync(unsigned m, T v, HZ_LOC) {
    return hz::emu::reduce(m, v, 2, HZ_L);
}
inline unsigned __reduce_and_sync(unsigned m, unsigned v, HZ_LOC) { return hz::emu::reduce(m, v, 3, HZ_L); }
inline unsigned __reduce_or_sync(unsigned m, unsigned v, HZ_LOC) { return hz::emu::reduce(m, v, 4, HZ_L); }
inline unsigned __reduce_xor_sync(unsigned m, unsigned v, HZ_LOC) { return hz::emu::reduce(m, v, 5, HZ_L); }
template <class T>
unsigned __match_any_sync(unsigned m, T v, HZ_LOC) {
    hz::emu::MatchP<T> p{v, 0};
    hz::emu::collective(hz::emu::OpMatch, "__match_any_sync", m, &p, &hz::emu::match_fn<T>, HZ_L, false);
    return p.out;
}
// No __activemask: its value depends on the schedule.

// ---- memory ----
template <class T>
HZ_INL T __ldg(const T* p) {
    return *p;
}
template <class T>
HZ_INL T __ldcs(const T* p) {
    return *p;
}
template <class T>
HZ_INL T __ldcg(const T* p) {
    return *p;
}
template <class T>
HZ_INL T __ldca(const T* p) {
    return *p;
}
template <class T>
HZ_INL T __ldlu(const T* p) {
    return *p;
}
template <class T>
HZ_INL T __ldcv(const T* p) {
    return *p;
}
inline void __threadfence() { hz::emu::g_cur->fenced = true; }
inline void __threadfence_block() {}
inline void __threadfence_system() { hz::emu::g_cur->fenced = true; }
inline size_t __cvta_generic_to_shared(const void* p) { return hz::emu::shared_offset(p); }

namespace hz {
namespace emu {
struct AtomicScope {
    AtomicScope() { ++g_atomic; }
    ~AtomicScope() { --g_atomic; }
};
template <class T, class F>
HZ_INL T rmw(T* p, F f) {
    if (g_on_atomic) g_on_atomic(p);
    AtomicScope s;
    T o = *p;
    *p = f(o);
    return o;
}
template <class T>
struct same {
    using type = T;
};
}  // namespace emu
}  // namespace hz
template <class T>
HZ_INL void __stcs(T* p, typename hz::emu::same<T>::type v) {
    *p = v;
}
template <class T>
HZ_INL void __stcg(T* p, typename hz::emu::same<T>::type v) {
    *p = v;
}
template <class T>
HZ_INL void __stwb(T* p, typename hz::emu::same<T>::type v) {
    *p = v;
}
template <class T>
HZ_INL void __stwt(T* p, typename hz::emu::same<T>::type v) {
    *p = v;
}
#define HZ_ATOMIC(name, expr)                                \
    template <class T>                                       \
    HZ_INL T name(T* p, typename hz::emu::same<T>::type v) { \
        return hz::emu::rmw(p, [v](T o) {                    \
            (void)o;                                         \
            return T(expr);                                  \
        });                                                  \
    }
HZ_ATOMIC(atomicAdd, o + v)
HZ_ATOMIC(atomicSub, o - v) HZ_ATOMIC(atomicExch, v) HZ_ATOMIC(atomicMin, v < o ? v : o)
    HZ_ATOMIC(atomicMax, o < v ? v : o) HZ_ATOMIC(atomicAnd, o& v) HZ_ATOMIC(atomicOr, o | v)
        HZ_ATOMIC(atomicXor, o ^ v) HZ_ATOMIC(atomicInc, o >= v ? T(0) : T(o + 1)) template <class T>
        HZ_INL T atomicCAS(T* p, typename hz::emu::same<T>::type c, typename hz::emu::same<T>::type v) {
    return hz::emu::rmw(p, [c, v](T o) { return o == c ? v : o; });
}

// ---- scalar intrinsics ----
namespace hz {
namespace emu {
template <class D, class S>
D bits(S s) {
    static_assert(sizeof(D) == sizeof(S), "");
    D d;
    std::memcpy(&d, &s, sizeof d);
    return d;
}
}  // namespace emu
}  // namespace hz
inline int __float_as_int(float f) { return hz::emu::bits<int>(f); }
inline unsigned __float_as_uint(float f) { return hz::emu::bits<unsigned>(f); }
inline float __int_as_float(int i) { return hz::emu::bits<float>(i); }
inline float __uint_as_float(unsigned i) { return hz::emu::bits<float>(i); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline void sincospif(float x, float* s, float* c) {
    *s = float(std::sin(M_PI * double(x)));
    *c = float(std::cos(M_PI * double(x)));
}
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
constexpr typename std::enable_if<std::is_arithmetic<T>::value, T>::type min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
constexpr typename std::enable_if<std::is_arithmetic<T>::value, T>::type max(T a, T b) {
    return a < b ? b : a;
}
[[noreturn]] inline void __trap() { hz::emu::fail("__trap()"); }

// ---- the library's PTX wrappers ----
namespace hz {
// Two floats to a pair of bf16, ties to even; lo in the low half.
HZ_INL uint32_t pack_bf16x2(float lo, float hi) {
    auto round = [](float f) -> uint32_t {
        const uint32_t b = emu::bits<uint32_t>(f);
        if ((b & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
        return (b + 0x7fffu + (b >> 16 & 1)) >> 16;
    };
    return round(lo) | round(hi) << 16;
}
HZ_INL int opaque(int v) { return v; }
HZ_INL float exp2_approx(float x) { return std::exp2(x); }

HZ_INL unsigned smem_u32(const void* p) { return emu::shared_offset(p); }

namespace emu {
// The source is read at issue, where sanitizers see it. The destination is NaN until the wait.
template <class T>
HZ_INL void cp_async(T* dst, const T* src, bool pred) {
    check_shared(dst, sizeof(T), sizeof(T), "cp.async destination");
    if (reinterpret_cast<uintptr_t>(src) & (sizeof(T) - 1))
        fail("cp.async: source %p is not %zu-byte aligned", static_cast<const void*>(src), sizeof(T));
    if (pred && is_shared(src)) fail("cp.async: source is in shared memory");
    CpReq r{dst, src, make_uint4(0, 0, 0, 0), 0, sizeof(T), !pred};
    if (pred) {
        const T value = *src;
        std::memcpy(&r.val, &value, sizeof(T));
    }
    T in_flight;
    std::memset(&in_flight, 0xff, sizeof(T));
    *dst = in_flight;
    cp_async_push(r);
}
template <class T>
HZ_INL void cp_async_land(const CpReq& r) {
    T value;
    std::memcpy(&value, &r.val, sizeof(T));
    *static_cast<T*>(r.dst) = value;
}
}  // namespace emu
HZ_INL void cp_async_16(void* dst, const void* src, bool pred = true) {
    emu::cp_async(static_cast<uint4*>(dst), static_cast<const uint4*>(src), pred);
}
HZ_INL void cp_async_4(void* dst, const void* src, bool pred = true) {
    emu::cp_async(static_cast<uint32_t*>(dst), static_cast<const uint32_t*>(src), pred);
}
HZ_INL void cp_async_commit() { emu::cp_async_commit_group(); }
template <int N>
HZ_INL void cp_async_wait() {
    emu::CpReq r;
    while (emu::cp_async_pop(N, &r)) {
        if (!r.zfill && std::memcmp(r.src, &r.val, r.bytes) != 0)
            emu::fail("cp.async: source %p changed while the copy was in flight", r.src);
        if (r.bytes == 16)
            emu::cp_async_land<uint4>(r);
        else
            emu::cp_async_land<uint32_t>(r);
    }
}

namespace emu {
struct LdmP {
    uint4 row;
    uint32_t* r;
};
template <bool T>
void ldm_fn(void* const* L, unsigned) {
    for (int i = 0; i < 4; ++i) {
        uint16_t m[8][8];
        for (int r = 0; r < 8; ++r) std::memcpy(m[r], &static_cast<LdmP*>(L[i * 8 + r])->row, 16);
        for (int l = 0; l < 32; ++l) {
            int g = l >> 2, t = 2 * (l & 3);
            unsigned lo = T ? m[t][g] : m[g][t], hi = T ? m[t + 1][g] : m[g][t + 1];
            static_cast<LdmP*>(L[l])->r[i] = lo | hi << 16;
        }
    }
}
struct MmaP {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
};
struct WgP {
    float* d;
    const uint32_t* registers;  // of A, or null: `a` is its descriptor
    uint64_t a, b;
    int n;
    bool transposed;  // B is n x 16
    bool add;
    int keep;
};
}  // namespace emu

template <bool TRANSPOSED>
HZ_INL void ldmatrix(uint32_t (&r)[4], const void* row, const char* what, emu::Loc loc) {
    emu::check_shared(row, 16, 16, "ldmatrix row");
    emu::LdmP p{*static_cast<const uint4*>(row), r};
    emu::collective(emu::OpLdmatrix, what, ~0u, &p, &emu::ldm_fn<TRANSPOSED>, loc, true);
}
HZ_INL void ldmatrix_x4(uint32_t (&r)[4], const void* base, int bytes, HZ_LOC) {
    ldmatrix<false>(r, static_cast<const char*>(base) + bytes, "ldmatrix", HZ_L);
}
HZ_INL void ldmatrix_x4_trans(uint32_t (&r)[4], const void* base, int bytes, HZ_LOC) {
    ldmatrix<true>(r, static_cast<const char*>(base) + bytes, "ldmatrix.trans", HZ_L);
}
HZ_INL void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, HZ_LOC) {
    emu::MmaP p{d, a, {b0, b1}};
    emu::collective(emu::OpMma, "mma.m16n8k16", ~0u, &p, &emu::mma_fn, HZ_L, true);
}
HZ_INL void bar_sync(int id, int threads, HZ_LOC) { emu::barrier(id, threads, false, "bar.sync", HZ_L); }
HZ_INL void bar_arrive(int id, int threads, HZ_LOC) { emu::barrier(id, threads, true, "bar.arrive", HZ_L); }

HZ_INL uint64_t wgmma_descriptor(const void* p, unsigned panel_bytes = 16) {
    uint64_t a = emu::shared_offset(p);
    return ((a & 0x3FFFFu) >> 4) | (uint64_t(panel_bytes >> 4) << 16) | (uint64_t(1024 >> 4) << 32) | (uint64_t(1) << 62);
}
HZ_INL void fence_proxy_async() { emu::note_proxy_fence(); }
HZ_INL void wgmma_fence(HZ_LOC) {
    emu::collective(emu::OpWgFence, "wgmma.fence", ~0u, nullptr, &emu::wgmma_fence_fn, HZ_L, true);
}
HZ_INL void wgmma_commit(HZ_LOC) {
    emu::collective(emu::OpWgCommit, "wgmma.commit_group", ~0u, nullptr, &emu::wgmma_commit_fn, HZ_L, true);
}
template <int N>
HZ_INL void wgmma_wait(HZ_LOC) {
    emu::WgP p{nullptr, nullptr, 0, 0, 0, false, false, N};
    emu::collective(emu::OpWgWait, "wgmma.wait_group", ~0u, &p, &emu::wgmma_wait_fn, HZ_L, true);
}
template <int BLOCKS>
HZ_INL void wgmma_landed(float (&)[BLOCKS][4]) {}
template <int N>
HZ_INL void wgmma_shared(float (&d)[N / 8][4], uint64_t a, uint64_t b, bool add, HZ_LOC) {
    emu::WgP p{&d[0][0], nullptr, a, b, N, true, add, 0};
    emu::collective(emu::OpWgmma, "wgmma", ~0u, &p, &emu::wgmma_issue_fn, HZ_L, true);
}
template <int N, bool TRANSPOSED>
HZ_INL void wgmma_registers(float (&d)[N / 8][4], const uint32_t (&a)[4], uint64_t b, bool add, HZ_LOC) {
    emu::WgP p{&d[0][0], a, 0, b, N, TRANSPOSED, add, 0};
    emu::collective(emu::OpWgmma, "wgmma", ~0u, &p, &emu::wgmma_issue_fn, HZ_L, true);
}

#if defined(HZ_EMU_LIBRARY)
constexpr int kMultiprocessors = 128;
#else
constexpr int kMultiprocessors = 2;  // few, so that small tests divide work among blocks in all ways
#endif
}  // namespace hz
