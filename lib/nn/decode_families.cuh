// What the kernel that decodes a token of other families than LLaMA (decoder_families.cu) gets besides Model.
#pragma once
#include "nn/cuda_decoder.h"
#include "nn/decode_step.cuh"

namespace rw::cuda::decode {

/// Of one block of the model; pointers are null where the family has no such thing.
template <class T>
struct LayerExtras {
  const T *qkv_bias, *o_bias, *gate_up_bias, *down_bias;
  const T *input_norm_bias, *post_norm_bias;
  const T *q_norm, *k_norm;
  const T *attention_norm, *attention_norm_bias, *mlp_norm, *mlp_norm_bias;  // of what is added to the residual stream
  int window;                                                                // 0: none
  int table;                                                                 // of cos and sin: 0 or 1; -1: no rotation
};

template <class T>
struct FamilyModel {
  const LayerExtras<T>* layers;
  const T *norm_bias, *head_bias;
  const double* local_inv_freq;  // [pairs] of table 1, or null
  double local_rope_factor;
  float* other;  // [C]: the residual stream after the part of a block that is being computed
  float* added;  // [C]: what is added to it, before its norm
  float* keys;   // [K,D]: before their norm
  float norm_weight_offset, embedding_scale, soft_cap, logit_soft_cap;
  Activation activation;
  bool layer_norm, parallel, qk_norm, qk_norm_across;
};

/// A FamilyModel with the memory that it points to.
template <class T>
class Family {
 public:
  explicit Family(const DecoderModel& m);
  const FamilyModel<T>& model() const { return model_; }

 private:
  FamilyModel<T> model_{};
  Tensor layers_, other_, added_, keys_;
};

/// Whether the kernel for LLaMA's blocks computes the model.
bool is_llama(const DecoderModel& m);

template <class T>
using FamilyKernel = void (*)(Model<T>, FamilyModel<T>, int, int, int32_t*);
/// By slots of a warp's ring, the width that the head dim is padded to, and whether weights are int8.
template <class T>
FamilyKernel<T> family_step_kernel(int slots, int wide, bool int8);

}  // namespace rw::cuda::decode
