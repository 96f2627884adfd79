// Ordinary differential equations y' = f(t, y; p) on the host, and gradients through them. They are made for small
// states; CLEX's has D/2 numbers.
//
//   struct Decay : Dynamics<double> { ... };                         // size, f, and vjp if gradients are wanted
//   auto y = odeint(Decay{}, {1.0}, {0, 1, 2}, {.method = "rk4_38", .step = 0.1});      // y.y [K, n]
//   auto g = odeint_gradient(Decay{}, y, grad_y, GradMode::adjoint);                    // g.y0 [n], g.parameters [P]
//
// Solvers are data: Butcher tableaux. Grids, interpolation and step control follow torchdiffeq, so that results agree
// with its results to rounding. torchdiffeq's "rk4" is "rk4_38" here.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/error.h"

namespace rw {

/// A system of equations. T is float or double. Derive from it to bring your own. Thread safety: none is needed; a
/// solve uses its system from one thread.
template <class T>
class Dynamics {
 public:
  virtual ~Dynamics() = default;
  /// n: numbers of the state.
  virtual int64_t size() const = 0;
  /// P: numbers of the parameters, all tensors one after the other.
  virtual int64_t parameter_count() const { return 0; }
  /// Sizes of the parameter tensors. An adaptive adjoint controls the error of each one.
  virtual std::vector<int64_t> parameter_blocks() const { return {parameter_count()}; }

  /// dy [n] = f(t, y).
  virtual void f(double t, const T* y, T* dy) const = 0;
  /// a_dfdy [n] = a^T df/dy, and a_dfdp [P] += a^T df/dp. Needed for gradients only.
  virtual void vjp(double t, const T* y, const T* a, T* a_dfdy, T* a_dfdp) const {
    (void)t, (void)y, (void)a, (void)a_dfdy, (void)a_dfdp;
    fail("odeint", "these dynamics have no vjp, so no gradient");
  }
  /// a^T df/dt, where f depends on t itself. Only an adaptive adjoint calls it, because it
  /// controls the error of that integral as well.
  virtual T vjp_t(double t, const T* y, const T* a) const {
    (void)t, (void)y, (void)a;
    return 0;
  }
  /// f and vjp in one call. Override it where they share work.
  virtual void f_and_vjp(double t, const T* y, const T* a, T* dy, T* a_dfdy, T* a_dfdp) const {
    f(t, y, dy);
    vjp(t, y, a, a_dfdy, a_dfdp);
  }

  /// How many numbers of an evaluation f can keep for the gradient. With 0 the next three functions are never called.
  virtual int64_t record_size() const { return 0; }
  /// Evaluates f and fills record [record_size()].
  virtual void f_recorded(double t, const T* y, T* dy, T* record) const {
    (void)t, (void)y, (void)dy, (void)record;
    fail("odeint", "these dynamics keep no records");
  }
  /// Gives a_dfdy as vjp does. It leaves in the record what vjp_of_parameters needs.
  virtual void vjp_recorded(const T* a, T* a_dfdy, T* record) const {
    (void)a, (void)a_dfdy, (void)record;
    fail("odeint", "these dynamics keep no records");
  }
  /// Adds to a_dfdp [P] the sum of a^T df/dp over all evaluations: records [count, record_size()], a [count, n].
  virtual void vjp_of_parameters(int64_t count, const T* records, const T* a, T* a_dfdp) const {
    (void)count, (void)records, (void)a, (void)a_dfdp;
    fail("odeint", "these dynamics keep no records");
  }
};

/// An explicit Runge-Kutta method of S stages:
///   Y_i = y + h sum_j a_ij k_j,   k_i = f(t + c_i h, Y_i),   y+ = y + h sum_i b_i k_i
struct Tableau {
  std::string name;
  int order = 0;
  std::vector<double> c;               // [S]
  std::vector<std::vector<double>> a;  // row i has i entries
  std::vector<double> b;               // [S]
  std::vector<double> b_error;         // b minus the embedded method's; empty: fixed steps only
  std::vector<double> b_middle;  // y at the middle of the step, for the quartic dense output; empty: linear output
  int stages() const { return static_cast<int>(c.size()); }
  /// First same as last: the last stage of a step is the first of the next.
  bool fsal() const {
    return !b_error.empty() && c.back() == 1.0 && a.back() == std::vector<double>(b.begin(), b.end() - 1);
  }
};

/// euler | midpoint | rk4 (classical) | rk4_38 (3/8 rule) | dopri5 (adaptive). Errors: any other name.
const Tableau& tableau(const std::string& name);

struct OdeOptions {
  std::string method = "rk4_38";
  // Fixed steps: the points are t_0, t_0 + step, ..., and the last one is moved to
  // t_K. 0: the output times are the points.
  double step = 0;
  // Outputs between points are interpolated linearly, with an error of O(h^2). true: every output is a point instead,
  // and each interval between outputs is cut into equal steps of at most `step`.
  bool land_on_outputs = false;
  // With land_on_outputs: a step that begins at t may be max(1, |t|) times as long. For dynamics that slow down as 1/t.
  bool grow_with_t = false;
  // Adaptive steps: the error of a step stays below atol + rtol |y|, in the rms norm.
  double rtol = 1e-7, atol = 1e-9;
  double safety = 0.9, max_growth = 10.0, max_shrink = 0.2;
  // PI control: h+ = h safety e^-(1/order - 0.75 beta) e_previous^beta (Hairer, Wanner II.4, eq. IV.2.43a).
  // 0: torchdiffeq's control.
  double pi_beta = 0.04;
  int64_t max_steps = 1000000;
  // Backprop takes step sizes as constants. true: it also goes through the choice of the first one, as in torchdiffeq.
  bool differentiate_first_step = false;
  std::vector<int64_t> norm_blocks = {};  // the norm is the largest rms over blocks of these sizes; empty: one block
  bool keep_steps = false;                // needed for GradMode::backprop
};

template <class T>
struct OdeSolution {
  std::vector<double> t;  // [K] as asked
  std::vector<T> y;       // [K, n]; the first row is y0
  int64_t evaluations = 0, steps = 0, rejected = 0;

  /// One accepted step: the state at every stage, and the outputs that fall into it. Backprop walks over these.
  struct Step {
    double t0, t1;
    std::vector<T> stages;   // [S, n]
    std::vector<T> k;        // [S, n], with differentiate_first_step only
    std::vector<T> records;  // [S, record_size()], with fixed steps only
    struct Output {
      int64_t index;
      double x;  // place within the step, 0..1
    };
    std::vector<Output> outputs;
  };
  std::vector<Step> path;          // empty without keep_steps
  bool first_step_chosen = false;  // the first step has the size that FirstStep chose; it was not rejected
  OdeOptions options;
};

/// Solves from t[0] to every t (strictly increasing or decreasing).
/// Errors: sizes, times and options that do not fit; values that stop being finite; steps that underflow or are too
/// many. The last three are reported with t, step and |y|.
template <class T>
OdeSolution<T> odeint(const Dynamics<T>& dynamics, const std::vector<T>& y0, const std::vector<double>& t,
                      const OdeOptions& options);

enum class GradMode {
  // a' = -a^T df/dy backwards in time, restarted from the stored y at every output. It keeps no steps. It is not
  // exactly the gradient of the discrete solution; the gap falls as h^5.
  adjoint,
  // The exact gradient of the discrete solution, through the kept steps. Step sizes count as constants.
  backprop,
};

template <class T>
struct OdeGradient {
  std::vector<T> y0;          // dL/dy0 [n]
  std::vector<T> parameters;  // dL/dp [P]
  int64_t evaluations = 0;
};

/// grad_y [K, n] is dL/dy at every output. Errors: a wrong size of grad_y; backprop of a solution without kept steps.
template <class T>
OdeGradient<T> odeint_gradient(const Dynamics<T>& dynamics, const OdeSolution<T>& solution,
                               const std::vector<T>& grad_y, GradMode mode);

/// Internal to the two functions above: the weights of the dense output at x within a step of size h.
///   y(x) = y0 * w.y0 + y1 * w.y1 + middle * w.middle + h (k_first * w.first + k_last * w.last)
struct DenseOutput {
  double y0, y1, middle, first, last;
};
DenseOutput dense_output(const Tableau& tableau, double x);

}  // namespace rw
