// The fields of one config.json: a reader that knows which fields were asked for, and a writer. null counts as absent,
// as in HF's files, unless null is what the field is asked for.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rw {

/// Thread safety: none.
class ConfigReader {
 public:
  /// Errors: not a JSON object, nested too deeply.
  explicit ConfigReader(const std::string& text);
  ~ConfigReader();
  ConfigReader(const ConfigReader&) = delete;
  ConfigReader& operator=(const ConfigReader&) = delete;

  /// Present and not null.
  bool has(const char* key) const;
  /// Present, and null.
  bool is_null(const char* key) const;
  /// Errors: absent without a default, another type, outside [0, 2^31).
  int64_t integer(const char* key, std::optional<int64_t> otherwise = std::nullopt) const;
  double number(const char* key, double otherwise) const;
  bool boolean(const char* key, bool otherwise) const;
  std::string string(const char* key, const std::string& otherwise) const;
  /// A number or a list of numbers.
  std::vector<int64_t> integers(const char* key) const;
  std::vector<std::string> strings(const char* key) const;
  /// The field as JSON text; "null" if it is absent.
  std::string text_of(const char* key) const;
  /// Errors: the field is there with another value than `neutral` (JSON text) or null; `why` ends the message.
  void refuse_unless(const char* key, const char* neutral, const char* why) const;
  /// The JSON text of a field that nobody has asked for; nothing if it was asked for, is absent or null. It stays in
  /// rest().
  std::optional<std::string> unread(const char* key) const;
  /// Marks a field as known without reading it.
  void known(const char* key) const;
  /// The fields that were not asked for, as a JSON object.
  std::string rest() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Thread safety: none.
class ConfigWriter {
 public:
  ConfigWriter();
  ~ConfigWriter();
  ConfigWriter(const ConfigWriter&) = delete;
  ConfigWriter& operator=(const ConfigWriter&) = delete;

  void set(const char* key, int64_t value);
  void set(const char* key, double value);
  void set(const char* key, bool value);
  void set(const char* key, const char* value);
  void set(const char* key, const std::string& value);
  void set(const char* key, const std::vector<std::string>& values);
  /// One number if there is one, otherwise a list; nothing if there is none.
  void set_ids(const char* key, const std::vector<int64_t>& values);
  void set_list(const char* key, const std::vector<int64_t>& values);
  /// `text` is JSON.
  void set_json(const char* key, const std::string& text);
  void set_null(const char* key) { set_json(key, "null"); }
  /// add_rest() leaves this field out.
  void drop(const char* key);
  /// Adds the fields of a JSON object that are neither set yet nor dropped.
  void add_rest(const std::string& object);
  std::string text() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace rw
