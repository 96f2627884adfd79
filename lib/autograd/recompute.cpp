// Recompute regions: the recorded op that runs its region once more in backward.
#include "autograd/recompute.h"

namespace rw {
namespace {

struct RecomputeNode : Node {
  RecomputedRegion region;  // saved: the region's inputs

  const char* name() const override { return "recompute"; }

  void backward() override {
    Tape inner;
    inner.set_fast_atomics(fast_atomics());
    std::vector<Var> leaves;
    std::vector<Var> results;
    {
      const TapeScope scope(inner);
      for (size_t i = 0; i < saved.size(); ++i) leaves.push_back(wants(i) ? Var::leaf(saved[i]) : Var(saved[i]));
      results = region(leaves);
    }
    std::vector<Var> roots;
    std::vector<Tensor> seeds;
    for (size_t i = 0; i < results.size(); ++i) {
      if (!results[i].requires_grad() || !grad_out(i).defined()) continue;
      roots.push_back(results[i]);
      seeds.push_back(grad_out(i));
    }
    results.clear();
    inner.backward(roots, seeds);
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (wants(i) && leaves[i].slot()->grad.defined()) add_grad(i, leaves[i].slot()->grad);
    }
  }
};

}  // namespace

std::vector<Var> recompute(const RecomputedRegion& region, const std::vector<Var>& inputs) {
  if (!grad_enabled()) return region(inputs);
  std::vector<Var> results;
  {
    const NoGrad no_grad;
    results = region(inputs);
  }
  auto node = std::make_unique<RecomputeNode>();
  node->region = region;
  std::vector<Var*> outputs;
  for (const Var& in : inputs) node->saved.push_back(in.value());
  for (Var& out : results) outputs.push_back(&out);
  Tape::current().record(std::move(node), inputs, outputs);
  return results;
}

}  // namespace rw
