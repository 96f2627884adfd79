// What is done with a model of any family: decoding, training, resuming, extending its window.
#include <cmath>
#include <cstring>

#include "autograd/ops/loss.h"
#include "autograd/tape.h"
#include "data/demo_corpus.h"
#include "families.h"
#include "nn/adamw.h"
#include "nn/decoder.h"
#include "nn/io/checkpoint.h"
#include "nn/train_step.h"
#include "rope/positions.h"

using namespace rw;

namespace {

/// `model`'s config with another recipe, given as config.json's "rope_scaling".
void set_recipe(ModelConfig& c, const std::string& recipe) {
  const std::string text =
      cat(R"({"head_dim":)", c.head_dim, R"(,"rope_theta":)", c.rope.rope_theta, R"(,"partial_rotary_factor":)",
          c.rope.partial_rotary_factor, R"(,"max_position_embeddings":)", c.rope.max_position_embeddings,
          R"(,"rope_scaling":)", recipe, "}");
  c.rope = rope_config_from_json(text);
}

/// A recipe of every kind, for a model of these sizes.
std::vector<std::string> recipes(const ModelConfig& c) {
  const int64_t window = c.rope.max_position_embeddings;
  std::string ones, twos;
  for (int64_t i = 0; i < c.rope.rotary_dim() / 2; ++i) {
    ones += cat(i ? "," : "", 1.0 + 0.01 * static_cast<double>(i));
    twos += cat(i ? "," : "", 2.0 + 0.1 * static_cast<double>(i));
  }
  const std::string original = cat(R"("original_max_position_embeddings":)", window);
  return {R"({"rope_type":"default"})",
          R"({"rope_type":"linear","factor":4})",
          R"({"rope_type":"ntk","factor":4})",
          R"({"rope_type":"dynamic","factor":4})",
          R"({"rope_type":"dynamic_linear"})",
          R"({"rope_type":"yarn","factor":4,)" + original + "}",
          R"({"rope_type":"llama3","factor":4,"low_freq_factor":1,"high_freq_factor":4,)" + original + "}",
          R"({"rope_type":"longrope","factor":4,"short_factor":[)" + ones + R"(],"long_factor":[)" + twos + "]," +
              original + "}",
          R"({"rope_type":"clex","max_factor":4})",
          R"({"rope_type":"e2","factor":4})",
          R"({"rope_type":"abf","base":50000})"};
}

std::vector<int32_t> some_ids(int64_t count, int64_t vocab) {
  Random random(5, Purpose::test);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(vocab));
  return ids;
}

/// Stories as bytes, folded into a small vocabulary: i32 [batch, length + 1] of step `step`.
Tensor story_bytes(int64_t vocab, int64_t batch, int64_t length, uint64_t step) {
  static const std::string text = [] {
    std::string all;
    for (const Document& d : make_demo_corpus(1, 20, 4000)) all += d.text;
    return all;
  }();
  Random random(7, Purpose::test, step);
  std::vector<int32_t> ids;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t at = random.below(static_cast<int64_t>(text.size()) - length - 1);
    for (int64_t t = 0; t <= length; ++t)
      ids.push_back(static_cast<unsigned char>(text[static_cast<size_t>(at + t)]) % static_cast<int32_t>(vocab));
  }
  return Tensor::from(ids, {batch, length + 1});
}

/// One step's input with the given positions.
StepInput input_of(const Tensor& bytes, const Tensor& positions, const RopeContext& context) {
  const int64_t batch = bytes.size(0), length = bytes.size(1) - 1;
  StepInput in;
  in.ids = Tensor::empty({batch, length}, DType::i32);
  in.targets = Tensor::empty({batch, length}, DType::i32);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < length; ++t) {
      in.ids.data<int32_t>()[b * length + t] = bytes.data<int32_t>()[b * (length + 1) + t];
      in.targets.data<int32_t>()[b * length + t] = bytes.data<int32_t>()[b * (length + 1) + t + 1];
    }
  }
  in.positions = positions;
  in.context = context;
  in.scored = batch * length;
  return in;
}

/// Trains steps [from, to) on contiguous windows; the loss of the last one.
double train(CausalLm& model, AdamW& optimizer, int64_t from, int64_t to, int64_t length = 24) {
  model.enable_grad();
  TrainStep step(model, optimizer);
  double loss = 0;
  for (int64_t i = from; i < to; ++i) {
    step.add(input_of(story_bytes(model.config().vocab_size, 4, length, static_cast<uint64_t>(i)),
                      model.plain_positions(0, length), {.length = length, .training = true}));
    step.update(5e-3, 1.0);
    loss = step.result().loss;
  }
  return loss;
}

}  // namespace

TEST_CASE("prefill and single steps give every family the same hidden states for every RoPE kind") {
  for (const std::string& folder : test::family_folders()) {
    const ModelConfig config = read_hf_config(folder);
    for (const std::string& recipe : recipes(config)) {
      CAPTURE(test::name_of_folder(folder));
      CAPTURE(recipe);
      const auto model = load_hf(folder, {.adjust = [&](ModelConfig& c) { set_recipe(c, recipe); }, .seed = 3});
      // From within the attention window and the RoPE length to beyond both.
      const int64_t window = config.rope.max_position_embeddings, first = window - 3, total = window + 5;
      const std::vector<int32_t> ids = some_ids(total, config.vocab_size);
      const auto part = [&](int64_t from, int64_t to) {
        return Tensor::from(std::vector<int32_t>(ids.begin() + from, ids.begin() + to), {1, to - from});
      };
      KvCache whole = model->make_cache(1, total), steps = model->make_cache(1, total);
      model->extend(part(0, first), steps);
      std::unique_ptr<Decoder> decoder = Decoder::supports(*model, steps) ? Decoder::make(*model, steps) : nullptr;
      CHECK((decoder != nullptr) == !steps.raw_keys);
      const NoGrad no_grad;
      for (int64_t t = first; t < total; ++t) {
        whole.clear();
        const Tensor all = model->extend(part(0, t + 1), whole);                    // [1,t+1,C]
        const Tensor last = all.view({t + 1, config.hidden_size}).slice(t, t + 1);  // [1,C]
        const std::vector<double> want = model->logits(last).value().to_vector();   // [V]
        if (decoder) {
          const std::vector<float>& got = decoder->step(ids[static_cast<size_t>(t)]);
          CHECK(test::relative_error(std::vector<double>(got.begin(), got.end()), want) < 1e-4);
        } else {
          const Tensor got = model->extend(part(t, t + 1), steps);
          CHECK(test::relative_error(model->logits(got).value().to_vector(), want) < 1e-4);
        }
      }
    }
  }
}

TEST_CASE("decoding through CausalLm::extend keeps to a window and to layers without RoPE") {
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const auto model = load_hf(folder);
    const int64_t total = 30, width = model->config().hidden_size;
    const Tensor ids = Tensor::from(some_ids(total, model->config().vocab_size), {1, total});
    const NoGrad no_grad;
    const Tensor want = model->forward(ids, model->angles(model->plain_positions(0, total), {})).value();
    KvCache cache = model->make_cache(1, total);
    for (int64_t t = 0; t < total; ++t) {
      const Tensor got = model->extend(ids.view({total}).slice(t, t + 1).view({1, 1}), cache);
      CHECK(test::relative_error(got.view({1, width}), want.view({total, width}).slice(t, t + 1)) < 1e-4);
    }
  }
}

TEST_CASE("sixty steps on the stories lower the loss of every family") {
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    CausalLm model(read_hf_config(folder), DType::f32, kCpu, 11);
    AdamW optimizer(model.arena(), {.weight_decay = 0.1});
    const double before = train(model, optimizer, 0, 1);
    CHECK(train(model, optimizer, 1, 60) < before - 0.5);
  }
}

TEST_CASE("a resumed run of every family has the same weights, bit for bit") {
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const test::TempDir dir;
    CausalLm straight(read_hf_config(folder), DType::f32, kCpu, 11);
    AdamW whole(straight.arena(), {});
    train(straight, whole, 0, 4);
    save_checkpoint(dir.path(), straight, whole, {.step = 4}, 0);
    train(straight, whole, 4, 8);
    const std::string checkpoint = *latest_checkpoint(dir.path());
    CausalLm resumed(read_hf_config(checkpoint), DType::f32, kCpu, std::nullopt);
    AdamW rest(resumed.arena(), {});
    CHECK(load_checkpoint(checkpoint, resumed, rest).step == 4);
    train(resumed, rest, 4, 8);
    const Tensor &a = straight.arena().master(), &b = resumed.arena().master();
    REQUIRE(a.numel() == b.numel());
    CHECK(std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
  }
}

TEST_CASE("a parameter that is not trained stays as it is and counts for no norm") {
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const ModelConfig config = read_hf_config(folder);
    const auto run = [&](bool frozen) {
      auto model = std::make_unique<CausalLm>(config, DType::f32, kCpu, 11);
      const size_t embedding = model->arena().index_of(model->arena().segments()[0].spec.name);
      if (frozen) model->arena().set_trainable(embedding, false);
      const std::vector<double> before = model->arena().master_of(embedding).to_vector();
      AdamW optimizer(model->arena(), {.weight_decay = 0.1});
      model->enable_grad();
      TrainStep step(*model, optimizer);
      step.add(input_of(story_bytes(config.vocab_size, 2, 16, 0), model->plain_positions(0, 16),
                        {.length = 16, .training = true}));
      step.update(1e-2, 0);
      CHECK((model->arena().master_of(embedding).to_vector() == before) == frozen);
      return step.result().grad_norm;
    };
    CHECK(run(true) < run(false));
  }
}

namespace {

/// PoSE with two chunks (Zhu et al. 2023): positions of `length` tokens that jump once, and stay below `target`.
Tensor pose_positions(int64_t batch, int64_t length, int64_t target, uint64_t step) {
  Random random(9, Purpose::test, step);
  const Tensor positions = Tensor::empty({batch, length});
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t first = 1 + random.below(length - 1), jump = random.below(target - length + 1);
    for (int64_t t = 0; t < length; ++t)
      positions.data<float>()[b * length + t] = static_cast<float>(t < first ? t : t + jump);
  }
  return positions;
}

/// Mean nll of the tokens from `window` on in stories of `length` bytes.
double nll_beyond(const CausalLm& model, int64_t window, int64_t length) {
  const StepInput in = input_of(story_bytes(model.config().vocab_size, 8, length, 1000),
                                model.plain_positions(0, length), {.length = length});
  const Tensor nll = model.token_nll(in.ids, in.targets, model.angles(in.positions, in.context));
  double sum = 0;
  for (int64_t b = 0; b < 8; ++b)
    for (int64_t t = window; t < length; ++t) sum += static_cast<double>(nll.data<float>()[b * length + t]);
  return sum / static_cast<double>(8 * (length - window));
}

}  // namespace

TEST_CASE("PoSE with YaRN to four times the window lowers the perplexity of every family beyond it") {
  constexpr int64_t kWindow = 24, kTarget = 96;
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    ModelConfig config = read_hf_config(folder);
    config.rope.max_position_embeddings = kWindow;
    CausalLm base(config, DType::f32, kCpu, 11);
    AdamW base_optimizer(base.arena(), {.weight_decay = 0.1});
    train(base, base_optimizer, 0, 100, kWindow);

    set_recipe(config, cat(R"({"rope_type":"yarn","factor":4,"original_max_position_embeddings":)", kWindow, "}"));
    CausalLm extended(config, DType::f32, kCpu, std::nullopt);
    extended.arena().master().copy_from(base.arena().master());
    extended.arena().refresh();
    AdamW optimizer(extended.arena(), {.weight_decay = 0.1});
    extended.enable_grad();
    TrainStep step(extended, optimizer);
    for (uint64_t i = 0; i < 40; ++i) {
      step.add(input_of(story_bytes(config.vocab_size, 4, kWindow, 100 + i), pose_positions(4, kWindow, kTarget, i),
                        {.length = kTarget, .training = true}));
      step.update(2e-3, 1.0);
      step.result();
    }
    CHECK(nll_beyond(extended, kWindow, kTarget) < nll_beyond(base, kWindow, kTarget));
  }
}
