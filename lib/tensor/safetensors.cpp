// Reading and writing of safetensors files.
#include "tensor/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tensor/file.h"
#include "tensor/half.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

using nlohmann::json;

constexpr int64_t kPart = int64_t{1} << 18;  // elements that are converted at a time

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

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  check(file_.size() >= 8, "safetensors", path, ": ", file_.size(), " bytes is too short for a header");
  uint64_t header_size;
  file_.read(0, &header_size, 8);
  check(header_size <= static_cast<uint64_t>(file_.size() - 8) && header_size <= 100'000'000, "safetensors", path,
        ": header of ", header_size, " bytes in a file of ", file_.size());
  data_begin_ = 8 + static_cast<int64_t>(header_size);
  const int64_t data_size = file_.size() - data_begin_;

  std::string text(header_size, '\0');
  file_.read(8, text.data(), static_cast<int64_t>(header_size));
  check_json_depth(text, "safetensors", path);
  const json header = json::parse(text, nullptr, /*allow_exceptions=*/false);
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
  check(it != entries_.end(), "safetensors", path(), ": there is no tensor '", name, "'");
  const Entry& e = it->second;
  const auto same = [&](DType dtype) {
    Tensor t = Tensor::empty(e.shape, dtype);
    if (t.numel() > 0) file_.read(data_begin_ + e.begin, t.raw(), t.bytes());
    return t;
  };
  if (e.dtype == "F32") return same(DType::f32);
  if (e.dtype == "F64") return same(DType::f64);
  if (e.dtype == "BF16") return same(DType::bf16);
  if (e.dtype == "I32") return same(DType::i32);
  check(e.dtype == "F16" || e.dtype == "I64" || e.dtype == "BOOL" || e.dtype == "U8", "safetensors", path(), ": '",
        name, "' has dtype ", e.dtype, ", which is not supported");
  Tensor t = Tensor::empty(e.shape, e.dtype == "F16" ? DType::f32 : DType::i32);
  const int64_t n = e.shape.numel(), width = element_size(e.dtype);
  std::vector<unsigned char> part;
  for (int64_t begin = 0; begin < n; begin += kPart) {
    const int64_t count = std::min(kPart, n - begin);
    part.resize(static_cast<size_t>(count * width));
    file_.read(data_begin_ + e.begin + begin * width, part.data(), count * width);
    for (int64_t i = 0; i < count; ++i) {
      const unsigned char* from = part.data() + i * width;
      if (e.dtype == "F16") {
        uint16_t h;
        std::memcpy(&h, from, 2);
        t.data<float>()[begin + i] = half_to_float(h);
        continue;
      }
      int64_t value = *from;
      if (width == 8) std::memcpy(&value, from, 8);
      check(value >= INT32_MIN && value <= INT32_MAX, "safetensors", path(), ": '", name, "' holds ", value,
            ", beyond 32 bits");
      t.data<int32_t>()[begin + i] = static_cast<int32_t>(value);
    }
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
