// Internal: how an adaptive solver chooses its first step, and that choice's derivative.
//
// Hairer, Norsett, Wanner, Solving ODEs I, II.4: with the norm of v at y being rms(v_i / (atol + rtol |y_i|)),
//   d0 = |y0|, d1 = |f0|, h0 = d0 / (100 d1),   d2 = |f(t0 + h0, y0 + h0 f0) - f0| / h0,
//   h = min(100 h0, (0.01 / max(d1, d2))^{1/order})
#pragma once
#include <algorithm>
#include <cmath>

#include "rope/ode.h"

namespace rw {

/// Largest rms over options.norm_blocks of v / (atol + rtol |scale|).
template <class T>
double tolerance_norm(const std::vector<T>& v, const std::vector<T>& scale, const OdeOptions& options) {
  const std::vector<int64_t> whole = {static_cast<int64_t>(v.size())};
  double largest = 0;
  size_t i = 0;
  for (const int64_t block : options.norm_blocks.empty() ? whole : options.norm_blocks) {
    double square = 0;
    for (const size_t end = i + static_cast<size_t>(block); i < end; ++i) {
      const double r =
          static_cast<double>(v[i]) / (options.atol + options.rtol * std::abs(static_cast<double>(scale[i])));
      square += r * r;
    }
    const double rms = block > 0 ? std::sqrt(square / static_cast<double>(block)) : 0.0;
    if (!(rms <= largest)) largest = rms;  // keeps a NaN
  }
  return largest;
}

template <class T>
class FirstStep {
 public:
  /// Evaluates the dynamics once.
  FirstStep(const Dynamics<T>& dynamics, std::vector<T> y0, std::vector<T> f0, double t0, double direction, int order,
            const OdeOptions& options)
      : system_(dynamics),
        y0_(std::move(y0)),
        f0_(std::move(f0)),
        t0_(t0),
        direction_(direction),
        order_(order),
        options_(options) {
    d0_ = tolerance_norm(y0_, y0_, options_);
    d1_ = tolerance_norm(f0_, y0_, options_);
    tiny_ = d0_ < 1e-5 || d1_ < 1e-5;
    h0_ = tiny_ ? 1e-6 : 0.01 * d0_ / d1_;
    y1_ = y0_;
    for (size_t i = 0; i < y1_.size(); ++i) y1_[i] += static_cast<T>(direction_ * h0_) * f0_[i];
    t1_ = static_cast<double>(static_cast<T>(t0_ + direction_ * h0_));
    difference_.resize(y1_.size());
    system_.f(t1_, y1_.data(), difference_.data());
    for (size_t i = 0; i < y1_.size(); ++i) difference_[i] -= f0_[i];
    d2_ = tolerance_norm(difference_, y0_, options_) / h0_;
    flat_ = d1_ <= 1e-15 && d2_ <= 1e-15;
    guess_ = flat_ ? std::max(1e-6, h0_ * 1e-3) : std::pow(0.01 / std::max(d1_, d2_), 1.0 / order_);
  }

  double size() const { return std::min(100 * h0_, guess_); }

  /// Adds dL/dy0 and dL/dp, given dL/dsize. Norm blocks are not supported.
  void reverse(double size_bar, T* y0_bar, T* parameters_bar) const {
    check(options_.norm_blocks.empty(), "odeint", "differentiate_first_step cannot be used with norm_blocks");
    if (flat_) return;  // sizes there are constants, or a thousandth of one
    const size_t n = y0_.size();
    double h0_bar = 0, d1_bar = 0, d2_bar = 0;
    if (100 * h0_ < guess_) {
      h0_bar = 100 * size_bar;
    } else {
      (d1_ >= d2_ ? d1_bar : d2_bar) = -size_bar * guess_ / (order_ * std::max(d1_, d2_));
    }
    std::vector<double> f0_bar(n, 0.0), scale_bar(n, 0.0), through(n, 0.0);
    // d2 = |difference| / h0, difference = f(t1, y1) - f0, y1 = y0 + direction h0 f0
    norm_reverse(difference_, d2_ * h0_, d2_bar / h0_, through, scale_bar);
    h0_bar -= d2_bar * d2_ / h0_;
    const std::vector<T> f1_bar(through.begin(), through.end());
    for (size_t i = 0; i < n; ++i) f0_bar[i] -= through[i];
    std::vector<T> y1_bar(n);
    system_.vjp(t1_, y1_.data(), f1_bar.data(), y1_bar.data(), parameters_bar);
    h0_bar += direction_ * static_cast<double>(system_.vjp_t(t1_, y1_.data(), f1_bar.data()));
    std::vector<double> y_bar(y1_bar.begin(), y1_bar.end());
    for (size_t i = 0; i < n; ++i) {
      f0_bar[i] += direction_ * h0_ * static_cast<double>(y1_bar[i]);
      h0_bar += direction_ * static_cast<double>(y1_bar[i] * f0_[i]);
    }
    // h0 = 0.01 d0 / d1
    const double d0_bar = tiny_ ? 0.0 : h0_bar * 0.01 / d1_;
    if (!tiny_) d1_bar -= h0_bar * h0_ / d1_;
    norm_reverse(f0_, d1_, d1_bar, f0_bar, scale_bar);
    norm_reverse(y0_, d0_, d0_bar, y_bar, scale_bar);
    const std::vector<T> f0_bar_t(f0_bar.begin(), f0_bar.end());
    system_.vjp(t0_, y0_.data(), f0_bar_t.data(), y1_bar.data(), parameters_bar);
    for (size_t i = 0; i < n; ++i) {
      const double sign = y0_[i] > 0 ? 1.0 : y0_[i] < 0 ? -1.0 : 0.0;
      y0_bar[i] += static_cast<T>(y_bar[i] + static_cast<double>(y1_bar[i]) + scale_bar[i] * options_.rtol * sign);
    }
  }

 private:
  /// Reverse of norm = rms(v / scale): adds to v_bar and scale_bar.
  void norm_reverse(const std::vector<T>& v, double norm, double norm_bar, std::vector<double>& v_bar,
                    std::vector<double>& scale_bar) const {
    if (norm == 0 || norm_bar == 0) return;
    for (size_t i = 0; i < v.size(); ++i) {
      const double scale = options_.atol + options_.rtol * std::abs(static_cast<double>(y0_[i]));
      const double u = static_cast<double>(v[i]) / scale;
      const double u_bar = norm_bar * u / (static_cast<double>(v.size()) * norm);
      v_bar[i] += u_bar / scale;
      scale_bar[i] -= u_bar * u / scale;
    }
  }

  const Dynamics<T>& system_;
  std::vector<T> y0_, f0_, y1_, difference_;
  double t0_, direction_;
  int order_;
  const OdeOptions& options_;
  double d0_ = 0, d1_ = 0, d2_ = 0, h0_ = 0, t1_ = 0, guess_ = 0;
  bool tiny_ = false, flat_ = false;
};

/// Derivatives by x of the weights that dense_output gives methods with b_middle.
inline DenseOutput dense_output_slope(double x) {
  const double x2 = x * x, x3 = x2 * x;
  return {-22 * x + 54 * x2 - 32 * x3, -10 * x + 42 * x2 - 32 * x3, 32 * x - 96 * x2 + 64 * x3,
          1 - 8 * x + 15 * x2 - 8 * x3, 2 * x - 9 * x2 + 8 * x3};
}

}  // namespace rw
