// LayerNorm on the CPU, alone and fused with the residual add before it: the loops and the recorded op.
#include <cmath>

#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/bias.h"
#include "autograd/ops/detail/norm_inputs.h"
#include "autograd/ops/norm.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

/// h = x (+ residual); y = (h - mean) rstd weight (+ bias), rstd = 1/sqrt(var + eps). The variance is summed around the
/// mean, in a second pass over the row. h is written only if there is a residual.
template <class T>
void forward_rows(const T* x, const T* residual, const T* weight, const T* bias, Acc<T> eps, T* h, T* y, Acc<T>* means,
                  Acc<T>* rstds, int64_t rows, int64_t columns) {
  parallel_for(rows, 16, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = x + r * columns;
      if (residual) {
        T* hr = h + r * columns;
        for (int64_t c = 0; c < columns; ++c)
          hr[c] = static_cast<T>(static_cast<Acc<T>>(row[c]) + static_cast<Acc<T>>(residual[r * columns + c]));
        row = hr;
      }
      Acc<T> sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < columns; ++c) sum += static_cast<Acc<T>>(row[c]);
      const Acc<T> mean = sum / static_cast<Acc<T>>(columns);
#pragma omp simd reduction(+ : square)
      for (int64_t c = 0; c < columns; ++c) {
        const Acc<T> d = static_cast<Acc<T>>(row[c]) - mean;
        square += d * d;
      }
      const Acc<T> rstd = Acc<T>(1) / std::sqrt(square / static_cast<Acc<T>>(columns) + eps);
      means[r] = mean;
      rstds[r] = rstd;
      T* yr = y + r * columns;
      for (int64_t c = 0; c < columns; ++c) {
        const Acc<T> n = (static_cast<Acc<T>>(row[c]) - mean) * rstd * static_cast<Acc<T>>(weight[c]);
        yr[c] = static_cast<T>(bias ? n + static_cast<Acc<T>>(bias[c]) : n);
      }
    }
  });
}

/// Partial sums over fixed slices of the rows: their order does not depend on the number of threads.
template <class T>
struct Parts {
  int64_t count;
  Acc<T>*dweight, *dbias;  // [count, C] each
};

/// With n = (h - mean) rstd and g = dy weight:
///   dh = rstd (g - mean(g) - n mean(g n)),  dweight = sum over rows of dy n,  dbias = sum over rows of dy
template <class T>
void backward_rows(const T* h, const T* weight, const Acc<T>* means, const Acc<T>* rstds, const T* dy, const T* dh_more,
                   T* dx, const Parts<T>& parts, int64_t rows, int64_t columns) {
  parallel_items(parts.count, [=](int64_t part) RW_CPU_LEVELS {
    Acc<T>*dw = parts.dweight + part * columns, *db = parts.dbias + part * columns;
    std::fill_n(dw, columns, Acc<T>(0));
    std::fill_n(db, columns, Acc<T>(0));
    for (int64_t r = rows * part / parts.count; r < rows * (part + 1) / parts.count; ++r) {
      const T *hr = h + r * columns, *gr = dy + r * columns, *more = dh_more ? dh_more + r * columns : nullptr;
      T* out = dx + r * columns;
      const Acc<T> mean = means[r], rstd = rstds[r];
      Acc<T> sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
      for (int64_t c = 0; c < columns; ++c) {
        const Acc<T> n = (static_cast<Acc<T>>(hr[c]) - mean) * rstd, d = static_cast<Acc<T>>(gr[c]);
        const Acc<T> g = d * static_cast<Acc<T>>(weight[c]);
        dw[c] += d * n;
        db[c] += d;
        sum += g;
        dot += g * n;
      }
      const Acc<T> mean_g = sum / static_cast<Acc<T>>(columns), mean_gn = dot / static_cast<Acc<T>>(columns);
      for (int64_t c = 0; c < columns; ++c) {
        const Acc<T> n = (static_cast<Acc<T>>(hr[c]) - mean) * rstd;
        const Acc<T> g = static_cast<Acc<T>>(gr[c]) * static_cast<Acc<T>>(weight[c]);
        const Acc<T> d = rstd * (g - mean_g - n * mean_gn);
        out[c] = static_cast<T>(more ? d + static_cast<Acc<T>>(more[c]) : d);
      }
    }
  });
}

// saved: h [N,C], weight [C], mean [N], rstd [N]. inputs: x, weight, bias (and residual). outputs: (h and) y
struct LayerNormNode : Node {
  bool fused = false;  // has the output h
  Shape shape;
  const char* name() const override { return fused ? "residual_layer_norm" : "layer_norm"; }

  void backward() override {
    const Tensor &h = saved[0], &weight = saved[1], &mean = saved[2], &rstd = saved[3];
    const Tensor dh = fused ? grad_out(0) : Tensor();
    const Tensor dy = grad_out(fused ? 1 : 0);
    if (!dy.defined()) {  // only the residual stream is used downstream
      add_grad(0, dh);
      if (inputs.size() > 3) add_grad(3, dh);
      return;
    }
    const Tensor dx = Tensor::empty(shape, h.dtype(), h.device());
    const DType wide = weight.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Target dw{Tensor(), 0}, db{Tensor(), 0};
    if (wants(1)) dw = grad_target(1, weight.shape(), wide, h.device());
    if (wants(2)) db = grad_target(2, weight.shape(), wide, h.device());
    if (h.is_cuda()) {
      cuda::layer_norm_backward({h, weight, mean, rstd}, dy, dh, dx, {dw.tensor, dw.beta != 0},
                                {db.tensor, db.beta != 0});
    } else {
      const int64_t rows = h.size(0), columns = h.size(1), parts = std::min<int64_t>(64, rows);
      const Tensor partial_w = Tensor::empty({parts, columns}, wide), partial_b = Tensor::empty({parts, columns}, wide);
      dispatch_float(h.dtype(), name(), [&](auto zero) {
        using T = decltype(zero);
        backward_rows<T>(h.data<T>(), weight.data<T>(), mean.data<Acc<T>>(), rstd.data<Acc<T>>(), dy.data<T>(),
                         dh.defined() ? dh.data<T>() : nullptr, dx.data<T>(),
                         {parts, partial_w.data<Acc<T>>(), partial_b.data<Acc<T>>()}, rows, columns);
      });
      if (wants(1)) detail::sum_columns(partial_w, dw.tensor, dw.beta != 0);
      if (wants(2)) detail::sum_columns(partial_b, db.tensor, db.beta != 0);
    }
    add_grad(0, dx);
    if (inputs.size() > 3) add_grad(3, dx);
  }
};

/// `stream`: without a residual, x itself is the output h.
std::pair<Var, Var> norm(const char* op, const Var& x, const Var* residual, const Var& weight, const Var& bias,
                         double eps, bool stream = false) {
  const detail::NormRows size = detail::check_norm_inputs(op, x, residual, weight, bias);
  const int64_t rows = size.rows, columns = size.columns;
  const DType wide = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor y = Tensor::empty_like(x.value());
  const Tensor h = residual ? Tensor::empty_like(x.value()) : x.value();
  const Tensor mean = Tensor::empty({rows}, wide, x.device()), rstd = Tensor::empty({rows}, wide, x.device());
  const Tensor more = residual ? residual->value() : Tensor();
  if (x.is_cuda()) {
    cuda::layer_norm_forward(x.value(), more, weight.value(), bias.value(), eps, {residual ? h : Tensor(), y},
                             {mean, rstd});
  } else {
    dispatch_float(x.dtype(), op, [&](auto zero) {
      using T = decltype(zero);
      const auto or_null = [](const Tensor& t) { return t.defined() ? t.data<T>() : nullptr; };
      forward_rows<T>(x.value().data<T>(), or_null(more), weight.value().data<T>(), or_null(bias.value()),
                      static_cast<Acc<T>>(eps), h.data<T>(), y.data<T>(), mean.data<Acc<T>>(), rstd.data<Acc<T>>(),
                      rows, columns);
    });
  }
  Var out_h(h), out_y(y);
  if (residual ? records(x, weight, bias, *residual) : records(x, weight, bias)) {
    auto node = std::make_unique<LayerNormNode>();
    node->fused = residual != nullptr || stream;
    node->shape = x.shape();
    node->saved = {h.view({rows, columns}), weight.value(), mean, rstd};
    if (residual) {
      Tape::current().record(std::move(node), {x, weight, bias, *residual}, {&out_h, &out_y});
    } else if (stream) {
      Tape::current().record(std::move(node), {x, weight, bias}, {&out_h, &out_y});
    } else {
      Tape::current().record(std::move(node), {x, weight, bias}, {&out_y});
    }
  }
  return {out_h, out_y};
}

}  // namespace

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps) {
  return norm("layer_norm", x, nullptr, weight, bias, eps).second;
}

std::pair<Var, Var> residual_layer_norm(const Var& x, const Var& residual, const Var& weight, const Var& bias,
                                        double eps) {
  return norm("residual_layer_norm", x, &residual, weight, bias, eps);
}

std::pair<Var, Var> stream_layer_norm(const Var& x, const Var& weight, const Var& bias, double eps) {
  return norm("layer_norm", x, nullptr, weight, bias, eps, /*stream=*/true);
}

}  // namespace rw
