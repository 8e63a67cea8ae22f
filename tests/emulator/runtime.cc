// The CUDA runtime calls of launchers and tests, on host memory.
#include "emu_internal.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sys/mman.h>

// Adds kernel and thread to sanitizer reports.
extern "C" void __asan_on_error() { fprintf(stderr, "hz-emu: %s\n", hz::emu::where()); }

using namespace hz::emu;
namespace {
struct Alloc {
    size_t n;
    void* map;
    size_t map_n;
};
std::map<void*, Alloc> g_allocs;
// Buffers of this size or more use pages only where they are touched, and start as zeros: for tests of large offsets.
constexpr size_t kSparse = size_t(1) << 30;
bool guard_pages() {
    static bool v = getenv("HZ_EMU_GUARD") != nullptr;
    return v;
}
}  // namespace
extern "C" {
cudaError_t cudaMalloc(void** p, size_t n) {
    Alloc a{n, nullptr, 0};
    if (guard_pages() && n < kSparse) {  // the buffer ends at an unmapped page
        size_t page = 4096, body = (n + page - 1) / page * page;
        a.map_n = body + 2 * page;
        a.map = mmap(nullptr, a.map_n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(static_cast<char*>(a.map) + page, body, PROT_READ | PROT_WRITE);
        *p = static_cast<char*>(a.map) + page + (body - (n + 15) / 16 * 16);
    } else if (n >= kSparse) {
        a.map_n = n;
        a.map = *p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (*p == MAP_FAILED) return cudaErrorMemoryAllocation;
    } else if (posix_memalign(p, 256, n ? n : 1))
        return cudaErrorMemoryAllocation;
    if (n < kSparse) memset(*p, 0xFF, n);
    g_allocs[*p] = a;
    if (g_race) g_race->alloc(*p, n);
    return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
    if (!p) return cudaSuccess;
    auto it = g_allocs.find(p);
    if (it == g_allocs.end()) return cudaErrorInvalidValue;
    if (g_race) g_race->release(p);
    if (it->second.map)
        munmap(it->second.map, it->second.map_n);
    else
        free(p);
    g_allocs.erase(it);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind) {
    memcpy(d, s, n);
    if (g_race) g_race->init(d, n);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind k, cudaStream_t) {
    return cudaMemcpy(d, s, n, k);
}
cudaError_t cudaMemcpy2DAsync(void* d, size_t d_pitch, const void* s, size_t s_pitch, size_t width, size_t height, cudaMemcpyKind k,
                              cudaStream_t) {
    if (width > d_pitch || width > s_pitch) return cudaErrorInvalidPitchValue;
    for (size_t row = 0; row < height; ++row)
        cudaMemcpy(static_cast<char*>(d) + row * d_pitch, static_cast<const char*>(s) + row * s_pitch, width, k);
    return cudaSuccess;
}
cudaError_t cudaMemset(void* d, int v, size_t n) {
    memset(d, v, n);
    if (g_race) g_race->init(d, n);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* d, int v, size_t n, cudaStream_t) { return cudaMemset(d, v, n); }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "hz-emu"; }
cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    if (attribute != cudaDevAttrMaxSharedMemoryPerBlockOptin) return cudaErrorInvalidValue;
    *value = int(smem_limit());
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* f, cudaFuncAttribute a, int v) {
    if (a == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (size_t(v) > smem_limit()) return cudaErrorInvalidValue;
        allow_dynamic(f, size_t(v));
    }
    return cudaSuccess;
}
}
