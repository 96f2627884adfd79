// Extending a model that was extended before: what is kept, what multiplies, what is refused.
#include "rope/extend.h"
#include "rope/kinds.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

constexpr int64_t kWindow = 64, kOnce = 256, kTwice = 512;

RopeConfig plain() { return {.head_dim = 16, .max_position_embeddings = kWindow}; }

LongRope longrope() { return {.short_factor = {1, 1, 1, 1, 1, 1, 1, 1}, .long_factor = {1, 1, 2, 2, 3, 3, 4, 4}}; }

/// The kinds of the table, in its order, as they would be named to extend a model.
std::vector<RopeKind> kinds() {
  return {LinearRope{},         NtkRope{}, YarnRope{}, Llama3Rope{}, longrope(),
          AbfRope{.base = 5e5}, E2Rope{},  ClexRope{}, DefaultRope{}};
}

/// What a kind does, in a word or two: its factor, the window that it counts from, the base if it is not 1e4.
std::string outcome(const RopeConfig& base, const RopeKind& kind) {
  RopeConfig c;
  try {
    c = extend_rope(base, kind, kTwice);
  } catch (const Error&) {
    return "refused";
  }
  std::string text = c.kind.find("factor") && !c.kind.is<E2Rope>() ? "x" + c.kind.text("factor") + " " : "";
  text += cat("of ", c.original_window());
  return c.rope_theta == 1e4 ? text : text + ", b " + number_text(c.rope_theta);
}

/// The table of docs/methods.md: one row per base, one column per kind.
std::vector<std::string> table() {
  std::vector<RopeConfig> bases = {plain()};
  for (const RopeKind& kind : kinds()) {
    if (!kind.is<DefaultRope>()) bases.push_back(extend_rope(plain(), kind, kOnce));
  }
  std::vector<std::string> lines;
  for (const RopeConfig& base : bases) {
    std::string line = "| " + base.kind.name() + " |";
    for (const RopeKind& kind : kinds()) line += " " + outcome(base, kind) + " |";
    lines.push_back(line);
  }
  return lines;
}

double factor_of(const RopeConfig& c) { return std::stod(c.kind.text("factor")); }

RopeConfig read(const std::string& rest) {
  return rope_config_from_json(R"({"head_dim": 16, "rope_theta": 10000.0, )" + rest + "}");
}

}  // namespace

TEST_CASE("The table of docs/methods.md says what each kind does on top of each") {
  const std::string page = read_file(std::string(ROPEWALK_SOURCE_DIR) + "/docs/methods.md");
  for (const std::string& line : table()) {
    CAPTURE(line);
    CHECK(page.find(line) != std::string::npos);
  }
}

TEST_CASE(
    "Position interpolation extended again counts from the window of pre-training, in our layout and the public one") {
  const RopeConfig ours = extend_rope(plain(), LinearRope{}, kOnce);
  CHECK(factor_of(ours) == 4);
  // LLaMA-2-7B-32K, chinese-alpaca-2-16k: the window is extended, the original one is not stated
  const RopeConfig published =
      read(R"("max_position_embeddings": 256, "rope_scaling": {"type": "linear", "factor": 4.0})");
  CHECK(published.original_window() == kWindow);
  CHECK(published.extended_window() == kOnce);
  // vicuna-16k: the window stays, the extended one has a key of its own
  const RopeConfig vicuna = read(
      R"("max_position_embeddings": 64, "max_sequence_length": 256, "rope_scaling": {"type": "linear", "factor": 4.0})");
  CHECK(vicuna.original_window() == kWindow);
  CHECK(vicuna.extended_window() == kOnce);
  // an original window that the recipe states goes before that
  const RopeConfig again_stated = read(
      R"("max_position_embeddings": 128, "max_sequence_length": 256,
         "rope_scaling": {"type": "linear", "factor": 2.0, "original_max_position_embeddings": 64})");
  CHECK(again_stated.original_window() == kWindow);
  for (const RopeConfig& base : {ours, published, vicuna}) {
    const RopeConfig again = extend_rope(base, LinearRope{}, kTwice);
    CHECK(again.kind == LinearRope{.factor = 8});
    CHECK(again.original_window() == kWindow);
    CHECK(again.max_position_embeddings == kTwice);
  }
}

TEST_CASE("A base that was trained with stays: ABF and its window are what the next kind begins with") {
  const RopeConfig abf = extend_rope(plain(), AbfRope{.base = 5e5}, kOnce);
  CHECK(abf.rope_theta == 1e4);  // the record keeps the old base beside the new one
  const RopeConfig again = extend_rope(abf, YarnRope{}, kTwice);
  CHECK(again.rope_theta == 5e5);
  CHECK(again.original_window() == kOnce);
  CHECK(factor_of(again) == 2);
  CHECK(rope_origin(abf) == RopeOrigin{kOnce, 5e5});
  CHECK(extend_rope(abf, DefaultRope{}, kTwice).rope_theta == 5e5);
}

TEST_CASE("The same kind goes on with its own fields, and its factor multiplies") {
  RopeConfig yarn = plain();
  yarn.kind = YarnRope{.beta_fast = 16, .truncate = false, .variant = YarnVariant::revised};
  yarn = extend_rope(yarn, yarn.kind, kOnce);
  CHECK(factor_of(yarn) == 4);
  const RopeConfig again = extend_rope(yarn, YarnRope{}, kTwice);
  CHECK(again.kind == YarnRope{.factor = 8, .beta_fast = 16, .truncate = false, .variant = YarnVariant::revised});
  // Llama 3.1 states a factor that is not the ratio of its windows: 8 for 16 windows
  const RopeConfig llama = read(
      R"("max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})");
  const RopeConfig twice = extend_rope(llama, Llama3Rope{}, 262144);
  CHECK(factor_of(twice) == 16);
  CHECK(twice.original_window() == 8192);
  CHECK(factor_of(extend_rope(llama, YarnRope{}, 262144)) == 32);  // another kind: the ratio of the windows
  CHECK(factor_of(extend_rope(llama, Llama3Rope{}, 262144, 20)) == 20);
}

TEST_CASE("What a JSON recipe states is not overwritten, and what it leaves out comes from the model") {
  const RopeConfig stated = extend_rope(
      plain(), R"({"rope_type":"yarn","factor":4,"original_max_position_embeddings":32,"rope_theta":20000})", kOnce);
  CHECK(stated.original_window() == 32);
  CHECK(stated.rope_theta == 20000);
  CHECK(stated.max_position_embeddings == kOnce);
  CHECK(factor_of(stated) == 4);
  const RopeConfig abf = extend_rope(plain(), R"({"rope_type":"abf","base":500000})", kOnce);
  const RopeConfig left_out = extend_rope(abf, R"({"rope_type":"yarn","beta_fast":16})", kTwice);
  CHECK(left_out.rope_theta == 5e5);
  CHECK(left_out.kind == YarnRope{.factor = 2, .beta_fast = 16});
  CHECK(test::error_of([] {
          extend_rope(plain(), R"({"rope_type":"yarn","factor":4,"beta_fsat":8})", kOnce);
        }).find("rope_scaling.beta_fsat is not a field of yarn, which has factor, beta_fast") != std::string::npos);
}

TEST_CASE("An extension that would drop what a model learned, or shrink it, is refused") {
  const auto error = [](const RopeConfig& base, const RopeKind& kind, int64_t target, double factor = 0) {
    return test::error_of([&] { extend_rope(base, kind, target, factor); });
  };
  const RopeConfig clex = extend_rope(plain(), ClexRope{}, kOnce), pi = extend_rope(plain(), LinearRope{}, kOnce);
  CHECK(error(clex, YarnRope{}, kTwice).find("learned by clex") != std::string::npos);
  CHECK(error(pi, DefaultRope{}, kTwice).find("trained with scaling linear") != std::string::npos);
  CHECK(error(plain(), LinearRope{}, 32).find("at least the model's original window 64, got 32") != std::string::npos);
  CHECK(error(plain(), AbfRope{.base = 5e5}, kOnce, 4).find("no effect on scaling abf") != std::string::npos);
  CHECK(extend_rope(clex, ClexRope{}, kTwice).original_window() == kWindow);
}
