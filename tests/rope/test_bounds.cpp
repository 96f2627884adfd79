// PI's theorem and PoSE's coverage: the numbers of METHODS 2.2 and 3.3.
#include <algorithm>
#include <cmath>

#include "rope/bounds.h"
#include "support.h"

using namespace rw;

namespace {

std::vector<std::complex<double>> random_scores(Random& random, int64_t pairs) {
  std::vector<std::complex<double>> h;
  for (int64_t j = 0; j < pairs; ++j) h.emplace_back(random.normal(), random.normal());
  double largest = 0;
  for (const auto& x : h) largest = std::max(largest, std::abs(x));
  for (auto& x : h) x /= largest;
  return h;
}

}  // namespace

TEST_CASE("B(s)/d takes the reference values and has its minimum 1.1159 at s = 3643") {
  for (const auto& [s, want] :
       std::vector<std::pair<double, double>>{{0, 16.250}, {1, 15.769}, {1024, 2.012}, {2048, 1.809}, {4095, 2.582}}) {
    CHECK(extrapolation_bound(128, 1e4, s) / 128 == doctest::Approx(want).epsilon(5e-4));
  }
  const CurveTable table = bound_table(128, 1e4, 4096);
  const auto least =
      std::min_element(table.rows.begin(), table.rows.end(), [](auto& a, auto& b) { return a[1] < b[1]; });
  CHECK((*least)[0] == 3643);
  CHECK((*least)[1] == doctest::Approx(1.1159).epsilon(5e-5));
  // "B >= d" fails for small heads: 12 % of the distances at d = 32
  const CurveTable small = bound_table(32, 1e4, 512);
  CHECK(std::count_if(small.rows.begin(), small.rows.end(), [](auto& r) { return r[1] < 1; }) == 63);
}

TEST_CASE("The printed interpolation bound is violated by an explicit h, the corrected one is not") {
  for (const auto& [d, error, printed, corrected] : std::vector<std::tuple<int64_t, double, double, double>>{
           {128, 0.4939, 0.4343, 0.4998}, {64, 0.2818, 0.2171, 0.2856}, {32, 0.1799, 0.1086, 0.1828}}) {
    const CounterExample c = interpolation_counter_example(d, 1e4, 17);
    CHECK(c.error == doctest::Approx(error).epsilon(2e-4));
    CHECK(c.printed == doctest::Approx(printed).epsilon(2e-4));
    CHECK(c.corrected == doctest::Approx(corrected).epsilon(3e-4));
    CHECK(c.error > c.printed);
    CHECK(c.error <= c.corrected);
  }
}

TEST_CASE("The corrected interpolation bound holds in 100 000 random trials, and so does the extrapolation bound") {
  Random random(1, Purpose::test);
  int64_t interpolation = 0, extrapolation = 0;
  double closest = 0;
  for (int trial = 0; trial < 100000; ++trial) {
    const int64_t d = 2 * random.between(1, 32);
    const double base = std::exp(random.uniform() * 10 + 1);
    // Half of the trials perturb the worst case, so that the bound is approached
    std::vector<std::complex<double>> h = random_scores(random, d / 2);
    const double s1 = static_cast<double>(random.below(1000)), s = s1 + random.uniform();
    if (trial % 2 == 0) {
      for (int64_t j = 0; j < d / 2; ++j) {
        h[static_cast<size_t>(j)] =
            std::polar(1.0, -(s + 0.05 * random.normal()) * std::pow(base, -2.0 * double(j) / double(d)));
      }
    }
    const double bound = corrected_interpolation_bound(d, base, s1, s1 + 1, s);
    const double error = std::abs(interpolation_error(h, base, s1, s1 + 1, s));
    interpolation += error > bound * (1 + 1e-9) + 1e-12;
    if (bound > 1e-3) closest = std::max(closest, error / bound);
    extrapolation += std::abs(attention_score(h, base, s)) > 2 * extrapolation_bound(d, base, s) * (1 + 1e-9);
  }
  CHECK(interpolation == 0);
  CHECK(extrapolation == 0);
  CHECK(closest > 0.9);  // the trials do come near
}

TEST_CASE("A fit to random scores stays near its targets inside the window and explodes beyond") {
  const ScoreFit fit = fit_random_scores(128, 1e4, 2048, 3);
  double inside = 0, beyond = 0, between = 0;
  for (const auto& row : fit_table(fit, 1e4, 0, 2047, 1).rows) inside = std::max(inside, std::abs(row[1]));
  for (const auto& row : fit_table(fit, 1e4, 2048, 4095, 1).rows) beyond = std::max(beyond, std::abs(row[1]));
  for (const auto& row : fit_table(fit, 1e4, 25, 75, 0.125).rows) between = std::max(between, std::abs(row[1]));
  CHECK(inside < 5);
  CHECK(between < 5);
  CHECK(beyond > 1000);
  CHECK(fit_table(fit, 1e4, 25, 26, 0.5).csv().starts_with("s,fitted,target\n25,"));
}

TEST_CASE("The least-squares fit beats any small change of its coefficients") {
  const ScoreFit fit = fit_random_scores(16, 1e4, 64, 3);
  const auto loss = [&](const ScoreFit& f) {
    double sum = 0;
    for (size_t s = 0; s < f.targets.size(); ++s)
      sum += std::pow(attention_score(f.h, 1e4, double(s)) - f.targets[s], 2);
    return sum;
  };
  for (size_t j = 0; j < fit.h.size(); ++j) {
    for (const std::complex<double> step : {std::complex<double>(1e-2, 0), {-1e-2, 0}, {0, 1e-2}, {0, -1e-2}}) {
      ScoreFit changed = fit;
      changed.h[j] += step * std::abs(fit.h[j]);
      CHECK(loss(changed) >= loss(fit));
    }
  }
}

TEST_CASE("PoSE's coverage formula takes the reference values") {
  const auto near = [](double got, double want) { CHECK(std::abs(got - want) < 5.1e-5); };
  const std::vector<double> p = pose_coverage(2048, 16384, 2047);
  near(p[1], 1.0), near(p[1024], 0.9995), near(p[1536], 0.5529), near(p[9216], 0.1428), near(p[15360], 0.0714),
      near(p[16256], 0.0089);
  const std::vector<double> small = pose_coverage(256, 1024, 255);
  near(small[128], 0.9967), near(small[640], 0.3316), near(small[896], 0.1664), near(small[1023], 0.0013);
  const std::vector<double> code = pose_coverage(512, 4096, 256);
  near(code[256], 0.9964), near(code[384], 0.5501), near(code[3840], 0.0714);
  CHECK(small[640] == doctest::Approx(255.0 / 769));  // (Lc - 1) / (S + 1)
  CHECK(p[0] == 1.0);
}

TEST_CASE("Bad arguments of the theory are refused") {
  const auto error = [](auto&& f) { return test::error_of(f); };
  CHECK(error([] { extrapolation_bound(7, 1e4, 0); }).find("d must be even") != std::string::npos);
  CHECK(error([] { extrapolation_bound(8, 1, 0); }).find("base must be above 1") != std::string::npos);
  CHECK(error([] { printed_interpolation_bound(8, 0.5, 0, 1, 0.5); }).find("base") != std::string::npos);
  CHECK(error([] { corrected_interpolation_bound(8, 1e4, 1, 0, 0.5); }).find("s1 <= s <= s2") != std::string::npos);
  CHECK(error([] { fit_random_scores(8, 1e4, 0, 1); }).find("window") != std::string::npos);
  CHECK(error([] { fit_table({}, 1e4, 0, 1, 0); }).find("positive step") != std::string::npos);
  CHECK(error([] { pose_coverage(1, 4, 1); }).find("window") != std::string::npos);
  CHECK(error([] { pose_coverage(8, 4, 1); }).find("target") != std::string::npos);
  CHECK(error([] { pose_coverage(8, 16, 8); }).find("l0_most") != std::string::npos);
  CHECK(error([] { simulate_coverage(*make_position_sampler({}), 4, 4, {1}, 0, 1); }).find("draws") !=
        std::string::npos);
  CHECK(error([] { coverage_table(*make_position_sampler({}), 4, 8, 3, 10, 1); }).find("exact formula") !=
        std::string::npos);
}
