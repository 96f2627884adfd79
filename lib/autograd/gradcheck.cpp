// Gradients against central differences: a fixed random projection of the outputs, element by element.
#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>

#include "tensor/random.h"

namespace rw {
namespace {

Tensor projection(const Tensor& like, uint64_t seed) {
  Random random(seed, Purpose::test);
  Tensor w = Tensor::empty(like.shape(), DType::f64);
  for (int64_t i = 0; i < w.numel(); ++i) w.data<double>()[i] = random.normal();
  return w;
}

double dot(const Tensor& a, const Tensor& b) {
  double s = 0;
  for (int64_t i = 0; i < a.numel(); ++i) s += a.data<double>()[i] * b.data<double>()[i];
  return s;
}

}  // namespace

GradcheckReport gradcheck(const std::function<std::vector<Var>(const std::vector<Var>&)>& f,
                          const std::vector<Tensor>& inputs, const std::vector<bool>& differentiable, double eps) {
  for (const Tensor& t : inputs)
    check(t.dtype() == DType::f64 || t.dtype() == DType::i32, "gradcheck", "inputs must be f64, got ", t.dtype());
  const auto wanted = [&](size_t i) {
    return inputs[i].dtype() == DType::f64 && (differentiable.empty() || differentiable[i]);
  };

  Tape tape;
  std::vector<Var> leaves;
  {
    const TapeScope scope(tape);
    for (size_t i = 0; i < inputs.size(); ++i)
      leaves.push_back(wanted(i) ? Var::leaf(inputs[i].clone()) : Var(inputs[i]));
    const std::vector<Var> out = f(leaves);
    std::vector<Tensor> seeds;
    for (size_t i = 0; i < out.size(); ++i) seeds.push_back(projection(out[i].value(), 100 + i));
    tape.backward(out, seeds);
  }

  const auto objective = [&](const std::vector<Tensor>& at) {
    const NoGrad no_grad;
    const std::vector<Var> out = f(std::vector<Var>(at.begin(), at.end()));
    double s = 0;
    for (size_t i = 0; i < out.size(); ++i) s += dot(out[i].value(), projection(out[i].value(), 100 + i));
    return s;
  };

  GradcheckReport report;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!wanted(i)) continue;
    const Tensor analytic =
        leaves[i].slot()->grad.defined() ? leaves[i].grad() : Tensor::zeros(inputs[i].shape(), DType::f64);
    std::vector<Tensor> at;
    for (const Tensor& t : inputs) at.push_back(t.clone());
    std::vector<double> numeric(static_cast<size_t>(inputs[i].numel()));
    double scale = 0;
    for (int64_t j = 0; j < inputs[i].numel(); ++j) {
      double& x = at[i].data<double>()[j];
      const double original = x;
      x = original + eps;
      const double up = objective(at);
      x = original - eps;
      const double down = objective(at);
      x = original;
      numeric[static_cast<size_t>(j)] = (up - down) / (2 * eps);
      scale = std::max(scale, std::abs(numeric[static_cast<size_t>(j)]));
    }
    for (int64_t j = 0; j < inputs[i].numel(); ++j) {
      const double a = analytic.data<double>()[j], n = numeric[static_cast<size_t>(j)];
      const double error = std::abs(a - n) / std::max(scale, 1e-30);
      if (error > report.worst || !(error == error)) {
        report.worst = error == error ? error : 1e300;
        report.where = cat("input ", i, ", element ", j, ": analytic ", a, ", numeric ", n);
      }
    }
  }
  return report;
}

}  // namespace rw
