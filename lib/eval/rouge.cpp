// ROUGE's counts: words, pairs of words, and the longest common subsequence.
#include "eval/rouge.h"

#include <algorithm>
#include <map>

namespace rw {
namespace {

double f_measure(double common, size_t predicted, size_t wanted) {
  if (predicted == 0 || wanted == 0 || common == 0) return 0;
  const double precision = common / static_cast<double>(predicted), recall = common / static_cast<double>(wanted);
  return 2 * precision * recall / (precision + recall);
}

using Words = std::vector<std::string>;

double rouge_n(const Words& p, const Words& r, size_t n) {
  const auto count = [&](const Words& words) {
    std::map<Words, int64_t> out;
    for (size_t i = 0; i + n <= words.size(); ++i)
      ++out[Words(words.begin() + static_cast<std::ptrdiff_t>(i), words.begin() + static_cast<std::ptrdiff_t>(i + n))];
    return out;
  };
  const auto has = count(p), wants = count(r);
  double common = 0;
  for (const auto& [gram, times] : wants) {
    const auto it = has.find(gram);
    if (it != has.end()) common += static_cast<double>(std::min(times, it->second));
  }
  const auto grams = [n](const Words& words) { return words.size() < n ? 0 : words.size() - n + 1; };
  return f_measure(common, grams(p), grams(r));
}

double rouge_lcs(const Words& p, const Words& r) {
  std::vector<int64_t> row(r.size() + 1);  // of the prediction so far and each prefix of the reference
  for (const std::string& word : p) {
    int64_t diagonal = 0;
    for (size_t j = 1; j <= r.size(); ++j) {
      const int64_t above = row[j];
      row[j] = word == r[j - 1] ? diagonal + 1 : std::max(row[j], row[j - 1]);
      diagonal = above;
    }
  }
  return f_measure(static_cast<double>(row.back()), p.size(), r.size());
}

}  // namespace

Words rouge_words(const std::string& text, bool stem) {
  Words out;
  std::string word;
  const auto end = [&] {
    if (word.empty()) return;
    out.push_back(stem && word.size() > 3 ? porter_stem(word) : word);
    word.clear();
  };
  for (const char c : text) {
    const char low = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if ((low >= 'a' && low <= 'z') || (low >= '0' && low <= '9')) word += low;
    else end();
  }
  end();
  return out;
}

Rouge rouge_scores(const std::string& prediction, const std::string& reference, bool stem) {
  const Words p = rouge_words(prediction, stem), r = rouge_words(reference, stem);
  return {rouge_n(p, r, 1), rouge_n(p, r, 2), rouge_lcs(p, r)};
}

}  // namespace rw
