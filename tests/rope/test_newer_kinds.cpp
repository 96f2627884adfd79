// Resonance RoPE, p-RoPE, NoPE, scalable softmax, Self-Extend and Dual Chunk Attention: values of published code and
// closed forms, recipes in config.json, refusals.
#include <doctest/doctest.h>

#include <cmath>

#include "rope/extend.h"
#include "rope/freeze.h"
#include "rope/kinds.h"
#include "rope/position_sets.h"
#include "rope/samplers.h"
#include "support.h"

using namespace rw;

namespace {

RopeConfig config(RopeKind kind) {
  return {.head_dim = 16,
          .max_position_embeddings = 2048,
          .original_max_position_embeddings = 512,
          .kind = std::move(kind)};
}

std::vector<double> theta(const RopeConfig& c) { return make_rope_scaling(c)->table({}).inv_freq.value().to_vector(); }

void check_close(const std::vector<double>& got, const std::vector<double>& want, double tolerance) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i] == doctest::Approx(want[i]).epsilon(tolerance));
  }
}

RopeConfig read(const std::string& recipe) {
  return rope_config_from_json(cat(R"({"head_dim":16,"max_position_embeddings":2048,"rope_scaling":)", recipe, "}"));
}

/// What a pair of tokens meets at: the set whose range holds the key, and the distance of the positions there.
int64_t distance(const PositionSetScaling& s, int64_t m, int64_t n) {
  std::vector<KeyRange> ranges;
  s.key_ranges(m, ranges);
  for (const KeyRange& r : ranges) {
    if (n >= r.begin && n < r.end) return s.query_position(r.set, m) - s.key_position(r.set, n);
  }
  return -1;
}

}  // namespace

TEST_CASE("Resonance RoPE's frequencies are those of the published rounding, over plain RoPE and over YaRN") {
  check_close(theta(config(ResonanceRope{.of = ResonanceOf::plain})),
              {1.0471975511965976, 0.3141592653589793, 0.09973310011396169, 0.03157379551346526, 0.010005072145190424,
               0.0031621466065322526, 0.0010000294934234578, 0.00031623057562935156},
              1e-12);
  const RopeConfig yarn = config(ResonanceRope{.factor = 4});
  check_close(theta(yarn),
              {1.0471975511965976, 0.2617993877991494, 0.062209755516629564, 0.013839615214051953,
               0.0025002727048068388, 0.0007905366516330632, 0.0002499974259809647, 7.905664918378382e-05},
              1e-12);
  CHECK(make_rope_scaling(yarn)->table({}).attention_scale == doctest::Approx(1.138629436111989));
  for (const double x : theta(yarn)) {
    const double wavelength = 6.283185307179586 / x;
    CHECK(std::abs(wavelength - std::round(wavelength)) < 1e-6 * wavelength);
  }
  CHECK(test::error_of([] {
          make_rope_scaling(config(ResonanceRope{.factor = 4, .of = ResonanceOf::plain}));
        }).find("resonance_of default extends nothing") != std::string::npos);
  CHECK(extend_rope(RopeConfig{.head_dim = 16, .max_position_embeddings = 512}, ResonanceRope{}, 2048).kind ==
        ResonanceRope{.factor = 4});
}

TEST_CASE("p-RoPE's frequencies are transformers' \"proportional\": the fastest share turns, the others stand still") {
  check_close(theta(config(ProportionalRope{.share = 0.3, .factor = 2})), {0.5, 0.15811388194561005, 0, 0, 0, 0, 0, 0},
              1e-6);
  check_close(theta(config(ProportionalRope{})),
              {1, 0.3162277638912201, 0.1, 0.03162277862429619, 0.01, 0.003162277862429619, 0, 0}, 1e-6);
  CHECK(theta(config(ProportionalRope{.share = 1})) == theta(config(DefaultRope{})));
  const RopeConfig c = read(R"({"rope_type":"proportional","partial_rotary_factor":0.25})");
  CHECK(c.kind == ProportionalRope{.share = 0.25});
  CHECK(c.partial_rotary_factor == 1);
  CHECK(c.rotary_dim() == 16);
  CHECK(test::error_of([] { read(R"({"rope_type":"proportional"})"); }).find("partial_rotary_factor is missing") !=
        std::string::npos);
  CHECK(test::error_of([] {
          freeze_rope(*make_rope_scaling(config(ProportionalRope{})), 4096);
        }).find("a divisor cannot express it") != std::string::npos);
}

TEST_CASE("NoPE turns nothing, and DroPE samples the original window for it") {
  const auto scaling = make_rope_scaling(config(NopeRope{.factor = 4, .attention_factor = 1.1}));
  CHECK(scaling->table({}).inv_freq.value().to_vector() == std::vector<double>(8, 0.0));
  CHECK(scaling->table({}).attention_scale == 1.1);
  CHECK_FALSE(scaling->depends_on_length());
  SampleSpec spec;
  spec.seed = 3;
  spec.sample_ids = {0, 1};
  spec.window = spec.original_window = 32;
  spec.target = 128;
  spec.document_lengths = {500, 500};
  const auto sampler = make_position_sampler(DropePositions{});
  const PositionBatch batch = sampler->sample(spec);
  CHECK(batch.positions.data<float>()[31] == 31);
  CHECK(batch.content[0].size() == 1);
  CHECK(position_sampler("drope").scaling() == "nope");
}

TEST_CASE("Scalable softmax scales queries by ln n / ln L on both sides of L, the same in prefill and in decoding") {
  RopeConfig c = config(DefaultRope{});
  c.logn = LogN::ssmax;
  const auto scaling = make_rope_scaling(c);
  const std::vector<float> scale = scaling->query_scale(0, 2048);
  CHECK(scale[0] == 0);
  CHECK(scale[15] == doctest::Approx(std::log(16.0) / std::log(512.0)));
  CHECK(scale[511] == 1);
  CHECK(scale[2047] == doctest::Approx(std::log(2048.0) / std::log(512.0)));
  CHECK(scaling->query_scale(700, 1)[0] == scale[700]);
  const RopeConfig back = read(R"({"rope_type":"default","logn_scaling":"ssmax"})");
  CHECK(back.logn == LogN::ssmax);
  CHECK(rope_scaling_to_json(back).find("\"ssmax\"") != std::string::npos);
}

TEST_CASE("Self-Extend: near keys at their own distance, far keys by group, and all below the window") {
  const int64_t group = 8, near = 64;
  const auto scaling = make_rope_scaling(config(SelfExtendRope{.group = group, .neighbours = near}));
  const auto& s = dynamic_cast<const PositionSetScaling&>(*scaling);
  for (int64_t m = 0; m < 2048; m += 7) {
    for (int64_t n = 0; n <= m; n += 3) {
      const int64_t want = m - n < near ? m - n : m / group - n / group + near - near / group;
      CHECK(distance(s, m, n) == want);
    }
  }
  CHECK(distance(s, 2047, 0) < 512);
  CHECK(s.plain_up_to(64));
  CHECK_FALSE(s.plain_up_to(65));
  const RopeConfig back = read(R"({"rope_type":"self_extend","group":4,"neighbours":128})");
  CHECK(back.kind == SelfExtendRope{.group = 4, .neighbours = 128});
  CHECK_FALSE(back.kind.trained());
  CHECK(test::error_of([] {
          make_rope_scaling(config(SelfExtendRope{.neighbours = 600}));
        }).find("neighbours must be at most the window of pre-training, 512") != std::string::npos);
  CHECK(test::error_of([&] { freeze_rope(*scaling, 1024); }).find("several positions") != std::string::npos);
}

TEST_CASE("Dual Chunk Attention: the paper's example of twelve tokens, chunks of six and a window of ten") {
  RopeConfig c = config(DcaRope{.chunk = 6});
  c.original_max_position_embeddings = 10;
  const auto scaling = make_rope_scaling(c);
  const auto& s = dynamic_cast<const PositionSetScaling&>(*scaling);
  const int64_t successive[] = {6, 7, 8, 9, 9, 9};
  for (int64_t m = 6; m < 12; ++m) {
    CHECK(s.query_position(0, m) == m - 6);
    CHECK(s.query_position(1, m) == successive[m - 6]);
    CHECK(s.query_position(2, m) == 9);
    CHECK(distance(s, m, m) == 0);
    CHECK(distance(s, m, 0) == successive[m - 6]);
  }
  CHECK(distance(s, 6, 5) == 1);   // neighbours stay neighbours across the border of two chunks
  CHECK(distance(s, 12, 0) == 9);  // an earlier chunk: c - 1
  for (int64_t m = 0; m < 60; ++m) {
    for (int64_t n = 0; n <= m; ++n) {
      CHECK(distance(s, m, n) >= 0);
      CHECK(distance(s, m, n) < 10);
    }
  }
  CHECK(s.plain_up_to(6));
  CHECK_FALSE(s.plain_up_to(7));
  CHECK(test::error_of([] { make_rope_scaling(config(DcaRope{.chunk = 513})); }).find("chunk must be at most") !=
        std::string::npos);
  const auto usual = make_rope_scaling(config(DcaRope{}));
  CHECK(dynamic_cast<const PositionSetScaling&>(*usual).plain_up_to(384));
}
