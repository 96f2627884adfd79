// The theory of interpolation and of PoSE in numbers: bounds, fits, coverage, and the tables that plots are made of.
#include "rope/bounds.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "rope/samplers.h"

namespace rw {
namespace {

std::vector<double> frequencies(int64_t d, double base) {
  check(d >= 2 && d % 2 == 0, "bounds", "d must be even and positive, got ", d);
  check(base > 1, "bounds", "base must be above 1, got ", base);
  std::vector<double> theta;
  for (int64_t j = 0; j < d / 2; ++j)
    theta.push_back(std::pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(d)));
  return theta;
}

void check_between(double s1, double s2, double s) {
  check(s1 < s2 && s1 <= s && s <= s2, "bounds", "needs s1 <= s <= s2, got ", s1, ", ", s, ", ", s2);
}

}  // namespace

double attention_score(const std::vector<std::complex<double>>& h, double base, double s) {
  const std::vector<double> theta = frequencies(2 * static_cast<int64_t>(h.size()), base);
  double a = 0;
  for (size_t j = 0; j < h.size(); ++j)
    a += h[j].real() * std::cos(s * theta[j]) - h[j].imag() * std::sin(s * theta[j]);
  return a;
}

double extrapolation_bound(int64_t d, double base, double s) {
  double real = 0, imaginary = 0, bound = 0;
  for (const double theta : frequencies(d, base)) {
    real += std::cos(s * theta);
    imaginary += std::sin(s * theta);
    bound += std::hypot(real, imaginary);
  }
  return bound;
}

double printed_interpolation_bound(int64_t d, double base, double s1, double s2, double s) {
  check_between(s1, s2, s);
  check(base > 1, "bounds", "base must be above 1, got ", base);
  return static_cast<double>(d) * (s - s1) * (s2 - s) / (8 * std::log(base));
}

double corrected_interpolation_bound(int64_t d, double base, double s1, double s2, double s) {
  check_between(s1, s2, s);
  double sigma = 0;
  for (const double theta : frequencies(d, base)) sigma += theta * theta;
  return sigma * (s - s1) * (s2 - s) / 2;
}

double interpolation_error(const std::vector<std::complex<double>>& h, double base, double s1, double s2, double s) {
  check_between(s1, s2, s);
  const double share = (s - s1) / (s2 - s1);
  return attention_score(h, base, s) -
         ((1 - share) * attention_score(h, base, s1) + share * attention_score(h, base, s2));
}

CounterExample interpolation_counter_example(int64_t d, double base, double s1) {
  const double middle = s1 + 0.5;
  CounterExample out;
  for (const double theta : frequencies(d, base)) out.h.push_back(std::polar(1.0, -middle * theta));
  out.error = std::abs(interpolation_error(out.h, base, s1, s1 + 1, middle));
  out.printed = printed_interpolation_bound(d, base, s1, s1 + 1, middle);
  out.corrected = corrected_interpolation_bound(d, base, s1, s1 + 1, middle);
  return out;
}

ScoreFit fit_random_scores(int64_t d, double base, int64_t window, uint64_t seed, double ridge) {
  const std::vector<double> theta = frequencies(d, base);
  check(window >= 1, "bounds", "window must be at least 1, got ", window);
  const int64_t half = d / 2;
  ScoreFit fit;
  Random random(seed, Purpose::eval);
  for (int64_t s = 0; s < window; ++s) fit.targets.push_back(random.normal());

  Eigen::MatrixXd features(window, d);  // [sin | cos](s theta_j)
  for (int64_t s = 0; s < window; ++s) {
    for (int64_t j = 0; j < half; ++j) {
      const double angle = static_cast<double>(s) * theta[static_cast<size_t>(j)];
      features(s, j) = std::sin(angle);
      features(s, half + j) = std::cos(angle);
    }
  }
  const Eigen::Map<const Eigen::VectorXd> y(fit.targets.data(), window);
  Eigen::MatrixXd normal = features.transpose() * features;
  normal.diagonal().array() += ridge * normal.diagonal().maxCoeff();
  const Eigen::VectorXd w = normal.ldlt().solve(features.transpose() * y);
  // w_sin sin + w_cos cos = Re((w_cos - i w_sin) e^{i s theta})
  for (int64_t j = 0; j < half; ++j) fit.h.emplace_back(w(half + j), -w(j));
  return fit;
}

std::vector<double> pose_coverage(int64_t window, int64_t target, int64_t l0_most) {
  check(window >= 2, "pose_coverage", "window must be at least 2, got ", window);
  check(target >= window, "pose_coverage", "target must be at least the window ", window, ", got ", target);
  check(l0_most >= 1 && l0_most < window, "pose_coverage", "l0_most must lie in [1, ", window - 1, "], got ", l0_most);
  const int64_t room = target - window;
  std::vector<int64_t> longest(static_cast<size_t>(window + 1), 0);  // how many l0 make max(l0, l1) = r
  for (int64_t l0 = 1; l0 <= l0_most; ++l0) ++longest[static_cast<size_t>(std::max(l0, window - l0))];
  std::vector<double> within(static_cast<size_t>(target), 0.0);  // w(r) = P(max(l0, l1) > r)
  int64_t tail = 0;
  for (int64_t r = window - 1; r >= 0; --r) {
    tail += longest[static_cast<size_t>(r + 1)];
    within[static_cast<size_t>(r)] = static_cast<double>(tail) / static_cast<double>(l0_most);
  }
  std::vector<double> p(static_cast<size_t>(target));
  for (int64_t r = 0; r < target; ++r) {
    const int64_t offsets = std::max<int64_t>(0, std::min(room, r - 1) - std::max<int64_t>(0, r - window + 1) + 1);
    const double across = static_cast<double>(offsets) / static_cast<double>(room + 1);
    const double w = within[static_cast<size_t>(r)];
    p[static_cast<size_t>(r)] = w + (1 - w) * across;
  }
  return p;
}

std::vector<double> simulate_coverage(const PositionSampler& sampler, int64_t window, int64_t target,
                                      const std::vector<int64_t>& distances, int64_t draws, uint64_t seed) {
  check(draws >= 1, "simulate_coverage", "draws must be at least 1, got ", draws);
  struct Run {
    int64_t first, last;
  };
  std::vector<int64_t> hits(distances.size(), 0);
  constexpr int64_t kBatch = 256;
  for (int64_t done = 0; done < draws; done += kBatch) {
    SampleSpec spec;
    spec.seed = seed, spec.step = done / kBatch, spec.window = window, spec.target = target;
    for (int64_t b = 0; b < std::min(kBatch, draws - done); ++b) spec.sample_ids.push_back(b);
    const PositionBatch batch = sampler.sample(spec);
    for (int64_t b = 0; b < batch.positions.size(0); ++b) {
      const float* p = batch.positions.data<float>() + b * window;
      std::vector<Run> runs;  // of consecutive positions: two runs cover every distance between their ends
      for (int64_t m = 0; m < window; ++m) {
        const auto at = static_cast<int64_t>(p[m]);
        if (runs.empty() || at != runs.back().last + 1) runs.push_back({at, at});
        runs.back().last = at;
      }
      for (size_t k = 0; k < distances.size(); ++k) {
        const int64_t r = distances[k];
        bool covered = false;
        for (size_t i = 0; i < runs.size() && !covered; ++i) {
          covered = r <= runs[i].last - runs[i].first;
          for (size_t j = i + 1; j < runs.size() && !covered; ++j) {
            covered = r >= runs[j].first - runs[i].last && r <= runs[j].last - runs[i].first;
          }
        }
        hits[k] += covered;
      }
    }
  }
  std::vector<double> share;
  for (const int64_t h : hits) share.push_back(static_cast<double>(h) / static_cast<double>(draws));
  return share;
}

std::string CurveTable::csv() const {
  std::ostringstream out;
  out.precision(10);
  for (size_t i = 0; i < columns.size(); ++i) out << (i ? "," : "") << columns[i];
  out << "\n";
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) out << (i ? "," : "") << row[i];
    out << "\n";
  }
  return out.str();
}

CurveTable bound_table(int64_t d, double base, int64_t count) {
  CurveTable table{{"s", "bound_over_d"}, {}};
  for (int64_t s = 0; s < count; ++s) {
    const double at = static_cast<double>(s);
    table.rows.push_back({at, extrapolation_bound(d, base, at) / static_cast<double>(d)});
  }
  return table;
}

CurveTable fit_table(const ScoreFit& fit, double base, double from, double to, double step) {
  check(step > 0 && to >= from, "bounds", "needs from <= to and a positive step, got ", from, ", ", to, ", ", step);
  CurveTable table{{"s", "fitted", "target"}, {}};
  for (int64_t i = 0; from + static_cast<double>(i) * step <= to; ++i) {
    const double s = from + static_cast<double>(i) * step;
    const bool on_grid = s == std::floor(s) && s >= 0 && s < static_cast<double>(fit.targets.size());
    table.rows.push_back({s, attention_score(fit.h, base, s),
                          on_grid ? fit.targets[static_cast<size_t>(s)] : std::numeric_limits<double>::quiet_NaN()});
  }
  return table;
}

CurveTable coverage_table(const PositionSampler& sampler, int64_t window, int64_t target, int64_t points, int64_t draws,
                          uint64_t seed) {
  const auto* pose = sampler.config().get<PosePositions>();
  const bool code = pose && pose->variant == PoseVariant::code;
  check(pose && pose->chunks == 2 && (code || pose->variant == PoseVariant::paper), "coverage",
        "the exact formula is for PoSE with 2 chunks, variant paper or code");
  const int64_t l0_most = code ? std::min((window + 1) / 2, window - 1) : window - 1;
  const std::vector<double> exact = pose_coverage(window, target, l0_most);
  check(points >= 2, "coverage", "points must be at least 2, got ", points);
  std::vector<int64_t> distances;
  for (int64_t i = 0; i < points; ++i) {
    const int64_t r = 1 + i * (target - 2) / (points - 1);
    if (distances.empty() || r != distances.back()) distances.push_back(r);
  }
  const std::vector<double> simulated = simulate_coverage(sampler, window, target, distances, draws, seed);
  CurveTable table{{"r", "exact", "simulated", "three_sigma"}, {}};
  for (size_t i = 0; i < distances.size(); ++i) {
    const double p = exact[static_cast<size_t>(distances[i])];
    table.rows.push_back(
        {static_cast<double>(distances[i]), p, simulated[i], 3 * std::sqrt(p * (1 - p) / static_cast<double>(draws))});
  }
  return table;
}

}  // namespace rw
