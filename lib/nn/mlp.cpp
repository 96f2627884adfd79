#include "nn/mlp.h"

#include <cmath>

#include "autograd/ops/swiglu.h"

namespace rw {

Mlp::Mlp(const ModelConfig& c, const std::string& prefix, ParamArena& arena) {
  const auto init = normal_init(c.initializer_range);
  gate_index_ = arena.add({prefix + "gate_proj.weight", {c.intermediate_size, c.hidden_size}, init});
  arena.add({prefix + "up_proj.weight", {c.intermediate_size, c.hidden_size}, init}, true);
  down_index_ =
      arena.add({prefix + "down_proj.weight",
                 {c.hidden_size, c.intermediate_size},
                 normal_init(c.initializer_range / std::sqrt(2.0 * static_cast<double>(c.num_hidden_layers)))});
}

void Mlp::bind(const ParamArena& arena) {
  gate_up_weight_ = arena.stacked(gate_index_, 2);
  down_weight_ = arena[down_index_];
}

Var Mlp::forward(const Var& x) const {
  const Var gate_up = linear(x, gate_up_weight_, {}, linear_);  // [B,T,C] -> [B,T,2F]
  return linear(swiglu_packed(gate_up, {.feeds_fp8 = linear_.matmul != Matmul::native}), down_weight_, {},
                linear_);  // [B,T,F] -> [B,T,C]
}

}  // namespace rw
