// CLEX's record: what config.json states of it. The method itself, a learned differential
// equation of the frequencies, is in rope/clex.h.
#pragma once
#include "rope/scaling.h"

namespace rw {

enum class ClexAct {
  silu,  // the paper, and the first release
  tanh,  // the published default now
};
/// xi_t, the rate of the frequencies when the net is silent: the derivative of ln theta_NTK with
enum class ClexPrior {
  code,   // s = 2t - 1 (published)
  paper,  // s = t
};
/// How gradients reach the two matrices.
enum class ClexGrad {
  backprop,  // through the solver (published): exact, and 4 times faster
  adjoint,   // by the adjoint equation
};

/// The defaults are our choice; `published` in the comments is CLEX's code at 023709d.
struct ClexRope {
  static constexpr const char* kName = "clex";
  static constexpr const char* kSummary = "CLEX: frequencies learned as a function of the window's scale";
  static constexpr const char* kSampler = "clex";
  static std::vector<Field> fields();

  int64_t max_factor = 16;   // largest window scale factor t
  int64_t param_factor = 1;  // hidden width of the dynamics, times the rotary dimension
  ClexAct act = ClexAct::silu;
  ClexPrior prior = ClexPrior::code;
  bool ntk_input = true;   // the net sees z + ln theta_NTK(t) (published); false: z(t) alone (paper)
  double input_base = 0;   // base of ln theta_NTK in the input; 0: rope_theta (published: 1e4 whatever rope_theta is)
  double time_dt = 0.1;    // step of the 3/8 rule, in f64 (published: 0.01 in f32)
  bool grow_steps = true;  // time_dt is the step at t = 1, and others are t times as long; false: the same everywhere
  ClexGrad grad = ClexGrad::backprop;
  double lr_scale = 0.1;  // learning rate of the two matrices, times the schedule's

  /// Errors: a rotary dimension of 2, an input_base between 0 and 1.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return static_cast<double>(max_factor); }
  bool operator==(const ClexRope&) const = default;
};

}  // namespace rw
