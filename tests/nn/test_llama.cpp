#include <cmath>
#include <filesystem>
#include <fstream>

#include "autograd/ops/loss.h"
#include "autograd/tape.h"
#include "models.h"
#include "nn/adamw.h"
#include "nn/causal_lm.h"
#include "nn/decoder.h"
#include "nn/generate.h"
#include "nn/io/hf.h"
#include "nn/io/llama2c.h"
#include "nn/schedule.h"
#include "support.h"
#include "tensor/file.h"
#include "tensor/threads.h"

using namespace rw;

namespace {

void load_golden(CausalLm& model) {
  assign_weights(model, [](const std::string& name) { return test::golden("golden_llama").load("weights/" + name); });
}

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 50, c.hidden_size = 32, c.intermediate_size = 48, c.num_hidden_layers = 2, c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.rope.max_position_embeddings = 16;
  return c;
}

Tensor some_ids(int64_t batch, int64_t length, int64_t vocab, uint64_t seed) {
  Random random(seed, Purpose::test);
  std::vector<int32_t> ids(static_cast<size_t>(batch * length));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(vocab));
  return Tensor::from(ids, {batch, length});
}

int64_t scored(const Tensor& targets) {
  int64_t n = 0;
  for (double t : targets.to_vector()) n += t != kIgnoreIndex;
  return n;
}

}  // namespace

TEST_CASE("logits, loss and all gradients of the reference LLaMA are met in f64 and f32") {
  const SafetensorsFile& g = test::golden("golden_llama");
  for (const DType dtype : {DType::f64, DType::f32}) {
    CausalLm model(test::golden_config(), dtype, kCpu, std::nullopt);
    load_golden(model);
    model.enable_grad();
    const bool f64 = dtype == DType::f64;
    const Tensor ids = g.load("base/input_ids"), targets = test::next_tokens(g.load("base/labels"));
    const RopeAngles angles = model.angles(g.load("base/position_ids").to(DType::f32), {});
    {
      const NoGrad no_grad;
      const Tensor logits = model.logits(model.forward(ids, angles)).value();
      CHECK(test::relative_error(logits, g.load("base64/logits")) < (f64 ? 1e-10 : 1e-5));
    }
    const double n = static_cast<double>(scored(targets));
    const Var loss = model.loss(ids, targets, angles);
    CHECK(std::abs(loss.item() / n - g.load("base64/loss").item()) < (f64 ? 1e-10 : 1e-5));
    backward(loss, Tensor::full({1}, 1 / n, dtype));
    for (size_t i = 0; i < model.arena().size(); ++i) {
      const std::string name = model.arena().segments()[i].spec.name;
      CAPTURE(name);
      CHECK(test::relative_error(model.arena()[i].grad(), g.load("base64/grad." + name)) < (f64 ? 1e-8 : 2e-5));
    }
  }
}

TEST_CASE("three AdamW steps follow the reference trajectory") {
  const SafetensorsFile& g = test::golden("golden_llama");
  ModelConfig config = test::golden_config();
  CausalLm model(config, DType::f32, kCpu, std::nullopt);
  load_golden(model);
  // The reference decays every parameter, norms too.
  ParamArena& arena = model.arena();
  for (const auto& s : arena.segments()) const_cast<ParamArena::Segment&>(s).spec.decay = true;
  model.enable_grad();
  AdamW optimizer(arena, {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1});
  const RopeAngles angles = model.angles(g.load("base/position_ids").to(DType::f32), {});
  const std::vector<double> losses = g.load("adamw/losses").to_vector(), norms = g.load("adamw/grad_norms").to_vector();
  for (int step = 0; step < 4; ++step) {
    const Tensor ids = g.load("adamw/input_ids." + std::to_string(step)),
                 targets = test::next_tokens(g.load("adamw/labels." + std::to_string(step)));
    const double n = static_cast<double>(scored(targets));
    const Var loss = model.loss(ids, targets, angles);
    CHECK(loss.item() / n == doctest::Approx(losses[size_t(step)]).epsilon(1e-5));
    if (step == 3) break;
    backward(loss);
    CHECK(optimizer.step(1e-3, 1 / n, 1.0) == doctest::Approx(norms[size_t(step)]).epsilon(1e-5));
  }
  Tape::current().clear();
  for (const std::string name :
       {"model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"}) {
    CHECK(test::relative_error(arena.master_of(arena.index_of(name)), g.load("adamw/param." + name)) < 1e-5);
  }
  const size_t q0 = arena.index_of("model.layers.0.self_attn.q_proj.weight");
  const auto& s = arena.segments()[q0];
  CHECK(test::relative_error(arena.m().slice(s.offset, s.offset + s.numel), g.load("adamw/exp_avg.q0")) < 1e-4);
  CHECK(test::relative_error(arena.v().slice(s.offset, s.offset + s.numel), g.load("adamw/exp_avg_sq.q0")) < 1e-4);
}

TEST_CASE("AdamW alone follows the reference trajectory with and without decay") {
  const SafetensorsFile& g = test::golden("golden_ops");
  for (const std::string wd : {"0", "0.1"}) {
    const std::string name = "adamw_wd" + wd;
    ParamArena arena;
    const Tensor p0 = g.load(name + "/p0"), grads = g.load(name + "/grads");
    arena.add({"p", p0.shape(), {}, true});
    arena.allocate(DType::f64, kCpu, std::nullopt);
    arena.master_of(0).copy_from(p0);
    AdamW optimizer(arena, {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = std::stod(wd)});
    const Tensor want = g.load(name + "/traj.f64");
    for (int64_t i = 0; i < 5; ++i) {
      arena[0].grad().copy_from(grads.slice(i, i + 1).view(p0.shape()));
      optimizer.step(3e-3);
      CHECK(test::relative_error(arena.master_of(0), want.slice(i, i + 1).view(p0.shape())) < 1e-12);
    }
    CHECK(arena.grad().to_vector()[0] == 0);
  }
}

TEST_CASE("the logits of every RoPE kind equal HF's") {
  const SafetensorsFile& g = test::golden("golden_rope");
  struct Kind {
    std::string name, json;
  };
  const std::string yarn = R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":64)";
  const std::string longrope =
      R"({"rope_type":"longrope","factor":4.0,"original_max_position_embeddings":64,"short_factor":[1.0,1.02,1.05,1.1,1.2,1.3,1.5,1.7],"long_factor":[1.0,1.3,1.9,2.6,3.1,3.7,4.0,4.4]})";
  const std::string dynamic = R"({"rope_type":"dynamic","factor":4.0})";
  const std::vector<Kind> kinds = {
      {"default", "null"},
      {"linear4", R"({"rope_type":"linear","factor":4.0})"},
      {"dynamic4_pose", dynamic},
      {"dynamic4_T96", dynamic},
      {"dynamic4_inside", dynamic},
      {"yarn4", yarn + "}"},
      {"yarn4_beta", yarn + R"(,"beta_fast":1.5,"beta_slow":0.2})"},
      {"llama3_8",
       R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64})"},
      {"longrope_long", longrope},
      {"longrope_short", longrope}};
  for (const Kind& kind : kinds) {
    if (!g.contains(kind.name + "/logits")) continue;
    CAPTURE(kind.name);
    const bool extended = kind.json.find("original") != std::string::npos;
    ModelConfig config = test::golden_config();
    config.rope = rope_config_from_json(cat(R"({"rope_theta":10000.0,"head_dim":16,"max_position_embeddings":)",
                                            extended ? 256 : 64, R"(,"rope_scaling":)", kind.json, "}"));
    CausalLm model(config, DType::f32, kCpu, std::nullopt);
    load_golden(model);
    const NoGrad no_grad;
    const RopeAngles angles = model.angles(g.load(kind.name + "/position_ids").to(DType::f32), {});
    const Tensor logits = model.logits(model.forward(g.load(kind.name + "/input_ids"), angles)).value();
    CHECK(test::relative_error(logits, g.load(kind.name + "/logits")) < 2e-5);
  }
}

TEST_CASE("prefill of n + m equals prefill of n and m single steps for every RoPE kind") {
  for (
      const std::string scaling :
      {R"(null)", R"({"rope_type":"linear","factor":4.0})", R"({"rope_type":"ntk","factor":4.0})",
       R"({"rope_type":"dynamic","factor":2.0})", R"({"rope_type":"dynamic_linear"})",
       R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":16})",
       R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":16})",
       R"({"rope_type":"longrope","factor":4.0,"original_max_position_embeddings":16,"short_factor":[1,1,1,1.1],"long_factor":[1,2,3,4]})",
       R"({"rope_type":"clex","max_factor":4})", R"({"rope_type":"e2","factor":0})",
       R"({"rope_type":"resonance","factor":4,"original_max_position_embeddings":16})",
       R"({"rope_type":"proportional","partial_rotary_factor":0.5})", R"({"rope_type":"nope"})",
       R"({"rope_type":"default","logn_scaling":"ssmax"})",
       R"({"rope_type":"self_extend","group":4,"neighbours":6,"original_max_position_embeddings":16})",
       R"({"rope_type":"self_extend","group":2,"neighbours":11,"original_max_position_embeddings":16,"logn_scaling":"position"})",
       R"({"rope_type":"dca","chunk":7,"original_max_position_embeddings":16})"}) {
    CAPTURE(scaling);
    ModelConfig config = small_config();
    config.rope =
        rope_config_from_json(cat(R"({"head_dim":8,"max_position_embeddings":16,"rope_scaling":)", scaling, "}"));
    CausalLm model(config, DType::f64, kCpu, 3);
    const Tensor ids = some_ids(2, 37, 50, 1);
    KvCache whole = model.make_cache(2, 40), grown = model.make_cache(2, 40);
    const Tensor want = model.extend(ids, whole);  // [2,37,C]
    // n = 9 (inside the window of 16), then one by one across it
    const auto columns = [&](int64_t begin, int64_t end) {
      std::vector<int32_t> part;
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t t = begin; t < end; ++t) part.push_back(ids.data<int32_t>()[b * 37 + t]);
      return Tensor::from(part, {2, end - begin});
    };
    Tensor last = model.extend(columns(0, 9), grown);
    for (int64_t t = 9; t < 37; ++t) last = model.extend(columns(t, t + 1), grown);  // [2,1,C]
    const int64_t width = want.size(2);
    std::vector<double> want_last, got = last.to_vector();
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t c = 0; c < width; ++c) want_last.push_back(want.data<double>()[(b * 37 + 36) * width + c]);
    CHECK(test::relative_error(got, want_last) < 1e-10);
    // And the cached path equals the training path.
    const NoGrad no_grad;
    const Tensor plain = model.forward(ids, model.angles(model.plain_positions(0, 37), {.length = 37})).value();
    CHECK(test::relative_error(want, plain) < 1e-10);
  }
}

TEST_CASE("a bf16 copy of the weights changes nothing for a bf16 model and is refused for another unless asked for") {
  CausalLm model(small_config(), DType::f32, kCpu, 3);
  const auto text = [&] {
    std::vector<int32_t> ids;
    generate(model, {1, 2, 3}, {.tokens = 12, .sampling = {.temperature = 0}, .stop = {}}, [&](int32_t id) {
      ids.push_back(id);
      return true;
    });
    return ids;
  };
  CHECK_FALSE(model.use_bf16_copy());
  model.arena().master().copy_from(model.arena().master().to(DType::bf16));
  const std::vector<int32_t> before = text();
  CHECK(model.use_bf16_copy());
  CHECK(text() == before);
}

TEST_CASE(
    "the decoder gives the logits of extend, for both rope layouts, grouped heads, log-n and a bf16 copy of the "
    "weights") {
  for (const char* scaling : {R"({"rope_type":"default"})", R"({"rope_type":"yarn","factor":4.0})",
                              R"({"rope_type":"default","logn_scaling":"position"})"}) {
    for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
      ModelConfig config = small_config();
      config.rope_layout = layout;
      config.rope =
          rope_config_from_json(cat(R"({"head_dim":8,"max_position_embeddings":16,"rope_scaling":)", scaling, "}"));
      CausalLm model(config, DType::f32, kCpu, 3);
      for (const bool bf16_copy : {false, true}) {
        if (bf16_copy) model.use_bf16_copy(true);
        const Tensor ids = some_ids(1, 24, config.vocab_size, 2);
        KvCache slow = model.make_cache(1, 24), fast = model.make_cache(1, 24);
        const auto part = [&](int64_t a, int64_t b) {
          return Tensor::from(std::vector<int32_t>(ids.data<int32_t>() + a, ids.data<int32_t>() + b), {1, b - a});
        };
        const NoGrad no_grad;
        model.extend(part(0, 7), slow);
        model.extend(part(0, 7), fast);
        const auto decoder = Decoder::make(model, fast);
        for (int64_t t = 7; t < 24; ++t) {
          const Tensor want = model.logits(model.extend(part(t, t + 1), slow)).value();
          const std::vector<float>& got = decoder->step(ids.data<int32_t>()[t]);
          CHECK(test::relative_error(std::vector<double>(got.begin(), got.end()), want.to_vector()) < 2e-6);
        }
        CHECK(fast.length == 24);
        CHECK_THROWS_WITH_AS(decoder->step(1), doctest::Contains("full"), Error);
      }
    }
  }
}

TEST_CASE("CLEX with a zero down-projection is dynamic NTK with s = 2t - 1") {
  for (const int64_t t : {2, 3, 4}) {
    ModelConfig config = small_config();
    config.rope = rope_config_from_json(
        R"({"head_dim":8,"max_position_embeddings":16,"rope_scaling":{"rope_type":"clex","max_factor":8}})");
    CausalLm clex(config, DType::f64, kCpu, 4);
    config.rope = rope_config_from_json(
        R"({"head_dim":8,"max_position_embeddings":16,"rope_scaling":{"rope_type":"dynamic","factor":2.0}})");
    CausalLm dynamic(config, DType::f64, kCpu, 5);
    assign_weights(dynamic,
                   [&](const std::string& name) { return clex.arena().master_of(clex.arena().index_of(name)); });
    const Tensor ids = some_ids(1, 16 * t, 50, 1);
    const NoGrad no_grad;
    const auto logits = [&](const CausalLm& m) {
      return m.logits(m.forward(ids, m.angles(m.plain_positions(0, 16 * t), {.length = 16 * t}))).value();
    };
    CAPTURE(t);
    CHECK(test::relative_error(logits(clex), logits(dynamic)) < 1e-5);
  }
}

TEST_CASE("recomputing blocks in backward changes memory, not gradients") {
  CausalLm model(small_config(), DType::f64, kCpu, 1);
  model.enable_grad();
  const Tensor ids = some_ids(2, 12, 50, 1), targets = some_ids(2, 12, 50, 2);
  const auto gradients = [&](bool recompute) {
    model.arena().zero_grad();
    model.set_recompute(recompute);
    backward(model.loss(ids, targets, model.angles(model.plain_positions(0, 12), {})));
    return model.arena().grad().to_vector();
  };
  CHECK(gradients(false) == gradients(true));
}

TEST_CASE("both RoPE layouts give the same logits once q and k rows are permuted") {
  ModelConfig config = small_config();
  CausalLm half(config, DType::f64, kCpu, 5);
  config.rope_layout = RopeLayout::interleaved;
  CausalLm interleaved(config, DType::f64, kCpu, 6);
  assign_weights(interleaved, [&](const std::string& name) {
    const Tensor w = half.arena().master_of(half.arena().index_of(name));
    if (name.find("q_proj") != std::string::npos) return half_to_interleaved(w, 4);
    if (name.find("k_proj") != std::string::npos) return half_to_interleaved(w, 2);
    return w;
  });
  const Tensor ids = some_ids(1, 14, 50, 1);
  const NoGrad no_grad;
  const auto logits = [&](const CausalLm& m) {
    return m.logits(m.forward(ids, m.angles(m.plain_positions(0, 14), {}))).value();
  };
  CHECK(test::relative_error(logits(half), logits(interleaved)) < 1e-12);
  const Tensor w = test::randn({16, 3}, 1);
  CHECK(interleaved_to_half(half_to_interleaved(w, 2), 2).to_vector() == w.to_vector());
}

TEST_CASE("a model saved in HF layout reads back to the same logits, sharded or not") {
  for (const bool tied : {true, false}) {
    for (const int64_t shard_bytes : {int64_t{1} << 30, int64_t{8000}}) {
      const test::TempDir dir;
      ModelConfig config = small_config();
      config.tie_word_embeddings = tied;
      config.rope = rope_config_from_json(
          R"({"head_dim":8,"max_position_embeddings":64,"rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":16}})");
      CausalLm model(config, DType::f32, kCpu, 5);
      save_hf(dir.path("m"), model, {.max_shard_bytes = shard_bytes});
      const auto again = load_hf(dir.path("m"));
      CHECK(again->config().rope.rope_type() == "yarn");
      const Tensor ids = some_ids(1, 40, 50, 1);
      const NoGrad no_grad;
      const auto logits = [&](const CausalLm& m) {
        return m.logits(m.forward(ids, m.angles(m.plain_positions(0, 40), {}))).value().to_vector();
      };
      CHECK(logits(model) == logits(*again));
      CHECK(std::filesystem::exists(dir.path("m/model.safetensors.index.json")) == (shard_bytes == 8000));
    }
  }
}

TEST_CASE("loading a model says what is missing or does not fit") {
  const test::TempDir dir;
  CausalLm model(small_config(), DType::f32, kCpu, 5);
  save_hf(dir.path("m"), model);
  CHECK(test::error_of([&] { load_hf(dir.path("none")); }).find("there is no model folder") != std::string::npos);
  const std::string config = read_file(dir.path("m/config.json"));
  const auto with_config = [&](const std::string& text) {
    write_file_atomic(dir.path("m/config.json"), text);
    return test::error_of([&] { load_hf(dir.path("m")); });
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = config;
    return text.replace(text.find(from), from.size(), to);
  };
  CHECK(with_config("{").find("not a JSON object") != std::string::npos);
  CHECK(with_config(replaced("\"hidden_size\": 32", "\"hidden_size\": \"32\""))
            .find("'hidden_size' must be an integer") != std::string::npos);
  CHECK(with_config(replaced("\"hidden_size\": 32,", "")).find("no 'hidden_size'") != std::string::npos);
  CHECK(with_config(replaced("\"attention_bias\": false", "\"attention_bias\": true"))
            .find("no tensor 'model.layers.0.self_attn.q_proj.bias'") != std::string::npos);
  CHECK(with_config(replaced("\"vocab_size\": 50", "\"vocab_size\": 51"))
            .find("'model.embed_tokens.weight' must have shape [51, 32], got [50, 32]") != std::string::npos);
  CHECK(with_config(replaced("\"rope_scaling\": null", R"("rope_scaling": {"rope_type": "spiral"})")).find("spiral") !=
        std::string::npos);
  write_file_atomic(dir.path("m/config.json"), config);
  std::filesystem::resize_file(dir.path("m/model.safetensors"), 1000);
  CHECK(test::error_of([&] { load_hf(dir.path("m")); }).find("model.safetensors") != std::string::npos);
  std::filesystem::remove(dir.path("m/model.safetensors"));
  CHECK(test::error_of([&] { load_hf(dir.path("m")); }).find("neither") != std::string::npos);
}

TEST_CASE("a truncated or garbled llama2.c checkpoint is refused") {
  const test::TempDir dir;
  const auto error = [&](std::vector<int32_t> header, size_t more) {
    std::ofstream out(dir.path("x.bin"), std::ios::binary);
    out.write(reinterpret_cast<const char*>(header.data()), static_cast<std::streamsize>(header.size() * 4));
    out << std::string(more, '\0');
    out.close();
    return test::error_of([&] { load_llama2c(dir.path("x.bin")); });
  };
  CHECK(error({64, 172}, 0).find("too short") != std::string::npos);
  CHECK(error({64, 172, 5, 8, 4, 512, 512}, 5000).find("truncated") != std::string::npos);
  CHECK(error({64, -172, 5, 8, 4, 512, 512}, 5000).find("hidden_dim = -172") != std::string::npos);
  CHECK(error({1 << 24, 1 << 24, 1 << 24, 8, 4, 512, 512}, 5000).find("truncated") != std::string::npos);
  CHECK(error({8, 8, 1, 2, 2, 4, 4}, 100000).find("left over") != std::string::npos);
}

TEST_CASE("sampling keeps the top k, the top p, and the smallest id on ties") {
  const std::vector<float> logits = {1, 3, 3, 0, -5};
  CHECK(sample_token(logits, {.temperature = 0}, 0) == 1);
  for (uint64_t step = 0; step < 200; ++step) {
    CHECK(sample_token(logits, {.top_k = 2, .seed = 1}, step) <= 2);
    CHECK(sample_token(logits, {.top_k = 2, .seed = 1}, step) >= 1);
    CHECK(sample_token(logits, {.top_p = 0.4, .seed = 1}, step) == 1);
    CHECK(sample_token(logits, {.seed = 1}, step) == sample_token(logits, {.seed = 1}, step));
  }
  CHECK(test::error_of([&] {
          sample_token({NAN, NAN}, {.temperature = 0}, 0);
        }).find("largest logit") != std::string::npos);
  CHECK(test::error_of([&] { sample_token(logits, {.top_p = 0}, 0); }).find("top_p") != std::string::npos);
}

TEST_CASE("schedules warm up and end where they say") {
  const Schedule cosine{.kind = "cosine", .lr = 1.0, .warmup = 10, .min_ratio = 0.1, .steps = 100};
  CHECK(cosine(0) == doctest::Approx(0.1));
  CHECK(cosine(9) == doctest::Approx(1.0));
  CHECK(cosine(10) == doctest::Approx(1.0));
  CHECK(cosine(99) == doctest::Approx(0.1));
  const Schedule pi{.kind = "constant", .lr = 1.0, .warmup = 20, .warmup_start = 0.1, .steps = 100};
  CHECK(pi(0) == doctest::Approx(0.145));
  CHECK(pi(50) == 1.0);
  CHECK(Schedule{.kind = "linear", .lr = 1, .min_ratio = 0, .steps = 11}(5) == doctest::Approx(0.5));
  CHECK(test::error_of([] { Schedule{.kind = "spiral"}(0); }).find("spiral") != std::string::npos);
}

TEST_CASE("a gradient that is not finite leaves the parameters as they were") {
  CausalLm model(small_config(), DType::f32, kCpu, 5);
  AdamW optimizer(model.arena(), {});
  const std::vector<double> before = model.arena().master().to_vector();
  model.arena().grad().fill(NAN);
  CHECK_FALSE(std::isfinite(optimizer.step(1e-3)));
  CHECK(model.arena().master().to_vector() == before);
  CHECK(optimizer.steps() == 0);
}

TEST_CASE("the norm of the gradients counts every one of them once, however many there are") {
  for (const int64_t n : {1, 31, 32, 33, 100, 16384, 16385, 40001}) {
    CAPTURE(n);
    ParamArena arena;
    arena.add({"w", {n}, constant_init(1), false});
    arena.allocate(DType::f32, kCpu, 0);
    AdamW optimizer(arena, {});
    double want = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float g = static_cast<float>(i % 13 + 1);
      arena.grad().data<float>()[i] = g;
      want += double{g} * g;
    }
    CHECK(optimizer.step(1e-3) == std::sqrt(want));  // sums of whole numbers are exact
  }
}

TEST_CASE("parameters with decay are decayed and the others are not") {
  ParamArena arena;
  arena.add({"w", {4}, constant_init(1), true});
  arena.add({"norm", {4}, constant_init(1), false});
  arena.allocate(DType::f32, kCpu, 0);
  AdamW optimizer(arena, {.weight_decay = 0.5});
  optimizer.step(0.1);
  CHECK(arena.master_of(0).to_vector()[0] == doctest::Approx(0.95));
  CHECK(arena.master_of(1).to_vector()[0] == 1.0);
}

TEST_CASE("training steps and decoded logits do not depend on the number of threads") {
  ModelConfig c;  // large enough for the optimizer and the decoder to take five threads
  c.vocab_size = 9001, c.hidden_size = 72, c.intermediate_size = 200, c.num_hidden_layers = 2;
  c.num_attention_heads = 6, c.num_key_value_heads = 3, c.head_dim = 24;
  const auto run = [&](int threads) {
    const int before = thread_count();
    set_thread_count(threads);
    CausalLm model(c, DType::f32, kCpu, 1);
    model.enable_grad();
    AdamW optimizer(model.arena(), {.weight_decay = 0.1});
    std::vector<double> numbers;
    const Tensor ids = some_ids(2, 37, c.vocab_size, 1), targets = some_ids(2, 37, c.vocab_size, 2);
    for (int step = 0; step < 2; ++step) {
      const Var loss = model.loss(ids, targets, model.angles(model.plain_positions(0, 37), {}));
      numbers.push_back(loss.item());
      backward(loss);
      numbers.push_back(optimizer.step(1e-3, 1.0 / 74, 1.0));
    }
    for (double v : model.arena().master().to_vector()) numbers.push_back(v);
    KvCache cache = model.make_cache(1, 64);
    const auto decoder = Decoder::make(model, cache);
    for (int32_t id = 0; id < 5; ++id) {
      for (float v : decoder->step(id)) numbers.push_back(v);
    }
    set_thread_count(before);
    return numbers;
  };
  const std::vector<double> one = run(1);
  for (int threads : {2, 3, 5}) {
    const bool same = run(threads) == one;
    CHECK(same);
  }
}
