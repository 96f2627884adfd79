#include "compare_recipe.h"

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <optional>
#include <set>

#include "nn/io/checkpoint.h"
#include "tensor/file.h"
#include "tensor/toml_depth.h"
#include "train/recipe.h"

using namespace rw;

namespace {

constexpr const char* kOp = "compare";

struct Item {
  std::string key;
  std::vector<std::string> values;
};
struct Section {
  std::string name;  // "arms.pose"
  std::vector<Item> items;
};

std::string joined(const std::vector<std::string>& values, const char* separator = ", ") {
  std::string out;
  for (const std::string& v : values) out += (out.empty() ? "" : separator) + v;
  return out;
}

/// Sections in order of appearance; keys with hyphens, as the command line writes them.
std::vector<Section> read_sections(const std::string& path) {
  const std::string text = read_file(path, limits::recipe);
  check_toml_depth(text, kOp, path);
  std::istringstream in(text);
  std::vector<Section> sections;
  const auto section = [&](const std::vector<std::string>& parents) -> Section& {
    const std::string name = joined(parents, ".");
    for (Section& s : sections) {
      if (s.name == name) return s;
    }
    return sections.emplace_back(Section{name, {}});
  };
  for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_config(in)) {
    if (item.name == "--") continue;  // the parser's mark of a section's end; "++" of its begin
    Section& s = section(item.parents);
    if (item.name == "++") continue;
    std::string key = item.name;
    std::replace(key.begin(), key.end(), '_', '-');
    for (const Item& other : s.items) check(other.key != key, kOp, path, " [", s.name, "]: '", key, "' stands twice");
    s.items.push_back({key, item.inputs});
  }
  return sections;
}

/// Items over defaults: a key that stands in both has the item's values.
std::vector<Item> merged(const std::vector<Item>& defaults, const std::vector<Item>& items) {
  std::vector<Item> out = defaults;
  for (const Item& item : items) {
    const auto same = std::find_if(out.begin(), out.end(), [&](const Item& o) { return o.key == item.key; });
    if (same == out.end()) out.push_back(item);
    else *same = item;
  }
  return out;
}

std::optional<Item> take(std::vector<Item>& items, const std::string& key) {
  const auto at = std::find_if(items.begin(), items.end(), [&](const Item& i) { return i.key == key; });
  if (at == items.end()) return std::nullopt;
  const Item item = *at;
  items.erase(at);
  return item;
}

class Reader {
 public:
  Reader(const std::string& path, const CompareOverrides& overrides) : path_(path), overrides_(overrides) {}

  CompareRecipe read() {
    for (const Section& s : sections(path_, 0)) {
      if (s.name.empty()) read_top(s.items);
      else if (s.name == "base") base_ = s.items;
      else if (s.name == "mix") read_mix(s.items);
      else if (s.name == "arm") shared_ = s.items;
      else if (s.name == "eval") eval_ = s.items;
      else if (s.name.starts_with("eval.")) evals_.push_back({s.name.substr(5), s.items});
      else if (s.name.starts_with("arms.")) arms_.push_back({s.name.substr(5), s.items});
      else
        check(s.name == "arms" && s.items.empty(), kOp, path_, ": unknown section [", s.name,
              "]; there are base, mix, eval, eval.NAME, arm, arms.NAME");
    }
    read_base();
    for (const Section& s : evals_) read_eval(s);
    check(!out_.evals.empty(), kOp, path_, ": no [eval.NAME] section, nothing would be measured");
    for (const Section& s : arms_) read_arm(s);
    return std::move(out_);
  }

 private:
  /// With what the file includes in front; where a key stands in both, the file's own value holds.
  std::vector<Section> sections(const std::string& path, int depth) const {
    std::vector<Section> own = read_sections(path), out;
    const auto named = [](std::vector<Section>& list, const std::string& name) {
      return std::find_if(list.begin(), list.end(), [&](const Section& s) { return s.name == name; });
    };
    if (const auto top = named(own, ""); top != own.end()) {
      if (const auto include = take(top->items, "include")) {
        check(depth < 4, kOp, path, ": includes go round in a circle");
        out = sections((std::filesystem::path(path).parent_path() / one("top", *include)).string(), depth + 1);
      }
    }
    for (const Section& s : own) {
      const auto same = named(out, s.name);
      if (same == out.end()) out.push_back(s);
      else same->items = merged(same->items, s.items);
    }
    return out;
  }

  template <class... Parts>
  void require(bool good, const std::string& section, const Parts&... parts) const {
    check(good, kOp, path_, " [", section, "]: ", parts...);
  }
  std::string one(const std::string& section, const Item& item) const {
    require(item.values.size() == 1, section, "'", item.key, "' takes one value, got ", joined(item.values));
    return item.values[0];
  }
  int64_t whole(const std::string& section, const std::string& key, const std::string& value) const {
    require(!value.empty() && value.size() < 16 && value.find_first_not_of("0123456789") == std::string::npos, section,
            "'", key, "' must be a whole number, got '", value, "'");
    return std::stoll(value);
  }
  std::string placed(const std::string& path) const {
    const std::filesystem::path p(path);
    return overrides_.root.empty() || path.empty() || p.is_absolute()
               ? path
               : (std::filesystem::path(overrides_.root) / p).string();
  }
  void place(std::vector<std::string>& paths) const {
    for (std::string& p : paths) p = placed(p);
  }

  /// Gives the items to the options that `add` declares. Errors: unknown keys, values that the options refuse.
  void parse(const std::string& section, const std::vector<Item>& items,
             const std::function<void(CLI::App&)>& add) const {
    CLI::App app;
    add(app);
    std::vector<std::string> arguments;
    for (const Item& item : items) {
      const CLI::Option* option = app.get_option_no_throw("--" + item.key);
      require(option != nullptr, section, "unknown key '", item.key, "'");
      if (option->get_expected_max() > 1) {
        arguments.push_back("--" + item.key);
        arguments.insert(arguments.end(), item.values.begin(), item.values.end());
        continue;
      }
      arguments.push_back("--" + item.key + "=" + one(section, item));
    }
    std::reverse(arguments.begin(), arguments.end());
    try {
      app.parse(arguments);
    } catch (const CLI::ParseError& e) {
      require(false, section, e.what());
    }
  }

  /// What decides a result; where and how often it is saved does not.
  static Settings settings_of(const std::vector<Item>& items) {
    static const std::set<std::string> bookkeeping = {"save-every", "keep", "log-every"};
    Settings out;
    for (const Item& item : items) {
      if (!bookkeeping.count(item.key)) out[item.key] = joined(item.values);
    }
    return out;
  }

  void read_top(std::vector<Item> items) {
    if (const auto title = take(items, "title")) out_.title = one("top", *title);
    if (const auto subtitle = take(items, "subtitle")) out_.subtitle = one("top", *subtitle);
    if (!items.empty())
      fail(kOp, path_, ": '", items[0].key, "' stands outside a section; only title, subtitle and include may");
  }

  void read_mix(std::vector<Item> items) {
    if (const auto share = take(items, "share")) mix_.push_back({"retrieval-share", share->values});
    if (const auto parts = take(items, "template")) mix_.push_back({"retrieval-template", parts->values});
    if (const auto weight = take(items, "weight")) mix_.push_back({"retrieval-weight", weight->values});
    require(items.empty(), "mix", "unknown key '", items.empty() ? "" : items[0].key,
            "'; there are share, weight and template");
  }

  void refuse(const std::string& section, const std::vector<Item>& items,
              std::initializer_list<const char*> keys) const {
    for (const Item& item : items) {
      for (const char* key : keys) require(item.key != key, section, "'", key, "' is the comparison's to set");
    }
  }

  /// The batch that makes a step of so many tokens.
  void set_batch(const std::string& section, int64_t tokens, int64_t window, TrainConfig& train) const {
    const int64_t per_sample = window * train.accumulate;
    require(tokens % per_sample == 0, section, "tokens-per-step ", tokens, " is no multiple of the window ", window,
            train.accumulate > 1 ? cat(" times accumulate ", train.accumulate) : "");
    train.batch = tokens / per_sample;
  }

  /// A model folder, or the folder of another comparison, whose base and text are then taken.
  void take_base(const std::string& path) {
    const bool comparison = std::filesystem::exists(path + "/base/config.json");
    out_.model = comparison ? path + "/base" : path;
    base_text_ = comparison ? path + "/text/train.tokens" : "";
    static_cast<void>(model_folder(out_.model));
  }

  void read_base() {
    std::vector<Item> items = base_;
    refuse("base", items, {"out", "from", "resume"});
    const auto model = take(items, "model");
    if (!overrides_.model.empty()) take_base(overrides_.model);
    else if (model) take_base(one("base", *model));
    const auto vocab = take(items, "vocab"), tokens = take(items, "tokens-per-step");
    parse("base", merged(mix_, items), [&](CLI::App& app) { add_train_options(app, out_.base); });
    require(out_.base.method == "plain", "base", "the base is trained without extension, method '", out_.base.method,
            "' belongs in an arm");
    out_.tokenizer = placed(out_.base.tokenizer);
    std::string text = joined(out_.base.data);  // as the recipe has it: a moved folder is the same comparison
    place(out_.base.data);
    place(out_.base.validation);
    if (!base_text_.empty()) out_.base.data = {base_text_}, text = "the base's";
    if (!overrides_.data.empty()) out_.base.data = overrides_.data, text = joined(overrides_.data);
    if (vocab) out_.vocab = static_cast<int32_t>(whole("base", "vocab", one("base", *vocab)));
    require(out_.vocab == 0 || (out_.tokenizer.empty() && out_.model.empty()), "base",
            "vocab trains a tokenizer, but one is given by ", out_.model.empty() ? "tokenizer" : "model");
    // The config that arms are checked against, before anything is trained.
    const std::unique_ptr<Tokenizer> bytes = make_byte_tokenizer();
    base_config_ = out_.model.empty() ? make_recipe(out_.base, *bytes).model
                                      : make_recipe(
                                            [&] {
                                              TrainConfig c;
                                              c.from = out_.model;
                                              return c;
                                            }(),
                                            *bytes)
                                            .model;
    if (tokens) {
      set_batch("base", whole("base", "tokens-per-step", one("base", *tokens)), base_config_.rope.original_window(),
                out_.base);
    }
    out_.base_settings = settings_of(merged(mix_, base_));
    if (!out_.model.empty()) {
      const std::string folder = model_folder(out_.model), stage = folder + "/stage.toml";
      const bool made_here = std::filesystem::exists(stage);
      out_.base_settings = {{"model", file_checksum(made_here ? stage : folder + "/config.json")}};
    }
    out_.base_settings["data"] = text;
  }

  void read_eval(const Section& s) {
    const std::string name = "eval." + s.name;
    std::vector<Item> shared = eval_, own = s.items;
    const auto data = take(shared, "data"), kind = take(own, "kind");
    CompareEval e{s.name, make_eval_protocol(kind ? one(name, *kind) : s.name), {}};
    require(e.protocol != nullptr, name, "unknown kind '", kind ? kind->values[0] : s.name,
            "', expected ppl, lastk, bins, passkey, needle, tasks or longbench");
    const bool has_data = std::any_of(own.begin(), own.end(), [](const Item& i) { return i.key == "data"; });
    std::vector<Item> items = merged(shared, own);
    const bool inherits = e.protocol->needs_data() && !has_data;
    // The built-in corpus has no path; the name only satisfies the option.
    if (inherits) items.push_back({"data", data ? data->values : std::vector<std::string>{""}});
    const std::vector<Setting> known = e.protocol->settings();
    for (const Item& item : items) {
      const Setting* setting = find_setting(known, item.key);
      require(setting != nullptr, name, "unknown key '", item.key, "'");
      for (const std::string& other : setting->excludes)
        require(std::none_of(items.begin(), items.end(), [&](const Item& i) { return i.key == other; }), name, "'",
                item.key, "' excludes '", other, "'");
      assign(*setting, item.values, cat(path_, " [", name, "]: '", item.key, "'"));
    }
    for (const Setting& setting : known)
      require(!setting.required ||
                  std::any_of(items.begin(), items.end(), [&](const Item& i) { return i.key == setting.name; }),
              name, "'", setting.name, "' is missing");
    std::vector<std::string>& paths = e.protocol->options.data;
    std::erase(paths, "");
    e.settings = settings_of(items);
    e.settings["kind"] = e.protocol->kind();
    const bool replaced = !overrides_.eval_data.empty() && (inherits || has_data);
    if (replaced) paths = overrides_.eval_data;
    e.settings["data"] = joined(paths);
    if (!replaced) place(paths);
    out_.evals.push_back(std::move(e));
  }

  /// One arm per combination of listed values.
  void read_arm(const Section& s) {
    const std::string section = "arms." + s.name;
    std::vector<Item> items = merged(merged(mix_, shared_), s.items);
    refuse(section, items, {"out", "from", "resume", "data", "tokenizer", "vocab", "model"});
    std::vector<std::string> seeds;
    if (const auto list = take(items, "seeds")) seeds = list->values;
    if (overrides_.max_seeds > 0 && static_cast<int64_t>(seeds.size()) > overrides_.max_seeds)
      seeds.resize(static_cast<size_t>(overrides_.max_seeds));
    std::vector<std::pair<std::string, std::vector<Item>>> variants = {{s.name, {}}};
    for (const Item& item : items) {
      std::vector<std::pair<std::string, std::vector<Item>>> grown;
      for (const auto& [name, chosen] : variants) {
        for (size_t i = 0; i < item.values.size(); ++i) {
          grown.emplace_back(item.values.size() > 1 ? name + suffix(item, i) : name, chosen);
          grown.back().second.push_back({item.key, {item.values[i]}});
        }
      }
      variants = std::move(grown);
    }
    for (const auto& [family, chosen] : variants) {
      if (seeds.empty()) add_arm(section, family, family, chosen);
      for (const std::string& seed : seeds)
        add_arm(section, family + "-seed" + seed, family, merged(chosen, {{"seed", {seed}}}));
    }
  }

  static std::string suffix(const Item& item, size_t i) {
    std::string value = item.values[i];
    if (value.starts_with("{")) value = cat(i + 1);
    for (char& c : value) {
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-') c = '_';
    }
    if (item.key == "steps") return "-" + value + "steps";
    const bool number = std::isdigit(static_cast<unsigned char>(value[0])) != 0;
    return number && item.key != "target" ? "-" + item.key + value : "-" + value;
  }

  void add_arm(const std::string& section, const std::string& name, const std::string& family,
               std::vector<Item> items) {
    for (const CompareArm& other : out_.arms) {
      require(other.name != name, section, "there are two arms '", name, "'");
    }
    require(name.find_first_of("/\\ ") == std::string::npos && name != "base" && name != "tokenizer", section, "'",
            name, "' cannot be an arm's name: it is a folder's");
    CompareArm arm{name, family, {}, false, settings_of(items)};
    const auto tokens = take(items, "tokens-per-step");
    parse(section, items, [&](CLI::App& app) { add_train_options(app, arm.train); });
    TrainConfig& train = arm.train;
    arm.zero_shot = train.steps == 0;
    train.from = "base";  // until its folder is known
    if (arm.zero_shot && train.method == "plain" && !train.scaling.empty())
      train.method = train.scaling == "clex" || train.scaling == "e2" ? train.scaling : "full";
    require(!arm.zero_shot || train.method != "plain", section,
            "steps = 0 needs a scaling: it would be the base again");
    try {
      const Recipe recipe = make_recipe(train, *make_byte_tokenizer(), &base_config_);
      if (tokens && !arm.zero_shot)
        set_batch(section, whole(section, "tokens-per-step", one(section, *tokens)), recipe.window, train);
    } catch (const Error& e) {
      const std::string what = e.what();
      require(what.find(section) != std::string::npos, section, what);
      throw;
    }
    for (const auto& [key, value] : out_.base_settings) arm.settings["base." + key] = value;
    out_.arms.push_back(std::move(arm));
  }

  std::string path_;
  const CompareOverrides& overrides_;
  CompareRecipe out_;
  std::vector<Item> base_, mix_, shared_, eval_;
  std::vector<Section> evals_, arms_;
  std::string base_text_;
  ModelConfig base_config_;
};

}  // namespace

CompareRecipe read_compare_recipe(const std::string& path, const CompareOverrides& overrides) {
  return Reader(path, overrides).read();
}
