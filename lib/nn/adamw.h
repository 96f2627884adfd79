// AdamW (Loshchilov and Hutter 2019) with global-norm clipping, in one pass over the arena.
//
//   g = grad * grad_scale * min(1, clip / (norm + 1e-6)),   norm = |grad * grad_scale|
//   p *= 1 - lr wd;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//   p -= lr * (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)
#pragma once
#include "nn/cuda_optim.h"
#include "nn/host_state.h"
#include "nn/param_arena.h"

namespace rw {

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.0;  // on parameters whose spec says decay
};

/// Keeps the step count; moments are in the arena, of which the owned elements are updated.
/// Thread safety: none; one thread per arena.
class AdamW {
 public:
  AdamW(ParamArena& arena, AdamWConfig config);

  /// One update with gradients times grad_scale, clipped to a global norm of `clip` (0: not). Afterwards gradients are
  /// zero and the bf16 copy is fresh. Returns the norm before clipping; a norm that is not finite leaves the parameters
  /// as they were (the caller decides).
  double step(double lr, double grad_scale = 1.0, double clip = 0.0);

  /// The same without waiting, for a GPU: the square of the unscaled gradient's norm, f64 [1] on the device, before
  /// clipping. If it turns out not to be finite, the update did nothing, but counts as a step. With the state on the
  /// host it does wait, for the backward pass.
  Tensor enqueue(double lr, double grad_scale = 1.0, double clip = 0.0);

  /// For an arena of which this process owns a part: `sum` adds up the squares f64 [1], on the arena's device, of all
  /// owners' gradients. Undone by an empty function.
  void set_norm_sum(std::function<void(const Tensor& square)> sum) { norm_sum_ = std::move(sum); }

  /// For a GPU: enqueue() updates the elements from `begin` on before the others and then calls f,
  /// which may enqueue what needs only them. Undone by an empty function. Errors in enqueue():
  /// split masters, moments in 8 bits, an arena that is owned in part.
  void set_early(int64_t begin, std::function<void()> f);

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  const AdamWConfig& config() const { return config_; }
  ParamArena& arena() const { return arena_; }
  /// Where the arena keeps its state on the host; else nullptr.
  HostState* host() const { return host_.get(); }

 private:
  double step_cpu(double lr, double grad_scale, double clip);
  void update_all(const Tensor& grad, double lr, double scale);
  Tensor enqueue_from_host(double lr, double grad_scale, double clip);
  void zero_rest() const;
  cuda::AdamWTable table(int64_t begin, int64_t end) const;

  ParamArena& arena_;
  AdamWConfig config_;
  std::unique_ptr<HostState> host_;
  int64_t steps_ = 0;
  std::function<void(const Tensor&)> norm_sum_;
  int64_t early_ = -1;  // GPU: where the elements begin that are updated first; -1: none are
  std::function<void()> after_early_;
  cuda::AdamWTable table_, early_table_;  // GPU: rates by segment, of the others and of those
  Tensor scalars_, squared_norm_;         // GPU: f32 [kAdamWScalars], f64 [1]
};

}  // namespace rw
