#include "tensor/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tensor/file.h"
#include "tensor/half.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

using nlohmann::json;

int64_t element_size(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "BOOL" || dtype == "U8" || dtype == "I8" || dtype == "F8_E4M3" || dtype == "F8_E5M2") return 1;
  return 0;
}

int64_t read_offset(const json& value, const std::string& path, const std::string& name) {
  check(value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{1} << 62, "safetensors", path, ": '", name,
        "': offsets and sizes must be natural numbers");
  return value.get<int64_t>();
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  const MappedFile map = map_file(path);
  mapping_ = map.owner;
  check(map.size >= 8, "safetensors", path, ": ", map.size, " bytes is too short for a header");
  uint64_t header_size;
  std::memcpy(&header_size, map.data, 8);
  check(header_size <= static_cast<uint64_t>(map.size - 8) && header_size <= 100'000'000, "safetensors", path,
        ": header of ", header_size, " bytes in a file of ", map.size);
  data_ = map.data + 8 + header_size;
  const int64_t data_size = map.size - 8 - static_cast<int64_t>(header_size);

  const char* text = reinterpret_cast<const char*>(map.data + 8);
  check_json_depth({text, header_size}, "safetensors", path);
  const json header = json::parse(text, text + header_size, nullptr, /*allow_exceptions=*/false);
  check(header.is_object(), "safetensors", path, ": the header is not a JSON object");
  for (const auto& [name, value] : header.items()) {
    check(value.is_object(), "safetensors", path, ": '", name, "' is not an object");
    if (name == "__metadata__") {
      for (const auto& [key, text_value] : value.items()) {
        check(text_value.is_string(), "safetensors", path, ": metadata '", key, "' is not a string");
        metadata_[key] = text_value.get<std::string>();
      }
      continue;
    }
    Entry entry;
    check(value.contains("dtype") && value["dtype"].is_string() && value.contains("shape") &&
              value["shape"].is_array() && value.contains("data_offsets") && value["data_offsets"].is_array() &&
              value["data_offsets"].size() == 2,
          "safetensors", path, ": '", name, "' needs dtype, shape and two data_offsets");
    entry.dtype = value["dtype"].get<std::string>();
    const int64_t size = element_size(entry.dtype);
    check(size > 0, "safetensors", path, ": '", name, "' has unknown dtype '", entry.dtype, "'");
    for (const json& d : value["shape"]) entry.shape.push_back(read_offset(d, path, name));
    entry.begin = read_offset(value["data_offsets"][0], path, name);
    entry.end = read_offset(value["data_offsets"][1], path, name);
    check(entry.begin <= entry.end && entry.end <= data_size, "safetensors", path, ": '", name, "' lies at bytes [",
          entry.begin, ", ", entry.end, ") of ", data_size);
    check(entry.shape.numel() <= data_size && entry.shape.numel() * size == entry.end - entry.begin, "safetensors",
          path, ": '", name, "' of shape ", entry.shape, " and dtype ", entry.dtype, " does not fill ",
          entry.end - entry.begin, " bytes");
    entries_[name] = entry;
  }
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const auto& [name, entry] : entries_) {
    if (entry.begin < entry.end) ranges.emplace_back(entry.begin, entry.end);
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    check(ranges[i - 1].second <= ranges[i].first, "safetensors", path, ": data offsets overlap at byte ",
          ranges[i].first);
  }
}

Tensor SafetensorsFile::load(const std::string& name) const {
  const auto it = entries_.find(name);
  check(it != entries_.end(), "safetensors", path_, ": there is no tensor '", name, "'");
  const Entry& e = it->second;
  const unsigned char* from = data_ + e.begin;
  const int64_t n = e.shape.numel();
  const auto same = [&](DType dtype) {
    Tensor t = Tensor::empty(e.shape, dtype);
    if (n > 0) std::memcpy(t.raw(), from, static_cast<size_t>(t.bytes()));
    return t;
  };
  if (e.dtype == "F32") return same(DType::f32);
  if (e.dtype == "F64") return same(DType::f64);
  if (e.dtype == "BF16") return same(DType::bf16);
  if (e.dtype == "I32") return same(DType::i32);
  if (e.dtype == "F16") {
    Tensor t = Tensor::empty(e.shape, DType::f32);
    for (int64_t i = 0; i < n; ++i) {
      uint16_t h;
      std::memcpy(&h, from + 2 * i, 2);
      t.data<float>()[i] = half_to_float(h);
    }
    return t;
  }
  Tensor t = Tensor::empty(e.shape, DType::i32);
  for (int64_t i = 0; i < n; ++i) {
    int64_t value = 0;
    if (e.dtype == "I64") {
      std::memcpy(&value, from + 8 * i, 8);
    } else if (e.dtype == "BOOL" || e.dtype == "U8") {
      value = from[i];
    } else {
      fail("safetensors", path_, ": '", name, "' has dtype ", e.dtype, ", which is not supported");
    }
    check(value >= INT32_MIN && value <= INT32_MAX, "safetensors", path_, ": '", name, "' holds ", value,
          ", beyond 32 bits");
    t.data<int32_t>()[i] = static_cast<int32_t>(value);
  }
  return t;
}

void save_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  static const std::map<DType, const char*> names = {
      {DType::f32, "F32"}, {DType::f64, "F64"}, {DType::bf16, "BF16"}, {DType::i32, "I32"}};
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const NamedTensor& t : tensors) {
    check(!header.contains(t.name), "safetensors", "two tensors are named '", t.name, "'");
    header[t.name] = {{"dtype", names.at(t.tensor.dtype())},
                      {"shape", std::vector<int64_t>(t.tensor.shape().begin(), t.tensor.shape().end())},
                      {"data_offsets", {offset, offset + t.tensor.bytes()}}};
    offset += t.tensor.bytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // data starts aligned
  const uint64_t length = text.size();
  AtomicWriter writer(path);
  writer.write(&length, 8);
  writer.write(text.data(), static_cast<int64_t>(length));
  for (const NamedTensor& t : tensors) {
    const Tensor host = t.tensor.to(kCpu);
    if (host.numel() > 0) writer.write(host.raw(), host.bytes());
  }
  writer.commit();
}

}  // namespace rw
