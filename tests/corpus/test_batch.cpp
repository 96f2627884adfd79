#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "data/batch.h"
#include "support.h"

using namespace rw;
using Ids = std::vector<int32_t>;

namespace {

/// Document d has tokens 100 d, 100 d + 1, ...: an id tells where it comes from.
TokenCorpus numbered(const std::vector<int64_t>& lengths) {
  std::vector<std::string> names;
  std::vector<Ids> documents;
  for (size_t d = 0; d < lengths.size(); ++d) {
    names.push_back(cat("d", d));
    documents.emplace_back(static_cast<size_t>(lengths[d]));
    std::iota(documents.back().begin(), documents.back().end(), static_cast<int32_t>(100 * d));
  }
  return TokenCorpus(names, documents, 1000);
}

Ids row(const Tensor& t, int64_t b) {
  const int32_t* p = t.data<int32_t>() + b * t.size(1);
  return Ids(p, p + t.size(1));
}

Batch one(const TokenCorpus& corpus, Region where, std::vector<Span> spans, BatchOptions options = {}) {
  const std::vector<Region> regions = {where};
  const std::vector<std::vector<Span>> content = {std::move(spans)};
  return make_batch(corpus, regions, content, options);
}

}  // namespace

TEST_CASE("A contiguous sample's targets are its next tokens") {
  const Batch batch = one(numbered({10, 50}), {1, 20, 8}, {{0, 8}});
  CHECK(batch.ids.shape() == Shape({1, 8}));
  CHECK(row(batch.ids, 0) == Ids{120, 121, 122, 123, 124, 125, 126, 127});
  CHECK(row(batch.targets, 0) == Ids{121, 122, 123, 124, 125, 126, 127, 128});
  CHECK(batch.scored == 8);
  CHECK(batch.source[0].document == 1);
  CHECK(batch.source[0].spans == std::vector<Span>{{20, 8}});
}

TEST_CASE("A sample that ends with its document has no last target") {
  const Batch batch = one(numbered({10}), {0, 6, 4}, {{0, 4}});
  CHECK(row(batch.targets, 0) == Ids{7, 8, 9, kIgnoreIndex});
  CHECK(batch.scored == 3);
}

TEST_CASE("Spans from different places are concatenated, and the seam is scored unless masked") {
  const TokenCorpus corpus = numbered({50});
  const Batch plain = one(corpus, {0, 10, 39}, {{0, 3}, {20, 2}, {30, 3}});
  CHECK(row(plain.ids, 0) == Ids{10, 11, 12, 30, 31, 40, 41, 42});
  CHECK(row(plain.targets, 0) == Ids{11, 12, 30, 31, 40, 41, 42, 43});
  const Batch masked = one(corpus, {0, 10, 39}, {{0, 3}, {20, 2}, {30, 3}}, {.bos = {}, .mask_seams = true});
  CHECK(row(masked.targets, 0) == Ids{11, 12, kIgnoreIndex, 31, kIgnoreIndex, 41, 42, 43});
  CHECK(masked.scored == 6);
}

TEST_CASE("BOS takes the first place, and every token after it is scored") {
  const TokenCorpus corpus = numbered({50});
  const Batch batch = one(corpus, {0, 10, 30}, {{0, 4}}, {.bos = 999, .mask_seams = false});
  CHECK(row(batch.ids, 0) == Ids{999, 10, 11, 12});
  CHECK(row(batch.targets, 0) == Ids{10, 11, 12, 13});
  SUBCASE("touching spans stay touching") {
    const Batch touching = one(corpus, {0, 10, 30}, {{0, 2}, {2, 3}}, {.bos = 999, .mask_seams = false});
    CHECK(row(touching.ids, 0) == Ids{999, 10, 11, 12, 13});
    CHECK(row(touching.targets, 0) == Ids{10, 11, 12, 13, 14});
  }
  SUBCASE("a first span of one token is BOS alone") {
    const Batch skipped = one(corpus, {0, 10, 30}, {{0, 1}, {21, 2}}, {.bos = 999, .mask_seams = true});
    CHECK(row(skipped.ids, 0) == Ids{999, 30, 31});
    CHECK(row(skipped.targets, 0) == Ids{kIgnoreIndex, 31, 32});
  }
}

TEST_CASE("A batch of several samples keeps them in order") {
  const TokenCorpus corpus = numbered({20, 20});
  const std::vector<Region> where = {{1, 0, 10}, {0, 5, 10}};
  const Batch batch = make_batch(corpus, where, contiguous_spans(2, 4));
  CHECK(row(batch.ids, 0) == Ids{100, 101, 102, 103});
  CHECK(row(batch.ids, 1) == Ids{5, 6, 7, 8});
  CHECK(batch.scored == 8);
  CHECK(available(where) == std::vector<int64_t>{10, 10});
}

TEST_CASE("A sample's place depends on seed, step and sample alone") {
  const TokenCorpus corpus = numbered({90, 30, 60});
  const SampleChooser a(corpus, {.window = 16, .region = 16, .seed = 5}),
      b(corpus, {.window = 16, .region = 16, .seed = 5}), other(corpus, {.window = 16, .region = 16, .seed = 6});
  const auto batch = a.choose(3, 0, 8);
  for (uint64_t k = 0; k < 8; ++k) CHECK(b.choose(3, k) == batch[k]);
  CHECK(batch != other.choose(3, 0, 8));
  CHECK(batch != a.choose(4, 0, 8));
}

TEST_CASE("Every window start of every document that is long enough is equally likely") {
  const TokenCorpus corpus = numbered({12, 4, 9, 5});  // with windows of 4: 8, 0, 5 and 1 starts
  const SampleChooser chooser(corpus, {.window = 4, .region = 4, .seed = 1});
  CHECK(chooser.starts() == 14);
  std::map<std::pair<int64_t, int64_t>, int> seen;
  constexpr int kDraws = 14'000;
  for (int k = 0; k < kDraws; ++k) {
    const Region region = chooser.choose(0, static_cast<uint64_t>(k));
    CHECK(region.available == 4);
    CHECK(region.begin + 4 < corpus.length(region.document));
    ++seen[{region.document, region.begin}];
  }
  CHECK(seen.size() == 14);
  for (const auto& entry : seen) {
    const auto& place = entry.first;
    const auto& count = entry.second;
    CHECK_MESSAGE(std::abs(count - 1000) < 5 * 31, "document ", place.first, " begin ", place.second, ": ", count);
  }
  CHECK(seen.contains({0, 7}));  // the last start, whose last target is the document's last token
}

TEST_CASE("A region offers the whole document, or at most what was asked for") {
  const TokenCorpus corpus = numbered({50});
  const SampleChooser whole(corpus, {.window = 8, .region = 0, .seed = 1}),
      part(corpus, {.window = 8, .region = 20, .seed = 1});
  CHECK(whole.choose(0, 0) == Region{0, 0, 49});
  std::vector<int> begins(50);
  for (uint64_t k = 0; k < 2000; ++k) {
    const Region region = part.choose(0, k);
    CHECK(region.available == 20);
    ++begins[static_cast<size_t>(region.begin)];
  }
  CHECK(begins[0] > 0);
  CHECK(begins[29] > 0);  // ends one before the document
  CHECK(std::accumulate(begins.begin() + 30, begins.end(), 0) == 0);
}

TEST_CASE("Short documents train as one packed stream") {
  const TokenCorpus corpus = numbered({3, 2, 4}).packed(999);
  const SampleChooser chooser(corpus, {.window = 8, .region = 8, .seed = 1});
  const std::vector<Region> where = {{0, 0, 8}};
  const Batch batch = make_batch(corpus, where, contiguous_spans(1, 8));
  CHECK(row(batch.ids, 0) == Ids{0, 1, 2, 999, 100, 101, 999, 200});
  CHECK(chooser.starts() == 4);
}
