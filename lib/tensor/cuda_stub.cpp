// The GPU of a build without CUDA: there is none.
#include "tensor/cuda.h"
#include "tensor/error.h"

namespace rw::cuda {
namespace {
[[noreturn]] void absent() { fail("cuda", "this build has no CUDA support (configure with -DROPEWALK_CUDA=ON)"); }
}  // namespace

int device_count() { return 0; }
std::string device_name(int) { return "built without CUDA"; }
void set_device(int) { absent(); }
void* device_malloc(int64_t, int) { absent(); }
void device_free(void*, int) noexcept {}
void copy(void*, const void*, int64_t, CopyKind) { absent(); }
void fill(void*, DType, int64_t, double) { absent(); }
void convert(void*, DType, const void*, DType, int64_t) { absent(); }
void accumulate(void*, DType, const void*, DType, int64_t) { absent(); }
void synchronize() {}
void gemm(bool, bool, int64_t, int64_t, int64_t, double, const void*, const void*, DType, double, void*, DType) {
  absent();
}
void matvec(int64_t, int64_t, const void*, DType, const void*, void*, DType) { absent(); }
Event::Event() { absent(); }
Event::~Event() = default;
void Event::record() { absent(); }
double Event::milliseconds_since(const Event&) const { absent(); }

}  // namespace rw::cuda
