// Blocks of few bits into a matrix that a product can read. A thread makes eight values of a row, all of one block.
//
// Reads 1 byte (int8) or half a byte (nf4) of each value and its share of a scale, writes 2 or 4: bound by memory.
#include "tensor/block_codes.h"
#include "tensor/block_quantize.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 8;
static_assert(kBlockLength % kEach == 0);

struct Blocks {
  const uint8_t* codes;
  const float* scales;                     // or null
  const uint8_t* scale_codes;              // or null
  const float* ranges;                     // or null
  int64_t columns, blocks, groups, bytes;  // of a row
};

struct Nf4Table {
  float at[16];
};

__device__ __forceinline__ float scale_of(const Blocks& m, int64_t row, int64_t block) {
  const int64_t at = row * m.blocks + block;
  if (m.scales) return m.scales[at];
  const float* range = m.ranges + 2 * (row * m.groups + block / kScaleGroup);
  return fmaf(range[1], static_cast<float>(m.scale_codes[at]), range[0]);
}

template <bool NF4, class T>
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(Blocks m, Nf4Table table, int64_t rows, int64_t parts, T* __restrict__ values) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * parts) return;
  const int64_t row = i / parts, begin = i % parts * kEach;
  const float s = scale_of(m, row, begin / kBlockLength), unit = s / 127.f;
  const uint8_t* from = m.codes + row * m.bytes;
  T* to = values + row * m.columns;
  for (int64_t c = begin; c < begin + kEach && c < m.columns; ++c) {
    if constexpr (NF4) to[c] = from_float<T>(s * table.at[from[c / 2] >> (4 * (c & 1)) & 15]);
    else to[c] = from_float<T>(unit * static_cast<float>(static_cast<int8_t>(from[c])));
  }
}

template <class T>
void dequantize_as(const BlockMatrix& m, const Tensor& values) {
  const auto bytes = [](const Tensor& t) { return t.defined() ? static_cast<const uint8_t*>(t.raw()) : nullptr; };
  const auto floats = [](const Tensor& t) { return t.defined() ? t.data<float>() : nullptr; };
  const Blocks blocks{bytes(m.codes), floats(m.scales),   bytes(m.scale_codes), floats(m.scale_ranges),
                      m.columns,      m.blocks_per_row(), m.groups_per_row(),   m.bytes_per_row()};
  Nf4Table table;
  for (int i = 0; i < 16; ++i) table.at[i] = kNf4[i];
  const int64_t parts = ceil_div(m.columns, kEach);
  const auto go = [&](auto kernel) {
    launch({"dequantize", m.bytes() + values.bytes()}, kernel, {ceil_div(m.rows * parts, kThreads)}, kThreads, 0,
           blocks, table, m.rows, parts, as<T>(values));
  };
  if (m.format.code == BlockCode::nf4) go(dequantize_kernel<true, T>);
  else go(dequantize_kernel<false, T>);
}

}  // namespace

void dequantize(const BlockMatrix& m, const Tensor& values) {
  if (values.dtype() == DType::bf16) return dequantize_as<b16>(m, values);
  dequantize_as<float>(m, values);
}

}  // namespace rw::cuda
