// Where RoPE's inverse frequencies come from.
//
// A context-extension method is a choice of (position p(m), inverse frequency theta_i, attention scale A): the angle of
// pair i at token m is p(m) * theta_i, and cos and sin are multiplied by A. A RopeScaling chooses theta and A; a
// PositionSampler (positions.h) chooses p during training. Everything that is needed to use a model again stands in
// RopeConfig, which is what config.json's "rope_scaling" holds.
//
//   auto scaling = make_rope_scaling(rope_config_from_json(read_file("config.json")));
//   RopeTable table = scaling->table({.length = 4096});   // table.inv_freq [D/2] f64, table.attention_scale
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "autograd/var.h"

namespace rw {

/// How a query is scaled by the number of keys it sees (log-n attention, METHODS 6.6).
enum class LogN {
  none,
  position,  // max(1, ln n / ln L) with n = token index + 1: the same in prefill and in decoding
  constant,  // ln(kv length) / ln L, one number per forward, may be below 1: what CLEX's published code does
};

/// What CLEX adds to the recipe. The defaults are our choice; `published` in the comments is CLEX's code at 023709d.
struct ClexConfig {
  int64_t max_factor = 16;     // largest window scale factor t
  int64_t param_factor = 1;    // hidden width of the dynamics, times the rotary dimension
  std::string act = "silu";    // "silu" (paper, first release) | "tanh" (published default now)
  std::string prior = "code";  // xi_t: "code" = derivative of NTK with s = 2t - 1 (published) | "paper" = with s = t
  bool ntk_input = true;       // the net sees z + ln theta_NTK(t) (published) | z(t) alone (paper)
  double input_base = 0;   // base of ln theta_NTK in the input; 0: rope_theta (published: 1e4 whatever rope_theta is)
  double time_dt = 0.1;    // step of the 3/8 rule; f64 (published: 0.01 in f32)
  bool grow_steps = true;  // it is the step at t = 1, and others are as much longer as t is | the same everywhere
  std::string grad = "backprop";  // through the solver (published): exact, and 4 times faster | "adjoint"
  double lr_scale = 0.1;          // learning rate of the two matrices, times the schedule's
};

inline constexpr int64_t kMostHeadDim = 65536;  // published models have at most 512

/// One RoPE recipe: plain data, HF's names. Which fields count depends on `rope_type`.
struct RopeConfig {
  // default | linear | ntk | dynamic | dynamic_linear | yarn | llama3 | longrope | clex | e2 | abf
  std::string rope_type = "default";
  double rope_theta = 10000.0;             // b
  int64_t head_dim = 0;                    // elements of a head; D below is rotary_dim()
  double partial_rotary_factor = 1.0;      // share of a head that rotates
  int64_t max_position_embeddings = 2048;  // as in config.json; HF: the extended window for yarn, llama3 and longrope
  int64_t original_max_position_embeddings = 0;  // L, the window of pre-training; 0: max_position_embeddings

  double factor = 1.0;  // s = L'/L. dynamic: growth. e2: fixed g, or 0 to choose g = ceil(n / L)
  // yarn
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;                // round the two ends of the ramp outwards
  std::string yarn_variant = "paper";  // "paper": mixes frequencies | "revised": mixes wavelengths (PoSE's code)
  std::optional<double> mscale, mscale_all_dim;
  std::optional<double> attention_factor;  // yarn, longrope: overrides A
  // llama3
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  // longrope, [D/2]
  std::vector<double> short_factor, long_factor;
  // abf: the new base
  double base = 0;
  ClexConfig clex;
  LogN logn = LogN::none;

  /// D: the elements of a head that rotate.
  int64_t rotary_dim() const { return static_cast<int64_t>(static_cast<double>(head_dim) * partial_rotary_factor); }
  /// L: the window of pre-training.
  int64_t original_window() const {
    return original_max_position_embeddings > 0 ? original_max_position_embeddings : max_position_embeddings;
  }
};

/// theta_i = b^(-2i/D), i = 0..D/2-1, in f64.
std::vector<double> base_inv_freq(const RopeConfig& config);

/// Reads the RoPE part of a whole config.json: "rope_scaling" (HF v4: rope_type or type) or "rope_parameters" (v5, with
/// rope_theta inside), head_dim (or hidden_size / num_attention_heads), rope_theta, partial_rotary_factor and the
/// window. Errors: not JSON, unknown rope_type, missing or wrong-typed fields (named).
RopeConfig rope_config_from_json(const std::string& config_json_text);

/// The "rope_scaling" object that reads back as the same recipe; "null" for plain RoPE. rope_theta, head_dim,
/// partial_rotary_factor and max_position_embeddings are top-level keys of config.json: the caller writes them.
std::string rope_scaling_to_json(const RopeConfig& config);

/// What a table may depend on.
struct RopeContext {
  int64_t length = 0;     // tokens of the whole sequence so far (past + new), or the largest position + 1
  double t = 1.0;         // window scale factor of this sample, where the method is told it (CLEX in training)
  bool training = false;  // positions come from a sampler; learned frequencies record gradients
};

/// theta and A. inv_freq is f64 on the CPU, [D/2], or [B, D/2] with one row per sample; it has history for CLEX in
/// training.
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
  /// The same in training, with `parameters` in place of those that were set: copies on the host of what lies on a GPU,
  /// say. Errors: as set_parameters.
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

/// Errors: unknown rope_type, values outside their range (named).
std::unique_ptr<RopeScaling> make_rope_scaling(const RopeConfig& config);

}  // namespace rw
