// Files of results that the user names: what is there already is replaced only if it is of the same kind.
#pragma once
#include <filesystem>
#include <functional>
#include <string>

#include "tensor/error.h"
#include "tensor/folder.h"

/// Before the work. `is_ours` looks at a file that is there already; what it throws means no. Errors: the folder does not
/// exist; something else is in the file's place, as `what` ("an evaluation") names it.
inline void check_result_file(const std::string& op, const std::string& path, const std::string& what,
                              const std::function<bool(const std::string& path)>& is_ours) {
  namespace fs = std::filesystem;
  if (path.empty()) return;
  std::error_code error;
  const fs::path folder = fs::path(path).parent_path();
  rw::check(folder.empty() || rw::is_folder(folder.string()), op, "cannot write '", path, "': no folder '",
            folder.string(), "'");
  const fs::file_type type = fs::symlink_status(path, error).type();
  if (type == fs::file_type::not_found) return;
  rw::check(type == fs::file_type::regular, op, "'", path, "' is not a regular file and is not replaced");
  bool ours = fs::file_size(path, error) == 0 && !error;
  try {
    ours = ours || is_ours(path);
  } catch (const rw::Error&) {
  }
  rw::check(ours, op, "'", path, "' is there already and is not ", what, ", so it is not replaced: name another file");
}
