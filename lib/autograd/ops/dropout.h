// Dropout (Srivastava et al. 2014), drawn by a key: the same mask on every device, after a resume and in recomputation.
#pragma once
#include "autograd/var.h"

namespace rw {

/// What a mask depends on.
struct DropoutKey {
  Tensor words;  // i32 [4] on x's device: number of the draw (low, high), first row of x among all (low, high)
  uint64_t seed = 0;
  uint32_t site = 0;  // below 2^24: which of a model's masks this is
  int64_t row = 0;    // of x's first row behind that of `words`
};

/// y = x / (1 - p) where a uniform number is at least p, else 0; x [...,C]. The numbers are Philox4x32-10 of
/// (seed, site, draw, element), elements counted from row words[2..3] + row on. `key.words` must not
/// change before backward. Errors: p outside [0, 1); f64 on a GPU.
Var dropout(const Var& x, double p, const DropoutKey& key);

namespace cuda {
/// The values on a GPU, of arguments that were checked: x, y f32 or bf16.
void dropout(const Tensor& x, double p, const DropoutKey& key, const Tensor& y);
}  // namespace cuda

}  // namespace rw
