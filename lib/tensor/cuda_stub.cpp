// The GPU of a build without CUDA: there is none.
#include "tensor/cuda.h"
#include "tensor/error.h"
#include "tensor/gemm.h"
#include "tensor/quantize.h"

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
void gemm(const Operand&, const Operand&, const Tensor&, const GemmOptions&) { absent(); }
bool has_fp8_products() { return false; }
void matvec(const Tensor&, const Tensor&, const Tensor&) { absent(); }
void absolute_max(const Tensor&, const Tensor&) { absent(); }
void quantize(const Tensor&, const Tensor&, DType, const Quantized&) { absent(); }
Event::Event() { absent(); }
Event::~Event() = default;
void Event::record() { absent(); }
double Event::milliseconds_since(const Event&) const { absent(); }

}  // namespace rw::cuda
