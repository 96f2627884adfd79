// PI's theory (arXiv 2306.15595 section 2 and appendix C; METHODS 2.2) and PoSE's coverage (METHODS 3.3), in f64.
//
// A RoPE attention score is a(s) = Re sum_j h_j e^{i s theta_j} with s the relative distance, theta_j = c^{-2j/d} and
// h_j made of query and key. Extrapolation trusts a(s) beyond the trained distances, interpolation between them.
#pragma once
#include <complex>
#include <cstdint>
#include <string>
#include <vector>

#include "rope/positions.h"

namespace rw {

/// a(s); h [d/2].
double attention_score(const std::vector<std::complex<double>>& h, double base, double s);

/// B(s) = sum_k |sum_{j <= k} e^{i s theta_j}|, k = 0 .. d/2-1. It bounds |a(s)| <= 2 max|h| B(s) (eq. 8; RoFormer
/// 3.4.3). Figure 5 draws B(s)/d. Errors, here and below: d that is not even and positive, a base that is not above 1.
double extrapolation_bound(int64_t d, double base, double s);

/// Theorem 2.1 as printed: |a(s) - a_lin(s)| <= max|h| d (s - s1)(s2 - s) / (8 ln c), here without max|h|.
double printed_interpolation_bound(int64_t d, double base, double s1, double s2, double s);

/// The bound that holds, without max|h|. Step (14) of the proof uses c^x <= 1 + x ln c for x < 0, where the opposite is
/// true. With the sum itself,
///   Sigma = sum_j theta_j^2 = (1 - c^-2) / (1 - c^{-4/d}),   |a(s) - a_lin(s)| <= max|h| Sigma (s - s1)(s2 - s) / 2
double corrected_interpolation_bound(int64_t d, double base, double s1, double s2, double s);

/// a(s) - a_lin(s): what interpolating linearly between the grid points s1 and s2 misses.
double interpolation_error(const std::vector<std::complex<double>>& h, double base, double s1, double s2, double s);

/// h_j = e^{-i s* theta_j} with s* = s1 + 1/2 peaks halfway between two grid points. Its error there is
/// sum_j (1 - cos(theta_j / 2)): above the printed bound, below the corrected one.
struct CounterExample {
  std::vector<std::complex<double>> h;  // [d/2], max|h| = 1
  double error, printed, corrected;
};
CounterExample interpolation_counter_example(int64_t d, double base, double s1);

/// Figure 2: d coefficients on [sin | cos](s theta_j) fitted to standard normal values at s = 0 .. window-1 by least
/// squares (a ridge of `ridge` times the largest diagonal element keeps the near-singular normal matrix solvable).
struct ScoreFit {
  std::vector<std::complex<double>> h;  // a(s) = Re sum h_j e^{i s theta_j}
  std::vector<double> targets;          // [window]
};
ScoreFit fit_random_scores(int64_t d, double base, int64_t window, uint64_t seed, double ridge = 1e-15);

/// P(a relative distance r = 0 .. target-1 occurs in one PoSE example), N = 2, exact. `l0_most`: the first chunk's
/// length is uniform on 1 .. l0_most (paper: window - 1; official code: (window + 1) / 2).
///   P(r) = w(r) + (1 - w(r)) n_u(r) / (S + 1),   S = target - window,   w(r) = P(max(l0, l1) > r),
///   n_u(r) = the number of u_1 in 0 .. S with u_1 + 1 <= r <= u_1 + window - 1
/// Errors: window below 2, target below window, l0_most outside 1 .. window-1.
std::vector<double> pose_coverage(int64_t window, int64_t target, int64_t l0_most);

/// The share of `draws` samples of `sampler` in which each of `distances` occurs
/// between two tokens. Integer positions only.
std::vector<double> simulate_coverage(const PositionSampler& sampler, int64_t window, int64_t target,
                                      const std::vector<int64_t>& distances, int64_t draws, uint64_t seed);

/// Tables for plots: a header line, then comma-separated rows.
struct CurveTable {
  std::vector<std::string> columns;
  std::vector<std::vector<double>> rows;
  std::string csv() const;
};
/// Figure 5: s, B(s)/d for s = 0 .. count-1.
CurveTable bound_table(int64_t d, double base, int64_t count);
/// Figure 2: s, fitted a(s) and its target (NaN beyond the window), from `from` to `to` in steps of `step`.
CurveTable fit_table(const ScoreFit& fit, double base, double from, double to, double step);
/// r, exact P(r), simulated P(r), three standard deviations; about `points` distances from 1 to target-1.
CurveTable coverage_table(const PositionSampler& sampler, int64_t window, int64_t target, int64_t points, int64_t draws,
                          uint64_t seed);

}  // namespace rw
