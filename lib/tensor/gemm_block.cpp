// A matrix product on one thread, by Eigen.
//
// Compiled once for the build's own flags and, in builds for any x86-64, once more for each RW_LEVEL with Eigen
// under another name (CMakeLists.txt). Code that the standard library leaves to the linker to share must not get in
// here: it could be shared with the rest of the program, on a CPU that cannot run it.
#include "tensor/gemm_block.h"

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>
#include <numeric>

#ifndef RW_LEVEL
#define RW_LEVEL build
#endif

namespace rw::cpu::RW_LEVEL {
namespace {

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ConstView = Eigen::Map<const RowMajor<T>, 0, Eigen::OuterStride<>>;
template <class T>
using View = Eigen::Map<RowMajor<T>, 0, Eigen::OuterStride<>>;

template <class T>
void multiply(const Product<T>& p) {
  const bool ta = p.a.trans == Trans::yes, tb = p.b.trans == Trans::yes;
  View<T> out(p.c, p.m, p.n, Eigen::OuterStride<>(p.c_stride));
  if (p.beta == T(0)) {
    out.setZero();
  } else if (p.beta != T(1)) {
    out *= p.beta;
  }
  const auto product = [&](const auto& left, const auto& right) { out.noalias() += p.alpha * (left * right); };
  const ConstView<T> va(p.a.data, ta ? p.k : p.m, ta ? p.m : p.k, Eigen::OuterStride<>(p.a.stride));
  const ConstView<T> vb(p.b.data, tb ? p.n : p.k, tb ? p.k : p.n, Eigen::OuterStride<>(p.b.stride));
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

}  // namespace rw::cpu::RW_LEVEL
