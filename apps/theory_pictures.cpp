// `ropewalk theory pictures`: what every method chooses, one SVG each, for docs/methods.md. All are drawn for a head of
// 64 elements, a window of 512 and a target of 4096.
#include <cmath>
#include <cstdio>
#include <memory>

#include "common.h"
#include "plot.h"
#include "rope/kinds.h"
#include "rope/position_sets.h"
#include "rope/samplers.h"
#include "rope/scaling.h"
#include "tensor/file.h"
#include "tensor/printable.h"

using namespace rw;

namespace {

constexpr int64_t kHeadDim = 64, kWindow = 512, kTarget = 4096;
constexpr double kFactor = 8;
constexpr const char* kColours[] = {"#1f6fb2", "#c03d3d", "#2f8f4e", "#8a4fb0"};

RopeConfig recipe(RopeKind kind) {
  return {.head_dim = kHeadDim,
          .max_position_embeddings = kTarget,
          .original_max_position_embeddings = kWindow,
          .kind = std::move(kind)};
}

/// One curve: a recipe at a length of tokens.
struct Curve {
  std::string name;
  RopeConfig config;
  int64_t length = kTarget;
};

std::vector<double> inv_freq(const Curve& curve) {
  const auto scaling = make_rope_scaling(curve.config);
  Random random(1, Purpose::init, 0);
  std::vector<Var> parameters;  // CLEX's, as they are before training
  for (const ParameterSpec& spec : scaling->parameter_specs()) {
    const Tensor values = Tensor::zeros(spec.shape, DType::f32);
    spec.init(values, random);
    parameters.emplace_back(values);
  }
  if (!parameters.empty()) scaling->set_parameters(parameters);
  return scaling->table({.length = curve.length}).inv_freq.value().to_vector();
}

/// log2(theta'_i / theta_i) over the pair index, from `low` to 0.
std::string frequencies(const std::string& title, const std::vector<Curve>& curves, double low = -4) {
  const std::vector<double> base = base_inv_freq(curves[0].config);
  CurveTable table;
  for (size_t i = 0; i < base.size(); ++i) table.rows.push_back({static_cast<double>(i)});
  std::vector<Series> series;
  for (size_t k = 0; k < curves.size(); ++k) {
    const std::vector<double> theta = inv_freq(curves[k]);
    for (size_t i = 0; i < base.size(); ++i) {
      table.rows[i].push_back(
          std::max(low, std::log2(theta[i] / base[i])));  // a pair that stands still is at the bottom
    }
    series.push_back({curves[k].name, kColours[k], k + 1});
  }
  return svg({.title = title,
              .x_title = "pair i (fast to slow)",
              .y_title = "log2(theta' / theta)",
              .table = table,
              .series = series,
              .low = low,
              .high = 0,
              .right = kHeadDim / 2});
}

/// p(m) over m of three samples; every fourth token, as points, so that jumps show.
std::string positions(const std::string& title, PositionConfig config, uint64_t seed = 5) {
  if (config.find("max_factor")) config.set("max_factor", number_text(kFactor));
  SampleSpec spec;
  spec.seed = seed;
  spec.sample_ids = {0, 1, 2};
  spec.window = spec.original_window = kWindow;
  spec.target = kTarget;
  spec.document_lengths.assign(3, 10 * kTarget);
  const PositionBatch batch = make_position_sampler(config)->sample(spec);
  const float* p = batch.positions.data<float>();  // [3, T]
  CurveTable table;
  for (int64_t m = 0; m < kWindow; m += 4) {
    std::vector<double> row = {static_cast<double>(m)};
    for (int64_t b = 0; b < 3; ++b) row.push_back(p[b * kWindow + m]);
    table.rows.push_back(row);
  }
  std::vector<Series> series;
  for (size_t b = 0; b < 3; ++b) {
    char name[40];
    if (config.find("max_factor")) {
      std::snprintf(name, sizeof name, "factor %.0f", batch.t[b]);
    } else {
      std::snprintf(name, sizeof name, "sample %zu", b + 1);
    }
    series.push_back({.name = name, .colour = kColours[b], .column = b + 1, .points = true});
  }
  const bool within = config.is<E2Positions>();  // E2-LLM stays inside the window
  return svg({.title = title,
              .x_title = "token m",
              .y_title = "position p(m)",
              .table = table,
              .series = series,
              .low = 0,
              .high = static_cast<double>(within ? kWindow : kTarget),
              .right = kWindow});
}

/// Log-n attention's factor over the token index.
std::string query_scales() {
  RopeConfig by_position = recipe(LinearRope{.factor = kFactor}), constant = by_position;
  by_position.logn = LogN::position, constant.logn = LogN::constant;
  const auto scaling = make_rope_scaling(by_position), other = make_rope_scaling(constant);
  const std::vector<float> all = scaling->query_scale(0, kTarget);
  CurveTable table;
  for (int64_t m = 0; m < kTarget; m += 16) {
    table.rows.push_back({static_cast<double>(m), all[static_cast<size_t>(m)], other->query_scale(m, 1)[0]});
  }
  return svg({.title = "Log-n attention, L = 512",
              .x_title = "token m, decoded one by one",
              .y_title = "factor of the query",
              .table = table,
              .series = {{"constant", kColours[1], 2}, {"position", kColours[0], 1}},
              .low = 0,
              .high = 1.6,
              .line = 1,
              .right = kTarget});
}

/// The distance at which the query at the last token of three lengths meets every key, as points.
std::string distances(const std::string& title, const RopeConfig& config) {
  const auto scaling = make_rope_scaling(config);
  const auto& sets = dynamic_cast<const PositionSetScaling&>(*scaling);
  const std::vector<int64_t> queries = {kTarget - 1, kTarget / 2 - 1, kTarget / 4 - 1};
  CurveTable table;
  for (int64_t n = 0; n < kTarget; n += 16) {
    std::vector<double> row = {static_cast<double>(n)};
    for (const int64_t m : queries) {
      std::vector<KeyRange> ranges;
      sets.key_ranges(m, ranges);
      double distance = NAN;  // a later token
      for (const KeyRange& r : ranges) {
        if (n >= r.begin && n < r.end)
          distance = static_cast<double>(sets.query_position(r.set, m) - sets.key_position(r.set, n));
      }
      row.push_back(distance);
    }
    table.rows.push_back(row);
  }
  std::vector<Series> series;
  for (size_t i = 0; i < queries.size(); ++i)
    series.push_back({.name = cat("query ", queries[i]), .colour = kColours[i], .column = i + 1, .points = true});
  return svg({.title = title,
              .x_title = "key n",
              .y_title = "distance under RoPE",
              .table = table,
              .series = series,
              .low = 0,
              .high = 768,
              .line = kWindow,
              .right = kTarget});
}

std::vector<Curve> by_length(const RopeConfig& config, const std::vector<int64_t>& lengths) {
  std::vector<Curve> curves;
  for (const int64_t n : lengths) curves.push_back({cat("n = ", n), config, n});
  return curves;
}

void pictures(const std::string& out) {
  make_folder("theory", out);
  const auto save = [&](const std::string& name, const std::string& text) {
    write_file_atomic(out + "/" + name + ".svg", text);
  };

  LongRope longrope{.factor = kFactor};
  for (int64_t i = 0; i < kHeadDim / 2; ++i) {
    longrope.short_factor.push_back(1);
    longrope.long_factor.push_back(std::pow(kFactor, 2.0 * static_cast<double>(i) / (kHeadDim - 2)));
  }
  const RopeConfig linear = recipe(LinearRope{.factor = kFactor}), ntk = recipe(NtkRope{.factor = kFactor}),
                   yarn = recipe(YarnRope{.factor = kFactor}),
                   revised = recipe(YarnRope{.factor = kFactor, .variant = YarnVariant::revised}),
                   clex = recipe(ClexRope{}), paper = recipe(ClexRope{.prior = ClexPrior::paper});
  save("linear", frequencies("Linear (PI), factor 8", {{"linear", linear}}));
  save("ntk", frequencies("NTK-aware, factor 8", {{"ntk", ntk}, {"linear", linear}}));
  save("dynamic", frequencies("Dynamic NTK, factor 2, at growing lengths n",
                              by_length(recipe(DynamicRope{.factor = 2}), {512, 1024, 2048, 4096})));
  save("dynamic_linear", frequencies("Dynamic linear, at growing lengths n",
                                     by_length(recipe(DynamicLinearRope{}), {512, 1024, 2048, 4096})));
  save("yarn", frequencies("YaRN, factor 8", {{"paper", yarn}, {"revised", revised}}));
  save("llama3", frequencies("Llama 3, factor 8", {{"llama3", recipe(Llama3Rope{.factor = kFactor})}}));
  save("longrope", frequencies("LongRoPE, short and long divisors (example: NTK's)",
                               {{"n up to 512", recipe(longrope), kWindow}, {"longer", recipe(longrope), kTarget}}));
  save("abf",
       frequencies(
           "ABF", {{"base 500000", recipe(AbfRope{.base = 5e5})}, {"base 1000000", recipe(AbfRope{.base = 1e6})}}, -8));
  save("e2",
       frequencies("E2-LLM at inference, at growing lengths n", by_length(recipe(E2Rope{}), {512, 1024, 2048, 4096})));
  save("clex", frequencies("CLEX before training", {{"t = 2", clex, 2 * kWindow},
                                                    {"t = 4", clex, 4 * kWindow},
                                                    {"t = 8", clex, kTarget},
                                                    {"t = 8, the paper's prior", paper, kTarget}}));

  save("pose", positions("PoSE, 512 to 4096", PosePositions{}));
  save("pose-3-chunks", positions("PoSE with three chunks, 512 to 4096", PosePositions{.chunks = 3}));
  save("pose-code",
       positions("PoSE as published code draws it, 512 to 4096", PosePositions{.variant = PoseVariant::code}));
  save("pose-v1", positions("PoSE, first release, 512 to 4096", PosePositions{.variant = PoseVariant::v1}));
  save("pose-cream", positions("CREAM-style, 512 to 4096", PosePositions{.variant = PoseVariant::cream}, 3));
  save("randpos", positions("RandPos, 512 to 4096", RandPosPositions{}));
  save("e2-positions", positions("E2-LLM in training, window 512, largest factor 8", E2Positions{}));
  save("clex-positions", positions("CLEX in training, window 512, largest factor 8", ClexPositions{}));
  save("logn", query_scales());
  save("resonance", frequencies("Resonance RoPE, factor 8",
                                {{"of YaRN", recipe(ResonanceRope{.factor = kFactor})}, {"YaRN", yarn}}));
  save("proportional",
       frequencies("p-RoPE, shares 0.75 and 0.25",
                   {{"0.75", recipe(ProportionalRope{})}, {"0.25", recipe(ProportionalRope{.share = 0.25})}}));
  save("self_extend", distances("Self-Extend, G = 8, w = 256", recipe(SelfExtendRope{.group = 8, .neighbours = 256})));
  save("dca", distances("Dual Chunk Attention, c = 512, s = 384", recipe(DcaRope{})));
  std::printf("23 pictures in %s\n", printable(out).c_str());
}

}  // namespace

void add_theory_pictures(CLI::App& theory) {
  const auto out = std::make_shared<std::string>("out/theory");
  CLI::App* sub = theory.add_subcommand("pictures", "Frequencies or positions of every method, one SVG each");
  sub->add_option("--out", *out, "folder for SVG files")->capture_default_str();
  sub->callback([out] { pictures(*out); });
}
