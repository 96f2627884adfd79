// Solving forwards: fixed steps, adaptive steps, outputs between them, and what is kept for the gradient.
#include "rope/ode.h"

#include <algorithm>
#include <cmath>

#include "rope/ode_first_step.h"
#include "tensor/printable.h"

namespace rw {
namespace {

template <class T>
class Integrator {
 public:
  Integrator(const Dynamics<T>& dynamics, const std::vector<T>& y0, const std::vector<double>& t,
             const OdeOptions& options)
      : system_(dynamics), table_(tableau(options.method)), n_(dynamics.size()), y_(y0) {
    out_.t = t;
    out_.options = options;
    check_arguments(y0, t);
    direction_ = t.back() >= t.front() ? 1.0 : -1.0;
    out_.y.resize(t.size() * y0.size());
    std::copy(y0.begin(), y0.end(), out_.y.begin());
    k_.resize(static_cast<size_t>(table_.stages() * n_));
    stage_.resize(k_.size());
    y1_.resize(y0.size());
    // An adaptive method takes its first stage over from the step before, and tries some steps twice.
    if (options.keep_steps && table_.b_error.empty()) record_size_ = dynamics.record_size();
    records_.resize(static_cast<size_t>(table_.stages() * record_size_));
  }

  OdeSolution<T> run() {
    if (out_.t.size() > 1) table_.b_error.empty() ? run_fixed() : run_adaptive();
    return std::move(out_);
  }

 private:
  const OdeOptions& options() const { return out_.options; }
  T* k(int i) { return k_.data() + i * n_; }
  T* stage(int i) { return stage_.data() + i * n_; }

  void check_arguments(const std::vector<T>& y0, const std::vector<double>& t) const {
    check(static_cast<int64_t>(y0.size()) == n_, "odeint", "y0 must have ", n_, " numbers, got ", y0.size());
    check(!t.empty(), "odeint", "needs at least one output time");
    for (size_t i = 1; i < t.size(); ++i) {
      const bool ok = t.back() > t.front() ? t[i] > t[i - 1] : t[i] < t[i - 1];
      check(ok, "odeint", "output times must be strictly increasing or decreasing, got ", t[i - 1], " then ", t[i]);
    }
    check(options().step >= 0 && std::isfinite(options().step), "odeint", "step must not be negative, got ",
          options().step);
    check(table_.b_error.empty() || (options().rtol >= 0 && options().atol >= 0 && options().rtol + options().atol > 0),
          "odeint", "rtol and atol must be positive, got ", options().rtol, " and ", options().atol);
    int64_t blocks = 0;
    for (const int64_t b : options().norm_blocks) blocks += b;
    check(options().norm_blocks.empty() || blocks == n_, "odeint", "norm_blocks must add up to ", n_, ", got ", blocks);
  }

  void evaluate(double t, int i) {
    if (record_size_ > 0) {
      system_.f_recorded(t, stage(i), k(i), records_.data() + i * record_size_);
    } else {
      system_.f(t, stage(i), k(i));
    }
    ++out_.evaluations;
  }

  /// to = y + h sum_j weights_j k_j. The small terms are added up first: one rounding at the size of y, not one each.
  void combine(const std::vector<double>& weights, T h, const T* y, T* to) {
    std::fill(to, to + n_, T(0));
    for (size_t j = 0; j < weights.size(); ++j) {
      if (weights[j] == 0) continue;
      const T w = static_cast<T>(weights[j]);
      const T* kj = k(static_cast<int>(j));
      for (int64_t i = 0; i < n_; ++i) to[i] += w * kj[i];
    }
    for (int64_t i = 0; i < n_; ++i) to[i] = y[i] + h * to[i];
  }

  /// One step from y_ into y1_. `first_known`: k_0 is there already.
  void step(double t0, double t1, bool first_known) {
    const T h = static_cast<T>(t1 - t0);
    for (int i = 0; i < table_.stages(); ++i) {
      combine(table_.a[static_cast<size_t>(i)], h, y_.data(), stage(i));
      const double c = table_.c[static_cast<size_t>(i)];
      const double t = c == 1 ? t1 : static_cast<double>(static_cast<T>(t0) + static_cast<T>(c) * h);
      if (i > 0 || !first_known) evaluate(t, i);
    }
    combine(table_.b, h, y_.data(), y1_.data());
  }

  /// Output times within (t0, t1], and the kept step.
  void emit(double t0, double t1) {
    typename OdeSolution<T>::Step kept{t0, t1, {}, {}, {}, {}};
    for (; next_ < out_.t.size() && direction_ * (t1 - out_.t[next_]) >= 0; ++next_) {
      const double x = out_.t[next_] == t1 ? 1.0 : (out_.t[next_] - t0) / (t1 - t0);
      write_output(dense_output(table_, x), static_cast<T>(t1 - t0), out_.y.data() + static_cast<int64_t>(next_) * n_);
      kept.outputs.push_back({static_cast<int64_t>(next_), x});
    }
    if (!options().keep_steps) return;
    kept.stages = stage_;
    kept.records = records_;
    if (options().differentiate_first_step) kept.k = k_;
    out_.path.push_back(std::move(kept));
  }

  void write_output(const DenseOutput& w, T h, T* to) {
    for (int64_t i = 0; i < n_; ++i) to[i] = static_cast<T>(w.y1) * y1_[static_cast<size_t>(i)];
    if (w.y1 == 1) return;
    for (int64_t i = 0; i < n_; ++i) to[i] += static_cast<T>(w.y0) * y_[static_cast<size_t>(i)];
    if (table_.b_middle.empty()) return;
    std::vector<T> middle(static_cast<size_t>(n_));
    combine(table_.b_middle, h, y_.data(), middle.data());
    const T *first = k(0), *last = k(table_.stages() - 1);
    for (int64_t i = 0; i < n_; ++i) {
      to[i] += static_cast<T>(w.middle) * middle[static_cast<size_t>(i)] +
               h * (static_cast<T>(w.first) * first[i] + static_cast<T>(w.last) * last[i]);
    }
  }

  bool finite(const std::vector<T>& y) const {
    return std::all_of(y.begin(), y.end(), [](T v) { return std::isfinite(v); });
  }
  [[noreturn]] void stop(const char* why, double t, double h) const {
    double square = 0;
    for (const T v : y_) square += static_cast<double>(v) * static_cast<double>(v);
    fail("odeint", table_.name, ": ", why, " at t = ", t, ", step = ", h, ", |y| = ", printable(std::sqrt(square)),
         ", after ", out_.steps, " steps");
  }

  // --- fixed steps

  std::vector<double> grid() const {
    const std::vector<double>& t = out_.t;
    if (options().step == 0) return t;
    const double expected = std::abs(t.back() - t.front()) / options().step;
    check(expected < static_cast<double>(options().max_steps), "odeint", "step ", options().step, " makes ", expected,
          " steps, more than max_steps");
    std::vector<double> points;
    if (options().land_on_outputs) {
      points.push_back(t[0]);
      for (size_t i = 1; i < t.size(); ++i) {
        const double a = t[i - 1], b = t[i];
        const bool grow = options().grow_with_t && a * b > 0 && std::min(std::abs(a), std::abs(b)) >= 1;
        const double steps =
            grow ? std::abs(std::log(b / a)) / std::log1p(options().step) : std::abs(b - a) / options().step;
        // A hair less than the quotient, so that 0.3 / 0.1 is three steps
        const double parts = std::max(1.0, std::ceil(steps * (1 - 1e-12)));
        for (double p = 1; p < parts; ++p)
          points.push_back(grow ? a * std::pow(b / a, p / parts) : a + (b - a) * (p / parts));
        points.push_back(b);
      }
      return points;
    }
    // torchdiffeq's: in the state's own precision; the last point may come after a step of nearly 0
    const T start = static_cast<T>(t.front()), end = static_cast<T>(t.back()), h = static_cast<T>(options().step);
    const auto count = static_cast<int64_t>(std::ceil(std::abs(end - start) / h + 1));
    for (int64_t i = 0; i < count; ++i) {
      points.push_back(static_cast<double>(start + static_cast<T>(direction_) * (static_cast<T>(i) * h)));
    }
    points.back() = t.back();
    return points;
  }

  void run_fixed() {
    const std::vector<double> points = grid();
    for (size_t i = 1; i < points.size(); ++i) {
      step(points[i - 1], points[i], false);
      if (!finite(y1_)) stop("values stop being finite", points[i - 1], points[i] - points[i - 1]);
      emit(points[i - 1], points[i]);
      y_.swap(y1_);
      ++out_.steps;
    }
  }

  // --- adaptive steps

  /// Error of the step just made, relative to the tolerance; accepted if at most 1.
  double step_error(T h) {
    std::vector<T> error(y_.size()), scale(y_.size()), zero(y_.size(), T(0));
    combine(table_.b_error, h, zero.data(), error.data());
    for (size_t i = 0; i < scale.size(); ++i) scale[i] = std::max(std::abs(y_[i]), std::abs(y1_[i]));
    return tolerance_norm(error, scale, options());
  }

  double next_size(double h, double error, double previous) const {
    const OdeOptions& o = options();
    if (error == 0) return h * o.max_growth;
    const double p = 1.0 / table_.order;
    const double factor = o.safety * std::pow(error, -(p - 0.75 * o.pi_beta)) * std::pow(previous, o.pi_beta);
    const double shrink = error < 1 ? 1.0 : o.max_shrink;  // an accepted step never shrinks the next one
    return h * std::min(o.max_growth, std::max(factor, shrink));
  }

  void run_adaptive() {
    double t = out_.t.front(), previous = 1e-4;
    system_.f(static_cast<double>(static_cast<T>(t)), y_.data(), k(0));
    ++out_.evaluations;
    if (!std::all_of(k(0), k(0) + n_, [](T v) { return std::isfinite(v); })) stop("f is not finite", t, 0);
    FirstStep<T> first(system_, y_, {k_.begin(), k_.begin() + n_}, t, direction_, table_.order, options());
    double h = first.size();
    ++out_.evaluations;
    out_.first_step_chosen = true;
    while (next_ < out_.t.size()) {
      const double t1 = t + direction_ * h;
      if (!(direction_ * (t1 - t) > 0)) stop("the step underflows", t, h);
      if (out_.steps + out_.rejected >= options().max_steps) stop("too many steps", t, h);
      step(t, t1, true);
      const double error = step_error(static_cast<T>(t1 - t));
      if (!std::isfinite(error)) {  // a smaller step may stay in range
        h *= options().max_shrink;
        ++out_.rejected;
        out_.first_step_chosen &= out_.steps > 0;
        continue;
      }
      const double size = h;
      h = next_size(size, error, options().pi_beta > 0 ? previous : 1.0);
      if (error > 1) {
        ++out_.rejected;
        out_.first_step_chosen &= out_.steps > 0;
        continue;
      }
      previous = std::max(error, 1e-4);
      emit(t, t1);
      y_.swap(y1_);
      std::copy(k(table_.stages() - 1), k(table_.stages() - 1) + n_, k(0));
      t = t1;
      ++out_.steps;
    }
  }

  const Dynamics<T>& system_;
  const Tableau& table_;
  int64_t n_, record_size_ = 0;
  std::vector<T> y_, y1_, k_, stage_, records_;  // [n], [n], [S, n], [S, n], [S, record_size_]
  double direction_ = 1;
  size_t next_ = 1;  // next output
  OdeSolution<T> out_;
};

}  // namespace

template <class T>
OdeSolution<T> odeint(const Dynamics<T>& dynamics, const std::vector<T>& y0, const std::vector<double>& t,
                      const OdeOptions& options) {
  return Integrator<T>(dynamics, y0, t, options).run();
}

template OdeSolution<float> odeint(const Dynamics<float>&, const std::vector<float>&, const std::vector<double>&,
                                   const OdeOptions&);
template OdeSolution<double> odeint(const Dynamics<double>&, const std::vector<double>&, const std::vector<double>&,
                                    const OdeOptions&);

}  // namespace rw
