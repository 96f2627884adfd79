// The GGUF file format (version 3; versions 2 and 3 are read): metadata as typed keys, then tensors with aligned data.
// Source: the format's specification in ggml's repository, docs/gguf.md.
//
//   GgufFile file("model.gguf");
//   int64_t layers = file.integer("llama.block_count");
//   Tensor head = file.load("output.weight");        // f32, or bf16 where the file has bf16
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/file.h"
#include "tensor/tensor.h"

namespace rw {

/// The types of metadata values, with the numbers that stand in the file.
enum class GgufType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12
};

/// The types of tensor data that are read and written. Files may hold others (Q4_K, ...): loading those is refused by
/// name.
enum class GgmlType : uint32_t { f32 = 0, f16 = 1, q8_0 = 8, bf16 = 30 };

/// "F32", "Q8_0", "Q4_K", ...; "type N" if the number is unknown.
std::string ggml_type_name(uint32_t type);

/// One metadata value. Numbers and arrays of numbers are kept as the bytes of the file.
struct GgufValue {
  GgufType type = GgufType::u32;
  GgufType element = GgufType::u32;  // of an array
  uint64_t count = 1;                // of an array
  std::string bytes;                 // numbers, little-endian, `count` of them
  std::vector<std::string> strings;  // a string, or an array of strings

  static GgufValue u32(uint32_t value);
  static GgufValue f32(float value);
  static GgufValue boolean(bool value);
  static GgufValue string(std::string value);
  static GgufValue i32s(const std::vector<int32_t>& values);
  static GgufValue f32s(const std::vector<float>& values);
  static GgufValue string_list(std::vector<std::string> values);
};

using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// True if `path` names a GGUF file: it ends with ".gguf" and is no folder.
bool is_gguf_path(const std::string& path);

/// A GGUF file. The header is checked whole when the file is opened: counts (at most 65,536 keys and as many tensors),
/// sizes, types, alignment and bounds.
/// Thread safety: const functions may be called from many threads at once.
class GgufFile {
 public:
  struct Entry {
    uint32_t type = 0;  // a GgmlType, or another number of ggml's
    Shape shape;        // slowest dimension first, as everywhere in this library
    int64_t begin = 0;  // bytes within the data part
  };

  /// Errors: unreadable, truncated or garbled files, another version, big-endian files, two tensors of one name.
  explicit GgufFile(const std::string& path);

  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  bool contains(const std::string& tensor) const { return entries_.count(tensor) > 0; }

  /// A metadata value by key. The first form gives nothing if the key is absent. Errors: the value has another type.
  std::optional<int64_t> find_integer(const std::string& key) const;
  std::optional<double> find_number(const std::string& key) const;
  std::optional<bool> find_boolean(const std::string& key) const;
  std::optional<std::string> find_string(const std::string& key) const;
  std::vector<std::string> strings(const std::string& key) const;  // empty if absent
  std::vector<double> numbers(const std::string& key) const;       // integers or floats; empty if absent
  /// Errors: as above, or the key is absent.
  int64_t integer(const std::string& key) const;
  double number(const std::string& key) const;
  std::string text(const std::string& key) const;

  /// A tensor of its own on the CPU: F32, F16 and Q8_0 as f32, BF16 as bf16. Errors: no such tensor; a type that is not
  /// supported (named); data beyond the end of the file.
  Tensor load(const std::string& tensor) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  FileReader file_;
  int64_t data_begin_ = 0;  // of the data part, in the file
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, Entry> entries_;
};

struct GgufTensor {
  std::string name;
  Tensor tensor;  // f32 or bf16, on any device
  GgmlType type = GgmlType::f32;
};

/// Writes version 3 with an alignment of 32 bytes, under a temporary name that is then renamed. Keys keep their order.
/// Errors: a value beyond the range of f16; Q8_0 for a last dimension that is not a multiple of 32; two equal names.
void save_gguf(const std::string& path, const GgufMetadata& metadata, const std::vector<GgufTensor>& tensors);

}  // namespace rw
