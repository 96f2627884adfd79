// A norm of the residual stream, RMSNorm or LayerNorm as the description says.
#pragma once
#include <utility>

#include "nn/config.h"
#include "nn/param_arena.h"

namespace rw {

/// Thread safety: as the model that it is a part of.
class Norm {
 public:
  /// Declares <name>.weight [width] and, for LayerNorm, <name>.bias [width].
  Norm(const ModelConfig& config, const std::string& name, int64_t width, ParamArena& arena);

  /// x [...,C] -> [...,C]
  Var forward(const Var& x) const;
  /// h = x + residual -> {h, norm h}, in one pass.
  std::pair<Var, Var> add(const Var& x, const Var& residual) const;
  /// Of a stream h that was added up before: {h, norm h}, with the gradients of add() bit for bit.
  std::pair<Var, Var> stream(const Var& h) const;
  void bind(const ParamArena& arena);
  /// The largest value is found on the way, for an 8-bit product that reads the result (RMSNorm only).
  void set_feeds_fp8(bool on) { feeds_fp8_ = on; }

  NormKind kind() const { return kind_; }
  double eps() const { return eps_; }
  double weight_offset() const { return weight_offset_; }
  const Var& weight() const { return weight_; }
  const Var& bias() const { return bias_; }  // undefined for RMSNorm

 private:
  NormKind kind_;
  double eps_, weight_offset_;
  bool feeds_fp8_ = false;
  size_t weight_index_ = 0, bias_index_ = 0;
  Var weight_, bias_;
};

}  // namespace rw
