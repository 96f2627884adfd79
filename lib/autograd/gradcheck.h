// Gradients against central differences.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace rw {

struct GradcheckReport {
  double worst = 0;   // largest |analytic - numeric| / max |numeric| over the inputs
  std::string where;  // "input 1, element 17: analytic 0.5, numeric 0.4"
};

/// Compares backward() of sum_i w_i . f(inputs)_i, w fixed random weights, with central differences of
/// step `eps`, element by element. Inputs must be f64 on the CPU. `differentiable[i]` false: input i is
/// a constant (all are differentiated if empty).
GradcheckReport gradcheck(const std::function<std::vector<Var>(const std::vector<Var>&)>& f,
                          const std::vector<Tensor>& inputs, const std::vector<bool>& differentiable = {},
                          double eps = 1e-5);

}  // namespace rw
