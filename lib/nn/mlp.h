// The feed-forward of one block: down(act(gate x) * up x), or down(act(up x)) without a gate.
#pragma once
#include "nn/config.h"
#include "nn/linear.h"

namespace rw {

/// Thread safety: as the model that it is a part of.
class Mlp {
 public:
  /// Declares gate_proj and up_proj (joined) and down_proj, or what the family calls
  /// them, under `prefix`, e.g. "model.layers.0.".
  Mlp(const ModelConfig& config, const std::string& prefix, ParamArena& arena);
  /// x [B,T,C] -> [B,T,C]. `unread`: nobody reads the values (autograd/recompute.h).
  Var forward(const Var& x, bool unread = false) const;
  void bind(const ParamArena& arena);
  void set_linear(const LinearOptions& options);
  /// In training, at most so many tokens at a time, whose activations backward makes again; 0: all at once.
  void set_tile(int64_t tokens) { tile_ = tokens; }

  Linear& up() { return up_; }  // [2F, C], gate first; or [F, C]
  const Linear& up() const { return up_; }
  Linear& down() { return down_; }  // [C, F]
  const Linear& down() const { return down_; }

 private:
  Var whole(const Var& x, int64_t first_row, bool unread) const;

  Activation activation_;
  bool gated_;
  bool feeds_fp8_ = false;  // for 8-bit products
  int64_t tile_ = 0;
  Linear up_, down_;
};

}  // namespace rw
