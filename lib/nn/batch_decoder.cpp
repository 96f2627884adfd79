// Decoding several texts together: what all forms share, and the form for what nn/cpu_decoder.cpp does not compute:
// CausalLm::extend_each, whose products have a row for each text, with attention text by text.
#include <algorithm>

#include "autograd/ops/elementwise.h"
#include "autograd/tape.h"
#include "nn/cpu_decoder.h"
#include "nn/sampling.h"
#include "tensor/gemm.h"

namespace rw {
namespace {

class ExtendBatchDecoder final : public BatchDecoder {
 public:
  ExtendBatchDecoder(const CausalLm& model, std::span<KvCache> caches) : BatchDecoder(model, caches) {}

 private:
  void run(std::span<const Next> next, std::vector<float>& logits) override {
    std::vector<int32_t> ids;
    std::vector<KvCache*> caches;
    for (const Next& n : next) {
      ids.push_back(n.id);
      caches.push_back(&caches_[static_cast<size_t>(n.text)]);
    }
    const auto n = static_cast<int64_t>(next.size());
    const NoGrad no_grad;
    const Tensor hidden = model_.extend_each(Tensor::from(ids, {1, n}).to(model_.device()), caches);       // [1,n,C]
    const Tensor host = logits_of(hidden.view({n, model_.config().hidden_size})).to(kCpu).to(DType::f32);  // [n,V]
    std::copy_n(host.data<float>(), host.numel(), logits.data());
    for (KvCache* cache : caches) --cache->length;  // step() counts
  }

  /// hidden [n,C] -> [n,V]. Those of a bf16 model as f32: rounded, many would be equal.
  Tensor logits_of(const Tensor& hidden) const {
    if (model_.dtype() != DType::bf16) return model_.logits(hidden).value();
    const Tensor logits = Tensor::empty({hidden.size(0), model_.config().vocab_size}, DType::f32, hidden.device());
    const Tensor bias = model_.head_bias().value();
    gemm(hidden, transposed(model_.head().value()), logits, {.bias = bias.defined() ? bias.to(DType::f32) : bias});
    const double cap = model_.config().logit_soft_cap;
    return cap > 0 ? soft_cap(logits, cap).value() : logits;
  }
};

}  // namespace

BatchDecoder::BatchDecoder(const CausalLm& model, std::span<KvCache> caches) : model_(model), caches_(caches) {}

bool BatchDecoder::exact(const CausalLm& model, const KvCache& cache) {
  return !model.device().is_cuda() && Decoder::supports(model, cache);
}

bool BatchDecoder::supports(const CausalLm&, const KvCache& cache) {
  return !cache.raw_keys && !cache.layers.empty() && cache.layers[0].k.size(0) == 1;
}

std::unique_ptr<BatchDecoder> BatchDecoder::make(const CausalLm& model, std::span<KvCache> caches) {
  check(!caches.empty() && static_cast<int64_t>(caches.size()) <= kMost, "batch_decoder", caches.size(),
        " texts, expected 1 to ", kMost);
  bool all_exact = true;
  for (const KvCache& cache : caches) {
    check(supports(model, cache), "batch_decoder", "expected a cache of rotated keys of one text");
    all_exact = all_exact && exact(model, cache);
  }
  if (all_exact) return make_cpu_batch_decoder(model, caches);
  return std::make_unique<ExtendBatchDecoder>(model, caches);
}

const std::vector<float>& BatchDecoder::step(std::span<const Next> next) {
  const int64_t vocab = model_.config().vocab_size;
  std::vector<bool> named(caches_.size());
  for (const Next& n : next) {
    check(n.text >= 0 && n.text < static_cast<int64_t>(caches_.size()), "batch_decoder", "text ", n.text,
          " is outside [0, ", caches_.size(), ")");
    const auto text = static_cast<size_t>(n.text);
    check(!named[text], "batch_decoder", "text ", n.text, " is named twice");
    named[text] = true;
    const KvCache& cache = caches_[text];
    check(cache.length < cache.capacity, "batch_decoder", "the KV cache of text ", n.text, " is full with ",
          cache.capacity, " tokens");
    check(n.id >= 0 && n.id < vocab, "batch_decoder", "token id ", n.id, " is outside the vocabulary [0, ", vocab, ")");
  }
  logits_.resize(next.size() * static_cast<size_t>(vocab));
  if (next.empty()) return logits_;
  run(next, logits_);
  for (const Next& n : next) ++caches_[static_cast<size_t>(n.text)].length;
  return logits_;
}

int32_t BatchDecoder::likeliest(int64_t row) const {
  const auto vocab = static_cast<std::ptrdiff_t>(model_.config().vocab_size);
  const auto begin = logits_.begin() + row * vocab;
  return sample_token({begin, begin + vocab}, {.temperature = 0}, 0);
}

std::vector<int32_t> BatchDecoder::greedy(std::span<const Next> next) {
  step(next);
  std::vector<int32_t> out;
  for (int64_t row = 0; row < std::ssize(next); ++row) out.push_back(likeliest(row));
  return out;
}

}  // namespace rw
