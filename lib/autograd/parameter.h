// What a module says of a trainable tensor before memory for it exists. The arena
// (nn/param_arena.h) allocates all at once.
#pragma once
#include <functional>
#include <string>

#include "autograd/var.h"
#include "tensor/random.h"

namespace rw {

struct ParameterSpec {
  std::string name;  // HF name, e.g. "model.layers.0.self_attn.q_proj.weight"
  Shape shape;
  std::function<void(const Tensor& f32_values, Random& random)> init;
  bool decay = true;      // weight decay applies
  double lr_scale = 1.0;  // times the schedule's learning rate
};

}  // namespace rw
