// The model shapes of docs/results.md by their names: what `bench` times and `profile` takes apart.
#pragma once
#include <span>
#include <string>

#include "nn/causal_lm.h"

struct ModelShape {
  const char* name;
  int64_t hidden, layers, heads, kv_heads, ffn;
  bool tied;
  int64_t window, batch;  // tokens of a sample, and the samples that fill a large GPU
  bool recompute = false;
  bool small_state = false;  // does not fit beside its activations otherwise: split masters and bf16 gradients
  const char* family = "llama";

  int64_t head_dim() const { return hidden / heads; }
  /// Weights of the model: projections and norms of every block, the last norm, the embedding and, if untied, the head.
  int64_t parameters(int64_t vocab) const;
  /// The model's configuration; its window is the shape's. Families: llama, qwen3, and gpt_neox, whose MLP of two
  /// matrices has 3/2 of the rows, so that every family has the same weights but for norms and biases.
  rw::ModelConfig config(int64_t vocab) const;
  /// FLOPs of forward and backward for one token: 6 for each weight (not for the embedding's lookup), and attention
  /// with its causal half.
  double training_flops_per_token(int64_t vocab) const;
};

/// S, S-small, M, M-8k, M-32k, M-128k, L and X. S has the shape of llama2.c's stories15M.
std::span<const ModelShape> model_shapes();
/// Errors: no shape of that name; the message begins with `op` and lists them.
const ModelShape& model_shape(const char* op, const std::string& name);
/// "S, S-small, M", for help and messages.
std::string model_shape_names();

/// Token ids i32 [batch, length], uniform below `vocab`, the same for the same seed.
rw::Tensor random_ids(int64_t batch, int64_t length, int64_t vocab, uint64_t seed);
