// Compiled once for the build's own flags and, in builds for any x86-64, once more for each RW_GEMM_LEVEL with Eigen
// under another name (CMakeLists.txt). Code that the standard library leaves to the linker to share must not get in
// here: it could be shared with the rest of the program, on a CPU that cannot run it.
#include "tensor/gemm_block.h"

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>
#include <numeric>

#ifndef RW_GEMM_LEVEL
#define RW_GEMM_LEVEL build
#endif

namespace rw::cpu::RW_GEMM_LEVEL {
namespace {

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ConstView = Eigen::Map<const RowMajor<T>, 0, Eigen::OuterStride<>>;
template <class T>
using View = Eigen::Map<RowMajor<T>, 0, Eigen::OuterStride<>>;

template <class T>
void multiply(bool ta, bool tb, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b,
              int64_t ldb, T beta, T* c, int64_t ldc) {
  View<T> out(c, m, n, Eigen::OuterStride<>(ldc));
  if (beta == T(0)) {
    out.setZero();
  } else if (beta != T(1)) {
    out *= beta;
  }
  const auto product = [&](const auto& left, const auto& right) { out.noalias() += alpha * (left * right); };
  const ConstView<T> va(a, ta ? k : m, ta ? m : k, Eigen::OuterStride<>(lda));
  const ConstView<T> vb(b, tb ? n : k, tb ? k : n, Eigen::OuterStride<>(ldb));
  if (!ta && !tb) product(va, vb);
  if (!ta && tb) product(va, vb.transpose());
  if (ta && !tb) product(va.transpose(), vb);
  if (ta && tb) product(va.transpose(), vb.transpose());
}

/// Eigen's tile, and whole eights: a product with a vector goes by those. Its "m" is along our columns, since it sees
/// C^T = B^T A^T.
template <class T>
constexpr GemmKernel<T> kernel() {
  using Traits = Eigen::internal::gebp_traits<T, T>;
  return {multiply<T>, std::lcm<int64_t>(Traits::nr, 8), std::lcm<int64_t>(Traits::mr, 8)};
}

}  // namespace

constinit const GemmKernels gemm_kernels = {kernel<float>(), kernel<double>()};

}  // namespace rw::cpu::RW_GEMM_LEVEL
