// A linear layer: y = x W^T + b, with a low-rank adapter beside a frozen weight where the model's config says so.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "autograd/ops/low_rank.h"
#include "autograd/ops/matmul.h"
#include "nn/adapter.h"
#include "nn/param_arena.h"

namespace rw {

/// What all dropout masks of a model share.
struct DropoutState {
  bool on = false;  // in training
  Tensor words;     // of DropoutKey, on the model's device
  uint64_t seed = 0;
};

/// Thread safety: as the model that it is a part of.
class Linear {
 public:
  /// Rows of the weight that are a parameter of their own: q_proj, k_proj and v_proj share one product.
  struct Part {
    std::string name;  // without ".weight"
    int64_t rows = 0;
  };
  /// Declares <name>.weight [rows, inputs] of every part, and <name>.bias [rows] if `bias`; each kind joined. With an
  /// adapter these are frozen. The parts that it covers also get <name>.lora_A.weight [r, inputs] and
  /// <name>.lora_B.weight [rows, r], each kind joined. The former begins as U(-1, 1) / sqrt(inputs), the latter as
  /// zeros.
  Linear(std::vector<Part> parts, int64_t inputs, bool bias, std::function<void(const Tensor&, Random&)> init,
         ParamArena& arena, const std::optional<AdapterDescription>& adapter = {});

  /// x [...,K] -> [...,N], N the rows of all parts. `first_row`: how many rows of the same micro-batch came before x.
  /// `unread`: as LinearOptions has it.
  Var forward(const Var& x, int64_t first_row = 0, bool unread = false) const;
  /// Fetches the weights; after the arena has been allocated, and again after enable_grad().
  void bind(const ParamArena& arena);

  const Var& weight() const { return weight_; }  // [N,K]; undefined where it is kept in blocks
  const Var& bias() const { return bias_; }      // [N], or undefined
  const std::vector<Part>& parts() const { return parts_; }
  int64_t rows() const { return rows_; }      // N
  int64_t inputs() const { return inputs_; }  // K
  /// Parts that the adapter covers, as indices of parts().
  const std::vector<size_t>& adapted_parts() const { return adapted_; }
  bool has_adapter() const { return !adapted_.empty(); }
  bool in_blocks() const { return format_.has_value(); }
  /// y = x W^T in the weight's dtype and nothing else: no bias, adapter, blocks or 8-bit products.
  bool is_plain() const { return !has_bias_ && !has_adapter() && !format_ && options_.matmul == Matmul::native; }
  const LinearOptions& options() const { return options_; }
  /// Rounds the weight to int8 in blocks (tensor/block_quantize.h), where it lies, and keeps the codes beside it.
  void round_to_int8();
  /// The codes of the weight; nullptr where it has not been rounded.
  const BlockMatrix* int8_codes() const { return int8_ ? &*int8_ : nullptr; }
  /// The dropout of the adapter; the state must outlive the layer. It counts while state.on.
  void set_dropout(const DropoutState* state) { dropout_state_ = state; }
  /// How the product is computed; adapters stay in the dtype of their operands. Errors: 8-bit floats of a weight in
  /// blocks.
  void set_linear(const LinearOptions& options);

 private:
  void declare_adapter(const AdapterDescription& adapter, ParamArena& arena);

  std::vector<Part> parts_;
  int64_t rows_ = 0, inputs_ = 0;
  size_t weight_index_ = 0, bias_index_ = 0, a_index_ = 0, b_index_ = 0;
  bool has_bias_ = false;
  LinearOptions options_;
  std::optional<BlockFormat> format_;
  BlockMatrix blocks_;
  std::optional<BlockMatrix> int8_;
  std::vector<size_t> adapted_;
  std::vector<LowRankPart> ranges_;  // their columns of y
  double scale_ = 1, dropout_ = 0;
  const DropoutState* dropout_state_ = nullptr;
  Var weight_, bias_, a_, b_;
};

}  // namespace rw
