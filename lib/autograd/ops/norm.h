// Normalisation: RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016), alone and fused with the residual
// add before them, and RMSNorm of the query and key heads.
#pragma once
#include <utility>

#include "autograd/var.h"

namespace rw {

struct NormOptions {
  double eps = 1e-5;
  double weight_offset = 0;  // added to every weight: 1 for Gemma, whose checkpoints store weight - 1
  bool feeds_fp8 = false;    // an 8-bit product reads y: y.largest() is set
};

/// y = x / sqrt(mean(x^2) + eps) * (weight + weight_offset) over the last dimension; x [...,C], weight [C].
/// Errors: shapes, dtypes or devices that differ.
Var rms_norm(const Var& x, const Var& weight, const NormOptions& options);
Var rms_norm(const Var& x, const Var& weight, double eps);

/// h = x + residual; y = rms_norm(h). Returns {h, y}: h is the next residual stream.
std::pair<Var, Var> residual_rms_norm(const Var& x, const Var& residual, const Var& weight, const NormOptions& options);
std::pair<Var, Var> residual_rms_norm(const Var& x, const Var& residual, const Var& weight, double eps);

/// The same of a stream that was added up before: h is x, and y = rms_norm(x). Backward is that of residual_rms_norm,
/// bit for bit: one pass over the gradients of both, where two uses of x would be added up afterwards.
std::pair<Var, Var> stream_rms_norm(const Var& x, const Var& weight, const NormOptions& options);

/// y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last dimension, var the biased variance; x [...,C],
/// weight [C], bias [C] or undefined. Errors: shapes, dtypes or devices that differ.
Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps);

/// h = x + residual; y = layer_norm(h). Returns {h, y}.
std::pair<Var, Var> residual_layer_norm(const Var& x, const Var& residual, const Var& weight, const Var& bias,
                                        double eps);

/// As stream_rms_norm.
std::pair<Var, Var> stream_layer_norm(const Var& x, const Var& weight, const Var& bias, double eps);

struct QkNormOptions {
  int64_t n_heads = 0, n_kv_heads = 0;
  double eps = 1e-6;
  double weight_offset = 0;   // as in NormOptions
  bool across_heads = false;  // false: every head by itself (Qwen3, Gemma 3); true: all heads of a token (OLMo 2)
  bool in_place = false;  // the result may reuse qkv's bytes: qkv must not be used afterwards. It does so if nothing
                          // is recorded; backward needs the input.
};

/// rms_norm of the query heads and of the key heads. qkv [B,T,H+2K,D] holds the q heads, then the k heads, then the v
/// heads, which pass through. Gives [B,T,H+2K,D]. q_weight and k_weight are [D], shared by all heads. With across_heads
/// they are [H*D] and [K*D], and the mean goes over all of a token's query (key) heads.
/// Errors: head counts that do not fit qkv; shapes, dtypes or devices that differ.
Var qk_norm(const Var& qkv, const Var& q_weight, const Var& k_weight, const QkNormOptions& options);

}  // namespace rw
