#include <filesystem>
#include <fstream>
#include <set>

#include "support.h"
#include "tensor/file.h"
#include "tensor/gemm.h"
#include "tensor/random.h"

using namespace rw;

TEST_CASE("a view shares bytes with its tensor and a clone does not") {
  const Tensor t = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor row = t.slice(1, 2).view({3});
  const Tensor copy = t.clone();
  row.data<float>()[0] = 40;
  CHECK(t.data<float>()[3] == 40.f);
  CHECK(copy.data<float>()[3] == 4.f);
  CHECK(t.view({3, -1}).shape() == Shape{3, 2});
}

TEST_CASE("shape errors name what was expected and what came") {
  const Tensor t = Tensor::zeros({2, 3});
  CHECK(test::error_of([&] { t.view({4, 2}); }) == "[tensor] view: [2, 3] has 6 elements, [4, 2] has 8");
  CHECK(test::error_of([&] { t.slice(1, 3); }) == "[tensor] slice: rows [1, 3) of 2");
  CHECK(test::error_of([&] { t.data<double>(); }) == "[tensor] data<f64>() of a tensor of dtype f32");
  CHECK(test::error_of([&] {
          check_shape("rope", "positions", t, {2, 48});
        }) == "[rope] positions must have shape [2, 48], got [2, 3]");
  CHECK(test::error_of([&] { Shape{1 << 30, 1 << 30, 1 << 30}.numel(); }).find("overflows") != std::string::npos);
}

TEST_CASE("bf16 rounds to nearest even and keeps NaN and infinity") {
  CHECK(float(bf16(1.f)) == 1.f);
  CHECK(float(bf16(1.00390625f)) == 1.f);        // halfway between 1 and 1.0078125: to even
  CHECK(float(bf16(1.01171875f)) == 1.015625f);  // halfway: to even, upwards
  CHECK(float(bf16(3.4e38f)) == std::numeric_limits<float>::infinity());
  CHECK(std::isnan(float(bf16(std::nanf("")))));
}

TEST_CASE("the allocator counts live and peak bytes by tag and reuses freed blocks") {
  release_cached_memory();
  reset_peak_memory();
  const MemoryStats before = memory_stats();
  {
    const MemoryTag tag("test-tag");
    const Tensor a = Tensor::zeros({1000, 1000});
    CHECK(memory_stats().live_bytes == before.live_bytes + 4'000'000);
    CHECK(memory_stats().live_by_tag.at("test-tag") == 4'000'000);
  }
  const MemoryStats freed = memory_stats();
  CHECK(freed.live_bytes == before.live_bytes);
  CHECK(freed.peak_bytes >= before.live_bytes + 4'000'000);
  const Tensor again = Tensor::empty({1000, 1000});
  CHECK(memory_stats().system_allocations == freed.system_allocations);
}

TEST_CASE("running out of memory names device, sizes and tag and leaves the process usable") {
  const MemoryTag tag("too-large");
  set_memory_limit(memory_stats().live_bytes + 1000);
  std::string message;
  try {
    Tensor::empty({1'000'000});
  } catch (const OutOfMemory& e) {
    message = e.what();
  }
  set_memory_limit(0);
  CHECK(message.find("4000000 bytes asked for under tag 'too-large'") != std::string::npos);
  CHECK(Tensor::zeros({1'000'000}).numel() == 1'000'000);
}

TEST_CASE("Philox gives the known answers of the Random123 distribution") {
  using Words = std::array<uint32_t, 4>;
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("random streams differ by seed, purpose, step and sample and stay in range") {
  std::set<uint64_t> firsts;
  for (uint64_t seed : {1, 2})
    for (auto purpose : {Purpose::init, Purpose::data})
      for (uint64_t step : {0, 1})
        for (uint64_t sample : {0, 1}) firsts.insert(Random(seed, purpose, step, sample).next64());
  CHECK(firsts.size() == 16);
  Random random(3, Purpose::test);
  double mean = 0, square = 0;
  for (int i = 0; i < 100000; ++i) {
    CHECK_UNARY(random.below(7) < 7);
    const double x = random.normal();
    mean += x / 1e5;
    square += x * x / 1e5;
  }
  CHECK(std::abs(mean) < 0.02);
  CHECK(std::abs(square - 1) < 0.03);
}

TEST_CASE("gemm equals the triple loop for every transposition, alpha and beta") {
  const int64_t m = 37, n = 53, k = 29;
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const Trans ta : {Trans::no, Trans::yes}) {
      for (const Trans tb : {Trans::no, Trans::yes}) {
        const Tensor a = test::randn(ta == Trans::no ? Shape{m, k} : Shape{k, m}, 1, dtype);
        const Tensor b = test::randn(tb == Trans::no ? Shape{k, n} : Shape{n, k}, 2, dtype);
        const Tensor c = test::randn({m, n}, 3, dtype == DType::bf16 ? DType::f32 : dtype);
        const auto va = a.to_vector(), vb = b.to_vector(), vc = c.to_vector();
        std::vector<double> want(static_cast<size_t>(m * n));
        for (int64_t i = 0; i < m; ++i)
          for (int64_t j = 0; j < n; ++j) {
            double s = 0;
            for (int64_t p = 0; p < k; ++p)
              s += va[size_t(ta == Trans::no ? i * k + p : p * m + i)] *
                   vb[size_t(tb == Trans::no ? p * n + j : j * k + p)];
            want[size_t(i * n + j)] = 0.5 * s - 2.0 * vc[size_t(i * n + j)];
          }
        gemm({a, ta}, {b, tb}, c, {.alpha = 0.5, .beta = -2.0});
        CHECK(test::relative_error(c.to_vector(), want) < (dtype == DType::f64 ? 1e-14 : 2e-6));
      }
    }
  }
  CHECK(test::error_of([] {
          gemm(Tensor::zeros({2, 3}), Tensor::zeros({4, 5}), Tensor::zeros({2, 5}));
        }) == "[gemm] inner sizes differ: op(A) is [2, 3], op(B) is [4, 5]");
}

TEST_CASE("matvec equals gemm") {
  const Tensor w = test::randn({131, 77}, 1, DType::f32), x = test::randn({77}, 2, DType::f32);
  const Tensor want = Tensor::zeros({131, 1}), got = Tensor::zeros({131, 1});
  gemm(w, x.view({77, 1}), want);
  cpu::matvec(131, 77, w.data<float>(), x.data<float>(), got.data<float>());
  CHECK(test::relative_error(got, want) < 1e-6);
  cpu::matvec(131, 77, w.to(DType::bf16).data<bf16>(), x.data<float>(), got.data<float>());
  CHECK(test::relative_error(got, want) < 1e-2);
}

TEST_CASE("safetensors written here read back equal, with metadata") {
  const test::TempDir dir;
  const Tensor a = test::randn({3, 4}, 1, DType::f32), b = test::randn({5}, 2, DType::bf16), e = Tensor::zeros({0, 2});
  save_safetensors(dir.path("x.safetensors"), {{"a", a}, {"b", b}, {"empty", e}}, {{"format", "pt"}});
  const SafetensorsFile file(dir.path("x.safetensors"));
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.load("a").to_vector() == a.to_vector());
  CHECK(file.load("b").dtype() == DType::bf16);
  CHECK(file.load("b").to_vector() == b.to_vector());
  CHECK(file.load("empty").shape() == Shape{0, 2});
  CHECK(test::error_of([&] { file.load("c"); }).find("there is no tensor 'c'") != std::string::npos);
}

namespace {
void write_raw(const std::string& path, const std::string& header, size_t data_bytes) {
  std::ofstream out(path, std::ios::binary);
  const uint64_t n = header.size();
  out.write(reinterpret_cast<const char*>(&n), 8);
  out << header << std::string(data_bytes, '\0');
}
}  // namespace

TEST_CASE("garbled safetensors are refused with the reason") {
  const test::TempDir dir;
  const std::string path = dir.path("bad.safetensors");
  const auto open_error = [&](const std::string& header, size_t bytes) {
    write_raw(path, header, bytes);
    return test::error_of([&] { SafetensorsFile f(path); });
  };
  CHECK(open_error("{not json", 8).find("not a JSON object") != std::string::npos);
  CHECK(
      open_error(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
          12)
          .find("overlap") != std::string::npos);
  CHECK(open_error(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4).find("of 4") != std::string::npos);
  CHECK(open_error(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8).find("does not fill") !=
        std::string::npos);
  CHECK(open_error(R"({"a":{"dtype":"Q9","shape":[2],"data_offsets":[0,8]}})", 8).find("unknown dtype") !=
        std::string::npos);
  CHECK(open_error(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8).find("natural") !=
        std::string::npos);
  CHECK(open_error(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}})", 8)
            .find("overflows") != std::string::npos);
  std::ofstream(path, std::ios::binary) << "short";
  CHECK(test::error_of([&] { SafetensorsFile f(path); }).find("too short") != std::string::npos);
  CHECK(test::error_of([&] { SafetensorsFile f(dir.path("missing")); }).find("cannot open") != std::string::npos);
}

TEST_CASE("an atomic write that cannot finish leaves the old file and no rest") {
  const test::TempDir dir;
  write_file_atomic(dir.path("f"), "old");
  {
    AtomicWriter writer(dir.path("f"));
    writer.write("half", 4);
  }
  CHECK(read_file(dir.path("f")) == "old");
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);
  write_file_atomic(dir.path("f"), "new");
  CHECK(read_file(dir.path("f")) == "new");
  CHECK(test::error_of([&] { write_file_atomic(dir.path("no/such/folder"), "x"); }).find("cannot write") !=
        std::string::npos);
  CHECK(test::error_of([&] { read_file(dir.path()); }).find("not a regular file") != std::string::npos);
}
