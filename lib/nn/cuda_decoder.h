// Internal: the GPU's half of nn/decoder.h, over raw pointers. Implemented in decoder.cu; cuda_decoder_stub.cpp stands
// in for it in a build without CUDA.
#pragma once
#include <memory>
#include <vector>

#include "autograd/ops/rope.h"
#include "tensor/tensor.h"

namespace rw::cuda {

/// Weights [N,K] row-major, all of one dtype (f32 or bf16).
struct DecoderLayer {
  Tensor input_norm, qkv, o, post_norm, gate_up, down;  // [C], [(H+2K)D,C], [C,HD], [C], [2F,C], [C,F]
  Tensor k, v;                                          // [1,capacity,K,D]
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
};

class DeviceDecoder {
 public:
  virtual ~DeviceDecoder() = default;
  /// Runs token `id` at `position`; logits f32 [V] on the host.
  virtual void run(int32_t id, int64_t position, float* logits) = 0;
  /// The most likely next token. The step after it is started at once with that token, if `ahead`.
  virtual int32_t greedy(int32_t id, int64_t position, bool ahead) = 0;
};
/// Whether a block's shared memory holds what a model of these sizes needs. widest: the longest vector that a product
/// reads.
bool decoder_fits(DType dtype, int64_t widest, int64_t head_dim, int64_t n_layers);
/// Errors: decoder_fits() is false.
std::unique_ptr<DeviceDecoder> make_decoder(const DecoderModel& model);

}  // namespace rw::cuda
