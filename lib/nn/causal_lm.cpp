// The whole model: how its parts are declared, one forward, and the KV cache.
#include "nn/causal_lm.h"

#include <algorithm>
#include <set>

#include "autograd/ops/concat.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/recompute.h"
#include "autograd/tape.h"
#include "nn/families/family.h"
#include "rope/position_sets.h"
#include "rope/start_tokens.h"
#include "tensor/gemm.h"

namespace rw {

CausalLm::CausalLm(ModelConfig config) : config_(std::move(config)) {
  config_.finish();
  scaling_ = make_rope_scaling(config_.rope);
  if (config_.local_rope) {
    const auto local = make_rope_scaling(*config_.local_rope);
    check(!local->depends_on_length() && local->parameter_specs().empty(), "causal_lm",
          "the RoPE recipe of layers with a window must be fixed, got \"", config_.local_rope->rope_type(), "\"");
    local_table_ = local->table({.length = config_.local_rope->max_position_embeddings});
  }
  const ParameterNames& names = family_record(config_.family).names;
  const Shape table{config_.vocab_size, config_.hidden_size};
  const auto init = normal_init(config_.initializer_range);
  embedding_index_ = arena_.add({names.embedding + ".weight", table, init});
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    block_index_.push_back(arena_.size());
    blocks_.emplace_back(config_, i, arena_);
  }
  norm_index_ = arena_.size();
  final_norm_ = std::make_unique<Norm>(config_, names.final_norm, config_.hidden_size, arena_);
  if (!config_.tie_word_embeddings) head_index_ = arena_.add({names.head + ".weight", table, init});
  if (config_.head_bias)
    head_bias_index_ = arena_.add({names.head + ".bias", {config_.vocab_size}, constant_init(0), false});
  rope_index_ = arena_.size();
  for (const ParameterSpec& spec : scaling_->parameter_specs()) arena_.set_reads_master(arena_.add(spec));
  if (config_.adapter) freeze_base();
}

/// All but the adapters, what RoPE learns, and what the adapter's description names.
void CausalLm::freeze_base() {
  const AdapterDescription& adapter = *config_.adapter;
  check(adapter.rank >= 1 && adapter.rank <= 1 << 16, "adapter", "the rank must be 1 to 65536, got ", adapter.rank);
  check(adapter.dropout >= 0 && adapter.dropout < 1, "adapter", "dropout must be at least 0 and below 1, got ",
        adapter.dropout);
  std::set<std::string> unused(adapter.targets.begin(), adapter.targets.end()), names;
  for (Block& block : blocks_) {
    for (Linear* layer :
         {&block.attention().qkv(), &block.attention().output(), &block.mlp().up(), &block.mlp().down()}) {
      layer->set_dropout(&dropout_);
      for (const Linear::Part& part : layer->parts()) {
        names.insert(part.name.substr(part.name.rfind('.') + 1));
        std::erase_if(
            unused, [&](const std::string& t) { return t == "all" || part.name == t || part.name.ends_with("." + t); });
      }
    }
  }
  std::string known;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  check(unused.empty(), "adapter", "no linear layer of the blocks is called '", unused.empty() ? "" : *unused.begin(),
        "', expected all or names of ", known);
  std::set<size_t> linear_or_table{embedding_index_};
  if (!config_.tie_word_embeddings) linear_or_table.insert(head_index_);
  if (config_.head_bias) linear_or_table.insert(head_bias_index_);
  for (size_t i = 0; i < rope_index_; ++i) {
    const std::string& name = arena_.segments()[i].spec.name;
    if (!arena_.trainable(i) || is_adapter_parameter(name)) continue;  // Linear has said it of its own
    arena_.set_trainable(i, linear_or_table.count(i) ? adapter.embeddings && i == embedding_index_ : adapter.norms);
  }
}

CausalLm::CausalLm(ModelConfig config, DType compute, Device device, std::optional<uint64_t> seed, ArenaMemory memory)
    : CausalLm(std::move(config)) {
  compute_ = compute;
  device_ = device;
  if (local_table_.inv_freq.defined()) local_table_.inv_freq = Var(local_table_.inv_freq.value().to(device));
  arena_.allocate(compute, device, seed, memory);
  bind();
}

std::vector<ParameterSpec> CausalLm::parameter_specs(const ModelConfig& config) {
  const CausalLm model(config);
  std::vector<ParameterSpec> specs;
  for (const ParamArena::Segment& segment : model.arena_.segments()) specs.push_back(segment.spec);
  return specs;
}

std::unique_ptr<const CausalLm> CausalLm::declare(const ModelConfig& config) {
  return std::unique_ptr<const CausalLm>(new CausalLm(config));
}

void CausalLm::bind() {
  embedding_ = arena_[embedding_index_];
  final_norm_->bind(arena_);
  if (!config_.tie_word_embeddings) head_ = arena_[head_index_];
  if (config_.head_bias) head_bias_ = arena_[head_bias_index_];
  for (Block& block : blocks_) block.bind(arena_);
  std::vector<Var> rope_parameters;
  for (size_t i = rope_index_; i < arena_.size(); ++i) {
    // Learned frequencies are solved in f64 on the host from the f32 master, never from a bf16 copy.
    const Tensor master = arena_.master_of(i);
    const ParamArena::Segment& s = arena_.segments()[i];
    rope_parameters.push_back(
        arena_.grad().defined() && s.trainable
            ? Var::leaf(master, arena_.grad().slice(s.offset, s.offset + s.numel).view(s.spec.shape))
            : Var(master));
  }
  if (!rope_parameters.empty()) scaling_->set_parameters(std::move(rope_parameters));
}

void CausalLm::enable_grad() {
  check(!head_codes_, "causal_lm", "weights that were rounded to int8 are not trained: load the model again");
  arena_.enable_grad();
  bind();
}

bool CausalLm::use_bf16_copy(bool lossy) {
  if (head_codes_ || !arena_.make_bf16_copy(lossy)) return false;
  bind();
  return true;
}

void CausalLm::set_recompute(bool on, const RecomputeOptions& options) {
  check(on || !(options.inputs_on_host || options.keep_attention), "causal_lm",
        "inputs on the host and attention's outputs that are kept are those of recomputed blocks");
  recompute_ = on;
  keep_attention_ = options.keep_attention;
  host_inputs_ = options.inputs_on_host ? std::make_shared<HostInputs>(device_) : nullptr;
}

void CausalLm::round_to_int8() {
  check(!config_.adapter, "causal_lm", "int8 weights of a model with adapters: merge them first");
  check(!arena_.grad().defined(), "causal_lm", "int8 weights of a model that is being trained");
  check(!embedding_.bf16_copy().defined(), "causal_lm", "int8 weights beside a bf16 copy: choose one of them");
  const MemoryTag tag("int8 weights");
  for (Block& block : blocks_) {
    for (Linear* layer :
         {&block.attention().qkv(), &block.attention().output(), &block.mlp().up(), &block.mlp().down()})
      layer->round_to_int8();
  }
  head_codes_ = round_to_blocks(head().value(), {.code = BlockCode::int8, .double_scales = false});
}

void CausalLm::set_mlp_tile(int64_t tokens) {
  check(tokens >= 0, "causal_lm", "a tile of ", tokens, " tokens");
  for (Block& block : blocks_) block.mlp().set_tile(tokens);
}

Tensor CausalLm::words_of(const DropoutDraw& draw) {
  const auto first = static_cast<uint64_t>(draw.first_row);
  const auto word = [](uint64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); };
  return Tensor::from(std::vector<int32_t>{word(draw.draw), word(draw.draw >> 32), word(first), word(first >> 32)});
}

void CausalLm::set_dropout(std::optional<DropoutDraw> draw, bool send) {
  dropout_.on = draw.has_value() && has_dropout();
  if (!dropout_.on) return;
  if (!dropout_.words.defined()) dropout_.words = Tensor::zeros({4}, DType::i32, device_);
  dropout_.seed = draw->seed;
  if (send) dropout_.words.copy_from(words_of(*draw));
}

void CausalLm::set_linear(const LinearOptions& options) {
  if (options.matmul != Matmul::native) {
    check(compute_ == DType::bf16, "matmul", "fp8 products need a model that computes in bf16, got ", compute_);
    check(!device_.is_cuda() || cuda::has_fp8_products(), "matmul",
          "fp8 products need a GPU of compute capability 8.9 or later, got ", cuda_device_name(device_.index));
  }
  for (Block& block : blocks_) block.set_linear(options);
}

void CausalLm::set_rope(const RopeConfig& rope) {
  std::unique_ptr<RopeScaling> scaling = make_rope_scaling(rope);
  check(scaling->parameter_specs().empty() && rope_index_ == arena_.size(), "causal_lm", "rope type '",
        rope.rope_type(), "' has parameters of its own: build the model with it");
  scaling_ = std::move(scaling);
  config_.rope = rope;
}

RopeAngles CausalLm::angles(const Tensor& positions, RopeContext context, const std::vector<double>& t) const {
  if (context.length == 0) {
    const float* p = positions.data<float>();
    context.length = static_cast<int64_t>(*std::max_element(p, p + positions.numel())) + 1;
  }
  const RopeTable table = t.empty() ? scaling_->table(context) : scaling_->table(t, context);
  const auto* start = dynamic_cast<const StartTokens*>(scaling_.get());
  if (start && start->start_tokens(context.length) > 0)
    return angles_after_start(*start, context.length, positions, table, compute_, device_);
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

RopeAngles CausalLm::local_angles(const RopeAngles& angles) const {
  if (!local_table_.inv_freq.defined()) return {};
  return rope_angles(angles.positions, local_table_.inv_freq, local_table_.attention_scale, compute_, device_);
}

Var CausalLm::run(const Tensor& ids, ForwardContext context) const {
  Var embedded = rw::embedding(ids, embedding_);  // [B,T,C]
  if (config_.embedding_scale != 1) embedded = scale(embedded, config_.embedding_scale);
  Block::Stream stream{embedded, Var()};
  embedded = Var();
  if (host_inputs_ && grad_enabled()) host_inputs_->start();
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    context.after_rope = i == 0 ? frequency_hook_ : nullptr;
    mark_gradients(block_index_[i], i + 1 < blocks_.size() ? block_index_[i + 1] : norm_index_);
    if (recompute_ && grad_enabled()) {
      stream = Block::add_pending(stream);  // so that one tensor is kept and not two
      const std::vector<Var> inputs{stream.residual};
      const bool added = stream.added;
      const std::vector<Var> out = recompute(
          [&block, context, added](const std::vector<Var>& in, bool unread) {
            ForwardContext here = context;
            here.unread = unread;
            const Block::Stream s = block.forward({in[0], Var(), added}, here);
            return std::vector<Var>{s.residual, s.pending};
          },
          inputs, host_inputs_, keep_attention_);
      stream = {out[0], out[1]};
    } else {
      stream = block.forward(stream, context);
    }
  }
  mark_gradients(norm_index_, rope_index_);
  return final_norm_->add(stream.pending, stream.residual).second;  // [B,T,C]
}

namespace {
Tensor query_scale(const RopeScaling& scaling, int64_t first, int64_t count) {
  const std::vector<float> factors = scaling.query_scale(first, count);
  return factors.empty() ? Tensor() : Tensor::from(factors);
}
}  // namespace

/// Angles of every set for tokens [first, total), or none where the kind has no sets or they change nothing.
std::shared_ptr<const PositionSetAngles> CausalLm::position_sets(int64_t first, int64_t total) const {
  const auto* sets = dynamic_cast<const PositionSetScaling*>(scaling_.get());
  if (!sets || sets->plain_up_to(total)) return nullptr;
  check(!device_.is_cuda(), "causal_lm", "rope_type ", config_.rope.rope_type(),
        " runs on the CPU only: use --device cpu");
  check(config_.layers.empty() || std::all_of(config_.layers.begin(), config_.layers.end(),
                                              [](const LayerDescription& l) { return l.window == 0 || l.local_rope; }),
        "causal_lm", "rope_type ", config_.rope.rope_type(), " does not go with layers that have a window");
  const auto at = [&](int64_t begin, const auto& position) {
    const Tensor p = Tensor::empty({1, total - begin});
    for (int64_t i = begin; i < total; ++i) p.data<float>()[i - begin] = static_cast<float>(position(i));
    return angles(p, {.length = total});
  };
  const auto out = std::make_shared<PositionSetAngles>();
  for (size_t s = 0; s < sets->sets(); ++s) {
    out->queries.push_back(at(first, [&](int64_t m) { return sets->query_position(s, m); }));
    out->keys.push_back(at(0, [&](int64_t n) { return sets->key_position(s, n); }));
  }
  out->ranges = [sets](int64_t m, std::vector<KeyRange>& ranges) { sets->key_ranges(m, ranges); };
  return out;
}

Var CausalLm::forward(const Tensor& ids, const RopeAngles& angles) const {
  check(ids.rank() == 2, "causal_lm", "ids must have shape [B, T], got ", ids.shape());
  return run(ids, {.angles = angles,
                   .local_angles = local_angles(angles),
                   .query_scale = query_scale(*scaling_, 0, ids.size(1)),
                   .cache = nullptr,
                   .key_angles = {},
                   .caches = {},
                   .sets = position_sets(0, ids.size(1)),
                   .after_rope = {}});
}

Var CausalLm::loss(const Tensor& ids, const Tensor& targets, const RopeAngles& angles, const Tensor& weights) const {
  check_shape("causal_lm", "targets", targets, ids.shape());
  return linear_cross_entropy(forward(ids, angles), head(), targets.view({targets.numel()}),
                              {.reduction = Reduction::sum,
                               .row_weights = weights.defined() ? weights.view({weights.numel()}) : weights,
                               .bias = head_bias_,
                               .soft_cap = config_.logit_soft_cap});
}

Tensor CausalLm::token_nll(const Tensor& ids, const Tensor& targets, const RopeAngles& angles) const {
  check_shape("causal_lm", "targets", targets, ids.shape());
  const NoGrad no_grad;
  const LossOptions options{
      .reduction = Reduction::sum, .row_weights = {}, .bias = head_bias_, .soft_cap = config_.logit_soft_cap};
  const Tensor hidden = forward(ids, angles).value();  // [B,T,C]
  return rw::token_nll(hidden, head().value(), targets.view({targets.numel()}), options).view(ids.shape());
}

Var CausalLm::logits(const Var& hidden) const {
  const Var logits = linear(hidden, head(), head_bias_);
  return config_.logit_soft_cap > 0 ? soft_cap(logits, config_.logit_soft_cap) : logits;
}

KvCache CausalLm::make_cache(int64_t batch, int64_t capacity) const {
  const MemoryTag tag("kv cache");
  KvCache cache;
  cache.capacity = capacity;
  cache.raw_keys = scaling_->depends_on_length() || dynamic_cast<const PositionSetScaling*>(scaling_.get()) != nullptr;
  if (cache.raw_keys) cache.ids = Tensor::empty({batch, capacity}, DType::i32);
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    const Shape shape{batch, capacity, config_.num_key_value_heads, config_.head_dim};
    cache.layers.push_back({Tensor::empty(shape, compute_, device_), Tensor::empty(shape, compute_, device_)});
  }
  return cache;
}

Tensor CausalLm::extend(const Tensor& ids, KvCache& cache) const {
  check(ids.rank() == 2, "causal_lm", "ids must have shape [B, T], got ", ids.shape());
  const int64_t count = ids.size(1), total = cache.length + count;
  check(total <= cache.capacity, "causal_lm", "the KV cache holds ", cache.length, " of ", cache.capacity, " tokens, ",
        count, " more do not fit");
  const NoGrad no_grad;
  if (!cache.raw_keys) return extend_with(ids, cache, total);

  const int64_t batch = ids.size(0), past = cache.length;
  const Tensor host = ids.to(kCpu);
  for (int64_t b = 0; b < batch; ++b) {
    std::copy_n(host.data<int32_t>() + b * count, count, cache.ids.data<int32_t>() + b * cache.capacity + past);
  }
  std::vector<double> table = scaling_->table({.length = total}).inv_freq.value().to_vector();
  if (const auto* start = dynamic_cast<const StartTokens*>(scaling_.get()))
    table.push_back(static_cast<double>(start->start_tokens(total)));
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

Tensor CausalLm::extend_each(const Tensor& ids, std::span<KvCache* const> caches) const {
  const auto n = static_cast<int64_t>(caches.size());
  check_shape("causal_lm", "ids", ids, {1, n});
  const NoGrad no_grad;
  const Tensor positions = Tensor::empty({1, n});
  std::vector<float> factors;
  for (int64_t i = 0; i < n; ++i) {
    const KvCache& cache = *caches[static_cast<size_t>(i)];
    check(!cache.raw_keys, "causal_lm", "rope_type ", config_.rope.rope_type(),
          " depends on the length: each text needs an extend() of its own");
    check(cache.length < cache.capacity, "causal_lm", "the KV cache of text ", i, " is full with ", cache.length,
          " tokens");
    positions.data<float>()[i] = static_cast<float>(cache.length);
    for (const float f : scaling_->query_scale(cache.length, 1)) factors.push_back(f);
  }
  ForwardContext context{.angles = angles(positions, {}),
                         .local_angles = {},
                         .query_scale = factors.empty() ? Tensor() : Tensor::from(factors),
                         .cache = nullptr,
                         .key_angles = {},
                         .caches = caches,
                         .sets = nullptr,
                         .after_rope = {}};
  context.local_angles = local_angles(context.angles);
  const Tensor hidden = run(ids, context).value();
  for (KvCache* cache : caches) ++cache->length;
  return hidden;
}

Tensor CausalLm::extend_with(const Tensor& ids, KvCache& cache, int64_t total) const {
  const int64_t count = ids.size(1);
  const RopeContext rope_context{.length = total};
  ForwardContext context{.angles = angles(plain_positions(cache.length, count), rope_context),
                         .local_angles = {},
                         .query_scale = query_scale(*scaling_, cache.length, count),
                         .cache = &cache,
                         .key_angles = {},
                         .caches = {},
                         .sets = position_sets(cache.length, total),
                         .after_rope = {}};
  context.local_angles = local_angles(context.angles);
  if (cache.raw_keys) context.key_angles = angles(plain_positions(0, total), rope_context);
  const Tensor hidden = run(ids, context).value();
  cache.length = total;
  return hidden;
}

}  // namespace rw
