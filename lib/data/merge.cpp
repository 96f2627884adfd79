#include "data/merge.h"

#include <algorithm>
#include <cstring>
#include <queue>
#include <tuple>

namespace rw {

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
void merge_long(const MergeTable& merges, std::vector<int32_t>& symbols) {
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
  for (int32_t i = 0; i < n; i = next[i]) symbols[kept++] = symbols[i];
  symbols.resize(kept);
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

WordCache::Ids& WordCache::operator[](std::string_view word) {
  if (2 * used_ >= slots_.size()) grow();
  const uint32_t hash = static_cast<uint32_t>(std::hash<std::string_view>{}(word));
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    Slot& slot = slots_[i];
    if (slot.word == nullptr) {
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
