// The feed-forward module.
#include "nn/mlp.h"

#include <cmath>

#include "autograd/ops/activation.h"
#include "autograd/ops/linear_fused.h"
#include "autograd/ops/swiglu.h"
#include "autograd/recompute.h"
#include "nn/families/family.h"

namespace rw {
namespace {

Linear make_up(const ModelConfig& c, const std::string& prefix, ParamArena& arena) {
  std::vector<Linear::Part> parts;
  const std::vector<std::string>& names = family_record(c.family).names.gate_up;
  const int64_t rows = (c.block.gated ? 2 : 1) * c.intermediate_size / static_cast<int64_t>(names.size());
  for (const std::string& name : names) parts.push_back({prefix + name, rows});
  return Linear(std::move(parts), c.hidden_size, c.block.mlp_bias, normal_init(c.initializer_range), arena, c.adapter);
}

Linear make_down(const ModelConfig& c, const std::string& prefix, ParamArena& arena) {
  const auto init = normal_init(c.initializer_range / std::sqrt(2.0 * static_cast<double>(c.num_hidden_layers)));
  return Linear({{prefix + family_record(c.family).names.down, c.hidden_size}}, c.intermediate_size, c.block.mlp_bias,
                init, arena, c.adapter);
}

}  // namespace

Mlp::Mlp(const ModelConfig& c, const std::string& prefix, ParamArena& arena)
    : activation_(c.block.activation),
      gated_(c.block.gated),
      up_(make_up(c, prefix, arena)),
      down_(make_down(c, prefix, arena)) {}

void Mlp::bind(const ParamArena& arena) {
  up_.bind(arena);
  down_.bind(arena);
}

void Mlp::set_linear(const LinearOptions& options) {
  feeds_fp8_ = options.matmul != Matmul::native;
  up_.set_linear(options);
  down_.set_linear(options);
}

Var Mlp::forward(const Var& x, bool unread) const {
  if (tile_ == 0 || x.numel() / x.size(-1) <= tile_) return whole(x, 0, unread);
  return by_tiles([this](const Var& rows, int64_t first, bool unread_tile) { return whole(rows, first, unread_tile); },
                  x, down_.rows(), tile_, unread);
}

Var Mlp::whole(const Var& x, int64_t first_row, bool unread) const {
  if (gated_ && activation_ == Activation::silu && up_.is_plain() && down_.is_plain()) {
    LinearOptions options = down_.options();
    options.unread = unread;
    return swiglu_mlp(x, up_.weight(), down_.weight(), options);
  }
  const Var up = up_.forward(x, first_row);  // [B,T,C] -> [B,T,2F], or [B,T,F] without a gate
  Var h;                                     // [B,T,F]
  if (!gated_) {
    h = activate(up, activation_);
  } else if (activation_ == Activation::silu) {
    h = swiglu_packed(up, {.feeds_fp8 = feeds_fp8_});
  } else {
    h = gated_packed(up, activation_);
  }
  return down_.forward(h, first_row, unread);  // [B,T,C]
}

}  // namespace rw
