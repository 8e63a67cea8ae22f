// bf16 storage and 16-byte accesses: eight bf16 or four f32 per load. Arithmetic is always f32.
#pragma once
#include "gpu.h"
#include "kernels.h"

namespace hz {

using bf16 = hzk_bf16;

__device__ __forceinline__ float to_float(bf16 v) { return __uint_as_float(uint32_t(v.bits) << 16); }
__device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ bf16 to_bf16(float v) { return bf16{uint16_t(pack_bf16x2(v, 0.f))}; }

__device__ __forceinline__ void unpack8(const uint4& v, float (&f)[8]) {
    f[0] = low(v.x), f[1] = high(v.x), f[2] = low(v.y), f[3] = high(v.y);
    f[4] = low(v.z), f[5] = high(v.z), f[6] = low(v.w), f[7] = high(v.w);
}
__device__ __forceinline__ uint4 pack8(const float (&f)[8]) {
    return make_uint4(pack_bf16x2(f[0], f[1]), pack_bf16x2(f[2], f[3]), pack_bf16x2(f[4], f[5]),
                      pack_bf16x2(f[6], f[7]));
}

__device__ __forceinline__ uint4 load8(const bf16* p) { return *reinterpret_cast<const uint4*>(p); }
// For data that is read once (streaming load): it is evicted from the caches first.
__device__ __forceinline__ uint4 load8_once(const bf16* p) { return __ldcs(reinterpret_cast<const uint4*>(p)); }
__device__ __forceinline__ void store8(bf16* p, const uint4& v) { *reinterpret_cast<uint4*>(p) = v; }
__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ float4 load4_once(const float* p) { return __ldcs(reinterpret_cast<const float4*>(p)); }
__device__ __forceinline__ void store4(float* p, const float4& v) { *reinterpret_cast<float4*>(p) = v; }

__device__ __forceinline__ void load8(const bf16* p, float (&f)[8]) { unpack8(load8(p), f); }
__device__ __forceinline__ void load8_once(const bf16* p, float (&f)[8]) { unpack8(load8_once(p), f); }
__device__ __forceinline__ void store8(bf16* p, const float (&f)[8]) { store8(p, pack8(f)); }

}  // namespace hz
