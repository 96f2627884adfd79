// Internal: what the gated activations of a packed [..., 2F] write to.
#pragma once
#include "autograd/ops/detail/largest.h"

namespace rw::detail {

struct GatedOutput {
  Tensor y;        // [..., F], not initialised
  Tensor largest;  // place_for_largest(y), or undefined
  int64_t width;   // F
};

/// Errors, in the name of `op`: gate_up is not [..., 2F].
inline GatedOutput gated_output(const char* op, const Tensor& gate_up, bool feeds_fp8) {
  check(gate_up.rank() >= 1 && gate_up.size(-1) % 2 == 0, op, "gate_up must have shape [..., 2F], got ",
        gate_up.shape());
  const int64_t width = gate_up.size(-1) / 2;
  Shape shape = gate_up.shape();
  shape.set(-1, width);
  const Tensor y = Tensor::empty(shape, gate_up.dtype(), gate_up.device());
  return {y, feeds_fp8 ? place_for_largest(y) : Tensor(), width};
}

}  // namespace rw::detail
