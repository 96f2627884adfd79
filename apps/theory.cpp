// `ropewalk theory bound|coverage|pictures`: PI's theorem and PoSE's coverage, in numbers and pictures; the pictures of
// docs/methods.md are drawn in theory_pictures.cpp.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "common.h"
#include "plot.h"
#include "rope/bounds.h"
#include "rope/samplers.h"
#include "tensor/file.h"
#include "tensor/printable.h"

using namespace rw;

namespace {

struct Options {
  std::string out = "out/theory";
  int64_t d = 128, window = 2048, target = 4096, draws = 20000, chunks = 2;
  double base = 10000;
  std::string variant = "paper";
  uint64_t seed = 1;
};

void bound(const Options& o) {
  make_folder("theory", o.out);
  const CurveTable curve = bound_table(o.d, o.base, o.target);
  const auto least =
      std::min_element(curve.rows.begin(), curve.rows.end(), [](const auto& a, const auto& b) { return a[1] < b[1]; });
  const CounterExample example = interpolation_counter_example(o.d, o.base, 0);
  const double printed = printed_interpolation_bound(o.d, o.base, 0, 1, 0.5),
               corrected = corrected_interpolation_bound(o.d, o.base, 0, 1, 0.5);
  const double extrapolation = 2 * (*least)[1] * static_cast<double>(o.d);
  std::printf("d %lld  base %g  distances 0 to %lld; all bounds divided by max|h|\n", static_cast<long long>(o.d),
              o.base, static_cast<long long>(o.target - 1));
  std::printf("  smallest B(s)/d                                %10.4f   at s = %.0f\n", (*least)[1], (*least)[0]);
  std::printf("  interpolation bound, halfway, as printed       %10.4f   (theorem 2.1)\n", printed);
  std::printf("  interpolation bound, halfway, corrected        %10.4f\n", corrected);
  std::printf(
      "  error of the counter-example                   %10.4f   above the printed bound: %s; above the corrected one: "
      "%s\n",
      example.error, example.error > example.printed ? "yes" : "no", example.error > example.corrected ? "yes" : "no");
  std::printf("  extrapolation / interpolation, printed         %9.1fx   (the paper says about 600x)\n",
              extrapolation / printed);
  std::printf("  extrapolation / interpolation, corrected       %9.1fx\n", extrapolation / corrected);
  double high = 4;
  write_file_atomic(o.out + "/figure5.csv", curve.csv());
  write_file_atomic(o.out + "/figure5.svg", svg({"Extrapolation bound B(s)/d (PI, figure 5)",
                                                 "relative distance s",
                                                 "B(s)/d",
                                                 curve,
                                                 {{"B(s)/d", "#1f6fb2", 1}},
                                                 0,
                                                 high,
                                                 1.0}));
  const ScoreFit fit = fit_random_scores(o.d, o.base, o.window, o.seed);
  const CurveTable far = fit_table(fit, o.base, 0, static_cast<double>(2 * o.window), 1),
                   near = fit_table(fit, o.base, 25, 75, 0.125);
  double largest = 0;
  for (const auto& row : far.rows) largest = std::max(largest, std::abs(row[1]));
  std::printf(
      "  largest |a(s)| of a fit to noise, extrapolated %10.1f   (within the window it fits values of about 1)\n",
      largest);
  write_file_atomic(o.out + "/figure2-extrapolation.csv", far.csv());
  write_file_atomic(o.out + "/figure2-interpolation.csv", near.csv());
  write_file_atomic(o.out + "/figure2-extrapolation.svg",
                    svg({"A score fitted on the window, extrapolated (PI, figure 2)",
                         "relative distance s",
                         "a(s)",
                         far,
                         {{"a(s)", "#c03d3d", 1}},
                         -largest,
                         largest}));
  write_file_atomic(o.out + "/figure2-interpolation.svg",
                    svg({"The same score between integers (PI, figure 2)",
                         "relative distance s",
                         "a(s)",
                         near,
                         {{"a(s)", "#1f6fb2", 1}, {"fitted values", "#444", 2, true}},
                         -3.5,
                         3.5}));
  std::printf("figures and tables in %s\n", printable(o.out).c_str());
}

void coverage(const Options& o) {
  make_folder("theory", o.out);
  check(o.chunks == 2, "theory", "the exact coverage is for two chunks, got ", o.chunks);
  PositionConfig config = PosePositions{};
  config.set("pose_variant", o.variant);
  const auto sampler = make_position_sampler(config);
  const CurveTable table = coverage_table(*sampler, o.window, o.target, 64, o.draws, o.seed);
  std::printf("PoSE (%s), window %lld, target %lld, %lld draws\n%10s %12s %12s %12s\n", o.variant.c_str(),
              static_cast<long long>(o.window), static_cast<long long>(o.target), static_cast<long long>(o.draws),
              "distance", "exact", "simulated", "3 sigma");
  int64_t outside = 0;
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const auto& r = table.rows[i];
    outside += std::abs(r[1] - r[2]) > r[3] + 1e-12;
    if (i % 8 == 0 || i + 1 == table.rows.size()) std::printf("%10.0f %12.5f %12.5f %12.5f\n", r[0], r[1], r[2], r[3]);
  }
  std::printf("%lld of %zu distances outside 3 sigma\n", static_cast<long long>(outside), table.rows.size());
  write_file_atomic(o.out + "/coverage.csv", table.csv());
  write_file_atomic(o.out + "/coverage.svg",
                    svg({cat("Coverage of relative distances by PoSE, ", o.window, " to ", o.target),
                         "relative distance r",
                         "probability in one sample",
                         table,
                         {{"exact", "#1f6fb2", 1}, {"simulated", "#c03d3d", 2, true}},
                         0,
                         1}));
  std::printf("picture and table in %s\n", printable(o.out).c_str());
}

}  // namespace

void add_theory(CLI::App& app, Globals&) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub =
      app.add_subcommand("theory", "PI's bounds, PoSE's coverage and every method's choice, in numbers and pictures");
  sub->require_subcommand(1);
  CLI::App* b = sub->add_subcommand(
      "bound", "Extrapolation and interpolation bounds of PI, printed and corrected, and its figures 2 and 5");
  b->add_option("--head-dim", o.d, "d")->capture_default_str();
  b->add_option("--base", o.base, "c, RoPE's base")->capture_default_str();
  b->add_option("--window", o.window, "distances that figure 2 is fitted on")->capture_default_str();
  b->add_option("--distances", o.target, "distances of figure 5")->check(CLI::Range(2, 1 << 24))->capture_default_str();
  b->add_option("--seed", o.seed, "of figure 2's noise")->capture_default_str();
  b->add_option("--out", o.out, "folder for SVG and CSV files")->capture_default_str();
  b->callback([options] { bound(*options); });
  CLI::App* c = sub->add_subcommand(
      "coverage", "Probability that PoSE shows a relative distance in one sample, exact and simulated");
  c->add_option("--window", o.window, "training window")->capture_default_str();
  c->add_option("--target", o.target, "window to extend to")->capture_default_str();
  c->add_option("--variant", o.variant, "paper or code")->capture_default_str();
  c->add_option("--draws", o.draws, "simulated samples")->check(CLI::PositiveNumber)->capture_default_str();
  c->add_option("--seed", o.seed, "of the simulation")->capture_default_str();
  c->add_option("--out", o.out, "folder for SVG and CSV files")->capture_default_str();
  c->callback([options] { coverage(*options); });
  add_theory_pictures(*sub);
}
