// Which decoder takes a model, and the GPU's.
#include "nn/decoder.h"

#include <algorithm>

#include "autograd/tape.h"
#include "nn/cpu_decoder.h"
#include "nn/cuda_decoder.h"

namespace rw {
namespace {

cuda::DecoderLayer layer_of(const Block& block, const LayerDescription& description, const KvCache::Layer& cache) {
  const auto weight = [](const Norm* norm) { return norm ? norm->weight().value() : Tensor(); };
  const auto bias = [](const Norm* norm) { return norm ? norm->bias().value() : Tensor(); };
  // Side by side, attention and MLP may share a norm.
  const Norm *before = block.attention_norm(),
             *between = block.mlp_norm() || block.mlp_out_norm() ? block.mlp_norm() : before;
  const Attention& attention = block.attention();
  const Mlp& mlp = block.mlp();
  const auto matrix = [](const Linear& l) { return l.int8_codes() ? l.int8_codes()->codes : l.weight().value(); };
  const auto scales = [](const Linear& l) { return l.int8_codes() ? l.int8_codes()->scales : Tensor(); };
  return {.input_norm = weight(before),
          .qkv = matrix(attention.qkv()),
          .o = matrix(attention.output()),
          .post_norm = weight(between),
          .gate_up = matrix(mlp.up()),
          .down = matrix(mlp.down()),
          .k = cache.k,
          .v = cache.v,
          .qkv_bias = attention.qkv().bias().value(),
          .o_bias = attention.output().bias().value(),
          .gate_up_bias = mlp.up().bias().value(),
          .down_bias = mlp.down().bias().value(),
          .input_norm_bias = bias(before),
          .post_norm_bias = bias(between),
          .q_norm = attention.q_norm().value(),
          .k_norm = attention.k_norm().value(),
          .attention_norm = weight(block.attention_out_norm()),
          .attention_norm_bias = bias(block.attention_out_norm()),
          .mlp_norm = weight(block.mlp_out_norm()),
          .mlp_norm_bias = bias(block.mlp_out_norm()),
          .window = description.window,
          .rope = description.rope,
          .local_rope = description.local_rope,
          .qkv_scales = scales(attention.qkv()),
          .o_scales = scales(attention.output()),
          .gate_up_scales = scales(mlp.up()),
          .down_scales = scales(mlp.down())};
}

class CudaDecoder final : public Decoder {
 public:
  CudaDecoder(const CausalLm& model, KvCache& cache) : Decoder(model, cache) {
    const ModelConfig& c = model.config();
    const RopeTable table = model.scaling().table({.length = cache.capacity});
    const std::vector<float> factors = model.scaling().query_scale(0, cache.capacity);
    const RopeTable& local = model.local_table();
    cuda::DecoderModel m{
        .hidden = c.hidden_size,
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
        .head = model.head_codes() ? model.head_codes()->codes : model.head().value(),
        .layers = {},
        .layer_norm = c.block.norm == NormKind::layer,
        .gated = c.block.gated,
        .parallel = c.block.parallel,
        .activation = c.block.activation,
        .norm_weight_offset = c.block.norm_weight_offset,
        .embedding_scale = c.embedding_scale,
        .score_scale = c.block.attention_scale,
        .soft_cap = c.block.soft_cap,
        .logit_soft_cap = c.logit_soft_cap,
        .norm_bias = model.final_norm().bias().value(),
        .head_bias = model.head_bias().value(),
        .qk_norm_across = c.block.qk_norm == QkNorm::across,
        .local_inv_freq = local.inv_freq.defined() ? local.inv_freq.value().to(model.device()) : Tensor(),
        .local_attention_scale = local.attention_scale,
        .int8 = model.head_codes() != nullptr,
        .head_scales = model.head_codes() ? model.head_codes()->scales : Tensor()};
    for (size_t i = 0; i < model.blocks().size(); ++i)
      m.layers.push_back(layer_of(model.blocks()[i], c.layer(static_cast<int64_t>(i)), cache.layers[i]));
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
  const std::string why = refusal(model, cache);
  check(why.empty(), "decoder", why, ": it needs CausalLm::extend");
}

namespace {
bool has_adapters(const CausalLm& model) {
  return std::any_of(model.blocks().begin(), model.blocks().end(), [](const Block& block) {
    const Linear* const layers[] = {&block.attention().qkv(), &block.attention().output(), &block.mlp().up(),
                                    &block.mlp().down()};
    return std::any_of(std::begin(layers), std::end(layers),
                       [](const Linear* layer) { return layer->has_adapter() || layer->in_blocks(); });
  });
}

std::string gpu_refusal(const CausalLm& model, bool int8) {
  const ModelConfig& c = model.config();
  const DType t = model.dtype();
  const int64_t heads = c.num_attention_heads * c.head_dim;
  if (t != DType::bf16 && t != DType::f32) return cat("the model computes in ", t);
  if (c.head_dim % 8 != 0 || c.head_dim > 256) return cat("heads of ", c.head_dim, " numbers");
  const int64_t multiple = int8 ? 16 : 8;  // 16 bytes are copied at once
  for (const int64_t width : {c.hidden_size, c.intermediate_size, heads}) {
    if (width % multiple != 0) return cat("a width of ", width, ", which is no multiple of ", multiple);
  }
  const int64_t widest = std::max({c.hidden_size, c.intermediate_size, heads});
  if (!cuda::decoder_fits(t, widest, c.head_dim, c.num_hidden_layers, int8))
    return "the model is too wide for this GPU's shared memory";
  return "";
}
}  // namespace

std::string Decoder::refusal(const CausalLm& model, const KvCache& cache) {
  if (has_adapters(model)) return "the model has adapters, or weights in blocks beside them";
  if (cache.raw_keys) return cat("rope_type ", model.config().rope.rope_type(), " does not keep rotated keys");
  if (cache.layers.empty() || cache.layers[0].k.size(0) != 1) return "the cache is not of one text";
  if (model.device().is_cuda()) return gpu_refusal(model, model.head_codes() != nullptr);
  return model.dtype() == DType::f32 ? "" : cat("the model computes in ", model.dtype(), " on the CPU");
}

void use_int8_weights(CausalLm& model) {
  const NoGrad no_grad;
  std::string why = Decoder::refusal(model, model.make_cache(1, 1));
  if (why.empty() && model.device().is_cuda()) why = gpu_refusal(model, true);
  check(why.empty(), "int8 weights", why, ": only what a decoder computes can have them");
  model.round_to_int8();
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
