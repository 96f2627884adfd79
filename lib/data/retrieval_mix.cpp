// Writes key-retrieval sequences over rows of a batch. How many tokens a key takes depends on its digits, so every
// sequence is measured with the key that it holds.
#include "data/retrieval_mix.h"

#include <algorithm>

#include "tensor/error.h"
#include "tensor/random.h"

namespace rw {
namespace {

constexpr const char* kOp = "retrieval";
constexpr int64_t kSentenceReach = 64;  // tokens within which a sentence's end attracts the needle
constexpr int kSampledKeys = 256;       // keys that the longest sequence is judged by before training
constexpr int kKeyDraws = 64;           // keys tried for one sequence if they are longer than all of those

template <class Items>
int64_t length_of(const Items& items) {
  return static_cast<int64_t>(items.size());
}

std::string draw_key(Random& random, int64_t digits) {
  std::string key;  // the first digit is not 0: the key reads as a number of so many digits
  for (int64_t i = 0; i < digits; ++i) key += static_cast<char>('0' + random.between(i == 0 ? 1 : 0, 9));
  return key;
}

}  // namespace

RetrievalMix::RetrievalMix(const Tokenizer& tokenizer, const RetrievalMixOptions& options)
    : tokenizer_(tokenizer), options_(options) {
  check(options.share >= 0 && options.share <= 1, kOp, "the share of retrieval sequences must be in [0, 1], got ",
        options.share);
  check(options.answer_weight > 0, kOp, "the weight of answers must be positive, got ", options.answer_weight);
  check(options.parts.digits >= 1 && options.parts.digits <= 18, kOp, "a key must have 1 to 18 digits, got ",
        options.parts.digits);
  check(options.parts.needle.find("{key}") != std::string::npos, kOp, "the needle holds no {key}");
  const int64_t longest = longest_sample();
  check(longest + 1 <= options.window, kOp, "a retrieval sequence takes up to ", longest + 1, " tokens, the window is ",
        options.window);
  ends_sentence_.resize(static_cast<size_t>(tokenizer.vocab_size()));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string text = tokenizer.is_special(id) ? "" : tokenizer.piece(-1, id);
    ends_sentence_[static_cast<size_t>(id)] =
        !text.empty() && std::string(".!?").find(text.back()) != std::string::npos;
  }
}

int64_t RetrievalMix::longest_sample() const {
  int64_t longest = 0;
  const auto measure = [&](const std::string& key) { longest = std::max(longest, pieces(key).tokens()); };
  for (char digit = '1'; digit <= '9'; ++digit) measure(std::string(static_cast<size_t>(options_.parts.digits), digit));
  Random random(0, Purpose::retrieval, 0, 0);  // the same keys for every seed: a window is accepted or not
  for (int i = 0; i < kSampledKeys; ++i) measure(draw_key(random, options_.parts.digits));
  return longest;
}

RetrievalMix::Pieces RetrievalMix::pieces_within(Random& random, int64_t most, std::string& key) const {
  for (int i = 0; i < kKeyDraws; ++i) {
    key = draw_key(random, options_.parts.digits);
    Pieces p = pieces(key);
    if (p.tokens() <= most) return p;
  }
  fail(kOp, "needle and question take more than the ", most, " tokens of a sequence with each of ", kKeyDraws,
       " keys, the last of them ", key);
}

RetrievalMix::Pieces RetrievalMix::pieces(const std::string& key) const {
  const RetrievalTemplate& parts = options_.parts;
  const bool lines = parts.join != " ";  // running text brings its own spaces
  Pieces out;
  if (!parts.task.empty()) out.task = tokenizer_.encode(parts.task + (lines ? parts.join : ""));
  out.needle = tokenizer_.encode(parts.join + with_key(parts.needle, key) + (lines ? parts.join : ""));
  out.question = tokenizer_.encode(parts.join + parts.question + " " + key);
  // Tokens that the question has without an answer as well are not the answer's.
  const std::vector<int32_t> asked = tokenizer_.encode(parts.join + parts.question + " ");
  const auto common = std::mismatch(asked.begin(), asked.end(), out.question.begin(), out.question.end()).first;
  out.answer = length_of(out.question) - (common - asked.begin());
  return out;
}

bool RetrievalMix::chosen(uint64_t step, uint64_t sample) const {
  return Random(options_.seed, Purpose::retrieval, step, sample).uniform() < options_.share;
}

std::vector<RetrievalRow> RetrievalMix::apply(const TokenCorpus& corpus, std::span<const Region> where,
                                              const std::optional<int32_t>& bos, uint64_t step, uint64_t first_sample,
                                              Batch& batch) const {
  std::vector<RetrievalRow> written;
  if (options_.share == 0) return written;
  const int64_t window = batch.ids.size(1);
  check(window == options_.window, kOp, "made for a window of ", options_.window, " tokens, the batch has ", window);
  check(batch.ids.size(0) == length_of(where), kOp, where.size(), " regions for a batch of ", batch.ids.size(0),
        " rows");
  check(corpus.vocab_size() <= length_of(ends_sentence_), kOp, "the corpus has a vocabulary of ", corpus.vocab_size(),
        ", the tokenizer ", ends_sentence_.size(), " tokens");
  const bool weighted = options_.answer_weight != 1;
  if (weighted) batch.weights = Tensor::empty(batch.ids.shape()), batch.weights.fill(1);
  // y holds everything that is read or predicted: with a BOS, which is only read, one token less.
  const int64_t length = window + (bos ? 0 : 1);
  std::vector<int32_t> y(static_cast<size_t>(length)), text(static_cast<size_t>(length));
  for (size_t b = 0; b < where.size(); ++b) {
    Random random(options_.seed, Purpose::retrieval, step, first_sample + b);
    if (random.uniform() >= options_.share) continue;
    std::string key;
    const Pieces p = pieces_within(random, window - 1, key);
    const int64_t task = length_of(p.task), needle = length_of(p.needle), question = length_of(p.question);
    const int64_t fixed = p.tokens();
    const auto filler = std::span(text).first(static_cast<size_t>(length - fixed));
    const Region& region = where[b];
    check(region.available >= length_of(filler), kOp, "the region of row ", b, " has ", region.available,
          " tokens, the filler takes ", filler.size());
    const int64_t place = random.between(0, region.available - static_cast<int64_t>(filler.size()));
    corpus.read(region.document, region.begin + place, filler);

    // Counted in tokens of filler: [0, before) needle [before, asked) question [asked, all).
    const int64_t all = length_of(text) - fixed, least = std::min<int64_t>(all, 16);
    const int64_t asked = random.between(least, all);
    int64_t before = random.between(0, asked);
    for (int64_t i = std::max<int64_t>(before, 1); i <= std::min(asked, before + kSentenceReach); ++i) {
      if (!ends_sentence_[static_cast<size_t>(filler[static_cast<size_t>(i - 1)])]) continue;
      before = i;
      break;
    }
    auto out = std::copy(p.task.begin(), p.task.end(), y.begin());
    out = std::copy(filler.begin(), filler.begin() + before, out);
    out = std::copy(p.needle.begin(), p.needle.end(), out);
    out = std::copy(filler.begin() + before, filler.begin() + asked, out);
    out = std::copy(p.question.begin(), p.question.end(), out);
    std::copy(filler.begin() + asked, filler.end(), out);

    const int64_t row = static_cast<int64_t>(b);
    int32_t* ids = batch.ids.data<int32_t>() + row * window;
    int32_t* targets = batch.targets.data<int32_t>() + row * window;
    const auto unscored = std::count(targets, targets + window, kIgnoreIndex);  // now they will be
    batch.scored += unscored;
    batch.weight += static_cast<double>(unscored);
    if (bos) *ids++ = *bos;
    std::copy(y.begin(), y.begin() + window - (bos ? 1 : 0), ids);
    std::copy(y.end() - window, y.end(), targets);
    const int64_t shift = bos ? 0 : 1, answer_end = task + asked + needle + question - shift;
    written.push_back({.row = row,
                       .key = key,
                       .key_begin = task + before - shift,
                       .answer_begin = answer_end - p.answer,
                       .answer_end = answer_end});
    if (!weighted) continue;
    float* weights = batch.weights.data<float>() + row * window;
    std::fill(weights + answer_end - p.answer, weights + answer_end, static_cast<float>(options_.answer_weight));
    batch.weight += (options_.answer_weight - 1) * static_cast<double>(p.answer);
  }
  return written;
}

}  // namespace rw
