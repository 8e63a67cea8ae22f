// Code shared by launchers: argument checks, head size dispatch, shared memory limits, the status of a launch.
#pragma once
#include "gpu.h"
#include "kernels.h"

// Return the error from the launcher.
#define HZK_NEED_SHAPE(condition) \
    if (!(condition)) return HZK_ERROR_SHAPE
#define HZK_NEED_ALIGNED(...) \
    if (!hz::aligned16(__VA_ARGS__)) return HZK_ERROR_ALIGNMENT

namespace hz {

// In kernels, row and column indices are int and offsets are size_t: launchers refuse sizes above INT_MAX.
constexpr int64_t kIntMax = 0x7fffffff;
inline bool is_count(int64_t n) { return n >= 0 && n <= kIntMax; }
inline bool is_width(int64_t n, int64_t multiple = 8) { return n > 0 && n <= kIntMax && n % multiple == 0; }
// A matrix with rows of `width` elements and a row stride of `stride`.
inline bool is_rows(int64_t stride, int64_t width) { return is_width(width) && is_width(stride) && stride >= width; }

template <class... P>
inline bool aligned16(const P*... p) {
    return ((reinterpret_cast<uintptr_t>(p) | ...) & 15) == 0;
}
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls `launch<SIZE>()` for the head size D; returns HZK_ERROR_SHAPE if D is not listed.
template <int SIZE, int... REST, class Launch>
int with_head_dim(int64_t D, Launch launch) {
    if (D == SIZE) return launch.template operator()<SIZE>();
    if constexpr (sizeof...(REST) > 0) return with_head_dim<REST...>(D, launch);
    return HZK_ERROR_SHAPE;
}
// The same for all head sizes for which kernels are built.
template <class Launch>
int with_head_dim(int64_t D, Launch launch) {
    return with_head_dim<64, 96, 128, 256>(D, launch);
}

inline int launch_status() { return int(cudaGetLastError()); }

// Maximum dynamic shared memory of a block: on every target, and on Hopper.
constexpr size_t kSharedMax = size_t(99) << 10, kSharedMaxHopper = size_t(227) << 10;
// The same for the current device, less 2 KiB for a kernel's static shared arrays and alignment.
inline int shared_max_here(size_t& bytes) {
    int device = 0, most = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    bytes = size_t(most) - (size_t(2) << 10);
    return int(status);
}
template <size_t MAX = kSharedMax, class Kernel>
inline int allow_shared(Kernel* kernel, size_t bytes) {
    if (bytes > MAX) return int(cudaErrorInvalidValue);
    return int(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    int(bytes)));
}

}  // namespace hz
