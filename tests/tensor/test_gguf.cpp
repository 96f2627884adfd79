// The GGUF format and half precision.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "support.h"
#include "tensor/file.h"
#include "tensor/gguf.h"
#include "tensor/half.h"
#include "tensor/random.h"

using namespace rw;

namespace {

struct Folder {
  std::string path = (std::filesystem::temp_directory_path() / cat("rw-gguf-", ::getpid())).string();
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
};

Tensor normal(Shape shape, double std) {
  const Tensor t = Tensor::empty(shape);
  Random random(7, Purpose::init, 0, 0);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(std * random.normal());
  return t;
}

std::string sample_file(const std::string& folder) {
  const std::string path = folder + "/sample.gguf";
  save_gguf(path,
            {{"general.architecture", GgufValue::string("llama")},
             {"llama.block_count", GgufValue::u32(2)},
             {"llama.eps", GgufValue::f32(1e-5f)},
             {"flag", GgufValue::boolean(true)},
             {"tokens", GgufValue::string_list({"a", "", "ccc"})},
             {"types", GgufValue::i32s({1, -2, 3})},
             {"scores", GgufValue::f32s({0.5f, -1})}},
            {{"a", normal({3, 5}, 1), GgmlType::f32},
             {"b", normal({2, 64}, 1), GgmlType::q8_0},
             {"c", normal({7}, 1), GgmlType::f16},
             {"d", normal({4, 32}, 1), GgmlType::bf16}});
  return path;
}

}  // namespace

TEST_CASE("every f16 survives the way through f32, and f32 rounds to the nearest f16") {
  for (uint32_t h = 0; h < 65536; ++h) {
    const auto half = static_cast<uint16_t>(h);
    const float value = half_to_float(half);
    if (std::isnan(value)) continue;
    CHECK(float_to_half(value) == half);
  }
  CHECK(float_to_half(65519.0f) == 0x7bff);
  CHECK(float_to_half(65520.0f) == 0x7c00);
  CHECK(float_to_half(1.0f + 0x1p-11f) == 0x3c00);             // a tie goes to even
  CHECK(float_to_half(1.0f + 0x1p-11f + 0x1p-20f) == 0x3c01);  // above it, up
  CHECK(float_to_half(0x1p-25f) == 0);                         // a tie with zero
  CHECK(float_to_half(0x1.8p-25f) == 1);
  CHECK(std::isnan(half_to_float(float_to_half(std::numeric_limits<float>::quiet_NaN()))));
}

TEST_CASE("a GGUF file gives back its metadata and its tensors") {
  const Folder folder;
  const GgufFile file(sample_file(folder.path));
  CHECK(file.text("general.architecture") == "llama");
  CHECK(file.integer("llama.block_count") == 2);
  CHECK(file.number("llama.eps") == doctest::Approx(1e-5));
  CHECK(file.find_boolean("flag") == true);
  CHECK(file.strings("tokens") == std::vector<std::string>{"a", "", "ccc"});
  CHECK(file.numbers("types") == std::vector<double>{1, -2, 3});
  CHECK(file.numbers("scores") == std::vector<double>{0.5, -1});
  CHECK_FALSE(file.find_integer("absent").has_value());
  CHECK_THROWS_WITH_AS(file.integer("tokens"), doctest::Contains("must be a whole number"), Error);
  CHECK_THROWS_WITH_AS(file.text("absent"), doctest::Contains("'absent' is missing"), Error);

  CHECK(file.load("a").to_vector() == normal({3, 5}, 1).to_vector());
  CHECK(file.load("a").shape() == Shape{3, 5});
  CHECK(file.load("d").dtype() == DType::bf16);
  CHECK(file.load("d").to_vector() == normal({4, 32}, 1).to(DType::bf16).to_vector());
  const std::vector<double> exact = normal({2, 64}, 1).to_vector(), quantised = file.load("b").to_vector();
  for (size_t block = 0; block < 4; ++block) {
    double largest = 0;
    for (size_t i = 0; i < 32; ++i) largest = std::max(largest, std::abs(exact[block * 32 + i]));
    for (size_t i = block * 32; i < block * 32 + 32; ++i)
      CHECK(std::abs(exact[i] - quantised[i]) <= largest / 127 * 0.51);
  }
  const std::vector<double> whole = normal({7}, 1).to_vector(), half = file.load("c").to_vector();
  for (size_t i = 0; i < 7; ++i) CHECK(std::abs(whole[i] - half[i]) <= std::abs(whole[i]) * 0x1p-11);
}

TEST_CASE("Q8_0 is a block of 32: the largest magnitude / 127 as f16, then every value over it, rounded") {
  const Folder folder;
  const std::string path = folder.path + "/q.gguf";
  Tensor x = normal({3, 32}, 2);
  for (int i = 0; i < 32; ++i) x.data<float>()[32 + i] = 0;  // a block of zeros
  x.data<float>()[64] = -300;                                // an outlier, negative
  save_gguf(path, {}, {{"x", x, GgmlType::q8_0}});
  const std::string bytes = read_file(path);
  const auto* block = reinterpret_cast<const unsigned char*>(bytes.data()) + bytes.size() - 3 * 34 - (128 - 3 * 34);
  const std::vector<double> read = GgufFile(path).load("x").to_vector();
  for (int b = 0; b < 3; ++b, block += 34) {
    const float* values = x.data<float>() + 32 * b;
    float largest = 0;
    for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(values[i]));
    uint16_t half;
    std::memcpy(&half, block, 2);
    CHECK(half == float_to_half(largest / 127));
    const float inverse = largest > 0 ? 1 / (largest / 127) : 0;  // as ggml: the scale before it is rounded to f16
    for (int i = 0; i < 32; ++i) {
      const auto stored = static_cast<int8_t>(block[2 + i]);
      CHECK(stored == static_cast<int8_t>(std::round(values[i] * inverse)));
      CHECK(read[static_cast<size_t>(32 * b + i)] == static_cast<double>(half_to_float(half) * stored));
    }
  }
}

TEST_CASE("more keys or tensors than any model has are refused before they are read") {
  const Folder folder;
  const std::string path = folder.path + "/many.gguf";
  const auto refused = [&](uint64_t tensors, uint64_t keys) {
    std::string bytes("GGUF\3\0\0\0", 8);
    bytes.append(reinterpret_cast<const char*>(&tensors), 8).append(reinterpret_cast<const char*>(&keys), 8);
    bytes.resize(2'000'000);
    write_file_atomic(path, bytes);
    return test::error_of([&] { GgufFile{path}; });
  };
  CHECK(refused(65537, 0).find("65537 tensors and 0 keys are more than 65536") != std::string::npos);
  CHECK(refused(0, 100000).find("are more than 65536") != std::string::npos);
  CHECK(refused(uint64_t{1} << 60, 0).find("do not fit into") != std::string::npos);
}

TEST_CASE("a truncated or garbled GGUF file is refused and never read beyond its end") {
  const Folder folder;
  const std::string whole = read_file(sample_file(folder.path)), path = folder.path + "/damaged.gguf";
  for (size_t n = 0; n < whole.size(); n += n < 700 ? 1 : 97) {
    write_file_atomic(path, std::string_view(whole).substr(0, n));
    CHECK_THROWS_AS(GgufFile{path}, Error);
  }
  Random random(11, Purpose::init, 0, 0);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = whole;
    for (int k = 0; k < 3; ++k) bytes[static_cast<size_t>(random.below(500))] = static_cast<char>(random.below(256));
    write_file_atomic(path, bytes);
    try {
      const GgufFile file(path);
      for (const auto& [name, entry] : file.entries()) static_cast<void>(file.load(name));
    } catch (const Error&) {
    }
  }
}

TEST_CASE("GGUF refuses what it cannot hold, by name") {
  const Folder folder;
  const std::string path = folder.path + "/x.gguf";
  const Tensor large = Tensor::full({2}, 1e6);
  CHECK_THROWS_WITH_AS(save_gguf(path, {}, {{"big", large, GgmlType::f16}}), doctest::Contains("'big' holds"), Error);
  CHECK_THROWS_WITH_AS(save_gguf(path, {}, {{"odd", Tensor::zeros({2, 31}), GgmlType::q8_0}}),
                       doctest::Contains("multiple of 32"), Error);
  CHECK_FALSE(std::filesystem::exists(path));
}
