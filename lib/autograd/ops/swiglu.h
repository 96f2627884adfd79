// SwiGLU (Shazeer 2020): silu(gate) * up.
#pragma once
#include "autograd/var.h"

namespace rw {

/// silu(gate) * up; both [...,F].
Var swiglu(const Var& gate, const Var& up);

struct GatedOptions {
  bool feeds_fp8 = false;  // an 8-bit product reads the result: its largest() is set
};

/// The same from one product with stacked weights: gate_up [...,2F] holds gate, then up; gives [...,F].
Var swiglu_packed(const Var& gate_up, const GatedOptions& options = {});

}  // namespace rw
