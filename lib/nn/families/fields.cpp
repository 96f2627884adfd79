// ConfigReader and ConfigWriter, on nlohmann-json.
#include "nn/families/fields.h"

#include <nlohmann/json.hpp>
#include <set>

#include "tensor/error.h"
#include "tensor/json_depth.h"

namespace rw {

using nlohmann::json;

struct ConfigReader::Parts {
  json object;
  std::set<std::string> asked;

  const json* find(const char* key) {
    asked.insert(key);
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }
};

namespace {
/// What an error shows of a value.
std::string shown(const json& value) {
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

int64_t integer_of(const json& value, const char* key) {
  check(value.is_number_integer(), "config", "'", key, "' must be an integer, got ", shown(value));
  const bool fits = !value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t{INT64_MAX};
  const int64_t number = fits ? value.get<int64_t>() : -1;
  check(number >= 0 && number < int64_t{1} << 31, "config", "'", key, "' is out of range: ", shown(value));
  return number;
}
}  // namespace

ConfigReader::ConfigReader(const std::string& text) : parts_(std::make_unique<Parts>()) {
  check_json_depth(text, "config", "config.json");
  parts_->object = json::parse(text, nullptr, false);
  check(parts_->object.is_object(), "config", "config.json is not a JSON object");
}
ConfigReader::~ConfigReader() = default;

bool ConfigReader::has(const char* key) const { return parts_->find(key) != nullptr; }

bool ConfigReader::is_null(const char* key) const { return !parts_->find(key) && parts_->object.contains(key); }

int64_t ConfigReader::integer(const char* key, std::optional<int64_t> otherwise) const {
  const json* value = parts_->find(key);
  check(value || otherwise.has_value(), "config", "config.json has no '", key, "'");
  return value ? integer_of(*value, key) : *otherwise;
}

double ConfigReader::number(const char* key, double otherwise) const {
  const json* value = parts_->find(key);
  check(!value || value->is_number(), "config", "'", key, "' must be a number, got ", value ? shown(*value) : "");
  return value ? value->get<double>() : otherwise;
}

bool ConfigReader::boolean(const char* key, bool otherwise) const {
  const json* value = parts_->find(key);
  check(!value || value->is_boolean(), "config", "'", key, "' must be true or false, got ", value ? shown(*value) : "");
  return value ? value->get<bool>() : otherwise;
}

std::string ConfigReader::string(const char* key, const std::string& otherwise) const {
  const json* value = parts_->find(key);
  check(!value || value->is_string(), "config", "'", key, "' must be a string, got ", value ? shown(*value) : "");
  return value ? value->get<std::string>() : otherwise;
}

std::vector<int64_t> ConfigReader::integers(const char* key) const {
  const json* value = parts_->find(key);
  std::vector<int64_t> numbers;
  if (!value) return numbers;
  if (!value->is_array()) return {integer_of(*value, key)};
  for (const json& item : *value) numbers.push_back(integer_of(item, key));
  return numbers;
}

std::vector<std::string> ConfigReader::strings(const char* key) const {
  const json* value = parts_->find(key);
  std::vector<std::string> texts;
  if (!value) return texts;
  check(value->is_array(), "config", "'", key, "' must be a list of strings, got ", shown(*value));
  for (const json& item : *value) {
    check(item.is_string(), "config", "'", key, "' must be a list of strings, got ", shown(*value));
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

std::string ConfigReader::text_of(const char* key) const {
  const json* value = parts_->find(key);
  return value ? value->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) : "null";
}

void ConfigReader::refuse_unless(const char* key, const char* neutral, const char* why) const {
  const json* value = parts_->find(key);
  check(!value || *value == nlohmann::json::parse(neutral), "config", "'", key, "' must be ", neutral, ", got ",
        value ? shown(*value) : "", ": ", why);
}

std::optional<std::string> ConfigReader::unread(const char* key) const {
  const auto at = parts_->object.find(key);
  if (at == parts_->object.end() || at->is_null() || parts_->asked.count(key)) return std::nullopt;
  return at->dump(-1, ' ', true, json::error_handler_t::replace);
}

void ConfigReader::known(const char* key) const { parts_->asked.insert(key); }

std::string ConfigReader::rest() const {
  nlohmann::json others = nlohmann::json::object();
  for (const auto& [key, value] : parts_->object.items()) {
    if (!parts_->asked.count(key)) others[key] = value;
  }
  return others.empty() ? "" : others.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

struct ConfigWriter::Parts {
  json object = json::object();
  std::set<std::string> dropped;
};

ConfigWriter::ConfigWriter() : parts_(std::make_unique<Parts>()) {}
ConfigWriter::~ConfigWriter() = default;

void ConfigWriter::set(const char* key, int64_t value) { parts_->object[key] = value; }
void ConfigWriter::set(const char* key, double value) { parts_->object[key] = value; }
void ConfigWriter::set(const char* key, bool value) { parts_->object[key] = value; }
void ConfigWriter::set(const char* key, const char* value) { parts_->object[key] = value; }
void ConfigWriter::set(const char* key, const std::string& value) { parts_->object[key] = value; }
void ConfigWriter::set(const char* key, const std::vector<std::string>& values) { parts_->object[key] = values; }
void ConfigWriter::set_list(const char* key, const std::vector<int64_t>& values) { parts_->object[key] = values; }

void ConfigWriter::set_ids(const char* key, const std::vector<int64_t>& values) {
  if (values.size() == 1) {
    set(key, values[0]);
  } else if (!values.empty()) {
    set_list(key, values);
  }
}

void ConfigWriter::set_json(const char* key, const std::string& text) { parts_->object[key] = json::parse(text); }

void ConfigWriter::drop(const char* key) { parts_->dropped.insert(key); }

void ConfigWriter::add_rest(const std::string& object) {
  if (object.empty()) return;
  const json rest = json::parse(object);
  for (const auto& [key, value] : rest.items()) {
    if (!parts_->object.contains(key) && !parts_->dropped.count(key)) parts_->object[key] = value;
  }
}

std::string ConfigWriter::text() const { return parts_->object.dump(1) + "\n"; }

}  // namespace rw
