// The one matrix-product entry of the library (CPU: packed kernels of our own; GPU: cuBLASLt).
#pragma once
#include "tensor/product.h"
#include "tensor/tensor.h"

namespace rw {

/// A factor of a product: a stored matrix, and whether the product takes its transpose. A tensor converts to one.
struct Operand {
  Tensor tensor;  // [rows, columns] as stored
  Trans trans = Trans::no;
  Tensor scale;  // f32 [1], for 8-bit floats alone: the product takes tensor * scale

  Operand(Tensor stored) : tensor(std::move(stored)) {}  // NOLINT: a tensor is a factor as it is
  Operand(Tensor stored, Trans transposition, Tensor factor = {})
      : tensor(std::move(stored)), trans(transposition), scale(std::move(factor)) {}

  /// Sizes of op(tensor).
  int64_t rows() const { return tensor.size(trans == Trans::no ? 0 : 1); }
  int64_t columns() const { return tensor.size(trans == Trans::no ? 1 : 0); }
};
/// The transpose of a stored matrix.
inline Operand transposed(Tensor stored) { return {std::move(stored), Trans::yes}; }

struct GemmOptions {
  double alpha = 1.0, beta = 0.0;
  Tensor bias = {};  // [N], C's dtype: added to every row of C
  /// 8-bit products on a GPU: partial sums stay in the tensor cores, which keep about 14 bits of them. Faster.
  bool fast_accumulation = false;
};

/// C [M,N] = alpha * op(A) op(B) + beta * C + bias, row-major; op(A) is [M,K], op(B) is [K,N].
///
/// A is stored [M,K], or [K,M] if transposed, B [K,N] or [N,K]. Rank 2, one device. With beta = 0, C need not be
/// initialised. A and B share a dtype. C has it too, or is f32 when they are bf16. 8-bit floats have a scale each. Then
/// A is stored [M,K] and B [N,K] (what GPUs multiply), K and N are multiples of 16, and C is bf16 or f32.
/// Errors: shapes or dtypes that do not fit; 8-bit floats on a GPU without such products.
void gemm(const Operand& a, const Operand& b, const Tensor& c, const GemmOptions& options = {});

namespace cpu {
/// The same on pointers; uses thread_count() threads, on whose number no bit of C depends.
void gemm(const Product<float>& product);
void gemm(const Product<double>& product);
/// y [N] = W [N,K] x [K] for one row: bound by reading W. `w` may be bf16 with f32 vectors.
void matvec(int64_t n, int64_t k, const float* w, const float* x, float* y);
void matvec(int64_t n, int64_t k, const bf16* w, const float* x, float* y);
void matvec(int64_t n, int64_t k, const double* w, const double* x, double* y);
}  // namespace cpu

namespace cuda {
/// rw::gemm on a GPU, of arguments that it checked.
void gemm(const Operand& a, const Operand& b, const Tensor& c, const GemmOptions& options);
/// Whether the current GPU multiplies 8-bit floats: compute capability 8.9 or later.
bool has_fp8_products();
/// y [N] = W [N,K] x [K] for one row: bound by reading W. w is f32 or bf16; x and y share a dtype (f32 or bf16).
void matvec(const Tensor& w, const Tensor& x, const Tensor& y);
}  // namespace cuda

}  // namespace rw
