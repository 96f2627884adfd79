// Every op against central differences, and a check that no op of lib/autograd/ops is left out.
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "autograd/gradcheck.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/cast.h"
#include "autograd/ops/concat.h"
#include "autograd/ops/dropout.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/linear_blocks.h"
#include "autograd/ops/linear_fused.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/low_rank.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/rope.h"
#include "autograd/ops/swiglu.h"
#include "autograd/recompute.h"
#include "support.h"

using namespace rw;

namespace {

using Vars = std::vector<Var>;
struct Case {
  std::function<Vars(const Vars&)> f;
  std::vector<Tensor> inputs;
};

Tensor positive(Shape shape, uint64_t seed) {
  Tensor t = test::randn(shape, seed);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] = std::abs(t.data<double>()[i]) + 0.5;
  return t;
}

Tensor ints(std::vector<int32_t> values) { return Tensor::from(values); }

using Put = std::function<void(const std::string&, std::vector<Tensor>, std::function<Vars(const Vars&)>)>;

/// What blocks beyond LLaMA's are made of: biases, LayerNorm, norms of q and k, GELU, windows and soft caps.
/// What adapters are made of.
void adapter_cases(const Put& put) {
  const auto r = [](Shape shape, uint64_t seed) { return test::randn(shape, seed); };
  const DropoutKey key{.words = ints({3, 0, 0, 0}), .seed = 5};
  put("dropout", {r({6, 5}, 1)}, [=](const Vars& v) { return Vars{dropout(v[0], 0.25, key)}; });
  BlockMatrix blocks{.format = {BlockCode::int8}, .rows = 4, .columns = 5};
  blocks.allocate(kCpu);
  blocks.store_rows(0, test::randn({4, 5}, 2, DType::f32));
  put("linear_blocks", {r({3, 5}, 1), r({4}, 3)},
      [=](const Vars& v) { return Vars{linear_blocks(v[0], blocks, v[1])}; });
  put("add_low_rank", {r({3, 7}, 1), r({3, 6}, 2), r({4, 6}, 3), r({5, 2}, 4)}, [](const Vars& v) {
    return Vars{add_low_rank(scale(v[0], 2), v[1], v[2], v[3], {{1, 3}, {5, 2}}, 0.75)};  // y is changed in place
  });
}

void block_cases(const Put& put, const Tensor& targets) {
  const auto r = [](Shape shape, uint64_t seed) { return test::randn(shape, seed); };
  put("linear", {r({2, 3, 4}, 1), r({5, 4}, 2), r({5}, 3)},
      [](const Vars& v) { return Vars{linear(v[0], v[1], v[2])}; });
  put("rms_norm", {r({3, 6}, 1), r({6}, 2)},
      [](const Vars& v) { return Vars{rms_norm(v[0], v[1], {.eps = 1e-5, .weight_offset = 1})}; });
  put("residual_rms_norm", {r({3, 6}, 1), r({3, 6}, 2), r({6}, 3)}, [](const Vars& v) {
    const auto [h, y] = residual_rms_norm(v[0], v[1], v[2], {.eps = 1e-5, .weight_offset = 1});
    return Vars{h, y};
  });
  put("stream_rms_norm", {r({3, 6}, 1), r({6}, 2)}, [](const Vars& v) {
    const auto [h, y] = stream_rms_norm(v[0], v[1], {.eps = 1e-5});
    return Vars{h, y};
  });
  put("stream_rms_norm", {r({3, 6}, 1), r({6}, 2)},
      [](const Vars& v) { return Vars{stream_rms_norm(v[0], v[1], {.eps = 1e-5}).first}; });
  put("stream_layer_norm", {r({3, 6}, 1), r({6}, 2), r({6}, 3)}, [](const Vars& v) {
    const auto [h, y] = stream_layer_norm(v[0], v[1], v[2], 1e-5);
    return Vars{h, y};
  });
  put("stream_layer_norm", {r({3, 6}, 1), r({6}, 2), r({6}, 3)},
      [](const Vars& v) { return Vars{stream_layer_norm(v[0], v[1], v[2], 1e-5).second}; });
  put("layer_norm", {r({70, 6}, 1), r({6}, 2), r({6}, 3)},
      [](const Vars& v) { return Vars{layer_norm(v[0], v[1], v[2], 1e-5)}; });
  put("layer_norm", {r({2, 3, 5}, 1), r({5}, 2)}, [](const Vars& v) { return Vars{layer_norm(v[0], v[1], {}, 1e-5)}; });
  put("residual_layer_norm", {r({3, 6}, 1), r({3, 6}, 2), r({6}, 3), r({6}, 4)}, [](const Vars& v) {
    const auto [h, y] = residual_layer_norm(v[0], v[1], v[2], v[3], 1e-5);
    return Vars{h, y};
  });
  put("residual_layer_norm", {r({3, 6}, 1), r({3, 6}, 2), r({6}, 3), r({6}, 4)},
      [](const Vars& v) { return Vars{residual_layer_norm(v[0], v[1], v[2], v[3], 1e-5).first}; });
  for (const bool across : {false, true}) {
    for (const double offset : {0.0, 1.0}) {
      const QkNormOptions options{
          .n_heads = 4, .n_kv_heads = 2, .eps = 1e-5, .weight_offset = offset, .across_heads = across};
      put("qk_norm", {r({2, 3, 8, 5}, 1), r({across ? 20 : 5}, 2), r({across ? 10 : 5}, 3)},
          [=](const Vars& v) { return Vars{qk_norm(v[0], v[1], v[2], options)}; });
    }
  }
  for (const Activation a : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
    put("activate", {test::randn({12}, 1, DType::f64, 2.0)}, [=](const Vars& v) { return Vars{activate(v[0], a)}; });
    put("gated_packed", {r({3, 8}, 1)}, [=](const Vars& v) { return Vars{gated_packed(v[0], a)}; });
  }
  put("soft_cap", {r({9}, 1)}, [](const Vars& v) { return Vars{soft_cap(v[0], 1.5)}; });
  for (const double cap : {0.0, 1.5}) {
    for (const int64_t window : {0, 2, 3, 5, 100}) {
      const AttentionOptions options{.window = window, .soft_cap = cap};
      put("attention", {r({2, 5, 4, 3}, 1), r({2, 7, 2, 3}, 2), r({2, 7, 2, 3}, 3)},
          [=](const Vars& v) { return Vars{attention(v[0], v[1], v[2], options)}; });
      put("attention_packed", {r({1, 6, 3, 4}, 1)},
          [=](const Vars& v) { return Vars{attention_packed(v[0], 1, 1, options)}; });
    }
  }
  put("attention", {r({2, 5, 4, 3}, 1), r({2, 7, 2, 3}, 2), r({2, 7, 2, 3}, 3)},
      [=](const Vars& v) { return Vars{attention(v[0], v[1], v[2], {.causal = false, .soft_cap = 0.7})}; });
  put("attention", {r({2, 7, 2, 3}, 3)}, [=](const Vars& v) {  // a query that sees itself only gives its value
    return Vars{attention(test::randn({2, 5, 4, 3}, 1), test::randn({2, 7, 2, 3}, 2), v[0], {.window = 1})};
  });
  const Tensor row_weights = Tensor::from(std::vector<float>{1, 5, 0.5, 0, 2});
  for (const double cap : {0.0, 1.5}) {
    put("linear_cross_entropy", {r({5, 4}, 1), r({6, 4}, 2), r({6}, 3)}, [=](const Vars& v) {
      return Vars{linear_cross_entropy(v[0], v[1], targets, LossOptions{.bias = v[2], .soft_cap = cap})};
    });
    put("linear_cross_entropy", {r({5, 4}, 1), r({6, 4}, 2), r({6}, 3)}, [=](const Vars& v) {
      const LossOptions options{.reduction = Reduction::sum, .row_weights = row_weights, .bias = v[2], .soft_cap = cap};
      return Vars{linear_cross_entropy(v[0], v[1], targets, options)};
    });
  }
}

/// Op name -> gradchecks. A name may stand several times (variants).
std::multimap<std::string, Case> cases() {
  const auto r = [](Shape shape, uint64_t seed) { return test::randn(shape, seed); };
  const Tensor targets = ints({2, 0, kIgnoreIndex, 4, 1}), ids = ints({3, 1, 3, 0});
  const Tensor positions = Tensor::from<float>({0, 1, 2.5f, 7, 0, 3, 4, 100}, {2, 4});
  std::multimap<std::string, Case> all;
  const auto put = [&](const std::string& name, std::vector<Tensor> inputs, std::function<Vars(const Vars&)> f) {
    all.emplace(name, Case{f, inputs});
  };
  put("add", {r({3, 4}, 1), r({3, 4}, 2)}, [](const Vars& v) { return Vars{add(v[0], v[1])}; });
  put("add", {r({3, 4}, 1)}, [](const Vars& v) { return Vars{mul(add(v[0], v[0]), v[0])}; });
  put("sub", {r({3, 4}, 1), r({3, 4}, 2)}, [](const Vars& v) { return Vars{sub(v[0], v[1])}; });
  put("mul", {r({3, 4}, 1), r({3, 4}, 2)}, [](const Vars& v) { return Vars{mul(v[0], v[1])}; });
  put("scale", {r({5}, 1)}, [](const Vars& v) { return Vars{scale(v[0], -1.7)}; });
  put("add_bias", {r({2, 3, 4}, 1), r({4}, 2)}, [](const Vars& v) { return Vars{add_bias(v[0], v[1])}; });
  put("scale_tokens", {r({2, 3, 4}, 1)}, [](const Vars& v) {
    return Vars{scale_tokens(v[0], Tensor::from<float>({1, 2, 0.5f}))};
  });
  put("exp", {r({5}, 1)}, [](const Vars& v) { return Vars{exp(v[0])}; });
  put("log", {positive({5}, 1)}, [](const Vars& v) { return Vars{log(v[0])}; });
  put("tanh", {r({5}, 1)}, [](const Vars& v) { return Vars{tanh(v[0])}; });
  put("silu", {r({5}, 1)}, [](const Vars& v) { return Vars{silu(v[0])}; });
  put("reshape", {r({3, 4}, 1)}, [](const Vars& v) { return Vars{reshape(v[0], {2, 6})}; });
  put("sum", {r({3, 4}, 1)}, [](const Vars& v) { return Vars{sum(v[0])}; });
  put("mean", {r({3, 4}, 1)}, [](const Vars& v) { return Vars{mean(v[0])}; });
  put("sum_last", {r({2, 3, 4}, 1)}, [](const Vars& v) { return Vars{sum_last(v[0])}; });
  put("matmul", {r({3, 4}, 1), r({4, 5}, 2)}, [](const Vars& v) { return Vars{matmul(v[0], v[1])}; });
  put("linear", {r({2, 3, 4}, 1), r({5, 4}, 2)}, [](const Vars& v) { return Vars{linear(v[0], v[1])}; });
  put("linear", {r({3, 4}, 1), r({4, 4}, 2)}, [](const Vars& v) { return Vars{linear(linear(v[0], v[1]), v[1])}; });
  put("rms_norm", {r({3, 6}, 1), r({6}, 2)}, [](const Vars& v) { return Vars{rms_norm(v[0], v[1], 1e-5)}; });
  put("residual_rms_norm", {r({3, 6}, 1), r({3, 6}, 2), r({6}, 3)}, [](const Vars& v) {
    const auto [h, y] = residual_rms_norm(v[0], v[1], v[2], 1e-5);
    return Vars{h, y};
  });
  put("residual_rms_norm", {r({3, 6}, 1), r({3, 6}, 2), r({6}, 3)},
      [](const Vars& v) { return Vars{residual_rms_norm(v[0], v[1], v[2], 1e-5).first}; });
  put("swiglu", {r({3, 4}, 1), r({3, 4}, 2)}, [](const Vars& v) { return Vars{swiglu(v[0], v[1])}; });
  put("swiglu_packed", {r({3, 8}, 1)}, [](const Vars& v) { return Vars{swiglu_packed(v[0])}; });
  put("swiglu_mlp", {r({3, 4}, 1), r({10, 4}, 2), r({4, 5}, 3)},
      [](const Vars& v) { return Vars{swiglu_mlp(v[0], v[1], v[2])}; });
  put("embedding", {r({5, 3}, 1)}, [=](const Vars& v) { return Vars{embedding(ids, v[0])}; });
  for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
    for (const Shape& freq :
         {Shape{3}, Shape{2, 3}}) {  // shared and per-sample frequencies; head_dim 8 with 6 rotated elements
      put("rope", {r({2, 4, 3, 8}, 1), positive(freq, 2)}, [=](const Vars& v) {
        return Vars{rope(v[0], rope_angles(positions, v[1], 1.2, DType::f64, kCpu), {.layout = layout, .heads = 2})};
      });
    }
    put("linear_rope", {r({2, 4, 5}, 1), r({24, 5}, 2), positive({3}, 3)}, [=](const Vars& v) {
      const RopeAngles angles = rope_angles(positions, v[2], 1.2, DType::f64, kCpu);
      return Vars{linear_rope(v[0], v[1], 8, angles, {.layout = layout, .heads = 2})};
    });
  }
  for (const bool causal : {true, false}) {
    put("attention", {r({2, 5, 4, 3}, 1), r({2, 7, 2, 3}, 2), r({2, 7, 2, 3}, 3)},
        [=](const Vars& v) { return Vars{attention(v[0], v[1], v[2], {.causal = causal})}; });
  }
  put("attention_packed", {r({2, 6, 8, 3}, 1)}, [](const Vars& v) { return Vars{attention_packed(v[0], 4, 2)}; });
  for (const Reduction reduction : {Reduction::none, Reduction::sum, Reduction::mean}) {
    put("cross_entropy", {r({5, 6}, 1)}, [=](const Vars& v) { return Vars{cross_entropy(v[0], targets, reduction)}; });
  }
  put("linear_cross_entropy", {r({5, 4}, 1), r({6, 4}, 2)},
      [=](const Vars& v) { return Vars{linear_cross_entropy(v[0], v[1], targets, Reduction::sum)}; });
  put("linear_cross_entropy", {r({5, 4}, 1), r({6, 4}, 2)},
      [=](const Vars& v) { return Vars{linear_cross_entropy(v[0], v[1], targets)}; });
  const Tensor row_weights = Tensor::from(std::vector<float>{1, 5, 0.5, 0, 2});
  put("linear_cross_entropy", {r({5, 4}, 1), r({6, 4}, 2)},
      [=](const Vars& v) { return Vars{linear_cross_entropy(v[0], v[1], targets, Reduction::sum, row_weights)}; });
  block_cases(put, targets);
  adapter_cases(put);
  put("concat", {r({2, 3}, 1), r({2, 1}, 2)}, [](const Vars& v) { return Vars{concat({v[0], v[1], v[0]}, 1)}; });
  put("narrow", {r({2, 5, 3}, 1)}, [](const Vars& v) { return Vars{narrow(v[0], 1, 1, 4)}; });
  put("index_rows", {r({4, 2, 3}, 1)}, [=](const Vars& v) { return Vars{index_rows(v[0], ids)}; });
  put("cast", {r({4}, 1)}, [](const Vars& v) { return Vars{cast(v[0], DType::f64)}; });
  return all;
}

}  // namespace

TEST_CASE("the gradient of every op equals central differences") {
  for (const auto& entry : cases()) {  // (clang 14 cannot capture a structured binding)
    const GradcheckReport report = gradcheck(entry.second.f, entry.second.inputs);
    CAPTURE(entry.first);
    CAPTURE(report.where);
    CHECK(report.worst < 1e-6);
  }
}

TEST_CASE("no op is left without a gradcheck") {
  std::set<std::string> checked, declared;
  for (const auto& [name, c] : cases()) checked.insert(name);
  const std::regex declaration(R"(^(?:Var|std::pair<Var, Var>|std::vector<Var>) (\w+)\()");
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(ROPEWALK_SOURCE_DIR) + "/lib/autograd/ops")) {
    if (entry.path().extension() != ".h") continue;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      std::smatch match;
      if (std::regex_search(line, match, declaration)) declared.insert(match[1]);
    }
  }
  CHECK(declared.size() > 25);
  for (const std::string& op : declared) {
    CAPTURE(op);
    CHECK(checked.count(op) == 1);
  }
}

TEST_CASE("gradcheck notices a wrong gradient") {
  struct WrongNode : Node {
    const char* name() const override { return "wrong"; }
    void backward() override { add_grad(0, grad_out()); }  // should be doubled
  };
  const auto wrong = [](const Vars& v) {
    Var y(scale(v[0].detach(), 2).value());
    if (records(v[0])) Tape::current().record(std::make_unique<WrongNode>(), {v[0]}, {&y});
    return Vars{y};
  };
  CHECK(gradcheck(wrong, {test::randn({3}, 1)}).worst > 0.1);
}

TEST_CASE("casting to f32 rounds forward and widens the gradient back") {
  const Var x = Var::leaf(test::randn({4}, 1));
  backward(sum(cast(cast(x, DType::f32), DType::f64)));
  CHECK(x.grad().dtype() == DType::f64);
  CHECK(x.grad().to_vector() == std::vector<double>(4, 1.0));
}
