// The optimizer's two passes over the flat arena on the GPU. Implemented in optim.cu; cuda_optim_stub.cpp stands in for
// it in a build without CUDA. Nothing here synchronises, and everything that changes from step to step is read from
// device memory: a captured CUDA graph of a step can be replayed with new values.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace rw::cuda {

/// A run of elements with its own rates. Elements between segments (padding) belong to the segment before them.
struct AdamWSegment {
  int64_t offset = 0;  // first element; segments are sorted by it and the first starts at 0
  float decay = 1;     // times weight_decay
  float lr_scale = 1;  // times lr
};

/// Segments on the device, with a lookup from blocks of elements. Made once.
struct AdamWTable {
  Tensor segments;       // the bytes of AdamWSegment[count + 1]; the last one is where the arena ends
  Tensor first_segment;  // i32: of the first element of each block
};
/// Errors: segments that are not sorted or do not start at 0.
AdamWTable adamw_table(const std::vector<AdamWSegment>& segments, int64_t numel, Device device);

/// What changes from step to step.
struct AdamWScalars {
  float lr = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0;
  float correction1 = 1, correction2 = 1;  // 1 - beta^t
  float grad_scale = 1;
  float clip = 0;     // largest global norm of grad * grad_scale; 0: no limit
  uint32_t draw = 0;  // moment_draw() of the step, where moments have fewer bits
};
inline constexpr int64_t kAdamWScalars = sizeof(AdamWScalars) / sizeof(float);
/// Writes the values to `scalars`, f32 [kAdamWScalars] on the GPU, in stream order and without waiting.
void set_adamw_scalars(const AdamWScalars& values, const Tensor& scalars);

/// result f64 [1] = sum of grad^2, in two deterministic stages. grad f32 or bf16 [N].
void squared_norm(const Tensor& grad, const Tensor& result);

/// AdamW's two moments of N elements: f32 or bf16 [N], or bytes in i32 words with f32 scales [(N + 63) / 64]
/// (nn/moment_codes.h).
struct AdamWMoments {
  Tensor m, v, m_scales = {}, v_scales = {};
};

/// The update of nn/adamw.h in one pass; grad, f32 or bf16 [N], becomes zero. master f32 [N];
/// compute bf16 [N] gets the rounded master, or is undefined. squared_norm f64 [1] is that of grad, not
/// scaled. If it is not finite, only grad changes.
void adamw(const Tensor& master, const Tensor& grad, const AdamWMoments& moments, const Tensor& compute,
           const AdamWTable& table, const Tensor& scalars, const Tensor& squared_norm);

/// The same for masters that are split (nn/split_master.h): high bf16 [N] is what the model computes with, low i32
/// [(N + 1) / 2] an int16 for each element. The values are those of adamw() bit for bit.
void adamw_split(const Tensor& high, const Tensor& low, const Tensor& grad, const AdamWMoments& moments,
                 const AdamWTable& table, const Tensor& scalars, const Tensor& squared_norm);

}  // namespace rw::cuda
