// Conversations that keep their keys and values, and the defaults of generation_config.json.
#include "nn/generate.h"
#include "nn/io/generation_config.h"
#include "nn/session.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;
using Ids = std::vector<int32_t>;

namespace {

ModelConfig tiny() {
  ModelConfig c;
  c.vocab_size = 20, c.hidden_size = 16, c.intermediate_size = 24, c.num_hidden_layers = 2, c.num_attention_heads = 2;
  c.rope.max_position_embeddings = 16;
  return c;
}

const GenerateOptions kGreedy{.tokens = 5, .sampling = {.temperature = 0}, .stop = {}};

Ids answered(Session& session, const Ids& ids, const GenerateOptions& options = kGreedy) {
  Ids out;
  session.answer(ids, options, [&](int32_t id) {
    out.push_back(id);
    return true;
  });
  return out;
}

Ids generated(const CausalLm& model, const Ids& ids) {
  Ids out;
  generate(model, ids, kGreedy, [&](int32_t id) {
    out.push_back(id);
    return true;
  });
  return out;
}

}  // namespace

TEST_CASE("A conversation that keeps its cache gives the answers of one that reads everything anew") {
  const CausalLm model(tiny(), DType::f32, kCpu, 3);
  Session session(model, 64);
  Ids talk = {1, 7, 9};
  for (int turn = 0; turn < 4; ++turn) {
    const Ids answer = answered(session, talk);
    CHECK(answer == generated(model, talk));
    if (turn > 0) CHECK(session.read() <= 3);  // the last token of the answer before, and what was asked since
    talk.insert(talk.end(), answer.begin(), answer.end());
    talk.push_back(4 + turn);
    talk.push_back(2);
  }
  // Another history shares the beginning alone.
  const Ids other = {1, 7, 3, 5};
  CHECK(answered(session, other) == generated(model, other));
  CHECK(session.read() == 2);
}

TEST_CASE("An answer that is stopped leaves a conversation that goes on") {
  const CausalLm model(tiny(), DType::f32, kCpu, 3);
  Session session(model, 64);
  Ids part;
  CHECK(session.answer({1, 7}, kGreedy, [&](int32_t id) {
    part.push_back(id);
    return part.size() < 2;
  }) == 2);
  const Ids next = {1, 7, part[0], part[1], 5};
  CHECK(answered(session, next) == generated(model, next));
  CHECK(answered(session, next) == generated(model, next));  // asked again
  CHECK(session.read() == 1);
}

TEST_CASE("A conversation ends where its room does") {
  const CausalLm model(tiny(), DType::f32, kCpu, 3);
  Session session(model, 6);
  CHECK(answered(session, {1, 2, 3, 4}).size() == 3);
  CHECK(test::error_of([&] {
          answered(session, {1, 2, 3, 4, 5, 6});
        }).find("there is room for 6") != std::string::npos);
  CHECK(test::error_of([&] { answered(session, {}); }).find("nothing to answer") != std::string::npos);
}

TEST_CASE("generation_config.json names ends and sampling, and what is wrong in it") {
  const test::TempDir dir;
  CHECK(read_generation_config(dir.path()).eos.empty());
  const auto read = [&](const std::string& json) {
    write_file_atomic(dir.path("generation_config.json"), json);
    return read_generation_config(dir.path());
  };
  const GenerationConfig all =
      read(R"({"eos_token_id": [3, 5], "temperature": 0.6, "top_p": 0.9, "top_k": 20, "do_sample": true})");
  CHECK(all.eos == Ids{3, 5});
  CHECK(all.temperature == 0.6);
  CHECK(all.top_p == 0.9);
  CHECK(all.top_k == 20);
  CHECK(all.do_sample == true);
  CHECK(read(R"({"eos_token_id": 7, "top_k": null})").eos == Ids{7});
  CHECK(read(R"({"temperature": 0})").temperature == 0);
  CHECK(all.unused.empty());
  CHECK(read(R"({"repetition_penalty": 1.05, "num_beams": 1, "min_p": null})").unused ==
        std::vector<std::string>{"repetition_penalty 1.05"});
  const auto refused = [&](const std::string& json, const char* part) {
    CHECK(test::error_of([&] { read(json); }).find(part) != std::string::npos);
  };
  refused("[1]", "must be a JSON object");
  refused(R"({"eos_token_id": "x"})", "eos_token_id");
  refused(R"({"temperature": -1})", "temperature");
  refused(R"({"top_p": 1.5})", "top_p");
  refused(R"({"top_k": 1.5})", "top_k");
  refused(R"({"do_sample": 1})", "do_sample");
}
