// Reading and quoting TOML.
#include "train/toml.h"

#include <cstdio>
#include <set>

#include "tensor/error.h"

namespace rw {
namespace {

constexpr size_t kMostEntries = 10000, kLongestName = 200;

class Parser {
 public:
  Parser(const std::string& text, const std::string& name, const char* op) : text_(text), name_(name), op_(op) {
    sections_.push_back({"", {}, 0});
  }

  std::vector<TomlSection> run() {
    require(!text_.starts_with("\xFF\xFE") && !text_.starts_with("\xFE\xFF"), "UTF-16 text: save it as UTF-8");
    if (text_.starts_with("\xEF\xBB\xBF")) at_ = 3;  // a byte order mark
    for (skip_blank(); !at_end(); skip_blank()) {
      if (peek() == '[') section();
      else item();
      end_line();
      require(++entries_ <= kMostEntries, "more than ", kMostEntries, " entries");
    }
    return std::move(sections_);
  }

 private:
  template <class... Parts>
  void require(bool good, const Parts&... parts) const {
    check(good, op_, "'", name_, "' line ", line_, ": ", parts...);
  }
  bool at_end() const { return at_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[at_]; }
  char next() {
    if (peek() == '\n') ++line_;
    return text_[at_++];
  }
  void skip_spaces() {
    while (!at_end() && (peek() == ' ' || peek() == '\t' || peek() == '\r')) next();
  }
  /// Spaces, comments and ends of lines.
  void skip_blank() {
    while (!at_end()) {
      if (peek() == '#') {
        while (!at_end() && peek() != '\n') next();
      } else if (peek() == ' ' || peek() == '\t' || peek() == '\r' || peek() == '\n') {
        next();
      } else {
        return;
      }
    }
  }
  void end_line() {
    skip_spaces();
    if (peek() == '#') {
      while (!at_end() && peek() != '\n') next();
    }
    require(at_end() || peek() == '\n', "unexpected text after the value");
  }

  static bool is_bare(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  }
  std::string word() {
    skip_spaces();
    std::string out;
    if (peek() == '"' || peek() == '\'') out = quoted();
    else
      while (is_bare(peek())) out += next();
    require(!out.empty(), "expected a name");
    require(out.size() <= kLongestName, "a name of more than ", kLongestName, " characters");
    skip_spaces();
    return out;
  }

  void section() {
    next();
    require(peek() != '[', "arrays of sections are not part of a recipe");
    std::string name = word();
    for (int depth = 1; peek() == '.'; ++depth) {
      require(depth < 4, "a section inside more than three others");
      name += next();
      name += word();
    }
    require(peek() == ']', "expected ']' after the section's name");
    next();
    require(seen_.insert(name).second, "the section stands twice");
    sections_.push_back({name, {}, line_});
  }

  void item() {
    TomlItem item;
    item.line = line_;
    item.key = word();
    while (peek() == '.') {  // one name, here
      item.key += next();
      item.key += word();
      require(item.key.size() <= kLongestName, "a name of more than ", kLongestName, " characters");
    }
    require(peek() == '=', "expected key = value");
    next();
    skip_spaces();
    if (peek() == '[') {
      item.is_array = true;
      array(item);
    } else {
      item.values.push_back(value());
    }
    TomlSection& section = sections_.back();
    require(seen_.insert(section.name + "\n" + item.key).second, "the key stands twice in its section");
    section.items.push_back(std::move(item));
  }

  void array(TomlItem& item) {
    next();
    for (skip_blank(); peek() != ']'; skip_blank()) {
      require(!at_end() && peek() != '[', "an array that does not end, or one inside another");
      item.values.push_back(value());
      require(++entries_ <= kMostEntries, "more than ", kMostEntries, " entries");
      skip_blank();
      if (peek() == ',') next();
      else require(peek() == ']', "expected ',' or ']' in an array");
    }
    next();
  }

  std::string value() {
    if (peek() == '"' || peek() == '\'') return quoted();
    std::string out;
    while (is_bare(peek()) || peek() == '.' || peek() == '+') out += next();
    require(!out.empty(), "expected a value: \"text\", a number, true, false or an array");
    return out;
  }

  std::string quoted() {
    const char quote = next();
    std::string out;
    while (peek() != quote) {
      require(!at_end() && peek() != '\n', "a string that does not end on its line");
      char c = next();
      if (c == '\\' && quote == '"') {
        require(!at_end(), "a string that does not end");
        const char escaped = next();
        switch (escaped) {
          case 'n':
            c = '\n';
            break;
          case 't':
            c = '\t';
            break;
          case 'r':
            c = '\r';
            break;
          case '"':
          case '\\':
            c = escaped;
            break;
          default:
            require(false, "an escape other than \\n \\t \\r \\\" \\\\ in a string");
        }
      }
      out += c;
    }
    next();
    return out;
  }

  const std::string& text_;
  const std::string& name_;
  const char* op_;
  size_t at_ = 0, entries_ = 0;
  int64_t line_ = 1;
  std::vector<TomlSection> sections_;
  std::set<std::string> seen_;
};

}  // namespace

std::vector<TomlSection> parse_toml(const std::string& text, const std::string& name, const char* op) {
  return Parser(text, name, op).run();
}

std::string toml_quote(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') out += "\\n";
    else if (c == '\t') out += "\\t";
    else if (c == '\r') out += "\\r";
    else out += c;
  }
  return out + "\"";
}

}  // namespace rw
