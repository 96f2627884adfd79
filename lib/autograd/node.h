// Node: one recorded op. It knows its inputs' and outputs' gradient slots and what it saved for backward.
#pragma once
#include <vector>

#include "autograd/var.h"
#include "tensor/profile.h"

namespace rw {

/// Adds `from` to `to` element by element, converting dtype. Errors: shapes differ.
void accumulate(const Tensor& to, const Tensor& from);

/// A recorded op. Thread safety: none; it belongs to the tape, and so to the thread, that recorded it.
class Node {
 public:
  virtual ~Node() = default;
  virtual const char* name() const = 0;
  /// Reads grad_out(i), adds to the inputs' slots. Called once.
  virtual void backward() = 0;

  /// Called by the tape before backward(): see Tape::set_fast_atomics.
  void allow_fast_atomics(bool on) { fast_atomics_ = on; }

  std::vector<GradSlotPtr> inputs;  // null where no gradient is wanted
  std::vector<GradSlotPtr> outputs;
  std::vector<Tensor> saved;  // visible, so that memory reports and checkpointing are honest
  ProfilePlace place;         // the range it was recorded in; backward opens it again

 protected:
  bool wants(size_t i) const { return inputs[i] != nullptr; }
  bool fast_atomics() const { return fast_atomics_; }
  /// Gradient of output i; undefined if nothing downstream used it.
  const Tensor& grad_out(size_t i = 0) const { return outputs[i]->grad; }
  /// absolute_max() of it, if it is known; else undefined.
  const Tensor& grad_out_largest(size_t i = 0) const { return outputs[i]->largest; }
  /// Its sums over slabs of rows, if they are known; else undefined.
  const Tensor& grad_out_slab_sums(size_t i = 0) const { return outputs[i]->slab_sums; }
  /// Adds g to input i's gradient. The first one is kept as it is, so g must not be written to afterwards. `largest`:
  /// absolute_max(g), if it is known; `slab_sums`: GradSlot's, if they are.
  void add_grad(size_t i, Tensor g, Tensor largest = {}, Tensor slab_sums = {}) const {
    if (!wants(i)) return;
    GradSlot& slot = *inputs[i];
    if (!slot.grad.defined()) {
      slot.grad = std::move(g);
      slot.largest = std::move(largest);
      slot.slab_sums = std::move(slab_sums);
      return;
    }
    own(slot);
    accumulate(slot.grad, g);
  }
  /// A tensor to write input i's gradient into, as C = product + beta * C: the existing
  /// gradient (beta 1) or a new one (beta 0).
  struct Target {
    Tensor tensor;
    double beta;
  };
  Target grad_target(size_t i, const Shape& shape, DType dtype, Device device) const {
    GradSlot& slot = *inputs[i];
    if (slot.grad.defined()) {
      own(slot);
      return {slot.grad, 1.0};
    }
    slot.grad = Tensor::empty(shape, dtype, device);
    return {slot.grad, 0.0};
  }

 private:
  bool fast_atomics_ = false;

  /// Before a slot is written to: add() hands one tensor to two slots, so it gets
  /// its own copy, and what was found about it is no longer true.
  static void own(GradSlot& slot) {
    slot.forget();
    if (!slot.fixed_buffer && !slot.grad.unique()) slot.grad = slot.grad.clone();
  }
};

}  // namespace rw
