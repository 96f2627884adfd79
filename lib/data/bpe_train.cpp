// Byte-pair encoding learned from text: words are counted once, pairs are kept with their counts while words merge.
#include "data/bpe_train.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <unordered_map>

#include "tensor/error.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

struct Word {
  std::vector<int32_t> symbols;
  int64_t count = 0;
};

using WordCounts = std::unordered_map<std::string_view, int64_t>;

/// How often each word occurs, counted in parallel over parts of the documents.
WordCounts count_words(std::span<const Document> documents, const PreTokenizer& pre_tokenizer) {
  constexpr size_t kPartBytes = 1 << 20;
  std::vector<std::string_view> parts;
  for (const Document& document : documents) {
    std::string_view rest = document.text;
    while (!rest.empty()) {
      // A newline between letters ends a word; a text without any stays in one part.
      size_t cut = rest.size() > kPartBytes ? rest.find(' ', kPartBytes) : rest.size();
      const auto letter = [&](size_t i) { return i < rest.size() && (rest[i] | 32) >= 'a' && (rest[i] | 32) <= 'z'; };
      while (cut < rest.size() && !(letter(cut - 1) && letter(cut + 1))) cut = rest.find(' ', cut + 1);
      cut = std::min(cut, rest.size());
      parts.push_back(rest.substr(0, cut));
      rest.remove_prefix(cut);
    }
  }
  std::vector<WordCounts> counts(parts.size());
  parallel_items(static_cast<int64_t>(parts.size()),
                 [&](int64_t i) { pre_tokenizer.split(parts[i], [&](std::string_view word) { ++counts[i][word]; }); });
  WordCounts total;
  for (WordCounts& part : counts) {
    for (const auto& [word, n] : part) total[word] += n;
    part.clear();
  }
  return total;
}

/// Pairs of neighbours with their counts, kept up to date while words merge.
class PairCounter {
 public:
  explicit PairCounter(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t w = 0; w < words_.size(); ++w) {
      const std::vector<int32_t>& s = words_[w].symbols;
      for (size_t i = 0; i + 1 < s.size(); ++i) change(key_of(s[i], s[i + 1]), words_[w].count, w);
    }
    flush();
  }

  /// The most frequent pair (smallest ids among equals) and its count; count 0 if there is none.
  std::tuple<int32_t, int32_t, int64_t> best() {
    while (!heap_.empty()) {
      const Entry top = heap_.top();
      heap_.pop();
      const int64_t now = pairs_[top.key].count;
      if (now == top.count)
        return {static_cast<int32_t>(top.key >> 32), static_cast<int32_t>(top.key & 0xFFFFFFFFu), now};
      if (now > 0 && now < top.count) heap_.push({now, top.key});  // it has lost occurrences since
    }
    return {0, 0, 0};
  }

  /// Turns every `left right` into `merged`.
  void merge(int32_t left, int32_t right, int32_t merged) {
    const std::vector<uint32_t> where = std::move(pairs_[key_of(left, right)].words);
    pairs_[key_of(left, right)].words.clear();
    for (const uint32_t w : where) merge_word(w, left, right, merged);
    flush();
  }

 private:
  struct Pair {
    int64_t count = 0;
    std::vector<uint32_t> words;  // where it may occur; a word can be there twice, or no longer hold the pair
  };
  struct Entry {
    int64_t count;
    uint64_t key;
    bool operator<(const Entry& o) const { return count != o.count ? count < o.count : key > o.key; }
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  void change(uint64_t key, int64_t by, size_t word) {
    Pair& pair = pairs_[key];
    pair.count += by;
    if (by < 0) return;
    if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(static_cast<uint32_t>(word));
    grown_.push_back(key);
  }

  /// Replaces by taking all pairs of the word away and adding those of the merged word: words are short.
  void merge_word(uint32_t w, int32_t left, int32_t right, int32_t merged) {
    std::vector<int32_t>& s = words_[w].symbols;
    bool holds = false;
    for (size_t i = 0; i + 1 < s.size() && !holds; ++i) holds = s[i] == left && s[i + 1] == right;
    if (!holds) return;
    const std::vector<int32_t> before = s;
    size_t kept = 0;
    for (size_t i = 0; i < s.size(); ++i) {
      const bool here = i + 1 < s.size() && s[i] == left && s[i + 1] == right;
      s[kept++] = here ? merged : s[i];
      if (here) ++i;
    }
    s.resize(kept);
    for (size_t i = 0; i + 1 < before.size(); ++i) change(key_of(before[i], before[i + 1]), -words_[w].count, w);
    for (size_t i = 0; i + 1 < s.size(); ++i) change(key_of(s[i], s[i + 1]), words_[w].count, w);
  }

  /// Offers the pairs that may have gained occurrences.
  void flush() {
    std::sort(grown_.begin(), grown_.end());
    grown_.erase(std::unique(grown_.begin(), grown_.end()), grown_.end());
    for (const uint64_t key : grown_) {
      if (pairs_[key].count > 0) heap_.push({pairs_[key].count, key});
    }
    grown_.clear();
  }

  std::vector<Word> words_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<Entry> heap_;
  std::vector<uint64_t> grown_;
};

}  // namespace

std::unique_ptr<ByteBpe> train_bpe(std::span<const Document> documents, int32_t vocab_size,
                                   const BpeTrainOptions& options, const Progress& progress) {
  constexpr int32_t kFirst = 258;  // <s>, </s> and the bytes
  check(vocab_size >= kFirst, "tokenizer", "a vocabulary of ", vocab_size, " cannot hold <s>, </s> and 256 bytes");
  ByteBpeParts parts;
  parts.added = {{"<s>", 0, true}, {"</s>", 1, true}};
  parts.tokens = {"", ""};
  for (const uint8_t byte : byte_alphabet()) parts.tokens.emplace_back(1, static_cast<char>(byte));
  if (options.individual_digits) parts.pre_tokenizer.rules.push_back(SplitRule::individual_digits);
  parts.pre_tokenizer.rules.push_back(SplitRule::gpt2);

  std::array<int32_t, 256> byte_ids{};
  StringIndex ids;
  for (int32_t id = 2; id < kFirst; ++id) {
    byte_ids[static_cast<unsigned char>(parts.tokens[id][0])] = id;
    ids[parts.tokens[id]] = id;
  }
  std::vector<Word> words;
  for (const auto& [text, count] : count_words(documents, parts.pre_tokenizer)) {
    Word word{{}, count};
    for (const char c : text) word.symbols.push_back(byte_ids[static_cast<unsigned char>(c)]);
    words.push_back(std::move(word));
  }
  check(!words.empty(), "tokenizer", "no text to train on");

  PairCounter pairs(std::move(words));
  while (static_cast<int32_t>(parts.tokens.size()) < vocab_size) {
    const auto [left, right, count] = pairs.best();
    if (count < std::max<int64_t>(options.min_frequency, 1)) break;
    std::string text = parts.tokens[left] + parts.tokens[right];
    // Two pairs may spell the same token (a+bc, ab+c): it is one token with two merges.
    const auto [entry, fresh] = ids.emplace(text, static_cast<int32_t>(parts.tokens.size()));
    if (fresh) parts.tokens.push_back(std::move(text));
    parts.merges.emplace_back(left, right);
    pairs.merge(left, right, entry->second);
    if (progress) progress(static_cast<int64_t>(parts.tokens.size()), vocab_size);
  }
  return std::make_unique<ByteBpe>(std::move(parts));
}

}  // namespace rw
