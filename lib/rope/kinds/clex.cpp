// CLEX: the fields of its record.
#include "rope/kinds/clex.h"

#include "rope/clex.h"

namespace rw {

std::vector<Field> ClexRope::fields() {
  return {
      field("max_factor", &ClexRope::max_factor).at_least(1).at_most(65536).option().help("largest scale factor"),
      field("param_factor", &ClexRope::param_factor).at_least(1).at_most(1024).help("hidden width / rotary dimension"),
      field("act", &ClexRope::act, {"silu", "tanh"}).help("activation of the dynamics"),
      field("prior", &ClexRope::prior, {"code", "paper"}).help("rate of the frequencies when the net is silent"),
      field("ntk_input", &ClexRope::ntk_input).help("the net sees the NTK frequencies as well"),
      field("input_base", &ClexRope::input_base).at_least(0).help("their base; 0: rope_theta"),
      field("time_dt", &ClexRope::time_dt).at_least(1e-4).help("step of the solver at t = 1"),
      field("grow_steps", &ClexRope::grow_steps).help("steps grow with t"),
      field("grad", &ClexRope::grad, {"backprop", "adjoint"}).help("how gradients are taken"),
      field("lr_scale", &ClexRope::lr_scale).at_least(0).help("learning rate of the dynamics / the schedule's"),
  };
}

void ClexRope::check(const RopeConfig& config) const {
  rw::check(config.rotary_dim() > 2, kName, "needs more than one pair, the rotary dimension is ", config.rotary_dim());
  rw::check(input_base == 0 || input_base > 1, kName, "input_base must be 0 or above 1, got ", input_base);
}

std::unique_ptr<RopeScaling> ClexRope::make(const RopeConfig& config) const {
  return std::make_unique<ClexScaling>(config);
}

}  // namespace rw
