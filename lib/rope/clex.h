// CLEX, continuous length extrapolation (arXiv 2310.16450, ICLR 2024; METHODS 4): the frequencies of window scale
// factor t are the solution of a learned differential equation. With z = ln theta, z(1) = ln b^(-2i/D), and t = n / L:
//
//   dz/dt = act((z + ln theta_NTK(t)) U) W + xi(t)           U [D/2, H], W [H, D/2], H = param_factor * D
//   theta_NTK,i(t) = b^(-2i/D) s(t)^(-2i/(D-2)),   xi_i = d/dt ln theta_NTK,i = -2i s'(t) / ((D-2) s(t))
//   s(t) = 2t - 1 (published code: dynamic NTK with factor 2) or t (paper)
//
// With W = 0 the net is silent and z is that NTK scaling itself. One pair of matrices serves all layers and heads.
// Where paper and published code differ, ClexRope (kinds/clex.h) has a switch.
#pragma once
#include "rope/kinds/clex.h"
#include "rope/ode.h"

namespace rw {

/// The right-hand side above. Parameters: U then W, row by row. Thread safety: none (it keeps scratch space).
template <class T>
class ClexDynamics : public Dynamics<T> {
 public:
  /// Errors: sizes of up [rotary_dim/2 * H] and down [H * rotary_dim/2]; rotary_dim of 2.
  ClexDynamics(int64_t rotary_dim, double base, const ClexRope& record, const std::vector<T>& up,
               const std::vector<T>& down);

  int64_t size() const override { return pairs_; }
  int64_t parameter_count() const override { return 2 * pairs_ * hidden_; }
  std::vector<int64_t> parameter_blocks() const override { return {pairs_ * hidden_, pairs_ * hidden_}; }
  void f(double t, const T* z, T* dz) const override;
  void vjp(double t, const T* z, const T* a, T* a_dfdz, T* a_dfdp) const override;
  void f_and_vjp(double t, const T* z, const T* a, T* dz, T* a_dfdz, T* a_dfdp) const override;
  /// The net's input x [D/2], the hidden layer s [H] and its slope act'(p) [H].
  int64_t record_size() const override { return pairs_ + 2 * hidden_; }
  void f_recorded(double t, const T* z, T* dz, T* record) const override;
  /// The slope becomes r = act'(p) * (W a).
  void vjp_recorded(const T* a, T* a_dfdz, T* record) const override;
  void vjp_of_parameters(int64_t count, const T* records, const T* a, T* a_dfdp) const override;

 private:
  void hidden_layer(double t, const T* z, T* record) const;
  void output_layer(double t, const T* record, T* dz) const;

  int64_t pairs_, hidden_;
  bool silu_, paper_prior_, ntk_input_;
  std::vector<T> log_base_, slope_;           // [D/2]: -(2i/D) ln b of the net's input, 2i/(D-2)
  std::vector<T> up_, up_t_, down_, down_t_;  // both orders, so that every product runs along rows
  mutable std::vector<T> record_, back_;      // [record_size()], [H]
};

/// The scaling kind "clex".
///
/// In training, table({t_0 .. t_B-1}, context) solves once for all distinct t. It returns inv_freq [B, D/2] with
/// history; gradients reach U and W by the adjoint or through the solver (ClexRope::grad). Otherwise t = ceil(length /
/// L), at most max_factor. The frequencies of t = 2 .. max_factor are then solved together and kept until the
/// parameters' values change. Longer sequences keep the frequencies of max_factor. t = 1 is the base model exactly.
/// Thread safety: none, as RopeScaling.
class ClexScaling : public RopeScaling {
 public:
  /// Errors: the config's kind is not CLEX.
  explicit ClexScaling(const RopeConfig& config);

  /// In training the table of context.t, [D/2] with history. Errors: parameters not set, t outside [1, max_factor].
  RopeTable table(const RopeContext& context) override;
  RopeTable table(std::span<const double> t_per_sample, const RopeContext& context) override;
  RopeTable table(std::span<const double> t_per_sample, const RopeContext& context,
                  const std::vector<Var>& parameters) override;
  bool depends_on_length() const override { return true; }
  /// U, uniform in +-1/sqrt(H) (published: Kaiming's rule on its shape), then W, zero.
  std::vector<ParameterSpec> parameter_specs() const override;
  void set_parameters(std::vector<Var> parameters) override;

  /// Evaluations of the dynamics by the last forward solve.
  int64_t evaluations() const { return evaluations_; }
  /// Forward solves so far.
  int64_t solves() const { return solves_; }

 private:
  struct Solved;
  void check_parameters(const std::vector<Var>& parameters) const;
  Solved solve(std::vector<double> distinct, bool keep_steps, const std::vector<double>& up,
               const std::vector<double>& down);
  Var trained_table(std::span<const double> t, bool single, const std::vector<Var>& parameters);
  int64_t covering_factor(int64_t length) const;

  ClexRope record_;
  std::vector<double> theta_;         // [D/2] at t = 1
  std::vector<Var> parameters_;       // U, W
  Tensor base_table_, cached_table_;  // [D/2], [max_factor, D/2]
  std::vector<double> cached_up_, cached_down_;
  int64_t evaluations_ = 0, solves_ = 0;
};

}  // namespace rw
