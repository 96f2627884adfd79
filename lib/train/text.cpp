// The folder of a run.
#include "train/text.h"

#include <filesystem>

#include "tensor/error.h"

namespace rw {

void make_folder(const char* op, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  check(!error, op, "cannot make folder '", path, "': ", error.message());
}

}  // namespace rw
