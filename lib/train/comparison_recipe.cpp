// Reading a comparison's recipe: sections, defaults, grids of arms, and the checks before anything is trained.
#include "train/comparison_recipe.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "nn/io/checkpoint.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/printable.h"
#include "train/recipe_fields.h"
#include "train/toml.h"

namespace rw {
namespace {

constexpr const char* kOp = "compare";

using Items = std::vector<TomlItem>;

/// The method that trains a kind of scaling when none is named.
std::string method_that_trains(const std::string& scaling) {
  for (const RopeKind& kind : rope_kinds()) {
    if (kind.name() == scaling && !kind.sampler().empty()) return kind.sampler();
  }
  return "full";
}

/// Sections in order of appearance; keys with hyphens, as the command line writes them.
std::vector<TomlSection> read_sections(const std::string& path) {
  std::error_code error;
  check(std::filesystem::is_regular_file(path, error), kOp, "cannot read the recipe '", path, "'");
  std::vector<TomlSection> sections = parse_toml(read_file(path, limits::recipe), path, kOp);
  for (TomlSection& s : sections) {
    for (TomlItem& item : s.items) {
      std::replace(item.key.begin(), item.key.end(), '_', '-');
      const auto same =
          std::count_if(s.items.begin(), s.items.end(), [&](const TomlItem& o) { return o.key == item.key; });
      check(same == 1, kOp, path, " [", s.name, "]: '", item.key, "' stands twice");
    }
  }
  return sections;
}

TomlItem item_of(const std::string& key, std::vector<std::string> values) {
  TomlItem item;
  item.key = key;
  item.values = std::move(values);
  return item;
}

/// Items over defaults: a key that stands in both has the item's values.
Items merged(const Items& defaults, const Items& items) {
  Items out = defaults;
  for (const TomlItem& item : items) {
    const auto same = std::find_if(out.begin(), out.end(), [&](const TomlItem& o) { return o.key == item.key; });
    if (same == out.end()) out.push_back(item);
    else *same = item;
  }
  return out;
}

std::optional<TomlItem> take(Items& items, const std::string& key) {
  const auto at = std::find_if(items.begin(), items.end(), [&](const TomlItem& i) { return i.key == key; });
  if (at == items.end()) return std::nullopt;
  const TomlItem item = *at;
  items.erase(at);
  return item;
}

class Reader {
 public:
  Reader(const std::string& path, const ComparisonOverrides& overrides) : path_(path), overrides_(overrides) {}

  ComparisonRecipe read() {
    for (const TomlSection& s : sections(path_, 0)) {
      if (s.name.empty()) read_top(s.items);
      else if (s.name == "base") base_ = s.items;
      else if (s.name == "mix") read_mix(s.items);
      else if (s.name == "arm") shared_ = s.items;
      else if (s.name == "eval") eval_ = s.items;
      else if (s.name.starts_with("eval.")) evals_.push_back({s.name.substr(5), s.items, s.line});
      else if (s.name.starts_with("arms.")) arms_.push_back({s.name.substr(5), s.items, s.line});
      else
        check(s.name == "arms" && s.items.empty(), kOp, path_, ": unknown section [", s.name,
              "]; there are base, mix, eval, eval.NAME, arm, arms.NAME");
    }
    read_base();
    for (const TomlSection& s : evals_) read_eval(s);
    check(!out_.evals.empty(), kOp, path_, ": no [eval.NAME] section, nothing would be measured");
    count_arms();
    for (const TomlSection& s : arms_) read_arm(s);
    return std::move(out_);
  }

 private:
  /// With what the file includes in front; where a key stands in both, the file's own value holds.
  std::vector<TomlSection> sections(const std::string& path, int depth) const {
    std::vector<TomlSection> own = read_sections(path), out;
    const auto named = [](std::vector<TomlSection>& list, const std::string& name) {
      return std::find_if(list.begin(), list.end(), [&](const TomlSection& s) { return s.name == name; });
    };
    if (const auto top = named(own, ""); top != own.end()) {
      if (const auto include = take(top->items, "include")) {
        check(depth < 4, kOp, path, ": includes go round in a circle");
        out = sections((std::filesystem::path(path).parent_path() / one("top", *include)).string(), depth + 1);
      }
    }
    for (const TomlSection& s : own) {
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
  std::string one(const std::string& section, const TomlItem& item) const {
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
  /// Runs f; an error of it is one of this section.
  template <class F>
  void in_section(const std::string& section, F&& f) const {
    try {
      f();
    } catch (const Error& e) {
      const std::string what = e.what();
      require(what.find("[" + section + "]") != std::string::npos, section, what);
      throw;
    }
  }

  /// Errors: unknown keys, values that the settings refuse.
  void settle(const std::string& section, const Items& items, Recipe& config) const {
    for (const TomlItem& item : items) {
      const RecipeField* field = find_recipe_field(item.key);
      if (field == nullptr) {
        const MethodOption* option = find_method_option(item.key);
        require(option != nullptr, section, "unknown key '", item.key, "'");
        config.method_options[option->key] = one(section, item);
        continue;
      }
      if (!std::holds_alternative<std::vector<std::string>*>(field->at(config))) one(section, item);
      for (const std::string& value : item.values) in_section(section, [&] { set_field(config, *field, value); });
    }
  }

  /// What decides a result; where and how often it is saved does not.
  static Settings settings_of(const Items& items) {
    static const std::set<std::string> bookkeeping = {"save-every", "save-minutes", "keep", "log-every", "csv"};
    Settings out;
    for (const TomlItem& item : items) {
      if (!bookkeeping.count(item.key)) out[item.key] = joined(item.values);
    }
    return out;
  }

  void read_top(Items items) {
    if (const auto title = take(items, "title")) out_.title = one("top", *title);
    if (const auto subtitle = take(items, "subtitle")) out_.subtitle = one("top", *subtitle);
    if (!items.empty())
      fail(kOp, path_, ": '", items[0].key, "' stands outside a section; only title, subtitle and include may");
  }

  void read_mix(Items items) {
    if (const auto share = take(items, "share")) mix_.push_back(item_of("retrieval-share", share->values));
    if (const auto parts = take(items, "template")) mix_.push_back(item_of("retrieval-template", parts->values));
    if (const auto weight = take(items, "weight")) mix_.push_back(item_of("retrieval-weight", weight->values));
    require(items.empty(), "mix", "unknown key '", items.empty() ? "" : items[0].key,
            "'; there are share, weight and template");
  }

  void refuse(const std::string& section, const Items& items, std::initializer_list<const char*> keys) const {
    for (const TomlItem& item : items) {
      for (const char* key : keys) require(item.key != key, section, "'", key, "' is the comparison's to set");
    }
  }

  /// The batch that makes a step of so many tokens.
  void set_batch(const std::string& section, int64_t tokens, int64_t window, Recipe& train) const {
    const int64_t per_sample = window * train.accumulate;
    require(tokens % per_sample == 0, section, "tokens-per-step ", tokens, " is no multiple of the window ", window,
            train.accumulate > 1 ? cat(" times accumulate ", train.accumulate) : "");
    train.batch = tokens / per_sample;
  }

  /// A model folder, or the folder of another comparison, whose base and text are then taken.
  void take_base(const std::string& path) {
    const bool comparison = path_exists(path + "/base/config.json");
    out_.model = comparison ? path + "/base" : path;
    base_text_ = comparison ? path + "/text/train.tokens" : "";
    static_cast<void>(model_folder(out_.model));
  }

  void read_base() {
    Items items = base_;
    refuse("base", items, {"out", "from", "resume", "overwrite"});
    const auto model = take(items, "model");
    if (!overrides_.model.empty()) take_base(overrides_.model);
    else if (model) take_base(one("base", *model));
    const auto vocab = take(items, "vocab"), tokens = take(items, "tokens-per-step");
    settle("base", merged(mix_, items), out_.base);
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
    Recipe given;
    given.from = out_.model;
    in_section("base", [&] {
      base_config_ = make_plan(out_.model.empty() ? out_.base : given, *bytes).model;
      if (out_.model.empty()) check_settings(out_.base);
    });
    if (tokens) {
      set_batch("base", whole("base", "tokens-per-step", one("base", *tokens)), base_config_.rope.original_window(),
                out_.base);
    }
    out_.base_settings = settings_of(merged(mix_, base_));
    if (!out_.model.empty()) {
      const std::string folder = model_folder(out_.model), stage = folder + "/stage.toml";
      const bool made_here = path_exists(stage);
      out_.base_settings = {{"model", file_checksum(made_here ? stage : folder + "/config.json")}};
    }
    out_.base_settings["data"] = text;
  }

  void read_eval(const TomlSection& s) {
    const std::string name = "eval." + s.name;
    require(is_folder_name(s.name), name, "'", s.name, "' cannot be an evaluation's name: it is part of a file's");
    Items shared = eval_, own = s.items;
    const auto data = take(shared, "data"), kind = take(own, "kind");
    ComparisonEval e{s.name, make_eval_protocol(kind ? one(name, *kind) : s.name), {}};
    require(e.protocol != nullptr, name, "unknown kind '", kind ? kind->values[0] : s.name, "', expected ",
            joined(eval_kinds()));
    const bool has_data = std::any_of(own.begin(), own.end(), [](const TomlItem& i) { return i.key == "data"; });
    Items items = merged(shared, own);
    const bool inherits = e.protocol->needs_data() && !has_data;
    // The built-in corpus has no path; the name only satisfies the option.
    if (inherits) items.push_back(item_of("data", data ? data->values : std::vector<std::string>{""}));
    set_protocol(name, items, *e.protocol);
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

  void set_protocol(const std::string& section, const Items& items, EvalProtocol& protocol) const {
    const auto stated = [&](const std::string& key) {
      return std::any_of(items.begin(), items.end(), [&](const TomlItem& i) { return i.key == key; });
    };
    const std::vector<Setting> known = protocol.settings();
    for (const TomlItem& item : items) {
      const Setting* setting = find_setting(known, item.key);
      require(setting != nullptr, section, "unknown key '", item.key, "'");
      for (const std::string& other : setting->excludes)
        require(!stated(other), section, "'", item.key, "' excludes '", other, "'");
      assign(*setting, item.values, cat(path_, " [", section, "]: '", item.key, "'"));
    }
    for (const Setting& setting : known)
      require(!setting.required || stated(setting.name), section, "'", setting.name, "' is missing");
  }

  /// A name that is a folder's inside the comparison's, and no other's.
  static bool is_folder_name(const std::string& name) {
    const auto good = [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '+'; };
    return !name.empty() && name.size() <= 120 && name[0] != '.' && std::all_of(name.begin(), name.end(), good);
  }

  Items items_of(const TomlSection& arm) const { return merged(merged(mix_, shared_), arm.items); }

  /// Before any is made: lists multiply.
  void count_arms() const {
    int64_t all = 0;
    for (const TomlSection& s : arms_) {
      int64_t count = 1;
      for (const TomlItem& item : items_of(s)) {
        const auto values = static_cast<int64_t>(item.values.size());
        const bool seeds = item.key == "seeds" && overrides_.max_seeds > 0;
        count *= seeds ? std::min(values, overrides_.max_seeds) : values;
        require(count > 0, "arms." + s.name, "'", item.key, "' is an empty list");
        require(all + count <= overrides_.max_arms, "arms." + s.name, "the lists make more than ", overrides_.max_arms,
                " arms: --max-arms allows more");
      }
      all += count;
    }
  }

  /// One arm per combination of listed values.
  void read_arm(const TomlSection& s) {
    const std::string section = "arms." + s.name;
    Items items = items_of(s);
    refuse(section, items, {"out", "from", "resume", "overwrite", "data", "tokenizer", "vocab", "model"});
    std::vector<std::string> seeds;
    if (const auto list = take(items, "seeds")) seeds = list->values;
    if (overrides_.max_seeds > 0 && static_cast<int64_t>(seeds.size()) > overrides_.max_seeds)
      seeds.resize(static_cast<size_t>(overrides_.max_seeds));
    std::vector<std::pair<std::string, Items>> variants = {{s.name, {}}};
    for (const TomlItem& item : items) {
      std::vector<std::pair<std::string, Items>> grown;
      for (const auto& [name, chosen] : variants) {
        for (size_t i = 0; i < item.values.size(); ++i) {
          grown.emplace_back(item.values.size() > 1 ? name + suffix(item, i) : name, chosen);
          grown.back().second.push_back(item_of(item.key, {item.values[i]}));
        }
      }
      variants = std::move(grown);
    }
    for (const auto& [family, chosen] : variants) {
      if (seeds.empty()) add_arm(section, family, family, chosen);
      for (const std::string& seed : seeds)
        add_arm(section, family + "-seed" + seed, family, merged(chosen, {item_of("seed", {seed})}));
    }
  }

  static std::string suffix(const TomlItem& item, size_t i) {
    std::string value = item.values[i];
    if (value.starts_with("{")) value = cat(i + 1);
    for (char& c : value) {
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-') c = '_';
    }
    if (item.key == "steps") return "-" + value + "steps";
    const bool number = !value.empty() && std::isdigit(static_cast<unsigned char>(value[0])) != 0;
    return number && item.key != "target" ? "-" + item.key + value : "-" + value;
  }

  void add_arm(const std::string& section, const std::string& name, const std::string& family, Items items) {
    for (const ComparisonArm& other : out_.arms) {
      require(other.name != name, section, "there are two arms '", name, "'");
    }
    static const std::set<std::string> taken = {"base",        "tokenizer",   "text",       "table.md",    "table.csv",
                                                "table.jsonl", "report.html", "report.csv", "report.jsonl"};
    require(is_folder_name(name) && !taken.count(name), section, "'", name,
            "' cannot be an arm's name: it is a folder's, beside base, tokenizer, text, the tables and the report");
    ComparisonArm arm{.name = name, .family = family, .train = {}, .zero_shot = false, .settings = settings_of(items)};
    const auto tokens = take(items, "tokens-per-step");
    settle(section, items, arm.train);
    Recipe& train = arm.train;
    arm.zero_shot = train.steps == 0;
    train.from = "base";  // until its folder is known
    if (arm.zero_shot && train.method == "plain" && !train.scaling.empty())
      train.method = method_that_trains(train.scaling);
    require(!arm.zero_shot || train.method != "plain", section,
            "steps = 0 needs a scaling: it would be the base again");
    in_section(section, [&] {
      const RunPlan plan = make_plan(train, *make_byte_tokenizer(), &base_config_);
      if (arm.zero_shot) return;
      check_settings(train);
      if (tokens) set_batch(section, whole(section, "tokens-per-step", one(section, *tokens)), plan.window, train);
    });
    for (const auto& [key, value] : out_.base_settings) arm.settings["base." + key] = value;
    out_.arms.push_back(std::move(arm));
  }

  std::string path_;
  const ComparisonOverrides& overrides_;
  ComparisonRecipe out_;
  Items base_, mix_, shared_, eval_;
  std::vector<TomlSection> evals_, arms_;
  std::string base_text_;
  ModelConfig base_config_;
};

}  // namespace

ComparisonRecipe read_comparison_recipe(const std::string& path, const ComparisonOverrides& overrides) {
  return Reader(path, overrides).read();
}

}  // namespace rw
