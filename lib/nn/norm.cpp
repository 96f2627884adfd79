// The norm module: chooses the op by the description.
#include "nn/norm.h"

#include "autograd/ops/norm.h"

namespace rw {

Norm::Norm(const ModelConfig& c, const std::string& name, int64_t width, ParamArena& arena)
    : kind_(c.block.norm), eps_(c.norm_eps), weight_offset_(c.block.norm_weight_offset) {
  weight_index_ = arena.add({name + ".weight", {width}, constant_init(1 - weight_offset_), false});
  if (kind_ == NormKind::layer) bias_index_ = arena.add({name + ".bias", {width}, constant_init(0), false});
}

void Norm::bind(const ParamArena& arena) {
  weight_ = arena[weight_index_];
  if (kind_ == NormKind::layer) bias_ = arena[bias_index_];
}

Var Norm::forward(const Var& x) const {
  if (kind_ == NormKind::layer) return layer_norm(x, weight_, bias_, eps_);
  const NormOptions options{.eps = eps_, .weight_offset = weight_offset_, .feeds_fp8 = feeds_fp8_};
  return rms_norm(x, weight_, options);
}

std::pair<Var, Var> Norm::add(const Var& x, const Var& residual) const {
  if (kind_ == NormKind::layer) return residual_layer_norm(x, residual, weight_, bias_, eps_);
  const NormOptions options{.eps = eps_, .weight_offset = weight_offset_, .feeds_fp8 = feeds_fp8_};
  return residual_rms_norm(x, residual, weight_, options);
}

std::pair<Var, Var> Norm::stream(const Var& h) const {
  if (kind_ == NormKind::layer) return stream_layer_norm(h, weight_, bias_, eps_);
  return stream_rms_norm(h, weight_, {.eps = eps_, .weight_offset = weight_offset_, .feeds_fp8 = feeds_fp8_});
}

}  // namespace rw
