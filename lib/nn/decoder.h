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
#include <span>
#include <string>
#include <vector>

#include "nn/causal_lm.h"

namespace rw {

/// Thread safety: none; the model's weights must not change meanwhile.
class Decoder {
 public:
  /// A Decoder needs batch 1, a cache of rotated keys and a model without adapters. The model computes in f32 or bf16
  /// on a GPU, in f32 on the CPU (with a bf16 copy of the weights or without, or with int8 weights). On a GPU its sizes are multiples of 8
  /// and fit into shared memory. Anything else goes through CausalLm::extend.
  static bool supports(const CausalLm& model, const KvCache& cache) { return refusal(model, cache).empty(); }
  /// Why there is none, as part of a sentence; empty if there is one.
  static std::string refusal(const CausalLm& model, const KvCache& cache);

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

/// CausalLm::round_to_int8() for decoding: a Decoder reads 8.5 bits for each weight. Errors: this model has no Decoder
/// for them, and why; those of round_to_int8().
void use_int8_weights(CausalLm& model);

/// Several texts, one token of each at a time, so that the weights are read once for all of them. Thread safety: none;
/// the model's weights must not change meanwhile.
class BatchDecoder {
 public:
  static constexpr int64_t kMost = 16;  // texts

  /// Whether every text gets the bits that a Decoder would give it alone: on the CPU, where Decoder::supports().
  /// Elsewhere the matrix products have several rows, which are rounded otherwise than one row is.
  static bool exact(const CausalLm& model, const KvCache& cache);
  /// A cache of rotated keys of one text each; exact() or not.
  static bool supports(const CausalLm& model, const KvCache& cache);

  /// Goes on behind what each of `caches` holds. They must outlive the decoder. Errors: none, or more than kMost; not
  /// supported.
  static std::unique_ptr<BatchDecoder> make(const CausalLm& model, std::span<KvCache> caches);
  virtual ~BatchDecoder() = default;
  BatchDecoder(const BatchDecoder&) = delete;
  BatchDecoder& operator=(const BatchDecoder&) = delete;

  struct Next {
    int64_t text = 0;  // which of the caches
    int32_t id = 0;
  };
  /// Appends a token to each text that is named, at most once; the logits after it, f32 [next.size(), V], valid until
  /// the next call. Errors: a cache is full, an id outside the vocabulary, a text that is not there or named twice.
  const std::vector<float>& step(std::span<const Next> next);
  /// The same, and the most likely token after each, smallest id first.
  std::vector<int32_t> greedy(std::span<const Next> next);

 protected:
  BatchDecoder(const CausalLm& model, std::span<KvCache> caches);
  virtual void run(std::span<const Next> next, std::vector<float>& logits) = 0;
  /// The most likely token of a row of what run() made last. Errors: that logit is not finite.
  virtual int32_t likeliest(int64_t row) const;

  const CausalLm& model_;
  std::span<KvCache> caches_;
  std::vector<float> logits_;
};

}  // namespace rw
