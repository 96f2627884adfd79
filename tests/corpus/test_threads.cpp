// What the data library says about threads, tried with std::thread: tokenizers, corpora and the choice of samples are
// read by many at once. The preset "tsan" runs this under ThreadSanitizer.
#include <doctest/doctest.h>

#include <atomic>

#include "data/batch.h"
#include "data/bpe_train.h"
#include "data/demo_corpus.h"
#include "rope/samplers.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;
using test::in_threads;

TEST_CASE("Many threads encode and decode with one tokenizer of each kind") {
  const std::vector<Document> documents = make_demo_corpus(1, 6, 3000);
  const auto bytes = train_bpe(documents, 400);
  const auto pieces = load_tokenizer(test::data_dir() + "/tokenizers/tok512.model");
  for (const Tokenizer* tokenizer : std::initializer_list<const Tokenizer*>{bytes.get(), pieces.get()}) {
    std::vector<std::vector<int32_t>> alone, together(documents.size());
    for (const Document& d : documents) alone.push_back(tokenizer->encode(d.text));
    std::atomic<int> decoded{0};
    in_threads(static_cast<int>(documents.size()), [&](int i) {
      const size_t d = static_cast<size_t>(i);
      together[d] = tokenizer->encode_special(documents[d].text);
      decoded += tokenizer->decode(together[d]) == tokenizer->decode(alone[d]);
      static_cast<void>(tokenizer->token_id("the"));
    });
    CHECK(alone == together);
    CHECK(decoded == static_cast<int>(documents.size()));
  }
}

TEST_CASE(
    "Many threads load batches from one corpus, in memory and from a file, and each batch is the one of its step") {
  const test::TempDir folder;
  const auto tokenizer = make_byte_tokenizer();
  const TokenCorpus memory = tokenize_corpus(make_demo_corpus(2, 5, 4000), *tokenizer);
  write_token_file(folder.path("c.tokens"), memory);
  const TokenCorpus file = TokenCorpus::open(folder.path("c.tokens")).packed(1);
  for (const TokenCorpus& corpus : {memory, file}) {
    const SampleChooser chooser(corpus, {.window = 32, .region = 256, .seed = 5});
    const auto sampler = make_position_sampler(PosePositions{});
    const auto batch_of = [&](uint64_t step) {
      const std::vector<Region> where = chooser.choose(step, 0, 3);
      SampleSpec spec{.seed = 5,
                      .step = static_cast<int64_t>(step),
                      .sample_ids = {0, 1, 2},
                      .window = 32,
                      .target = 256,
                      .original_window = 32,
                      .document_lengths = available(where)};
      const PositionBatch positions = sampler->sample(spec);
      const Batch batch = make_batch(corpus, where, positions.content);
      std::vector<double> all = batch.ids.to_vector();
      const std::vector<double> more = positions.positions.to_vector();
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    constexpr int kSteps = 24, kThreads = 4;
    std::vector<std::vector<double>> alone(kSteps), together(kSteps);
    for (int s = 0; s < kSteps; ++s) alone[static_cast<size_t>(s)] = batch_of(static_cast<uint64_t>(s));
    in_threads(kThreads, [&](int i) {
      for (int s = kSteps - 1 - i; s >= 0; s -= kThreads)
        together[static_cast<size_t>(s)] = batch_of(static_cast<uint64_t>(s));
    });
    CHECK(alone == together);
  }
}

TEST_CASE("Many threads tokenize corpora at once, and the progress they report is ordered") {
  const auto tokenizer = make_byte_tokenizer();
  std::vector<int64_t> totals(3);
  in_threads(3, [&](int i) {
    int64_t last = 0;
    bool ordered = true;
    const TokenCorpus corpus = tokenize_corpus(make_demo_corpus(static_cast<uint64_t>(i), 4, 2000), *tokenizer,
                                               [&](int64_t done, int64_t total) {
                                                 ordered &= done > last && done <= total;
                                                 last = done;
                                               });
    totals[static_cast<size_t>(i)] = ordered ? corpus.total_tokens() : -1;
  });
  for (const int64_t total : totals) CHECK(total > 0);
}

TEST_CASE("Many threads write one file: a reader sees one of the versions, whole") {
  const test::TempDir folder;
  const std::string path = folder.path("f");
  write_file_atomic(path, std::string(5000, 'a'));
  std::atomic<bool> torn{false};
  in_threads(4, [&](int i) {
    for (int round = 0; round < 20; ++round) {
      write_file_atomic(path, std::string(static_cast<size_t>(4000 + 100 * i), static_cast<char>('a' + i)));
      const std::string text = read_file(path);
      if (text.empty() || text.find_first_not_of(text[0]) != std::string::npos) torn = true;
    }
  });
  CHECK_FALSE(torn);
}
