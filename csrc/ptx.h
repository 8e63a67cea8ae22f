// All inline PTX of the library. tests/emulator/emu.h emulates every function here, and
// tests/emulator/conform.cu compares the two: a new function needs all three.
#pragma once

namespace hz {

// Converts two floats to a pair of bf16, to nearest even; lo in the low half.
__device__ __forceinline__ uint32_t pack_bf16x2(float lo, float hi) {
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
    return d;
}
// 2^x within 2 ulp, one instruction; subnormals are flushed to zero.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Hides the value from the compiler, so that expressions of it inside a loop are not hoisted, which would
// keep registers live.
__device__ __forceinline__ int opaque(int v) {
    asm volatile("" : "+r"(v));
    return v;
}

__device__ __forceinline__ unsigned smem_u32(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
// Copies 16 bytes from global to shared memory asynchronously; if !pred, writes zeros and does not read src.
__device__ __forceinline__ void cp_async_16(void* dst, const void* src, bool pred = true) {
    const int n = pred ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(smem_u32(dst)), "l"(__cvta_generic_to_global(src)), "r"(n) : "memory");
}
// The same for one naturally aligned 4-byte word.
__device__ __forceinline__ void cp_async_4(void* dst, const void* src, bool pred = true) {
    const int n = pred ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :: "r"(smem_u32(dst)), "l"(__cvta_generic_to_global(src)), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

// Loads four 8x8 matrices of 16-bit elements; lane i passes the address of row i % 8 of matrix i / 8,
// `bytes` past `base`.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* base, int bytes) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_u32(base) + unsigned(bytes)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* base, int bytes) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_u32(base) + unsigned(bytes)) : "memory");
}
// d += a(16x16, row) * b(16x8, col)
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void bar_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void bar_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" :: "r"(id), "r"(threads) : "memory");
}

// ---- Hopper warpgroup MMA (sm_90a only) -----------------------------------------------------
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HZ_HAS_WGMMA 1
#else
#define HZ_HAS_WGMMA 0
#endif

// The matrix descriptor of a 128-byte-swizzled tile in shared memory: the stride is 1024 bytes between
// groups of 8 rows and `panel_bytes` between panels of 64 columns. A K-major operand stays within one panel
// and advances by adding to the descriptor.
__device__ __forceinline__ uint64_t wgmma_descriptor(const void* p, unsigned panel_bytes = 16) {
    return ((smem_u32(p) & 0x3FFFFu) >> 4) | (uint64_t(panel_bytes >> 4) << 16) | (uint64_t(1024 >> 4) << 32) | (uint64_t(1) << 62);
}
// Makes this thread's shared memory writes visible to wgmma, which reads through the async proxy.
__device__ __forceinline__ void fence_proxy_async() {
#if HZ_HAS_WGMMA
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// Required before the first wgmma of a group. Traps on hardware without wgmma.
__device__ __forceinline__ void wgmma_fence() {
#if HZ_HAS_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    __trap();
#endif
}
__device__ __forceinline__ void wgmma_commit() {
#if HZ_HAS_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int N> __device__ __forceinline__ void wgmma_wait() {
#if HZ_HAS_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
#endif
}
// Called after wgmma_wait: the compiler must not move reads of these accumulators before it.
template <int BLOCKS> __device__ __forceinline__ void wgmma_landed(float (&d)[BLOCKS][4]) {
#pragma unroll
    for (int j = 0; j < BLOCKS; ++j)
        asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3]) :: "memory");
}

#define HZ_F4(d, j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define HZ_F32(d, j) HZ_F4(d, j), HZ_F4(d, j + 1), HZ_F4(d, j + 2), HZ_F4(d, j + 3), HZ_F4(d, j + 4), HZ_F4(d, j + 5), \
                     HZ_F4(d, j + 6), HZ_F4(d, j + 7)
#define HZ_R32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define HZ_R64 HZ_R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56," \
                      "%57,%58,%59,%60,%61,%62,%63"

// d(64xN) (+)= A(64x16) · B(Nx16)ᵀ, both in shared memory, 16 columns of a panel; add = false overwrites d.
// Asynchronous: until the wait d must not be accessed, and A and B must not be written.
template <int N>
__device__ __forceinline__ void wgmma_shared(float (&d)[N / 8][4], uint64_t a, uint64_t b, bool add) {
    static_assert(N == 64 || N == 128);
#if HZ_HAS_WGMMA
    if constexpr (N == 64)
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" HZ_R32 "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
                     : HZ_F32(d, 0)
                     : "l"(a), "l"(b), "r"(int(add)));
    else
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" HZ_R64 "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
                     : HZ_F32(d, 0), HZ_F32(d, 8)
                     : "l"(a), "l"(b), "r"(int(add)));
#else
    (void)d, (void)a, (void)b, (void)add;
#endif
}
// d(64xN) (+)= A(64x16) · B; add = false overwrites d. A is the calling warp's 16 rows as fragments of
// mma_bf16; its registers must not change until the wait. B is in shared memory: TRANSPOSED, Nx16 as in
// wgmma_shared; else 16xN, 16 rows of N / 64 panels.
template <int N, bool TRANSPOSED>
__device__ __forceinline__ void wgmma_registers(float (&d)[N / 8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
    static_assert(N == 64 || N == 128);
#if HZ_HAS_WGMMA
    if constexpr (N == 64)
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" HZ_R32 "}, {%32,%33,%34,%35}, %36, p, 1, 1, %38;\n}\n"
                     : HZ_F32(d, 0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(!TRANSPOSED)));
    else
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" HZ_R64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, %70;\n}\n"
                     : HZ_F32(d, 0), HZ_F32(d, 8)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(!TRANSPOSED)));
#else
    (void)d, (void)a, (void)b, (void)add;
#endif
}
#undef HZ_F4
#undef HZ_F32
#undef HZ_R32
#undef HZ_R64
}  // namespace hz
