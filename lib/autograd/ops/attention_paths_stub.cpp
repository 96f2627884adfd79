// In a build without CUDA there is nothing to choose from.
#include "autograd/ops/attention_paths.h"

namespace rw::cuda::attn {
void set_fastest_path(Path) {}
void set_backward_fusion(Fusion) {}
}  // namespace rw::cuda::attn
