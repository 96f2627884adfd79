// Position samplers: bounds, order, coverage, content, and draws that do not depend on who makes them.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "rope/bounds.h"
#include "rope/samplers.h"
#include "support.h"

using namespace rw;

namespace {

PositionConfig config(const std::string& kind) { return position_sampler(kind); }

/// Every sampler with every option that changes what it draws.
std::vector<std::pair<std::string, PositionConfig>> all_samplers() {
  return {
      {"contiguous", ContiguousPositions{}},
      {"pose", PosePositions{}},
      {"pose code", PosePositions{.variant = PoseVariant::code}},
      {"pose v1", PosePositions{.variant = PoseVariant::v1}},
      {"pose 3", PosePositions{.chunks = 3}},
      {"pose 1", PosePositions{.chunks = 1}},
      {"cream", PosePositions{.variant = PoseVariant::cream}},
      {"randpos", RandPosPositions{}},
      {"e2", E2Positions{}},
      {"clex", ClexPositions{}},
      {"pose zero", PosePositions{.content = PoseContent::zero}},
      {"pose same", PosePositions{.content = PoseContent::same}},
      {"pose whole document", PosePositions{.content_windows = 0, .random_start = false}},
      {"cream thirds", PosePositions{.variant = PoseVariant::cream, .cream_mode = CreamMode::relativity}},
      {"cream edges",
       PosePositions{.variant = PoseVariant::cream, .cream_mode = CreamMode::continuity, .cream_edge = 4}},
      {"e2 per step", E2Positions{.per_step = true}},
      {"e2 without g", E2Positions{.fixed_g = true}},
      {"e2 without t", E2Positions{.fixed_t = true}},
      {"clex continuous", ClexPositions{.continuous_t = true}},
      {"clex multiply", ClexPositions{.continuous_t = true, .spread = ClexSpread::multiply}},
      {"clex skip", ClexPositions{.continuous_t = true, .spread = ClexSpread::skip}},
      {"clex per step", ClexPositions{.per_step = true}},
  };
}

SampleSpec spec(int64_t batch, int64_t window = 32, int64_t target = 128, int64_t document = 400) {
  SampleSpec s;
  s.seed = 7, s.step = 3, s.window = window, s.target = target, s.original_window = 32;
  for (int64_t b = 0; b < batch; ++b) s.sample_ids.push_back(b), s.document_lengths.push_back(document);
  return s;
}

const float* row(const PositionBatch& b, int64_t i) { return b.positions.data<float>() + i * b.positions.size(1); }

}  // namespace

TEST_CASE("No sampler places a token at or beyond its limit, and positions and text always increase") {
  for (const auto& [name, c] : all_samplers()) {
    CAPTURE(name);
    const auto sampler = make_position_sampler(c);
    for (const int64_t document : {400, 33, 32, 31, 5, 1}) {
      const SampleSpec s = spec(200, 32, 128, document);
      const PositionBatch batch = sampler->sample(s);
      int64_t falling = 0, outside = 0, text = 0;
      for (int64_t b = 0; b < 200; ++b) {
        const float* p = row(batch, b);
        const double t = batch.t[static_cast<size_t>(b)];
        const double limit = c.is<ClexPositions>()                                ? 32 * t
                             : c.is<ContiguousPositions>() || c.is<E2Positions>() ? 32
                                                                                  : 128;
        for (int64_t m = 0; m < 32; ++m) {
          falling += m > 0 && p[m] <= p[m - 1];
          outside += p[m] < 0 || p[m] >= limit;
        }
        int64_t shown = 0, end = 0;
        for (const Span& span : batch.content[static_cast<size_t>(b)]) {
          text += span.begin < end || span.length < 1 || span.begin + span.length > document;
          end = span.begin + span.length;
          shown += span.length;
        }
        text += shown != std::min<int64_t>(32, document);
      }
      CAPTURE(document);
      CHECK(falling == 0);
      CHECK(outside == 0);
      CHECK(text == 0);
    }
  }
}

TEST_CASE("A sample's draw depends on seed, step and id alone, not on the batch it is drawn in") {
  for (const auto& [name, c] : all_samplers()) {
    CAPTURE(name);
    const auto sampler = make_position_sampler(c);
    const PositionBatch whole = sampler->sample(spec(12));
    for (const int64_t workers : {2, 3, 12}) {
      for (int64_t w = 0; w < workers; ++w) {
        SampleSpec part = spec(0);
        for (int64_t id = w; id < 12; id += workers)
          part.sample_ids.push_back(id), part.document_lengths.push_back(400);
        const PositionBatch some = sampler->sample(part);
        for (size_t i = 0; i < part.sample_ids.size(); ++i) {
          const auto id = part.sample_ids[i];
          REQUIRE(std::equal(row(some, int64_t(i)), row(some, int64_t(i)) + 32, row(whole, id)));
          REQUIRE(some.content[i] == whole.content[size_t(id)]);
          REQUIRE(some.t[i] == whole.t[size_t(id)]);
        }
      }
    }
    if (c.is<ContiguousPositions>() || name == "pose 1" || name == "e2 without t") continue;
    SampleSpec other = spec(12);
    other.step = 4;
    CHECK(sampler->sample(other).positions.to_vector() != whole.positions.to_vector());
    other = spec(12);
    other.seed = 8;
    CHECK(sampler->sample(other).positions.to_vector() != whole.positions.to_vector());
  }
}

TEST_CASE("PoSE covers every distance as often as the exact formula says, within 3 sigma of 100 000 draws") {
  const std::vector<int64_t> distances = {1, 20, 32, 40, 48, 63, 64, 128, 192, 193, 220, 250, 255};
  for (const PoseVariant variant : {PoseVariant::paper, PoseVariant::code}) {
    CAPTURE(static_cast<int>(variant));
    const auto sampler = make_position_sampler(PosePositions{.variant = variant});
    const std::vector<double> exact = pose_coverage(64, 256, variant == PoseVariant::code ? 32 : 63);
    const std::vector<double> got = simulate_coverage(*sampler, 64, 256, distances, 100000, 11);
    for (size_t i = 0; i < distances.size(); ++i) {
      const double p = exact[static_cast<size_t>(distances[i])];
      CAPTURE(distances[i]);
      CHECK(std::abs(got[i] - p) <= 3 * std::sqrt(p * (1 - p) / 100000) + 1e-12);
    }
  }
  const CurveTable table = coverage_table(*make_position_sampler(config("pose")), 16, 64, 7, 2000, 5);
  CHECK(table.rows.size() == 7);
  CHECK(table.rows.back()[0] == 63);
  CHECK(table.csv().starts_with("r,exact,simulated,three_sigma\n1,1,1,0\n"));
}

TEST_CASE("RandPos covers distances as a random subset does") {
  // P(no pair at distance r) from the chance that a subset of {0..5} of size 3 holds one: counted by hand for r = 1, 5
  const auto sampler = make_position_sampler(config("randpos"));
  const std::vector<double> got = simulate_coverage(*sampler, 3, 6, {1, 5}, 100000, 2);
  CHECK(std::abs(got[0] - 16.0 / 20) < 3 * std::sqrt(0.8 * 0.2 / 1e5));  // 4 of the 20 subsets have no neighbours
  CHECK(std::abs(got[1] - 4.0 / 20) < 3 * std::sqrt(0.2 * 0.8 / 1e5));   // those with both 0 and 5
  // a window as long as the target leaves nothing to choose
  const PositionBatch all = sampler->sample(spec(1, 32, 32));
  for (int64_t m = 0; m < 32; ++m) CHECK(row(all, 0)[m] == float(m));
}

TEST_CASE("PoSE's chunks start at 0, reach the last position, and are uniform in length and offset") {
  const auto sampler = make_position_sampler(config("pose"));
  std::map<int64_t, int64_t> first_chunk, jump;
  float largest = 0;
  constexpr int64_t kDraws = 40000;
  for (int64_t step = 0; step < kDraws / 400; ++step) {
    SampleSpec s = spec(400, 8, 12);
    s.step = step;
    const PositionBatch batch = sampler->sample(s);
    for (int64_t b = 0; b < 400; ++b) {
      const float* p = row(batch, b);
      REQUIRE(p[0] == 0);
      largest = std::max(largest, p[7]);
      const auto u = static_cast<int64_t>(p[7]) - 7;
      ++jump[u];
      if (u > 0) ++first_chunk[std::find_if(p + 1, p + 8, [&](const float& x) { return x != *(&x - 1) + 1; }) - p];
    }
  }
  CHECK(largest == 11);
  CHECK(jump.size() == 5);
  for (const auto& [u, count] : jump) CHECK(std::abs(double(count) / kDraws - 0.2) < 3.5 * std::sqrt(0.16 / kDraws));
  CHECK(first_chunk.size() == 7);
  for (const auto& [l, count] : first_chunk) {
    CAPTURE(l);
    CHECK(std::abs(double(count) / (0.8 * kDraws) - 1.0 / 7) < 3.5 * std::sqrt(6.0 / 49 / (0.8 * kDraws)));
  }
}

TEST_CASE("The official PoSE code's first chunk is at most half the window, v1 moves the first chunk, v2 does not") {
  const PositionBatch code = make_position_sampler(PosePositions{.variant = PoseVariant::code})->sample(spec(500));
  for (int64_t b = 0; b < 500; ++b) {
    const float* p = row(code, b);
    const auto jump = std::find_if(p + 1, p + 32, [&](const float& x) { return x != *(&x - 1) + 1; });
    if (jump != p + 32) CHECK(jump - p <= 16);
    CHECK(p[0] == 0);
  }
  const PositionBatch v1 = make_position_sampler(PosePositions{.variant = PoseVariant::v1})->sample(spec(500));
  int64_t moved = 0;
  for (int64_t b = 0; b < 500; ++b) moved += row(v1, b)[0] > 0;
  CHECK(moved > 400);
}

TEST_CASE("Text follows the content rule: contiguous, aligned with the positions, or freely ahead") {
  const auto gaps = [](PoseContent content) {
    return make_position_sampler(PosePositions{.content = content})->sample(spec(200));
  };
  const PositionBatch zero = gaps(PoseContent::zero), same = gaps(PoseContent::same),
                      uniform = gaps(PoseContent::uniform);
  int64_t spread = 0;
  for (size_t b = 0; b < 200; ++b) {
    const auto &z = zero.content[b], &s = same.content[b], &u = uniform.content[b];
    CHECK(z[1].begin == z[0].begin + z[0].length);
    const int64_t skip = s[1].begin - s[0].begin - s[0].length;
    const float* p = row(same, int64_t(b));
    CHECK(skip == int64_t(p[31]) - 31);
    spread += u[1].begin > u[0].begin + u[0].length;
    CHECK(u[1].begin + u[1].length - u[0].begin <= 5 * 32);  // within the region
  }
  CHECK(spread > 150);
}

TEST_CASE("The text starts anywhere in the document, or where the published code starts") {
  std::set<int64_t> starts;
  for (const auto& content : make_position_sampler(config("contiguous"))->sample(spec(4000, 32, 32, 40)).content)
    starts.insert(content[0].begin);
  CHECK(starts.size() == 9);  // 0 .. 8
  const PosePositions c{.random_start = false};
  for (const auto& content : make_position_sampler(c)->sample(spec(50)).content) CHECK(content[0].begin == 0);
}

TEST_CASE("CREAM's head is at 0, its tail ends the target, and its middle prefers the centre") {
  const PosePositions c{.variant = PoseVariant::cream, .cream_mode = CreamMode::continuity, .cream_edge = 4};
  const PositionBatch batch = make_position_sampler(c)->sample(spec(2000, 32, 1032));
  int64_t central = 0;
  for (int64_t b = 0; b < 2000; ++b) {
    const float* p = row(batch, b);
    REQUIRE(p[0] == 0);
    REQUIRE(p[3] == 3);
    REQUIRE(p[28] == 1028);
    REQUIRE(p[31] == 1031);
    central += p[4] > 254 && p[4] < 754;
  }
  CHECK(central > 1250);  // 68 % within one sigma, 50 % if it were uniform
}

TEST_CASE("E2-LLM keeps four sink tokens, stays inside the window, and t counts its scale") {
  const PositionBatch batch = make_position_sampler(config("e2"))->sample(spec(4000));
  std::map<int64_t, int64_t> scales;
  double largest = 0;
  for (int64_t b = 0; b < 4000; ++b) {
    const float* p = row(batch, b);
    const double g = batch.t[static_cast<size_t>(b)];
    ++scales[static_cast<int64_t>(g)];
    for (int64_t m = 0; m < 4; ++m) REQUIRE(p[m] == float(double(m) / g));
    const double offset = std::round(p[4] * g) - 4;
    REQUIRE(offset >= 0);
    REQUIRE(offset <= g * 32 - 32);
    for (int64_t m = 4; m < 32; ++m) REQUIRE(p[m] == float((double(m) + offset) / g));
    largest = std::max(largest, double(p[31]));
  }
  CHECK(scales.size() == 16);
  for (const auto& [g, count] : scales)
    CHECK(std::abs(double(count) / 4000 - 1.0 / 16) < 4 * std::sqrt(15.0 / 256 / 4000));
  CHECK(largest < 32);
  CHECK(largest > 31);
  // windows longer than L: only scales that keep the positions inside
  const PositionBatch longer = make_position_sampler(config("e2"))->sample(spec(100, 64));
  CHECK(*std::min_element(longer.t.begin(), longer.t.end()) == 2);
  const PositionBatch shared = make_position_sampler(E2Positions{.per_step = true})->sample(spec(10));
  CHECK(std::set<double>(shared.t.begin(), shared.t.end()).size() == 1);
}

TEST_CASE("CLEX pins both ends, draws every t, and leaves t = 1 contiguous") {
  const PositionBatch batch = make_position_sampler(config("clex"))->sample(spec(3000));
  std::set<double> ts(batch.t.begin(), batch.t.end());
  CHECK(ts.size() == 16);
  for (int64_t b = 0; b < 3000; ++b) {
    const float* p = row(batch, b);
    const double t = batch.t[static_cast<size_t>(b)];
    REQUIRE(p[0] == 0);
    REQUIRE(p[31] == float(32 * t - 1));
    for (int64_t m = 0; t == 1 && m < 32; ++m) REQUIRE(p[m] == float(m));
  }
  // windows of 4L: quarters
  const PositionBatch longer = make_position_sampler(config("clex"))->sample(spec(50, 128));
  for (int64_t b = 0; b < 50; ++b)
    CHECK(row(longer, b)[127] == float((128 * longer.t[static_cast<size_t>(b)] - 1) / 4));
  ClexPositions c{.continuous_t = true};
  const PositionBatch real = make_position_sampler(c)->sample(spec(50));
  CHECK(std::set<double>(real.t.begin(), real.t.end()).size() == 50);
  c.spread = ClexSpread::multiply;
  const PositionBatch multiplied = make_position_sampler(c)->sample(spec(5));
  for (int64_t b = 0; b < 5; ++b) CHECK(row(multiplied, b)[10] == float(10 * multiplied.t[static_cast<size_t>(b)]));
}

TEST_CASE("CLEX in two chunks jumps once at most and reaches the whole of L t") {
  const ClexPositions c{.spread = ClexSpread::skip};
  const PositionBatch batch = make_position_sampler(c)->sample(spec(3000));
  const auto jumps_of = [](const PositionBatch& from, int64_t b) {
    const int64_t last = from.positions.size(1) - 1;
    const float* p = row(from, b);
    int64_t jumps = 0;
    for (int64_t m = 1; m <= last; ++m) jumps += p[m] != p[m - 1] + 1;
    REQUIRE(p[0] == 0);
    REQUIRE(jumps <= 1);
    REQUIRE(p[last] < 32 * from.t[static_cast<size_t>(b)]);
    return jumps;
  };
  int64_t single = 0, far = 0;
  for (int64_t b = 0; b < 3000; ++b) {
    const float* p = row(batch, b);
    const double t = batch.t[static_cast<size_t>(b)];
    single += jumps_of(batch, b);
    far += p[31] > 0.9 * (32 * t - 1);
  }
  CHECK(single > 2700);
  CHECK(far > 300);

  // A window of 4L has no room below t = 4, and its neighbours are 1 apart as well.
  const PositionBatch longer = make_position_sampler(c)->sample(spec(1000, 128));
  std::set<double> ts;
  for (int64_t b = 0; b < 1000; ++b) {
    jumps_of(longer, b);
    ts.insert(longer.t[static_cast<size_t>(b)]);
  }
  CHECK(*ts.begin() == 4);
  CHECK(ts.size() == 13);
}

TEST_CASE("The window scale factor says which window a sample imitates") {
  CHECK(make_position_sampler(config("pose"))->sample(spec(1)).t[0] == 4);
  CHECK(make_position_sampler(config("randpos"))->sample(spec(1)).t[0] == 4);
  CHECK(make_position_sampler(config("contiguous"))->sample(spec(1, 96)).t[0] == 3);
  CHECK(make_position_sampler(config("contiguous"))->sample(spec(1, 16)).t[0] == 1);
}

TEST_CASE("Bad samplers and bad batches are refused") {
  const auto bad_config = [](const PositionConfig& c) { return test::error_of([&] { make_position_sampler(c); }); };
  const auto bad_text = [](const std::string& kind, const char* key, const char* text) {
    return test::error_of([&] { position_sampler(kind).set(key, text); });
  };
  CHECK(test::error_of([] { position_sampler("spiral"); }).find("unknown kind \"spiral\"; known: contiguous, pose") !=
        std::string::npos);
  CHECK(bad_text("pose", "pose_variant", "x").find("variant must be one of paper") != std::string::npos);
  CHECK(bad_text("pose", "pose_content", "x").find("content must be one of") != std::string::npos);
  CHECK(bad_text("pose", "cream_mode", "x").find("cream_mode") != std::string::npos);
  CHECK(bad_config(PosePositions{.variant = static_cast<PoseVariant>(9)}).find("variant") != std::string::npos);
  CHECK(bad_config(PosePositions{.chunks = 0}).find("chunks must be at least 1") != std::string::npos);
  CHECK(bad_config(PosePositions{.chunks = 3, .variant = PoseVariant::code}).find("2 chunks, got 3") !=
        std::string::npos);
  CHECK(bad_config(PosePositions{.content_windows = -1}).find("content_windows") != std::string::npos);
  CHECK(bad_config(PosePositions{.cream_sigma = 0}).find("cream_sigma") != std::string::npos);
  CHECK(bad_config(E2Positions{.max_factor = 0}).find("max_factor") != std::string::npos);
  CHECK(bad_config(E2Positions{.sink_tokens = -1}).find("sink_tokens") != std::string::npos);
  CHECK(bad_config(ClexPositions{.max_factor = 0}).find("max_factor") != std::string::npos);
  CHECK(bad_text("clex", "spread", "x").find("spread") != std::string::npos);

  const auto bad_spec = [](const std::string& kind, auto&& change) {
    SampleSpec s = spec(2);
    change(s);
    return test::error_of([&] { make_position_sampler(config(kind))->sample(s); });
  };
  CHECK(bad_spec("contiguous", [](auto& s) {
          s.sample_ids.clear(), s.document_lengths.clear();
        }).find("sample_ids is empty") != std::string::npos);
  CHECK(bad_spec("contiguous", [](auto& s) { s.window = 0; }).find("window must be at least 1") != std::string::npos);
  CHECK(bad_spec("contiguous", [](auto& s) {
          s.document_lengths.pop_back();
        }).find("needs 2 document_lengths, got 1") != std::string::npos);
  CHECK(bad_spec("contiguous", [](auto& s) { s.document_lengths[1] = 0; }).find("has 0 tokens") != std::string::npos);
  CHECK(bad_spec("pose", [](auto& s) { s.target = 31; }).find("target must be at least the window 32, got 31") !=
        std::string::npos);
  CHECK(bad_spec("pose", [](auto& s) { s.target = 1 << 25; }).find("exactly") != std::string::npos);
  CHECK(bad_spec("pose", [](auto& s) { s.window = 1; }).find("cannot hold 2 chunks") != std::string::npos);
  CHECK(bad_spec("randpos", [](auto& s) { s.target = 0; }).find("target must be at least") != std::string::npos);
  CHECK(bad_spec("e2", [](auto& s) { s.window = 1000; }).find("shorter than the samples") != std::string::npos);
  CHECK(bad_spec("clex", [](auto& s) { s.window = 1; }).find("window must be at least 2") != std::string::npos);
  CHECK(bad_spec("clex", [](auto& s) { s.window = 1 << 21; }).find("exactly") != std::string::npos);
  const ClexPositions two{.max_factor = 3, .spread = ClexSpread::skip};
  CHECK(test::error_of([&] { make_position_sampler(two)->sample(spec(1, 128)); }).find("more than max_factor = 3") !=
        std::string::npos);
}
