// Reference values from PyTorch for every op: outputs and gradients in f64 (1e-10, gradients
// 1e-8) and in f32 (1e-5 of the largest element).
#include <map>
#include <nlohmann/json.hpp>

#include "autograd/ops/attention.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/rope.h"
#include "autograd/ops/swiglu.h"
#include "autograd/tape.h"
#include "support.h"

using namespace rw;

namespace {

const SafetensorsFile& file() { return test::golden("golden_ops"); }
nlohmann::json meta(const std::string& name) { return nlohmann::json::parse(file().metadata().at("cases")).at(name); }

/// Swaps dimensions 1 and 2 of a rank-4 tensor: [B,H,T,D] <-> [B,T,H,D].
Tensor swap_heads(const Tensor& x) {
  const int64_t b = x.size(0), m = x.size(1), n = x.size(2), d = x.size(3);
  const std::vector<double> v = x.to_vector();
  std::vector<double> out(v.size());
  for (int64_t i = 0; i < b; ++i)
    for (int64_t j = 0; j < m; ++j)
      for (int64_t k = 0; k < n; ++k)
        for (int64_t c = 0; c < d; ++c)
          out[size_t(((i * n + k) * m + j) * d + c)] = v[size_t(((i * m + j) * n + k) * d + c)];
  return Tensor::from(out, {b, n, m, d}).to(x.dtype());
}

using Inputs = std::map<std::string, Var>;

/// Runs `f` on the case's inputs in both dtypes and compares the output and every gradient.
void compare(const std::string& name, const std::function<Var(const Inputs&, DType)>& f, bool heads_first = false) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    Inputs in;
    const auto load = [&](const std::string& tensor) {
      const Tensor t = file().load(name + "/" + tensor).to(dtype);
      return heads_first ? swap_heads(t) : t;
    };
    for (const auto& [key, entry] : file().entries()) {
      if (key.starts_with(name + "/in."))
        in[key.substr(name.size() + 4)] = Var::leaf(load(key.substr(name.size() + 1)));
    }
    REQUIRE(!in.empty());
    const Var y = f(in, dtype);
    const Tensor want = load("out.f64");
    CAPTURE(name);
    CAPTURE(name_of(dtype));
    CHECK(test::relative_error(y.value(), want) < (dtype == DType::f64 ? 1e-10 : 1e-5));
    backward(y, load("dout").view(y.shape()));
    for (const auto& leaf : in) {  // (clang 14 cannot capture a structured binding)
      CAPTURE(leaf.first);
      CHECK(test::relative_error(leaf.second.grad(), load("grad." + leaf.first + ".f64")) <
            (dtype == DType::f64 ? 1e-8 : 1e-5));
    }
  }
}

}  // namespace

TEST_CASE("RMSNorm equals the reference, also for tiny rows where eps matters") {
  for (const std::string name : {"rmsnorm_eps1e-05", "rmsnorm_eps1e-06", "rmsnorm_tiny"}) {
    const double eps = meta(name).at("eps");
    compare(name, [eps](const Inputs& in, DType) { return rms_norm(in.at("x"), in.at("w"), eps); });
  }
}

TEST_CASE("SwiGLU and the SwiGLU MLP equal the reference") {
  compare("swiglu", [](const Inputs& in, DType) { return swiglu(in.at("g"), in.at("u")); });
  compare("swiglu_mlp", [](const Inputs& in, DType) {
    return linear(swiglu(linear(in.at("x"), in.at("wg")), linear(in.at("x"), in.at("wu"))), in.at("wd"));
  });
}

TEST_CASE("cross-entropy equals the reference for every reduction, ignored targets included") {
  for (const auto& [name, reduction] :
       {std::pair{"mean", Reduction::mean}, {"sum", Reduction::sum}, {"none", Reduction::none}}) {
    const std::string key = std::string("cross_entropy_") + name;
    const Tensor target = file().load(key + "/const.target");
    compare(key, [&, reduction = reduction](const Inputs& in, DType) {
      return cross_entropy(in.at("logits"), target, reduction);
    });
  }
  const Tensor target = file().load("linear_cross_entropy/const.target");
  compare("linear_cross_entropy",
          [&](const Inputs& in, DType) { return linear_cross_entropy(in.at("x"), in.at("w"), target); });
}

TEST_CASE("attention equals the reference for MHA, GQA, MQA, a KV cache and without a mask") {
  for (const std::string name : {"attn_causal_mha_d64", "attn_causal_gqa_d16", "attn_causal_mqa_d32",
                                 "attn_causal_gqa_d128", "attn_causal_kvcache_d16", "attn_full_d32"}) {
    const AttentionOptions options{.causal = name != "attn_full_d32"};
    compare(
        name, [&](const Inputs& in, DType) { return attention(in.at("q"), in.at("k"), in.at("v"), options); }, true);
  }
}

TEST_CASE("RoPE equals the reference in both layouts, at fractional and large positions") {
  for (const std::string d : {"16", "64", "128"}) {
    for (const auto& [layout_name, layout] :
         {std::pair{"half", RopeLayout::half}, {"interleaved", RopeLayout::interleaved}}) {
      const std::string name = std::string("rope_") + layout_name + "_d" + d;
      const Tensor positions = file().load(name + "/const.pos").to(DType::f32),
                   inv_freq = file().load(name + "/const.inv_freq");
      compare(name, [&, layout = layout](const Inputs& in, DType dtype) {
        return rope(in.at("x"), rope_angles(positions, inv_freq, 1, dtype, kCpu), {.layout = layout});
      });
    }
  }
}

TEST_CASE("embedding adds up the gradients of repeated ids") {
  const Tensor ids = file().load("embedding/const.ids");
  compare("embedding", [&](const Inputs& in, DType) { return embedding(ids, in.at("w")); });
}
