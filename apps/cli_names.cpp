// Words that no verb and no option has: what was meant.
#include <algorithm>
#include <utility>

#include "cli.h"

namespace {

/// Letters that are missing, too many, different, or swapped with their neighbour.
size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> before(b.size() + 1), row(b.size() + 1), next(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    next[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      next[j] = std::min({row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        next[j] = std::min(next[j], before[j - 2] + 1);
    }
    std::swap(before, row);
    std::swap(row, next);
  }
  return row[b.size()];
}

}  // namespace

std::string nearest_name(const std::string& word, const std::vector<std::string>& known) {
  if (word.size() > 64) return "";
  std::string best;
  size_t least = 1 + std::max<size_t>(1, word.size() / 3);
  for (const std::string& name : known) {
    const bool begins = word.size() >= 4 && name.starts_with(word);  // cut short
    const size_t d = begins ? 1 : distance(word, name);
    if (d < least) least = d, best = name;
  }
  return best;
}

std::string by_another_name(const std::string& word, const std::vector<std::string>& known) {
  static const std::pair<const char*, const char*> names[] = {
      {"--epochs", "--steps"},
      {"--max-steps", "--steps"},
      {"--batch-size", "--batch"},
      {"--learning-rate", "--lr"},
      {"--output", "--out"},
      {"--output-dir", "--out"},
      {"--max-new-tokens", "--tokens"},
      {"--max-tokens", "--tokens"},
      {"--n-predict", "--tokens"},
      {"--ctx-size", "--window"},
      {"--max-length", "--window"},
      {"--block-size", "--window"},
      {"--base", "--from"},
      {"extend", "train --from"},
      {"finetune", "train --from"},
      {"fine-tune", "train --from"},
      {"resume", "train --resume"},
      {"perplexity", "eval ppl"},
      {"ppl", "eval ppl"},
      {"passkey", "eval passkey"},
      {"quantize", "convert gguf"},
      {"merge", "convert merge"},
      {"freeze", "convert freeze"},
      {"tokenize", "tokenizer"},
      {"run", "generate or chat"},
      {"sample", "generate"},
  };
  for (const auto& [theirs, ours] : names) {
    if (word != theirs) continue;
    const bool is_option = ours[0] == '-';
    if (!is_option || std::find(known.begin(), known.end(), ours) != known.end()) return ours;
  }
  return "";
}
