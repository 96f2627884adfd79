// Writing GGUF files: metadata values, conversion of tensors, layout.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "tensor/file.h"
#include "tensor/gguf.h"
#include "tensor/half.h"

namespace rw {
namespace {

constexpr const char* kOp = "gguf";
constexpr int64_t kAlignment = 32;
constexpr int64_t kBlock = 32;

template <class T>
std::string as_bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

template <class T>
GgufValue scalar(GgufType type, T value) {
  return {.type = type, .element = type, .count = 1, .bytes = as_bytes(std::vector<T>{value}), .strings = {}};
}

template <class T>
GgufValue list(GgufType element, const std::vector<T>& values) {
  return {
      .type = GgufType::array, .element = element, .count = values.size(), .bytes = as_bytes(values), .strings = {}};
}

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, const std::string& text) {
  put<uint64_t>(out, text.size());
  out += text;
}

void put_value(std::string& out, const GgufValue& v) {
  put(out, static_cast<uint32_t>(v.type));
  if (v.type == GgufType::array) {
    put(out, static_cast<uint32_t>(v.element));
    put<uint64_t>(out, v.count);
  }
  for (const std::string& s : v.strings) put_string(out, s);
  out += v.bytes;
}

int64_t bytes_in_file(const GgufTensor& t) {
  const int64_t n = t.tensor.numel();
  switch (t.type) {
    case GgmlType::f32:
      return n * 4;
    case GgmlType::f16:
    case GgmlType::bf16:
      return n * 2;
    case GgmlType::q8_0:
      return n / kBlock * (2 + kBlock);
  }
  return 0;
}

/// Q8_0, as ggml's reference: scale = largest magnitude / 127 in f16, values rounded by the unrounded scale.
std::string quantise(const float* x, int64_t n, const std::string& name) {
  std::string out;
  out.reserve(static_cast<size_t>(n / kBlock * (2 + kBlock)));
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    float largest = 0;
    for (int64_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::abs(x[begin + i]));
    check(largest < 127 * 65504.0f, kOp, "'", name, "' holds ", largest, ", which Q8_0 cannot hold");
    const float scale = largest / 127.0f, inverse = scale > 0 ? 1.0f / scale : 0.0f;
    put(out, float_to_half(scale));
    for (int64_t i = 0; i < kBlock; ++i)
      out += static_cast<char>(static_cast<int8_t>(std::round(x[begin + i] * inverse)));
  }
  return out;
}

std::string encode(const GgufTensor& t) {
  const Tensor host = t.tensor.to(kCpu);
  const int64_t n = host.numel();
  if (t.type == GgmlType::bf16) {
    const Tensor b = host.to(DType::bf16);
    return std::string(static_cast<const char*>(b.raw()), static_cast<size_t>(n) * 2);
  }
  const Tensor f = host.to(DType::f32);
  const float* x = f.data<float>();
  if (t.type == GgmlType::f32) return std::string(reinterpret_cast<const char*>(x), static_cast<size_t>(n) * 4);
  if (t.type == GgmlType::q8_0) return quantise(x, n, t.name);
  std::string out;
  out.reserve(static_cast<size_t>(n) * 2);
  for (int64_t i = 0; i < n; ++i) {
    check(!(std::abs(x[i]) >= 65520.0f) || std::isinf(x[i]), kOp, "'", t.name, "' holds ", x[i],
          ", which f16 cannot hold; write f32 or bf16");
    put(out, float_to_half(x[i]));
  }
  return out;
}

}  // namespace

GgufValue GgufValue::u32(uint32_t value) { return scalar(GgufType::u32, value); }
GgufValue GgufValue::f32(float value) { return scalar(GgufType::f32, value); }
GgufValue GgufValue::boolean(bool value) { return scalar(GgufType::boolean, static_cast<uint8_t>(value)); }
GgufValue GgufValue::string(std::string value) {
  return {
      .type = GgufType::string, .element = GgufType::string, .count = 1, .bytes = {}, .strings = {std::move(value)}};
}
GgufValue GgufValue::i32s(const std::vector<int32_t>& values) { return list(GgufType::i32, values); }
GgufValue GgufValue::f32s(const std::vector<float>& values) { return list(GgufType::f32, values); }
GgufValue GgufValue::string_list(std::vector<std::string> values) {
  const uint64_t count = values.size();
  return {
      .type = GgufType::array, .element = GgufType::string, .count = count, .bytes = {}, .strings = std::move(values)};
}

void save_gguf(const std::string& path, const GgufMetadata& metadata, const std::vector<GgufTensor>& tensors) {
  std::string head = "GGUF";
  put<uint32_t>(head, 3);
  put<uint64_t>(head, tensors.size());
  put<uint64_t>(head, metadata.size());
  std::set<std::string> names;
  for (const auto& [key, value] : metadata) {
    check(names.insert(key).second, kOp, "the key '", key, "' is given twice");
    put_string(head, key);
    put_value(head, value);
  }
  names.clear();
  const auto padded = [](int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; };
  int64_t offset = 0;
  for (const GgufTensor& t : tensors) {
    const Shape& shape = t.tensor.shape();
    check(names.insert(t.name).second, kOp, "two tensors are named '", t.name, "'");
    check(t.type != GgmlType::q8_0 || (shape.rank() > 0 && shape[shape.rank() - 1] % kBlock == 0), kOp, "'", t.name,
          "' of shape ", shape, " cannot be Q8_0: its rows must be a multiple of ", kBlock);
    put_string(head, t.name);
    put<uint32_t>(head, static_cast<uint32_t>(shape.rank()));
    for (int d = shape.rank() - 1; d >= 0; --d) put<uint64_t>(head, static_cast<uint64_t>(shape[d]));
    put(head, static_cast<uint32_t>(t.type));
    put<uint64_t>(head, static_cast<uint64_t>(offset));
    offset += padded(bytes_in_file(t));
  }
  head.resize(static_cast<size_t>(padded(static_cast<int64_t>(head.size()))), '\0');
  AtomicWriter writer(path);
  writer.write(head.data(), static_cast<int64_t>(head.size()));
  for (const GgufTensor& t : tensors) {
    std::string bytes = encode(t);
    bytes.resize(static_cast<size_t>(padded(static_cast<int64_t>(bytes.size()))), '\0');
    writer.write(bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  writer.commit();
}

}  // namespace rw
