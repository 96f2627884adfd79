// The optimizer's GPU passes in a build without CUDA. No arena can live on a GPU
// there, so none of these is ever reached.
#include "nn/cuda_optim.h"

namespace rw::cuda {
namespace {
[[noreturn]] void absent() { fail("cuda", "this build has no CUDA support (configure with -DROPEWALK_CUDA=ON)"); }
}  // namespace

AdamWTable adamw_table(const std::vector<AdamWSegment>&, int64_t, Device) { absent(); }
void set_adamw_scalars(const AdamWScalars&, const Tensor&) { absent(); }
void squared_norm(const Tensor&, const Tensor&) { absent(); }
void adamw(const Tensor&, const Tensor&, const AdamWMoments&, const Tensor&, const AdamWTable&, const Tensor&,
           const Tensor&) {
  absent();
}
void adamw_split(const Tensor&, const Tensor&, const Tensor&, const AdamWMoments&, const AdamWTable&, const Tensor&,
                 const Tensor&) {
  absent();
}

}  // namespace rw::cuda
