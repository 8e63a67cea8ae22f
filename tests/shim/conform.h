// Launchers of the primitives' conformance kernels.
#pragma once
#include "kernels.h"

constexpr int kConformWords = 29;
int conform(float* product /* = [16,8] */, uint32_t* words /* = [kConformWords,32] */, const hzk_bf16* A, const hzk_bf16* B);
// C = A·Bᵀ by Hopper's warpgroup mma, all sizes multiples of 64; nothing is written on other architectures.
int conform_wgmma(float* C /* = [M,N] */, const hzk_bf16* A /* [M,K] */, const hzk_bf16* B /* [N,K] */, int M, int N, int K);
