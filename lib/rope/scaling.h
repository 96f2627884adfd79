// Where RoPE's inverse frequencies come from.
//
// A context-extension method chooses positions p(m), inverse frequencies theta_i and an attention scale A. The angle of
// pair i at token m is p(m) * theta_i, and cos and sin are multiplied by A. A RopeScaling chooses theta and A. A
// PositionSampler (positions.h) chooses p during training. RopeConfig holds everything that is needed to use a model
// again. It is what config.json states: some fields that every kind has, and one record of the kind's own.
//
//   RopeConfig config{.head_dim = 64, .max_position_embeddings = 2048, .kind = YarnRope{.factor = 4}};   // kinds.h
//   RopeConfig same = rope_config_from_json(read_file("config.json"));
//   RopeTable table = make_rope_scaling(config)->table({.length = 4096});   // table.inv_freq [D/2] f64
//
// How a kind is registered: its record is a struct that satisfies RopeRecord, in kinds/<name>.{h,cpp}, and rope_kinds()
// in kinds.cpp lists it. The list serves those who know a kind by name only: config.json, the command line. A record
// that is not in the list works as well wherever it is given as a value. docs/adding-a-method.md shows one.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "autograd/var.h"
#include "rope/record.h"

namespace rw {

/// How a query is scaled by the number of keys it sees (log-n attention, METHODS 6.6).
enum class LogN {
  none,
  position,  // max(1, ln n / ln L) with n = token index + 1: the same in prefill and in decoding
  constant,  // ln(kv length) / ln L, one number per forward, may be below 1: what CLEX's published code does
  ssmax,     // ln n / ln L with n = token index + 1, below 1 within the window: scalable softmax (arXiv 2501.19399)
};

inline constexpr int64_t kMostHeadDim = 65536;  // published models have at most 512

struct RopeConfig;
class RopeScaling;

/// What a RoPE kind's record has, beyond a MethodRecord.
///   check(config)          relations between its fields, and between them and the config. Ranges are checked already.
///   make(config)           the kind's source of tables; config.kind holds this record.
///   window_factor()        s = L'/L that the record states; 1 where it states none.
/// It may also have
///   complete(config, given, path)   called when JSON was read: fills in what the JSON leaves out, in the record or in
///                          the config, or refuses. `given`: the keys of the record that the JSON states; `path`
///                          begins the name of a field in messages
///   kSampler               the one sampler that trains this kind; without it, every sampler but those with a kind of
///                          their own does
///   kTrained = false       the kind is for use only: frequencies that follow the length are not trained
template <class R>
concept RopeRecord = MethodRecord<R> && requires(const R& r, const RopeConfig& config) {
  r.check(config);
  { r.make(config) } -> std::same_as<std::unique_ptr<RopeScaling>>;
  { r.window_factor() } -> std::convertible_to<double>;
};

/// The keys that a JSON object states.
using GivenKeys = std::vector<std::string>;

/// One RoPE kind with its settings, by value. Any RopeRecord converts to it: `config.kind = LinearRope{.factor = 4}`.
class RopeKind : public AnyRecord {
 public:
  /// Plain RoPE.
  RopeKind();
  template <RopeRecord R>
  RopeKind(R record) : AnyRecord(std::make_unique<Model<R>>(std::move(record))) {}

  /// Errors: a field out of its range, fields that do not fit together or to the config.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const { return held().make(config); }
  double window_factor() const { return held().window_factor(); }
  /// The same kind with its defaults.
  RopeKind defaults() const { return held().defaults(); }
  void complete(RopeConfig& config, const GivenKeys& given, const std::string& path) {
    static_cast<Interface&>(*held_).complete(config, given, path);
  }
  /// The sampler that trains this kind alone; "" if the kind leaves the choice.
  std::string sampler() const { return std::string(held().sampler()); }
  /// False for kinds that are used after training only.
  bool trained() const { return held().trained(); }

 private:
  struct Interface : Held {
    virtual void check(const RopeConfig& config) const = 0;
    virtual std::unique_ptr<RopeScaling> make(const RopeConfig& config) const = 0;
    virtual double window_factor() const = 0;
    virtual RopeKind defaults() const = 0;
    virtual void complete(RopeConfig& config, const GivenKeys& given, const std::string& path) = 0;
    virtual std::string_view sampler() const = 0;
    virtual bool trained() const = 0;
  };
  template <RopeRecord R>
  struct Model final : Holder<R, Interface, Model<R>> {
    using Holder<R, Interface, Model<R>>::Holder;
    void check(const RopeConfig& config) const override { this->record.check(config); }
    std::unique_ptr<RopeScaling> make(const RopeConfig& config) const override { return this->record.make(config); }
    double window_factor() const override { return this->record.window_factor(); }
    RopeKind defaults() const override { return RopeKind(R{}); }
    void complete(RopeConfig& config, const GivenKeys& given, const std::string& path) override {
      if constexpr (requires { this->record.complete(config, given, path); }) {
        this->record.complete(config, given, path);
      }
    }
    std::string_view sampler() const override {
      if constexpr (requires { R::kSampler; }) return R::kSampler;
      return "";
    }
    bool trained() const override {
      if constexpr (requires { R::kTrained; }) return R::kTrained;
      return true;
    }
  };
  const Interface& held() const { return static_cast<const Interface&>(*held_); }
};

/// One RoPE recipe, with HF's names: what all kinds share, and the kind.
struct RopeConfig {
  double rope_theta = 10000.0;             // b
  int64_t head_dim = 0;                    // elements of a head; D below is rotary_dim()
  double partial_rotary_factor = 1.0;      // share of a head that rotates
  int64_t max_position_embeddings = 2048;  // as in config.json; HF: the extended window for yarn, llama3 and longrope
  int64_t original_max_position_embeddings = 0;  // L, the window of pre-training; 0: max_position_embeddings
  LogN logn = LogN::none;
  RopeKind kind = {};

  /// The kind's name, as in config.json: "yarn".
  std::string rope_type() const { return kind.name(); }
  /// D: the elements of a head that rotate.
  int64_t rotary_dim() const { return static_cast<int64_t>(static_cast<double>(head_dim) * partial_rotary_factor); }
  /// L: the window of pre-training.
  int64_t original_window() const {
    return original_max_position_embeddings > 0 ? original_max_position_embeddings : max_position_embeddings;
  }
  /// L': the window that the model is meant for: max_position_embeddings where it is above L, otherwise L times the
  /// factor that the kind states.
  int64_t extended_window() const;
  bool operator==(const RopeConfig&) const = default;
};

/// theta_i = b^(-2i/D), i = 0..D/2-1, in f64.
std::vector<double> base_inv_freq(const RopeConfig& config);

/// The kinds that are known by name, each with its defaults.
const std::vector<RopeKind>& rope_kinds();
/// The kind of that name with its defaults, of `kinds` or, where that is empty, of rope_kinds(). Errors:
/// unknown name; the message lists the known ones.
RopeKind rope_kind(std::string_view name, std::span<const RopeKind> kinds = {});

/// What a family of models means where its config.json is silent. 0: config.json must state it.
struct RopeDefaults {
  int64_t max_position_embeddings = 0;
  int64_t head_dim = 0;  // 0: hidden_size / num_attention_heads
  double rope_theta = 10000;
  double partial_rotary_factor = 1;
  /// The base of windowed layers, for families whose windowed layers have a base of their own (Gemma 3: 10000).
  std::optional<double> local_rope_theta = {};
  std::span<const RopeKind> kinds = {};  // known by name; empty: rope_kinds()
};

/// The RoPE of a model: one recipe, or a second one for its layers with windowed attention.
struct RopeConfigs {
  RopeConfig full;
  std::optional<RopeConfig> sliding;
  bool operator==(const RopeConfigs&) const = default;
};

/// Reads the RoPE part of a whole config.json, as transformers 5 does:
///   - "rope_scaling" goes before "rope_parameters" unless it is null or {}; nothing of "rope_parameters" counts then;
///   - "rope_type" goes before "type"; without both the recipe is plain RoPE; Phi-3's "su" is longrope;
///   - rope_theta and partial_rotary_factor inside of a recipe go before those beside it. GPT-NeoX's rotary_emb_base
///     and rotary_pct are read as well;
///   - original_max_position_embeddings beside a recipe goes before one inside;
///   - {"full_attention": {..}, "sliding_attention": {..}} are two recipes, and so is rope_local_base_freq beside
///     rope_theta.
/// head_dim is read, or hidden_size / num_attention_heads. A linear recipe may state no original window, as published
/// models do. Then max_position_embeddings is the extended window, and L is max_position_embeddings / factor, unless
/// max_sequence_length says that the window was left as it was.
/// Errors: not JSON, unknown rope_type, missing or wrong-typed fields, numbers out of range, keys
/// that are no fields of the kind. All are named.
RopeConfigs rope_configs_from_json(const std::string& config_json_text, const RopeDefaults& defaults = {});
/// The same for models with one recipe. Errors: there are two.
RopeConfig rope_config_from_json(const std::string& config_json_text, const RopeDefaults& defaults = {});

/// `base` under another recipe, given as the JSON object that stands in "rope_scaling", or null for plain RoPE. What
/// the recipe leaves out stays as in `base`: rope_theta, the original window. Errors: as above.
RopeConfig rope_recipe_from_json(const RopeConfig& base, const std::string& recipe,
                                 std::span<const RopeKind> kinds = {});

/// The "rope_scaling" object that reads back as the same recipe; "null" for plain RoPE. rope_theta, head_dim,
/// partial_rotary_factor and max_position_embeddings are top-level keys of config.json: the caller writes them.
std::string rope_scaling_to_json(const RopeConfig& config);
/// The "rope_parameters" object of transformers 5 that reads back as the same, with rope_theta inside; one
/// part per type of layer if there are two recipes.
std::string rope_parameters_to_json(const RopeConfigs& configs);

/// What a table may depend on.
struct RopeContext {
  int64_t length = 0;     // tokens of the whole sequence so far (past + new), or the largest position + 1
  double t = 1.0;         // window scale factor of this sample, where the method is told it (CLEX in training)
  bool training = false;  // positions come from a sampler; learned frequencies record gradients
};

/// theta and A. inv_freq is f64 on the CPU, [D/2], or [B, D/2] with one row per
/// sample; it has history for CLEX in training.
struct RopeTable {
  Var inv_freq;
  double attention_scale = 1.0;
};

/// A source of tables. Thread safety: none; use one object per thread.
class RopeScaling {
 public:
  explicit RopeScaling(RopeConfig config);
  virtual ~RopeScaling();
  RopeScaling(const RopeScaling&) = delete;
  RopeScaling& operator=(const RopeScaling&) = delete;

  /// One table for the whole batch.
  virtual RopeTable table(const RopeContext& context) = 0;
  /// With a window scale factor per sample: [B, D/2] where they matter (CLEX), otherwise the table of `context`.
  virtual RopeTable table(std::span<const double> t_per_sample, const RopeContext& context);
  /// The same in training, with `parameters` in place of those that were set: for example copies on the host of
  /// parameters that lie on a GPU. Errors: as set_parameters.
  virtual RopeTable table(std::span<const double> t_per_sample, const RopeContext& context,
                          const std::vector<Var>& parameters);
  /// True if the table changes as a sequence grows: the KV cache must then hold unrotated keys.
  virtual bool depends_on_length() const { return false; }
  /// What is trained. Empty but for CLEX.
  virtual std::vector<ParameterSpec> parameter_specs() const { return {}; }
  /// The tensors for parameter_specs(), in that order. Errors: wrong count or shape.
  virtual void set_parameters(std::vector<Var> parameters);

  /// Log-n attention: what the queries of tokens first .. first + count - 1 are multiplied by; empty if nothing
  /// changes. `first` is a token index (the tokens already in the KV cache), not a RoPE position.
  std::vector<float> query_scale(int64_t first, int64_t count) const;

  const RopeConfig& config() const { return config_; }

 private:
  RopeConfig config_;
};

/// Errors: values outside their range (named).
std::unique_ptr<RopeScaling> make_rope_scaling(const RopeConfig& config);

}  // namespace rw
