// Dropout on a GPU in a build without CUDA: no tensor can live there, so this is never reached.
#include "autograd/ops/dropout.h"
#include "tensor/error.h"

namespace rw::cuda {
void dropout(const Tensor&, double, const DropoutKey&, const Tensor&) {
  fail("cuda", "this build has no CUDA support (configure with -DROPEWALK_CUDA=ON)");
}
}  // namespace rw::cuda
