// RMSNorm of the query and key heads of packed projections, on the CPU: the loops and the recorded op.
#include <algorithm>
#include <cmath>

#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/bias.h"
#include "autograd/ops/norm.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

/// The q heads or the k heads of a token: `rows` rows of `width` elements, from `offset` on.
struct Part {
  int64_t offset, rows, width;
  int64_t rstd_offset;  // of its first row among the token's values of rstd
};

/// What is the same for both parts.
struct Tokens {
  int64_t count, width;  // width: elements of a token, (H + 2K) D
  int64_t rstd_width;    // normalised rows of a token
  double eps, weight_offset;
};

/// y = x rstd (weight + weight_offset) on the rows of one part. y may be x.
template <class T>
void forward_part(const Tokens& s, const Part& part, const T* x, const T* weight, T* y, Acc<T>* rstd) {
  const Acc<T> eps = static_cast<Acc<T>>(s.eps), plus = static_cast<Acc<T>>(s.weight_offset);
  parallel_for(s.count, 16, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t r = 0; r < part.rows; ++r) {
        const int64_t at = t * s.width + part.offset + r * part.width;
        Acc<T> square = 0;
#pragma omp simd reduction(+ : square)
        for (int64_t c = 0; c < part.width; ++c)
          square += static_cast<Acc<T>>(x[at + c]) * static_cast<Acc<T>>(x[at + c]);
        const Acc<T> scale = Acc<T>(1) / std::sqrt(square / static_cast<Acc<T>>(part.width) + eps);
        rstd[t * s.rstd_width + part.rstd_offset + r] = scale;
        for (int64_t c = 0; c < part.width; ++c)
          y[at + c] = static_cast<T>(static_cast<Acc<T>>(x[at + c]) * scale * (static_cast<Acc<T>>(weight[c]) + plus));
      }
    }
  });
}

/// With n = x rstd and g = dy (weight + weight_offset): dx = rstd (g - n mean(g n)), dweight = sum of dy n. dx may be
/// dy. Sums over fixed slices of the tokens: their order does not depend on the number of threads.
template <class T>
void backward_part(const Tokens& s, const Part& part, const T* x, const T* weight, const Acc<T>* rstd, const T* dy,
                   T* dx, Acc<T>* dweight /* [slices, width] */, int64_t slices) {
  const Acc<T> plus = static_cast<Acc<T>>(s.weight_offset);
  parallel_items(slices, [=](int64_t slice) RW_CPU_LEVELS {
    Acc<T>* dw = dweight + slice * part.width;
    std::fill_n(dw, part.width, Acc<T>(0));
    for (int64_t t = s.count * slice / slices; t < s.count * (slice + 1) / slices; ++t) {
      for (int64_t r = 0; r < part.rows; ++r) {
        const int64_t at = t * s.width + part.offset + r * part.width;
        const Acc<T> scale = rstd[t * s.rstd_width + part.rstd_offset + r];
        Acc<T> dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < part.width; ++c) {
          const Acc<T> n = static_cast<Acc<T>>(x[at + c]) * scale, g = static_cast<Acc<T>>(dy[at + c]);
          dw[c] += g * n;
          dot += g * (static_cast<Acc<T>>(weight[c]) + plus) * n;
        }
        const Acc<T> mean = dot / static_cast<Acc<T>>(part.width);
        for (int64_t c = 0; c < part.width; ++c) {
          const Acc<T> n = static_cast<Acc<T>>(x[at + c]) * scale;
          const Acc<T> g = static_cast<Acc<T>>(dy[at + c]) * (static_cast<Acc<T>>(weight[c]) + plus);
          dx[at + c] = static_cast<T>(scale * (g - n * mean));
        }
      }
    }
  });
}

/// Copies the v heads of every token.
template <class T>
void copy_values(const Tokens& s, int64_t from, const T* x, T* y) {
  if (x == y) return;
  parallel_for(s.count, 64, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      std::copy(x + t * s.width + from, x + (t + 1) * s.width, y + t * s.width + from);
  });
}

struct Layout {
  Tokens tokens;
  Part q, k;
};

Layout layout_of(const Shape& qkv, const QkNormOptions& o) {
  const int64_t d = qkv[3], h = o.n_heads, kv = o.n_kv_heads;
  const Part q = o.across_heads ? Part{0, 1, h * d, 0} : Part{0, h, d, 0};
  const Part k = o.across_heads ? Part{h * d, 1, kv * d, 1} : Part{h * d, kv, d, h};
  return {{qkv[0] * qkv[1], qkv[2] * d, q.rows + k.rows, o.eps, o.weight_offset}, q, k};
}

struct QkNormNode : Node {  // saved: qkv, q_weight, k_weight, rstd [B*T, rows]. inputs: qkv, q_weight, k_weight
  QkNormOptions options;
  const char* name() const override { return "qk_norm"; }

  void backward() override {
    const Tensor &x = saved[0], &q_weight = saved[1], &k_weight = saved[2], &rstd = saved[3];
    const Tensor& dy = grad_out();
    const Tensor dx = dy.unique() ? dy : Tensor::empty_like(dy);  // a gradient that nobody else holds is overwritten
    const DType wide = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Target dq{Tensor(), 0}, dk{Tensor(), 0};
    if (wants(1)) dq = grad_target(1, q_weight.shape(), wide, x.device());
    if (wants(2)) dk = grad_target(2, k_weight.shape(), wide, x.device());
    if (x.is_cuda()) {
      cuda::qk_norm_backward(options, {x, q_weight, k_weight, rstd}, dy, dx, {dq.tensor, dq.beta != 0},
                             {dk.tensor, dk.beta != 0});
    } else {
      const auto [tokens, q, k] = layout_of(x.shape(), options);
      const int64_t slices = std::min<int64_t>(64, tokens.count);
      const Tensor partial_q = Tensor::empty({slices, q.width}, wide),
                   partial_k = Tensor::empty({slices, k.width}, wide);
      dispatch_float(x.dtype(), name(), [&, tokens = tokens, q = q, k = k](auto zero) {
        using T = decltype(zero);
        const T *px = x.data<T>(), *pd = dy.data<T>();
        const Acc<T>* scale = rstd.data<Acc<T>>();
        backward_part<T>(tokens, q, px, q_weight.data<T>(), scale, pd, dx.data<T>(), partial_q.data<Acc<T>>(), slices);
        backward_part<T>(tokens, k, px, k_weight.data<T>(), scale, pd, dx.data<T>(), partial_k.data<Acc<T>>(), slices);
        copy_values<T>(tokens, (options.n_heads + options.n_kv_heads) * x.size(3), pd, dx.data<T>());
      });
      if (wants(1)) detail::sum_columns(partial_q, dq.tensor, dq.beta != 0);
      if (wants(2)) detail::sum_columns(partial_k, dk.tensor, dk.beta != 0);
    }
    add_grad(0, dx);
  }
};

void check_arguments(const Var& qkv, const Var& q_weight, const Var& k_weight, const QkNormOptions& o) {
  const char* op = "qk_norm";
  check(o.n_heads > 0 && o.n_kv_heads > 0, op, "n_heads and n_kv_heads must be positive, got ", o.n_heads, " and ",
        o.n_kv_heads);
  check(qkv.rank() == 4 && qkv.size(2) == o.n_heads + 2 * o.n_kv_heads, op, "qkv must have shape [B, T, ",
        o.n_heads + 2 * o.n_kv_heads, ", D], got ", qkv.shape());
  const int64_t d = qkv.size(3);
  check_shape(op, "q_weight", q_weight.value(), {o.across_heads ? o.n_heads * d : d});
  check_shape(op, "k_weight", k_weight.value(), {o.across_heads ? o.n_kv_heads * d : d});
  check_same(op, "qkv", qkv.value(), "q_weight", q_weight.value());
  check_same(op, "qkv", qkv.value(), "k_weight", k_weight.value());
}

}  // namespace

Var qk_norm(const Var& qkv, const Var& q_weight, const Var& k_weight, const QkNormOptions& options) {
  check_arguments(qkv, q_weight, k_weight, options);
  const bool recorded = records(qkv, q_weight, k_weight);
  const auto [tokens, q, k] = layout_of(qkv.shape(), options);
  const Tensor& x = qkv.value();
  const Tensor y = options.in_place && !recorded ? x : Tensor::empty_like(x);
  const Tensor rstd =
      Tensor::empty({tokens.count, tokens.rstd_width}, x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device());
  if (x.is_cuda()) {
    cuda::qk_norm_forward(options, x, q_weight.value(), k_weight.value(), y, rstd);
  } else {
    dispatch_float(x.dtype(), "qk_norm", [&, tokens = tokens, q = q, k = k](auto zero) {
      using T = decltype(zero);
      forward_part<T>(tokens, q, x.data<T>(), q_weight.value().data<T>(), y.data<T>(), rstd.data<Acc<T>>());
      forward_part<T>(tokens, k, x.data<T>(), k_weight.value().data<T>(), y.data<T>(), rstd.data<Acc<T>>());
      copy_values<T>(tokens, (options.n_heads + options.n_kv_heads) * x.size(3), x.data<T>(), y.data<T>());
    });
  }
  Var out(y);
  if (recorded) {
    auto node = std::make_unique<QkNormNode>();
    node->options = options;
    node->saved = {x, q_weight.value(), k_weight.value(), rstd};
    Tape::current().record(std::move(node), {qkv, q_weight, k_weight}, {&out});
  }
  return out;
}

}  // namespace rw
