// Merging as BPE defines it: the pair of lowest rank first, the leftmost among equals.
#include "data/merge.h"

#include <algorithm>
#include <cstring>
#include <queue>
#include <random>
#include <span>
#include <tuple>

namespace rw {

uint64_t process_secret() {
  static const uint64_t secret = [] {
    std::random_device device;
    return uint64_t{device()} << 32 | device();
  }();
  return secret;
}

size_t hash_bytes(std::string_view bytes) {
  uint64_t hash = process_secret() ^ bytes.size();
  const auto mix = [&](uint64_t word) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
  };
  for (; bytes.size() >= 8; bytes.remove_prefix(8)) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), 8);
    mix(word);
  }
  uint64_t word = 0;
  std::memcpy(&word, bytes.data(), bytes.size());
  mix(word);
  return static_cast<size_t>(hash * 0xBF58476D1CE4E5B9u >> 16);
}

MergeTable::MergeTable() : secret_(process_secret()) {}

void MergeTable::reserve(size_t merges) {
  size_t slots = 16;
  while (slots < 2 * merges) slots *= 2;
  slots_.assign(slots, {});
  mask_ = slots - 1;
  size_ = 0;
}

void MergeTable::add(int32_t left, int32_t right, Merge merge) {
  if (2 * (size_ + 1) > slots_.size()) {  // more than announced: start over, larger
    const std::vector<Slot> old = std::move(slots_);
    reserve(2 * (size_ + 1));
    for (const Slot& slot : old) {
      if (slot.merge.rank >= 0) {
        add(static_cast<int32_t>(slot.key >> 32), static_cast<int32_t>(slot.key & 0xFFFFFFFFu), slot.merge);
      }
    }
  }
  const uint64_t key = key_of(left, right);
  size_t i = home(key);
  for (; slots_[i].merge.rank >= 0; i = (i + 1) & mask_) {
    if (slots_[i].key == key) return;
  }
  slots_[i] = {key, merge};
  ++size_;
}

namespace {

using Merge = MergeTable::Merge;

/// n is small: look for the best pair again after every merge, but look up only the two pairs that changed.
void merge_short(const MergeTable& merges, std::vector<int32_t>& symbols) {
  constexpr size_t kMost = 64;
  Merge pairs[kMost];
  size_t n = symbols.size();
  const auto find = [&](size_t i) {
    return symbols[i] < 0 || symbols[i + 1] < 0 ? Merge{} : merges.find(symbols[i], symbols[i + 1]);
  };
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = find(i);
  while (n > 1) {
    size_t best = n;
    for (size_t i = 0; i + 1 < n; ++i) {
      if (pairs[i].rank >= 0 && (best == n || pairs[i].rank < pairs[best].rank)) best = i;
    }
    if (best == n) break;
    symbols[best] = pairs[best].id;
    for (size_t i = best + 1; i + 1 < n; ++i) {
      symbols[i] = symbols[i + 1];
      pairs[i - 1] = pairs[i];
    }
    --n;
    if (best > 0) pairs[best - 1] = find(best - 1);
    if (best + 1 < n) pairs[best] = find(best);
  }
  symbols.resize(n);
}

/// A linked list of symbols and a heap of candidate pairs; a candidate whose symbols have changed since is stale.
/// `starts`, if given, gets for each symbol that is left where it began.
void merge_long(const MergeTable& merges, std::vector<int32_t>& symbols, std::vector<int32_t>* starts = nullptr) {
  struct Candidate {
    int32_t rank, left, left_id, right_id, id;
    bool operator<(const Candidate& o) const { return std::tie(rank, left) > std::tie(o.rank, o.left); }
  };
  const int32_t n = static_cast<int32_t>(symbols.size());
  std::vector<int32_t> previous(symbols.size()), next(symbols.size());
  std::priority_queue<Candidate> heap;
  const auto consider = [&](int32_t left) {
    const int32_t right = left < 0 ? n : next[left];
    if (right >= n || symbols[left] < 0 || symbols[right] < 0) return;
    const Merge m = merges.find(symbols[left], symbols[right]);
    if (m.rank >= 0) heap.push({m.rank, left, symbols[left], symbols[right], m.id});
  };
  for (int32_t i = 0; i < n; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1;
  }
  for (int32_t i = 0; i + 1 < n; ++i) consider(i);
  std::vector<bool> gone(symbols.size());
  while (!heap.empty()) {
    const Candidate c = heap.top();
    heap.pop();
    if (gone[c.left] || symbols[c.left] != c.left_id) continue;
    const int32_t right = next[c.left];
    if (right >= n || symbols[right] != c.right_id) continue;
    symbols[c.left] = c.id;
    gone[right] = true;
    next[c.left] = next[right];
    if (next[right] < n) previous[next[right]] = c.left;
    consider(previous[c.left]);
    consider(c.left);
  }
  size_t kept = 0;
  for (int32_t i = 0; i < n; i = next[i]) {
    if (starts != nullptr) starts->push_back(i);
    symbols[kept++] = symbols[i];
  }
  symbols.resize(kept);
}

/// One block of a long word: its symbols as they were, and merged.
struct Block {
  std::vector<int32_t> symbols, merged, starts;
  std::vector<size_t> ends;  // byte after each symbol; 0 inside a character that has several

  /// The symbols of bytes from `at` on, at least `most` of them unless the word ends.
  size_t read(size_t at, size_t size, size_t most, const NextSymbols& next) {
    symbols.clear(), ends.clear(), starts.clear();
    while (at < size && symbols.size() < most) {
      at = next(at, symbols);
      ends.resize(symbols.size());
      if (!ends.empty()) ends.back() = at;
    }
    return at;
  }
  void merge(const MergeTable& merges) {
    merged = symbols;
    merge_long(merges, merged, &starts);
  }
  /// The symbols that became the i-th id.
  std::span<const int32_t> parts(size_t i) const {
    const size_t begin = static_cast<size_t>(starts[i]);
    const size_t end = i + 1 < starts.size() ? static_cast<size_t>(starts[i + 1]) : symbols.size();
    return std::span(symbols).subspan(begin, end - begin);
  }
};

/// True if the last kept id of `left` and the first of `right` do not merge with each other's parts.
bool meet(const MergeTable& merges, const Block& left, size_t last, const Block& right) {
  std::vector<int32_t> both(left.parts(last).begin(), left.parts(last).end());
  both.insert(both.end(), right.parts(0).begin(), right.parts(0).end());
  merge_symbols(merges, both);
  return both.size() == 2 && both[0] == left.merged[last] && both[1] == right.merged[0];
}

}  // namespace

void merge_symbols(const MergeTable& merges, std::vector<int32_t>& symbols) {
  if (symbols.size() < 2) return;
  if (symbols.size() <= 64) {
    merge_short(merges, symbols);
  } else {
    merge_long(merges, symbols);
  }
}

void merge_word(const MergeTable& merges, bool ordered, size_t size, const NextSymbols& next,
                std::vector<int32_t>& out) {
  constexpr size_t kBlock = 1 << 14;  // symbols
  constexpr size_t kTries = 8;        // places at the end of a block
  Block block, after;
  size_t most = ordered ? kBlock : SIZE_MAX;
  size_t begin = 0, end = block.read(0, size, most, next);
  block.merge(merges);
  while (end < size) {
    size_t kept = 0;  // ids of the block that stay as they are
    for (size_t back = 1; back <= kTries && back + 1 < block.merged.size() && kept == 0; ++back) {
      const size_t first = block.merged.size() - back;  // where the next block would begin
      const size_t cut = block.ends[static_cast<size_t>(block.starts[first]) - 1];
      if (cut == 0) continue;
      end = after.read(cut, size, kBlock, next);
      after.merge(merges);
      if (!after.merged.empty() && meet(merges, block, first - 1, after)) kept = first, begin = cut;
    }
    if (kept > 0) {
      out.insert(out.end(), block.merged.begin(), block.merged.begin() + static_cast<std::ptrdiff_t>(kept));
      std::swap(block, after);
      most = kBlock;
    } else {
      most = most > SIZE_MAX / 4 ? SIZE_MAX : 4 * most;
      end = block.read(begin, size, most, next);
      block.merge(merges);
    }
  }
  out.insert(out.end(), block.merged.begin(), block.merged.end());
}

WordCache::Ids& WordCache::operator[](std::string_view word) {
  if (2 * used_ >= slots_.size() && used_ < kMostWords) grow();
  const uint32_t hash = static_cast<uint32_t>(hash_bytes(word));
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    Slot& slot = slots_[i];
    if (slot.word == nullptr) {
      forgotten_ = {};
      if (used_ >= kMostWords) return forgotten_;
      slot = {word.data(), static_cast<uint32_t>(word.size()), hash, {}};
      ++used_;
      return slot.ids;
    }
    if (slot.hash == hash && slot.length == word.size() && std::memcmp(slot.word, word.data(), word.size()) == 0) {
      return slot.ids;
    }
  }
}

void WordCache::grow() {
  std::vector<Slot> larger(2 * slots_.size());
  const size_t mask = larger.size() - 1;
  for (const Slot& slot : slots_) {
    if (slot.word == nullptr) continue;
    size_t i = slot.hash & mask;
    while (larger[i].word != nullptr) i = (i + 1) & mask;
    larger[i] = slot;
  }
  slots_ = std::move(larger);
}

}  // namespace rw
