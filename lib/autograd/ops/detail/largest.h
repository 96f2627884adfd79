// Internal: where ops leave the largest |x| of what they make, for the 8-bit products that read it.
#pragma once
#include <initializer_list>

#include "autograd/node.h"
#include "tensor/quantize.h"

namespace rw::detail {

/// Zeros for a kernel that makes x to join its maxima to: only on a GPU and of bf16, else undefined, and whoever needs
/// the maximum reads x for it.
inline Tensor place_for_largest(const Tensor& x) {
  if (!x.is_cuda() || x.dtype() != DType::bf16) return Tensor();
  return Tensor::zeros({cuda::kMaximumParts}, DType::f32, x.device());
}

/// The same for a gradient that `node` is about to make for its inputs `ids`, if one of them is read by such a product.
inline Tensor place_for_largest(const Tensor& gradient, const Node& node, std::initializer_list<size_t> ids) {
  for (const size_t i : ids) {
    if (i < node.inputs.size() && node.inputs[i] && node.inputs[i]->wants_largest) return place_for_largest(gradient);
  }
  return Tensor();
}

}  // namespace rw::detail
