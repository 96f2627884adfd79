// Pinned memory in a build without CUDA: no tensor can live on a GPU there, so this is never reached.
#include "tensor/host_copy.h"

namespace rw::cuda {
namespace {
[[noreturn]] void absent() { fail("cuda", "this build has no CUDA support (configure with -DROPEWALK_CUDA=ON)"); }
}  // namespace

Tensor pinned_tensor(const Shape&, DType) { absent(); }
std::unique_ptr<HostCopies> make_host_copies() { absent(); }

}  // namespace rw::cuda
