// The worked example of docs/adding-an-op.md, built and tested, and the page compared with it.
#include <cmath>
#include <fstream>
#include <sstream>

#include "autograd/gradcheck.h"
#include "autograd/tape.h"
#include "softsign.h"
#include "support.h"

namespace example {
namespace {

/// y = x / (1 + |x|)
template <class T>
void forward(const T* x, T* y, int64_t n) {
  using A = rw::Acc<T>;  // f32 for bf16 and f32, f64 for f64
  for (int64_t i = 0; i < n; ++i) {
    const A value = static_cast<A>(x[i]);
    y[i] = static_cast<T>(value / (A(1) + std::abs(value)));
  }
}

/// dx = dy / (1 + |x|)^2
template <class T>
void backward(const T* x, const T* dy, T* dx, int64_t n) {
  using A = rw::Acc<T>;
  for (int64_t i = 0; i < n; ++i) {
    const A scale = A(1) / (A(1) + std::abs(static_cast<A>(x[i])));
    dx[i] = static_cast<T>(static_cast<A>(dy[i]) * scale * scale);
  }
}

struct SoftsignNode : rw::Node {  // saved: x
  const char* name() const override { return "softsign"; }
  void backward() override {
    const rw::Tensor &x = saved[0], &dy = grad_out();
    const rw::Tensor dx = rw::Tensor::empty_like(x);
    rw::dispatch_float(x.dtype(), name(), [&](auto zero) {
      using T = decltype(zero);
      example::backward(x.data<T>(), dy.data<T>(), dx.data<T>(), x.numel());
    });
    add_grad(0, dx);
  }
};

}  // namespace

rw::Var softsign(const rw::Var& x) {
  rw::check(!x.is_cuda(), "softsign", "x must be on the CPU, got ", x.device());
  const rw::Tensor y = rw::Tensor::empty_like(x.value());
  rw::dispatch_float(x.dtype(), "softsign", [&](auto zero) {
    using T = decltype(zero);
    forward(x.value().data<T>(), y.data<T>(), x.numel());
  });
  rw::Var out(y);
  if (rw::records(x)) {
    auto node = std::make_unique<SoftsignNode>();
    node->saved = {x.value()};
    rw::Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

}  // namespace example

TEST_CASE("the gradient of the worked example equals central differences") {
  const auto f = [](const std::vector<rw::Var>& v) { return std::vector<rw::Var>{example::softsign(v[0])}; };
  CHECK(rw::gradcheck(f, {test::randn({3, 5}, 1)}).worst < 1e-6);
}

TEST_CASE("the worked example has its values, records only what wants a gradient, and keeps NaN") {
  const rw::Tensor x = rw::Tensor::from<float>({-3, 0, 1, NAN});
  const std::vector<double> y = example::softsign(x).value().to_vector();
  CHECK(y[0] == -0.75);
  CHECK(y[1] == 0);
  CHECK(y[2] == 0.5);
  CHECK(std::isnan(y[3]));
  CHECK(rw::Tape::current().size() == 0);
}

TEST_CASE("the page on adding an op shows the worked example as it is") {
  const auto read = [](const std::string& path) {
    std::ifstream in(std::string(ROPEWALK_SOURCE_DIR) + "/" + path);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  };
  const std::string page = read("docs/adding-an-op.md");
  const std::string code = read("tests/adding_an_op/softsign.h") + read("tests/adding_an_op/test_softsign.cpp");
  int blocks = 0;
  for (size_t at = page.find("```cpp\n"); at != std::string::npos; at = page.find("```cpp\n", at + 1), ++blocks) {
    const size_t begin = at + 7, end = page.find("```", begin);
    REQUIRE(end != std::string::npos);
    const std::string block = page.substr(begin, end - begin);
    CAPTURE(block);
    CHECK(code.find(block) != std::string::npos);
  }
  CHECK(blocks >= 4);
}
