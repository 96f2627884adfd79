// Collectives between GPUs in a build without NCCL.
#include "nn/parallel/cuda_nccl.h"

namespace rw::cuda {
namespace {
[[noreturn]] void absent() {
  fail("parallel",
       "this build has no NCCL, which several GPUs need (configure with -DROPEWALK_CUDA=ON "
       "-DROPEWALK_NCCL=ON), or train with --device cpu");
}
}  // namespace

std::string nccl_id() { absent(); }
std::unique_ptr<Collectives> connect_nccl(const std::string&, int, int) { absent(); }

}  // namespace rw::cuda
