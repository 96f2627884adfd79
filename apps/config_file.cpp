// The file that --config names: read by the library's reader of recipes, then handed to the option parser item by item.
#include "config_file.h"

#include <algorithm>
#include <memory>

#include "tensor/error.h"
#include "tensor/file.h"
#include "train/toml.h"

namespace {

/// "compare.plot" -> compare, plot: the verbs that a section belongs to.
std::vector<std::string> parts_of(const std::string& section) {
  return section.empty() ? std::vector<std::string>() : CLI::detail::split(section, '.');
}

class CheckedToml : public CLI::ConfigBase {
 public:
  void set_path(const std::string& path) { path_ = path; }
  std::vector<CLI::ConfigItem> from_config(std::istream&) const override {
    const std::string text = rw::read_file(path_, rw::limits::recipe);
    std::vector<CLI::ConfigItem> found;
    size_t stated = 0;
    for (const rw::TomlSection& section : rw::parse_toml(text, path_, "config")) {
      const std::vector<std::string> parents = parts_of(section.name);
      // The parser's sign for the begin of a section: an unknown one is an error even if it is empty.
      if (!parents.empty()) found.push_back({parents, "++", {}});
      for (const rw::TomlItem& item : section.items) {
        std::string name = item.key;
        std::replace(name.begin(), name.end(), '_', '-');
        found.push_back({parents, name, item.values});
        ++stated;
      }
    }
    rw::check(stated > 0, "config", "'", path_, "' states nothing");
    return found;
  }

 private:
  std::string path_;
};

}  // namespace

void check_config_file(CLI::App& app) {
  const auto reader = std::make_shared<CheckedToml>();
  app.config_formatter(reader);
  // Before the parser opens the file, which would wait for the writer of a FIFO.
  app.get_config_ptr()->check([reader](const std::string& path) {
    rw::FileReader(path, rw::limits::recipe);
    reader->set_path(path);
    return std::string();
  });
}
