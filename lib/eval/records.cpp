// Evaluation results as named values, and the forms they are written in and read from.
#include "eval/records.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kMostFields = 256;

Json to_json_value(const RecordValue& value) {
  return std::visit([](const auto& v) { return Json(v); }, value);
}

Json to_json_object(const Record& record) {
  Json out = Json::object();
  for (const auto& [name, value] : record.fields()) out[name] = to_json_value(value);
  return out;
}

Record record_from(const Json& json, const std::string& name) {
  check(json.is_object(), "eval", name, ": expected an object, got ",
        json.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60));
  check(json.size() <= kMostFields, "eval", name, ": an object of more than ", kMostFields, " fields");
  Record out;
  for (const auto& [key, value] : json.items()) {
    // Beyond i64 a whole number is kept as a real one.
    const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    if (value.is_number_integer() && !huge) out.set(key, value.get<int64_t>());
    else if (value.is_number()) out.set(key, value.get<double>());
    else if (value.is_boolean()) out.set(key, value.get<bool>());
    else if (value.is_string()) out.set(key, value.get<std::string>());
    else if (value.is_null()) out.set(key, std::numeric_limits<double>::quiet_NaN());
    else out.set(key, value.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return out;
}

std::vector<Record> records_from(const Json& json, const char* key, const std::string& name) {
  std::vector<Record> out;
  if (!json.contains(key)) return out;
  check(json[key].is_array(), "eval", name, ": \"", key, "\" must be an array");
  for (const Json& row : json[key]) out.push_back(record_from(row, name));
  return out;
}

std::vector<std::string> columns_of(const std::vector<Record>& records) {
  std::vector<std::string> columns;
  for (const Record& record : records) {
    for (const auto& [name, value] : record.fields()) {
      if (std::find(columns.begin(), columns.end(), name) == columns.end()) columns.push_back(name);
    }
  }
  return columns;
}

/// RFC 4180: quoted if it holds a comma, a quote or a line break.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

/// Columns on a terminal: bytes that continue a UTF-8 character take no room.
size_t display_width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

void Record::set(const std::string& name, RecordValue value) {
  for (auto& [known, old] : fields_) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  fields_.emplace_back(name, std::move(value));
}

const RecordValue* Record::find(const std::string& name) const {
  for (const auto& [known, value] : fields_) {
    if (known == name) return &value;
  }
  return nullptr;
}

double Record::number(const std::string& name, double otherwise) const {
  const RecordValue* value = find(name);
  if (!value) return otherwise;
  if (const auto* i = std::get_if<int64_t>(value)) return static_cast<double>(*i);
  if (const auto* d = std::get_if<double>(value)) return *d;
  return otherwise;
}

int64_t Record::integer(const std::string& name, int64_t otherwise) const {
  const RecordValue* value = find(name);
  if (!value) return otherwise;
  if (const auto* i = std::get_if<int64_t>(value)) return *i;
  const auto* d = std::get_if<double>(value);
  return d && std::abs(*d) < 9e18 ? std::llround(*d) : otherwise;
}

std::string Record::text(const std::string& name, const std::string& otherwise) const {
  const RecordValue* value = find(name);
  return value ? to_text(*value) : otherwise;
}

std::string to_json(const EvalResult& result) {
  Json out;
  out["kind"] = result.kind;
  out["protocol"] = to_json_object(result.protocol);
  out["rows"] = Json::array();
  for (const Record& row : result.rows) out["rows"].push_back(to_json_object(row));
  out["totals"] = Json::array();
  for (const Record& row : result.totals) out["totals"].push_back(to_json_object(row));
  return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

EvalResult eval_result_from_json(const std::string& text, const std::string& name) {
  check_json_depth(text, "eval", name);
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(!json.is_discarded(), "eval", name, ": not valid JSON");
  check(json.is_object() && json.contains("kind") && json["kind"].is_string(), "eval", name,
        ": not a result of `ropewalk eval` (no \"kind\")");
  EvalResult out;
  out.kind = json["kind"].get<std::string>();
  if (json.contains("protocol")) out.protocol = record_from(json["protocol"], name);
  out.rows = records_from(json, "rows", name);
  out.totals = records_from(json, "totals", name);
  return out;
}

std::string to_csv(const std::vector<Record>& records) {
  const std::vector<std::string> columns = columns_of(records);
  std::string out;
  for (size_t c = 0; c < columns.size(); ++c) out += cat(c ? "," : "", csv_field(columns[c]));
  out += "\n";
  for (const Record& record : records) {
    for (size_t c = 0; c < columns.size(); ++c) {
      const RecordValue* value = record.find(columns[c]);
      out += cat(c ? "," : "", value ? csv_field(to_text(*value, 9)) : std::string());
    }
    out += "\n";
  }
  return out;
}

std::string to_jsonl(const std::vector<Record>& records) {
  std::string out;
  for (const Record& record : records) {
    out += to_json_object(record).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  }
  return out;
}

std::string to_text(const RecordValue& value, int digits) {
  if (const auto* i = std::get_if<int64_t>(&value)) return std::to_string(*i);
  if (const auto* b = std::get_if<bool>(&value)) return *b ? "true" : "false";
  if (const auto* s = std::get_if<std::string>(&value)) return *s;
  const double d = std::get<double>(value);
  if (std::isnan(d)) return "-";
  char buffer[40];
  // Large numbers in full rather than as 1.2e+03: perplexities after a collapse are compared at a glance.
  if (std::abs(d) >= std::pow(10.0, digits) && std::abs(d) < 1e9) std::snprintf(buffer, sizeof buffer, "%.0f", d);
  else std::snprintf(buffer, sizeof buffer, "%.*g", digits, d);
  return buffer;
}

std::string to_text_table(const std::vector<Record>& records, int digits) {
  const std::vector<std::string> columns = columns_of(records);
  std::vector<size_t> width;
  std::vector<bool> right;  // numbers stand to the right
  for (const std::string& column : columns) {
    width.push_back(display_width(column));
    right.push_back(true);
    for (const Record& record : records) {
      const RecordValue* value = record.find(column);
      if (!value) continue;
      width.back() = std::max(width.back(), display_width(to_text(*value, digits)));
      if (std::holds_alternative<std::string>(*value)) right.back() = false;
    }
  }
  std::string out;
  const auto put_line = [&](const auto& cell) {
    std::string line;
    for (size_t c = 0; c < columns.size(); ++c) {
      const std::string text = cell(columns[c]);
      const std::string pad(width[c] - display_width(text), ' ');
      line += cat(c ? "  " : "", right[c] ? pad + text : text + pad);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  put_line([](const std::string& column) { return column; });
  for (const Record& record : records) {
    put_line([&](const std::string& column) {
      const RecordValue* value = record.find(column);
      return value ? to_text(*value, digits) : std::string();
    });
  }
  return out;
}

}  // namespace rw
