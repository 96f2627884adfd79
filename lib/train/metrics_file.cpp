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

constexpr const char* kColumns[] = {"step", "loss", "lr", "grad_norm", "tokens_per_s", "time_s"};

std::FILE* open_to_append(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "a");
  if (file == nullptr) fail_with_errno("train", cat("cannot write '", path, "'"), errno);
  return file;
}

void write_line(std::FILE* file, const std::string& path, const std::string& line) {
  const bool good = std::fprintf(file, "%s\n", line.c_str()) >= 0 && std::fflush(file) == 0;
  if (!good) fail_with_errno("train", cat("cannot write '", path, "'"), errno);
}

/// The row of a line of metrics.jsonl; what it lacks is empty.
std::string row_of(const std::string& json_line) {
  const auto json = nlohmann::json::parse(json_line, nullptr, false);
  std::string row;
  for (const char* column : kColumns) {
    if (column != kColumns[0]) row += ",";
    if (json.is_object() && json.contains(column) && json[column].is_number()) row += json[column].dump();
  }
  return row;
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
  file_ = open_to_append(path);
}

MetricsFile::~MetricsFile() { std::fclose(file_); }

void MetricsFile::write(const std::string& json_line) { write_line(file_, path_, json_line); }

MetricsTable::MetricsTable(const std::string& path, const std::string& jsonl_path) : path_(path) {
  std::string table;
  for (const char* column : kColumns) table += (table.empty() ? "" : ",") + std::string(column);
  table += "\n";
  std::istringstream in(read_file(jsonl_path, limits::metrics));
  for (std::string line; std::getline(in, line);) {
    if (step_of(line)) table += row_of(line) + "\n";
  }
  write_file_atomic(path, table);
  file_ = open_to_append(path);
}

MetricsTable::~MetricsTable() { std::fclose(file_); }

void MetricsTable::write(const std::string& json_line) { write_line(file_, path_, row_of(json_line)); }

}  // namespace rw
