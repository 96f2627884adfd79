// Which of the compiled products this CPU gets. ROPEWALK_CPU_LEVELS: those for x86-64-v3 and v4 are in this build.
#include "tensor/gemm_block.h"

namespace rw::cpu {

namespace build {
extern const GemmKernel<float> gemm_f32;
extern const GemmKernel<double> gemm_f64;
}  // namespace build

#ifdef ROPEWALK_CPU_LEVELS
namespace v3 {
extern const GemmKernel<float> gemm_f32;
extern const GemmKernel<double> gemm_f64;
}  // namespace v3
namespace v4 {
extern const GemmKernel<float> gemm_f32;
extern const GemmKernel<double> gemm_f64;
}  // namespace v4
#endif

namespace {
template <class T>
const GemmKernel<T>& best(const GemmKernel<T>& build, [[maybe_unused]] const GemmKernel<T>& v3,
                          [[maybe_unused]] const GemmKernel<T>& v4) {
#ifdef ROPEWALK_CPU_LEVELS
  if (__builtin_cpu_supports("x86-64-v4")) return v4;
  if (__builtin_cpu_supports("x86-64-v3")) return v3;
#endif
  return build;
}
}  // namespace

#ifndef ROPEWALK_CPU_LEVELS
namespace v3 = build;
namespace v4 = build;
#endif

template <>
const GemmKernel<float>& gemm_kernel<float>() {
  static const GemmKernel<float>& kernel = best(build::gemm_f32, v3::gemm_f32, v4::gemm_f32);
  return kernel;
}
template <>
const GemmKernel<double>& gemm_kernel<double>() {
  static const GemmKernel<double>& kernel = best(build::gemm_f64, v3::gemm_f64, v4::gemm_f64);
  return kernel;
}

}  // namespace rw::cpu
