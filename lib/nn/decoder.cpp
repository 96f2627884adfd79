// Which decoder takes a model, and the GPU's.
#include "nn/decoder.h"

#include <algorithm>

#include "nn/cpu_decoder.h"
#include "nn/cuda_decoder.h"

namespace rw {
namespace {

class CudaDecoder final : public Decoder {
 public:
  CudaDecoder(const CausalLm& model, KvCache& cache) : Decoder(model, cache) {
    const ModelConfig& c = model.config();
    const RopeTable table = model.scaling().table({.length = cache.capacity});
    const std::vector<float> factors = model.scaling().query_scale(0, cache.capacity);
    cuda::DecoderModel m{.hidden = c.hidden_size,
                         .ffn = c.intermediate_size,
                         .n_heads = c.num_attention_heads,
                         .n_kv_heads = c.num_key_value_heads,
                         .head_dim = c.head_dim,
                         .vocab = c.vocab_size,
                         .capacity = cache.capacity,
                         .eps = static_cast<float>(c.norm_eps),
                         .layout = c.rope_layout,
                         .attention_scale = table.attention_scale,
                         .inv_freq = table.inv_freq.value().to(model.device()),
                         .query_scale = factors.empty() ? Tensor() : Tensor::from(factors).to(model.device()),
                         .embedding = model.embedding().value(),
                         .norm = model.final_norm().weight().value(),
                         .head = model.head().value(),
                         .layers = {}};
    for (size_t i = 0; i < model.blocks().size(); ++i) {
      const Block& block = model.blocks()[i];
      m.layers.push_back({.input_norm = block.attention_norm()->weight().value(),
                          .qkv = block.attention().qkv().weight().value(),
                          .o = block.attention().output().weight().value(),
                          .post_norm = block.mlp_norm()->weight().value(),
                          .gate_up = block.mlp().up().weight().value(),
                          .down = block.mlp().down().weight().value(),
                          .k = cache.layers[i].k,
                          .v = cache.layers[i].v});
    }
    device_ = cuda::make_decoder(m);
  }

 private:
  void run(int32_t id, std::vector<float>& logits) override {
    logits.resize(static_cast<size_t>(model_.config().vocab_size));
    device_->run(id, cache_.length, logits.data());
  }
  int32_t run_greedy(int32_t id) override {
    return device_->greedy(id, cache_.length, cache_.length + 1 < cache_.capacity);
  }

  std::unique_ptr<cuda::DeviceDecoder> device_;
};

}  // namespace

Decoder::Decoder(const CausalLm& model, KvCache& cache) : model_(model), cache_(cache) {
  check(supports(model, cache), "decoder", "this model or cache needs CausalLm::extend");
}

bool Decoder::has_kernel(const ModelConfig& c) {
  const BlockDescription& b = c.block;
  const bool plain_norms = b.norm == NormKind::rms && b.norm_weight_offset == 0 && b.norm_place == NormPlace::before &&
                           b.qk_norm == QkNorm::none && !b.parallel;
  const bool plain_products =
      b.gated && b.activation == Activation::silu && !b.qkv_bias && !b.o_bias && !b.mlp_bias && !c.head_bias;
  const bool plain_scores = b.attention_scale == 0 && b.soft_cap == 0 && c.logit_soft_cap == 0 && c.uniform();
  return plain_norms && plain_products && plain_scores && c.embedding_scale == 1;
}

namespace {
bool has_adapters(const CausalLm& model) {
  return std::any_of(model.blocks().begin(), model.blocks().end(), [](const Block& block) {
    return block.attention().qkv().has_adapter() || block.attention().output().has_adapter() ||
           block.mlp().up().has_adapter() || block.mlp().down().has_adapter();
  });
}
}  // namespace

bool Decoder::supports(const CausalLm& model, const KvCache& cache) {
  const ModelConfig& c = model.config();
  if (has_adapters(model)) return false;
  const DType t = model.dtype();
  if (cache.raw_keys || cache.layers.empty() || cache.layers[0].k.size(0) != 1) return false;
  if (!model.device().is_cuda()) return t == DType::f32;
  if (!has_kernel(c)) return false;
  const bool whole = c.hidden_size % 8 == 0 && c.intermediate_size % 8 == 0 && c.head_dim % 8 == 0;
  const int64_t widest = std::max({c.hidden_size, c.intermediate_size, c.num_attention_heads * c.head_dim});
  return (t == DType::bf16 || t == DType::f32) && whole && c.head_dim <= 256 &&
         cuda::decoder_fits(t, widest, c.head_dim, c.num_hidden_layers);
}

std::unique_ptr<Decoder> Decoder::make(const CausalLm& model, KvCache& cache) {
  if (model.device().is_cuda()) return std::make_unique<CudaDecoder>(model, cache);
  return make_cpu_decoder(model, cache);
}

void Decoder::check_next(int32_t id) const {
  check(cache_.length < cache_.capacity, "decoder", "the KV cache of ", cache_.capacity, " tokens is full");
  check(id >= 0 && id < model_.config().vocab_size, "decoder", "token id ", id, " is outside the vocabulary [0, ",
        model_.config().vocab_size, ")");
}

const std::vector<float>& Decoder::step(int32_t id) {
  check_next(id);
  run(id, logits_);
  ++cache_.length;
  return logits_;
}

int32_t Decoder::greedy(int32_t id) {
  check_next(id);
  const int32_t next = run_greedy(id);
  ++cache_.length;
  return next;
}

}  // namespace rw
