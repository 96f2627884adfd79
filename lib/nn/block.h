// One transformer block, pre-norm.
//
// The residual add of a sublayer is fused with the norm of the next one, so a block hands on two tensors: the residual
// stream and what is still to be added to it.
#pragma once
#include "autograd/ops/norm.h"
#include "nn/attention.h"
#include "nn/mlp.h"

namespace rw {

/// One layer: attention and MLP, each behind a norm. Thread safety: as the model that it is a part of.
class Block {
 public:
  Block(const ModelConfig& config, int64_t layer, ParamArena& arena);

  struct Stream {
    Var residual;  // [B,T,C]
    Var pending;   // [B,T,C], not yet added; undefined before the first block
  };
  Stream forward(const Stream& in, const ForwardContext& context) const;
  void bind(const ParamArena& arena);
  void set_linear(const LinearOptions& options);

 private:
  int64_t layer_;
  NormOptions norm_;
  size_t input_norm_index_, post_norm_index_;
  Var input_norm_, post_norm_;  // [C]
  Attention attention_;
  Mlp mlp_;
};

}  // namespace rw
