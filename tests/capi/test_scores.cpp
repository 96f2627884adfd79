// The C API's logits, scores, RoPE recipes and saved models, against the C++ library and against each other.
#include <cmath>
#include <filesystem>
#include <vector>

#include "autograd/tape.h"
#include "small_model.h"
#include "train/extend.h"

using namespace rw;

namespace {

const std::vector<int32_t> kIds = {0, 70, 71, 72, 10, 250, 3, 3, 99};

std::vector<float> logits_of(ropewalk_model* model, const std::vector<int32_t>& ids, size_t first = 0) {
  size_t written = 0;
  CHECK(ropewalk_logits(model, ids.data(), ids.size(), first, nullptr, 0, &written) == ROPEWALK_ERROR_BUFFER);
  std::vector<float> out(written);
  CHECK(ropewalk_logits(model, ids.data(), ids.size(), first, out.data(), out.size(), &written) == ROPEWALK_OK);
  return out;
}

std::vector<double> scores_of(ropewalk_model* model, const std::vector<int32_t>& ids, size_t first = 1) {
  std::vector<double> out(ids.size() - first);
  size_t written = 0;
  CHECK(ropewalk_score(model, ids.data(), ids.size(), first, out.data(), out.size(), &written) == ROPEWALK_OK);
  CHECK(written == out.size());
  return out;
}

std::string rope_of(const ropewalk_model* model) {
  std::string text(4096, ' ');
  size_t bytes = 0;
  CHECK(ropewalk_rope(model, text.data(), text.size(), &bytes) == ROPEWALK_OK);
  return text.substr(0, bytes);
}

std::vector<float> library_logits(const std::string& folder, const std::string& rope = "") {
  const auto model = load_hf(folder, {.adjust = [&](ModelConfig& c) { apply_rope_json(c, rope); }});
  const NoGrad no_grad;
  const auto count = static_cast<int64_t>(kIds.size());
  const Var hidden =
      model->forward(Tensor::from(kIds, {1, count}), model->angles(model->plain_positions(0, count), {}));
  const Tensor out = model->logits(hidden).value();
  return {out.data<float>(), out.data<float>() + count * model->config().vocab_size};
}

double log_prob(const std::vector<float>& row, int32_t id) {
  double sum = 0;
  for (const float x : row) sum += std::exp(static_cast<double>(x));
  return row[static_cast<size_t>(id)] - std::log(sum);
}

}  // namespace

TEST_CASE("logits through the C API are the library's, bit for bit, and rows may begin later") {
  const SmallModel folder;
  const Loaded m(folder.path());
  const std::vector<float> all = logits_of(m.model, kIds);
  CHECK(all == library_logits(folder.path()));
  const auto vocab = static_cast<size_t>(ropewalk_vocab_size(m.model));
  CHECK(all.size() == kIds.size() * vocab);
  const std::vector<float> last = logits_of(m.model, kIds, kIds.size() - 1);
  REQUIRE(last.size() == vocab);
  for (size_t v = 0; v < vocab; ++v)
    CHECK(last[v] == doctest::Approx(all[(kIds.size() - 1) * vocab + v]).epsilon(1e-5));
}

TEST_CASE("scores are the log-probabilities that the logits give") {
  const SmallModel folder;
  const Loaded m(folder.path());
  const std::vector<float> all = logits_of(m.model, kIds);
  const auto vocab = static_cast<std::ptrdiff_t>(ropewalk_vocab_size(m.model));
  const std::vector<double> scores = scores_of(m.model, kIds);
  for (size_t i = 1; i < kIds.size(); ++i) {
    const auto row = all.begin() + static_cast<std::ptrdiff_t>(i - 1) * vocab;
    CHECK(scores[i - 1] == doctest::Approx(log_prob({row, row + vocab}, kIds[i])).epsilon(1e-5));
  }
  CHECK(scores_of(m.model, kIds, 6).size() == 3);
}

TEST_CASE("logits and scores refuse what has no meaning") {
  const SmallModel folder;
  const Loaded m(folder.path());
  size_t written = 0;
  double room[8];
  const int32_t vocab = ropewalk_vocab_size(m.model);
  const std::vector<int32_t> beyond = {0, 5, vocab};
  CHECK(ropewalk_logits(m.model, beyond.data(), 3, 0, nullptr, 0, &written) == ROPEWALK_ERROR_INPUT);
  CHECK(says(cat(vocab, " at position 2")));
  CHECK(ropewalk_score(m.model, kIds.data(), 9, 0, room, 8, &written) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(says("first must be at least 1"));
  CHECK(ropewalk_score(m.model, kIds.data(), 9, 9, room, 8, &written) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_score(m.model, kIds.data(), 0, 1, room, 8, &written) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_score(m.model, kIds.data(), 9, 1, room, 7, &written) == ROPEWALK_ERROR_BUFFER);
  CHECK(written == 8);
  CHECK(ropewalk_logits(nullptr, kIds.data(), 9, 0, nullptr, 0, &written) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_logits(m.model, kIds.data(), 9, 0, nullptr, 5, &written) == ROPEWALK_ERROR_ARGUMENT);
}

TEST_CASE("a RoPE recipe given at load is used in place of the folder's") {
  const SmallModel folder;
  const Loaded plain(folder.path()), linear(folder.path(), R"({"rope_type":"linear","factor":8})");
  CHECK(rope_of(plain.model) == "null");
  CHECK(rope_of(linear.model).find("linear") != std::string::npos);
  CHECK(logits_of(linear.model, kIds) == library_logits(folder.path(), R"({"rope_type":"linear","factor":8})"));
  CHECK(logits_of(linear.model, kIds) != logits_of(plain.model, kIds));
  ropewalk_model* none = nullptr;
  const ropewalk_load_options odd{sizeof odd, nullptr, "cpu", "spiral"};
  CHECK(ropewalk_load(folder.path().c_str(), &odd, &none) == ROPEWALK_ERROR_INPUT);
  CHECK(says("spiral"));
}

TEST_CASE("extend gives a loaded model the recipe of a method, and a saved model keeps it") {
  const SmallModel folder;
  const test::TempDir out;
  const std::string saved = out.path("long");
  const Loaded m(folder.path());
  const ropewalk_setting yarn[] = {{"scaling", "yarn"}, {"target", "256"}};
  REQUIRE(ropewalk_extend(m.model, yarn, 2) == ROPEWALK_OK);
  const ModelConfig base = read_hf_config(folder.path());
  const Extension expected = extend_untrained(base, {.rope = YarnRope{}}, 256);
  CHECK(rope_of(m.model) == rope_scaling_to_json(expected.config.rope));
  CHECK(ropewalk_context_length(m.model) == 256);
  REQUIRE(ropewalk_save(m.model, saved.c_str()) == ROPEWALK_OK);
  const Loaded again(saved);
  CHECK(rope_of(again.model) == rope_of(m.model));
  CHECK(logits_of(again.model, kIds) == logits_of(m.model, kIds));
  CHECK(ropewalk_save(m.model, saved.c_str()) == ROPEWALK_ERROR_INPUT);
  CHECK(says("holds a model"));
}

TEST_CASE("extend names the setting that it does not know, and leaves the model as it was") {
  const SmallModel folder;
  const Loaded m(folder.path());
  const std::vector<float> before = logits_of(m.model, kIds);
  const auto refuse = [&](const char* name, const char* value, const char* why) {
    const ropewalk_setting settings[] = {{"target", "256"}, {name, value}};
    CHECK(ropewalk_extend(m.model, settings, 2) == ROPEWALK_ERROR_INPUT);
    CHECK(says(why));
  };
  refuse("steps", "3", "unknown setting 'steps'");
  refuse("scaling", "spiral", "spiral");
  refuse("method", "clex", "parameters of its own");
  refuse("factor", "many", "factor");
  const ropewalk_setting nothing[] = {{"target", nullptr}};
  CHECK(ropewalk_extend(m.model, nothing, 1) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_extend(m.model, nullptr, 1) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_extend(m.model, nullptr, 0) == ROPEWALK_ERROR_INPUT);
  CHECK(logits_of(m.model, kIds) == before);
}
