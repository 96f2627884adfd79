// Decoding: one text, one token at a time. It computes what CausalLm::extend computes. The time goes into reading
// every weight once, so each block is five passes. Each pass is a matrix-vector product with the work around it, over
// buffers that are made once.
//
//   qkv = W_qkv norm(x) | o = attention(rope(q), cache + rope(k), v) | x += W_o o
//   h = swiglu(W_gu norm(x)) | x += W_d h
//
// On the CPU all threads go through the passes together, with a barrier after each (cpu_decoder.cpp).
// On a GPU all blocks of one kernel do so (decoder.cu for LLaMA's block, decoder_families.cu for the
// others). generate() uses a Decoder where it can.
#pragma once
#include <memory>
#include <vector>

#include "nn/causal_lm.h"

namespace rw {

/// Thread safety: none; the model's weights must not change meanwhile.
class Decoder {
 public:
  /// A Decoder needs batch 1, a cache of rotated keys and a model without adapters. The model computes in f32 or bf16
  /// on a GPU, in f32 on the CPU (with a bf16 copy of the weights or without). On a GPU its sizes are multiples of 8
  /// and fit into shared memory. Anything else goes through CausalLm::extend.
  static bool supports(const CausalLm& model, const KvCache& cache);

  /// Goes on behind what `cache` holds. Both must outlive the decoder. Errors: not supported.
  Decoder(const CausalLm& model, KvCache& cache);
  virtual ~Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  static std::unique_ptr<Decoder> make(const CausalLm& model, KvCache& cache);

  /// Appends token `id` to the cache; the logits of the token after it, f32 [V], valid until the next call. Errors: the
  /// cache is full, an id outside the vocabulary.
  const std::vector<float>& step(int32_t id);
  /// The same for temperature 0: the most likely token, smallest id first. On a GPU nothing but the id comes back.
  int32_t greedy(int32_t id);

 protected:
  virtual void run(int32_t id, std::vector<float>& logits) = 0;
  virtual int32_t run_greedy(int32_t id) = 0;
  void check_next(int32_t id) const;

  const CausalLm& model_;
  KvCache& cache_;
  std::vector<float> logits_;
};

}  // namespace rw
