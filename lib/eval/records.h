// Evaluation results as rows of named values, and the forms they are written in: a text table, JSON, CSV, JSON lines.
//
// Every evaluation gives an EvalResult; `ropewalk eval ... --json FILE` writes it, `ropewalk report` reads it:
//   {"kind": "ppl", "protocol": {...}, "rows": [{...}], "totals": [{...}]}
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace rw {

using RecordValue = std::variant<int64_t, double, bool, std::string>;

/// Named values in order.
/// Thread safety: as a standard container.
class Record {
 public:
  Record() = default;
  Record(std::initializer_list<std::pair<std::string, RecordValue>> fields) : fields_(fields) {}

  void set(const std::string& name, RecordValue value);
  const RecordValue* find(const std::string& name) const;
  /// The value as a number (NaN for null) or `otherwise` where there is none.
  double number(const std::string& name, double otherwise = 0) const;
  int64_t integer(const std::string& name, int64_t otherwise = 0) const;
  std::string text(const std::string& name, const std::string& otherwise = "") const;
  const std::vector<std::pair<std::string, RecordValue>>& fields() const { return fields_; }

 private:
  std::vector<std::pair<std::string, RecordValue>> fields_;
};

struct EvalResult {
  std::string kind;            // ppl | lastk | bins | longppl | passkey | needle | tasks | ruler | longbench | choice
  Record protocol;             // what was counted, and how
  std::vector<Record> rows;    // the finest grain: document and window, trial group, ...
  std::vector<Record> totals;  // over documents or trials
};

/// One JSON object; numbers that JSON lacks (NaN, infinity) become null and read back as NaN.
std::string to_json(const EvalResult& result);
/// Errors: not JSON, or not of that shape; the message begins with `name`.
EvalResult eval_result_from_json(const std::string& text, const std::string& name);

/// A header line and one line per record; columns are the union of the records' names, in order of appearance.
std::string to_csv(const std::vector<Record>& records);
std::string to_jsonl(const std::vector<Record>& records);
/// Aligned columns for a terminal: numbers to the right, `digits` significant.
std::string to_text_table(const std::vector<Record>& records, int digits = 5);
/// One value as it stands in the table.
std::string to_text(const RecordValue& value, int digits = 5);

}  // namespace rw
