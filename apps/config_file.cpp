// The file that --config names: read by the library's checked reader, then handed to the option parser as text.
#include "config_file.h"

#include <algorithm>
#include <sstream>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/toml_depth.h"

namespace {

class CheckedToml : public CLI::ConfigBase {
 public:
  void set_path(const std::string& path) { path_ = path; }
  std::vector<CLI::ConfigItem> from_config(std::istream&) const override {
    const std::string text = rw::read_file(path_, rw::limits::recipe);
    rw::check_toml_depth(text, "config", path_);
    std::istringstream in(text);
    std::vector<CLI::ConfigItem> found = ConfigBase::from_config(in);
    for (CLI::ConfigItem& item : found) std::replace(item.name.begin(), item.name.end(), '_', '-');
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
