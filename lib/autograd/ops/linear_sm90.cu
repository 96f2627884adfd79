// Linear layers with SwiGLU, its gradient or RoPE in the product's epilogue (linear_sm90.cuh).
#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/rotation.cuh"
#include "autograd/ops/detail/silu.cuh"
#include "autograd/ops/linear_sm90.cuh"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace fused {
namespace {

/// C is gate and up of 128 columns of y = silu(gate) * up; gate_up [R,2F] is C itself.
struct SwigluForward {
  static constexpr bool across = false, stores = true;
  b16* y;  // [R,F]
  int width;
  bool keeps;  // gate_up
#ifdef ROPEWALK_SM90A
  struct Inputs {};
  __device__ void load(Inputs&, const Place&, int) const {}
  __device__ void store(const CUtensorMap& gate_up, int row, int column, const char* c) const {
    if (!keeps) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int x = column / 2 + i % 2 * 64;
      if (x < width) store_box(gate_up, x + i / 2 * width, row, c + i * kPanel);
    }
  }
  __device__ void finish(const Inputs&, const Place& p, int rows, const char* c) const {
    const int lane = threadIdx.x % 32, chunk = lane % 16, column = p.column / 2 + chunk * 8;
    b16* to = y + static_cast<int64_t>(p.row + lane / 16) * width + column;
    if (column >= width) return;
#pragma unroll
    for (int i = 0; i < kUnit; i += 2) {
      const int r = i + lane / 16;
      if (p.row + r >= rows) return;
      const Eight<b16> gate = load_chunk(c, p.line + r, chunk), up = load_chunk(c, p.line + r, chunk + 16);
      Vec<float, 8> out;
#pragma unroll
      for (int k = 0; k < 8; ++k) out.at[k] = Silu<b16>::value(gate[k], up[k]);
      store_eight(to + i * width, round_eight<b16>(out));
    }
  }
#endif
};

/// C is the gradient of y; memory gets those of gate and up.
struct SwigluBackward {
  static constexpr bool across = true, stores = false;
  const b16* gate_up;  // [R,2F]
  b16* dgate_up;       // [R,2F]
  int width;
#ifdef ROPEWALK_SM90A
  struct Inputs {
    Eight<b16> gate[kUnit], up[kUnit];
  };
  __device__ void load(Inputs& in, const Place& p, int rows) const {
    const int column = p.column + threadIdx.x % 32 * 8;
    const b16* from = gate_up + static_cast<int64_t>(p.row) * 2 * width + column;
    if (column >= width) return;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      if (p.row + i >= rows) return;
      in.gate[i] = load_eight(from + i * 2 * width);
      in.up[i] = load_eight(from + (i * 2 + 1) * width);
    }
  }
  __device__ void finish(const Inputs& in, const Place& p, int rows, const char* c) const {
    const int chunk = threadIdx.x % 32, column = p.column + chunk * 8;
    b16* to = dgate_up + static_cast<int64_t>(p.row) * 2 * width + column;
    if (column >= width) return;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      if (p.row + i >= rows) return;
      const Eight<b16> dy = load_chunk(c, p.line + i, chunk);
      Vec<float, 8> dgate, dup;
#pragma unroll
      for (int k = 0; k < 8; ++k) Silu<b16>::gradient(in.gate[i][k], in.up[i][k], dy[k], dgate.at[k], dup.at[k]);
      store_eight(to + i * 2 * width, round_eight<b16>(dgate));
      store_eight(to + (i * 2 + 1) * width, round_eight<b16>(dup));
    }
  }
#endif
};

/// C is heads of head dim D side by side; the first `rotated` of them turn (rotate-half).
template <int D>
struct Rotation {
  static constexpr bool across = false, stores = false;
  static constexpr int pairs = D / 2;
  b16* y;                  // [R, heads D]
  const float *cos, *sin;  // [R or length, pairs]
  int columns, rotated, length;
  bool shared_table;
  float scale;
#ifdef ROPEWALK_SM90A
  struct Inputs {
    Vec<float, 8> cos[kUnit / 2], sin[kUnit / 2];
  };
  __device__ void load(Inputs& in, const Place& p, int rows) const {
    const int lane = threadIdx.x % 32, pair = lane % 16 % (D / 16) * 8;
    int token = p.row + lane / 16;
#pragma unroll
    for (int i = 0; i < kUnit / 2; ++i, token += 2) {
      if (token >= rows) return;
      const int64_t at = static_cast<int64_t>(shared_table ? token % length : token) * pairs + pair;
      in.cos[i] = cuda::load<8>(cos + at);
      in.sin[i] = cuda::load<8>(sin + at);
    }
  }
  __device__ void finish(const Inputs& in, const Place& p, int rows, const char* c) const {
    const int lane = threadIdx.x % 32, head = lane % 16 / (D / 16), pair = lane % 16 % (D / 16) * 8;
    const int column = p.column + head * D + pair, chunk = (head * D + pair) / 8;
    b16* to = y + static_cast<int64_t>(p.row + lane / 16) * columns + column;
    if (column >= columns) return;
    const bool turns = p.column / D + head < rotated;
#pragma unroll
    for (int i = 0; i < kUnit / 2; ++i) {
      const int r = 2 * i + lane / 16;
      if (p.row + r >= rows) return;
      const Eight<b16> a = load_chunk(c, p.line + r, chunk), b = load_chunk(c, p.line + r, chunk + D / 16);
      Vec<float, 8> first, second;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float cs = in.cos[i].at[k] * scale, sn = in.sin[i].at[k] * scale;
        first.at[k] = turned_first(a[k], b[k], cs, sn);
        second.at[k] = turned_second(a[k], b[k], cs, sn);
      }
      store_eight(to + 2 * i * columns, turns ? round_eight<b16>(first) : a);
      store_eight(to + 2 * i * columns + pairs, turns ? round_eight<b16>(second) : b);
    }
  }
#endif
};

/// A product of these sizes: R, N in tiles of `tile` columns of B, and K.
Tiles tiles_of(int64_t rows, int64_t n, int64_t k, int tile, int64_t half) {
  return {.rows = static_cast<int>(rows),
          .sets = static_cast<int>(ceil_div(rows, kCluster * kRows)),
          .columns = static_cast<int>(ceil_div(n, tile)),
          .steps = static_cast<int>(ceil_div(k, kDepth)),
          .section = 8,
          .stride = tile,
          .half = static_cast<int>(half)};
}

CUtensorMap matrix_map(const Tensor& t, int64_t rows, int64_t columns, int box_rows) {
  return tensor_map("linear", t.raw(), {columns, rows}, {2 * columns}, {64, box_rows});
}

template <class Epilogue>
void launch_linear(const Label& label, const Tiles& tiles, const Epilogue& f, const CUtensorMap& a,
                   const CUtensorMap& b, const CUtensorMap& c) {
  constexpr int64_t kSharedBytes = kStages * (kBytesA + kBytesB) + kBytesC + (2 * kStages + 4) * 8;
  const int64_t blocks = std::min<int64_t>(multiprocessors() / kCluster, tiles.count()) * kCluster;
  launch(label, linear_kernel<Epilogue>, blocks, kThreads, kSharedBytes, tiles, f, a, b, c);
}

Label label_of(const char* name, int64_t m, int64_t n, int64_t k, int64_t bytes) {
  Label label(name, {bytes, 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k)});
  if (profiling()) label.name = keep_name(cat(name, " ", m, "x", n, "x", k));
  return label;
}

}  // namespace
}  // namespace fused

using namespace fused;

bool linear_fuses(int64_t rows, int64_t n, int64_t k) {
  // Fewer tiles than multiprocessors leave some of those idle, for which cuBLASLt has smaller tiles. At a depth of 4096
  // a step gains nothing: it runs at the card's power limit. Between 2048 and 4096 nothing was measured.
  if (n % 64 != 0 || k % 8 != 0 || k < 8 || k > 2048) return false;
  if (rows * n < int64_t{132} * kRows * kColumns || rows >= int64_t{1} << 30 || n >= int64_t{1} << 24) return false;
  if (ceil_div(rows, kCluster * kRows) * ceil_div(n, kColumns / 2) > INT32_MAX) return false;
  static const bool compiled = has_code(linear_kernel<SwigluForward>);
  return compiled && hopper::is_hopper();
}

void linear_swiglu(const Tensor& x, const Tensor& weight, const Tensor& gate_up, const Tensor& y) {
  const int64_t k = weight.size(1), f = weight.size(0) / 2, rows = x.numel() / k;
  const SwigluForward epilogue{as<b16>(y), static_cast<int>(f), gate_up.defined()};
  const CUtensorMap a = matrix_map(x, rows, k, kRows), b = matrix_map(weight, 2 * f, k, 128);
  const CUtensorMap c = gate_up.defined() ? matrix_map(gate_up, rows, 2 * f, 64) : a;
  if (gate_up.defined()) announce_write(gate_up.raw(), gate_up.bytes());
  launch_linear(label_of("gemm + swiglu", rows, 2 * f, k, bytes_of(x, weight, gate_up, y)),
                tiles_of(rows, f, k, kColumns / 2, f), epilogue, a, b, c);
}

void linear_swiglu_backward(const Tensor& dy, const Tensor& weight, const Tensor& gate_up, const Tensor& dgate_up) {
  const int64_t k = weight.size(0), f = weight.size(1), rows = dy.numel() / k;
  const SwigluBackward epilogue{as<b16>(gate_up), as<b16>(dgate_up), static_cast<int>(f)};
  const CUtensorMap a = matrix_map(dy, rows, k, kRows), b = matrix_map(weight, k, f, kDepth);
  launch_linear(label_of("gemm + swiglu_backward", rows, f, k, bytes_of(dy, weight, gate_up, dgate_up)),
                tiles_of(rows, f, k, kColumns, kColumns / 2), epilogue, a, b, a);
}

void linear_rope(const Tensor& x, const Tensor& weight, const Tensor& cos, const Tensor& sin, double scale,
                 int64_t heads, const Tensor& y) {
  const int64_t k = weight.size(1), n = weight.size(0), rows = x.numel() / k, head_dim = y.size(3);
  const CUtensorMap a = matrix_map(x, rows, k, kRows), b = matrix_map(weight, n, k, 128);
  const auto go = [&](auto d) {
    const Rotation<d()> epilogue{.y = as<b16>(y),
                                 .cos = as<float>(cos),
                                 .sin = as<float>(sin),
                                 .columns = static_cast<int>(n),
                                 .rotated = static_cast<int>(heads),
                                 .length = static_cast<int>(y.size(1)),
                                 .shared_table = cos.size(0) == 1,
                                 .scale = static_cast<float>(scale)};
    launch_linear(label_of("gemm + rope", rows, n, k, bytes_of(x, weight, cos, sin, y)),
                  tiles_of(rows, n, k, kColumns, kColumns / 2), epilogue, a, b, a);
  };
  if (head_dim == 64) go(std::integral_constant<int, 64>{});
  else go(std::integral_constant<int, 128>{});
}

}  // namespace rw::cuda
