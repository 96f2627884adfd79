// The one matrix-product entry of the library (CPU: Eigen kernels under our own OpenMP split; GPU: cuBLASLt).
#pragma once
#include "tensor/tensor.h"

namespace rw {

enum class Trans : bool { no, yes };

/// C [M,N] = alpha * op(A) op(B) + beta * C, row-major; op(A) is [M,K], op(B) is [K,N].
///
/// A is stored [M,K] (Trans::no) or [K,M] (Trans::yes), B [K,N] or [N,K]. Rank 2, one device. A and B share a dtype; C
/// has it too, or is f32 when they are bf16. With beta = 0, C need not be initialised. Errors: shapes or dtypes that do
/// not fit.
void gemm(const Tensor& a, Trans ta, const Tensor& b, Trans tb, const Tensor& c, double alpha = 1.0, double beta = 0.0);

namespace cpu {
/// The same on pointers with leading dimensions; uses thread_count() threads, on whose number no bit of C depends.
void gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b,
          int64_t ldb, float beta, float* c, int64_t ldc);
void gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
          const double* b, int64_t ldb, double beta, double* c, int64_t ldc);
/// y [N] = W [N,K] x [K] for one row: bound by reading W. `w` may be bf16 with f32 vectors.
void matvec(int64_t n, int64_t k, const float* w, const float* x, float* y);
void matvec(int64_t n, int64_t k, const bf16* w, const float* x, float* y);
void matvec(int64_t n, int64_t k, const double* w, const double* x, double* y);
}  // namespace cpu

}  // namespace rw
