// What both kinds of BPE share: the table of merges, the merging itself, and two indices of strings.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rw {

/// (left id, right id) -> (rank, merged id), open addressing: the inner loop of encoding.
/// Thread safety: find() from many threads, once all merges are added.
class MergeTable {
 public:
  struct Merge {
    int32_t rank = -1;  // lower merges first; -1: no such merge
    int32_t id = -1;
  };
  /// Sizes the table for `merges` entries; forgets what it held.
  void reserve(size_t merges);
  /// The first of two merges of the same pair stays.
  void add(int32_t left, int32_t right, Merge merge);
  Merge find(int32_t left, int32_t right) const {
    if (slots_.empty()) return {};
    const uint64_t key = key_of(left, right);
    for (size_t i = home(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].merge;
      if (slots_[i].merge.rank < 0) return {};
    }
  }
  size_t size() const { return size_; }

 private:
  struct Slot {
    uint64_t key = 0;
    Merge merge;
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t home(uint64_t key) const { return static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> 32) & mask_; }

  std::vector<Slot> slots_;
  size_t mask_ = 0, size_ = 0;
};

/// Merges neighbours in `symbols`, lowest rank first and leftmost among equals, until no merge applies. Negative ids
/// never merge. Short words are scanned; long ones go through a heap: O(n log n).
void merge_symbols(const MergeTable& merges, std::vector<int32_t>& symbols);

/// string -> id, asked with string_views.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
};
using StringIndex = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

/// Remembers words of one text and where their ids lie in the output, so that a repeated word is a copy.
/// Thread safety: none; one per encode().
class WordCache {
 public:
  struct Ids {
    uint32_t begin = 0, count = 0;  // in the output; count 0: unknown word
  };
  /// The place of `word`'s ids; set() it if its count is 0.
  Ids& operator[](std::string_view word);

 private:
  struct Slot {
    const char* word = nullptr;
    uint32_t length = 0;
    uint32_t hash = 0;
    Ids ids;
  };
  void grow();

  std::vector<Slot> slots_ = std::vector<Slot>(256);
  size_t used_ = 0;
};

}  // namespace rw
