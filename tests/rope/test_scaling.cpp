// Scaling kinds against HF's values, closed forms, and their own recipe in config.json.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "rope/kinds.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;
using nlohmann::json;

namespace {

/// For kinds that have a factor; nothing is checked.
void set_factor(RopeConfig& c, double factor) {
  const Field* f = c.kind.find("factor");
  if (f) *std::get<double*>(f->at(c.kind.data())) = factor;
}

RopeConfig basic(const std::string& type, int64_t head_dim = 64, double factor = 4) {
  RopeConfig c{.head_dim = head_dim, .max_position_embeddings = 256, .kind = rope_kind(type)};
  if (auto* longrope = c.kind.get<LongRope>()) {
    longrope->short_factor.assign(static_cast<size_t>(head_dim / 2), 1.25);
    longrope->long_factor.assign(static_cast<size_t>(head_dim / 2), 3.5);
  }
  if (auto* abf = c.kind.get<AbfRope>()) abf->base = 5e5;
  set_factor(c, factor);
  return c;
}

const std::vector<std::string> kKinds = {"default",  "linear", "ntk", "dynamic", "dynamic_linear", "yarn", "llama3",
                                         "longrope", "clex",   "e2",  "abf"};

std::vector<double> theta(const RopeConfig& c, int64_t length = 0) {
  return make_rope_scaling(c)->table({.length = length}).inv_freq.value().to_vector();
}

/// Largest |got / want - 1|.
double ratio_error(const std::vector<double>& got, const std::vector<double>& want) {
  if (got.size() != want.size()) return 1e300;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] / want[i] - 1));
  return worst;
}

std::string whole_config(const RopeConfig& c) {
  const json whole = {{"head_dim", c.head_dim},
                      {"rope_theta", c.rope_theta},
                      {"max_position_embeddings", c.max_position_embeddings},
                      {"rope_scaling", json::parse(rope_scaling_to_json(c))}};
  return whole.dump();
}

/// Every field that is not a factor gets a value that is not its default.
void enrich(RopeKind& kind) {
  if (auto* yarn = kind.get<YarnRope>()) {
    *yarn = {.factor = yarn->factor,
             .beta_fast = 31.5,
             .beta_slow = 0.7,
             .truncate = false,
             .variant = YarnVariant::revised,
             .mscale = 0.3,
             .mscale_all_dim = 0.4,
             .attention_factor = 1.1};
  }
  if (auto* llama3 = kind.get<Llama3Rope>()) llama3->low_freq_factor = 1.5, llama3->high_freq_factor = 3.5;
  if (auto* longrope = kind.get<LongRope>()) longrope->attention_factor = 1.1;
  if (auto* clex = kind.get<ClexRope>()) {
    *clex = {.max_factor = 7,
             .param_factor = 2,
             .act = ClexAct::tanh,
             .prior = ClexPrior::paper,
             .ntk_input = false,
             .input_base = 1e5,
             .time_dt = 0.05,
             .grow_steps = false,
             .grad = ClexGrad::adjoint,
             .lr_scale = 0.25};
  }
}

json golden_cases() { return json::parse(test::golden("golden_rope").metadata().at("cases")); }

}  // namespace

TEST_CASE("Every HF case of golden_rope has its inv_freq, attention scale, cos and sin") {
  const SafetensorsFile& file = test::golden("golden_rope");
  int seen = 0;
  const json cases = golden_cases();
  for (const auto& [name, meta] : cases.items()) {
    if (!meta.contains("rope")) continue;
    CAPTURE(name);
    const json config = {{"head_dim", 16},
                         {"rope_theta", 10000.0},
                         {"max_position_embeddings", meta["max_position_embeddings"]},
                         {"rope_scaling", meta["rope"]}};
    const auto scaling = make_rope_scaling(rope_config_from_json(config.dump()));
    const RopeTable table = scaling->table({.length = meta["seq_len_seen"].get<int64_t>()});
    const std::vector<double> inv_freq = table.inv_freq.value().to_vector();
    CHECK(ratio_error(inv_freq, file.load(name + "/own_inv_freq").to_vector()) < 1e-10);
    CHECK(ratio_error(inv_freq, file.load(name + "/inv_freq").to_vector()) < 1e-6);  // HF computes it in f32
    CHECK(table.attention_scale == doctest::Approx(file.load(name + "/attention_scaling").item()).epsilon(1e-12));

    const Tensor position = file.load(name + "/position_ids");
    const Tensor cos = file.load(name + "/cos"), sin = file.load(name + "/sin");
    const std::vector<double> p = position.to_vector();
    std::vector<double> got_cos, got_sin;
    for (const double m : p) {
      for (int i = 0; i < 16; ++i) got_cos.push_back(table.attention_scale * std::cos(m * inv_freq[size_t(i % 8)]));
      for (int i = 0; i < 16; ++i) got_sin.push_back(table.attention_scale * std::sin(m * inv_freq[size_t(i % 8)]));
    }
    // HF's angles are f32: 300 rad have an error of 2e-5
    CHECK(test::relative_error(got_cos, cos.to_vector()) < 3e-5);
    CHECK(test::relative_error(got_sin, sin.to_vector()) < 3e-5);
    ++seen;
  }
  CHECK(seen >= 10);
}

TEST_CASE("Every closed form of golden_rope is met in f64") {
  const SafetensorsFile& file = test::golden("golden_rope");
  int seen = 0;
  const json cases = golden_cases();
  for (const auto& [name, meta] : cases.items()) {
    if (!meta.contains("kind")) continue;
    CAPTURE(name);
    RopeConfig c;
    c.kind = rope_kind(meta["kind"] == "ntk-aware" ? "ntk" : meta["kind"].get<std::string>());
    c.head_dim = 2 * file.load(name + "/inv_freq").numel();
    c.rope_theta = meta["base"];
    set_factor(c, meta.value("factor", 1.0));
    c.max_position_embeddings = meta.value("max_pos", 2048);
    c.original_max_position_embeddings = meta.value("original_max_position_embeddings", 0);
    if (auto* llama3 = c.kind.get<Llama3Rope>()) {
      llama3->low_freq_factor = meta.value("low_freq_factor", 1.0);
      llama3->high_freq_factor = meta.value("high_freq_factor", 4.0);
    }
    const int64_t length = meta.contains("seq_len") && !meta["seq_len"].is_null() ? meta["seq_len"].get<int64_t>() : 0;
    CHECK(ratio_error(theta(c, length), file.load(name + "/inv_freq").to_vector()) < 1e-10);
    if (meta.contains("attention_scaling")) {
      CHECK(make_rope_scaling(c)->table({}).attention_scale ==
            doctest::Approx(meta["attention_scaling"].get<double>()).epsilon(1e-12));
    }
    ++seen;
  }
  CHECK(seen >= 12);
}

TEST_CASE("Every list of rope_golden.json is met within 1e-6") {
  const json golden = json::parse(read_file(test::data_dir() + "/rope_golden.json"));
  for (const auto& [name, lists] : golden.items()) {
    CAPTURE(name);
    double base, factor;
    int dim, window;
    REQUIRE(std::sscanf(name.c_str(), "d%d_b%lf_L%d_s%lf", &dim, &base, &window, &factor) == 4);
    const auto config = [&](const char* type) {
      RopeConfig c = basic(type, dim, factor);
      c.rope_theta = base;
      c.max_position_embeddings = window;
      return c;
    };
    const auto close = [&](const char* list, const std::vector<double>& got) {
      CAPTURE(list);
      CHECK(ratio_error(got, lists[list].get<std::vector<double>>()) < 1e-6);
    };
    close("default", theta(config("default")));
    close("linear", theta(config("linear")));
    close("ntk", theta(config("ntk")));
    close("dynamic_at_2L", theta(config("dynamic"), 2 * window));
    close("dynamic_at_sL", theta(config("dynamic"), static_cast<int64_t>(factor * window)));
    close("yarn", theta(config("yarn")));
    close("llama3", theta(config("llama3")));
    RopeConfig revised = config("yarn");
    revised.kind.get<YarnRope>()->variant = YarnVariant::revised;
    close("yarn_revised_pose", theta(revised));
    CHECK(make_rope_scaling(revised)->table({}).attention_scale == doctest::Approx(lists["yarn_mscale"].get<double>()));
    CHECK(make_rope_scaling(config("longrope"))->table({}).attention_scale ==
          doctest::Approx(lists["longrope_attention_factor"].get<double>()));
  }
}

TEST_CASE("NTK leaves the first pair alone and divides the last by exactly s") {
  const std::vector<double> plain = theta(basic("default")), ntk = theta(basic("ntk"));
  CHECK(ntk.front() == plain.front());
  CHECK(plain.back() / ntk.back() == doctest::Approx(4.0).epsilon(1e-13));
}

TEST_CASE(
    "Dynamic kinds leave sequences within the window alone, and only they, LongRoPE, CLEX and E2 depend on length") {
  for (const std::string& kind : kKinds) {
    CAPTURE(kind);
    RopeConfig c = basic(kind);
    if (kind == "e2") set_factor(c, 0);
    const bool grows =
        kind == "dynamic" || kind == "dynamic_linear" || kind == "longrope" || kind == "clex" || kind == "e2";
    CHECK(make_rope_scaling(c)->depends_on_length() == grows);
    if (grows && kind != "longrope") CHECK(theta(c, 256) == theta(basic("default")));
    if (grows && kind != "clex") CHECK(theta(c, 257) != theta(c, 256));
  }
  // dynamic linear: p = m L / n
  CHECK(ratio_error(theta(basic("dynamic_linear"), 640), theta(basic("linear", 64, 2.5))) < 1e-14);
}

TEST_CASE("LongRoPE with two equal lists, as a frozen recipe has them, does not depend on length") {
  RopeConfig c = basic("longrope");
  LongRope record = *c.kind.get<LongRope>();
  REQUIRE(record.short_factor != record.long_factor);
  record.short_factor = record.long_factor;
  c.kind = record;
  CHECK(!make_rope_scaling(c)->depends_on_length());
  CHECK(theta(c, 1) == theta(c, 100000));
}

TEST_CASE("E2 divides by the number of windows that cover the sequence, by a fixed factor if given, not in training") {
  RopeConfig c = basic("e2", 64, 0);
  CHECK(theta(c, 257) == theta(basic("linear", 64, 2)));
  CHECK(theta(c, 1024) == theta(basic("linear", 64, 4)));
  CHECK(theta(c, 1025) == theta(basic("linear", 64, 5)));
  CHECK(make_rope_scaling(c)->table({.length = 1024, .training = true}).inv_freq.value().to_vector() ==
        theta(basic("default")));
  set_factor(c, 8);
  CHECK(theta(c, 10) == theta(basic("linear", 64, 8)));
  CHECK(!make_rope_scaling(c)->depends_on_length());
}

TEST_CASE("ABF is plain RoPE with the new base") {
  RopeConfig plain = basic("default");
  plain.rope_theta = 5e5;
  CHECK(theta(basic("abf")) == theta(plain));
}

TEST_CASE("Only the rotary part of a head has frequencies") {
  RopeConfig c = basic("default", 80);
  c.partial_rotary_factor = 0.4;
  CHECK(theta(c) == theta(basic("default", 32)));
}

TEST_CASE("Every kind's table is that of a head of the rotary size where only a part of the head rotates") {
  for (const std::string& kind : kKinds) {
    CAPTURE(kind);
    RopeConfig whole = basic(kind, 32), part = whole;
    part.head_dim = 128;
    part.partial_rotary_factor = 0.25;
    CHECK(part.rotary_dim() == 32);
    const auto a = make_rope_scaling(whole), b = make_rope_scaling(part);
    const int64_t length = kind == "clex" ? 200 : 700;  // clex beyond its window needs parameters
    const RopeTable want = a->table({.length = length}), got = b->table({.length = length});
    CHECK(got.inv_freq.value().to_vector() == want.inv_freq.value().to_vector());
    CHECK(got.attention_scale == want.attention_scale);
    CHECK(b->parameter_specs().size() == a->parameter_specs().size());
  }
}

TEST_CASE("YaRN's attention scale can be overridden, or made of mscale and mscale_all_dim when both are there") {
  RopeConfig c = basic("yarn", 64, 40);
  YarnRope& yarn = *c.kind.get<YarnRope>();
  const auto scale = [&] { return make_rope_scaling(c)->table({}).attention_scale; };
  CHECK(scale() == doctest::Approx(0.1 * std::log(40.0) + 1));
  yarn.mscale = 0.707;
  CHECK(scale() == doctest::Approx(0.1 * std::log(40.0) + 1));
  yarn.mscale_all_dim = 1.0;
  CHECK(scale() == doctest::Approx((0.0707 * std::log(40.0) + 1) / (0.1 * std::log(40.0) + 1)));
  yarn.attention_factor = 1.5;
  CHECK(scale() == 1.5);
}

TEST_CASE("YaRN without rounding moves the ends of the ramp inwards") {
  RopeConfig c = basic("yarn", 64, 4);
  const std::vector<double> rounded = theta(c);
  c.kind.get<YarnRope>()->truncate = false;
  const std::vector<double> exact = theta(c);
  CHECK(exact != rounded);
  CHECK(exact.front() == doctest::Approx(1.0));
  CHECK(exact.back() == doctest::Approx(rounded.back()));
}

TEST_CASE("Log-n attention scales queries by position, or all alike") {
  RopeConfig c = basic("default");
  CHECK(make_rope_scaling(c)->query_scale(0, 4).empty());
  c.logn = LogN::position;
  const std::vector<float> by_position = make_rope_scaling(c)->query_scale(254, 4);
  CHECK(by_position[0] == 1.0f);
  CHECK(by_position[1] == 1.0f);
  CHECK(by_position[2] == doctest::Approx(std::log(257.0) / std::log(256.0)));
  CHECK(make_rope_scaling(c)->query_scale(257, 1)[0] == by_position[3]);  // decoding agrees with prefill
  c.logn = LogN::constant;
  const std::vector<float> constant = make_rope_scaling(c)->query_scale(0, 16);
  CHECK(constant[0] == doctest::Approx(0.5));  // ln 16 / ln 256: below 1, as published
  CHECK(constant[15] == constant[0]);
}

TEST_CASE("Every kind's recipe comes back from config.json unchanged") {
  for (const std::string& kind : kKinds) {
    for (const bool rich : {false, true}) {
      CAPTURE(kind);
      RopeConfig c =
          basic(kind, 64, kind == "default" || kind == "abf" || kind == "clex" || kind == "dynamic_linear" ? 1 : 4.7);
      if (kind == "llama3") c.original_max_position_embeddings = 100;
      if (rich) {
        c.rope_theta = 12345.678901234567;
        c.original_max_position_embeddings = 100;
        c.logn = LogN::position;
        enrich(c.kind);
      }
      const RopeConfig back = rope_config_from_json(whole_config(c));
      CHECK(rope_scaling_to_json(back) == rope_scaling_to_json(c));
      CHECK(back.rope_type() == c.rope_type());
      CHECK(back.kind == c.kind);
      CHECK(back.rope_theta == c.rope_theta);
      CHECK(back.logn == c.logn);
      if (rich) CHECK(back.original_window() == 100);
      if (kind == "clex") continue;  // needs its parameters
      CHECK(theta(back, 700) == theta(c, 700));
      CHECK(make_rope_scaling(back)->table({}).attention_scale == make_rope_scaling(c)->table({}).attention_scale);
    }
  }
  CHECK(rope_scaling_to_json(basic("default")) == "null");
  const RopeConfig clex = rope_config_from_json(
      R"({"head_dim": 64, "max_position_embeddings": 256, "rope_scaling": {"type": "clex", "max_factor": 7, "param_factor": 2,
          "factor": 1, "act": "tanh", "time_dt": 0.01, "log_scale": true}})");
  CHECK(clex.kind.get<ClexRope>()->max_factor == 7);
  CHECK(clex.kind.get<ClexRope>()->time_dt == 0.01);
  CHECK(clex.logn == LogN::constant);
}

TEST_CASE("Older and newer spellings of config.json are understood") {
  const auto read = [](const std::string& tail) {
    return rope_config_from_json(R"({"hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": 4096, )" +
                                 tail + "}");
  };
  CHECK(read(R"("rope_scaling": null)").rope_type() == "default");
  CHECK(read(R"("rope_theta": 5e5)").rope_theta == 5e5);
  CHECK(read(R"("x": 1)").head_dim == 64);
  CHECK(read(R"("rope_scaling": {"type": "linear", "factor": 2})").kind == LinearRope{.factor = 2});
  const RopeConfig v5 =
      read(R"("rope_parameters": {"rope_type": "yarn", "rope_theta": 2e5, "factor": 8.0, "partial_rotary_factor": 0.5,
                                 "original_max_position_embeddings": 512})");
  CHECK(v5.rope_theta == 2e5);
  CHECK(v5.rotary_dim() == 32);
  CHECK(v5.original_window() == 512);
  // no factor: the ratio of the windows
  CHECK(read(R"("rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 512})").kind ==
        YarnRope{.factor = 8});
  const RopeConfig phi = read(
      R"("original_max_position_embeddings": 1024, "rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [2]})");
  CHECK(phi.kind == LongRope{.factor = 4, .short_factor = {1}, .long_factor = {2}});
}

TEST_CASE("A bad config.json is refused by name") {
  const auto error = [](const std::string& scaling) {
    return test::error_of([&] {
      rope_config_from_json(R"({"head_dim": 64, "max_position_embeddings": 256, "rope_scaling": )" + scaling + "}");
    });
  };
  CHECK(error(R"({"rope_type": "spiral"})").find("unknown rope_type \"spiral\"") != std::string::npos);
  CHECK(error(R"({"rope_type": "linear"})").find("rope_scaling.factor is missing") != std::string::npos);
  CHECK(error(R"({"rope_type": "linear", "factor": "four"})")
            .find("rope_scaling.factor must be a number, got \"four\"") != std::string::npos);
  CHECK(error(R"({"rope_type": "linear", "factor": 1e300})").find("factor") != std::string::npos);
  CHECK(error(R"({"factor": 2})").find("rope_scaling.rope_type is missing") != std::string::npos);
  CHECK(error(R"({"rope_type": 3})").find("rope_scaling.rope_type must be a string") != std::string::npos);
  CHECK(error(R"([1])").find("rope_scaling must be an object") != std::string::npos);
  CHECK(error(R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4})")
            .find("rope_scaling.original_max_position_embeddings is missing") != std::string::npos);
  CHECK(error(R"({"rope_type": "longrope", "factor": 4, "short_factor": [1, "x"], "long_factor": [1]})")
            .find("short_factor must be a number") != std::string::npos);
  CHECK(error(R"({"rope_type": "longrope", "factor": 4, "short_factor": 1, "long_factor": [1]})")
            .find("list of numbers") != std::string::npos);
  CHECK(error(R"({"rope_type": "yarn", "factor": 4, "truncate": "no"})").find("truncate must be true or false") !=
        std::string::npos);
  CHECK(error(R"({"rope_type": "yarn"})").find("factor is missing") != std::string::npos);
  CHECK(error(R"({"rope_type": "clex", "max_factor": 2.5})").find("max_factor must be a whole number") !=
        std::string::npos);
  CHECK(error(R"({"rope_type": "default", "logn_scaling": "sideways"})").find("logn_scaling") != std::string::npos);

  CHECK(test::error_of([] { rope_config_from_json("{"); }).find("not a JSON object") != std::string::npos);
  CHECK(test::error_of([] {
          rope_config_from_json(R"({"head_dim": 64})");
        }).find("max_position_embeddings is missing") != std::string::npos);
  CHECK(test::error_of([] {
          rope_config_from_json(R"({"max_position_embeddings": 64})");
        }).find("hidden_size is missing") != std::string::npos);
  CHECK(test::error_of([] {
          rope_config_from_json(R"({"max_position_embeddings": 64, "hidden_size": 10, "num_attention_heads": 3})");
        }).find("not a multiple") != std::string::npos);
}

TEST_CASE("A recipe with values out of range is refused") {
  const auto error = [](const RopeConfig& c) { return test::error_of([&] { make_rope_scaling(c); }); };
  for (const char* kind : {"linear", "ntk", "dynamic", "yarn", "llama3", "e2"}) {
    CAPTURE(kind);
    CHECK(error(basic(kind, 64, 0.5)).find("factor must be") != std::string::npos);
  }
  CHECK(test::error_of([] { basic("spiral"); }).find("unknown rope_type \"spiral\"; known: default, linear") !=
        std::string::npos);
  CHECK(error(basic("default", 63)).find("must be even") != std::string::npos);
  CHECK(error(basic("default", 0)).find("must be even") != std::string::npos);
  CHECK(error(basic("ntk", 2)).find("more than one pair") != std::string::npos);
  CHECK(error(basic("dynamic", 2)).find("more than one pair") != std::string::npos);
  CHECK(error(basic("clex", 2)).find("more than one pair") != std::string::npos);
  const auto changed = [&](const char* kind, auto&& change) {
    RopeConfig c = basic(kind);
    change(c);
    return error(c);
  };
  CHECK(changed("default", [](auto& c) { c.rope_theta = 0; }).find("rope_theta") != std::string::npos);
  CHECK(changed("default", [](auto& c) { c.max_position_embeddings = 0; }).find("window") != std::string::npos);
  CHECK(changed("default", [](auto& c) { c.logn = LogN::position, c.max_position_embeddings = 1; }).find("log-n") !=
        std::string::npos);
  CHECK(changed("yarn", [](auto& c) {
          c.kind = YarnRope{.factor = 4, .beta_slow = 40};
        }).find("beta_fast > beta_slow") != std::string::npos);
  CHECK(changed("yarn", [](auto& c) {
          c.kind.template get<YarnRope>()->variant = static_cast<YarnVariant>(7);
        }).find("yarn_variant must be one of paper, revised") != std::string::npos);
  CHECK(changed("llama3", [](auto& c) {
          c.kind = Llama3Rope{.factor = 4, .high_freq_factor = 1};
        }).find("high_freq_factor") != std::string::npos);
  CHECK(changed("longrope", [](auto& c) {
          c.kind.template get<LongRope>()->long_factor.pop_back();
        }).find("long_factor needs 32 values, got 31") != std::string::npos);
  CHECK(changed("longrope", [](auto& c) {
          c.kind.template get<LongRope>()->short_factor[3] = 0;
        }).find("short_factor must be above 0") != std::string::npos);
  CHECK(changed("longrope", [](auto& c) { c.max_position_embeddings = 1; }).find("window") != std::string::npos);
  CHECK(changed("abf", [](auto& c) { c.kind = AbfRope{}; }).find("base must be above 1") != std::string::npos);
  for (const char* key : {"act", "prior", "grad"}) {
    CHECK(test::error_of([&] { rope_kind("clex").set(key, "relu"); }).find(cat(key, " must be one of")) !=
          std::string::npos);
  }
  CHECK(changed("clex", [](auto& c) { c.kind = ClexRope{.time_dt = 0}; }).find("time_dt") != std::string::npos);
  CHECK(changed("clex", [](auto& c) { c.kind = ClexRope{.max_factor = 0}; }).find("max_factor") != std::string::npos);
  CHECK(changed("clex", [](auto& c) { c.kind = ClexRope{.param_factor = 0}; }).find("param_factor") !=
        std::string::npos);
  CHECK(changed("clex", [](auto& c) { c.kind = ClexRope{.input_base = 0.5}; }).find("input_base") != std::string::npos);
  CHECK(test::error_of([] {
          make_rope_scaling(basic("yarn"))->set_parameters({Tensor::zeros({1})});
        }).find("no parameters") != std::string::npos);
}
