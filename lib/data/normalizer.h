// Normalizers: what a tokenizer changes in a text before it cuts it.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/normal_form.h"

namespace rw {

/// One rule of a normalizer.
struct NormalizerStep {
  enum class Kind : uint8_t { form, prepend, replace, strip };
  Kind kind = Kind::form;
  NormalForm form = NormalForm::nfc;
  std::string from, to;              // replace; prepend puts `to` in front of a text that is not empty
  bool left = false, right = false;  // strip white space
};

/// Rules applied one after the other. Thread safety: const functions from many threads at once.
class TextNormalizer {
 public:
  /// Errors: nothing to replace; more than 16 rules; rules that together could make a text more
  /// than 8 times as long (normalization forms aside).
  void add(NormalizerStep step);
  bool empty() const { return steps_.empty(); }
  const std::vector<NormalizerStep>& steps() const { return steps_; }
  std::string apply(std::string_view text) const;
  /// True if texts may be normalized in parts that begin with a space: nothing is done at their ends alone.
  bool cuts_before_space() const;

 private:
  std::vector<NormalizerStep> steps_;
  double growth_ = 1;
};

}  // namespace rw
