// Strided block copies (concat, narrow): the widest access that offsets, strides and width allow.
#include <numeric>

#include "autograd/ops/cuda_ops.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;

/// to[i,j] = from[i,j] in units of U. Bytes: twice outer * width.
template <class U>
__global__ void __launch_bounds__(kThreads)
    copy_block_kernel(const U* __restrict__ from, int64_t from_stride, U* __restrict__ to, int64_t to_stride,
                      int64_t outer, uint32_t width) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = i / width, column = i % width;
  if (row < outer) to[row * to_stride + column] = from[row * from_stride + column];
}

}  // namespace

void copy_block(const Tensor& from, int64_t from_offset, int64_t from_stride, const Tensor& to, int64_t to_offset,
                int64_t to_stride, int64_t outer, int64_t width) {
  if (outer == 0 || width == 0) return;
  const int64_t size = size_of(to.dtype());
  const char* source = static_cast<const char*>(from.raw()) + from_offset * size;
  char* target = static_cast<char*>(to.raw()) + to_offset * size;
  if (outer == 1) from_stride = to_stride = width;  // strides that are never used must not narrow the access
  const int64_t unit = std::gcd(
      std::gcd(std::gcd(from_stride * size, to_stride * size), width * size),
      static_cast<int64_t>((reinterpret_cast<uintptr_t>(source) | reinterpret_cast<uintptr_t>(target)) & 15) | 16);
  const auto go = [&](auto element) {
    using U = decltype(element);
    const int64_t bytes = sizeof(U), units = width * size / bytes;
    check(units <= UINT32_MAX, "copy_block", "a row of ", width, " elements");
    launch({"copy_block", 2 * outer * width * size}, copy_block_kernel<U>, ceil_div(outer * units, kThreads), kThreads,
           0, reinterpret_cast<const U*>(source), from_stride * size / bytes, reinterpret_cast<U*>(target),
           to_stride * size / bytes, outer, units);
  };
  if (unit % 16 == 0) go(uint4{});
  else if (unit % 8 == 0) go(uint2{});
  else if (unit % 4 == 0) go(uint32_t{});
  else go(uint16_t{});  // no dtype is smaller
}

}  // namespace rw::cuda
