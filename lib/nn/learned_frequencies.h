// Learned frequencies (CLEX) of a model on a GPU. Their ODE is solved on the host, so a step has three copies between
// GPU and host, each through pinned memory. The parameters come to the host when they have changed. The table's
// gradient comes to the host when backward has made it. The parameters' gradients go back to the GPU.
//
//   LearnedFrequencies frequencies(model);
//   const Tensor table = frequencies.solve(t, context).inv_freq.value();   // [B, D/2] f64, on the host
//   frequencies.resize(table.shape());                                     // when it has changed
//   ... forward and backward with frequencies.leaf(the table on the GPU)
//   frequencies.fetch_gradient();
//   frequencies.backward();                                                // adds to the arena's gradients
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "autograd/tape.h"
#include "nn/causal_lm.h"
#include "nn/cuda_graph.h"

namespace rw {

/// Thread safety: none.
class LearnedFrequencies {
 public:
  /// `model`: on a GPU, with learned frequencies and gradients; it outlives this.
  explicit LearnedFrequencies(CausalLm& model);

  /// Where the parameters begin in the arena, at whose end they lie.
  int64_t begin() const { return begin_; }
  /// Enqueues the copy of the parameters. solve() does so itself if it finds that they have changed; called right after
  /// an update, it spares that wait.
  void fetch();
  /// The table of every sample's t, made from the parameters as they are now; its history is kept
  /// for backward(). Errors: as RopeScaling::table.
  RopeTable solve(std::span<const double> t, const RopeContext& context);
  /// Makes room for the gradient of such tables. What was recorded with the former room must not be replayed any more.
  void resize(const Shape& shape);
  /// The table as the model takes it, f64 [B, D/2] on the GPU; its gradient begins at zero. May be recorded.
  Var leaf(const Tensor& inv_freq) const;
  /// Enqueues the copy of that gradient. May be recorded.
  void fetch_gradient() const;
  /// Waits for that copy, and adds the gradients of the parameters to the arena's. Nothing to do if the table has no
  /// history: every t is 1.
  void backward();

 private:
  struct Staged {
    std::unique_ptr<cuda::Staging> memory;
    int slot = 0;
  };
  CausalLm& model_;
  int64_t begin_, numel_;  // where the parameters lie in the arena, padding between them included
  std::vector<Var> host_;  // the parameters, f32, in pinned memory
  int64_t fetched_ = -1;   // version of the arena that they are of
  Tensor parameter_grad_;  // f32 [numel] on the GPU, on its way into the arena's
  Tape tape_;              // from the parameters to the table
  Var inv_freq_;           // the table
  Tensor inv_freq_grad_;   // f64 like the table, on the GPU
  Staged parameters_, inv_freq_grads_, parameter_grads_;
};

}  // namespace rw
