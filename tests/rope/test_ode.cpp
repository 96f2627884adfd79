// ODE solvers: torchdiffeq's values, orders of convergence, gradients three ways, and what stops them.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "rope/ode.h"
#include "support.h"

using namespace rw;
using nlohmann::json;

namespace {

template <class T>
std::vector<T> as(const Tensor& t) {
  const std::vector<double> v = t.to_vector();
  return {v.begin(), v.end()};
}
template <class T>
std::vector<double> wide(const std::vector<T>& v) {
  return {v.begin(), v.end()};
}

/// y' = A y, A [n, n].
template <class T>
struct LinearSystem : Dynamics<T> {
  explicit LinearSystem(std::vector<T> matrix) : a(std::move(matrix)), n(std::lround(std::sqrt(a.size()))) {}
  int64_t size() const override { return n; }
  int64_t parameter_count() const override { return n * n; }
  void f(double, const T* y, T* dy) const override {
    for (int64_t i = 0; i < n; ++i) {
      dy[i] = 0;
      for (int64_t j = 0; j < n; ++j) dy[i] += a[size_t(i * n + j)] * y[j];
    }
  }
  void vjp(double, const T* y, const T* g, T* to_y, T* to_a) const override {
    for (int64_t j = 0; j < n; ++j) to_y[j] = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        to_y[j] += a[size_t(i * n + j)] * g[i];
        to_a[i * n + j] += g[i] * y[j];
      }
    }
  }
  std::vector<T> a;
  int64_t n;
};

/// act(x W1) W2, x = y; timed: x = y - ln(t) d and - d / t at the end: the
/// reader's own dynamics, in the plainest loops.
template <class T>
struct Mlp : Dynamics<T> {
  std::vector<T> w1, w2, d;  // [n, h], [h, n], [n]
  int64_t n, h;
  bool silu, timed;
  int64_t size() const override { return n; }
  int64_t parameter_count() const override { return 2 * n * h; }
  std::vector<int64_t> parameter_blocks() const override { return {n * h, n * h}; }
  struct Inside {
    std::vector<T> x, s, slope;
  };
  Inside inside(double t, const T* y) const {
    Inside in{std::vector<T>(size_t(n)), std::vector<T>(size_t(h)), std::vector<T>(size_t(h))};
    for (int64_t i = 0; i < n; ++i) in.x[size_t(i)] = y[i] - (timed ? T(std::log(T(t))) * d[size_t(i)] : T(0));
    for (int64_t j = 0; j < h; ++j) {
      T p = 0;
      for (int64_t i = 0; i < n; ++i) p += in.x[size_t(i)] * w1[size_t(i * h + j)];
      const T sg = T(1) / (T(1) + std::exp(-p));
      in.s[size_t(j)] = silu ? p * sg : std::tanh(p);
      in.slope[size_t(j)] = silu ? sg * (1 + p * (1 - sg)) : 1 - in.s[size_t(j)] * in.s[size_t(j)];
    }
    return in;
  }
  void f(double t, const T* y, T* dy) const override {
    const Inside in = inside(t, y);
    for (int64_t k = 0; k < n; ++k) {
      dy[k] = timed ? -d[size_t(k)] / T(t) : T(0);
      for (int64_t j = 0; j < h; ++j) dy[k] += in.s[size_t(j)] * w2[size_t(j * n + k)];
    }
  }
  T vjp_t(double t, const T* y, const T* g) const override {
    if (!timed) return 0;
    std::vector<T> to_y(static_cast<size_t>(n)), unused(static_cast<size_t>(2 * n * h));
    vjp(t, y, g, to_y.data(), unused.data());
    T sum = 0;  // dx/dt = -d / t, and the last term's derivative is d / t^2
    for (int64_t i = 0; i < n; ++i) sum += d[size_t(i)] * (g[i] / T(t * t) - to_y[size_t(i)] / T(t));
    return sum;
  }
  void vjp(double t, const T* y, const T* g, T* to_y, T* to_p) const override {
    const Inside in = inside(t, y);
    for (int64_t i = 0; i < n; ++i) to_y[i] = 0;
    for (int64_t j = 0; j < h; ++j) {
      T back = 0;
      for (int64_t k = 0; k < n; ++k) {
        back += w2[size_t(j * n + k)] * g[k];
        to_p[n * h + j * n + k] += in.s[size_t(j)] * g[k];
      }
      back *= in.slope[size_t(j)];
      for (int64_t i = 0; i < n; ++i) {
        to_y[i] += w1[size_t(i * h + j)] * back;
        to_p[i * h + j] += in.x[size_t(i)] * back;
      }
    }
  }
};

template <class T>
std::unique_ptr<Dynamics<T>> golden_dynamics(const std::string& problem) {
  const SafetensorsFile& file = test::golden("golden_ode");
  if (problem == "linear")
    return std::make_unique<LinearSystem<T>>([&] {
      std::vector<T> a = as<T>(file.load("linear/param.A"));  // rows times A: y A, so A transposed acts on columns
      std::swap(a[1], a[2]);
      return a;
    }());
  auto mlp = std::make_unique<Mlp<T>>();
  const Tensor w1 = file.load(problem + "/param.W1");
  mlp->n = w1.size(0), mlp->h = w1.size(1);
  mlp->w1 = as<T>(w1), mlp->w2 = as<T>(file.load(problem + "/param.W2")), mlp->d = as<T>(file.load(problem + "/d"));
  mlp->silu = mlp->timed = problem == "mlp_silu_t";
  return mlp;
}

/// y, grad.y0 and all parameter gradients of a case.
std::vector<std::vector<double>> expected(const std::string& name) {
  const SafetensorsFile& file = test::golden("golden_ode");
  std::vector<std::vector<double>> all = {file.load(name + "/y").to_vector(), file.load(name + "/grad.y0").to_vector()};
  if (name.starts_with("linear")) {
    all.push_back(file.load(name + "/grad.A").to_vector());
    std::swap(all[2][1], all[2][2]);
  } else {
    all.push_back(file.load(name + "/grad.W1").to_vector());
    const std::vector<double> second = file.load(name + "/grad.W2").to_vector();
    all[2].insert(all[2].end(), second.begin(), second.end());
  }
  return all;
}

/// All of one case: outputs, gradients, counts. f64: 1e-10, gradients 1e-8. f32: 1e-5, or, where
/// torch's own f32 is worse (a first step chosen from a difference of nearly equal f32 numbers), no
/// further from f64 than twice torch's distance.
template <class T>
void golden_case(const std::string& name, const json& meta) {
  CAPTURE(name);
  const SafetensorsFile& file = test::golden("golden_ode");
  const std::string problem = name.substr(0, name.find('/'));
  const bool adjoint = name.ends_with("/adj");
  const bool f64 = sizeof(T) == 8;
  const auto dynamics = golden_dynamics<T>(problem);
  OdeOptions options;
  options.method = meta["method"] == "rk4" ? "rk4_38" : meta["method"].get<std::string>();
  if (!meta["step"].is_null()) options.step = meta["step"];
  if (!meta["rtol"].is_null()) options.rtol = meta["rtol"], options.atol = meta["atol"];
  options.pi_beta = 0;
  options.keep_steps = options.differentiate_first_step = !adjoint;
  const std::vector<double> t = wide(as<T>(file.load(problem + "/t")));
  const auto y = odeint<T>(*dynamics, as<T>(file.load(problem + "/y0")), t, options);
  const auto gradient = odeint_gradient<T>(*dynamics, y, as<T>(file.load(problem + "/R")),
                                           adjoint ? GradMode::adjoint : GradMode::backprop);

  const std::vector<std::vector<double>> got = {wide(y.y), wide(gradient.y0), wide(gradient.parameters)},
                                         want = expected(name);
  std::string name64 = name;
  if (!f64) name64.replace(name.find("f32"), 3, "f64");
  const std::vector<std::vector<double>> truth = expected(name64);
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    const double error = test::relative_error(got[i], want[i]);
    if (f64 || error < 1e-5) {
      CHECK(error < (!f64 ? 1e-5 : i == 0 ? 1e-10 : 1e-8));
    } else {
      CHECK(test::relative_error(got[i], truth[i]) <= 2 * test::relative_error(want[i], truth[i]));
    }
  }
  if (!f64) return;  // in f32 rounding decides whether an adaptive step is accepted
  CHECK(y.evaluations == meta["nfe_fwd"].get<int64_t>());
  if (adjoint) CHECK(y.evaluations + gradient.evaluations == meta["nfe_total"].get<int64_t>());
}

/// A small smooth system with parameters: y' = tanh(A y) + sin t.
struct Smooth : LinearSystem<double> {
  using LinearSystem::LinearSystem;
  void f(double t, const double* y, double* dy) const override {
    LinearSystem::f(t, y, dy);
    for (int64_t i = 0; i < n; ++i) dy[i] = std::tanh(dy[i]) + std::sin(t);
  }
  void vjp(double t, const double* y, const double* g, double* to_y, double* to_a) const override {
    std::vector<double> p(static_cast<size_t>(n)), back(p.size());
    LinearSystem::f(t, y, p.data());
    for (size_t i = 0; i < p.size(); ++i) back[i] = g[i] * (1 - std::tanh(p[i]) * std::tanh(p[i]));
    LinearSystem::vjp(t, y, back.data(), to_y, to_a);
  }
};
const std::vector<double> kMatrix = {-0.5, 1.2, 0.3, -1.1, 0.2, 0.7, 0.4, -0.6, -0.9};
const std::vector<double> kStart = {1.0, -0.4, 0.7};

double distance(const std::vector<double>& a, const std::vector<double>& b) { return test::relative_error(a, b); }
std::vector<double> end_of(const OdeSolution<double>& s) { return {s.y.end() - 3, s.y.end()}; }

}  // namespace

TEST_CASE("torchdiffeq's solutions, gradients and evaluation counts are met in f64 and f32") {
  const json cases = json::parse(test::golden("golden_ode").metadata().at("cases"));
  int seen = 0;
  for (const auto& [name, meta] : cases.items()) {
    if (!meta.contains("method") || !test::golden("golden_ode").contains(name + "/y")) continue;
    name.find("/f64/") != std::string::npos ? golden_case<double>(name, meta) : golden_case<float>(name, meta);
    ++seen;
  }
  CHECK(seen >= 40);
}

TEST_CASE("The linear system's exact solution is approached by every method") {
  const SafetensorsFile& file = test::golden("golden_ode");
  const auto dynamics = golden_dynamics<double>("linear");
  const std::vector<double> exact = file.load("linear/exact").to_vector(), t = file.load("linear/t").to_vector();
  for (const auto& [method, tolerance] : std::vector<std::pair<std::string, double>>{
           {"euler", 2e-2}, {"midpoint", 1e-5}, {"rk4", 1e-11}, {"rk4_38", 1e-11}, {"dopri5", 1e-7}}) {
    CAPTURE(method);
    const auto y =
        odeint<double>(*dynamics, as<double>(file.load("linear/y0")), t,
                       {.method = method, .step = 1e-3, .land_on_outputs = true, .rtol = 1e-9, .atol = 1e-9});
    CHECK(distance(y.y, exact) < tolerance);
  }
}

TEST_CASE("Halving the step divides the error by 2^order") {
  const Smooth dynamics(kMatrix);
  const std::vector<double> truth = end_of(odeint<double>(dynamics, kStart, {0, 2}, {.method = "rk4", .step = 1e-3}));
  for (const auto& [method, low, high] : std::vector<std::tuple<std::string, double, double>>{
           {"euler", 1.8, 2.2}, {"midpoint", 3.5, 4.6}, {"rk4", 12, 20}, {"rk4_38", 12, 20}}) {
    double previous = 0;
    for (const double step : {0.1, 0.05, 0.025}) {
      const double error =
          distance(end_of(odeint<double>(dynamics, kStart, {0, 2}, {.method = method, .step = step})), truth);
      if (previous > 0) {
        CAPTURE(method);
        CAPTURE(step);
        CHECK(previous / error >= low);
        CHECK(previous / error <= high);
      }
      previous = error;
    }
  }
}

TEST_CASE("Dormand-Prince obeys its tolerance, with and without PI control") {
  const Smooth dynamics(kMatrix);
  const std::vector<double> truth = end_of(odeint<double>(dynamics, kStart, {0, 6}, {.method = "rk4", .step = 1e-3}));
  for (const double beta : {0.0, 0.04, 0.08}) {
    double previous = 1;
    for (const double tolerance : {1e-4, 1e-6, 1e-8, 1e-10}) {
      const auto y = odeint<double>(dynamics, kStart, {0, 6},
                                    {.method = "dopri5", .rtol = tolerance, .atol = tolerance, .pi_beta = beta});
      const double error = distance(end_of(y), truth);
      CAPTURE(beta);
      CAPTURE(tolerance);
      CHECK(error < 20 * tolerance);
      CHECK(error < previous);
      previous = error;
    }
  }
}

TEST_CASE("An output between steps is fourth order with dopri5's dense output, and exact when steps land on it") {
  const Smooth dynamics(kMatrix);
  const std::vector<double> truth =
      end_of(odeint<double>(dynamics, kStart, {0, 1.234}, {.method = "rk4", .step = 1e-4}));
  const auto middle = [](const OdeSolution<double>& s) {
    return std::vector<double>(s.y.begin() + 3, s.y.begin() + 6);
  };
  const std::vector<double> t = {0, 1.234, 2};
  CHECK(distance(middle(odeint<double>(dynamics, kStart, t, {.method = "dopri5", .rtol = 1e-8, .atol = 1e-8})), truth) <
        1e-7);
  CHECK(distance(middle(odeint<double>(dynamics, kStart, t, {.method = "rk4", .step = 0.05})), truth) >
        1e-5);  // linear
  CHECK(distance(middle(odeint<double>(dynamics, kStart, t, {.method = "rk4", .step = 0.05, .land_on_outputs = true})),
                 truth) < 1e-7);
}

TEST_CASE("Integrating forth and back returns to the start") {
  const Smooth dynamics(kMatrix);
  for (const char* method : {"rk4_38", "dopri5"}) {
    const OdeOptions options{.method = method, .step = 0.01, .rtol = 1e-10, .atol = 1e-10};
    const auto there = odeint<double>(dynamics, kStart, {0, 0.5, 2}, options);
    const auto back = odeint<double>(dynamics, end_of(there), {2, 0.5, 0}, options);
    CHECK(distance(end_of(back), kStart) < 1e-8);
    CHECK(distance({back.y.begin() + 3, back.y.begin() + 6}, {there.y.begin() + 3, there.y.begin() + 6}) < 1e-8);
  }
}

TEST_CASE("Adjoint equals backprop at h = 0.1, both equal finite differences, and their gap falls as h^5") {
  const std::vector<double> t = {0, 0.5, 1.2, 2};
  const std::vector<double> weights = test::randn({4, 3}, 5).to_vector();
  const auto solve = [&](const std::vector<double>& a, const std::vector<double>& y0, double step, bool keep) {
    return odeint<double>(Smooth(a), y0, t,
                          {.method = "rk4_38", .step = step, .land_on_outputs = true, .keep_steps = keep});
  };
  const auto loss = [&](const std::vector<double>& a, const std::vector<double>& y0) {
    const auto y = solve(a, y0, 0.1, false);
    double s = 0;
    for (size_t i = 0; i < y.y.size(); ++i) s += weights[i] * y.y[i];
    return s;
  };
  const auto gradient = [&](double step, GradMode mode) {
    const auto y = solve(kMatrix, kStart, step, true);
    const auto g = odeint_gradient<double>(Smooth(kMatrix), y, weights, mode);
    std::vector<double> all = g.parameters;
    all.insert(all.end(), g.y0.begin(), g.y0.end());
    return all;
  };
  std::vector<double> numeric;
  for (size_t i = 0; i < kMatrix.size() + kStart.size(); ++i) {
    const auto at = [&](double e) {
      std::vector<double> a = kMatrix, y0 = kStart;
      (i < a.size() ? a[i] : y0[i - a.size()]) += e;
      return loss(a, y0);
    };
    numeric.push_back((at(1e-5) - at(-1e-5)) / 2e-5);
  }
  CHECK(distance(gradient(0.1, GradMode::backprop), numeric) < 1e-6);
  CHECK(distance(gradient(0.1, GradMode::adjoint), numeric) < 1e-6);
  double previous = 0;
  for (const double step : {0.1, 0.05, 0.025}) {
    const double gap = distance(gradient(step, GradMode::adjoint), gradient(step, GradMode::backprop));
    if (previous > 0) CHECK(previous / gap >= 12);
    previous = gap;
  }
}

TEST_CASE("Backprop through dopri5 equals finite differences of the same steps' order, dense outputs included") {
  const std::vector<double> t = {0, 0.313, 1.2, 1.21, 2}, weights = test::randn({5, 3}, 6).to_vector();
  const OdeOptions options{.method = "dopri5", .rtol = 1e-10, .atol = 1e-10, .keep_steps = true};
  const auto y = odeint<double>(Smooth(kMatrix), kStart, t, options);
  const auto backprop = odeint_gradient<double>(Smooth(kMatrix), y, weights, GradMode::backprop);
  const auto adjoint = odeint_gradient<double>(Smooth(kMatrix), y, weights, GradMode::adjoint);
  CHECK(distance(backprop.parameters, adjoint.parameters) < 1e-7);
  CHECK(distance(backprop.y0, adjoint.y0) < 1e-7);
}

TEST_CASE("A reader's own system without parameters or vjp can be solved") {
  struct Decay : Dynamics<double> {
    int64_t size() const override { return 1; }
    void f(double, const double* y, double* dy) const override { dy[0] = -y[0]; }
  };
  const auto y = odeint<double>(Decay{}, {1.0}, {0, 1, 2}, {.method = "rk4", .step = 0.01, .keep_steps = true});
  CHECK(y.y[2] == doctest::Approx(std::exp(-2)).epsilon(1e-9));
  CHECK(y.evaluations == 800);
  CHECK(test::error_of([&] {
          odeint_gradient<double>(Decay{}, y, {0, 0, 1}, GradMode::adjoint);
        }).find("no vjp") != std::string::npos);
}

TEST_CASE("A solution that blows up stops with t, step and norm") {
  struct Square : Dynamics<double> {  // y = 1 / (1 - t): infinite at 1
    int64_t size() const override { return 1; }
    void f(double, const double* y, double* dy) const override { dy[0] = y[0] * y[0]; }
  };
  const auto error = [](const OdeOptions& options) {
    return test::error_of([&] { odeint<double>(Square{}, {1.0}, {0, 2}, options); });
  };
  const std::string adaptive = error({.method = "dopri5"});
  CHECK(adaptive.find("dopri5: the step underflows at t = 1, step = ") != std::string::npos);
  CHECK(adaptive.find("|y| = ") != std::string::npos);
  const std::string fixed = error({.method = "rk4", .step = 0.01});
  CHECK(fixed.find("rk4: values stop being finite at t = 1.") != std::string::npos);
  CHECK(error({.method = "dopri5", .max_steps = 10}).find("too many steps") != std::string::npos);
}

TEST_CASE("Bad arguments of odeint are refused") {
  const Smooth dynamics(kMatrix);
  const auto error = [&](const std::vector<double>& y0, const std::vector<double>& t, const OdeOptions& options) {
    return test::error_of([&] { odeint<double>(dynamics, y0, t, options); });
  };
  CHECK(error({1}, {0, 1}, {}).find("y0 must have 3 numbers, got 1") != std::string::npos);
  CHECK(error(kStart, {}, {}).find("at least one output time") != std::string::npos);
  CHECK(error(kStart, {0, 1, 1}, {}).find("strictly increasing or decreasing, got 1 then 1") != std::string::npos);
  CHECK(error(kStart, {0, 2, 1}, {}).find("strictly") != std::string::npos);
  CHECK(error(kStart, {0, 1}, {.method = "rk5"}).find("unknown method \"rk5\"; known: euler") != std::string::npos);
  CHECK(error(kStart, {0, 1}, {.step = -1}).find("step must not be negative") != std::string::npos);
  CHECK(error(kStart, {0, 1}, {.step = 1e-9}).find("more than max_steps") != std::string::npos);
  CHECK(error(kStart, {0, 1}, {.method = "dopri5", .rtol = 0, .atol = 0}).find("rtol and atol") != std::string::npos);
  CHECK(error(kStart, {0, 1}, {.norm_blocks = {2}}).find("norm_blocks must add up to 3") != std::string::npos);
  CHECK(error({NAN, 0, 0}, {0, 1}, {.method = "dopri5"}).find("not finite") != std::string::npos);
  const auto y = odeint<double>(dynamics, kStart, {0, 1}, {.step = 0.1});
  CHECK(test::error_of([&] {
          odeint_gradient<double>(dynamics, y, {1}, GradMode::adjoint);
        }).find("grad_y must have 6") != std::string::npos);
  CHECK(test::error_of([&] {
          odeint_gradient<double>(dynamics, y, std::vector<double>(6), GradMode::backprop);
        }).find("keep_steps") != std::string::npos);
}
