// AdamW on the CPU, and what it hands to the GPU.
#include "nn/adamw.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "nn/split_master.h"
#include "tensor/cpu_levels.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

constexpr int64_t kBlock =
    1 << 14;  // elements per partial sum: fixed, so that the norm does not depend on the thread count

/// The sum of squares of g [n]: kSums running sums side by side, then those in order. Their number is fixed, and squares
/// of bf16 and f32 are exact in f64, so that the width of a CPU's registers changes no bit.
template <class T>
[[gnu::always_inline]] inline double sum_of_squares(const T* g, int64_t n) {
  constexpr int kSums = 32;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
#pragma omp simd
    for (int l = 0; l < kSums; ++l) sums[l] += static_cast<double>(g[i + l]) * static_cast<double>(g[i + l]);
  }
  double total = 0;
  for (; i < n; ++i) total += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  for (const double sum : sums) total += sum;
  return total;
}

template <class T>
double squared_norm(const T* g, int64_t n) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> partial(static_cast<size_t>(blocks));
  parallel_for(blocks, 4, [&](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t b = begin; b < end; ++b)
      partial[static_cast<size_t>(b)] = sum_of_squares(g + b * kBlock, std::min(kBlock, n - b * kBlock));
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
[[gnu::always_inline]] inline void update_part(T* p, T* g, T* m, T* v, int64_t n, const Rates& r) {
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

constexpr int64_t kPart = 512;  // elements that are widened at a time; whole blocks of moments

/// Moments of elements [at, at + n), at a multiple of kMomentBlock in 8 bits, in fewer bits than 32.
struct NarrowMoments {
  const ParamArena& arena;
  uint32_t draw;

  [[gnu::always_inline]] void load(int64_t at, int64_t n, float* m, float* v) const {
    if (arena.memory().moments == MomentFormat::bf16) {
      const bf16 *pm = arena.m().data<bf16>() + at, *pv = arena.v().data<bf16>() + at;
      for (int64_t i = 0; i < n; ++i) m[i] = pm[i], v[i] = pv[i];
      return;
    }
    const auto* cm = static_cast<const int8_t*>(arena.m().raw()) + at;
    const auto* cv = static_cast<const uint8_t*>(arena.v().raw()) + at;
    for (int64_t begin = 0; begin < n; begin += kMomentBlock) {
      const int64_t block = (at + begin) / kMomentBlock, end = std::min(n, begin + kMomentBlock);
      const float step = arena.m_scales().data<float>()[block] / 127.f;
      const int32_t base = square_base(std::bit_cast<uint32_t>(arena.v_scales().data<float>()[block]));
      for (int64_t i = begin; i < end; ++i) {
        m[i] = static_cast<float>(cm[i]) * step;
        v[i] = std::bit_cast<float>(square_bits(cv[i], base));
      }
    }
  }

  [[gnu::always_inline]] void store(int64_t at, int64_t n, const float* m, const float* v) const {
    if (arena.memory().moments == MomentFormat::bf16) {
      bf16 *pm = arena.m().data<bf16>() + at, *pv = arena.v().data<bf16>() + at;
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t random = moment_bits(draw, at + i);
        pm[i].bits = moment_bf16(std::bit_cast<uint32_t>(m[i]), random);
        pv[i].bits = moment_bf16(std::bit_cast<uint32_t>(v[i]), random >> 16);
      }
      return;
    }
    auto* cm = static_cast<int8_t*>(arena.m().raw()) + at;
    auto* cv = static_cast<uint8_t*>(arena.v().raw()) + at;
    for (int64_t begin = 0; begin < n; begin += kMomentBlock) {
      const int64_t block = (at + begin) / kMomentBlock, end = std::min(n, begin + kMomentBlock);
      float most_m = 0, most_v = 0;
#pragma omp simd reduction(max : most_m, most_v)
      for (int64_t i = begin; i < end; ++i) {
        most_m = std::abs(m[i]) > most_m ? std::abs(m[i]) : most_m;
        most_v = v[i] > most_v ? v[i] : most_v;
      }
      arena.m_scales().data<float>()[block] = most_m;
      arena.v_scales().data<float>()[block] = most_v;
      const float steps = most_m > 0 ? 127.f / most_m : 0.f;
      const int32_t base = square_base(std::bit_cast<uint32_t>(most_v));
      for (int64_t i = begin; i < end; ++i) {
        const uint32_t random = moment_bits(draw, at + i);
        cm[i] = static_cast<int8_t>(moment_code(m[i] * steps, random));
        cv[i] = static_cast<uint8_t>(square_code(std::bit_cast<uint32_t>(v[i]), base, random >> 13));
      }
    }
  }
};

/// The same for elements [offset, offset + n) of an arena that keeps something in fewer bits: in small parts that are
/// widened to f32, updated and narrowed again. `moments` is null where they are f32.
void update_narrow(const ParamArena& a, const Tensor& gradients, int64_t offset, int64_t n, const Rates& r,
                   const NarrowMoments* moments) {
  const bool split = a.memory().split_master, half = gradients.dtype() == DType::bf16;
  // Moments are widened in whole blocks, of which others may own the rest: what is not updated is kept.
  const int64_t first = moments ? offset / kMomentBlock * kMomentBlock : offset, last = offset + n;
  const int64_t parts = (last - first + kPart - 1) / kPart;
  parallel_for(parts, kBlock / kPart, [=, &a, &r](int64_t begin, int64_t end) RW_CPU_LEVELS {
    float joined[kPart], widened[kPart], m[kPart], v[kPart];
    for (int64_t part = begin; part < end; ++part) {
      const int64_t at = first + part * kPart, from = std::max(at, offset), to = std::min(at + kPart, last);
      const int64_t count = to - from, skip = from - at;
      const int64_t whole = std::min(a.numel() - at, (to - at + kMomentBlock - 1) / kMomentBlock * kMomentBlock);
      bf16* high = split ? a.compute().data<bf16>() + from : nullptr;
      // An int16 for each element; bytes, because it lies in a tensor of another type.
      char* low = split ? static_cast<char*>(a.low().raw()) + 2 * from : nullptr;
      bf16* narrow = half ? gradients.data<bf16>() + from : nullptr;
      for (int64_t i = 0; split && i < count; ++i) {
        SplitFloat s{high[i].bits, 0};
        std::memcpy(&s.low, low + 2 * i, 2);
        const uint32_t bits = join_float(s);
        std::memcpy(joined + i, &bits, 4);
      }
      for (int64_t i = 0; half && i < count; ++i) widened[i] = narrow[i];
      if (moments) moments->load(at, whole, m, v);
      update_part(split ? joined : a.master().data<float>() + from, half ? widened : gradients.data<float>() + from,
                  moments ? m + skip : a.m().data<float>() + from, moments ? v + skip : a.v().data<float>() + from,
                  count, r);
      if (moments) moments->store(at, whole, m, v);
      for (int64_t i = 0; split && i < count; ++i) {
        uint32_t bits = 0;
        std::memcpy(&bits, joined + i, 4);
        const SplitFloat s = split_float(bits);
        high[i].bits = s.high;
        std::memcpy(low + 2 * i, &s.low, 2);
      }
      for (int64_t i = 0; half && i < count; ++i) narrow[i] = bf16();
    }
  });
}

/// Those of elements [from, to) that are trained, by gradients of the whole arena, which become zero.
void update_range(const ParamArena& a, const Tensor& grad, int64_t from, int64_t to, const AdamWConfig& config,
                  double lr, double scale, int64_t step) {
  const double t = static_cast<double>(step);
  const int64_t begin = a.own_begin();
  const bool few_bits = a.memory().moments != MomentFormat::f32;
  const NarrowMoments moments{a, moment_draw(step)};
  for (const ParamArena::Segment& s : a.segments()) {
    const Rates rates{.lr = lr * s.spec.lr_scale,
                      .decay = s.spec.decay ? config.weight_decay : 0.0,
                      .scale = scale,
                      .beta1 = config.beta1,
                      .beta2 = config.beta2,
                      .correction1 = 1 - std::pow(config.beta1, t),
                      .correction2 = 1 - std::pow(config.beta2, t),
                      .eps = config.eps};
    const int64_t o = std::max(s.offset, from), n = std::min(s.offset + s.numel, to) - o;
    if (n <= 0 || s.frozen || !s.trainable) continue;
    if (few_bits || a.memory().split_master || a.memory().bf16_gradients) {
      update_narrow(a, grad, o, n, rates, few_bits ? &moments : nullptr);
      continue;
    }
    const auto run = [&](auto zero) {
      using T = decltype(zero);
      update(a.master().data<T>() + o, grad.data<T>() + o, a.m().data<T>() + (o - begin), a.v().data<T>() + (o - begin),
             n, rates);
    };
    if (a.master_dtype() == DType::f64) run(double{});
    else run(float{});
  }
}

double squared_norm(const Tensor& g) {
  if (g.dtype() == DType::bf16) return squared_norm(g.data<bf16>(), g.numel());
  return g.dtype() == DType::f64 ? squared_norm(g.data<double>(), g.numel()) : squared_norm(g.data<float>(), g.numel());
}

}  // namespace

AdamW::AdamW(ParamArena& arena, AdamWConfig config) : arena_(arena), config_(config) {
  arena.enable_grad();
  if (arena.memory().host_state) host_ = std::make_unique<HostState>(arena);
}

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

/// The owned elements, by the gradients `grad` times `scale`; afterwards the copy is fresh.
void AdamW::update_all(const Tensor& grad, double lr, double scale) {
  const int64_t end = arena_.own_end();
  if (!host_) {
    update_range(arena_, grad, arena_.own_begin(), end, config_, lr, scale, steps_ + 1);
    return arena_.refresh();
  }
  for (int64_t from = 0; from < end; from += HostState::kPart) {
    const int64_t to = std::min(end, from + HostState::kPart);
    update_range(arena_, grad, from, to, config_, lr, scale, steps_ + 1);
    host_->send_weights(from, to);
  }
  host_->join_weights();
  arena_.touch();
}

double AdamW::step_cpu(double lr, double grad_scale, double clip) {
  ParamArena& a = arena_;
  const Tensor own = a.grad().slice(a.own_begin(), a.own_end());
  double square = squared_norm(own);
  if (norm_sum_) {
    const Tensor sum = Tensor::full({1}, square, DType::f64);
    norm_sum_(sum);
    square = sum.item();
  }
  const double norm = std::sqrt(square) * std::abs(grad_scale);
  if (host_) host_->wait_for_gradients();
  if (std::isfinite(norm)) {
    const double factor = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
    update_all(host_ ? a.host_grad() : a.grad(), lr, grad_scale * factor);
    zero_rest();
    if (!host_) return norm;
  }
  a.zero_grad();
  return norm;
}

/// enqueue() of a GPU's arena with its state on the host.
Tensor AdamW::enqueue_from_host(double lr, double grad_scale, double clip) {
  const ParamArena& a = arena_;
  check(early_ < 0 && !norm_sum_, "adamw", "learned frequencies and several ranks have no state on the host");
  if (!squared_norm_.defined()) squared_norm_ = Tensor::empty({1}, DType::f64, a.device());
  cuda::squared_norm(a.grad(), squared_norm_);
  host_->wait_for_gradients();
  const double norm = std::sqrt(squared_norm_.item()) * std::abs(grad_scale);
  if (std::isfinite(norm)) {
    const double factor = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
    update_all(a.host_grad(), lr, grad_scale * factor);
  }
  a.zero_grad();
  ++steps_;
  return squared_norm_;
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
  if (host_) return enqueue_from_host(lr, grad_scale, clip);
  const Device device = a.device();
  const int64_t begin = a.own_begin(), end = a.own_end(), early = early_ < 0 ? end : early_;
  if (!scalars_.defined()) {
    check(early_ < 0 || (a.owns_all() && !a.memory().split_master && a.memory().moments != MomentFormat::int8), "adamw",
          "elements are updated early only where masters are whole and all owned, and moments not in 8 bits");
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
  values.draw = moment_draw(steps_ + 1);
  cuda::set_adamw_scalars(values, scalars_);
  const auto owned = [&](const Tensor& whole) { return whole.slice(begin, end); };
  cuda::squared_norm(owned(a.grad()), squared_norm_);
  if (norm_sum_) norm_sum_(squared_norm_);
  const bool copy = !a.compute().aliases(a.master());
  const auto update = [&](int64_t from, int64_t to, const cuda::AdamWTable& rates) {
    if (from >= to) return;
    const auto part = [&](const Tensor& whole) { return whole.slice(from, to); };
    const auto moments = [&](const Tensor& own) { return own.slice(from - begin, to - begin); };
    const bool codes = a.m_scales().defined();  // then all elements are updated at once
    const cuda::AdamWMoments kept{codes ? a.m() : moments(a.m()), codes ? a.v() : moments(a.v()), a.m_scales(),
                                  a.v_scales()};
    cuda::adamw(part(a.master()), part(a.grad()), kept, copy ? part(a.compute()) : Tensor(), rates, scalars_,
                squared_norm_);
  };
  a.touch();
  if (begin < end && a.memory().split_master) {
    cuda::adamw_split(a.compute(), a.low(), a.grad(), {a.m(), a.v(), a.m_scales(), a.v_scales()}, table_, scalars_,
                      squared_norm_);
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
