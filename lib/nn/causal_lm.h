// A causal language model of any family: embedding, blocks, final norm, output head,
// put together as ModelConfig describes them.
//
//   CausalLm model(config, DType::f32, kCpu, /*seed=*/1);
//   Var loss = model.loss(ids, targets, model.angles(positions, {}));    // sum of nll over scored targets
//   backward(loss);
//
// Thread safety: none; one thread per model. Several models may run in several threads.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "nn/block.h"
#include "rope/scaling.h"

namespace rw {

class HostInputs;

class CausalLm {
 public:
  /// A new model with random weights, or zeros without a seed. `compute`: f32, f64, or bf16 (the
  /// master weights are f32 then). `memory`: how its arena keeps them. Errors: a config that does not
  /// fit together; ParamArena::allocate's; memory.
  CausalLm(ModelConfig config, DType compute, Device device, std::optional<uint64_t> seed, ArenaMemory memory = {});
  /// What a model of this config holds, in the arena's order; allocates no weights.
  /// Errors: a config that does not fit together.
  static std::vector<ParameterSpec> parameter_specs(const ModelConfig& config);
  /// A model without weights, which has its parts and what its arena will hold. Errors: as parameter_specs.
  static std::unique_ptr<const CausalLm> declare(const ModelConfig& config);
  CausalLm(const CausalLm&) = delete;
  CausalLm& operator=(const CausalLm&) = delete;

  /// cos and sin for positions f32 [B,T] or [1,T]. `context.length` 0 means the largest position + 1; `t`: window scale
  /// factor per sample, for methods that learn with it (CLEX).
  RopeAngles angles(const Tensor& positions, RopeContext context, const std::vector<double>& t = {}) const;
  /// Positions first, first + 1, ... as the model uses them for plain text: f32 [1, count].
  Tensor plain_positions(int64_t first, int64_t count) const;

  /// ids i32 [B,T] -> normed hidden states [B,T,C].
  Var forward(const Tensor& ids, const RopeAngles& angles) const;
  /// Sum of -log p(target) over targets i32 [B,T] that are not kIgnoreIndex: [1].
  /// `weights` f32 [B,T]: each term times its own.
  Var loss(const Tensor& ids, const Tensor& targets, const RopeAngles& angles, const Tensor& weights = {}) const;
  /// -log p(target) per token, f32 [B,T]; no gradients.
  Tensor token_nll(const Tensor& ids, const Tensor& targets, const RopeAngles& angles) const;
  /// hidden [...,C] -> logits [...,V].
  Var logits(const Var& hidden) const;

  /// An empty cache for `capacity` tokens.
  KvCache make_cache(int64_t batch, int64_t capacity) const;
  /// Appends ids [B,T] to the cache and gives the hidden states of these tokens [B,T,C]. Works for prefill and for
  /// single steps; methods whose frequencies depend on the length use those of the length reached (see KvCache::exact).
  /// Errors: the cache is full.
  Tensor extend(const Tensor& ids, KvCache& cache) const;
  /// Appends one token to each of several texts, whose caches are of batch 1 and hold rotated keys: ids [1,n], of which
  /// ids[0,i] goes to *caches[i]. Gives the hidden states of these tokens [1,n,C]. Every product reads its weights once
  /// for all. Errors: as extend; raw keys.
  Tensor extend_each(const Tensor& ids, std::span<KvCache* const> caches) const;

  const ModelConfig& config() const { return config_; }
  /// The parts, as bound to the weights now.
  std::vector<Block>& blocks() { return blocks_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const Var& embedding() const { return embedding_; }  // [V,C]
  const Norm& final_norm() const { return *final_norm_; }
  Var head() const { return config_.tie_word_embeddings ? embedding_ : head_; }  // [V,C]
  const Var& head_bias() const { return head_bias_; }                            // [V], or undefined
  ParamArena& arena() { return arena_; }
  const ParamArena& arena() const { return arena_; }
  RopeScaling& scaling() const { return *scaling_; }
  /// The table of ModelConfig::local_rope, on the model's device; undefined without one.
  const RopeTable& local_table() const { return local_table_; }
  /// Index in the arena of the first parameter that scaling() learns; they are the last ones.
  size_t rope_parameters() const { return rope_index_; }
  DType dtype() const { return compute_; }
  Device device() const { return device_; }
  /// Prepares for training: gradients and optimizer state.
  void enable_grad();
  /// For decoding on the CPU: products of a single token read a bf16 copy of the weights. If the weights are bf16
  /// numbers (a bf16 checkpoint), the results are exact. Otherwise the copy is used only if `lossy`. Returns whether it
  /// is used.
  bool use_bf16_copy(bool lossy = false);
  /// Rounds the weights of the blocks' linear layers and of the head to int8 in blocks of 64 (tensor/block_quantize.h):
  /// everything is computed with what the codes stand for, and a Decoder reads the codes. The model cannot be trained
  /// afterwards. use_int8_weights() (nn/decoder.h) asks first whether there is a Decoder. Errors: adapters; gradients;
  /// a bf16 copy; weights that are not finite.
  void round_to_int8();
  /// The codes of the head; nullptr without round_to_int8().
  const BlockMatrix* head_codes() const { return head_codes_ ? &*head_codes_ : nullptr; }
  struct RecomputeOptions {
    bool inputs_on_host = false;  // a block's input lies in host memory
    bool keep_attention = false;  // attention's output is kept too, and not computed again
  };
  /// Recompute each block in backward instead of keeping its activations. The same bits.
  void set_recompute(bool on, const RecomputeOptions& options);
  void set_recompute(bool on) { set_recompute(on, {}); }
  /// In training, the feed-forward layers go through at most so many tokens at a time, and backward makes their
  /// activations again (autograd/recompute.h); 0: all at once. The gradients of weights are the same but for rounding.
  void set_mlp_tile(int64_t tokens);
  /// From here on forward draws the adapters' dropout masks by this number, for samples of which the first has so many
  /// rows (tokens) before it; nullopt: no dropout. `send` false: the caller writes words_of() to dropout_words(),
  /// without waiting for a GPU.
  struct DropoutDraw {
    uint64_t seed = 0, draw = 0;
    int64_t first_row = 0;
  };
  void set_dropout(std::optional<DropoutDraw> draw, bool send = true);
  static Tensor words_of(const DropoutDraw& draw);                // i32 [4] on the CPU
  const Tensor& dropout_words() const { return dropout_.words; }  // i32 [4] on the model's device
  bool has_dropout() const { return config_.adapter && config_.adapter->dropout > 0; }
  /// How the blocks' linear layers multiply; embedding, norms, attention and head stay as they are. Errors: 8-bit
  /// products of a model that does not compute in bf16, or on a GPU that has none.
  void set_linear(const LinearOptions& options);
  /// Calls f in the backward pass of what is recorded from now on, each time that parameters [first, last) of the arena
  /// have their whole gradient. Norm and head come first, then the blocks from the last to the first. The embedding and
  /// what RoPE learns have their gradients when backward is over. An empty function ends it.
  void set_gradient_hook(std::function<void(size_t first, size_t last)> f) { gradient_hook_ = std::move(f); }
  /// Calls f in the backward pass of what is recorded from now on, when the gradient of the angles' inv_freq is whole.
  /// That is in the first block, before the product of its q, k and v. An empty function ends it.
  void set_frequency_hook(std::function<void()> f) { frequency_hook_ = std::move(f); }
  /// Swaps the RoPE recipe of an existing model (to extend its window). Call before enable_grad(). Errors: a recipe
  /// with parameters of its own on a model that was built without them; build the model with that recipe instead.
  void set_rope(const RopeConfig& rope);

 private:
  explicit CausalLm(ModelConfig config);  // declares the parameters only
  Var run(const Tensor& ids, ForwardContext context) const;
  RopeAngles local_angles(const RopeAngles& angles) const;
  std::shared_ptr<const PositionSetAngles> position_sets(int64_t first, int64_t total) const;
  Tensor extend_with(const Tensor& ids, KvCache& cache, int64_t total) const;
  void bind();
  void mark_gradients(size_t first, size_t last) const;
  void freeze_base();

  ModelConfig config_;
  DType compute_ = DType::f32;
  Device device_ = kCpu;
  ParamArena arena_;
  std::unique_ptr<RopeScaling> scaling_;
  RopeTable local_table_;  // of config_.local_rope, on the model's device
  size_t embedding_index_ = 0, norm_index_ = 0, head_index_ = 0, head_bias_index_ = 0, rope_index_ = 0;
  std::vector<Block> blocks_;
  std::unique_ptr<Norm> final_norm_;
  std::vector<size_t> block_index_;  // first parameter of each block
  std::function<void(size_t, size_t)> gradient_hook_;
  std::function<void()> frequency_hook_;
  Var embedding_, head_, head_bias_;  // [V,C], [V,C], [V]
  std::optional<BlockMatrix> head_codes_;
  DropoutState dropout_;
  bool recompute_ = false, keep_attention_ = false;
  std::shared_ptr<HostInputs> host_inputs_;  // with recomputation: where the blocks' inputs are kept, if apart
};

}  // namespace rw
