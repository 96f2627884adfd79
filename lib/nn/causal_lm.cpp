#include "nn/causal_lm.h"

#include <algorithm>

#include "autograd/ops/concat.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/recompute.h"
#include "autograd/tape.h"
#include "tensor/gemm.h"

namespace rw {

CausalLm::CausalLm(ModelConfig config) : config_(std::move(config)) {
  config_.finish();
  scaling_ = make_rope_scaling(config_.rope);
  const auto init = normal_init(config_.initializer_range);
  embedding_index_ = arena_.add({"model.embed_tokens.weight", {config_.vocab_size, config_.hidden_size}, init});
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    block_index_.push_back(arena_.size());
    blocks_.emplace_back(config_, i, arena_);
  }
  norm_index_ = arena_.add({"model.norm.weight", {config_.hidden_size}, constant_init(1), false});
  if (!config_.tie_word_embeddings)
    head_index_ = arena_.add({"lm_head.weight", {config_.vocab_size, config_.hidden_size}, init});
  rope_index_ = arena_.size();
  for (const ParameterSpec& spec : scaling_->parameter_specs()) arena_.set_reads_master(arena_.add(spec));
}

CausalLm::CausalLm(ModelConfig config, DType compute, Device device, std::optional<uint64_t> seed, ArenaMemory memory)
    : CausalLm(std::move(config)) {
  compute_ = compute;
  device_ = device;
  arena_.allocate(compute, device, seed, memory);
  bind();
}

std::vector<ParameterSpec> CausalLm::parameter_specs(const ModelConfig& config) {
  const CausalLm model(config);
  std::vector<ParameterSpec> specs;
  for (const ParamArena::Segment& segment : model.arena_.segments()) specs.push_back(segment.spec);
  return specs;
}

void CausalLm::bind() {
  embedding_ = arena_[embedding_index_];
  norm_ = arena_[norm_index_];
  if (!config_.tie_word_embeddings) head_ = arena_[head_index_];
  for (Block& block : blocks_) block.bind(arena_);
  std::vector<Var> rope_parameters;
  for (size_t i = rope_index_; i < arena_.size(); ++i) {
    // Learned frequencies are solved in f64 on the host from the f32 master, never from a bf16 copy.
    const Tensor master = arena_.master_of(i);
    const ParamArena::Segment& s = arena_.segments()[i];
    rope_parameters.push_back(
        arena_.grad().defined()
            ? Var::leaf(master, arena_.grad().slice(s.offset, s.offset + s.numel).view(s.spec.shape))
            : Var(master));
  }
  if (!rope_parameters.empty()) scaling_->set_parameters(std::move(rope_parameters));
}

void CausalLm::enable_grad() {
  arena_.enable_grad();
  bind();
}

bool CausalLm::use_compact_weights(bool lossy) {
  if (!arena_.make_compact(lossy)) return false;
  bind();
  return true;
}

void CausalLm::set_linear(const LinearOptions& options) {
  if (options.matmul != Matmul::native) {
    check(compute_ == DType::bf16, "matmul", "fp8 products need a model that computes in bf16, got ", compute_);
    check(!device_.is_cuda() || cuda::has_fp8_products(), "matmul",
          "fp8 products need a GPU of compute capability 8.9 or ", "later, got ", cuda_device_name(device_.index));
  }
  for (Block& block : blocks_) block.set_linear(options);
}

void CausalLm::set_rope(const RopeConfig& rope) {
  std::unique_ptr<RopeScaling> scaling = make_rope_scaling(rope);
  check(scaling->parameter_specs().empty() && rope_index_ == arena_.size(), "llama", "rope type '", rope.rope_type,
        "' has parameters of its own: build the model with it");
  scaling_ = std::move(scaling);
  config_.rope = rope;
}

RopeAngles CausalLm::angles(const Tensor& positions, RopeContext context, const std::vector<double>& t) const {
  if (context.length == 0) {
    const float* p = positions.data<float>();
    context.length = static_cast<int64_t>(*std::max_element(p, p + positions.numel())) + 1;
  }
  const RopeTable table = t.empty() ? scaling_->table(context) : scaling_->table(t, context);
  return rope_angles(positions, table.inv_freq, table.attention_scale, compute_, device_);
}

Tensor CausalLm::plain_positions(int64_t first, int64_t count) const {
  Tensor p = Tensor::empty({1, count});
  for (int64_t i = 0; i < count; ++i) p.data<float>()[i] = static_cast<float>(first + i);
  return p;
}

void CausalLm::mark_gradients(size_t first, size_t last) const {
  if (!gradient_hook_ || !grad_enabled()) return;
  Tape::current().when_reached([hook = gradient_hook_, first, last] { hook(first, last); });
}

Var CausalLm::run(const Tensor& ids, ForwardContext context) const {
  Block::Stream stream{embedding(ids, embedding_), Var()};  // [B,T,C]
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    context.after_rope = i == 0 ? frequency_hook_ : nullptr;
    mark_gradients(block_index_[i], i + 1 < blocks_.size() ? block_index_[i + 1] : norm_index_);
    if (recompute_ && grad_enabled()) {
      std::vector<Var> inputs{stream.residual};
      if (stream.pending.defined()) inputs.push_back(stream.pending);  // all but the first block
      const std::vector<Var> out = recompute(
          [&block, context](const std::vector<Var>& in) {
            const Block::Stream s = block.forward({in[0], in.size() > 1 ? in[1] : Var()}, context);
            return std::vector<Var>{s.residual, s.pending};
          },
          inputs);
      stream = {out[0], out[1]};
    } else {
      stream = block.forward(stream, context);
    }
  }
  mark_gradients(norm_index_, rope_index_);
  return residual_rms_norm(stream.pending, stream.residual, norm_, config_.rms_norm_eps).second;  // [B,T,C]
}

namespace {
Tensor query_scale(const RopeScaling& scaling, int64_t first, int64_t count) {
  const std::vector<float> factors = scaling.query_scale(first, count);
  return factors.empty() ? Tensor() : Tensor::from(factors);
}
}  // namespace

Var CausalLm::forward(const Tensor& ids, const RopeAngles& angles) const {
  check(ids.rank() == 2, "llama", "ids must have shape [B, T], got ", ids.shape());
  return run(ids, {angles, query_scale(*scaling_, 0, ids.size(1)), nullptr, {}, {}});
}

Var CausalLm::loss(const Tensor& ids, const Tensor& targets, const RopeAngles& angles, const Tensor& weights) const {
  check_shape("llama", "targets", targets, ids.shape());
  return linear_cross_entropy(forward(ids, angles), head(), targets.view({targets.numel()}), Reduction::sum,
                              weights.defined() ? weights.view({weights.numel()}) : weights);
}

Tensor CausalLm::token_nll(const Tensor& ids, const Tensor& targets, const RopeAngles& angles) const {
  check_shape("llama", "targets", targets, ids.shape());
  const NoGrad no_grad;
  return rw::token_nll(forward(ids, angles).value(), head().value(), targets.view({targets.numel()})).view(ids.shape());
}

Var CausalLm::logits(const Var& hidden) const { return linear(hidden, head()); }

KvCache CausalLm::make_cache(int64_t batch, int64_t capacity) const {
  const MemoryTag tag("kv cache");
  KvCache cache;
  cache.capacity = capacity;
  cache.raw_keys = scaling_->depends_on_length();
  if (cache.raw_keys) cache.ids = Tensor::empty({batch, capacity}, DType::i32);
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    const Shape shape{batch, capacity, config_.num_key_value_heads, config_.head_dim};
    cache.layers.push_back({Tensor::empty(shape, compute_, device_), Tensor::empty(shape, compute_, device_)});
  }
  return cache;
}

Tensor CausalLm::extend(const Tensor& ids, KvCache& cache) const {
  check(ids.rank() == 2, "llama", "ids must have shape [B, T], got ", ids.shape());
  const int64_t count = ids.size(1), total = cache.length + count;
  check(total <= cache.capacity, "llama", "the KV cache holds ", cache.length, " of ", cache.capacity, " tokens, ",
        count, " more do not fit");
  const NoGrad no_grad;
  if (!cache.raw_keys) return extend_with(ids, cache, total);

  const int64_t batch = ids.size(0), past = cache.length;
  const Tensor host = ids.to(kCpu);
  for (int64_t b = 0; b < batch; ++b) {
    std::copy_n(host.data<int32_t>() + b * count, count, cache.ids.data<int32_t>() + b * cache.capacity + past);
  }
  std::vector<double> table = scaling_->table({.length = total}).inv_freq.value().to_vector();
  const bool again = cache.exact && past > 0 && table != cache.table;
  cache.table = std::move(table);
  if (!again) return extend_with(ids, cache, total);
  cache.length = 0;
  const Tensor all = Tensor::empty({batch, total}, DType::i32);
  for (int64_t b = 0; b < batch; ++b) {
    std::copy_n(cache.ids.data<int32_t>() + b * cache.capacity, total, all.data<int32_t>() + b * total);
  }
  return narrow(extend_with(all.to(device_), cache, total), 1, past, total).value();
}

Tensor CausalLm::extend_with(const Tensor& ids, KvCache& cache, int64_t total) const {
  const int64_t count = ids.size(1);
  const RopeContext rope_context{.length = total};
  ForwardContext context{angles(plain_positions(cache.length, count), rope_context),
                         query_scale(*scaling_, cache.length, count),
                         &cache,
                         {},
                         {}};
  if (cache.raw_keys) context.key_angles = angles(plain_positions(0, total), rope_context);
  const Tensor hidden = run(ids, context).value();
  cache.length = total;
  return hidden;
}

}  // namespace rw
