// The safetensors file format: 8 bytes of header length, a JSON header, then raw little-endian data.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor/file.h"
#include "tensor/tensor.h"

namespace rw {

/// An open safetensors file. The header is checked whole when it is opened: sizes, dtypes, bounds, overlaps.
/// Thread safety: const functions may be called from many threads at once.
class SafetensorsFile {
 public:
  struct Entry {
    std::string dtype;  // as in the file: "F32", "BF16", "F16", "I64", ...
    Shape shape;
    int64_t begin = 0, end = 0;  // bytes within the data part
  };

  /// A header of n bytes, of at most 100 MB, takes at most 8 n bytes of memory beside the entries, and time
  /// in proportion to n. Errors: unreadable, truncated, garbled header, offsets out of range or
  /// overlapping, sizes that do not match the shape.
  explicit SafetensorsFile(const std::string& path);

  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return entries_.count(name) > 0; }
  /// A tensor of its own: F32, F64, BF16 and I32 as they are, F16 as f32, I64/BOOL/U8 as i32. Errors: no such name, I64
  /// beyond i32, a file that became shorter.
  Tensor load(const std::string& name) const;
  const std::string& path() const { return file_.path(); }

 private:
  FileReader file_;
  int64_t data_begin_ = 0;  // of the data part, in the file
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// Writes a file that other readers of the format accept. Written under a temporary name, fsynced, then renamed.
void save_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace rw
