// Builds retrieval prompts: the filler grows until the prompt has the wanted length, each time measured whole.
#include "eval/retrieval.h"

#include <algorithm>
#include <functional>

#include "tensor/error.h"

namespace rw {
namespace {

constexpr const char* kOp = "retrieval";

int64_t common_prefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace

int64_t largest_fit(int64_t limit, const std::function<int64_t(int64_t)>& size) {
  const int64_t empty = size(0);
  if (empty > limit) return -1;
  const int64_t eight = size(8);
  check(eight > empty, kOp, "the filler adds no tokens: a prompt has ", empty, " without it and ", eight,
        " with eight times the filler");
  const double unit = std::max(0.5, static_cast<double>(eight - empty) / 8);
  int64_t n = static_cast<int64_t>(static_cast<double>(limit - empty) / unit);
  while (n > 0 && size(n) > limit) --n;
  while (size(n + 1) <= limit) ++n;
  return n;
}

RetrievalPrompts::RetrievalPrompts(const RetrievalTemplate& parts, const Tokenizer& tokenizer,
                                   std::optional<int32_t> bos, const TokenCorpus* filler)
    : parts_(parts), tokenizer_(tokenizer), bos_(bos), filler_(filler) {
  check(!parts.filler.empty() && !parts.question.empty(), kOp, "filler and question must not be empty");
  check(parts.needle.find("{key}") != std::string::npos, kOp, "the needle holds no {key}");
}

std::string RetrievalPrompts::draw_key(Random& random) const {
  std::string key;  // the first digit is not 0: the key reads as a number of so many digits
  for (int64_t i = 0; i < parts_.digits; ++i) key += static_cast<char>('0' + random.between(i == 0 ? 1 : 0, 9));
  return key;
}

RetrievalPrompt RetrievalPrompts::with_sentences(const std::string& key, int64_t before, int64_t after) const {
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : parts_.join) + part; };
  const auto add_filler = [&](int64_t count) {
    std::string part;
    for (int64_t i = 0; i < count; ++i) part += (i ? " " : "") + parts_.filler;
    if (count > 0) add(part);
  };
  if (!parts_.task.empty()) add(parts_.task);
  add_filler(before);
  add("");
  const size_t needle_at = text.size();
  text += with_key(parts_.needle, key);
  add_filler(after);
  add(parts_.question);

  RetrievalPrompt out;
  out.key = key;
  out.ids = tokenizer_.encode(text + " " + key);
  // Where a token begins that holds the key's first digit: up to there, the text without the key has the same tokens.
  out.key_begin = common_prefix(
      tokenizer_.encode(std::string_view(text).substr(0, needle_at + parts_.needle.find("{key}"))), out.ids);
  out.answer_begin = common_prefix(tokenizer_.encode(text), out.ids);
  out.answer_key = std::max(out.answer_begin, common_prefix(tokenizer_.encode(text + " "), out.ids));
  if (bos_) {
    out.ids.insert(out.ids.begin(), *bos_);
    ++out.key_begin;
    ++out.answer_key;
    ++out.answer_begin;
  }
  return out;
}

RetrievalPrompt RetrievalPrompts::with_text(const std::string& key, int64_t before, int64_t after,
                                            uint64_t place) const {
  std::vector<int32_t> filler(static_cast<size_t>(before + after));
  // The place-th stretch of that length, counted over all documents.
  int64_t starts = 0;
  const auto starts_in = [&](int64_t d) {
    return std::max<int64_t>(0, filler_->length(d) - static_cast<int64_t>(filler.size()) + 1);
  };
  for (int64_t d = 0; d < filler_->documents(); ++d) starts += starts_in(d);
  check(starts > 0, kOp, "no document of the filler has ", filler.size(), " tokens");
  int64_t at = static_cast<int64_t>(place % static_cast<uint64_t>(starts));
  for (int64_t d = 0; d < filler_->documents(); ++d) {
    if (at < starts_in(d)) {
      filler_->read(d, at, filler);
      break;
    }
    at -= starts_in(d);
  }

  RetrievalPrompt out;
  out.key = key;
  if (bos_) out.ids.push_back(*bos_);
  const auto append = [&](const std::vector<int32_t>& ids) { out.ids.insert(out.ids.end(), ids.begin(), ids.end()); };
  const bool lines = parts_.join != " ";  // running text brings its own spaces
  if (!parts_.task.empty()) append(tokenizer_.encode(parts_.task + (lines ? parts_.join : "")));
  out.ids.insert(out.ids.end(), filler.begin(), filler.begin() + before);
  const std::vector<int32_t> needle = tokenizer_.encode(parts_.join + with_key(parts_.needle, key));
  const std::vector<int32_t> lead =
      tokenizer_.encode(parts_.join + parts_.needle.substr(0, parts_.needle.find("{key}")));
  out.key_begin = static_cast<int64_t>(out.ids.size()) + common_prefix(lead, needle);
  append(needle);
  if (lines && after > 0) append(tokenizer_.encode(parts_.join));
  out.ids.insert(out.ids.end(), filler.begin() + before, filler.end());
  const std::vector<int32_t> question = tokenizer_.encode(parts_.join + parts_.question);
  const std::vector<int32_t> answered = tokenizer_.encode(parts_.join + parts_.question + " " + key);
  out.answer_begin = static_cast<int64_t>(out.ids.size()) + common_prefix(question, answered);
  const std::vector<int32_t> spaced = tokenizer_.encode(parts_.join + parts_.question + " ");
  out.answer_key = std::max(out.answer_begin, static_cast<int64_t>(out.ids.size()) + common_prefix(spaced, answered));
  append(answered);
  return out;
}

RetrievalPrompt RetrievalPrompts::build(const std::string& key, int64_t before, int64_t after, uint64_t place) const {
  RetrievalPrompt out = filler_ ? with_text(key, before, after, place) : with_sentences(key, before, after);
  check(out.answer_begin < static_cast<int64_t>(out.ids.size()), kOp, "the key ", key,
        " adds no tokens to the question: this tokenizer cannot tell keys apart");
  return out;
}

/// With the filler before the needle shortened until the whole fits: sizes vary by a token with where pieces meet.
RetrievalPrompt RetrievalPrompts::trimmed(const std::string& key, int64_t before, int64_t after, uint64_t place,
                                          int64_t length) const {
  for (;;) {
    RetrievalPrompt out = build(key, before, after, place);
    if (static_cast<int64_t>(out.ids.size()) <= length || before + after == 0) return out;
    (before > 0 ? before : after) -= 1;
  }
}

int64_t RetrievalPrompts::least_length() const {
  return static_cast<int64_t>(build(std::string(static_cast<size_t>(parts_.digits), '7'), 0, 0, 0).ids.size());
}

RetrievalPrompt RetrievalPrompts::at_distance(int64_t length, int64_t distance, Random& random) const {
  const std::string key = draw_key(random);
  const uint64_t place = random.next64();
  const int64_t all =
      largest_fit(length, [&](int64_t n) { return static_cast<int64_t>(build(key, 0, n, place).ids.size()); });
  check(all >= 0, kOp, "a prompt of ", length, " tokens is too short: without filler it takes ",
        build(key, 0, 0, place).ids.size());
  const int64_t after = largest_fit(distance, [&](int64_t n) { return build(key, 0, n, place).distance(); });
  check(after >= 0, kOp, "a distance of ", distance, " tokens is too short: without filler it is ",
        build(key, 0, 0, place).distance());
  return trimmed(key, std::max<int64_t>(0, all - after), std::min(after, all), place, length);
}

RetrievalPrompt RetrievalPrompts::at_depth(int64_t length, double depth, Random& random) const {
  check(depth >= 0 && depth <= 1, kOp, "depth must be in [0, 1], got ", depth);
  const std::string key = draw_key(random);
  const uint64_t place = random.next64();
  const int64_t all =
      largest_fit(length, [&](int64_t n) { return static_cast<int64_t>(build(key, 0, n, place).ids.size()); });
  check(all >= 0, kOp, "a prompt of ", length, " tokens is too short: without filler it takes ",
        build(key, 0, 0, place).ids.size());
  const int64_t before = static_cast<int64_t>(depth * static_cast<double>(all) + 0.5);
  return trimmed(key, before, all - before, place, length);
}

}  // namespace rw
