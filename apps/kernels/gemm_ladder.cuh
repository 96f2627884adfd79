// The level of the GEMM ladder that has its own file.
#pragma once
#include "ladder.cuh"

namespace ladder {

/// True on a Hopper card, if this binary holds code for it.
bool gemm_wgmma_ready();
/// c [M,N] = a [M,K] b [N,K]^T, bf16; M a multiple of 128, N of 256, K of 64.
void gemm_wgmma(const Tensor& a, const Tensor& b, const Tensor& c);

}  // namespace ladder
