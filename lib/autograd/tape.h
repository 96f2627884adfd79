// The tape: recorded ops in the order they ran. Backward walks it from the end;
// nothing recurses, so depth is no danger.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "autograd/node.h"

namespace rw {

/// Thread safety: every thread has a tape of its own (current()); a tape, and the Vars recorded on it, stay on one
/// thread. Threads that train different models do not meet.
class Tape {
 public:
  Tape() = default;
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// The tape that ops of this thread record on.
  static Tape& current();

  /// Appends a node; its outputs become differentiable.
  void record(std::unique_ptr<Node> node, const std::vector<Var>& inputs, const std::vector<Var*>& outputs);
  /// Sets d(root)/d(root) = `seed` (ones if undefined), runs every node that the gradient reaches, newest first, and
  /// clears the tape. A node's saved tensors are freed as soon as it has run. Errors: root needs no gradient, or is not
  /// a scalar and has no seed.
  void backward(const Var& root, Tensor seed = {});
  /// The same from several roots at once. Moved in, neither roots nor seeds outlive their use.
  void backward(std::vector<Var> roots, std::vector<Tensor> seeds);
  void clear();
  /// Calls f in backward, once everything that is recorded from here on has run backward.
  void when_reached(std::function<void()> f);

  /// Whether backward on a GPU may add up gradients by float atomics, in the order in which blocks happen to come.
  ///
  /// Off at first: every backward adds in a fixed order, and a second run gives the same bits. The order costs a pass
  /// or a wait. When this is on, two gradients save that cost: an embedding's (its ids are not sorted) and attention's
  /// dQ (it is made together with dK and dV, without a pass of its own). docs/kernels.md says how, and what stays as it
  /// is.
  ///
  /// The price: gradients differ in their last bits from run to run, and so, after some steps, does everything that is
  /// trained; a resumed run no longer repeats an uninterrupted one. Errors against exact arithmetic are no larger. A
  /// recorded CUDA graph keeps what it was recorded with. The CPU knows no difference.
  void set_fast_atomics(bool on) { fast_atomics_ = on; }
  bool fast_atomics() const { return fast_atomics_; }

  size_t size() const { return nodes_.size(); }
  const std::vector<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  /// Bytes of saved tensors, shared storage counted once per node that holds it.
  int64_t saved_bytes() const;
  /// Called with every node just before it runs backward; for profilers and tests.
  std::function<void(const Node&)> on_backward;

 private:
  std::vector<std::unique_ptr<Node>> nodes_;
  bool fast_atomics_ = false;
};

/// Runs backward on the current tape from a scalar.
void backward(const Var& root, Tensor seed = {});

/// False inside NoGrad: ops then record nothing.
bool grad_enabled();

/// While it lives, ops of this thread record nothing.
/// Thread safety: acts on its own thread only.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool previous_;
};

/// While it lives, ops of this thread record on `tape`, even inside NoGrad.
/// Thread safety: acts on its own thread only.
class TapeScope {
 public:
  explicit TapeScope(Tape& tape);
  ~TapeScope();
  TapeScope(const TapeScope&) = delete;
  TapeScope& operator=(const TapeScope&) = delete;

 private:
  Tape* previous_tape_;
  bool previous_enabled_;
};

/// True if recording is on and any of these wants a gradient.
template <class... Vars>
bool records(const Vars&... vars) {
  return grad_enabled() && (vars.requires_grad() || ...);
}

}  // namespace rw
