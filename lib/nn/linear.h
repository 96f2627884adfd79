// A linear layer: y = x W^T + b, with room for a low-rank pair beside the weight.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "autograd/ops/matmul.h"
#include "nn/param_arena.h"

namespace rw {

/// An adapter (LoRA, Hu et al. 2021): y gains scale * (x a^T) b^T.
struct LowRankPair {
  Var a;  // [r, K]
  Var b;  // [N, r]
  double scale = 1;
};

/// Thread safety: as the model that it is a part of.
class Linear {
 public:
  /// Rows of the weight that are a parameter of their own: q_proj, k_proj and v_proj share one product.
  struct Part {
    std::string name;  // without ".weight"
    int64_t rows = 0;
  };
  /// Declares <name>.weight [rows, inputs] of every part, and <name>.bias [rows] if `bias`; each kind joined.
  Linear(std::vector<Part> parts, int64_t inputs, bool bias, std::function<void(const Tensor&, Random&)> init,
         ParamArena& arena);

  /// x [...,K] -> [...,N], N the rows of all parts.
  Var forward(const Var& x) const;
  /// Fetches the weights; after the arena has been allocated, and again after enable_grad().
  void bind(const ParamArena& arena);

  const Var& weight() const { return weight_; }  // [N,K]
  const Var& bias() const { return bias_; }      // [N], or undefined
  const std::vector<Part>& parts() const { return parts_; }
  /// Puts an adapter beside a part, or takes it away. Errors: shapes that do not fit.
  void set_adapter(size_t part, std::optional<LowRankPair> pair);
  bool has_adapter() const;
  /// How the product is computed; adapters stay in the dtype of their operands.
  void set_linear(const LinearOptions& options) { options_ = options; }

 private:
  Var adapted(const Var& x, const Var& y) const;

  std::vector<Part> parts_;
  size_t weight_index_ = 0, bias_index_ = 0;
  bool has_bias_ = false;
  LinearOptions options_;
  std::vector<std::optional<LowRankPair>> adapters_;  // one slot for each part
  Var weight_, bias_;
};

}  // namespace rw
