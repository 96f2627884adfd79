// Freezing a model's RoPE recipe.
#include "nn/freeze.h"

#include "rope/freeze.h"

namespace rw {

std::unique_ptr<CausalLm> freeze_model(const CausalLm& model, int64_t length) {
  ModelConfig config = model.config();
  config.rope = freeze_rope(model.scaling(), length);
  auto frozen = std::make_unique<CausalLm>(config, model.dtype(), model.device(), std::nullopt);
  for (size_t i = 0; i < model.rope_parameters(); ++i) frozen->arena().set_values(i, model.arena().values_of(i));
  frozen->arena().refresh();
  return frozen;
}

}  // namespace rw
