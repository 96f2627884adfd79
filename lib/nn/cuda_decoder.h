// Internal: the GPU's half of nn/decoder.h, over raw pointers. Implemented in decoder.cu; cuda_decoder_stub.cpp stands
// in for it in a build without CUDA.
#pragma once
#include <memory>
#include <vector>

#include "autograd/ops/activation.h"
#include "autograd/ops/rope.h"
#include "tensor/tensor.h"

namespace rw::cuda {

/// Weights [N,K] row-major, all of one dtype (f32 or bf16); or those of DecoderModel::int8.
struct DecoderLayer {
  Tensor input_norm, qkv, o, post_norm, gate_up, down;  // [C], [(H+2K)D,C], [C,HD], [C], [2F,C], [C,F]
  Tensor k, v;                                          // [1,capacity,K,D]
  // Beyond LLaMA's; undefined where a family has none. input_norm and post_norm may be undefined, too.
  Tensor qkv_bias, o_bias, gate_up_bias, down_bias, input_norm_bias, post_norm_bias;
  Tensor q_norm, k_norm;                                     // [D], or [H*D] and [K*D] across heads
  Tensor attention_norm, attention_norm_bias;                // of what attention adds to the residual stream
  Tensor mlp_norm, mlp_norm_bias;                            // of what the MLP adds
  int64_t window = 0;                                        // 0: none
  bool rope = true, local_rope = false;                      // local_rope: by local_inv_freq
  Tensor qkv_scales, o_scales, gate_up_scales, down_scales;  // with int8 weights
};
struct DecoderModel {
  int64_t hidden, ffn, n_heads, n_kv_heads, head_dim, vocab, capacity;
  float eps;
  RopeLayout layout;
  double attention_scale;        // A of RoPE
  Tensor inv_freq;               // f64 [R/2]
  Tensor query_scale;            // f32 [capacity]: log-n attention, or undefined
  Tensor embedding, norm, head;  // [V,C], [C], [V,C]
  std::vector<DecoderLayer> layers;
  // Beyond LLaMA's; gate_up is [F,C] if not gated.
  bool layer_norm = false, gated = true, parallel = false;  // parallel: attention and MLP read the same residual stream
  Activation activation = Activation::silu;
  double norm_weight_offset = 0, embedding_scale = 1;
  double score_scale = 0;                   // 0: 1 / sqrt(D)
  double soft_cap = 0, logit_soft_cap = 0;  // 0: none
  Tensor norm_bias, head_bias;              // [C], [V]
  bool qk_norm_across = false;
  Tensor local_inv_freq;  // f64 [R/2], as many as inv_freq
  double local_attention_scale = 1;
  /// qkv, o, gate_up, down and head are codes of int8 blocks (tensor/block_quantize.h) that have f32 scales beside them;
  /// K is a multiple of 16.
  bool int8 = false;
  Tensor head_scales;
};

class DeviceDecoder {
 public:
  virtual ~DeviceDecoder() = default;
  /// Runs token `id` at `position`; logits f32 [V] on the host.
  virtual void run(int32_t id, int64_t position, float* logits) = 0;
  /// The most likely next token. The step after it is started at once with that token, if `ahead`.
  virtual int32_t greedy(int32_t id, int64_t position, bool ahead) = 0;
};
/// Whether a block's shared memory holds what a model of these sizes needs. widest:
/// the longest vector that a product reads. int8: with int8 weights, `dtype` is what the rest has.
bool decoder_fits(DType dtype, int64_t widest, int64_t head_dim, int64_t n_layers, bool int8);
/// Errors: decoder_fits() is false.
std::unique_ptr<DeviceDecoder> make_decoder(const DecoderModel& model);

}  // namespace rw::cuda
