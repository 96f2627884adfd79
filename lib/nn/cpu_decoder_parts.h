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

/// Vectors that are multiplied together: row s begins at data + s * stride.
struct Rows {
  const float* data;
  int64_t stride, count;
};

/// One product with weights that are read once for all vectors; W is float or bf16. Every vector's results are those
/// that it has alone, bit for bit.
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

  /// y [count] = output i of every vector.
  [[gnu::always_inline]] void row(int64_t i, const Rows& x, float* y) const {
    const W* w = weight + i * inputs;
    // The row is in the first cache after the first text. One loop for all texts would round the rest of a row of 16
    // otherwise: the compiler fuses multiplications and additions there or not, as the code around it is.
    for (int64_t s = 0; s < x.count; ++s) y[s] = dot(w, x.data + s * x.stride, inputs);
    if (bias) {
      for (int64_t s = 0; s < x.count; ++s) y[s] += bias[i];
    }
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

  [[gnu::always_inline]] void row(int64_t i, const Rows& x, float* y) const {
    const int8_t* w = codes + i * inputs;
    const float* scale = scales + i * blocks;
    int64_t s = 0;
    for (; s + 4 <= x.count; s += 4) dots_of_blocks<4>(w, scale, x.data + s * x.stride, x.stride, inputs, y + s);
    for (; s < x.count; ++s) dots_of_blocks<1>(w, scale, x.data + s * x.stride, 0, inputs, y + s);
    for (s = 0; s < x.count; ++s) y[s] = y[s] / 127 + (bias ? bias[i] : 0);
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

inline float activated(Activation activation, float x) {
  switch (activation) {
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::gelu:
      return 0.5f * x * (1 + std::erf(x * 0.70710678f));
    case Activation::gelu_tanh:
      break;
  }
  return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
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
