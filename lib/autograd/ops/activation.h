// The activations of feed-forward layers: SiLU (Elfwing et al. 2018) and GELU (Hendrycks and Gimpel 2016), alone and as
// the gate of a gated linear unit (Shazeer 2020).
#pragma once
#include "autograd/ops/swiglu.h"

namespace rw {

enum class Activation {
  silu,       // x sigmoid(x)
  gelu,       // x Phi(x), Phi the normal distribution function
  gelu_tanh,  // x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2
};

/// The activation, element by element.
Var activate(const Var& x, Activation activation);

/// activation(gate) * up from one tensor: gate_up [...,2F] holds gate, then up; gives [...,F]. With Activation::silu it
/// is swiglu_packed. Errors: an odd last dimension.
Var gated_packed(const Var& gate_up, Activation activation, const GatedOptions& options = {});

}  // namespace rw
