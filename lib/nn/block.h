// One transformer block, as the description in nn/config.h says: norms before the sublayers, after them or on both
// sides, attention and MLP one after the other or side by side.
//
// The residual add of a sublayer is fused with the norm of the next one. So a block hands on two tensors: the residual
// stream, and what is still to be added to it.
#pragma once
#include "nn/attention.h"
#include "nn/mlp.h"
#include "nn/norm.h"

namespace rw {

/// One layer. Thread safety: as the model that it is a part of.
class Block {
 public:
  Block(const ModelConfig& config, int64_t layer, ParamArena& arena);

  struct Stream {
    Var residual;        // [B,T,C]
    Var pending;         // [B,T,C], not yet added; undefined before the first block
    bool added = false;  // pending was added to the residual by add_pending()
  };
  /// The stream in one tensor: what a block that is recomputed keeps. The block's values and gradients stay the same,
  /// bit for bit.
  static Stream add_pending(const Stream& in);
  Stream forward(const Stream& in, const ForwardContext& context) const;
  void bind(const ParamArena& arena);
  /// How the linear layers multiply.
  void set_linear(const LinearOptions& options);

  /// The parts; a norm that the description leaves out is nullptr.
  const Norm* attention_norm() const { return attention_norm_ ? &*attention_norm_ : nullptr; }
  const Norm* attention_out_norm() const { return attention_out_norm_ ? &*attention_out_norm_ : nullptr; }
  const Norm* mlp_norm() const { return mlp_norm_ ? &*mlp_norm_ : nullptr; }
  const Norm* mlp_out_norm() const { return mlp_out_norm_ ? &*mlp_out_norm_ : nullptr; }
  Attention& attention() { return attention_; }
  const Attention& attention() const { return attention_; }
  Mlp& mlp() { return mlp_; }
  const Mlp& mlp() const { return mlp_; }

 private:
  Stream forward_parallel(const Var& residual, const Var& normed, const ForwardContext& context) const;

  int64_t layer_;
  bool parallel_;
  std::optional<Norm> attention_norm_, attention_out_norm_, mlp_norm_, mlp_out_norm_;
  Attention attention_;
  Mlp mlp_;
};

}  // namespace rw
