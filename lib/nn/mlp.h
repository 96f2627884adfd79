// The SwiGLU feed-forward of one block: down(silu(gate x) * up x).
#pragma once
#include "autograd/ops/matmul.h"
#include "nn/config.h"
#include "nn/param_arena.h"

namespace rw {

/// SwiGLU feed-forward. Thread safety: as the model that it is a part of.
class Mlp {
 public:
  /// Declares gate_proj and up_proj (joined) and down_proj under `prefix`, e.g. "model.layers.0.mlp.".
  Mlp(const ModelConfig& config, const std::string& prefix, ParamArena& arena);
  /// x [B,T,C] -> [B,T,C]
  Var forward(const Var& x) const;
  void bind(const ParamArena& arena);
  void set_linear(const LinearOptions& options) { linear_ = options; }

 private:
  size_t gate_index_, down_index_;
  LinearOptions linear_;
  Var gate_up_weight_;  // [2F, C]
  Var down_weight_;     // [C, F]
};

}  // namespace rw
