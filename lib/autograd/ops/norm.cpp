// RMSNorm on the CPU, alone and fused with the residual add before it: the loops and the recorded op.
#include "autograd/ops/norm.h"

#include <cmath>

#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/largest.h"
#include "autograd/ops/detail/norm_inputs.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

/// h = x (+ residual); y = h * rstd * (weight + plus), rstd = 1/sqrt(mean(h^2) + eps).
/// h is written only if there is a residual. `stream`: x is the sum already, and residual a single row of zeros that
/// is added to every row, so that the squares add up in the same order, to the same bits.
template <class T>
void forward_rows(const T* x, const T* residual, const T* weight, Acc<T> eps, Acc<T> plus, T* h, T* y, Acc<T>* rstd,
                  int64_t rows, int64_t columns, bool stream) {
  parallel_for(rows, 16, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    std::vector<T> unused(static_cast<size_t>(stream ? columns : 0));
    for (int64_t r = begin; r < end; ++r) {
      const T* row = x + r * columns;
      Acc<T> square = 0;
      if (residual) {
        T* hr = stream ? unused.data() : h + r * columns;
        const T* rr = stream ? residual : residual + r * columns;
#pragma omp simd reduction(+ : square)
        for (int64_t c = 0; c < columns; ++c) {
          hr[c] = static_cast<T>(static_cast<Acc<T>>(row[c]) + static_cast<Acc<T>>(rr[c]));
          square += static_cast<Acc<T>>(hr[c]) * static_cast<Acc<T>>(hr[c]);
        }
        if (!stream) row = hr;
      } else {
#pragma omp simd reduction(+ : square)
        for (int64_t c = 0; c < columns; ++c) square += static_cast<Acc<T>>(row[c]) * static_cast<Acc<T>>(row[c]);
      }
      const Acc<T> scale = Acc<T>(1) / std::sqrt(square / static_cast<Acc<T>>(columns) + eps);
      rstd[r] = scale;
      T* yr = y + r * columns;
      for (int64_t c = 0; c < columns; ++c) {
        yr[c] = static_cast<T>(static_cast<Acc<T>>(row[c]) * scale * (static_cast<Acc<T>>(weight[c]) + plus));
      }
    }
  });
}

/// With n = h * rstd and g = dy * (weight + plus): dh = rstd * (g - n * mean(g n)), dweight = sum over rows of dy * n.
template <class T>
void backward_rows(const T* h, const T* weight, Acc<T> plus, const Acc<T>* rstd, const T* dy, const T* dh_more, T* dx,
                   Acc<T>* dweight_parts, int64_t parts, int64_t rows, int64_t columns) {
  // Fixed parts: the order of sums does not depend on the thread count.
  parallel_items(parts, [=](int64_t part) RW_CPU_LEVELS {
    Acc<T>* dw = dweight_parts + part * columns;
    std::fill_n(dw, columns, Acc<T>(0));
    for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; ++r) {
      const T *hr = h + r * columns, *gr = dy + r * columns, *more = dh_more ? dh_more + r * columns : nullptr;
      T* out = dx + r * columns;
      const Acc<T> scale = rstd[r];
      Acc<T> dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t c = 0; c < columns; ++c) {
        const Acc<T> n = static_cast<Acc<T>>(hr[c]) * scale, g = static_cast<Acc<T>>(gr[c]);
        dw[c] += g * n;
        dot += g * (static_cast<Acc<T>>(weight[c]) + plus) * n;
      }
      const Acc<T> mean = dot / static_cast<Acc<T>>(columns);
      for (int64_t c = 0; c < columns; ++c) {
        const Acc<T> n = static_cast<Acc<T>>(hr[c]) * scale;
        Acc<T> d = scale * (static_cast<Acc<T>>(gr[c]) * (static_cast<Acc<T>>(weight[c]) + plus) - n * mean);
        if (more) d += static_cast<Acc<T>>(more[c]);
        out[c] = static_cast<T>(d);
      }
    }
  });
}

struct NormNode : Node {  // saved: h [N,C], weight [C], rstd [N]. inputs: x, weight (and residual). outputs: (h and) y
  bool fused = false;     // has the output h
  double weight_offset = 0;
  Shape shape;
  const char* name() const override { return fused ? "residual_rms_norm" : "rms_norm"; }

  void backward() override {
    const Tensor &h = saved[0], &weight = saved[1], &rstd = saved[2];
    const Tensor dh = fused ? grad_out(0) : Tensor();
    const Tensor dy = grad_out(fused ? 1 : 0);
    if (!dy.defined()) {  // only the residual stream is used downstream
      add_grad(0, dh);
      if (inputs.size() > 2) add_grad(2, dh);
      return;
    }
    const Tensor dx = Tensor::empty(shape, h.dtype(), h.device());
    const DType wide = weight.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Target dw{Tensor(), 0};
    if (wants(1)) dw = grad_target(1, weight.shape(), wide, h.device());
    const int64_t rows = h.size(0), columns = h.size(1);
    const Tensor largest = detail::place_for_largest(dx, *this, {0, inputs.size() > 2 ? size_t{2} : size_t{0}});
    if (h.is_cuda()) {
      cuda::rms_norm_backward(h, weight, weight_offset, rstd, dy, dh, dx, dw.tensor, dw.beta != 0, largest);
    } else {
      const int64_t parts = std::min<int64_t>(64, rows);
      const Tensor partial = Tensor::empty({parts, columns}, wide);
      dispatch_float(h.dtype(), name(), [&](auto zero) {
        using T = decltype(zero);
        backward_rows<T>(h.data<T>(), weight.data<T>(), static_cast<Acc<T>>(weight_offset), rstd.data<Acc<T>>(),
                         dy.data<T>(), dh.defined() ? dh.data<T>() : nullptr, dx.data<T>(), partial.data<Acc<T>>(),
                         parts, rows, columns);
        if (!wants(1)) return;
        Tensor sums = Tensor::zeros(weight.shape(), wide);
        for (int64_t p = 0; p < parts; ++p) {
          for (int64_t c = 0; c < columns; ++c) sums.data<Acc<T>>()[c] += partial.data<Acc<T>>()[p * columns + c];
        }
        if (dw.beta == 0) dw.tensor.zero();
        accumulate(dw.tensor, sums);
      });
    }
    add_grad(0, dx, largest);
    if (inputs.size() > 2) add_grad(2, dx, largest);
  }
};

/// `stream`: without a residual, x itself is the output h.
std::pair<Var, Var> norm(const char* op, const Var& x, const Var* residual, const Var& weight,
                         const NormOptions& options, bool stream = false) {
  const detail::NormRows size = detail::check_norm_inputs(op, x, residual, weight);
  const int64_t rows = size.rows, columns = size.columns;
  const Tensor y = Tensor::empty_like(x.value());
  const Tensor h = residual ? Tensor::empty_like(x.value()) : x.value();
  const Tensor rstd = Tensor::empty({rows}, x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device());
  const Tensor flat = h.view({rows, columns});
  const Tensor largest = options.feeds_fp8 ? detail::place_for_largest(y) : Tensor();
  if (x.is_cuda()) {
    cuda::rms_norm_forward(x.value(), residual ? residual->value() : Tensor(), weight.value(), options.eps,
                           options.weight_offset, residual ? h : Tensor(), y, rstd, largest);
  } else {
    dispatch_float(x.dtype(), op, [&](auto zero) {
      using T = decltype(zero);
      const std::vector<T> zeros(static_cast<size_t>(stream ? columns : 0));
      forward_rows<T>(x.value().data<T>(),
                      residual ? residual->value().data<T>()
                      : stream ? zeros.data()
                               : nullptr,
                      weight.value().data<T>(), static_cast<Acc<T>>(options.eps),
                      static_cast<Acc<T>>(options.weight_offset), h.data<T>(), y.data<T>(), rstd.data<Acc<T>>(), rows,
                      columns, stream);
    });
  }
  Var out_h(h), out_y(y);
  out_y.set_largest(largest);
  const bool recorded = residual ? records(x, weight, *residual) : records(x, weight);
  if (recorded) {
    // The squares add up as they did here, with a residual or without.
    const bool fused = residual != nullptr || stream;
    out_y.set_recomputation([flat, w = weight.value(), plain = NormOptions{options.eps, options.weight_offset}, fused] {
      return norm("rms_norm", flat, nullptr, w, plain, fused).second.value();
    });
    auto node = std::make_unique<NormNode>();
    node->fused = fused;
    node->weight_offset = options.weight_offset;
    node->shape = x.shape();
    node->saved = {flat, weight.value(), rstd};
    if (residual) {
      Tape::current().record(std::move(node), {x, weight, *residual}, {&out_h, &out_y});
    } else if (stream) {
      Tape::current().record(std::move(node), {x, weight}, {&out_h, &out_y});
    } else {
      Tape::current().record(std::move(node), {x, weight}, {&out_y});
    }
  }
  return {out_h, out_y};
}

}  // namespace

Var rms_norm(const Var& x, const Var& weight, const NormOptions& options) {
  return norm("rms_norm", x, nullptr, weight, options).second;
}
Var rms_norm(const Var& x, const Var& weight, double eps) { return rms_norm(x, weight, NormOptions{.eps = eps}); }

std::pair<Var, Var> residual_rms_norm(const Var& x, const Var& residual, const Var& weight,
                                      const NormOptions& options) {
  return norm("residual_rms_norm", x, &residual, weight, options);
}
std::pair<Var, Var> residual_rms_norm(const Var& x, const Var& residual, const Var& weight, double eps) {
  return residual_rms_norm(x, residual, weight, NormOptions{.eps = eps});
}

std::pair<Var, Var> stream_rms_norm(const Var& x, const Var& weight, const NormOptions& options) {
  return norm("rms_norm", x, nullptr, weight, options, /*stream=*/true);
}

}  // namespace rw
