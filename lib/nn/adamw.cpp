// AdamW on the CPU, and what it hands to the GPU.
#include "nn/adamw.h"

#include <cmath>
#include <cstring>

#include "nn/split_master.h"
#include "tensor/cpu_levels.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

constexpr int64_t kBlock =
    1 << 14;  // elements per partial sum: fixed, so that the norm does not depend on the thread count

template <class T>
double squared_norm(const T* g, int64_t n) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> partial(static_cast<size_t>(blocks));
  parallel_for(blocks, 4, [&](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t b = begin; b < end; ++b) {
      double s = 0;
      const int64_t last = std::min(n, (b + 1) * kBlock);
#pragma omp simd reduction(+ : s)
      for (int64_t i = b * kBlock; i < last; ++i) s += static_cast<double>(g[i]) * static_cast<double>(g[i]);
      partial[static_cast<size_t>(b)] = s;
    }
  });
  double total = 0;
  for (double s : partial) total += s;
  return total;
}

struct Rates {
  double lr, decay, scale, beta1, beta2, correction1, correction2, eps;
};

/// One thread's part of the update.
template <class T>
void update_part(T* p, T* g, T* m, T* v, int64_t n, const Rates& r) {
  const T shrink = static_cast<T>(1 - r.lr * r.decay), scale = static_cast<T>(r.scale);
  const T b1 = static_cast<T>(r.beta1), b2 = static_cast<T>(r.beta2), c1 = static_cast<T>(1 - r.beta1),
          c2 = static_cast<T>(1 - r.beta2);
  const T rate = static_cast<T>(r.lr / r.correction1), root = static_cast<T>(1 / std::sqrt(r.correction2)),
          eps = static_cast<T>(r.eps);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T grad = g[i] * scale;
    const T mi = b1 * m[i] + c1 * grad, vi = b2 * v[i] + c2 * grad * grad;
    m[i] = mi;
    v[i] = vi;
    p[i] = p[i] * shrink - rate * mi / (std::sqrt(vi) * root + eps);
    g[i] = 0;
  }
}

template <class T>
void update(T* p, T* g, T* m, T* v, int64_t n, const Rates& r) {
  parallel_for(n, kBlock, [=, &r](int64_t begin, int64_t end) RW_CPU_LEVELS {
    update_part(p + begin, g + begin, m + begin, v + begin, end - begin, r);
  });
}

/// The same for elements [offset, offset + n) of an arena with split masters, bf16 gradients or both: in small parts
/// that are widened to f32, updated and narrowed again.
void update_split(const ParamArena& a, int64_t offset, int64_t n, const Rates& r) {
  constexpr int64_t kPart = 512;
  const bool split = a.memory().split_master, narrow = a.memory().bf16_gradients;
  bf16* high = split ? a.compute().data<bf16>() + offset : nullptr;
  // An int16 for each element; bytes, because it lies in a tensor of another type.
  char* low = split ? static_cast<char*>(a.low().raw()) + 2 * offset : nullptr;
  float* master = split ? nullptr : a.master().data<float>() + offset;
  bf16* half = narrow ? a.grad().data<bf16>() + offset : nullptr;
  float* grad = narrow ? nullptr : a.grad().data<float>() + offset;
  float *m = a.m().data<float>() + offset, *v = a.v().data<float>() + offset;
  parallel_for(n, kBlock, [=, &r](int64_t begin, int64_t end) RW_CPU_LEVELS {
    float joined[kPart], widened[kPart];
    for (int64_t at = begin; at < end; at += kPart) {
      const int64_t count = std::min(kPart, end - at);
      for (int64_t i = 0; split && i < count; ++i) {
        SplitFloat s{high[at + i].bits, 0};
        std::memcpy(&s.low, low + 2 * (at + i), 2);
        const uint32_t bits = join_float(s);
        std::memcpy(joined + i, &bits, 4);
      }
      for (int64_t i = 0; narrow && i < count; ++i) widened[i] = half[at + i];
      update_part(split ? joined : master + at, narrow ? widened : grad + at, m + at, v + at, count, r);
      for (int64_t i = 0; split && i < count; ++i) {
        uint32_t bits = 0;
        std::memcpy(&bits, joined + i, 4);
        const SplitFloat s = split_float(bits);
        high[at + i].bits = s.high;
        std::memcpy(low + 2 * (at + i), &s.low, 2);
      }
      for (int64_t i = 0; narrow && i < count; ++i) half[at + i] = bf16();
    }
  });
}

}  // namespace

double AdamW::step(double lr, double grad_scale, double clip) {
  if (arena_.device().is_cuda()) {
    const double norm = std::sqrt(enqueue(lr, grad_scale, clip).item()) * std::abs(grad_scale);
    if (!std::isfinite(norm)) --steps_;
    return norm;
  }
  const double norm = step_cpu(lr, grad_scale, clip);
  if (std::isfinite(norm)) ++steps_;
  return norm;
}

double AdamW::step_cpu(double lr, double grad_scale, double clip) {
  ParamArena& a = arena_;
  const int64_t begin = a.own_begin(), end = a.own_end();
  double norm = 0;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const bool split = a.memory().split_master || a.memory().bf16_gradients;
    double square = a.memory().bf16_gradients ? squared_norm(a.grad().data<bf16>() + begin, end - begin)
                                              : squared_norm(a.grad().data<T>() + begin, end - begin);
    if (norm_sum_) {
      const Tensor sum = Tensor::full({1}, square, DType::f64);
      norm_sum_(sum);
      square = sum.item();
    }
    norm = std::sqrt(square) * std::abs(grad_scale);
    if (!std::isfinite(norm)) return a.zero_grad();
    const double factor = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
    const double t = static_cast<double>(steps_ + 1);
    for (const ParamArena::Segment& s : a.segments()) {
      const Rates rates{.lr = lr * s.spec.lr_scale,
                        .decay = s.spec.decay ? config_.weight_decay : 0.0,
                        .scale = grad_scale * factor,
                        .beta1 = config_.beta1,
                        .beta2 = config_.beta2,
                        .correction1 = 1 - std::pow(config_.beta1, t),
                        .correction2 = 1 - std::pow(config_.beta2, t),
                        .eps = config_.eps};
      const int64_t o = std::max(s.offset, begin), n = std::min(s.offset + s.numel, end) - o;
      if (n <= 0 || s.frozen || !s.trainable) continue;
      if (split) {
        update_split(a, o, n, rates);
        continue;
      }
      update(a.master().data<T>() + o, a.grad().data<T>() + o, a.m().data<T>() + (o - begin),
             a.v().data<T>() + (o - begin), n, rates);
    }
    zero_rest();
  };
  if (a.master_dtype() == DType::f64) {
    run(double{});
  } else {
    run(float{});
  }
  a.refresh();
  return norm;
}

/// Gradients of elements that others own.
void AdamW::zero_rest() const {
  const Tensor& grad = arena_.grad();
  if (arena_.owns_all()) return;
  grad.slice(0, arena_.own_begin()).zero();
  grad.slice(arena_.own_end(), grad.numel()).zero();
}

void AdamW::set_early(int64_t begin, std::function<void()> f) {
  early_ = f ? begin : -1;
  after_early_ = std::move(f);
  scalars_ = Tensor();  // the tables are made anew
}

/// Rates of elements [begin, end).
cuda::AdamWTable AdamW::table(int64_t begin, int64_t end) const {
  if (begin >= end) return {};
  std::vector<cuda::AdamWSegment> segments;
  for (const ParamArena::Segment& s : arena_.segments()) {
    if (s.frozen) continue;
    const int64_t offset = std::max<int64_t>(s.offset - begin, 0);
    if (s.offset >= end) break;
    if (!segments.empty() && offset == 0) segments.pop_back();  // ends before the part begins
    // A rate of zero leaves the elements of a parameter that is not trained as they are.
    segments.push_back({offset, s.spec.decay ? 1.0f : 0.0f, s.trainable ? static_cast<float>(s.spec.lr_scale) : 0.0f});
  }
  return cuda::adamw_table(segments, end - begin, arena_.device());
}

Tensor AdamW::enqueue(double lr, double grad_scale, double clip) {
  const ParamArena& a = arena_;
  check(a.device().is_cuda(), "adamw", "enqueue() is for a GPU; use step()");
  const Device device = a.device();
  const int64_t begin = a.own_begin(), end = a.own_end(), early = early_ < 0 ? end : early_;
  if (!scalars_.defined()) {
    check(early_ < 0 || (a.owns_all() && !a.memory().split_master), "adamw",
          "elements are updated early only where masters are whole and all owned");
    table_ = table(begin, early);
    early_table_ = table(early, end);
    scalars_ = Tensor::empty({cuda::kAdamWScalars}, DType::f32, device);
    squared_norm_ = Tensor::empty({1}, DType::f64, device);
  }
  const double t = static_cast<double>(steps_ + 1);
  cuda::AdamWScalars values;
  values.lr = static_cast<float>(lr);
  values.beta1 = static_cast<float>(config_.beta1);
  values.beta2 = static_cast<float>(config_.beta2);
  values.eps = static_cast<float>(config_.eps);
  values.weight_decay = static_cast<float>(config_.weight_decay);
  values.correction1 = static_cast<float>(1 - std::pow(config_.beta1, t));
  values.correction2 = static_cast<float>(1 - std::pow(config_.beta2, t));
  values.grad_scale = static_cast<float>(grad_scale);
  values.clip = static_cast<float>(clip);
  cuda::set_adamw_scalars(values, scalars_);
  const auto owned = [&](const Tensor& whole) { return whole.slice(begin, end); };
  cuda::squared_norm(owned(a.grad()), squared_norm_);
  if (norm_sum_) norm_sum_(squared_norm_);
  const bool copy = !a.compute().aliases(a.master());
  const auto update = [&](int64_t from, int64_t to, const cuda::AdamWTable& rates) {
    if (from >= to) return;
    const auto part = [&](const Tensor& whole) { return whole.slice(from, to); };
    const auto moments = [&](const Tensor& own) { return own.slice(from - begin, to - begin); };
    cuda::adamw(part(a.master()), part(a.grad()), moments(a.m()), moments(a.v()), copy ? part(a.compute()) : Tensor(),
                rates, scalars_, squared_norm_);
  };
  a.touch();
  if (begin < end && a.memory().split_master) {
    cuda::adamw_split(a.compute(), a.low(), a.grad(), a.m(), a.v(), table_, scalars_, squared_norm_);
  } else {
    update(early, end, early_table_);
    if (after_early_) after_early_();
    update(begin, early, table_);
  }
  zero_rest();
  ++steps_;
  return squared_norm_;
}

}  // namespace rw
