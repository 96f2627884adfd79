// 8-bit copies of matrices for 8-bit products: one scale for a whole matrix, found from its own largest value.
//
//   const Tensor largest = absolute_max(x);                                  // x bf16 [R,C]
//   const Quantized q = quantize(x, largest, DType::e4m3, Copies::rows);
//   gemm({q.rows, Trans::no, q.scale}, {w.rows, Trans::yes, w.scale}, y);    // y = x w^T
//
// The rule, in f32:  factor = largest of the format / max(|x|, 1e-12),  copy = round(x * factor),  scale = 1 / factor.
// NaN does not count for the maximum and stays NaN in the copy; an infinity makes NaN of the copy.
#pragma once
#include "tensor/tensor.h"

namespace rw {

/// Which copies to make. A GPU multiplies 8-bit floats along the contiguous dimension of both factors alone, so a
/// product over the rows of a matrix needs its transpose.
enum class Copies { rows, columns, both };

/// x is about copy * scale.
struct Quantized {
  Tensor rows;     // [R,C], or undefined
  Tensor columns;  // the transpose [C,R], or undefined
  Tensor scale;    // f32 [1]
};

/// The largest |x|, as f32 [P] of maxima of parts (their largest is meant), P >= 1. x is f32 or bf16; bf16 on a GPU.
Tensor absolute_max(const Tensor& x);

/// An 8-bit copy of x [R,C], f32 or bf16 (bf16 on a GPU). `largest`: of absolute_max(x). Errors: `dtype` is not e4m3 or
/// e5m2; on a GPU, R or C is no multiple of 16.
Quantized quantize(const Tensor& x, const Tensor& largest, DType dtype, Copies copies);

namespace cuda {
/// The same on a GPU, of arguments that were checked, into tensors that are there.
void absolute_max(const Tensor& x, const Tensor& largest);
void quantize(const Tensor& x, const Tensor& largest, DType dtype, const Quantized& out);
/// Parts that absolute_max() writes.
inline constexpr int64_t kMaximumParts = 512;
}  // namespace cuda

}  // namespace rw
