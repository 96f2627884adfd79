// Cross-entropy on the CPU, its fusion with the last linear layer on both devices, and the recorded ops.
#include "autograd/ops/loss.h"

#include <cmath>

#include "autograd/ops/cuda_ops.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/gemm.h"
#include "tensor/math.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

DType wide(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

/// nll[r] = logsumexp(row) - row[target]; with `gradient`, the row becomes softmax - onehot. Ignored rows give 0.
template <class T>
void rows_cpu(T* logits, const int32_t* targets, bool gradient, Acc<T>* nll, int64_t rows, int64_t vocab) {
  parallel_for(rows, 4, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t r = begin; r < end; ++r) {
      T* row = logits + r * vocab;
      if (targets[r] == kIgnoreIndex) {
        nll[r] = 0;
        if (gradient) std::fill_n(row, vocab, T(0));
        continue;
      }
      Acc<T> top = static_cast<Acc<T>>(row[0]);
#pragma omp simd reduction(max : top)
      for (int64_t v = 0; v < vocab; ++v) top = std::max(top, static_cast<Acc<T>>(row[v]));
      const Acc<T> target = static_cast<Acc<T>>(row[targets[r]]);
      Acc<T> sum = 0;
      if (gradient && !std::is_same_v<T, bf16>) {  // the exponentials are kept, so that each is computed once
#pragma omp simd reduction(+ : sum)
        for (int64_t v = 0; v < vocab; ++v) {
          const Acc<T> e = fast_exp(static_cast<Acc<T>>(row[v]) - top);
          row[v] = static_cast<T>(e);
          sum += e;
        }
        const Acc<T> inverse = Acc<T>(1) / sum;
        for (int64_t v = 0; v < vocab; ++v) row[v] = static_cast<T>(static_cast<Acc<T>>(row[v]) * inverse);
      } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t v = 0; v < vocab; ++v) sum += fast_exp(static_cast<Acc<T>>(row[v]) - top);
        if (gradient) {
          for (int64_t v = 0; v < vocab; ++v)
            row[v] = static_cast<T>(fast_exp(static_cast<Acc<T>>(row[v]) - top) / sum);
        }
      }
      nll[r] = top + std::log(sum) - target;
      if (gradient) row[targets[r]] = static_cast<T>(static_cast<Acc<T>>(row[targets[r]]) - Acc<T>(1));
    }
  });
}

/// The same for soft-capped logits s = cap tanh(z / cap): z is given, and with
/// `gradient` becomes dz = ds (1 - (s/cap)^2).
template <class T>
void capped_rows_cpu(T* logits, const int32_t* targets, bool gradient, double soft_cap, Acc<T>* nll, int64_t rows,
                     int64_t vocab) {
  const Acc<T> cap = static_cast<Acc<T>>(soft_cap);
  parallel_for(rows, 4, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    std::vector<Acc<T>> capped(static_cast<size_t>(vocab)), slope(static_cast<size_t>(vocab));
    for (int64_t r = begin; r < end; ++r) {
      T* row = logits + r * vocab;
      if (targets[r] == kIgnoreIndex) {
        nll[r] = 0;
        if (gradient) std::fill_n(row, vocab, T(0));
        continue;
      }
      for (int64_t v = 0; v < vocab; ++v) {
        const Acc<T> t = fast_tanh(static_cast<Acc<T>>(row[v]) / cap);
        capped[static_cast<size_t>(v)] = cap * t;
        slope[static_cast<size_t>(v)] = Acc<T>(1) - t * t;
      }
      rows_cpu<Acc<T>>(capped.data(), targets + r, gradient, nll + r, 1, vocab);
      if (!gradient) continue;
      for (int64_t v = 0; v < vocab; ++v)
        row[v] = static_cast<T>(capped[static_cast<size_t>(v)] * slope[static_cast<size_t>(v)]);
    }
  });
}

/// On either device; logits are overwritten if `gradient`.
void loss_rows(const Tensor& logits, const Tensor& targets, bool gradient, const Tensor& nll, double soft_cap = 0) {
  if (logits.is_cuda()) return cuda::cross_entropy_rows(logits, targets, gradient, nll, {}, soft_cap);
  dispatch_float(logits.dtype(), "cross_entropy", [&](auto zero) {
    using T = decltype(zero);
    if (soft_cap != 0) {
      return capped_rows_cpu<T>(logits.data<T>(), targets.data<int32_t>(), gradient, soft_cap, nll.data<Acc<T>>(),
                                logits.size(0), logits.size(1));
    }
    rows_cpu<T>(logits.data<T>(), targets.data<int32_t>(), gradient, nll.data<Acc<T>>(), logits.size(0),
                logits.size(1));
  });
}

void check_targets(const char* op, const Tensor& targets, int64_t rows, int64_t vocab, Device device) {
  check(targets.defined() && targets.dtype() == DType::i32, op, "targets must be i32");
  check_shape(op, "targets", targets, {rows});
  check(targets.device() == device, op, "targets are on ", targets.device(), ", logits on ", device);
  if (targets.is_cuda()) return;
  const int32_t* t = targets.data<int32_t>();
  for (int64_t r = 0; r < rows; ++r) {
    check(t[r] == kIgnoreIndex || (t[r] >= 0 && t[r] < vocab), op, "target ", t[r], " at row ", r,
          " is outside the vocabulary [0, ", vocab, ")");
  }
}

/// 1 / number of scored rows for the mean, 1 for the sum.
double factor_of(Reduction reduction, const Tensor& targets) {
  if (reduction != Reduction::mean) return 1;
  const Tensor host = targets.to(kCpu);
  int64_t scored = 0;
  for (int64_t r = 0; r < host.numel(); ++r) scored += host.data<int32_t>()[r] != kIgnoreIndex;
  return 1.0 / static_cast<double>(scored);
}

/// [1] = factor * sum of nll, in the dtype of nll.
Tensor reduce(const Tensor& nll, double factor) {
  Tensor y = Tensor::empty({1}, nll.dtype(), nll.device());
  if (nll.is_cuda()) {
    cuda::sum_all(nll, factor, y);
    return y;
  }
  double s = 0;
  for (double v : nll.to_vector()) s += v;
  y.fill(factor * s);
  return y;
}

/// y[r,c] = x[r,c] s[r]; y may be x.
void scale_rows(const Tensor& x, const Tensor& s, const Tensor& y) {
  if (x.numel() == 0) return;
  if (x.is_cuda()) return cuda::scale_rows(x, s, y);
  const int64_t columns = x.numel() / s.numel();
  dispatch_float(x.dtype(), "scale_rows", [&](auto zero) {
    using T = decltype(zero);
    const T* px = x.data<T>();
    T* py = y.data<T>();
    const float* ps = s.data<float>();
    parallel_for(s.numel(), 64, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
      for (int64_t i = begin * columns; i < end * columns; ++i)
        py[i] = static_cast<T>(static_cast<Acc<T>>(px[i]) * static_cast<Acc<T>>(ps[i / columns]));
    });
  });
}

/// factor * scalar * x as a new tensor of dtype `dtype`.
void add_scaled(const Tensor& to, const Tensor& from, double factor, const Tensor& scalar) {
  if (to.is_cuda()) return cuda::add_scaled(to, from, factor, scalar);
  const double f = factor * scalar.item();
  dispatch_float(to.dtype(), "loss", [&](auto to_zero) {
    dispatch_float(from.dtype(), "loss", [&](auto from_zero) {
      using T = decltype(to_zero);
      T* p = to.data<T>();
      const auto* q = from.data<decltype(from_zero)>();
      const Acc<T> s = static_cast<Acc<T>>(f);
      parallel_for(to.numel(), 1 << 15, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
        for (int64_t i = begin; i < end; ++i)
          p[i] = static_cast<T>(static_cast<Acc<T>>(p[i]) + s * static_cast<Acc<T>>(q[i]));
      });
    });
  });
}

struct CrossEntropyNode : Node {  // saved: softmax - onehot [N,V]; on a GPU logits [N,V], targets [N], stats [N,2]
  bool per_row = false;
  double factor = 1;
  const char* name() const override { return "cross_entropy"; }
  void backward() override {
    const Tensor& d = saved[0];
    const Tensor dx = Tensor::empty_like(d);
    if (d.is_cuda()) {
      cuda::cross_entropy_gradient(d, saved[1], saved[2], grad_out(), factor, dx);
    } else if (!per_row) {
      dx.zero();
      add_scaled(dx, d, factor, grad_out());
    } else {
      const std::vector<double> dy = grad_out().to_vector();
      dispatch_float(d.dtype(), name(), [&](auto zero) {
        using T = decltype(zero);
        const int64_t vocab = d.size(1);
        for (int64_t i = 0; i < d.numel(); ++i) {
          dx.data<T>()[i] = static_cast<T>(static_cast<double>(d.data<T>()[i]) * dy[static_cast<size_t>(i / vocab)]);
        }
      });
    }
    add_grad(0, dx);
  }
};

// saved: d(sum)/dx [N,C], d(sum)/dweight [V,C], d(sum)/dbias [V] (each only if wanted). inputs: x, weight, bias
struct LinearCrossEntropyNode : Node {
  double factor = 1;
  Shape x_shape;
  const char* name() const override { return "linear_cross_entropy"; }
  void backward() override {
    for (size_t i = 0; i < saved.size(); ++i) {
      if (!wants(i)) continue;
      const Shape shape = i == 0 ? x_shape : saved[i].shape();
      const Target d = grad_target(i, shape, saved[i].dtype(), saved[i].device());
      if (d.beta == 0) d.tensor.zero();
      add_scaled(d.tensor.view(saved[i].shape()), saved[i], factor, grad_out());
    }
  }
};

int64_t chunk_rows(int64_t vocab, DType dtype, Device device) {
  return loss_chunk_rows(vocab, dtype, device.is_cuda());
}

/// The arguments that linear_cross_entropy and token_nll share.
void check_head(const char* op, const Tensor& x, const Tensor& weight, const Tensor& targets,
                const LossOptions& options) {
  check(weight.rank() == 2, op, "weight must have shape [V, C], got ", weight.shape());
  check(x.rank() >= 1 && x.size(-1) == weight.size(1), op, "x must have shape [..., ", weight.size(1), "], got ",
        x.shape());
  check_same(op, "x", x, "weight", weight);
  if (options.bias.defined()) {
    check_shape(op, "bias", options.bias.value(), {weight.size(0)});
    check_same(op, "x", x, "bias", options.bias.value());
  }
  check(options.soft_cap >= 0 && std::isfinite(options.soft_cap), op, "soft_cap must be 0 or positive, got ",
        options.soft_cap);
  check_targets(op, targets, x.numel() / weight.size(1), weight.size(0), x.device());
}

/// logits [R,V] = x [R,C] W^T + bias; bias may be undefined.
void head_logits(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& logits) {
  gemm(x, transposed(weight), logits, {.bias = bias});
}

}  // namespace

int64_t loss_chunk_rows(int64_t vocab, DType dtype, bool cuda) {
  const int64_t bytes = cuda ? int64_t{512} << 20 : int64_t{16} << 20;
  return std::max<int64_t>(64, bytes / (vocab * size_of(dtype)) / 64 * 64);
}

Var cross_entropy(const Var& logits, const Tensor& targets, Reduction reduction) {
  check(logits.rank() == 2 && logits.size(1) > 0, "cross_entropy", "logits must have shape [N, V], got ",
        logits.shape());
  check_targets("cross_entropy", targets, logits.size(0), logits.size(1), logits.device());
  const bool recorded = records(logits);
  const Tensor nll = Tensor::empty({logits.size(0)}, wide(logits.dtype()), logits.device());
  std::vector<Tensor> saved;
  if (recorded &&
      logits.is_cuda()) {  // the gradient is made in backward: three passes over the logits instead of eight
    saved = {logits.value(), targets, Tensor::empty({logits.size(0), 2}, DType::f32, logits.device())};
    cuda::cross_entropy_rows(logits.value(), targets, false, nll, saved[2]);
  } else {
    const Tensor work = recorded ? logits.value().clone() : logits.value();
    loss_rows(work, targets, recorded, nll);
    if (recorded) saved = {work};
  }
  const double factor = factor_of(reduction, targets);
  Var out(reduction == Reduction::none ? nll : reduce(nll, factor));
  if (recorded) {
    auto node = std::make_unique<CrossEntropyNode>();
    node->per_row = reduction == Reduction::none;
    node->factor = factor;
    node->saved = std::move(saved);
    Tape::current().record(std::move(node), {logits}, {&out});
  }
  return out;
}

Var linear_cross_entropy(const Var& x, const Var& weight, const Tensor& targets, Reduction reduction,
                         const Tensor& row_weights) {
  return linear_cross_entropy(
      x, weight, targets, LossOptions{.reduction = reduction, .row_weights = row_weights, .bias = {}, .soft_cap = 0});
}

Var linear_cross_entropy(const Var& x, const Var& weight, const Tensor& targets, const LossOptions& options) {
  const char* op = "linear_cross_entropy";
  check(options.reduction != Reduction::none, op, "reduction must be sum or mean; token_nll gives the rows");
  check_head(op, x.value(), weight.value(), targets, options);
  const int64_t vocab = weight.size(0), columns = weight.size(1), n = x.numel() / columns;
  const Var& bias = options.bias;
  const Tensor& row_weights = options.row_weights;
  const bool weighted = row_weights.defined();
  if (weighted) {
    check(options.reduction == Reduction::sum && row_weights.dtype() == DType::f32, op,
          "row weights are f32 and need a sum");
    check_shape(op, "row_weights", row_weights, {n});
    check(row_weights.device() == x.device(), op, "row weights are on ", row_weights.device(), ", x on ", x.device());
  }
  const Tensor rows = x.value().view({n, columns});
  const bool recorded = records(x, weight, bias);
  const bool want_x = recorded && x.requires_grad(), want_w = recorded && weight.requires_grad();
  const bool want_b = recorded && bias.requires_grad();
  const Tensor dx = want_x ? Tensor::empty_like(rows) : Tensor();
  const int64_t chunk = std::min(n, chunk_rows(vocab, x.dtype(), x.device()));
  // Several chunks add up in f32. The product of a single one is rounded to a bf16 gradient here instead of later.
  DType dw_dtype = wide(weight.dtype());
  if (want_w && chunk == n && weight.slot()->grad.defined() && weight.slot()->grad.dtype() == DType::bf16)
    dw_dtype = DType::bf16;
  const Tensor dw = want_w ? Tensor::empty(weight.shape(), dw_dtype, x.device()) : Tensor();
  const Tensor db = want_b ? Tensor::zeros({vocab}, wide(weight.dtype()), x.device()) : Tensor();
  const Tensor nll = Tensor::empty({n}, wide(x.dtype()), x.device());
  // dW = G^T diag(w) x: the weights go to the narrow side of the product.
  Tensor weighted_rows = rows;
  if (weighted && want_w) scale_rows(rows, row_weights, weighted_rows = Tensor::empty_like(rows));
  // dbias = G^T w
  const Tensor ones = Tensor::full({want_b ? n : 0, 1}, 1.0, x.dtype(), x.device());
  if (weighted && want_b) scale_rows(ones, row_weights, ones);
  const Tensor buffer = Tensor::empty({chunk, vocab}, x.dtype(), x.device());
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t end = std::min(n, begin + chunk);
    const Tensor logits = buffer.slice(0, end - begin);  // [chunk,V]
    head_logits(rows.slice(begin, end), weight.value(), bias.value(), logits);
    loss_rows(logits, targets.slice(begin, end), recorded, nll.slice(begin, end), options.soft_cap);
    if (want_x) gemm(logits, weight.value(), dx.slice(begin, end));
    if (want_w) gemm(transposed(logits), weighted_rows.slice(begin, end), dw, {.beta = begin == 0 ? 0.0 : 1.0});
    if (want_b) gemm(transposed(logits), ones.slice(begin, end), db.view({vocab, 1}), {.beta = 1});
  }
  if (want_w && n == 0) dw.zero();
  if (weighted) {
    if (want_x) scale_rows(dx, row_weights, dx);
    scale_rows(nll, row_weights, nll);
  }
  const double factor = factor_of(options.reduction, targets);
  Var out(reduce(nll, factor));
  if (recorded) {
    auto node = std::make_unique<LinearCrossEntropyNode>();
    node->factor = factor;
    node->x_shape = x.shape();
    node->saved = {dx, dw, db};
    Tape::current().record(std::move(node), {x, weight, bias}, {&out});
  }
  return out;
}

Tensor token_nll(const Tensor& x, const Tensor& weight, const Tensor& targets, const LossOptions& options) {
  check_head("token_nll", x, weight, targets, options);
  check(!options.row_weights.defined(), "token_nll", "row weights are for a sum; here every row keeps its own loss");
  const int64_t vocab = weight.size(0), columns = weight.size(1), n = x.numel() / columns;
  const Tensor rows = x.view({n, columns});
  const Tensor nll = Tensor::empty({n}, wide(x.dtype()), x.device());
  const int64_t chunk = std::min(n, chunk_rows(vocab, x.dtype(), x.device()));
  const Tensor buffer = Tensor::empty({chunk, vocab}, x.dtype(), x.device());
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t end = std::min(n, begin + chunk);
    const Tensor logits = buffer.slice(0, end - begin);
    head_logits(rows.slice(begin, end), weight, options.bias.value(), logits);
    loss_rows(logits, targets.slice(begin, end), false, nll.slice(begin, end), options.soft_cap);
  }
  return nll;
}

}  // namespace rw
