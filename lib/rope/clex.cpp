// CLEX: when the equation is solved, what is kept, and the node that takes gradients to the two matrices.
#include "rope/clex.h"

#include <algorithm>
#include <cmath>

#include "autograd/tape.h"

namespace rw {

/// One forward solve: the trajectory at t = 1 and at every distinct t above it.
struct ClexScaling::Solved {
  std::shared_ptr<const ClexDynamics<double>> dynamics;
  OdeSolution<double> z;  // rows: t = 1, then the distinct t
};

namespace {

constexpr const char* kUnset = "set_parameters has not been called: there is nothing to solve with";

/// U, W -> inv_freq. Backward: dL/dz(t_k) = theta(t_k) * sum of dL/dtheta over the
/// samples of t_k, then one ODE gradient.
class ClexNode : public Node {
 public:
  const char* name() const override { return "clex"; }
  void backward() override {
    const Tensor g = grad_out().to(kCpu).to(DType::f64);
    const int64_t pairs = dynamics->size();
    std::vector<double> grad_z(z.y.size(), 0.0);
    for (size_t b = 0; b < row.size(); ++b) {
      if (row[b] == 0) continue;  // t = 1: the base's frequencies, which nothing trains
      const double* from = g.data<double>() + static_cast<int64_t>(b) * pairs;
      const double* log_theta = z.y.data() + row[b] * pairs;
      double* to = grad_z.data() + row[b] * pairs;
      for (int64_t i = 0; i < pairs; ++i) to[i] += std::exp(log_theta[i]) * from[i];
    }
    const OdeGradient<double> gradient = odeint_gradient<double>(*dynamics, z, grad_z, mode);
    const auto half = static_cast<int64_t>(gradient.parameters.size()) / 2;
    for (size_t p = 0; p < 2; ++p) {
      const auto begin = gradient.parameters.begin() + static_cast<int64_t>(p) * half;
      const Tensor full = Tensor::from(std::vector<double>(begin, begin + half), shapes[p]);
      add_grad(p, full.to(dtypes[p] == DType::bf16 ? DType::f32 : dtypes[p]).to(devices[p]));
    }
  }

  std::shared_ptr<const ClexDynamics<double>> dynamics;
  OdeSolution<double> z;
  std::vector<int64_t> row;  // of each sample in z
  GradMode mode = GradMode::adjoint;
  std::vector<Shape> shapes;
  std::vector<DType> dtypes;
  std::vector<Device> devices;
};

}  // namespace

namespace {

const ClexRope& record_of(const RopeConfig& config) {
  const auto* record = config.kind.get<ClexRope>();
  check(record != nullptr, "clex", "the config's rope_type must be clex, got ", config.rope_type());
  return *record;
}

}  // namespace

ClexScaling::ClexScaling(const RopeConfig& config)
    : RopeScaling(config), record_(record_of(config)), theta_(base_inv_freq(config)) {
  config.kind.check(config);
  base_table_ = Tensor::from(theta_);
}

std::vector<ParameterSpec> ClexScaling::parameter_specs() const {
  const int64_t pairs = config().rotary_dim() / 2, hidden = record_.param_factor * config().rotary_dim();
  const double bound = 1 / std::sqrt(static_cast<double>(hidden));
  ParameterSpec up{.name = "model.rotary_emb.ode_up_proj",
                   .shape = {pairs, hidden},
                   .init = {},
                   .decay = false,
                   .lr_scale = record_.lr_scale};
  up.init = [bound](const Tensor& values, Random& random) {
    for (int64_t i = 0; i < values.numel(); ++i)
      values.data<float>()[i] = static_cast<float>(bound * (2 * random.uniform() - 1));
  };
  ParameterSpec down{.name = "model.rotary_emb.ode_down_proj",
                     .shape = {hidden, pairs},
                     .init = {},
                     .decay = false,
                     .lr_scale = record_.lr_scale};
  down.init = [](const Tensor& values, Random&) { values.zero(); };
  return {up, down};
}

void ClexScaling::check_parameters(const std::vector<Var>& parameters) const {
  const std::vector<ParameterSpec> specs = parameter_specs();
  check(parameters.size() == specs.size(), "clex", "needs ", specs.size(), " parameters, got ", parameters.size());
  for (size_t i = 0; i < specs.size(); ++i) check_shape("clex", specs[i].name, parameters[i].value(), specs[i].shape);
}

void ClexScaling::set_parameters(std::vector<Var> parameters) {
  check_parameters(parameters);
  parameters_ = std::move(parameters);
}

ClexScaling::Solved ClexScaling::solve(std::vector<double> distinct, bool keep_steps, const std::vector<double>& up,
                                       const std::vector<double>& down) {
  const auto dynamics =
      std::make_shared<const ClexDynamics<double>>(config().rotary_dim(), config().rope_theta, record_, up, down);
  std::vector<double> z1;
  for (const double x : theta_) z1.push_back(std::log(x));
  distinct.insert(distinct.begin(), 1.0);
  OdeOptions options;
  options.method = "rk4_38";
  options.step = record_.time_dt;
  options.land_on_outputs = true;            // any t, not only multiples of the step, is fourth-order accurate
  options.grow_with_t = record_.grow_steps;  // xi, and with it the frequencies' change, falls as 1 / t
  options.keep_steps = keep_steps;
  Solved solved{dynamics, odeint<double>(*dynamics, z1, distinct, options)};
  evaluations_ = solved.z.evaluations;
  ++solves_;
  return solved;
}

Var ClexScaling::trained_table(std::span<const double> t, bool single, const std::vector<Var>& parameters) {
  const double most = static_cast<double>(record_.max_factor);
  std::vector<double> distinct;
  for (const double x : t) {
    check(x >= 1 && x <= most, "clex", "t must lie in [1, max_factor = ", most, "], got ", x);
    if (x > 1) distinct.push_back(x);
  }
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());

  const auto pairs = static_cast<int64_t>(theta_.size());
  Tensor out = Tensor::empty(single ? Shape{pairs} : Shape{static_cast<int64_t>(t.size()), pairs}, DType::f64);
  for (size_t b = 0; b < t.size(); ++b)
    std::copy(theta_.begin(), theta_.end(), out.data<double>() + static_cast<int64_t>(b) * pairs);
  if (distinct.empty()) return out;

  const bool adjoint = record_.grad == ClexGrad::adjoint;
  check(!parameters.empty(), "clex", kUnset);
  const bool wanted = records(parameters[0], parameters[1]);
  Solved solved =
      solve(distinct, wanted && !adjoint, parameters[0].value().to_vector(), parameters[1].value().to_vector());
  std::vector<int64_t> row;
  for (size_t b = 0; b < t.size(); ++b) {
    const auto at = std::lower_bound(distinct.begin(), distinct.end(), t[b]);
    row.push_back(t[b] > 1 ? at - distinct.begin() + 1 : 0);
    if (row[b] == 0) continue;
    const double* z = solved.z.y.data() + row[b] * pairs;
    for (int64_t i = 0; i < pairs; ++i) out.data<double>()[static_cast<int64_t>(b) * pairs + i] = std::exp(z[i]);
  }
  Var result(out);
  if (!wanted) return result;
  auto node = std::make_unique<ClexNode>();
  node->dynamics = solved.dynamics;
  node->z = std::move(solved.z);
  node->row = std::move(row);
  node->mode = adjoint ? GradMode::adjoint : GradMode::backprop;
  node->saved = {out};
  for (const Var& p : parameters) {
    node->shapes.push_back(p.shape());
    node->dtypes.push_back(p.dtype());
    node->devices.push_back(p.device());
  }
  Tape::current().record(std::move(node), parameters, {&result});
  return result;
}

int64_t ClexScaling::covering_factor(int64_t length) const {
  const int64_t window = config().original_window();
  return std::clamp<int64_t>((length + window - 1) / window, 1, record_.max_factor);
}

RopeTable ClexScaling::table(const RopeContext& context) {
  if (context.training) return {trained_table(std::span<const double>(&context.t, 1), true, parameters_), 1.0};
  const int64_t t = covering_factor(context.length);
  if (t == 1) return {base_table_, 1.0};

  // The parameters are compared by value, so that a stale table is never used, whoever changed them. The published code
  // has that bug (METHODS 4.4-9).
  check(!parameters_.empty(), "clex", kUnset);
  std::vector<double> up = parameters_[0].value().to_vector(), down = parameters_[1].value().to_vector();
  if (!cached_table_.defined() || up != cached_up_ || down != cached_down_) {
    std::vector<double> grid;
    for (int64_t k = 2; k <= record_.max_factor; ++k) grid.push_back(static_cast<double>(k));
    std::vector<double> theta = solve(grid, false, up, down).z.y;
    for (double& x : theta) x = std::exp(x);
    cached_table_ = Tensor::from(theta, {record_.max_factor, static_cast<int64_t>(theta_.size())});
    cached_up_ = std::move(up);
    cached_down_ = std::move(down);
  }
  return {cached_table_.slice(t - 1, t).view({static_cast<int64_t>(theta_.size())}), 1.0};
}

RopeTable ClexScaling::table(std::span<const double> t_per_sample, const RopeContext& context) {
  if (!context.training) return table(context);
  check(!t_per_sample.empty(), "clex", "needs a t for every sample, got none");
  return {trained_table(t_per_sample, false, parameters_), 1.0};
}

RopeTable ClexScaling::table(std::span<const double> t_per_sample, const RopeContext& context,
                             const std::vector<Var>& parameters) {
  check_parameters(parameters);
  check(context.training, "clex", "parameters other than the set ones are for training");
  check(!t_per_sample.empty(), "clex", "needs a t for every sample, got none");
  return {trained_table(t_per_sample, false, parameters), 1.0};
}

}  // namespace rw
