// The normalizers that change ids among those of HF's tokenizer.json.
#include "data/normalizer.h"

#include <algorithm>

#include "data/unicode.h"
#include "tensor/error.h"

namespace rw {
namespace {

std::string replaced(std::string_view text, const std::string& from, const std::string& to) {
  std::string out;
  for (;;) {
    const size_t at = text.find(from);
    out += text.substr(0, at);
    if (at == std::string_view::npos) return out;
    out += to;
    text.remove_prefix(at + from.size());
  }
}

std::string_view stripped(std::string_view text, bool left, bool right) {
  while (left && char_at(text, 0).cls == CharClass::space) text.remove_prefix(char_at(text, 0).length);
  while (right && !text.empty() && char_before(text, text.size()).cls == CharClass::space)
    text.remove_suffix(char_before(text, text.size()).length);
  return text;
}

}  // namespace

void TextNormalizer::add(NormalizerStep step) {
  check(steps_.size() < 16, "tokenizer", "more than 16 normalizers");
  if (step.kind == NormalizerStep::Kind::replace) {
    check(!step.from.empty(), "tokenizer", "a normalizer replaces an empty text");
    growth_ *= std::max(1.0, static_cast<double>(step.to.size()) / static_cast<double>(step.from.size()));
  }
  const bool long_prefix = step.kind == NormalizerStep::Kind::prepend && step.to.size() > 64;
  check(growth_ <= 8 && !long_prefix, "tokenizer", "normalizers that make a text more than 8 times as long");
  steps_.push_back(std::move(step));
}

std::string TextNormalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const NormalizerStep& step : steps_) {
    switch (step.kind) {
      case NormalizerStep::Kind::form:
        out = normalized(out, step.form);
        break;
      case NormalizerStep::Kind::prepend:
        if (!out.empty()) out.insert(0, step.to);
        break;
      case NormalizerStep::Kind::replace:
        if (out.find(step.from) != std::string::npos) out = replaced(out, step.from, step.to);
        break;
      case NormalizerStep::Kind::strip:
        out = std::string(stripped(out, step.left, step.right));
    }
  }
  return out;
}

bool TextNormalizer::cuts_before_space() const {
  return std::all_of(steps_.begin(), steps_.end(),
                     [](const NormalizerStep& s) { return s.kind == NormalizerStep::Kind::form; });
}

}  // namespace rw
