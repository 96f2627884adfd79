// Var: a tensor that may take part in differentiation.
//
//   Var w = Var::leaf(Tensor::full({3}, 2.0, DType::f64));
//   Var y = sum(mul(w, w));
//   backward(y);
//   w.grad();   // 2 w
#pragma once
#include <functional>
#include <memory>

#include "tensor/tensor.h"

namespace rw {

/// Where the gradient of one Var is collected.
struct GradSlot {
  Tensor grad;       // undefined until something was added, unless a buffer was given
  Tensor largest;    // absolute_max(grad) (tensor/quantize.h), where whoever made grad found it; else undefined
  Tensor slab_sums;  // [P,C] f32, grad [R,C] summed over slabs of its rows, where whoever made grad found them
  bool wants_largest = false;    // whoever makes grad should find it: an 8-bit product reads grad next
  bool wants_slab_sums = false;  // whoever makes grad should find them: a bias's gradient is their sum
  bool fixed_buffer = false;     // grad is a given buffer (an arena's): always add into it

  /// Forgets what was found on the way: grad is about to change.
  void forget() { largest = slab_sums = Tensor(); }
};
using GradSlotPtr = std::shared_ptr<GradSlot>;

/// A handle, cheap to copy: copies share value and gradient. Thread safety: as
/// Tensor; a Var's graph belongs to one thread.
class Var {
 public:
  Var() = default;
  /// A constant: no gradient.
  Var(Tensor value) : value_(std::move(value)) {}  // NOLINT: tensors are accepted wherever a constant may stand

  /// A leaf whose gradient is wanted; it is allocated when first needed.
  static Var leaf(Tensor value) { return leaf(std::move(value), Tensor()); }
  /// A leaf that adds its gradient to `buffer` (same shape; f32 or bf16 for a bf16 value).
  static Var leaf(Tensor value, Tensor buffer) {
    Var v(std::move(value));
    v.slot_ = std::make_shared<GradSlot>();
    v.slot_->fixed_buffer = buffer.defined();
    v.slot_->grad = std::move(buffer);
    return v;
  }

  const Tensor& value() const { return value_; }
  const GradSlotPtr& slot() const { return slot_; }
  bool requires_grad() const { return slot_ != nullptr; }
  /// The collected gradient. Errors: none was collected.
  const Tensor& grad() const {
    check(slot_ && slot_->grad.defined(), "var", "no gradient was collected");
    return slot_->grad;
  }
  void clear_grad() const {
    if (!slot_) return;
    slot_->grad = Tensor();
    slot_->forget();
  }
  /// A bf16 copy of the value, or undefined. Products of one row read it instead of the value, because reading is what
  /// they take time for (CausalLm::use_bf16_copy).
  const Tensor& bf16_copy() const { return bf16_copy_; }
  void set_bf16_copy(Tensor copy) { bf16_copy_ = std::move(copy); }
  /// absolute_max() of the value (tensor/quantize.h), where the op that made it found it on the way; else undefined.
  const Tensor& largest() const { return largest_; }
  void set_largest(Tensor largest) { largest_ = std::move(largest); }
  /// Computes the value again, bit for bit, from tensors that other ops keep for backward; or null. An op that needs
  /// the value in its backward, and would be the only one to keep it, may keep this function instead.
  using Recomputation = std::shared_ptr<const std::function<Tensor()>>;
  const Recomputation& recomputation() const { return recomputation_; }
  void set_recomputation(std::function<Tensor()> recompute) {
    recomputation_ = std::make_shared<const std::function<Tensor()>>(std::move(recompute));
  }
  /// The same value as a constant.
  Var detach() const { return Var(value_); }

  bool defined() const { return value_.defined(); }
  const Shape& shape() const { return value_.shape(); }
  int rank() const { return value_.rank(); }
  int64_t size(int d) const { return value_.size(d); }
  int64_t numel() const { return value_.numel(); }
  DType dtype() const { return value_.dtype(); }
  Device device() const { return value_.device(); }
  bool is_cuda() const { return value_.is_cuda(); }
  double item() const { return value_.item(); }

 private:
  friend class Tape;
  Tensor value_, bf16_copy_, largest_;
  Recomputation recomputation_;
  GradSlotPtr slot_;
};

}  // namespace rw
