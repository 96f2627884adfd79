// The cloze set: stretches of words that do not overlap, dealt out to items.
#include "eval/cloze.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tensor/error.h"
#include "tensor/random.h"

namespace rw {
namespace {

constexpr const char* kOp = "cloze";

/// One book as words, and its stretches in random order. A stretch holds a context and its continuation; of one that
/// serves as a wrong choice only the continuation is used.
class Book {
 public:
  Book(const std::string& text, const ClozeOptions& o, Random random) : options_(o) {
    std::istringstream in(text);
    for (std::string word; in >> word;) words_.push_back(std::move(word));
    const int64_t stretch = o.context_words + o.choice_words, count = static_cast<int64_t>(words_.size()) / stretch;
    for (int64_t i = 0; i < count; ++i) order_.push_back(i * stretch);
    for (size_t i = order_.size(); i > 1; --i)
      std::swap(order_[i - 1], order_[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
  }

  /// Items that its words suffice for.
  int64_t items() const { return static_cast<int64_t>(order_.size()) / options_.choices; }

  /// The next stretches make an item. A continuation that equals an earlier one of the item is passed over.
  bool take(Random& random, ChoiceItem& item) {
    item = {};
    int64_t first = -1;
    while (next_ < order_.size() && static_cast<int64_t>(item.continuations.size()) < options_.choices) {
      const int64_t at = order_[next_++];
      if (first < 0) {
        first = at;
        item.contexts = {text(at, options_.context_words)};
      }
      std::string continuation = text(at + options_.context_words, options_.choice_words);
      if (std::find(item.continuations.begin(), item.continuations.end(), continuation) == item.continuations.end())
        item.continuations.push_back(std::move(continuation));
    }
    if (static_cast<int64_t>(item.continuations.size()) < options_.choices) return false;
    item.answer = random.below(options_.choices);
    std::swap(item.continuations[0], item.continuations[static_cast<size_t>(item.answer)]);
    return true;
  }

 private:
  std::string text(int64_t first, int64_t count) const {
    std::string out;
    for (int64_t i = first; i < first + count; ++i) out += cat(i > first ? " " : "", words_[static_cast<size_t>(i)]);
    return out;
  }

  const ClozeOptions& options_;
  std::vector<std::string> words_;
  std::vector<int64_t> order_;
  size_t next_ = 0;
};

}  // namespace

std::vector<ChoiceItem> make_cloze(const std::vector<Document>& documents, const ClozeOptions& options) {
  check(options.items >= 1, kOp, "needs at least one item, got ", options.items);
  check(options.choices >= 2 && options.choices <= 26, kOp, "choices must be in [2, 26], got ", options.choices);
  check(options.context_words >= 1 && options.choice_words >= 1, kOp, "context and choice need at least one word, got ",
        options.context_words, " and ", options.choice_words);
  std::vector<Book> books;
  int64_t enough = 0;
  for (size_t d = 0; d < documents.size(); ++d) {
    books.emplace_back(documents[d].text, options, Random(options.seed, Purpose::eval, d, 0));
    enough += books.back().items();
  }
  check(enough >= options.items, kOp, "the text suffices for ", enough, " items, ", options.items, " are asked for");
  Random random(options.seed, Purpose::eval, documents.size(), 1);
  std::vector<ChoiceItem> out;
  for (bool found = true; found && static_cast<int64_t>(out.size()) < options.items;) {
    found = false;
    for (Book& book : books) {
      ChoiceItem item;
      if (static_cast<int64_t>(out.size()) == options.items || !book.take(random, item)) continue;
      out.push_back(std::move(item));
      found = true;
    }
  }
  check(static_cast<int64_t>(out.size()) == options.items, kOp, "the text suffices for ", out.size(), " items, ",
        options.items, " are asked for");
  return out;
}

std::string choices_to_jsonl(const std::vector<ChoiceItem>& items) {
  std::string out;
  for (const ChoiceItem& item : items) {
    check(item.contexts.size() == 1, kOp, "an item with ", item.contexts.size(), " contexts cannot be written");
    const nlohmann::ordered_json json = {
        {"context", item.contexts[0]}, {"choices", item.continuations}, {"answer", item.answer}};
    out += json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  return out;
}

}  // namespace rw
