#include "nn/block.h"

#include "tensor/profile.h"

namespace rw {
namespace {
std::string prefix(int64_t layer) { return cat("model.layers.", layer, "."); }
}  // namespace

Block::Block(const ModelConfig& c, int64_t layer, ParamArena& arena)
    : layer_(layer),
      norm_{.eps = c.rms_norm_eps},
      input_norm_index_(
          arena.add({prefix(layer) + "input_layernorm.weight", {c.hidden_size}, constant_init(1), false})),
      post_norm_index_(
          arena.add({prefix(layer) + "post_attention_layernorm.weight", {c.hidden_size}, constant_init(1), false})),
      attention_(c, prefix(layer) + "self_attn.", arena),
      mlp_(c, prefix(layer) + "mlp.", arena) {}

void Block::bind(const ParamArena& arena) {
  input_norm_ = arena[input_norm_index_];
  post_norm_ = arena[post_norm_index_];
  attention_.bind(arena);
  mlp_.bind(arena);
}

void Block::set_linear(const LinearOptions& options) {
  norm_.feeds_fp8 = options.matmul != Matmul::native;
  attention_.set_linear(options);
  mlp_.set_linear(options);
}

Block::Stream Block::forward(const Stream& in, const ForwardContext& context) const {
  const ProfileRange range("block", layer_);
  Var residual = in.residual, normed;
  if (in.pending.defined()) {
    std::tie(residual, normed) = residual_rms_norm(in.pending, in.residual, input_norm_, norm_);
  } else {
    normed = rms_norm(residual, input_norm_, norm_);
  }
  const Var attended = attention_.forward(normed, context, layer_);
  std::tie(residual, normed) = residual_rms_norm(attended, residual, post_norm_, norm_);
  return {residual, mlp_.forward(normed)};
}

}  // namespace rw
