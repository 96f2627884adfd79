// A real checkpoint of llama2.c: logits and losses as its own program computes them.
#include <cmath>
#include <sstream>

#include "autograd/tape.h"
#include "nn/io/hf.h"
#include "nn/io/llama2c.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

std::vector<int32_t> comma_ids(const std::string& text) {
  std::vector<int32_t> ids;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) ids.push_back(std::stoi(part));
  return ids;
}

/// Positions 0, s, 2s, ... as the references' "position scale" s.
RopeAngles scaled_angles(const CausalLm& model, int64_t count, double s) {
  Tensor p = Tensor::empty({1, count});
  for (int64_t i = 0; i < count; ++i) p.data<float>()[i] = static_cast<float>(s * static_cast<double>(i));
  return model.angles(p, {.length = count});
}

std::vector<double> floats(const std::string& path) {
  const std::string bytes = read_file(path);
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return {values.begin(), values.end()};
}

}  // namespace

TEST_CASE(
    "stories260K: logits within 1e-4 at plain and at interpolated positions, in both layouts and after a round trip") {
  const std::string bin = test::shared_data("models/stories260K.bin"), folder = test::shared_data("llama2c");
  if (bin.empty() || folder.empty()) return;
  const std::vector<int32_t> list = comma_ids(read_file(folder + "/p1.tokens"));
  const Tensor ids = Tensor::from(list, {1, static_cast<int64_t>(list.size())});
  const test::TempDir dir;
  const auto imported = load_llama2c(bin), interleaved = load_llama2c(bin, DType::f32, kCpu, true);
  save_hf(dir.path("m"), *imported);
  const auto again = load_hf(dir.path("m"));
  const NoGrad no_grad;
  for (const auto& [file, s] :
       {std::pair{"/stories260K_logits_p1.f32", 1.0}, {"/stories260K_logits_p1_pi4.f32", 0.25}}) {
    const std::vector<double> want = floats(folder + file);
    for (const CausalLm* model : {imported.get(), interleaved.get(), again.get()}) {
      const std::vector<double> got =
          model->logits(model->forward(ids, scaled_angles(*model, ids.size(1), s))).value().to_vector();
      REQUIRE(got.size() == want.size());
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - want[i]));
      CHECK(worst < 1e-4);
    }
  }
}

TEST_CASE("stories260K: the loss of every token within 1e-3 at four position scales") {
  const std::string bin = test::shared_data("models/stories260K.bin"), folder = test::shared_data("llama2c");
  if (bin.empty() || folder.empty()) return;
  const auto model = load_llama2c(bin);
  for (const std::string scale : {"1.0", "0.5", "0.25", "0.125"}) {
    std::istringstream in(read_file(folder + "/stories260K_nll_p2_scale" + scale + ".tsv"));
    std::string header;
    std::getline(in, header);
    std::vector<int32_t> ids = {1}, targets;  // BOS first
    std::vector<double> want;
    int64_t position;
    int32_t token;
    double nll;
    while (in >> position >> token >> nll) {
      targets.push_back(token);
      ids.push_back(token);
      want.push_back(nll);
    }
    ids.pop_back();
    const int64_t n = static_cast<int64_t>(ids.size());
    const std::vector<double> got = model
                                        ->token_nll(Tensor::from(ids, {1, n}), Tensor::from(targets, {1, n}),
                                                    scaled_angles(*model, n, std::stod(scale)))
                                        .to_vector();
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::abs(got[i] - want[i]));
    CAPTURE(scale);
    CAPTURE(n);
    CHECK(worst < 1e-3);
  }
}
