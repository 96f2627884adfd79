// The records of a run while it goes on: a line per step, on disk before the next step.
#include "train/metrics_file.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/json_depth.h"
#include "tensor/system_error.h"

namespace rw {
namespace {

/// The line's "step"; nullopt if it is no such line.
std::optional<int64_t> step_of(const std::string& line) {
  try {
    check_json_depth(line, "train", "a line of metrics");
  } catch (const Error&) {
    return std::nullopt;
  }
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) return std::nullopt;
  return json["step"].get<int64_t>();
}

}  // namespace

MetricsFile::MetricsFile(const std::string& path, int64_t first_step) : path_(path) {
  std::string kept;
  if (first_step > 0 && path_exists(path)) {
    std::istringstream in(read_file(path, limits::metrics));
    for (std::string line; std::getline(in, line);) {
      const auto step = step_of(line);
      if (!step || *step >= first_step) continue;
      kept += line + "\n";
      last_ = std::max(last_, *step);
    }
  }
  write_file_atomic(path, kept);
  file_ = std::fopen(path.c_str(), "a");
  if (file_ == nullptr) fail_with_errno("train", cat("cannot write '", path, "'"), errno);
}

MetricsFile::~MetricsFile() { std::fclose(file_); }

void MetricsFile::write(const std::string& json_line) {
  const bool good = std::fprintf(file_, "%s\n", json_line.c_str()) >= 0 && std::fflush(file_) == 0;
  if (!good) fail_with_errno("train", cat("cannot write '", path_, "'"), errno);
}

}  // namespace rw
