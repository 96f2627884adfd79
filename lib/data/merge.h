// What both kinds of BPE share: the table of merges, the merging itself, and two indices of strings.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rw {

/// The most tokens of a vocabulary: four times the largest in use. What a tokenizer keeps of each takes some hundred
/// bytes, whatever its text takes in a file.
inline constexpr int64_t kMostTokens = 1 << 20;

/// (left id, right id) -> (rank, merged id), open addressing: the inner loop of encoding.
/// Thread safety: find() from many threads, once all merges are added.
class MergeTable {
 public:
  struct Merge {
    int32_t rank = -1;  // lower merges first; -1: no such merge
    int32_t id = -1;
  };
  MergeTable();
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
  size_t home(uint64_t key) const {
    const uint64_t mixed = (key ^ secret_) * 0x9E3779B97F4A7C15u;
    return static_cast<size_t>(((mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9u) >> 32) & mask_;
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0, size_ = 0;
  uint64_t secret_;  // of this process: no file can be made whose merges all fall into one place
};

/// Merges neighbours in `symbols`, lowest rank first and leftmost among equals, until no merge applies. Negative ids
/// never merge. Short words are scanned; long ones go through a heap: O(n log n).
void merge_symbols(const MergeTable& merges, std::vector<int32_t>& symbols);

/// Appends the symbols of what stands at byte `at` of a word and returns where that ends.
using NextSymbols = std::function<size_t(size_t at, std::vector<int32_t>& symbols)>;

/// Appends the ids of a word of `size` bytes, however long, as merge_symbols() gives them. A long word is merged block
/// by block, so that beside the ids only a block is kept. A block ends where its last id and the first id of the next
/// block would not merge if they stood alone. Then the ids are those of the whole word. This needs merges that have a
/// higher rank than the merges of their parts (`ordered`; training makes them so). Without it, and where no such place
/// is found, the block grows.
void merge_word(const MergeTable& merges, bool ordered, size_t size, const NextSymbols& next,
                std::vector<int32_t>& out);

/// A number that differs from process to process, for hashing what others have written.
uint64_t process_secret();

/// A hash that nobody can choose texts for: it depends on process_secret().
size_t hash_bytes(std::string_view bytes);

/// string -> id, asked with string_views.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return hash_bytes(s); }
};
using StringIndex = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

/// Remembers words of one text and where their ids lie in the output, so that a repeated word is a copy. Takes at most
/// 65,536 words, 4 MB; later ones are not remembered.
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
  static constexpr size_t kMostWords = 1 << 16;

  Ids forgotten_;
  std::vector<Slot> slots_ = std::vector<Slot>(256);
  size_t used_ = 0;
};

}  // namespace rw
