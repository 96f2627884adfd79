// Normalization as UAX #15 describes it: decompose every character, sort combining marks by their class, and for the
// composed forms put pairs together again. Text is handled in segments that end where nothing can reach across.
#include "data/normal_form.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <unordered_map>
#include <vector>

#include "data/compat_tables.h"
#include "data/compat_texts.h"
#include "data/normal_tables.h"
#include "data/unicode.h"

namespace rw {
namespace {

namespace ut = unicode_tables;

// Hangul syllables (Unicode 3.12): 19 leading consonants, 21 vowels, 27 trailing consonants or none.
constexpr uint32_t kSyllables = 0xAC00, kLeading = 0x1100, kVowels = 0x1161, kTrailing = 0x11A7;
constexpr uint32_t kLeadings = 19, kVowelCount = 21, kTrailings = 28, kSyllableCount = 11172;

/// A byte that is no UTF-8 goes through as this plus the byte: it has no mapping and class 0.
constexpr uint32_t kRawByte = 0x80000000;

struct Tables {
  std::unordered_map<uint32_t, std::pair<uint32_t, uint32_t>> canonical;
  std::unordered_map<uint64_t, uint32_t> composed;                     // first << 32 | second
  std::unordered_map<uint32_t, bool> seconds;                          // code points that a pair may end with
  std::unordered_map<uint32_t, std::pair<uint32_t, uint32_t>> compat;  // begin and length in kCompatCodes

  Tables() {
    for (const ut::Canonical& c : ut::kCanonical) {
      canonical[c.code] = {c.first, c.second};
      const bool excluded =
          std::find(std::begin(ut::kNotComposed), std::end(ut::kNotComposed), c.code) != std::end(ut::kNotComposed);
      if (c.second == 0 || excluded) continue;
      composed[uint64_t{c.first} << 32 | c.second] = c.code;
      seconds[c.second] = true;
    }
    uint32_t begin = 0;
    for (const ut::CompatText& t : ut::kCompatTexts) {
      compat[t.code] = {begin, t.length};
      begin += t.length;
    }
  }
};

const Tables& tables() {
  static const Tables made;
  return made;
}

/// The one code point that `code` is mapped to for compatibility; 0 if there is none.
uint32_t compat_code(uint32_t code) {
  const auto* after = std::upper_bound(std::begin(ut::kCompatRuns), std::end(ut::kCompatRuns), code,
                                       [](uint32_t c, const ut::CompatRun& r) { return c < r.first; });
  if (after == std::begin(ut::kCompatRuns)) return 0;
  const ut::CompatRun& run = *std::prev(after);
  return code <= run.last ? run.target + (code - run.first) : 0;
}

struct Mark {
  uint32_t code;
  uint8_t combining_class;
};

class Normalizer {
 public:
  explicit Normalizer(NormalForm form)
      : composes_(form == NormalForm::nfc || form == NormalForm::nfkc),
        compat_(form == NormalForm::nfkc || form == NormalForm::nfkd) {}

  std::string run(std::string_view text) {
    out_.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const size_t plain = inert_end(text, at);
      if (plain > at + 1) {  // the last of them may combine with what follows
        flush();
        out_.append(text, at, plain - 1 - at);
        at = plain - 1;
      }
      const Char c = char_at(text, at);
      add(c.code == kInvalidChar ? kRawByte | static_cast<unsigned char>(text[at]) : c.code);
      at += c.length;
    }
    flush();
    return std::move(out_);
  }

 private:
  /// End of the ASCII from `at`: it is the same in every form.
  static size_t inert_end(std::string_view text, size_t at) {
    while (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) ++at;
    return at;
  }

  /// Appends the full decomposition of `code`. Mappings are at most a few steps deep.
  void add(uint32_t code) {
    if (code < 0xA0) return push(code);
    if (code - kSyllables < kSyllableCount) {
      const uint32_t index = code - kSyllables;
      push(kLeading + index / (kVowelCount * kTrailings));
      push(kVowels + index % (kVowelCount * kTrailings) / kTrailings);
      if (index % kTrailings) push(kTrailing + index % kTrailings);
      return;
    }
    if (const auto found = tables().canonical.find(code); found != tables().canonical.end()) {
      add(found->second.first);
      if (found->second.second) add(found->second.second);
      return;
    }
    if (!compat_) return push(code);
    if (const uint32_t one = compat_code(code)) return add(one);
    const auto found = tables().compat.find(code);
    if (found == tables().compat.end()) return push(code);
    for (uint32_t i = 0; i < found->second.second; ++i) add(ut::kCompatCodes[found->second.first + i]);
  }

  void push(uint32_t code) {
    const uint8_t k = code < 0x300 || code >= kRawByte ? 0 : combining_class(code);
    if (k == 0 && !may_join(code)) flush();
    stretch_.push_back({code, k});
  }
  /// True if a character of class 0 may become one with what stands before it.
  bool may_join(uint32_t code) const {
    if (!composes_ || code < 0x300) return false;
    return code - kVowels < kVowelCount || code - kTrailing < kTrailings || tables().seconds.contains(code);
  }

  void flush() {
    if (stretch_.size() > 1) {
      for (auto at = stretch_.begin(); at != stretch_.end();) {  // marks between characters of class 0
        const auto marks = std::find_if(at, stretch_.end(), [](const Mark& m) { return m.combining_class != 0; });
        at = std::find_if(marks, stretch_.end(), [](const Mark& m) { return m.combining_class == 0; });
        std::stable_sort(marks, at, [](const Mark& a, const Mark& b) { return a.combining_class < b.combining_class; });
      }
      if (composes_) compose();
    }
    for (const Mark& m : stretch_) {
      if (m.code >= kRawByte) out_.push_back(static_cast<char>(m.code & 0xFF));
      else append_utf8(out_, m.code);
    }
    stretch_.clear();
  }

  static uint32_t joined(uint32_t first, uint32_t second) {
    if (first - kLeading < kLeadings && second - kVowels < kVowelCount)
      return kSyllables + ((first - kLeading) * kVowelCount + (second - kVowels)) * kTrailings;
    const uint32_t index = first - kSyllables;
    if (index < kSyllableCount && index % kTrailings == 0 && second > kTrailing && second < kTrailing + kTrailings)
      return first + (second - kTrailing);
    const auto found = tables().composed.find(uint64_t{first} << 32 | second);
    return found == tables().composed.end() ? 0 : found->second;
  }

  /// Each mark joins the last character of class 0 unless one of its own or a higher class stands between them.
  void compose() {
    size_t kept = 0, starter = SIZE_MAX;
    int last_class = -1;  // of what stands between; -1: nothing does
    for (size_t i = 0; i < stretch_.size(); ++i) {
      const Mark m = stretch_[i];
      if (starter != SIZE_MAX && last_class < static_cast<int>(m.combining_class)) {
        if (const uint32_t whole = joined(stretch_[starter].code, m.code)) {
          stretch_[starter].code = whole;
          continue;
        }
      }
      if (m.combining_class == 0) {
        starter = kept;
        last_class = -1;
      } else {
        last_class = m.combining_class;
      }
      stretch_[kept++] = m;
    }
    stretch_.resize(kept);
  }

  bool composes_, compat_;
  std::string out_;
  std::vector<Mark> stretch_;
};

}  // namespace

std::string normalized(std::string_view text, NormalForm form) { return Normalizer(form).run(text); }

}  // namespace rw
