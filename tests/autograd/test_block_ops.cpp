// The ops that blocks beyond LLaMA's need, against plain loops in f64: biases, LayerNorm, norms
// of q and k, GELU, attention with a window and a soft cap, the loss with a bias and a soft
// cap; their errors, and how NaN passes through.
#include <cmath>
#include <limits>

#include "autograd/ops/activation.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/swiglu.h"
#include "autograd/tape.h"
#include "support.h"
#include "tensor/math.h"

using namespace rw;

namespace {

using Values = std::vector<double>;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// One query over the keys [from, to) of one kv head, step by step.
struct PlainAttention {
  const Tensor &q, &k, &v;  // f64 [B,Tq,H,D], [B,Tk,K,D]
  double scale, cap;

  void row(int64_t b, int64_t i, int64_t h, int64_t from, int64_t to, double* out) const {
    const int64_t d = q.size(3), kv = h / (q.size(2) / k.size(2));
    const auto at = [&](const Tensor& t, int64_t token, int64_t head) {
      return t.data<double>() + ((b * t.size(1) + token) * t.size(2) + head) * d;
    };
    double total = 0;
    for (int64_t j = from; j < to; ++j) {
      double s = 0;
      for (int64_t c = 0; c < d; ++c) s += at(q, i, h)[c] * at(k, j, kv)[c];
      s *= scale;
      if (cap > 0) s = cap * std::tanh(s / cap);
      const double p = std::exp(s);
      total += p;
      for (int64_t c = 0; c < d; ++c) out[c] += p * at(v, j, kv)[c];
    }
    for (int64_t c = 0; c < d; ++c) out[c] /= total;
  }
};

Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const Tensor o = Tensor::zeros(q.shape(), DType::f64);
  const int64_t d = q.size(3);
  const PlainAttention plain{q, k, v, 1 / std::sqrt(static_cast<double>(d)), options.soft_cap};
  for (int64_t b = 0; b < q.size(0); ++b) {
    for (int64_t i = 0; i < q.size(1); ++i) {
      const int64_t n = i + k.size(1) - q.size(1);
      const int64_t from = options.window > 0 ? std::max<int64_t>(0, n - options.window + 1) : 0;
      for (int64_t h = 0; h < q.size(2); ++h)
        plain.row(b, i, h, from, n + 1, o.data<double>() + ((b * q.size(1) + i) * q.size(2) + h) * d);
    }
  }
  return o;
}

struct Case {
  int64_t batch, tq, tk, heads, kv_heads, dim;
};

}  // namespace

TEST_CASE("attention with a window and a soft cap equals a plain loop for odd lengths and head counts") {
  for (const Case& c : {Case{2, 1, 1, 1, 1, 3},
                        {1, 1, 700, 3, 1, 8},
                        {2, 5, 9, 4, 2, 7},
                        {1, 600, 600, 2, 1, 8},
                        {1, 70, 1200, 2, 2, 4},
                        {1, 130, 131, 3, 1, 16}}) {
    const Tensor q = test::randn({c.batch, c.tq, c.heads, c.dim}, 1),
                 k = test::randn({c.batch, c.tk, c.kv_heads, c.dim}, 2),
                 v = test::randn({c.batch, c.tk, c.kv_heads, c.dim}, 3);
    for (const int64_t window : {0, 1, 2, 63, 64, 65, 513, 5000}) {
      for (const double cap : {0.0, 1.0}) {
        const AttentionOptions options{.window = window, .soft_cap = cap};
        const Tensor want = plain_attention(q, k, v, options);
        CAPTURE(c.tq);
        CAPTURE(c.tk);
        CAPTURE(window);
        CAPTURE(cap);
        CHECK(test::relative_error(attention(q, k, v, options).value(), want) < 1e-12);
        CHECK(test::relative_error(attention(q.to(DType::f32), k.to(DType::f32), v.to(DType::f32), options).value(),
                                   want) < 2e-6);
      }
    }
  }
}

TEST_CASE("the gradient of attention with a window over many blocks of keys equals that of a masked softmax") {
  // Keys outside of every window get no gradient; one more key, far away, changes nothing.
  const int64_t t = 700;
  const Var q = Var::leaf(test::randn({1, t, 2, 4}, 1)), k = Var::leaf(test::randn({1, t, 1, 4}, 2)),
            v = Var::leaf(test::randn({1, t, 1, 4}, 3));
  const AttentionOptions options{.window = 9, .soft_cap = 2};
  backward(attention(q, k, v, options), test::randn({1, t, 2, 4}, 4));
  // The same in pieces: the queries [a, b) alone over the keys that they see.
  const Tensor seed = test::randn({1, t, 2, 4}, 4);
  Values dk(size_t(t * 4), 0.0), dq;
  const int64_t step = 100;
  for (int64_t a = 0; a < t; a += step) {
    const int64_t from = std::max<int64_t>(0, a - 8), queries = step, keys = a + step - from;
    const auto cut = [&](const Tensor& x, int64_t begin, int64_t n) {
      return x.view({t, x.size(2), 4}).slice(begin, begin + n).clone().view({1, n, x.size(2), 4});
    };
    const Var qs = Var::leaf(cut(q.value(), a, queries)), ks = Var::leaf(cut(k.value(), from, keys)),
              vs = Var::leaf(cut(v.value(), from, keys));
    backward(attention(qs, ks, vs, options), cut(seed, a, queries));
    for (double x : qs.grad().to_vector()) dq.push_back(x);
    const Values part = ks.grad().to_vector();
    for (size_t i = 0; i < part.size(); ++i) dk[size_t(from * 4) + i] += part[i];
  }
  CHECK(test::relative_error(q.grad().to_vector(), dq) < 1e-12);
  CHECK(test::relative_error(k.grad().to_vector(), dk) < 1e-12);
}

TEST_CASE("cached attention with a window and a soft cap equals attention over all keys") {
  const int64_t t = 90, capacity = 128, h = 4, kv = 2, d = 6;
  const Tensor qkv = test::randn({2, t, h + 2 * kv, d}, 1);
  const Tensor k = Tensor::zeros({2, capacity, kv, d}, DType::f64), v = Tensor::zeros({2, capacity, kv, d}, DType::f64);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t i = 0; i < t; ++i) {
      const double* token = qkv.data<double>() + (b * t + i) * (h + 2 * kv) * d;
      std::copy_n(token + h * d, kv * d, k.data<double>() + (b * capacity + i) * kv * d);
      std::copy_n(token + (h + kv) * d, kv * d, v.data<double>() + (b * capacity + i) * kv * d);
    }
  }
  for (const int64_t window : {0, 1, 17, 1000}) {
    const AttentionOptions options{.window = window, .soft_cap = 1.5};
    const Values all = attention_packed(qkv, h, kv, options).value().to_vector();
    CHECK(test::relative_error(attention_cached(qkv, h, k, v, t, options).to_vector(), all) < 1e-12);
    // The last token alone, as in decoding.
    Values last, want;
    const Tensor one = Tensor::empty({2, 1, h + 2 * kv, d}, DType::f64);
    for (int64_t b = 0; b < 2; ++b) {
      std::copy_n(qkv.data<double>() + (b * t + t - 1) * (h + 2 * kv) * d, (h + 2 * kv) * d,
                  one.data<double>() + b * (h + 2 * kv) * d);
      want.insert(want.end(), all.begin() + (b * t + t - 1) * h * d, all.begin() + (b + 1) * t * h * d);
    }
    CHECK(test::relative_error(attention_cached(one, h, k, v, t, options).to_vector(), want) < 1e-12);
  }
}

TEST_CASE("a window that holds every key, and no soft cap, give the bits of plain attention") {
  const Tensor qkv = test::randn({2, 70, 4, 16}, 1, DType::f32);
  const Values plain = attention_packed(qkv, 2, 1).value().to_vector();
  CHECK(attention_packed(qkv, 2, 1, {.window = 70}).value().to_vector() == plain);
  CHECK(attention_packed(qkv, 2, 1, {.window = 69}).value().to_vector() != plain);
}

TEST_CASE("a NaN in a key reaches the queries that see it and no others") {
  for (const double cap : {0.0, 3.0}) {
    const Tensor qkv = test::randn({1, 12, 3, 4}, 1, DType::f32);
    qkv.data<float>()[(5 * 3 + 1) * 4] = static_cast<float>(kNan);  // key 5
    const Values o = attention_packed(qkv, 1, 1, {.window = 4, .soft_cap = cap}).value().to_vector();
    for (int64_t i = 0; i < 12; ++i) CHECK(std::isnan(o[size_t(i * 4)]) == (i >= 5 && i < 9));
  }
}

TEST_CASE("LayerNorm equals the formula, with and without bias and residual") {
  const Tensor x = test::randn({5, 7}, 1), r = test::randn({5, 7}, 2), w = test::randn({7}, 3), b = test::randn({7}, 4);
  const auto plain = [&](bool residual, bool bias) {
    Values y;
    for (int64_t i = 0; i < 5; ++i) {
      const auto h = [&](int64_t c) {
        return x.data<double>()[i * 7 + c] + (residual ? r.data<double>()[i * 7 + c] : 0);
      };
      double mean = 0, var = 0;
      for (int64_t c = 0; c < 7; ++c) mean += h(c) / 7;
      for (int64_t c = 0; c < 7; ++c) var += (h(c) - mean) * (h(c) - mean) / 7;
      for (int64_t c = 0; c < 7; ++c)
        y.push_back((h(c) - mean) / std::sqrt(var + 1e-5) * w.data<double>()[c] + (bias ? b.data<double>()[c] : 0));
    }
    return y;
  };
  CHECK(test::relative_error(layer_norm(x, w, b, 1e-5).value().to_vector(), plain(false, true)) < 1e-13);
  CHECK(test::relative_error(layer_norm(x, w, {}, 1e-5).value().to_vector(), plain(false, false)) < 1e-13);
  CHECK(test::relative_error(residual_layer_norm(x, r, w, b, 1e-5).second.value().to_vector(), plain(true, true)) <
        1e-13);
  CHECK(test::relative_error(layer_norm(x.to(DType::f32), w.to(DType::f32), b.to(DType::f32), 1e-5).value().to_vector(),
                             plain(false, true)) < 1e-6);
}

TEST_CASE("a LayerNorm of values far from zero keeps its digits") {
  const Tensor x = test::randn({3, 64}, 1), w = Tensor::full({64}, 1.0, DType::f64);
  const Tensor far = Tensor::empty({3, 64}, DType::f32);
  for (int64_t i = 0; i < x.numel(); ++i) far.data<float>()[i] = static_cast<float>(x.data<double>()[i] + 1000);
  const Tensor want = layer_norm(far.to(DType::f64), w, {}, 1e-5).value();
  CHECK(test::relative_error(layer_norm(far, w.to(DType::f32), {}, 1e-5).value(), want) < 1e-4);
}

TEST_CASE("a weight offset of one adds one to the weights of RMSNorm") {
  const Tensor x = test::randn({4, 6}, 1), w = test::randn({6}, 2), plus = Tensor::empty({6}, DType::f64);
  for (int64_t c = 0; c < 6; ++c) plus.data<double>()[c] = w.data<double>()[c] + 1;
  const NormOptions gemma{.eps = 1e-6, .weight_offset = 1};
  CHECK(rms_norm(x, w, gemma).value().to_vector() == rms_norm(x, plus, 1e-6).value().to_vector());
  CHECK(residual_rms_norm(x, x, w, gemma).second.value().to_vector() ==
        residual_rms_norm(x, x, plus, 1e-6).second.value().to_vector());
}

TEST_CASE("qk_norm equals rms_norm of the heads, each alone or all together, and leaves v as it is") {
  const int64_t h = 4, kv = 2, d = 6, t = 5;
  const Tensor qkv = test::randn({2, t, h + 2 * kv, d}, 1);
  for (const bool across : {false, true}) {
    const Tensor wq = test::randn({across ? h * d : d}, 2), wk = test::randn({across ? kv * d : d}, 3);
    const QkNormOptions options{
        .n_heads = h, .n_kv_heads = kv, .eps = 1e-6, .weight_offset = 0.5, .across_heads = across};
    const Values y = qk_norm(qkv, wq, wk, options).value().to_vector();
    Values want;
    const NormOptions one{.eps = 1e-6, .weight_offset = 0.5};
    for (int64_t token = 0; token < 2 * t; ++token) {
      const Tensor row = qkv.view({2 * t, h + 2 * kv, d}).slice(token, token + 1).view({h + 2 * kv, d});
      const auto put = [&](const Tensor& x) {
        for (double value : x.to_vector()) want.push_back(value);
      };
      const Tensor q = row.slice(0, h), k = row.slice(h, h + kv);
      put(rms_norm(across ? q.view({h * d}) : q, wq, one).value());
      put(rms_norm(across ? k.view({kv * d}) : k, wk, one).value());
      put(row.slice(h + kv, h + 2 * kv));
    }
    CHECK(test::relative_error(y, want) < 1e-14);
    QkNormOptions in_place = options;
    in_place.in_place = true;
    const Tensor copy = qkv.clone();
    CHECK(qk_norm(copy, wq, wk, in_place).value().to_vector() == y);
    CHECK(copy.to_vector() == y);  // nothing is recorded: the bytes are reused
    const Var leaf = Var::leaf(qkv.clone());
    qk_norm(leaf, wq, wk, in_place);
    CHECK(leaf.value().to_vector() == qkv.to_vector());  // backward needs the input
    Tape::current().clear();
  }
}

TEST_CASE("GELU equals its definition, its slope is smooth, and its limits are right") {
  for (double x : {-8.0, -3.0, -0.5, 0.0, 1e-3, 0.7, 2.0, 12.0}) {
    const double exact = 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    const double approximate = 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    for (const DType dtype : {DType::f64, DType::f32}) {
      const Tensor in = Tensor::full({1}, x, dtype);
      const double tolerance = dtype == DType::f64 ? 1e-13 : 1e-6;
      CHECK(activate(in, Activation::gelu).item() == doctest::Approx(exact).epsilon(tolerance));
      CHECK(std::abs(activate(in, Activation::gelu_tanh).item() - approximate) <= tolerance * std::abs(x) + 1e-15);
    }
  }
  for (const Activation a : {Activation::gelu, Activation::gelu_tanh}) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      const Var x = Var::leaf(Tensor::from<double>({1e30, -1e30, 40, -40, kNan}).to(dtype));
      const Var y = activate(x, a);
      backward(sum(y));
      const Values v = y.value().to_vector(), g = x.grad().to_vector(), in = x.value().to_vector();
      for (size_t i : {0, 2}) CHECK((v[i] == in[i] && g[i] == 1));
      for (size_t i : {1, 3}) CHECK((v[i] == 0 && g[i] == 0));
      CHECK((std::isnan(v[4]) && std::isnan(g[4])));
    }
  }
}

TEST_CASE("a gated activation is the activation of the gate times up, and with SiLU it is SwiGLU bit for bit") {
  const Tensor packed = test::randn({5, 14}, 1, DType::f32), gate = Tensor::empty({5, 7}), up = Tensor::empty({5, 7});
  for (int64_t r = 0; r < 5; ++r) {
    std::copy_n(packed.data<float>() + r * 14, 7, gate.data<float>() + r * 7);
    std::copy_n(packed.data<float>() + r * 14 + 7, 7, up.data<float>() + r * 7);
  }
  for (const Activation a : {Activation::silu, Activation::gelu, Activation::gelu_tanh})
    CHECK(test::relative_error(gated_packed(packed, a).value(), mul(activate(gate, a), up).value()) < 1e-7);
  CHECK(gated_packed(packed, Activation::silu).value().to_vector() == swiglu_packed(packed).value().to_vector());
}

TEST_CASE("the fast tanh is exact to f32 and keeps NaN and infinities") {
  double worst = 0;
  for (double x = -12; x < 12; x += 1e-4) {
    const float f = static_cast<float>(x);
    const double want = std::tanh(static_cast<double>(f));
    if (want != 0) worst = std::max(worst, std::abs(fast_tanh(f) - want) / std::abs(want));
  }
  CHECK(worst < 3e-7);
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(fast_tanh(inf) == 1);
  CHECK(fast_tanh(-inf) == -1);
  CHECK(std::isnan(fast_tanh(static_cast<float>(kNan))));
  CHECK(fast_tanh(1e-20f) == 1e-20f);
}

TEST_CASE("linear adds its bias, also to a single row, and its gradient is the column sum") {
  for (const int64_t rows : {1, 3, 70}) {
    const Var x = Var::leaf(test::randn({rows, 4}, 1)), w = Var::leaf(test::randn({5, 4}, 2)),
              b = Var::leaf(test::randn({5}, 3));
    const Var y = linear(x, w, b);
    CHECK(y.value().to_vector() == add_bias(linear(x, w), b).value().to_vector());
    Tape::current().clear();
    const Tensor dy = test::randn({rows, 5}, 4);
    backward(linear(x, w, b), dy);
    for (int64_t c = 0; c < 5; ++c) {
      double sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += dy.data<double>()[r * 5 + c];
      CHECK(b.grad().data<double>()[c] == doctest::Approx(sum).epsilon(1e-13));
    }
  }
}

TEST_CASE("the loss with a bias and a soft cap equals cross-entropy of the capped logits, chunk by chunk") {
  for (const int64_t n : {1, 7, 200}) {  // 200 rows of 70,000 logits are several chunks
    const int64_t vocab = n == 200 ? 70000 : 11;
    const Var x = Var::leaf(test::randn({n, 3}, 1)), w = Var::leaf(test::randn({vocab, 3}, 2)),
              b = Var::leaf(test::randn({vocab}, 3));
    const Tensor targets = Tensor::empty({n}, DType::i32);
    for (int64_t i = 0; i < n; ++i) targets.data<int32_t>()[i] = i % 5 == 3 ? kIgnoreIndex : int32_t(i * 37 % vocab);
    const LossOptions options{.reduction = Reduction::sum, .row_weights = {}, .bias = b, .soft_cap = 2.5};
    const Var loss = linear_cross_entropy(x, w, targets, options);
    backward(loss);
    const Values dx = x.grad().to_vector(), dw = w.grad().to_vector(), db = b.grad().to_vector();
    for (const Var& v : {x, w, b}) v.clear_grad();
    const Var plain = cross_entropy(soft_cap(linear(x, w, b), 2.5), targets, Reduction::sum);
    backward(plain);
    CHECK(loss.item() == doctest::Approx(plain.item()).epsilon(1e-12));
    CHECK(test::relative_error(dx, x.grad().to_vector()) < 1e-11);
    CHECK(test::relative_error(dw, w.grad().to_vector()) < 1e-11);
    CHECK(test::relative_error(db, b.grad().to_vector()) < 1e-11);
    const Values rows = token_nll(x.value(), w.value(), targets, {.bias = b.detach(), .soft_cap = 2.5}).to_vector();
    double sum = 0;
    for (double v : rows) sum += v;
    CHECK(sum == doctest::Approx(loss.item()).epsilon(1e-12));
  }
}

TEST_CASE("arguments of the block ops that do not fit are refused by name") {
  const Tensor x = Tensor::zeros({2, 6}), w = Tensor::zeros({4, 6}), six = Tensor::zeros({6}),
               four = Tensor::zeros({4});
  CHECK(test::error_of([&] { linear(x, w, six); }) == "[linear] bias must have shape [4], got [6]");
  CHECK(test::error_of([&] { linear(x, w, four.to(DType::f64)); }) == "[linear] x has dtype f32 but bias has f64");
  CHECK(test::error_of([&] { layer_norm(x, four, {}, 1e-5); }) == "[layer_norm] weight must have shape [6], got [4]");
  CHECK(test::error_of([&] { layer_norm(x, six, four, 1e-5); }) == "[layer_norm] bias must have shape [6], got [4]");
  CHECK(test::error_of([&] { soft_cap(x, 0); }) == "[soft_cap] cap must be positive and finite, got 0");
  const Tensor qkv = Tensor::zeros({1, 2, 4, 6});
  CHECK(test::error_of([&] { qk_norm(qkv, six, six, {.n_heads = 3, .n_kv_heads = 1}); }) ==
        "[qk_norm] qkv must have shape [B, T, 5, D], got [1, 2, 4, 6]");
  CHECK(test::error_of([&] { qk_norm(qkv, six, six, {.n_heads = 2, .n_kv_heads = 1, .across_heads = true}); }) ==
        "[qk_norm] q_weight must have shape [12], got [6]");
  CHECK(test::error_of([&] { attention_packed(qkv, 2, 1, {.window = -1}); }) ==
        "[attention] window must be 0 (none) or positive, got -1");
  CHECK(test::error_of([&] { attention_packed(qkv, 2, 1, {.causal = false, .window = 2}); }) ==
        "[attention] a window needs causal attention");
  CHECK(test::error_of([&] { attention_packed(qkv, 2, 1, {.soft_cap = -1}); }) ==
        "[attention] soft_cap must be 0 (none) or positive, got -1");
  const Tensor targets = Tensor::from<int32_t>({0, 1});
  CHECK(test::error_of([&] { linear_cross_entropy(x, w, targets, {.bias = Var(six)}); }) ==
        "[linear_cross_entropy] bias must have shape [4], got [6]");
  CHECK(test::error_of([&] { token_nll(x, w, targets, {.soft_cap = -2}); }) ==
        "[token_nll] soft_cap must be 0 or positive, got -2");
  CHECK(test::error_of([&] { token_nll(x, w, targets, {.row_weights = Tensor::zeros({2})}); }) ==
        "[token_nll] row weights are for a sum; here every row keeps its own loss");
  CHECK(test::error_of([&] {
          gated_packed(Tensor::zeros({2, 5}), Activation::gelu);
        }) == "[gated_packed] gate_up must have shape [..., 2F], got [2, 5]");
}
