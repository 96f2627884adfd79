// On a GPU: decoding with int8 weights, and several texts together.
#include <algorithm>

#include "autograd/ops/loss.h"
#include "autograd/tape.h"
#include "decoding.h"
#include "gpu.h"
#include "models.h"
#include "nn/decoder.h"
#include "nn/families.h"
#include "nn/generate.h"

using namespace rw;
using test::kGpu;

namespace {

using test::filled, test::Ids, test::some_ids;

std::vector<double> doubles(const std::vector<float>& v) { return {v.begin(), v.end()}; }

/// Rows of several pieces of the ring, whole blocks of 64 and broken ones.
ModelConfig wide_config(int64_t hidden, int64_t ffn) {
  ModelConfig c = test::golden_config();
  c.hidden_size = hidden, c.intermediate_size = ffn, c.num_attention_heads = 4, c.num_key_value_heads = 2;
  c.head_dim = 64;
  return c;
}

/// The largest relative error of logits in `steps` steps after a prompt, beside `other`'s decoder.
double worst_error(const CausalLm& model, const CausalLm& other, int64_t steps) {
  const int64_t vocab = model.config().vocab_size;
  const Ids prompt = some_ids(9, vocab, 1);
  KvCache a = filled(model, prompt, 9 + steps), b = filled(other, prompt, 9 + steps);
  const auto decoder = Decoder::make(model, a), reference = Decoder::make(other, b);
  double worst = 0;
  for (const int32_t id : some_ids(steps, vocab, 2))
    worst = std::max(worst, test::relative_error(doubles(decoder->step(id)), doubles(reference->step(id))));
  return worst;
}

}  // namespace

TEST_CASE("on the GPU the decoder with int8 weights gives the CPU's logits with the same codes") {
  if (!test::has_gpu()) return;
  for (const auto& [hidden, ffn] : std::vector<std::pair<int64_t, int64_t>>{{64, 176}, {272, 4112}, {2048, 6144}}) {
    CAPTURE(hidden);
    CausalLm cpu(wide_config(hidden, ffn), DType::f32, kCpu, 3);
    use_int8_weights(cpu);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(dtype);
      CausalLm model(wide_config(hidden, ffn), dtype, kGpu, 3);
      use_int8_weights(model);
      CHECK(worst_error(model, cpu, test::repetitions(40, 3)) < (dtype == DType::f32 ? 1e-4 : 0.04));
    }
  }
}

TEST_CASE("so it does in every family, and repeats its bits; widths that are no multiple of 16 are refused") {
  if (!test::has_gpu()) return;
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const auto model = load_hf(folder, {.device = kGpu}), again = load_hf(folder, {.device = kGpu}),
               cpu = load_hf(folder);
    const ModelConfig& c = model->config();
    const bool whole =
        c.hidden_size % 16 == 0 && c.intermediate_size % 16 == 0 && c.num_attention_heads * c.head_dim % 16 == 0;
    if (!whole || !Decoder::supports(*model, model->make_cache(1, 1))) {
      CHECK(!test::error_of([&] { use_int8_weights(*model); }).empty());
      continue;
    }
    for (CausalLm* m : {model.get(), again.get(), cpu.get()}) use_int8_weights(*m);
    CHECK(worst_error(*model, *cpu, 8) < 1e-3);
    CHECK(worst_error(*model, *again, 8) == 0);
  }
}

TEST_CASE("on the GPU greedy decoding with int8 weights runs ahead as it does without") {
  if (!test::has_gpu()) return;
  CausalLm model(wide_config(256, 512), DType::bf16, kGpu, 3);
  use_int8_weights(model);
  KvCache one = filled(model, {1, 2, 3}, 40), two = filled(model, {1, 2, 3}, 40);
  const auto by_step = Decoder::make(model, one), ahead = Decoder::make(model, two);
  int32_t a = 7, b = 7;
  while (one.length < 40) {
    const std::vector<float>& logits = by_step->step(a);
    a = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    b = ahead->greedy(b);
    CHECK(a == b);
  }
}

TEST_CASE("on the GPU texts that are decoded together get logits near those that each has alone") {
  if (!test::has_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    CAPTURE(dtype);
    CausalLm model(wide_config(256, 512), dtype, kGpu, 3);
    const int64_t vocab = model.config().vocab_size;
    std::vector<KvCache> caches, single;
    for (int64_t i = 0; i < 16; ++i) {
      const Ids prompt = some_ids(3 + 37 * i % 101, vocab, static_cast<uint64_t>(i));
      caches.push_back(filled(model, prompt, 120));
      single.push_back(filled(model, prompt, 120));
    }
    const auto batch = BatchDecoder::make(model, caches);
    CHECK(!BatchDecoder::exact(model, caches[0]));
    std::vector<std::unique_ptr<Decoder>> alone;
    for (KvCache& cache : single) alone.push_back(Decoder::make(model, cache));
    for (uint64_t step = 0; step < 4; ++step) {
      std::vector<BatchDecoder::Next> next;
      const Ids ids = some_ids(16, vocab, 50 + step);
      for (int64_t i = 0; i < 16; ++i) next.push_back({.text = i, .id = ids[static_cast<size_t>(i)]});
      const std::vector<float> all = batch->step(next);
      double worst = 0;
      for (int64_t i = 0; i < 16; ++i) {
        const std::vector<float> got(all.begin() + i * vocab, all.begin() + (i + 1) * vocab);
        const auto text = static_cast<size_t>(i);
        worst = std::max(worst, test::relative_error(doubles(got), doubles(alone[text]->step(ids[text]))));
      }
      CHECK(worst < (dtype == DType::f32 ? 1e-4 : 0.04));
    }
  }
}

TEST_CASE("on the GPU greedy texts in f32 are the same together and one after another") {
  if (!test::has_gpu()) return;
  CausalLm model(wide_config(256, 512), DType::f32, kGpu, 5);
  std::vector<GreedyRequest> requests;
  for (int64_t i = 0; i < 19; ++i)
    requests.push_back(
        {.prompt = some_ids(1 + 7 * i % 30, model.config().vocab_size, static_cast<uint64_t>(i)), .tokens = 2 + i % 9});
  CHECK(generate_greedy(model, requests, 16) == generate_greedy(model, requests, 1));
}
