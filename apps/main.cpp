// ropewalk: train small LLaMAs, stretch their context window, and look at what comes out.
#include <algorithm>
#include <cstdio>
#include <sstream>

#include "interrupt.h"
#include "nn/parallel/mesh.h"
#include "tensor/error.h"
#include "train/toml.h"
#include "verbs.h"

namespace {

/// --config by the library's own TOML reader: keys with underscores as well as with dashes, and a file that cannot be
/// read is an error.
class OptionsFile : public CLI::ConfigTOML {
 public:
  std::vector<CLI::ConfigItem> from_config(std::istream& in) const override {
    std::ostringstream text;
    text << in.rdbuf();
    rw::check(!in.bad() && !text.bad(), "config", "the file of --config cannot be read");
    std::vector<CLI::ConfigItem> items;
    for (const rw::TomlSection& s : rw::parse_toml(text.str(), "--config", "config")) {
      CLI::ConfigItem item;
      std::istringstream parents(s.name);
      for (std::string part; std::getline(parents, part, '.');) item.parents.push_back(part);
      for (const rw::TomlItem& from : s.items) {
        item.name = from.key;
        std::replace(item.name.begin(), item.name.end(), '_', '-');
        item.inputs = from.values;
        items.push_back(item);
      }
    }
    return items;
  }
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "ropewalk trains small LLaMA models, extends their context window by the RoPE methods of PI, PoSE, CLEX, E2-LLM "
      "and\n"
      "their neighbours, evaluates and generates. MODEL is a folder in Hugging Face layout. Results go to standard "
      "output,\n"
      "progress to standard error. Exit code: 0 done, 2 bad input, 1 anything else.\n\n"
      "  ropewalk demo                                              the whole story in a few minutes, on synthetic "
      "text\n"
      "  ropewalk tokenizer train --data books/ --vocab 4096 --out tok\n"
      "  ropewalk train --data books/ --tokenizer tok --out base --window 256 --steps 2000\n"
      "  ropewalk train --data books/ --from base --out long --method pose --scaling yarn --target 2048 --steps 200\n"
      "  ropewalk eval ppl --model long --data held-out/ --window 256,1024,2048\n"
      "  ropewalk generate --model long --prompt 'It was a dark and' --tokens 100",
      "ropewalk"};
  app.set_version_flag("--version", "ropewalk " ROPEWALK_VERSION);
  Globals globals;
  add_globals(app, globals);
  app.config_formatter(std::make_shared<OptionsFile>());
  add_demo(app, globals);
  add_tokenizer(app, globals);
  add_train(app, globals);
  add_eval(app, globals);
  add_generate(app, globals);
  add_convert(app, globals);
  add_compare(app, globals);
  add_report(app, globals);
  add_theory(app, globals);
  add_bench(app, globals);
  add_profile(app, globals);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::fprintf(stderr, "ropewalk: %s\n", e.what());
    return 2;
  } catch (const Interrupted& e) {
    return 128 + e.signal;
  } catch (const rw::OutOfMemory& e) {
    std::fprintf(stderr, "ropewalk: %s\n", e.what());
    return 1;
  } catch (const rw::RankLost& e) {
    std::fprintf(stderr, "ropewalk: %s\n", e.what());
    return 1;
  } catch (const rw::Error& e) {
    std::fprintf(stderr, "ropewalk: %s\n", e.what());
    return 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ropewalk: internal error: %s\n", e.what());
    return 1;
  }
}
