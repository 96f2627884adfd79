// Recorded GPU work in a build without CUDA: no model can live on a GPU there, so this is never reached.
#include "nn/cuda_graph.h"

namespace rw::cuda {
namespace {
[[noreturn]] void absent() { fail("cuda", "this build has no CUDA support (configure with -DROPEWALK_CUDA=ON)"); }
}  // namespace

std::unique_ptr<RecordedWork> record_work(Device, const std::function<void()>&, const RecordedWork*) { absent(); }
std::unique_ptr<Staging> make_staging(int64_t, int) { absent(); }

}  // namespace rw::cuda
