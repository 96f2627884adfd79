// Rotary position embedding on the CPU: tables, rotation, the gradient to the frequencies, and the recorded op.
#include "autograd/ops/rope.h"

#include <cmath>

#include "autograd/ops/cuda_ops.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

struct Rows {
  int64_t batch, length, heads, head_dim, pairs;
  int64_t table_batch;  // 1: all samples share a row of cos and sin
  int64_t rotated_heads;
};

/// Elements (a, b) of pair i.
inline std::pair<int64_t, int64_t> pair_of(RopeLayout layout, int64_t i, int64_t pairs) {
  return layout == RopeLayout::half ? std::pair{i, i + pairs} : std::pair{2 * i, 2 * i + 1};
}

/// y = A R(direction * angle) x on the rotated heads; the rest is copied. x may be y.
template <class T, class A>
void rotate(const T* x, const A* cos, const A* sin, A scale, RopeLayout layout, int direction, const Rows& s, T* y) {
  parallel_for(s.batch * s.length, 16, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t token = begin; token < end; ++token) {
      const int64_t row = s.table_batch == 1 ? token % s.length : token;
      const A *c = cos + row * s.pairs, *n = sin + row * s.pairs;
      for (int64_t h = 0; h < s.heads; ++h) {
        const T* in = x + (token * s.heads + h) * s.head_dim;
        T* out = y + (token * s.heads + h) * s.head_dim;
        const int64_t rotary = h < s.rotated_heads ? 2 * s.pairs : 0;
        if (rotary && layout == RopeLayout::half) {
#pragma omp simd
          for (int64_t i = 0; i < s.pairs; ++i) {
            const A a = static_cast<A>(in[i]), b = static_cast<A>(in[i + s.pairs]);
            const A cs = scale * c[i], sn = static_cast<A>(direction) * scale * n[i];
            out[i] = static_cast<T>(a * cs - b * sn);
            out[i + s.pairs] = static_cast<T>(b * cs + a * sn);
          }
        } else if (rotary) {
          for (int64_t i = 0; i < s.pairs; ++i) {
            const A a = static_cast<A>(in[2 * i]), b = static_cast<A>(in[2 * i + 1]);
            const A cs = scale * c[i], sn = static_cast<A>(direction) * scale * n[i];
            out[2 * i] = static_cast<T>(a * cs - b * sn);
            out[2 * i + 1] = static_cast<T>(b * cs + a * sn);
          }
        }
        if (in != out) std::copy(in + rotary, in + s.head_dim, out + rotary);
      }
    }
  });
}

/// dinv_freq[b,i] = sum over t of positions[b,t] * sum over heads of (g2 y1 - g1 y2); f64 sums in a fixed order.
template <class T>
void inv_freq_gradient(const T* y, const T* dy, const float* positions, bool shared_positions, RopeLayout layout,
                       const Rows& s, double* d /* [B, pairs] */) {
  parallel_items(s.batch, [=](int64_t b) RW_CPU_LEVELS {
    double* out = d + b * s.pairs;
    std::fill_n(out, s.pairs, 0.0);
    for (int64_t t = 0; t < s.length; ++t) {
      const double position = positions[(shared_positions ? 0 : b) * s.length + t];
      for (int64_t h = 0; h < s.rotated_heads; ++h) {
        const int64_t at = ((b * s.length + t) * s.heads + h) * s.head_dim;
        for (int64_t i = 0; i < s.pairs; ++i) {
          const auto [p, q] = pair_of(layout, i, s.pairs);
          out[i] += position * (static_cast<double>(dy[at + q]) * static_cast<double>(y[at + p]) -
                                static_cast<double>(dy[at + p]) * static_cast<double>(y[at + q]));
        }
      }
    }
  });
}

struct RopeNode : Node {  // saved: y (only if inv_freq wants a gradient)
  RopeAngles angles;
  RopeOptions options;
  Rows rows{};
  const char* name() const override { return "rope"; }

  void backward() override {
    const Tensor& dy = grad_out();
    if (wants(1)) add_inv_freq_grad(saved[0], dy);
    if (!wants(0)) return;
    // Nobody else holds this gradient: rotate it where it is.
    const Tensor dx = dy.unique() ? dy : Tensor::empty_like(dy);
    if (dy.is_cuda()) {
      cuda::rope_apply(dy, angles.cos, angles.sin, angles.scale, options.layout, rows.rotated_heads, -1, dx);
    } else {
      dispatch_float(dy.dtype(), "rope", [&](auto zero) {
        using T = decltype(zero);
        rotate<T, Acc<T>>(dy.data<T>(), angles.cos.data<Acc<T>>(), angles.sin.data<Acc<T>>(),
                          static_cast<Acc<T>>(angles.scale), options.layout, -1, rows, dx.data<T>());
      });
    }
    add_grad(0, dx);
  }

  void add_inv_freq_grad(const Tensor& y, const Tensor& dy) const {
    const Var& inv_freq = angles.inv_freq;
    if (!dy.is_cuda()) return add_grad(1, inv_freq_grad_cpu(y, dy));
    const auto add_to = [&](const Tensor& d) {
      cuda::rope_inv_freq_backward(y, dy, angles.positions.to(dy.device()), options.layout, rows.rotated_heads, d);
    };
    if (inv_freq.is_cuda()) {
      const Target target = grad_target(1, inv_freq.shape(), inv_freq.dtype(), inv_freq.device());
      if (target.beta == 0) target.tensor.zero();
      return add_to(target.tensor);
    }
    const Tensor d = Tensor::zeros(inv_freq.shape(), inv_freq.dtype(), dy.device());
    add_to(d);
    add_grad(1, d.to(inv_freq.device()));  // waits for the GPU
  }

  Tensor inv_freq_grad_cpu(const Tensor& y, const Tensor& dy) const {
    const Var& inv_freq = angles.inv_freq;
    const Tensor per_sample = Tensor::empty({rows.batch, rows.pairs}, DType::f64);
    dispatch_float(dy.dtype(), "rope", [&](auto zero) {
      using T = decltype(zero);
      inv_freq_gradient<T>(y.data<T>(), dy.data<T>(), angles.positions.data<float>(), angles.positions.size(0) == 1,
                           options.layout, rows, per_sample.data<double>());
    });
    if (inv_freq.rank() == 2 && inv_freq.size(0) == rows.batch) return per_sample.to(inv_freq.dtype());
    const Tensor total = Tensor::zeros(inv_freq.shape(), DType::f64);
    for (int64_t b = 0; b < rows.batch; ++b) {
      for (int64_t i = 0; i < rows.pairs; ++i) total.data<double>()[i] += per_sample.data<double>()[b * rows.pairs + i];
    }
    return total.to(inv_freq.dtype());
  }
};

}  // namespace

RopeAngles rope_angles(const Tensor& positions, const Var& inv_freq, double scale, DType dtype, Device device) {
  check(positions.defined() && positions.rank() == 2 && positions.dtype() == DType::f32, "rope",
        "positions must be f32 [B, T], got ", positions.shape());
  check(inv_freq.rank() == 1 || inv_freq.rank() == 2, "rope", "inv_freq must have shape [R/2] or [B, R/2], got ",
        inv_freq.shape());
  const int64_t pairs = inv_freq.size(-1), length = positions.size(1);
  const int64_t freq_batch = inv_freq.rank() == 2 ? inv_freq.size(0) : 1;
  const int64_t batch = std::max(positions.size(0), freq_batch);
  check(positions.size(0) == batch || positions.size(0) == 1, "rope", "positions are for ", positions.size(0),
        " samples, inv_freq for ", batch);
  check(freq_batch == batch || freq_batch == 1, "rope", "inv_freq is for ", freq_batch, " samples, positions for ",
        batch);
  const DType table = dtype == DType::f64 ? DType::f64 : DType::f32;
  RopeAngles angles{.positions = positions, .inv_freq = inv_freq, .cos = {}, .sin = {}, .scale = scale};
  angles.cos = Tensor::empty({batch, length, pairs}, table, device);
  angles.sin = Tensor::empty({batch, length, pairs}, table, device);
  if (device.is_cuda()) {
    angles.positions = positions.to(device);
    cuda::rope_tables(angles.positions, inv_freq.value().to(device), angles.cos, angles.sin);
    return angles;
  }
  const Tensor frequencies = inv_freq.value().to(kCpu).to(DType::f64);
  const double* theta = frequencies.data<double>();
  const float* p = positions.data<float>();
  dispatch_float(table, "rope", [&](auto zero) {
    using T = decltype(zero);
    T *cos = angles.cos.data<T>(), *sin = angles.sin.data<T>();
    parallel_for(batch * length, 64, [=, &positions](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) {
        const int64_t b = token / length, t = token % length;
        const double position = p[(positions.size(0) == 1 ? 0 : b) * length + t];
        const double* f = theta + (freq_batch == 1 ? 0 : b) * pairs;
        for (int64_t i = 0; i < pairs; ++i) {
          cos[token * pairs + i] = static_cast<T>(std::cos(position * f[i]));
          sin[token * pairs + i] = static_cast<T>(std::sin(position * f[i]));
        }
      }
    });
  });
  return angles;
}

Var rope(const Var& x, const RopeAngles& angles, const RopeOptions& options) {
  check(x.rank() == 4, "rope", "x must have shape [B, T, H, D], got ", x.shape());
  Rows rows{.batch = x.size(0),
            .length = x.size(1),
            .heads = x.size(2),
            .head_dim = x.size(3),
            .pairs = angles.cos.size(2),
            .table_batch = angles.cos.size(0),
            .rotated_heads = 0};
  rows.rotated_heads = options.heads < 0 ? rows.heads : options.heads;
  check(rows.rotated_heads <= rows.heads, "rope", "heads = ", options.heads, " of ", rows.heads);
  check(angles.cos.size(1) == rows.length && (rows.table_batch == 1 || rows.table_batch == rows.batch), "rope",
        "angles are for [B, T] = [", rows.table_batch, ", ", angles.cos.size(1), "], x has [", rows.batch, ", ",
        rows.length, "]");
  check(2 * rows.pairs <= rows.head_dim, "rope", "inv_freq has ", rows.pairs, " pairs, more than half of head_dim ",
        rows.head_dim);
  const DType table = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  check(angles.cos.dtype() == table, "rope", "angles must be ", table, " for x of ", x.dtype(), ", got ",
        angles.cos.dtype());
  check(angles.cos.device() == x.device(), "rope", "angles are on ", angles.cos.device(), ", x on ", x.device());

  check(options.in_place || !options.turned, "rope", "what has turned already has turned in place");
  const Tensor y = options.in_place ? x.value() : Tensor::empty_like(x.value());
  if (options.turned) {
    // Nothing is left to do forward.
  } else if (x.is_cuda()) {
    cuda::rope_apply(x.value(), angles.cos, angles.sin, angles.scale, options.layout, rows.rotated_heads, +1, y);
  } else {
    dispatch_float(x.dtype(), "rope", [&](auto zero) {
      using T = decltype(zero);
      rotate<T, Acc<T>>(x.value().data<T>(), angles.cos.data<Acc<T>>(), angles.sin.data<Acc<T>>(),
                        static_cast<Acc<T>>(angles.scale), options.layout, +1, rows, y.data<T>());
    });
  }
  Var out(y);
  if (records(x, angles.inv_freq)) {
    auto node = std::make_unique<RopeNode>();
    node->angles = angles;
    node->options = options;
    node->rows = rows;
    if (angles.inv_freq.requires_grad()) node->saved = {y};
    Tape::current().record(std::move(node), {x, angles.inv_freq}, {&out});
  }
  return out;
}

}  // namespace rw
