// What the tests of model families share.
#pragma once
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "nn/families/family.h"
#include "nn/io/hf.h"
#include "support.h"
#include "tensor/file.h"

namespace test {

/// The folders of `families/` in the golden set: <name>/{config.json, model.safetensors,
/// expect.safetensors}. Prints why if there are none.
inline std::vector<std::string> family_folders() {
  namespace fs = std::filesystem;
  std::vector<std::string> folders;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(golden_dir() + "/families", error)) {
    if (fs::exists(entry.path() / "config.json")) folders.push_back(entry.path().string());
  }
  std::sort(folders.begin(), folders.end());
  if (folders.empty()) std::printf("SKIPPED: no families/ in %s\n", golden_dir().c_str());
  return folders;
}

inline std::string name_of_folder(const std::string& folder) {
  return std::filesystem::path(folder).filename().string();
}

}  // namespace test
