// Every family on the GPU: transformers' logits, loss and gradients in f32; bf16 no further off
// than twice the CPU's; and decoding over a cache.
#include "autograd/ops/loss.h"
#include "autograd/tape.h"
#include "gpu.h"
#include "models.h"
#include "nn/causal_lm.h"
#include "nn/decoder.h"
#include "nn/families.h"

using namespace rw;
using test::kGpu;

namespace {

Tensor logits_of(const CausalLm& model, const SafetensorsFile& expect) {
  const NoGrad no_grad;
  const RopeAngles angles = model.angles(expect.load("positions").to(DType::f32), {});
  return model.logits(model.forward(expect.load("ids").to(model.device()), angles)).value();
}

/// The mean loss, with its gradients in the arena.
double loss_and_gradients(CausalLm& model, const SafetensorsFile& expect) {
  model.enable_grad();
  const Tensor ids = expect.load("ids"), targets = test::next_tokens(ids);
  const double count = static_cast<double>(ids.size(0) * (ids.size(1) - 1));
  const RopeAngles angles = model.angles(expect.load("positions").to(DType::f32), {});
  const Var loss = model.loss(ids.to(model.device()), targets.to(model.device()), angles);
  backward(loss, Tensor::full({1}, 1 / count, loss.dtype(), model.device()));
  return loss.item() / count;
}

}  // namespace

TEST_CASE("on the GPU logits, loss and gradients of every family are transformers' in f32") {
  if (!test::has_gpu()) return;
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const SafetensorsFile expect(folder + "/expect.safetensors");
    const auto model = load_hf(folder, {.compute = DType::f32, .device = kGpu}), cpu = load_hf(folder);
    CHECK(test::relative_error(logits_of(*model, expect), expect.load("logits")) < 2e-5);
    const double loss = loss_and_gradients(*model, expect), want = loss_and_gradients(*cpu, expect);
    CHECK(loss == doctest::Approx(expect.load("loss").item()).epsilon(1e-5));
    CHECK(loss == doctest::Approx(want).epsilon(1e-5));
    for (size_t i = 0; i < model->arena().size(); ++i) {  // the CPU's are compared with transformers' in tests/nn
      CAPTURE(model->arena().segments()[i].spec.name);
      CHECK(test::relative_error(model->arena()[i].grad(), cpu->arena()[i].grad()) < 1e-4);
    }
  }
}

TEST_CASE("on the GPU every family in bf16 is at most twice as far off as the CPU, and repeats its bits") {
  if (!test::has_gpu()) return;
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const SafetensorsFile expect(folder + "/expect.safetensors");
    const auto exact = load_hf(folder);
    const auto model = load_hf(folder, {.compute = DType::bf16, .device = kGpu}),
               again = load_hf(folder, {.compute = DType::bf16, .device = kGpu}),
               cpu = load_hf(folder, {.compute = DType::bf16});
    const Tensor logits = logits_of(*model, expect);
    CHECK(test::relative_error(logits, expect.load("logits")) <=
          std::max(2 * test::relative_error(logits_of(*cpu, expect), expect.load("logits")),
                   test::rounding(DType::bf16)));
    CHECK(test::same_bits(logits, logits_of(*again, expect)));
    const double loss = loss_and_gradients(*model, expect);
    CHECK(loss == loss_and_gradients(*again, expect));
    CHECK(loss == doctest::Approx(expect.load("loss").item()).epsilon(0.02));
    loss_and_gradients(*exact, expect);
    loss_and_gradients(*cpu, expect);
    // Some gradients nearly cancel (a bias of the keys moves all scores of a query alike), and one rounding more or
    // less shows: what is allowed is twice the CPU's worst over all parameters.
    double plain = test::rounding(DType::bf16);
    for (size_t i = 0; i < model->arena().size(); ++i)
      plain = std::max(plain, test::relative_error(cpu->arena()[i].grad(), exact->arena()[i].grad()));
    for (size_t i = 0; i < model->arena().size(); ++i) {
      CAPTURE(model->arena().segments()[i].spec.name);
      const Tensor got = model->arena()[i].grad();
      CHECK(test::relative_error(got, exact->arena()[i].grad()) <= 2 * plain);
      CHECK(test::same_bits(got, again->arena()[i].grad()));
    }
  }
}

TEST_CASE("on the GPU decoding every family over a cache gives the logits of one pass") {
  if (!test::has_gpu()) return;
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const SafetensorsFile expect(folder + "/expect.safetensors");
    const auto model = load_hf(folder, {.compute = DType::f32, .device = kGpu});
    const int64_t total = 30, first = 20, width = model->config().hidden_size;
    std::vector<int32_t> drawn;
    for (int32_t i = 0; i < total; ++i)
      drawn.push_back(3 + i * 29 % static_cast<int32_t>(model->config().vocab_size - 3));
    const Tensor ids = Tensor::from(drawn, {1, total});
    const auto part = [&](int64_t a, int64_t b) { return ids.view({total}).slice(a, b).view({1, b - a}).to(kGpu); };
    const NoGrad no_grad;
    const RopeAngles angles = model->angles(model->plain_positions(0, total), {.length = total});
    const Tensor want = model->logits(model->forward(part(0, total), angles)).value().view({total, -1});
    KvCache cache = model->make_cache(1, total);
    model->extend(part(0, first), cache);
    std::unique_ptr<Decoder> decoder = Decoder::supports(*model, cache) ? Decoder::make(*model, cache) : nullptr;
    for (int64_t t = first; t < total; ++t) {
      const std::vector<double> row = want.slice(t, t + 1).to_vector();
      if (decoder) {
        const std::vector<float>& got = decoder->step(drawn[static_cast<size_t>(t)]);
        CHECK(test::relative_error(std::vector<double>(got.begin(), got.end()), row) < 1e-4);
      } else {
        const Tensor got = model->extend(part(t, t + 1), cache).view({1, width});
        CHECK(test::relative_error(model->logits(got).value().to_vector(), row) < 1e-4);
      }
    }
  }
}
