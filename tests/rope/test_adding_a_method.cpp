// The worked example of docs/adding-a-method.md: a RoPE kind and a sampler that the library does not list. They are
// used by value, by name from config.json, and in the tables of options. The page quotes this file.
#include "rope/fixed_scaling.h"
#include "rope/kinds.h"
#include "rope/method_options.h"
#include "rope/samplers.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

// [kind]
/// The slower half of the pairs is divided by the factor, the faster half stays.
struct HalfRope {
  static constexpr const char* kName = "half";
  static constexpr const char* kSummary = "the slower half of the pairs is divided by the factor";
  static std::vector<Field> fields();

  double factor = 1;       // s = L'/L
  bool inclusive = false;  // the middle pair counts as slow

  void check(const RopeConfig&) const {}
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor; }
  bool operator==(const HalfRope&) const = default;
};

std::vector<Field> HalfRope::fields() {
  return {
      field("factor", &HalfRope::factor).at_least(1).required().help("window after extension / before"),
      field("inclusive", &HalfRope::inclusive).option().help("the middle pair counts as slow"),
  };
}

std::unique_ptr<RopeScaling> HalfRope::make(const RopeConfig& config) const {
  std::vector<double> theta = base_inv_freq(config);
  const size_t first = (theta.size() + (inclusive ? 0 : 1)) / 2;
  for (size_t i = first; i < theta.size(); ++i) theta[i] /= factor;
  return std::make_unique<FixedScaling>(config, theta);
}
// [end]

// [sampler]
/// Positions with equal gaps, from a random place in the target: p(m) = start + m stride.
struct StridePositions {
  static constexpr const char* kName = "stride";
  static constexpr const char* kSummary = "equal gaps between tokens";
  static constexpr const char* kScaling = "linear";
  static constexpr bool kShort = true;
  static std::vector<Field> fields() {
    return {field("stride", &StridePositions::stride).at_least(1).option().help("positions from token to token")};
  }

  int64_t stride = 2;

  void check() const {}
  void check_spec(const SampleSpec& spec) const {
    rw::check(spec.target >= spec.window * stride, kName, "target must be at least ", spec.window * stride, ", got ",
              spec.target);
  }
  void draw(Draw& s) const {
    const int64_t start = s.random.between(0, s.target - s.window * stride);
    for (int64_t m = 0; m < s.window; ++m) s.positions[m] = static_cast<float>(start + m * stride);
    s.take_contiguous_text();
    s.t = static_cast<double>(stride);
  }
  bool operator==(const StridePositions&) const = default;
};
// [end]

std::string between(const std::string& text, const std::string& from, const std::string& to) {
  const size_t begin = text.find(from) + from.size();
  return text.substr(begin, text.find(to, begin) - begin);
}

}  // namespace

TEST_CASE("A RoPE kind outside of the library's list makes tables, checks its fields and goes through config.json") {
  RopeConfig config{.head_dim = 12, .max_position_embeddings = 64, .kind = HalfRope{.factor = 4}};
  const std::vector<double> base = base_inv_freq(config);
  const std::vector<double> theta = make_rope_scaling(config)->table({}).inv_freq.value().to_vector();
  for (size_t i = 0; i < base.size(); ++i) CHECK(theta[i] == (i < 3 ? base[i] : base[i] / 4));
  CHECK(config.extended_window() == 256);
  CHECK(test::error_of([] {
          make_rope_scaling({.head_dim = 12, .kind = HalfRope{.factor = 0.5}});
        }).find("[half] factor must be at least 1, got 0.5") != std::string::npos);

  std::vector<RopeKind> kinds = rope_kinds();
  kinds.push_back(HalfRope{});
  const std::string json =
      cat(R"({"head_dim":12,"max_position_embeddings":64,"rope_scaling":)", rope_scaling_to_json(config), "}");
  CHECK(rope_config_from_json(json, {.kinds = kinds}) == config);
  CHECK(test::error_of([&] { rope_config_from_json(json); }).find("unknown rope_type \"half\"") != std::string::npos);
}

TEST_CASE("A sampler outside of the library's list draws batches, and its options are applied by name") {
  PositionConfig sampler = StridePositions{};
  RopeKind kind = HalfRope{};
  apply_options({{"stride", "3"}, {"inclusive", "true"}}, sampler, kind);
  CHECK(sampler == StridePositions{.stride = 3});
  CHECK(kind == HalfRope{.inclusive = true});
  CHECK(sampler.texts() == std::map<std::string, std::string>{{"stride", "3"}});
  const PositionBatch batch =
      make_position_sampler(sampler)->sample({.seed = 1, .sample_ids = {0, 1}, .window = 8, .target = 64});
  const float* p = batch.positions.data<float>();
  for (int m = 1; m < 8; ++m) CHECK(p[m] == p[m - 1] + 3);
  CHECK(batch.t == std::vector<double>{3, 3});
  CHECK(test::error_of([&] {
          apply_options({{"chunks", "3"}}, sampler, kind);
        }).find("--chunks is an option of pose, got sampler stride and scaling half") != std::string::npos);
}

TEST_CASE("An option with a value out of range is refused by the option's name, also where no method would use it") {
  PositionConfig e2 = E2Positions{}, contiguous;
  RopeKind plain;
  for (PositionConfig* sampler : {&e2, &contiguous}) {
    CHECK(test::error_of([&] {
            apply_options({{"max_factor", "9000000000000000000"}}, *sampler, plain);
          }).find("--max-factor must be at least 1 and at most 65536") != std::string::npos);
  }
  CHECK(test::error_of([&] {
          apply_options({{"max_factor", "4"}}, contiguous, plain);
        }).find("--max-factor is an option of e2, clex, got sampler contiguous") != std::string::npos);
  apply_options({{"max_factor", "4"}, {"fixed_t", "true"}}, e2, plain);
  CHECK(e2 == E2Positions{.max_factor = 4, .fixed_t = true});
}

TEST_CASE("Every option of every method is described once, with the methods that have it") {
  std::map<std::string, int> seen;
  for (const MethodOption& o : method_options()) {
    CHECK(++seen[o.name] == 1);
    CHECK(o.help.find(": ") != std::string::npos);
  }
  for (const char* name : {"chunks", "pose-variant", "pose-content", "content-windows", "fixed-g", "fixed-t", "spread",
                           "max-factor", "continuous-t", "per-step"}) {
    CAPTURE(name);
    CHECK(seen[name] == 1);
  }
}

TEST_CASE("docs/adding-a-method.md quotes the worked example as it is") {
  const std::string root = ROPEWALK_SOURCE_DIR;
  const std::string test = read_file(root + "/tests/rope/test_adding_a_method.cpp");
  const std::string page = read_file(root + "/docs/adding-a-method.md");
  for (const char* part : {"kind", "sampler"}) {
    CAPTURE(part);
    const std::string code = between(test, cat("// [", part, "]\n"), "// [end]");
    CHECK(code.size() > 400);
    CHECK(page.find(code) != std::string::npos);
  }
}
