// Blocks of few bits on the CPU: rounding a matrix into them, and back.
#include "tensor/block_quantize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/block_codes.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

constexpr const char* kOp = "block_quantize";

Tensor bytes_tensor(int64_t bytes, Device device) { return Tensor::zeros({(bytes + 3) / 4}, DType::i32, device); }

uint8_t nearest_nf4(float x) {
  int best = 0;
  for (int i = 1; i < 16; ++i) {
    if (x > 0.5f * (kNf4[i - 1] + kNf4[i])) best = i;
  }
  return static_cast<uint8_t>(best);
}

/// Where the tensors of a matrix on the CPU lie.
struct Pointers {
  explicit Pointers(const BlockMatrix& m)
      : codes(static_cast<uint8_t*>(m.codes.raw())),
        scales(m.scales.defined() ? m.scales.data<float>() : nullptr),
        scale_codes(m.scale_codes.defined() ? static_cast<uint8_t*>(m.scale_codes.raw()) : nullptr),
        ranges(m.scale_ranges.defined() ? m.scale_ranges.data<float>() : nullptr) {}
  uint8_t* codes;
  float* scales;
  uint8_t* scale_codes;
  float* ranges;
};

float scale_of(const BlockMatrix& m, const Pointers& p, int64_t row, int64_t block) {
  const int64_t at = row * m.blocks_per_row() + block;
  if (p.scales) return p.scales[at];
  const float* range = p.ranges + 2 * (row * m.groups_per_row() + block / kScaleGroup);
  return range[0] + range[1] * static_cast<float>(p.scale_codes[at]);
}

/// The scales of one row, rounded as they will be read.
void store_scales(const BlockMatrix& m, const Pointers& p, int64_t row, const std::vector<float>& scales) {
  const int64_t blocks = m.blocks_per_row();
  if (p.scales) {
    std::copy(scales.begin(), scales.end(), p.scales + row * blocks);
    return;
  }
  for (int64_t g = 0; g < m.groups_per_row(); ++g) {
    const auto begin = scales.begin() + g * kScaleGroup, end = scales.begin() + std::min(blocks, (g + 1) * kScaleGroup);
    const auto [low, high] = std::minmax_element(begin, end);
    const float step = (*high - *low) / 255.0f;
    float* range = p.ranges + 2 * (row * m.groups_per_row() + g);
    range[0] = *low;
    range[1] = step;
    uint8_t* to = p.scale_codes + row * blocks + g * kScaleGroup;
    for (auto s = begin; s != end; ++s)
      *to++ = static_cast<uint8_t>(step > 0 ? std::clamp(std::lround((*s - *low) / step), 0L, 255L) : 0);
  }
}

void store_row(const BlockMatrix& m, const Pointers& p, int64_t row, const float* x) {
  const int64_t blocks = m.blocks_per_row();
  std::vector<float> scales(static_cast<size_t>(blocks));
  for (int64_t b = 0; b < blocks; ++b) {
    float most = 0;
    for (int64_t i = b * kBlockLength; i < std::min(m.columns, (b + 1) * kBlockLength); ++i) {
      check(std::isfinite(x[i]), kOp, "row ", row, " column ", i, " is not finite");
      most = std::max(most, std::fabs(x[i]));
    }
    scales[static_cast<size_t>(b)] = most;
  }
  store_scales(m, p, row, scales);
  uint8_t* to = p.codes + row * m.bytes_per_row();
  if (m.format.code == BlockCode::nf4) std::fill(to, to + m.bytes_per_row(), uint8_t{0});
  for (int64_t i = 0; i < m.columns; ++i) {
    const float s = scale_of(m, p, row, i / kBlockLength), ratio = s > 0 ? std::clamp(x[i] / s, -1.0f, 1.0f) : 0.0f;
    if (m.format.code == BlockCode::int8) {
      to[i] = static_cast<uint8_t>(static_cast<int8_t>(std::lround(127.0f * ratio)));
    } else {
      to[i / 2] = static_cast<uint8_t>(to[i / 2] | nearest_nf4(ratio) << (4 * (i % 2)));
    }
  }
}

template <class T>
void load_row(const BlockMatrix& m, const Pointers& p, int64_t row, T* to) {
  const uint8_t* from = p.codes + row * m.bytes_per_row();
  for (int64_t b = 0; b < m.blocks_per_row(); ++b) {
    const float s = scale_of(m, p, row, b), unit = s / 127.0f;
    const int64_t end = std::min(m.columns, (b + 1) * kBlockLength);
    for (int64_t i = b * kBlockLength; i < end; ++i) {
      if (m.format.code == BlockCode::int8)
        to[i] = static_cast<T>(unit * static_cast<float>(static_cast<int8_t>(from[i])));
      else to[i] = static_cast<T>(s * kNf4[from[i / 2] >> (4 * (i % 2)) & 15]);
    }
  }
}

template <class T>
void load_all(const BlockMatrix& m, int64_t first, const Tensor& values) {
  const Pointers p(m);
  T* to = values.data<T>();
  parallel_for(values.size(0), std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, m.columns)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r) load_row(m, p, first + r, to + r * m.columns);
               });
}

BlockMatrix on_cpu(const BlockMatrix& m) {
  BlockMatrix host = m;
  for (Tensor* t : {&host.codes, &host.scales, &host.scale_codes, &host.scale_ranges}) {
    if (t->defined()) *t = t->to(kCpu);
  }
  return host;
}

void check_rows(const BlockMatrix& m, int64_t first, const Tensor& values) {
  check(m.codes.defined(), kOp, "the blocks have no memory yet");
  check(values.rank() == 2 && values.size(1) == m.columns && first >= 0 && first + values.size(0) <= m.rows, kOp,
        "rows from ", first, " on of shape ", values.shape(), " in a matrix of ", m.rows, " x ", m.columns);
}

}  // namespace

int64_t BlockMatrix::bytes() const {
  const auto words = [](int64_t n) { return (n + 3) / 4 * 4; };
  const int64_t of_codes = words(rows * bytes_per_row());
  if (!format.double_scales) return of_codes + 4 * rows * blocks_per_row();
  return of_codes + words(rows * blocks_per_row()) + 8 * rows * groups_per_row();
}

void BlockMatrix::allocate(Device device) {
  codes = bytes_tensor(rows * bytes_per_row(), device);
  if (!format.double_scales) {
    scales = Tensor::zeros({rows, blocks_per_row()}, DType::f32, device);
    return;
  }
  scale_codes = bytes_tensor(rows * blocks_per_row(), device);
  scale_ranges = Tensor::zeros({rows, groups_per_row(), 2}, DType::f32, device);
}

void BlockMatrix::store_rows(int64_t first, const Tensor& values) const {
  check_rows(*this, first, values);
  const BlockMatrix host = on_cpu(*this);
  const Pointers p(host);
  const float* x = values.data<float>();
  parallel_for(values.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) store_row(host, p, first + r, x + r * columns);
  });
  if (!codes.is_cuda()) return;
  codes.copy_from(host.codes);
  if (scales.defined()) scales.copy_from(host.scales);
  if (scale_codes.defined()) scale_codes.copy_from(host.scale_codes);
  if (scale_ranges.defined()) scale_ranges.copy_from(host.scale_ranges);
}

void BlockMatrix::load_rows(int64_t first, const Tensor& values) const {
  check_rows(*this, first, values);
  load_all<float>(on_cpu(*this), first, values);
}

void dequantize(const BlockMatrix& m, const Tensor& values) {
  check_shape(kOp, "values", values, {m.rows, m.columns});
  check(values.device() == m.codes.device(), kOp, "values are on ", values.device(), ", the blocks on ",
        m.codes.device());
  if (values.is_cuda()) return cuda::dequantize(m, values);
  dispatch_float(values.dtype(), kOp, [&](auto zero) { load_all<decltype(zero)>(m, 0, values); });
}

BlockMatrix round_to_blocks(const Tensor& values, BlockFormat format) {
  check(values.rank() == 2, kOp, "expected a matrix, got ", values.shape());
  BlockMatrix m{.format = format, .rows = values.size(0), .columns = values.size(1)};
  m.allocate(kCpu);
  m.store_rows(0, values.to(kCpu).to(DType::f32));
  for (Tensor* t : {&m.codes, &m.scales, &m.scale_codes, &m.scale_ranges}) {
    if (t->defined()) *t = t->to(values.device());
  }
  dequantize(m, values);
  return m;
}

}  // namespace rw
