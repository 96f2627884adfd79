#include <doctest/doctest.h>

#include <algorithm>

#include "data/byte_bpe.h"
#include "data/retrieval_mix.h"
#include "rope/positions.h"
#include "support.h"

using namespace rw;

namespace {

constexpr int64_t kWindow = 96;

struct Fixture {
  Fixture() {
    std::string text;
    for (int i = 0; i < 400; ++i) text += cat("sentence ", i, " of the text, with some words. ");
    corpus = tokenize_corpus({{"a", text}, {"b", text.substr(0, 4000)}}, *tokenizer);
  }
  Batch batch(uint64_t step, int64_t samples, bool with_bos, double share, std::vector<RetrievalRow>* rows = nullptr,
              uint64_t first = 0) const {
    const SampleChooser chooser(corpus, {.window = kWindow, .seed = 5});
    const std::vector<Region> where = chooser.choose(step, first, samples);
    const std::optional<int32_t> bos = with_bos ? tokenizer->bos_id() : std::nullopt;
    Batch out = make_batch(corpus, where, contiguous_spans(samples, kWindow), {.bos = bos});
    const RetrievalMix mix(*tokenizer, {.share = share, .window = kWindow, .seed = 5});
    const std::vector<RetrievalRow> written = mix.apply(corpus, where, bos, step, first, out);
    if (rows) *rows = written;
    return out;
  }
  std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
  TokenCorpus corpus;
};

std::vector<int32_t> row(const Tensor& t, int64_t b) {
  const int32_t* p = t.data<int32_t>() + b * t.size(1);
  return {p, p + t.size(1)};
}

}  // namespace

TEST_CASE("A retrieval sequence states its key once, asks for it later, and goes on with text") {
  const Fixture f;
  for (const bool bos : {true, false}) {
    std::vector<RetrievalRow> rows;
    const Batch batch = f.batch(3, 20, bos, 1.0, &rows);
    REQUIRE(rows.size() == 20);
    CHECK(batch.scored == 20 * kWindow);
    for (const RetrievalRow& r : rows) {
      const std::vector<int32_t> ids = row(batch.ids, r.row), targets = row(batch.targets, r.row);
      CHECK(std::equal(ids.begin() + 1, ids.end(), targets.begin()));
      if (bos) CHECK(ids[0] == *f.tokenizer->bos_id());
      const std::string text = f.tokenizer->decode(targets);
      const std::string needle = "The key is " + r.key + ".", question = "The key is " + r.key;
      const size_t first = text.find(needle), second = text.rfind(question);
      if (r.key_begin >= 0) CHECK(first == static_cast<size_t>(r.key_begin) + 1);  // after its space
      CHECK(second != first);
      CHECK(r.answer_end - r.answer_begin == 5);
      const std::vector<int32_t> answer(targets.begin() + r.answer_begin, targets.begin() + r.answer_end);
      CHECK(f.tokenizer->decode(answer) == r.key);
    }
  }
}

TEST_CASE("Needles stand after a sentence's end where one is near, and everywhere in the window") {
  const Fixture f;
  int64_t after_a_dot = 0, nearest = kWindow, farthest = 0;
  std::vector<RetrievalRow> rows;
  const Batch batch = f.batch(1, 300, true, 1.0, &rows);
  for (const RetrievalRow& r : rows) {
    const std::vector<int32_t> targets = row(batch.targets, r.row);
    if (r.key_begin > 0)
      after_a_dot += f.tokenizer->decode(std::span(targets).subspan(static_cast<size_t>(r.key_begin) - 1, 1)) == ".";
    nearest = std::min(nearest, r.answer_begin - r.key_begin);
    farthest = std::max(farthest, r.answer_begin - r.key_begin);
  }
  CHECK(after_a_dot > 100);
  CHECK(nearest < 35);
  CHECK(farthest > 60);
}

TEST_CASE("The text of retrieval sequences comes from everywhere in a document, not from its beginning") {
  const Fixture f;
  std::vector<RetrievalRow> rows;
  const Batch batch = f.batch(1, 200, true, 1.0, &rows);
  const std::string document = f.tokenizer->decode(f.corpus.tokens(0));
  int64_t in_first_half = 0, in_last_tenth = 0, found = 0;
  for (const RetrievalRow& r : rows) {
    const std::string text = f.tokenizer->decode(row(batch.targets, r.row));
    if (r.key_begin < 40) continue;
    const size_t at = document.find(text.substr(0, 30));
    if (at == std::string::npos) continue;
    ++found;
    in_first_half += at < document.size() / 2;
    in_last_tenth += at > document.size() / 10 * 9;
  }
  CHECK(found > 20);
  CHECK(in_first_half < found * 3 / 4);
  CHECK(in_last_tenth > 0);
}

TEST_CASE("The share of retrieval sequences is as asked, the other rows stay as they were") {
  const Fixture f;
  std::vector<RetrievalRow> rows;
  const Batch plain = f.batch(7, 1000, true, 0.0), mixed = f.batch(7, 1000, true, 0.1, &rows);
  CHECK(rows.size() > 70);
  CHECK(rows.size() < 130);
  std::vector<bool> written(1000, false);
  for (const RetrievalRow& r : rows) written[static_cast<size_t>(r.row)] = true;
  bool same = true;
  for (int64_t b = 0; b < 1000; ++b) {
    if (!written[static_cast<size_t>(b)]) same = same && row(plain.ids, b) == row(mixed.ids, b);
  }
  CHECK(same);
}

TEST_CASE("A sample's retrieval sequence depends on seed, step and sample alone") {
  const Fixture f;
  const Batch whole = f.batch(2, 8, true, 0.5), half = f.batch(2, 4, true, 0.5, nullptr, 4);
  for (int64_t b = 0; b < 4; ++b) CHECK(row(whole.ids, b + 4) == row(half.ids, b));
  CHECK(row(f.batch(3, 8, true, 1.0).ids, 0) != row(f.batch(2, 8, true, 1.0).ids, 0));
}

TEST_CASE("With an answer weight, an answer's tokens count so many times and nothing else changes") {
  const Fixture f;
  const SampleChooser chooser(f.corpus, {.window = kWindow, .seed = 5});
  const std::vector<Region> where = chooser.choose(4, 0, 40);
  Batch batch = make_batch(f.corpus, where, contiguous_spans(40, kWindow), {.bos = 0});
  const RetrievalMix mix(*f.tokenizer, {.share = 0.3, .answer_weight = 5, .window = kWindow, .seed = 5});
  const std::vector<RetrievalRow> rows = mix.apply(f.corpus, where, 0, 4, 0, batch);
  REQUIRE(rows.size() > 2);
  CHECK(batch.weight == static_cast<double>(40 * kWindow + static_cast<int64_t>(rows.size()) * 5 * 4));
  double sum = 0;
  for (double w : batch.weights.to_vector()) sum += w;
  CHECK(sum == batch.weight);
  const RetrievalRow& r = rows[1];
  CHECK(batch.weights.to_vector()[static_cast<size_t>(r.row * kWindow + r.answer_begin)] == 5);
  CHECK(batch.weights.to_vector()[static_cast<size_t>(r.row * kWindow + r.answer_begin - 1)] == 1);
}

TEST_CASE("A window too small for needle and question, or a share above 1, is refused") {
  const Fixture f;
  CHECK_THROWS_WITH_AS(RetrievalMix(*f.tokenizer, {.share = 0.1, .window = 16}), doctest::Contains("window is 16"),
                       Error);
  CHECK_THROWS_WITH_AS(RetrievalMix(*f.tokenizer, {.share = 1.5, .window = 96}), doctest::Contains("[0, 1]"), Error);
}

namespace {

/// The byte tokenizer with a merge for each of these pairs of characters.
std::unique_ptr<Tokenizer> with_merges(const std::vector<std::string>& made) {
  const std::unique_ptr<Tokenizer> bytes = make_byte_tokenizer();
  ByteBpeParts parts = dynamic_cast<const ByteBpe&>(*bytes).parts();
  parts.json.clear();
  for (const std::string& two : made) {
    parts.merges.emplace_back(*bytes->token_id(two.substr(0, 1)), *bytes->token_id(two.substr(1)));
    parts.tokens.push_back(two);
  }
  return std::make_unique<ByteBpe>(std::move(parts));
}

TokenCorpus numbers(const Tokenizer& tokenizer) {
  std::string text;
  for (int i = 0; i < 400; ++i) text += cat("line ", i, " of the text. ");
  return tokenize_corpus({{"a", text}}, tokenizer);
}

/// "The key is {key}." and "The key is {key}" around each other, with as many digits.
RetrievalTemplate short_parts(int64_t digits) {
  RetrievalTemplate parts = short_retrieval_template();
  parts.digits = digits;
  return parts;
}

int64_t tokens_with(const Tokenizer& tokenizer, const std::string& key) {
  return static_cast<int64_t>(tokenizer.encode(" The key is " + key + ".").size() +
                              tokenizer.encode(" The key is " + key).size());
}

}  // namespace

TEST_CASE("A window that only the shortest keys fit is refused before training") {
  const auto tokenizer = with_merges({"77"});  // 7777 takes two tokens, other keys take four
  const int64_t shortest = tokens_with(*tokenizer, "7777"), longest = tokens_with(*tokenizer, "1234");
  REQUIRE(shortest + 4 == longest);
  for (int64_t window = shortest + 1; window <= longest; ++window) {
    CHECK_THROWS_WITH_AS(RetrievalMix(*tokenizer, {.share = 1, .parts = short_parts(4), .window = window}),
                         doctest::Contains(cat("up to ", longest + 1, " tokens").c_str()), Error);
  }
  CHECK_NOTHROW(RetrievalMix(*tokenizer, {.share = 1, .parts = short_parts(4), .window = longest + 1}));
}

TEST_CASE("A key longer than all that were measured is drawn again, never written beyond the row") {
  std::vector<std::string> pairs;  // digits that fall are one token: keys take 9 to 18 tokens, few of them many
  for (char a = '0'; a <= '9'; ++a) {
    for (char b = '0'; b <= '9'; ++b) {
      if (a >= b) pairs.push_back({a, b});
    }
  }
  const auto tokenizer = with_merges(pairs);
  const TokenCorpus corpus = numbers(*tokenizer);
  constexpr uint64_t kSeed = 3;
  // Windows from the smallest that is accepted; drawn keys are all written whole.
  int64_t window = 8;
  for (bool accepted = false; !accepted; ++window) {
    try {
      RetrievalMix(*tokenizer, {.share = 1, .parts = short_parts(18), .window = window, .seed = kSeed});
      accepted = true;
    } catch (const Error&) {
    }
  }
  --window;
  const RetrievalMix mix(*tokenizer, {.share = 1, .parts = short_parts(18), .window = window, .seed = kSeed});
  const SampleChooser chooser(corpus, {.window = window, .seed = kSeed});
  int64_t redrawn = 0;
  for (uint64_t step = 0; step < 40; ++step) {
    const std::vector<Region> where = chooser.choose(step, 0, 64);
    Batch batch = make_batch(corpus, where, contiguous_spans(64, window), {.bos = 0});
    for (const RetrievalRow& r : mix.apply(corpus, where, 0, step, 0, batch)) {
      Random random(kSeed, Purpose::retrieval, step, static_cast<uint64_t>(r.row));
      random.uniform();
      std::string first;
      for (int i = 0; i < 18; ++i) first += static_cast<char>('0' + random.between(i == 0 ? 1 : 0, 9));
      redrawn += r.key != first;
      CHECK(tokens_with(*tokenizer, r.key) < window);
      if (r.key != first) CHECK(tokens_with(*tokenizer, first) >= window);
      CHECK(tokenizer->decode(row(batch.targets, r.row)).find("The key is " + r.key) != std::string::npos);
    }
  }
  CHECK(redrawn > 0);
}

TEST_CASE("A corpus, rows or regions that a mix was not made for are refused") {
  const Fixture f;
  const SampleChooser chooser(f.corpus, {.window = kWindow, .seed = 5});
  std::vector<Region> where = chooser.choose(0, 0, 4);
  Batch batch = make_batch(f.corpus, where, contiguous_spans(4, kWindow), {.bos = 0});
  const RetrievalMix mix(*f.tokenizer, {.share = 1, .window = kWindow, .seed = 5});
  CHECK_THROWS_WITH_AS(mix.apply(f.corpus, std::span(where).first(3), 0, 0, 0, batch),
                       doctest::Contains("3 regions for a batch of 4"), Error);
  where[2].available = 5;
  CHECK_THROWS_WITH_AS(mix.apply(f.corpus, where, 0, 0, 0, batch), doctest::Contains("region of row 2 has 5"), Error);
  const TokenCorpus wide({"a"}, {std::vector<int32_t>(200, 300)}, 1000);
  CHECK_THROWS_WITH_AS(mix.apply(wide, chooser.choose(0, 0, 4), 0, 0, 0, batch),
                       doctest::Contains("vocabulary of 1000"), Error);
  CHECK_THROWS_WITH_AS(RetrievalMix(*f.tokenizer, {.share = 1, .parts = short_parts(0), .window = kWindow}),
                       doctest::Contains("1 to 18 digits"), Error);
}
