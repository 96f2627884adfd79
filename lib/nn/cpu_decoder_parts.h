// Internal: what decoding on the CPU is made of: products with few vectors, norms, angles, a barrier. For cpu_decoder.cpp.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "nn/causal_lm.h"
#include "tensor/cpu_levels.h"
#include "tensor/dot.h"
#include "tensor/math.h"
#include "tensor/row_dots.h"

namespace rw::cpu_decode {

/// A barrier for the threads of a team. They reach it within microseconds of each
/// other, so waiting is spinning at first.
class SpinBarrier {
 public:
  void wait(int team) {
    const int phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
      if (spins > 4000) std::this_thread::yield();  // more threads than cores
    }
  }

 private:
  std::atomic<int> arrived_{0}, phase_{0};
};

inline const float* floats(const Var& v) { return v.defined() ? v.value().data<float>() : nullptr; }

using Rows = cpu::Vectors;

/// One product with weights that are read once for all vectors; W is float or bf16.
template <class W>
struct Product {
  const W* weight = nullptr;    // [N,K]
  const float* bias = nullptr;  // [N], or none
  int64_t inputs = 0;           // K

  Product() = default;
  Product(const Var& w, const Var& b) : bias(floats(b)), inputs(w.size(1)) {
    if constexpr (std::is_same_v<W, bf16>) {
      weight = w.bf16_copy().data<bf16>();
    } else {
      weight = w.value().data<float>();
    }
  }
  explicit Product(const Linear& linear) : Product(linear.weight(), linear.bias()) {}

  /// y [n, count] = outputs [i, i + n) of every vector.
  void rows(int64_t i, int64_t n, const Rows& x, float* y) const {
    const W* w = weight + i * inputs;
    if constexpr (std::is_same_v<W, bf16>) cpu::row_dots().bf16(&w->bits, inputs, n, x, y);
    else cpu::row_dots().f32(w, inputs, n, x, y);
    if (!bias) return;
    for (int64_t r = 0; r < n; ++r)
      for (int64_t s = 0; s < x.count; ++s) y[r * x.count + s] += bias[i + r];
  }
};

/// The same with int8 codes in blocks of 64.
template <>
struct Product<int8_t> {
  const int8_t* codes = nullptr;  // [N,K]
  const float* scales = nullptr;  // [N, blocks]
  const float* bias = nullptr;    // [N], or none
  int64_t inputs = 0, blocks = 0;

  Product() = default;
  Product(const BlockMatrix& m, const Var& b)
      : codes(static_cast<const int8_t*>(m.codes.raw())),
        scales(m.scales.data<float>()),
        bias(floats(b)),
        inputs(m.columns),
        blocks(m.blocks_per_row()) {}
  explicit Product(const Linear& linear) : Product(*linear.int8_codes(), linear.bias()) {}

  void rows(int64_t i, int64_t n, const Rows& x, float* y) const {
    cpu::row_dots().int8(codes + i * inputs, scales + i * blocks, inputs, n, x, y);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t s = 0; s < x.count; ++s) y[r * x.count + s] = y[r * x.count + s] / 127 + (bias ? bias[i + r] : 0);
  }
};

/// One norm, or none.
struct NormWeights {
  const float *weight = nullptr, *bias = nullptr;  // [C]
  float offset = 0, eps = 0;
  bool layer = false;

  NormWeights() = default;
  explicit NormWeights(const Norm* norm) {
    if (!norm) return;
    weight = floats(norm->weight());
    bias = floats(norm->bias());
    offset = static_cast<float>(norm->weight_offset());
    eps = static_cast<float>(norm->eps());
    layer = norm->kind() == NormKind::layer;
  }
  explicit operator bool() const { return weight != nullptr; }
};

/// What a norm subtracts from a row, and what it multiplies it by.
struct Moments {
  float mean = 0, scale = 1;
};

RW_CPU_LEVELS static Moments moments(const NormWeights& norm, const float* x, int64_t n) {
  const float count = static_cast<float>(n);
  if (!norm.layer) return {0, 1 / std::sqrt(dot(x, x, n) / count + norm.eps)};
  float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const float mean = sum / count;
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
  return {mean, 1 / std::sqrt(square / count + norm.eps)};
}

/// Elements [begin, end) of the norm of x [n]; without a norm, those of x.
RW_CPU_LEVELS static void normalise(const NormWeights& norm, const float* x, int64_t n, float* y) {
  if (!norm) {
    std::copy_n(x, n, y);
    return;
  }
  const Moments m = moments(norm, x, n);
  if (norm.bias) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - m.mean) * m.scale * (norm.weight[i] + norm.offset) + norm.bias[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - m.mean) * m.scale * (norm.weight[i] + norm.offset);
  }
}

/// y [n] = activation(y)
RW_CPU_LEVELS static void activate(Activation activation, float* y, int64_t n) {
  switch (activation) {
    case Activation::silu:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] *= sigmoid(y[i]);
      return;
    case Activation::gelu:
      for (int64_t i = 0; i < n; ++i) y[i] = 0.5f * y[i] * (1 + std::erf(y[i] * 0.70710678f));
      return;
    case Activation::gelu_tanh:
      break;
  }
  for (int64_t i = 0; i < n; ++i)
    y[i] = 0.5f * y[i] * (1 + std::tanh(0.79788456f * (y[i] + 0.044715f * y[i] * y[i] * y[i])));
}

inline float capped(float x, float cap) { return cap > 0 ? cap * std::tanh(x / cap) : x; }

/// cos and sin of one token, times A.
struct Rotation {
  std::vector<double> inv_freq;  // [R/2]
  double scale = 1;
  std::vector<float> cos, sin;  // [R/2]

  void set(const RopeTable& table) {
    inv_freq = table.inv_freq.value().to_vector();
    scale = table.attention_scale;
    cos.resize(inv_freq.size());
    sin.resize(inv_freq.size());
  }
  void turn(int64_t position) {
    for (size_t i = 0; i < inv_freq.size(); ++i) {
      const double angle = static_cast<double>(position) * inv_freq[i];
      cos[i] = static_cast<float>(scale * std::cos(angle));
      sin[i] = static_cast<float>(scale * std::sin(angle));
    }
  }
};

}  // namespace rw::cpu_decode
