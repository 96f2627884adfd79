// The linear layer: one product for all parts, then what adapters add to their columns.
#include "nn/linear.h"

#include <algorithm>

#include "autograd/ops/concat.h"
#include "autograd/ops/elementwise.h"

namespace rw {

Linear::Linear(std::vector<Part> parts, int64_t inputs, bool bias, std::function<void(const Tensor&, Random&)> init,
               ParamArena& arena)
    : parts_(std::move(parts)), has_bias_(bias), adapters_(parts_.size()) {
  for (size_t i = 0; i < parts_.size(); ++i) {
    const size_t at = arena.add({parts_[i].name + ".weight", {parts_[i].rows, inputs}, init}, i > 0);
    if (i == 0) weight_index_ = at;
  }
  for (size_t i = 0; bias && i < parts_.size(); ++i) {
    const size_t at = arena.add({parts_[i].name + ".bias", {parts_[i].rows}, constant_init(0), false}, i > 0);
    if (i == 0) bias_index_ = at;
  }
}

void Linear::bind(const ParamArena& arena) {
  weight_ = arena.stacked(weight_index_, parts_.size());
  if (has_bias_) bias_ = arena.stacked(bias_index_, parts_.size());
}

void Linear::set_adapter(size_t part, std::optional<LowRankPair> pair) {
  if (pair) {
    check_shape("linear", "adapter b", pair->b.value(), {parts_.at(part).rows, pair->a.size(0)});
    check_shape("linear", "adapter a", pair->a.value(), {pair->b.size(1), weight_.size(1)});
  }
  adapters_.at(part) = std::move(pair);
}

bool Linear::has_adapter() const {
  return std::any_of(adapters_.begin(), adapters_.end(), [](const auto& pair) { return pair.has_value(); });
}

Var Linear::forward(const Var& x) const {
  const Var y = linear(x, weight_, bias_, options_);  // [...,K] -> [...,N]
  return has_adapter() ? adapted(x, y) : y;
}

Var Linear::adapted(const Var& x, const Var& y) const {
  std::vector<Var> columns;
  int64_t begin = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const int64_t end = begin + parts_[i].rows;
    Var part = parts_.size() == 1 ? y : narrow(y, y.rank() - 1, begin, end);  // [...,N_i]
    if (const auto& pair = adapters_[i])
      part = add(part, scale(linear(linear(x, pair->a), pair->b), pair->scale));  // [...,K] -> [...,r] -> [...,N_i]
    columns.push_back(part);
    begin = end;
  }
  return columns.size() == 1 ? columns[0] : concat(columns, y.rank() - 1);
}

}  // namespace rw
