// Internal: metrics.jsonl and validation.jsonl of a run, one JSON object a line.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>

namespace rw {

/// Thread safety: none.
class MetricsFile {
 public:
  /// Goes on with the file: lines whose "step" is `first_step` or later, which will come again, are dropped, and so is
  /// what is not JSON. Errors: an unwritable file.
  MetricsFile(const std::string& path, int64_t first_step);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  /// The largest "step" of the lines that were kept; -1 if there are none.
  int64_t last_step() const { return last_; }
  /// Errors: the line could not be written (a full disk).
  void write(const std::string& json_line);

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
  int64_t last_ = -1;
};

/// The lines of a run's metrics.jsonl as a table with one header line: step, loss, lr, grad_norm, tokens_per_s, time_s.
/// Thread safety: none.
class MetricsTable {
 public:
  /// Begins with the lines that `jsonl_path` holds now. Errors: an unwritable file.
  MetricsTable(const std::string& path, const std::string& jsonl_path);
  ~MetricsTable();
  MetricsTable(const MetricsTable&) = delete;
  MetricsTable& operator=(const MetricsTable&) = delete;
  /// Errors: as MetricsFile::write.
  void write(const std::string& json_line);

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
};

}  // namespace rw
