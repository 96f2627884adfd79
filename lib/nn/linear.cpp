// The linear layer: one product for all parts, then what adapters add to their columns.
#include "nn/linear.h"

#include <cmath>

#include "autograd/ops/dropout.h"
#include "autograd/ops/linear_blocks.h"

namespace rw {
namespace {

/// Kaiming's uniform values with a = sqrt(5), as LoRA's A begins: U(-1, 1) / sqrt(inputs).
std::function<void(const Tensor&, Random&)> uniform_init(int64_t inputs) {
  return [bound = 1 / std::sqrt(static_cast<double>(inputs))](const Tensor& t, Random& random) {
    for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(bound * (2 * random.uniform() - 1));
  };
}

}  // namespace

Linear::Linear(std::vector<Part> parts, int64_t inputs, bool bias, std::function<void(const Tensor&, Random&)> init,
               ParamArena& arena, const std::optional<AdapterDescription>& adapter)
    : parts_(std::move(parts)), inputs_(inputs), has_bias_(bias) {
  if (adapter) format_ = adapter->base_blocks;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const size_t at = arena.add({parts_[i].name + ".weight", {parts_[i].rows, inputs}, init}, i > 0);
    if (i == 0) weight_index_ = at;
    if (adapter) arena.set_trainable(at, false);
    if (format_) arena.set_blocks(at, *format_);
    rows_ += parts_[i].rows;
  }
  for (size_t i = 0; bias && i < parts_.size(); ++i) {
    const size_t at = arena.add({parts_[i].name + ".bias", {parts_[i].rows}, constant_init(0), false}, i > 0);
    if (i == 0) bias_index_ = at;
    if (adapter) arena.set_trainable(at, false);
  }
  if (adapter) declare_adapter(*adapter, arena);
}

void Linear::declare_adapter(const AdapterDescription& adapter, ParamArena& arena) {
  int64_t begin = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (adapter.covers(parts_[i].name)) {
      adapted_.push_back(i);
      ranges_.push_back({begin, parts_[i].rows});
    }
    begin += parts_[i].rows;
  }
  for (size_t n = 0; n < adapted_.size(); ++n) {
    const std::string name = parts_[adapted_[n]].name + ".lora_A.weight";
    const size_t at = arena.add({name, {adapter.rank, inputs_}, uniform_init(inputs_)}, n > 0);
    if (n == 0) a_index_ = at;
  }
  for (size_t n = 0; n < adapted_.size(); ++n) {
    const Part& part = parts_[adapted_[n]];
    const size_t at = arena.add({part.name + ".lora_B.weight", {part.rows, adapter.rank}, constant_init(0)}, n > 0);
    if (n == 0) b_index_ = at;
  }
  scale_ = adapter.scale();
  dropout_ = adapter.dropout;
}

void Linear::bind(const ParamArena& arena) {
  if (format_) blocks_ = arena.stacked_blocks(weight_index_, parts_.size());
  else weight_ = arena.stacked(weight_index_, parts_.size());
  if (has_bias_) bias_ = arena.stacked(bias_index_, parts_.size());
  if (!has_adapter()) return;
  a_ = arena.stacked(a_index_, adapted_.size());
  b_ = arena.stacked(b_index_, adapted_.size());
}

void Linear::round_to_int8() {
  check(!format_, "linear", "the weight is kept in blocks of few bits already");
  int8_ = round_to_blocks(weight_.value(), {.code = BlockCode::int8, .double_scales = false});
}

void Linear::set_linear(const LinearOptions& options) {
  check(!format_ || options.matmul == Matmul::native, "linear",
        "fp8 products of weights that are kept in blocks of few bits: choose one of them");
  options_ = options;
}

Var Linear::forward(const Var& x, int64_t first_row, bool unread) const {
  LinearOptions options = options_;
  options.unread = unread;
  const Var y =  // [...,K] -> [...,N]
      format_ ? linear_blocks(x, blocks_, bias_, unread) : linear(x, weight_, bias_, options);
  if (!has_adapter()) return y;
  const bool drops = dropout_ > 0 && dropout_state_ && dropout_state_->on;
  const auto key = [&] {
    return DropoutKey{.words = dropout_state_->words,
                      .seed = dropout_state_->seed,
                      .site = static_cast<uint32_t>(a_index_),
                      .row = first_row};
  };
  return add_low_rank(y, drops ? dropout(x, dropout_, key()) : x, a_, b_, ranges_, scale_, unread);
}

}  // namespace rw
