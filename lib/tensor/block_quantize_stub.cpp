// Blocks on a GPU in a build without CUDA: no tensor can live there, so this is never reached.
#include "tensor/block_quantize.h"

namespace rw::cuda {
void dequantize(const BlockMatrix&, const Tensor&) {
  fail("cuda", "this build has no CUDA support (configure with -DROPEWALK_CUDA=ON)");
}
}  // namespace rw::cuda
