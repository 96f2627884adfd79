// Gradients of odeint: the adjoint system, or backprop through the kept steps.
#include <algorithm>

#include "rope/ode_first_step.h"

namespace rw {
namespace {

/// The adjoint system (Pontryagin 1962; Chen et al. 2018, eqs. 4 and 5). Its state is (y, a, q, r): a = dL/dy, and the
/// parts of q = dL/dp and r = dL/dt so far. Backwards in time it follows
///   y' = f,   a' = -a^T df/dy,   q' = -a^T df/dp,   r' = -a^T df/dt
/// Nothing reads r. Its error takes part in torchdiffeq's choice of steps.
template <class T>
class Augmented : public Dynamics<T> {
 public:
  explicit Augmented(const Dynamics<T>& inner) : inner_(inner), n_(inner.size()), p_(inner.parameter_count()) {}
  int64_t size() const override { return 2 * n_ + p_ + 1; }
  void f(double t, const T* state, T* out) const override {
    std::fill(out + n_, out + size(), T(0));
    inner_.f_and_vjp(t, state, state + n_, out, out + n_, out + 2 * n_);
    out[2 * n_ + p_] = inner_.vjp_t(t, state, state + n_);
    for (int64_t i = n_; i < size(); ++i) out[i] = -out[i];
  }
  std::vector<int64_t> norm_blocks() const {
    std::vector<int64_t> blocks = {n_, n_};
    for (const int64_t b : inner_.parameter_blocks()) blocks.push_back(b);
    blocks.push_back(1);
    return blocks;
  }

 private:
  const Dynamics<T>& inner_;
  int64_t n_, p_;
};

template <class T>
OdeGradient<T> adjoint(const Dynamics<T>& dynamics, const OdeSolution<T>& solution, const std::vector<T>& grad_y) {
  const int64_t n = dynamics.size(), p = dynamics.parameter_count();
  const Augmented<T> augmented(dynamics);
  OdeOptions options = solution.options;
  options.keep_steps = false;
  options.norm_blocks = augmented.norm_blocks();

  OdeGradient<T> gradient;
  std::vector<T> state(static_cast<size_t>(augmented.size()), T(0));
  for (size_t k = solution.t.size(); k-- > 0;) {
    // The stored y replaces the one integrated backwards, and this output's gradient joins a
    const T* y = solution.y.data() + static_cast<int64_t>(k) * n;
    const T* g = grad_y.data() + static_cast<int64_t>(k) * n;
    std::copy(y, y + n, state.begin());
    for (int64_t i = 0; i < n; ++i) state[static_cast<size_t>(n + i)] += g[i];
    if (k == 0) break;
    const OdeSolution<T> back = odeint<T>(augmented, state, {solution.t[k], solution.t[k - 1]}, options);
    std::copy(back.y.begin() + augmented.size(), back.y.end(), state.begin());
    gradient.evaluations += back.evaluations;
  }
  gradient.y0.assign(state.begin() + n, state.begin() + 2 * n);
  gradient.parameters.assign(state.begin() + 2 * n, state.begin() + 2 * n + p);
  return gradient;
}

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// The reverse of one step: from dL/dy1 to dL/dy0, both in `bar`. kbar [S, n] collects dL/dk_i. Where the first stage
/// is the last one of the step before, the last row of kbar arrives filled, and its first row is left for that step.
template <class T>
class StepReverse {
 public:
  using Step = typename OdeSolution<T>::Step;
  StepReverse(const Dynamics<T>& dynamics, const Tableau& table, bool track_first_size, OdeGradient<T>& gradient)
      : system_(dynamics), table_(table), track_(track_first_size), gradient_(gradient), n_(dynamics.size()) {
    kbar_.assign(static_cast<size_t>(table.stages() * n_), T(0));
    through_.resize(static_cast<size_t>(n_));
  }

  void run(const Step& step, const std::vector<T>& grad_y, bool first_of_all, std::vector<T>& bar) {
    step_ = &step;
    first_ = first_of_all;
    h_ = static_cast<T>(step.t1 - step.t0);
    const int last = table_.stages() - 1;
    if (table_.fsal()) {  // the next step's k_0 is this step's last
      std::copy(kbar(0), kbar(0) + n_, kbar(last));
      std::fill(kbar_.begin(), kbar_.end() - n_, T(0));
    } else {
      std::fill(kbar_.begin(), kbar_.end(), T(0));
    }
    std::vector<T> bar0(bar.size(), T(0));
    for (const auto& output : step.outputs) add_output(output, grad_y, bar, bar0);
    scatter(table_.b, T(1), bar.data());
    for (size_t i = 0; i < bar.size(); ++i) bar0[i] += bar[i];
    for (int i = last; i >= 0; --i) {
      if (i == 0 && table_.fsal() && !first_of_all) break;
      const double c = table_.c[static_cast<size_t>(i)];
      const double t = c == 1 ? step.t1 : static_cast<double>(static_cast<T>(step.t0) + static_cast<T>(c) * h_);
      const T* state = step.stages.data() + i * n_;
      if (step.records.empty()) {
        system_.vjp(t, state, kbar(i), through_.data(), gradient_.parameters.data());
      } else {
        T* record = keep(step.records.data() + i * system_.record_size(), kbar(i));
        system_.vjp_recorded(kbar(i), through_.data(), record);
      }
      ++gradient_.evaluations;
      // the first size moves this stage's time: by c within the first step, as a whole in all later ones
      if (track_) size_bar_ += (first_ ? c : 1.0) * static_cast<double>(system_.vjp_t(t, state, kbar(i)));
      for (size_t j = 0; j < bar0.size(); ++j) bar0[j] += through_[j];
      scatter(table_.a[static_cast<size_t>(i)], T(1), through_.data());
    }
    bar.swap(bar0);
  }

  /// The parameters' gradient of the recorded evaluations not added yet.
  void finish() {
    if (kept_ > 0) system_.vjp_of_parameters(kept_, records_.data(), seeds_.data(), gradient_.parameters.data());
    kept_ = 0;
  }
  /// dL/d(first step's size), signed as the step is.
  double size_bar() const { return size_bar_; }

 private:
  T* kbar(int i) { return kbar_.data() + i * n_; }
  const T* k(int i) const { return step_->k.data() + i * n_; }
  /// Copies an evaluation's record and dL/dk for finish(); returns the copied record.
  T* keep(const T* record, const T* seed) {
    constexpr int64_t kMost = 32;  // enough for a product of matrices, few enough to stay in the cache
    const int64_t size = system_.record_size();
    records_.resize(static_cast<size_t>(kMost * size));
    seeds_.resize(static_cast<size_t>(kMost * n_));
    if (kept_ == kMost) finish();
    std::copy(seed, seed + n_, seeds_.data() + kept_ * n_);
    return std::copy(record, record + size, records_.data() + kept_++ * size) - size;
  }
  void add(T* to, T weight, const T* from) const {
    for (int64_t i = 0; i < n_; ++i) to[i] += weight * from[i];
  }
  /// The reverse of scale * h * w k_j.
  void scatter_one(int j, T weight, const T* from) {
    add(kbar(j), weight * h_, from);
    if (track_ && first_) size_bar_ += static_cast<double>(weight * dot(from, k(j), n_));
  }
  /// The reverse of y + scale * h sum_j w_j k_j.
  void scatter(const std::vector<double>& weights, T scale, const T* from) {
    for (size_t j = 0; j < weights.size(); ++j) {
      if (weights[j] != 0) scatter_one(static_cast<int>(j), static_cast<T>(weights[j]) * scale, from);
    }
  }
  void add_output(const typename Step::Output& output, const std::vector<T>& grad_y, std::vector<T>& bar,
                  std::vector<T>& bar0) {
    const DenseOutput w = dense_output(table_, output.x);
    const T* g = grad_y.data() + output.index * n_;
    add(bar.data(), static_cast<T>(w.y1), g);
    add(bar0.data(), static_cast<T>(w.y0 + w.middle), g);
    if (table_.b_middle.empty()) return;
    const int last = table_.stages() - 1;
    scatter(table_.b_middle, static_cast<T>(w.middle), g);
    scatter_one(0, static_cast<T>(w.first), g);
    scatter_one(last, static_cast<T>(w.last), g);
    if (!track_) return;
    // x = (t - t0) / (t1 - t0): the first size moves t1 alone in the first step, both ends in later ones
    const DenseOutput d = dense_output_slope(output.x);
    const T *y0 = step_->stages.data(), *y1 = step_->stages.data() + last * n_;  // the last stage of such methods is y1
    double slope = d.y0 * dot(g, y0, n_) + d.y1 * dot(g, y1, n_) + d.middle * dot(g, y0, n_) +
                   static_cast<double>(h_) * (d.first * dot(g, k(0), n_) + d.last * dot(g, k(last), n_));
    for (int j = 0; j <= last; ++j) {
      slope += d.middle * static_cast<double>(h_) * table_.b_middle[static_cast<size_t>(j)] * dot(g, k(j), n_);
    }
    size_bar_ -= slope * (first_ ? output.x : 1.0) / static_cast<double>(h_);
  }

  const Dynamics<T>& system_;
  const Tableau& table_;
  bool track_, first_ = false;
  OdeGradient<T>& gradient_;
  int64_t n_;
  const Step* step_ = nullptr;
  T h_ = 0;
  double size_bar_ = 0;
  std::vector<T> kbar_, through_;  // [S, n], [n]
  int64_t kept_ = 0;
  std::vector<T> records_, seeds_;  // [kept_, record_size()], dL/dk [kept_, n]
};

template <class T>
OdeGradient<T> backprop(const Dynamics<T>& dynamics, const OdeSolution<T>& solution, const std::vector<T>& grad_y) {
  check(solution.path.size() == static_cast<size_t>(solution.steps), "odeint",
        "backprop needs the solver's steps: solve with keep_steps = true");
  OdeGradient<T> gradient;
  gradient.parameters.assign(static_cast<size_t>(dynamics.parameter_count()), T(0));
  const Tableau& table = tableau(solution.options.method);
  const bool track = solution.options.differentiate_first_step && solution.first_step_chosen;
  std::vector<T> bar(static_cast<size_t>(dynamics.size()), T(0));  // dL/dy at the end of the step being reversed
  StepReverse<T> reverse(dynamics, table, track, gradient);
  for (size_t i = solution.path.size(); i-- > 0;) reverse.run(solution.path[i], grad_y, i == 0, bar);
  reverse.finish();
  for (size_t i = 0; i < bar.size(); ++i) bar[i] += grad_y[i];  // the first output is y0 itself
  if (track) {
    const auto& step = solution.path.front();
    const auto n = dynamics.size();
    const double direction = step.t1 > step.t0 ? 1.0 : -1.0;
    FirstStep<T> first(dynamics, {step.stages.begin(), step.stages.begin() + n}, {step.k.begin(), step.k.begin() + n},
                       step.t0, direction, table.order, solution.options);
    first.reverse(direction * reverse.size_bar(), bar.data(), gradient.parameters.data());
    gradient.evaluations += 3;
  }
  gradient.y0 = std::move(bar);
  return gradient;
}

}  // namespace

template <class T>
OdeGradient<T> odeint_gradient(const Dynamics<T>& dynamics, const OdeSolution<T>& solution,
                               const std::vector<T>& grad_y, GradMode mode) {
  check(grad_y.size() == solution.y.size(), "odeint", "grad_y must have ", solution.y.size(), " numbers, got ",
        grad_y.size());
  return mode == GradMode::adjoint ? adjoint(dynamics, solution, grad_y) : backprop(dynamics, solution, grad_y);
}

template OdeGradient<float> odeint_gradient(const Dynamics<float>&, const OdeSolution<float>&,
                                            const std::vector<float>&, GradMode);
template OdeGradient<double> odeint_gradient(const Dynamics<double>&, const OdeSolution<double>&,
                                             const std::vector<double>&, GradMode);

}  // namespace rw
