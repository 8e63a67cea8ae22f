// Launchers of the conformance kernels.
#pragma once
#include "kernels.h"

constexpr int kConformWords = 29;
int conform(float* mma /* = [16,8] */, uint32_t* words /* = [kConformWords,32] */, const hzk_bf16* A, const hzk_bf16* B);
// Hopper's warpgroup mma: C = A·Bᵀ with A in shared memory, the same with A in registers, and back = C·B with C
// rounded to bf16. M is a multiple of 64, N and K are 64 or 128. Writes nothing on other architectures.
int conform_wgmma(float* C /* = [M,N] */, float* from_registers /* = [M,N] */, float* back /* = [M,K] */,
                  const hzk_bf16* A /* [M,K] */, const hzk_bf16* B /* [N,K] */, int M, int N, int K);
