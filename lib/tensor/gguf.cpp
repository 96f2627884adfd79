// Reading and writing GGUF files.
#include "tensor/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "tensor/file.h"
#include "tensor/half.h"

namespace rw {
namespace {

constexpr const char* kOp = "gguf";
constexpr int64_t kAlignment = 32;
constexpr int64_t kBlock = 32;               // elements of a Q8_0 block
constexpr int64_t kBlockBytes = 2 + kBlock;  // an f16 scale and 32 int8
constexpr uint32_t kMostDims = 4;
constexpr uint64_t kMostKeys = 1 << 12, kMostTensors = 1 << 16;  // models have some dozens, and some thousands
constexpr int64_t kElements = 1 << 20;                           // converted at a time; a multiple of kBlock

/// Bytes of a number; 0 for strings and arrays.
int64_t size_of_type(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    case GgufType::string:
    case GgufType::array:
      return 0;
  }
  return 0;
}

bool is_integer(GgufType t) {
  return t != GgufType::f32 && t != GgufType::f64 && t != GgufType::string && t != GgufType::array &&
         t != GgufType::boolean;
}

template <class T>
T at(const std::string& bytes, uint64_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

/// Number `index` of `bytes`. u64 beyond 2^63 does not occur in a model and becomes the largest i64.
int64_t integer_at(GgufType type, const std::string& bytes, uint64_t index) {
  switch (type) {
    case GgufType::u8:
      return at<uint8_t>(bytes, index);
    case GgufType::i8:
      return at<int8_t>(bytes, index);
    case GgufType::u16:
      return at<uint16_t>(bytes, index);
    case GgufType::i16:
      return at<int16_t>(bytes, index);
    case GgufType::u32:
      return at<uint32_t>(bytes, index);
    case GgufType::i32:
      return at<int32_t>(bytes, index);
    case GgufType::u64:
      return static_cast<int64_t>(std::min<uint64_t>(at<uint64_t>(bytes, index), INT64_MAX));
    default:
      return at<int64_t>(bytes, index);
  }
}

double number_at(GgufType type, const std::string& bytes, uint64_t index) {
  if (type == GgufType::f32) return static_cast<double>(at<float>(bytes, index));
  if (type == GgufType::f64) return at<double>(bytes, index);
  return static_cast<double>(integer_at(type, bytes, index));
}

/// Walks through the header of a file. Nothing is believed before it was checked against what is left.
class Reader {
 public:
  Reader(const FileReader& file, const std::string& path) : file_(file), size_(file.size()), path_(path) {}

  int64_t position() const { return at_; }
  template <class T>
  T number() {
    T value;
    take(&value, sizeof(T));
    return value;
  }
  std::string string() { return bytes(number<uint64_t>()); }
  GgufType type() {
    const uint32_t t = number<uint32_t>();
    check(t <= 12, kOp, path_, ": unknown type ", t, " of a metadata value at byte ", at_ - 4);
    return static_cast<GgufType>(t);
  }
  GgufValue value() {
    GgufValue v;
    v.type = type();
    if (v.type != GgufType::array) {
      v.element = v.type;
    } else {
      v.element = type();
      check(v.element != GgufType::array, kOp, path_, ": arrays of arrays are not supported, at byte ", at_ - 4);
      v.count = number<uint64_t>();
    }
    if (v.element == GgufType::string) {
      check(v.count <= static_cast<uint64_t>(size_ - at_) / 8, kOp, path_, ": a list of ", v.count,
            " strings does not fit into the file");
      v.strings.reserve(v.count);
      for (uint64_t i = 0; i < v.count; ++i) v.strings.push_back(string());
      return v;
    }
    const auto width = static_cast<uint64_t>(size_of_type(v.element));
    check(v.count <= static_cast<uint64_t>(size_ - at_) / width, kOp, path_, ": a list of ", v.count,
          " numbers does not fit into the file");
    v.bytes = bytes(v.count * width);
    return v;
  }

 private:
  void expect(uint64_t n) const {
    check(n <= static_cast<uint64_t>(size_ - at_), kOp, path_, ": the file ends within its header, ", size_ - at_,
          " bytes left, ", n, " expected");
  }
  std::string bytes(uint64_t n) {
    expect(n);
    std::string out(n, '\0');
    take(out.data(), n);
    return out;
  }
  void take(void* to, uint64_t n) {
    expect(n);
    if (n > kPart) {
      file_.read(at_, to, static_cast<int64_t>(n));
    } else {
      if (at_ < begin_ || at_ + static_cast<int64_t>(n) > begin_ + static_cast<int64_t>(part_.size())) {
        begin_ = at_;
        part_.resize(static_cast<size_t>(std::min<int64_t>(kPart, size_ - at_)));
        file_.read(begin_, part_.data(), static_cast<int64_t>(part_.size()));
      }
      std::memcpy(to, part_.data() + (at_ - begin_), n);
    }
    at_ += static_cast<int64_t>(n);
  }

  static constexpr int64_t kPart = 1 << 16;
  const FileReader& file_;
  int64_t size_, at_ = 0, begin_ = 0;
  std::string part_;  // bytes [begin_, begin_ + size) of the file
  const std::string& path_;
};

/// Bytes of `numel` elements; -1 for types that are not read.
int64_t bytes_of(uint32_t type, int64_t numel) {
  switch (static_cast<GgmlType>(type)) {
    case GgmlType::f32:
      return numel * 4;
    case GgmlType::f16:
    case GgmlType::bf16:
      return numel * 2;
    case GgmlType::q8_0:
      return numel / kBlock * kBlockBytes;
  }
  return -1;
}

GgufFile::Entry read_entry(Reader& in, const std::string& name, const std::string& path) {
  GgufFile::Entry entry;
  const uint32_t dims = in.number<uint32_t>();
  check(dims <= kMostDims, kOp, path, ": tensor '", name, "' has ", dims, " dimensions, expected at most ", kMostDims);
  std::vector<int64_t> sizes;
  int64_t numel = 1;
  for (uint32_t d = 0; d < dims; ++d) {
    const uint64_t n = in.number<uint64_t>();
    check(n <= uint64_t{1} << 40 && (n == 0 || numel <= (int64_t{1} << 48) / static_cast<int64_t>(n)), kOp, path,
          ": tensor '", name, "' is too large");
    numel *= static_cast<int64_t>(n);
    sizes.push_back(static_cast<int64_t>(n));
  }
  for (auto it = sizes.rbegin(); it != sizes.rend(); ++it)
    entry.shape.push_back(*it);  // the file has the fastest first
  entry.type = in.number<uint32_t>();
  const uint64_t offset = in.number<uint64_t>();
  check(offset <= uint64_t{1} << 62, kOp, path, ": tensor '", name, "' lies at byte ", offset);
  entry.begin = static_cast<int64_t>(offset);
  return entry;
}

float half_at(const unsigned char* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return half_to_float(h);
}

/// `count` elements of F16 or Q8_0 as f32.
void widen(uint32_t type, const unsigned char* from, int64_t count, float* to) {
  if (type == static_cast<uint32_t>(GgmlType::f16)) {
    for (int64_t i = 0; i < count; ++i) to[i] = half_at(from + 2 * i);
    return;
  }
  for (int64_t block = 0; block < count / kBlock; ++block) {
    const unsigned char* p = from + block * kBlockBytes;
    const float scale = half_at(p);
    for (int64_t i = 0; i < kBlock; ++i)
      to[block * kBlock + i] = scale * static_cast<float>(static_cast<int8_t>(p[2 + i]));
  }
}

const GgufValue* find(const std::map<std::string, GgufValue>& metadata, const std::string& key) {
  const auto it = metadata.find(key);
  return it == metadata.end() ? nullptr : &it->second;
}

}  // namespace

std::string ggml_type_name(uint32_t type) {
  static const std::map<uint32_t, const char*> names = {
      {0, "F32"},      {1, "F16"},     {2, "Q4_0"},     {3, "Q4_1"},   {6, "Q5_0"},    {7, "Q5_1"},   {8, "Q8_0"},
      {9, "Q8_1"},     {10, "Q2_K"},   {11, "Q3_K"},    {12, "Q4_K"},  {13, "Q5_K"},   {14, "Q6_K"},  {15, "Q8_K"},
      {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},
      {23, "IQ4_XS"},  {24, "I8"},     {25, "I16"},     {26, "I32"},   {27, "I64"},    {28, "F64"},   {29, "IQ1_M"},
      {30, "BF16"},    {34, "TQ1_0"},  {35, "TQ2_0"},   {39, "MXFP4"}};
  const auto it = names.find(type);
  return it == names.end() ? cat("type ", type) : it->second;
}

GgufFile::GgufFile(const std::string& path) : path_(path), file_(path) {
  check(file_.size() >= 24, kOp, path, ": ", file_.size(), " bytes is too short for a GGUF file");
  Reader in(file_, path_);
  check(in.number<uint32_t>() == 0x46554747u, kOp, path, ": is not a GGUF file (it does not begin with \"GGUF\")");
  const uint32_t version = in.number<uint32_t>();
  check(version == 2 || version == 3, kOp, path, ": version must be 2 or 3, got ", version);
  const uint64_t tensors = in.number<uint64_t>(), keys = in.number<uint64_t>();
  const auto most = static_cast<uint64_t>(file_.size()) / 13;  // the shortest key and the shortest tensor take more
  check(tensors <= most && keys <= most, kOp, path, ": ", tensors, " tensors and ", keys, " keys do not fit into ",
        file_.size(), " bytes");
  check(tensors <= kMostTensors && keys <= kMostKeys, kOp, path, ": ", tensors, " tensors and ", keys,
        " keys, expected at most ", kMostTensors, " and ", kMostKeys);
  for (uint64_t i = 0; i < keys; ++i) {
    const std::string key = in.string();
    check(metadata_.emplace(key, in.value()).second, kOp, path, ": the key '", key, "' stands there twice");
  }
  for (uint64_t i = 0; i < tensors; ++i) {
    const std::string name = in.string();
    check(entries_.emplace(name, read_entry(in, name, path)).second, kOp, path, ": two tensors are named '", name, "'");
  }
  const int64_t alignment = find_integer("general.alignment").value_or(kAlignment);
  check(alignment >= 8 && alignment <= 1 << 20 && alignment % 8 == 0, kOp, path,
        ": general.alignment must be a multiple of 8 up to 1048576, got ", alignment);
  data_begin_ = (in.position() + alignment - 1) / alignment * alignment;
  const int64_t data_size = std::max<int64_t>(0, file_.size() - data_begin_);
  for (const auto& [name, entry] : entries_) {
    check(entry.begin % alignment == 0, kOp, path, ": tensor '", name, "' is not aligned to ", alignment, " bytes");
    const int64_t bytes = bytes_of(entry.type, entry.shape.numel());
    check(entry.begin <= data_size && bytes <= data_size - entry.begin, kOp, path, ": tensor '", name,
          "' reaches beyond the end of the file");
  }
}

std::optional<int64_t> GgufFile::find_integer(const std::string& key) const {
  const GgufValue* v = find(metadata_, key);
  if (!v) return std::nullopt;
  check(is_integer(v->type), kOp, path_, ": '", key, "' must be a whole number");
  return integer_at(v->type, v->bytes, 0);
}

std::optional<double> GgufFile::find_number(const std::string& key) const {
  const GgufValue* v = find(metadata_, key);
  if (!v) return std::nullopt;
  check(v->type == GgufType::f32 || v->type == GgufType::f64 || is_integer(v->type), kOp, path_, ": '", key,
        "' must be a number");
  return number_at(v->type, v->bytes, 0);
}

std::optional<bool> GgufFile::find_boolean(const std::string& key) const {
  const GgufValue* v = find(metadata_, key);
  if (!v) return std::nullopt;
  check(v->type == GgufType::boolean, kOp, path_, ": '", key, "' must be true or false");
  return v->bytes[0] != 0;
}

std::optional<std::string> GgufFile::find_string(const std::string& key) const {
  const GgufValue* v = find(metadata_, key);
  if (!v) return std::nullopt;
  check(v->type == GgufType::string, kOp, path_, ": '", key, "' must be a string");
  return v->strings[0];
}

std::vector<std::string> GgufFile::strings(const std::string& key) const {
  const GgufValue* v = find(metadata_, key);
  if (!v) return {};
  check(v->type == GgufType::array && v->element == GgufType::string, kOp, path_, ": '", key,
        "' must be a list of strings");
  return v->strings;
}

std::vector<double> GgufFile::numbers(const std::string& key) const {
  const GgufValue* v = find(metadata_, key);
  if (!v) return {};
  check(v->type == GgufType::array && v->element != GgufType::string && v->element != GgufType::boolean, kOp, path_,
        ": '", key, "' must be a list of numbers");
  std::vector<double> out(v->count);
  for (uint64_t i = 0; i < v->count; ++i) out[i] = number_at(v->element, v->bytes, i);
  return out;
}

int64_t GgufFile::integer(const std::string& key) const {
  const auto v = find_integer(key);
  check(v.has_value(), kOp, path_, ": the key '", key, "' is missing");
  return *v;
}

double GgufFile::number(const std::string& key) const {
  const auto v = find_number(key);
  check(v.has_value(), kOp, path_, ": the key '", key, "' is missing");
  return *v;
}

std::string GgufFile::text(const std::string& key) const {
  const auto v = find_string(key);
  check(v.has_value(), kOp, path_, ": the key '", key, "' is missing");
  return *v;
}

Tensor GgufFile::load(const std::string& name) const {
  const auto it = entries_.find(name);
  check(it != entries_.end(), kOp, path_, ": there is no tensor '", name, "'");
  const Entry& e = it->second;
  const int64_t n = e.shape.numel();
  check(bytes_of(e.type, n) >= 0, kOp, path_, ": tensor '", name, "' is stored as ", ggml_type_name(e.type),
        "; expected F32, F16, BF16 or Q8_0");
  check(e.type != static_cast<uint32_t>(GgmlType::q8_0) ||
            (e.shape.rank() > 0 && e.shape[e.shape.rank() - 1] % kBlock == 0),
        kOp, path_, ": tensor '", name, "' of shape ", e.shape, " cannot be Q8_0: its rows must be a multiple of ",
        kBlock);
  const int64_t begin = data_begin_ + e.begin;
  if (e.type == static_cast<uint32_t>(GgmlType::bf16) || e.type == static_cast<uint32_t>(GgmlType::f32)) {
    Tensor t = Tensor::empty(e.shape, e.type == static_cast<uint32_t>(GgmlType::bf16) ? DType::bf16 : DType::f32);
    if (n > 0) file_.read(begin, t.raw(), t.bytes());
    return t;
  }
  Tensor t = Tensor::empty(e.shape, DType::f32);
  std::vector<unsigned char> part;
  for (int64_t first = 0; first < n; first += kElements) {
    const int64_t count = std::min(kElements, n - first);
    part.resize(static_cast<size_t>(bytes_of(e.type, count)));
    file_.read(begin + bytes_of(e.type, first), part.data(), static_cast<int64_t>(part.size()));
    widen(e.type, part.data(), count, t.data<float>() + first);
  }
  return t;
}

}  // namespace rw
