// What a recomputed region keeps beside its inputs: results that are small for the work that they took.
#pragma once
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace rw {

/// Results of a region's first pass, which its second pass takes instead of computing them again. Ops put and take them
/// in their own order, which is the same both times. Thread safety: one thread at a time.
class KeptValues {
 public:
  enum class Pass { first, second };

  KeptValues() = default;
  explicit KeptValues(std::vector<Tensor> values) : values_(std::move(values)) {}

  /// Of the region that runs on this thread; nullptr: none that keeps values.
  static KeptValues* current();
  Pass pass() const { return pass_; }
  void put(const Tensor& t) { values_.push_back(t); }
  /// The next one, given up. Errors: there is none left.
  Tensor take();
  const std::vector<Tensor>& values() const { return values_; }
  /// Errors: some were not taken.
  void check_taken() const;

 private:
  friend class KeptValuesScope;
  std::vector<Tensor> values_;
  size_t taken_ = 0;
  Pass pass_ = Pass::first;
};

/// While it lives, `values` are those of the region that runs on this thread; nullptr: it keeps none.
class KeptValuesScope {
 public:
  KeptValuesScope(KeptValues* values, KeptValues::Pass pass);
  ~KeptValuesScope();
  KeptValuesScope(const KeptValuesScope&) = delete;
  KeptValuesScope& operator=(const KeptValuesScope&) = delete;

 private:
  KeptValues* before_;
};

}  // namespace rw
