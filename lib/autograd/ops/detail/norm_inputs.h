// Internal: what RMSNorm and LayerNorm ask of their inputs.
#pragma once
#include "autograd/var.h"

namespace rw::detail {

/// The matrix [rows, columns] that a norm works on.
struct NormRows {
  int64_t rows = 0, columns = 0;
};

/// x [..., C], weight [C], bias [C] or undefined, residual of x's shape or null. Errors: other shapes, dtypes or
/// devices.
inline NormRows check_norm_inputs(const char* op, const Var& x, const Var* residual, const Var& weight,
                                  const Var& bias = {}) {
  check(x.rank() >= 1, op, "x must have shape [..., C], got ", x.shape());
  const int64_t columns = x.size(-1), rows = columns ? x.numel() / columns : 0;
  check_shape(op, "weight", weight.value(), {columns});
  check_same(op, "x", x.value(), "weight", weight.value());
  if (bias.defined()) {
    check_shape(op, "bias", bias.value(), {columns});
    check_same(op, "x", x.value(), "bias", bias.value());
  }
  if (residual) {
    check_shape(op, "residual", residual->value(), x.shape());
    check_same(op, "x", x.value(), "residual", residual->value());
  }
  return {rows, columns};
}

}  // namespace rw::detail
