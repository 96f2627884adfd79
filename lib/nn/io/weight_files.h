// The weights of a model folder: which files hold them, and what is not read is refused by what it is.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "tensor/safetensors.h"

namespace rw {

/// All tensors of a folder by name, over one or several files. Thread safety: as SafetensorsFile.
class WeightFiles {
 public:
  /// model.safetensors if it is there, as in transformers, otherwise the shards that model.safetensors.index.json
  /// names. Errors: neither; weights in another format (named, with what to do); a git-lfs pointer in place of a file.
  explicit WeightFiles(const std::string& folder);

  bool contains(const std::string& name) const { return where_.count(name) > 0; }
  int64_t count() const { return static_cast<int64_t>(where_.size()); }
  std::vector<std::string> names() const;
  /// As its file's header tells it, before anything is read. Errors: no such tensor.
  const SafetensorsFile::Entry& entry(const std::string& name) const;
  Tensor load(const std::string& name) const;

 private:
  void add(const std::string& path);
  void add_shards(const std::string& folder, const std::string& index);
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> where_;
};

/// Errors: `path` is a git-lfs pointer, the small text that stands in for a file that was not downloaded.
void refuse_lfs_pointer(const std::string& path);

}  // namespace rw
