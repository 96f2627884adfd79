// Dropout: y = x / (1 - p) or 0, by Philox of the element's number. Reads and writes x once; four elements share one
// Philox block, whose ten rounds cost less than the traffic.
#include "autograd/ops/detail/dropout_mask.h"
#include "autograd/ops/dropout.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;

struct Four {
  uint32_t word[4];
};

/// philox4x32() of tensor/random.h, for device code.
__device__ __forceinline__ Four philox(Four c, uint32_t k0, uint32_t k1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t low0 = 0xD2511F53u * c.word[0], high0 = __umulhi(0xD2511F53u, c.word[0]);
    const uint32_t low1 = 0xCD9E8D57u * c.word[2], high1 = __umulhi(0xCD9E8D57u, c.word[2]);
    c = {{high1 ^ c.word[1] ^ k0, low1, high0 ^ c.word[3] ^ k1, low0}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(int64_t n, int64_t columns, int64_t row, const T* __restrict__ x, const uint32_t* __restrict__ words,
                   uint32_t k0, uint32_t k1, uint32_t site, uint32_t limit, float kept, T* __restrict__ y) {
  const uint64_t draw = static_cast<uint64_t>(words[1]) << 32 | words[0];
  const uint64_t first = ((static_cast<uint64_t>(words[3]) << 32 | words[2]) + static_cast<uint64_t>(row)) *
                         static_cast<uint64_t>(columns);
  const uint64_t group = first / 4 + static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (group * 4 >= first + static_cast<uint64_t>(n)) return;
  const detail::DropoutCounter c = detail::dropout_counter(group, draw, site);
  const Four random = philox({{c.word[0], c.word[1], c.word[2], c.word[3]}}, k0, k1);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint64_t element = group * 4 + j;
    if (element < first || element >= first + static_cast<uint64_t>(n)) continue;
    const auto i = static_cast<int64_t>(element - first);
    y[i] = from_float<T>(random.word[j] < limit ? 0.f : to_float(x[i]) * kept);
  }
}

template <class T>
void dropout_as(const Tensor& x, double p, const DropoutKey& key, const Tensor& y) {
  launch({"dropout", x.bytes() + y.bytes()}, dropout_kernel<T>, {ceil_div(x.numel() / 4 + 2, kThreads)}, kThreads, 0,
         x.numel(), x.size(-1), key.row, as<T>(x), static_cast<const uint32_t*>(key.words.raw()),
         static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32), key.site, detail::dropout_limit(p),
         static_cast<float>(1 / (1 - p)), as<T>(y));
}

}  // namespace

void dropout(const Tensor& x, double p, const DropoutKey& key, const Tensor& y) {
  if (x.dtype() == DType::bf16) return dropout_as<b16>(x, p, key, y);
  check(x.dtype() == DType::f32, "dropout", "expected f32 or bf16 on a GPU, got ", x.dtype());
  dropout_as<float>(x, p, key, y);
}

}  // namespace rw::cuda
