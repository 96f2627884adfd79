// The table of a run's settings, and what is derived from it.
#include "train/recipe_fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "tensor/error.h"
#include "train/toml.h"

namespace rw {
namespace {

constexpr const char* kOp = "train";
constexpr double kLong = 1099511627776.0, kTokens = 1073741824.0, kHuge = 1e300;
using Config = TrainConfig;

std::string new_model_only(const Config& c) {
  return c.from.empty() ? "" : "the shape of the model is that of --from";
}
std::string with_mix(const Config& c) { return c.retrieval_share > 0 ? "" : "there is no --retrieval-share"; }
std::string with_validation(const Config& c) { return c.validation.empty() ? "there is no --validation" : ""; }
std::string with_seams(const Config& c) {
  return c.method == "pose" || c.method == "clex" ? "" : "method '" + c.method + "' has no chunks";
}
std::string with_target(const Config& c) { return c.method == "plain" ? "method plain extends nothing" : ""; }
std::string with_checkpoints(const Config& c) {
  return c.save_every > 0 || c.save_minutes > 0 ? "" : "no checkpoint is written";
}
std::string with_whole_windows(const Config& c) {
  const bool full = c.method == "full" || c.method == "pi";
  return full && c.window != c.target ? "method '" + c.method + "' trains on windows of --target tokens" : "";
}

template <class M>
auto at(M Config::* member) {
  return [member](Config& c) -> RecipeField::Ref { return &(c.*member); };
}

void add_text_and_model(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto source = FieldRole::source, decides = FieldRole::decides;
  f.push_back({"data", "text files, .jsonl files or folders, or one token file; demo: built-in stories", text, source,
               at(&Config::data)});
  f.push_back({"from", "model folder to start from", text, source, at(&Config::from)});
  f.push_back({"tokenizer", "tokenizer folder or file (default: --from's; bytes for a new model)", text, source,
               at(&Config::tokenizer)});
  f.push_back({"packed", "join documents with end-of-text tokens (for corpora of short ones)", text, decides,
               at(&Config::packed)});
  f.push_back({"no-bos", "no beginning-of-text token in front of samples", text, decides, at(&Config::no_bos)});
  f.push_back({"retrieval-share",
               "share of samples in which a number is hidden in the text and asked for (5 to 10 % teach the task)", text,
               decides, at(&Config::retrieval_share), 0, 1});
  f.push_back({"retrieval-weight", "how many times an answer's tokens count in the loss", text, decides,
               at(&Config::retrieval_weight), 0, kHuge, true, {}, with_mix});
  f.push_back({"retrieval-template", "wording of those: default, short, or a JSON file with task, filler, needle, question",
               text, decides, at(&Config::retrieval_template), 0, 0, false, {}, with_mix});

  const auto shape = [&](const char* name, const char* help, auto member, double low, double high, bool above = false) {
    f.push_back({name, help, model, decides, at(member), low, high, above, {}, new_model_only});
  };
  shape("hidden", "new model: hidden size", &Config::hidden, 1, 1 << 20);
  shape("layers", "new model: blocks", &Config::layers, 1, 1 << 16);
  shape("heads", "new model: attention heads", &Config::heads, 1, 1 << 16);
  shape("kv-heads", "new model: key/value heads (0: as many as heads)", &Config::kv_heads, 0, 1 << 16);
  shape("head-dim", "new model: size of a head (0: hidden / heads)", &Config::head_dim, 0, 65536);
  shape("ffn", "new model: feed-forward size (0: 8/3 hidden, to a multiple of 32)", &Config::ffn, 0, 1 << 24);
  shape("theta", "new model: RoPE base", &Config::theta, 0, kHuge, true);
  shape("init-std", "new model: standard deviation of weights (0: 1 / sqrt(hidden))", &Config::init_std, 0, 1e6);
  shape("untied", "new model: an output head of its own", &Config::untied, 0, 1);
}

void add_method(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides;
  f.push_back({"method", "plain, full, pi, pose, randpos, e2 or clex", method, decides, at(&Config::method)});
  f.push_back({"scaling",
               "RoPE scaling: default, linear, ntk, yarn, llama3, longrope, abf, e2, clex, or a JSON object of its fields",
               method, decides, at(&Config::scaling)});
  f.push_back({"factor", "scaling factor (0: target / base window)", method, decides, at(&Config::factor), 0, 1e9});
  f.push_back({"window", "tokens of a sample (0: the base's window; for full and pi: the target)", method, decides,
               at(&Config::window), 0, kTokens, false, {}, with_whole_windows});
  f.push_back({"target", "context window to extend to", method, decides, at(&Config::target), 0, kTokens, false, {},
               with_target});
  f.push_back({"mask-seams", "pose: no loss where one chunk ends and another begins", method, decides,
               at(&Config::mask_seams), 0, 1, false, {}, with_seams});
}

void add_optimizer(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides;
  const auto schedule = [&](const char* name, const char* help, auto member, double low, double high,
                            std::vector<std::string> choices = {}) {
    f.push_back({name, help, optimizer, decides,
                 [member](Config& c) -> RecipeField::Ref { return &(c.schedule.*member); }, low, high, false,
                 std::move(choices)});
  };
  const auto adamw = [&](const char* name, const char* help, auto member, double low, double high, bool above = false) {
    f.push_back({name, help, optimizer, decides, [member](Config& c) -> RecipeField::Ref { return &(c.adamw.*member); },
                 low, high, above});
  };
  f.push_back({"steps", "optimizer steps", optimizer, decides, at(&Config::steps), 0, kLong});
  f.push_back({"batch", "samples of a forward, over all ranks", optimizer, decides, at(&Config::batch), 1, kTokens});
  f.push_back({"accumulate", "forwards of a step, weighted by scored tokens", optimizer, decides,
               at(&Config::accumulate), 1, kTokens});
  schedule("lr", "peak learning rate", &Schedule::lr, 0, kHuge);
  schedule("schedule", "constant, linear or cosine", &Schedule::kind, 0, 0, {"constant", "linear", "cosine"});
  schedule("warmup", "warm-up steps", &Schedule::warmup, 0, kLong);
  schedule("warmup-start", "share of the peak where warm-up begins", &Schedule::warmup_start, 0, 1);
  schedule("min-ratio", "share of the peak at the end", &Schedule::min_ratio, 0, 1);
  adamw("beta1", "AdamW: decay of the mean of gradients", &AdamWConfig::beta1, 0, 0.999999999);
  adamw("beta2", "AdamW: decay of the mean of their squares", &AdamWConfig::beta2, 0, 0.999999999);
  adamw("eps", "AdamW: what is added to the divisor", &AdamWConfig::eps, 0, 1, true);
  adamw("weight-decay", "AdamW: on matrices, not on norms", &AdamWConfig::weight_decay, 0, 1e6);
  f.push_back({"clip", "largest global gradient norm (0: off)", optimizer, decides, at(&Config::clip), 0, kHuge});
  f.push_back({"seed", "of weights, text and positions", optimizer, decides, at(&Config::seed), 0, 1.8446744073709552e19});
}

void add_computing(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides, kept = FieldRole::kept;
  f.push_back({"dtype", "f32, bf16 or auto (bf16 on a GPU)", computing, kept, at(&Config::dtype), 0, 0, false,
               {"auto", "f32", "bf16"}});  // what it comes to decides
  f.push_back({"recompute", "recompute each block in backward: less memory, about a third more time", computing, kept,
               at(&Config::recompute)});
  f.push_back({"lean",
               "bf16, one process: 14 bytes for each parameter instead of 18. Master weights lose nothing; gradients are "
               "kept in bf16, which is less exact with --accumulate",
               computing, decides, at(&Config::lean)});
  f.push_back({"eager", "GPU: launch every kernel from the host instead of replaying a CUDA graph", computing, kept,
               at(&Config::eager)});
  f.push_back({"fast-atomics",
               "GPU: add up some gradients in whatever order they come: faster, but no two runs give the same bits",
               computing, decides, at(&Config::fast_atomics)});
}

void add_keeping(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto kept = FieldRole::kept;
  f.push_back({"save-every", "steps between checkpoints (0: by time alone)", keeping, kept, at(&Config::save_every), 0,
               kLong});
  f.push_back({"save-minutes", "minutes of wall time between checkpoints (0: by steps alone)", keeping, kept,
               at(&Config::save_minutes), 0, 1e6});
  f.push_back({"keep", "checkpoints to keep (0: all)", keeping, kept, at(&Config::keep), 0, kLong, false, {},
               with_checkpoints});
  f.push_back({"save-dtype", "of the model's weights on disk: f32, bf16 or auto (--from's, f32 for a new model)", keeping,
               kept, at(&Config::save_dtype), 0, 0, false, {"auto", "f32", "bf16"}});
  f.push_back({"log-every", "steps between lines of metrics.jsonl", keeping, kept, at(&Config::log_every), 1, kLong});
  f.push_back({"validation", "text that is not trained on, as --data: its loss under the target window goes to "
               "validation.jsonl", validation, FieldRole::source, at(&Config::validation)});
  f.push_back({"validate-every", "steps between validations (0: only at the end)", validation, kept,
               at(&Config::validate_every), 0, kLong, false, {}, with_validation});
  f.push_back({"validation-tokens", "tokens of a validation: so many whole windows, and at least one", validation,
               FieldRole::decides, at(&Config::validation_tokens), 1, kLong, false, {}, with_validation});
}

std::string number(double x) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, x).ptr;
  return {text, end};
}

RecipeField::Ref ref(const RecipeField& field, const TrainConfig& config) {
  return field.at(const_cast<TrainConfig&>(config));  // only read
}

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

std::string value_text(const RecipeField::Ref& value, bool quoted) {
  const auto string = [quoted](const std::string& s) { return quoted ? toml_quote(s) : s; };
  return std::visit(Overloaded{[&](std::string* s) { return string(*s); },
                               [&](std::vector<std::string>* list) {
                                 std::string out;
                                 for (const std::string& s : *list) out += (out.empty() ? "" : ", ") + string(s);
                                 return quoted ? "[" + out + "]" : out;
                               },
                               [](int64_t* n) { return std::to_string(*n); },
                               [](uint64_t* n) { return std::to_string(*n); }, [](double* x) { return number(*x); },
                               [](bool* b) { return std::string(*b ? "true" : "false"); }},
                    value);
}

void check_range(const RecipeField& f, const TrainConfig& config) {
  const RecipeField::Ref value = ref(f, config);
  double x = 0;
  if (const auto* n = std::get_if<int64_t*>(&value)) x = static_cast<double>(**n);
  else if (const auto* d = std::get_if<double*>(&value)) x = **d;
  else if (const auto* s = std::get_if<std::string*>(&value)) {
    if (f.choices.empty() || std::find(f.choices.begin(), f.choices.end(), **s) != f.choices.end()) return;
    std::string known;
    for (const std::string& c : f.choices) known += (known.empty() ? "" : ", ") + c;
    fail(kOp, "--", f.name, " must be one of ", known, ", got '", **s, "'");
  } else {
    return;
  }
  const bool good = std::isfinite(x) && (f.above ? x > f.low : x >= f.low) && x <= f.high;
  if (good) return;
  const std::string low = (f.above ? "above " : "at least ") + number(f.low);
  fail(kOp, "--", f.name, " must be ", f.high >= kHuge ? low : low + " and at most " + number(f.high), ", got ",
       value_text(value, false));
}

bool is_given(const RecipeField& f, const TrainConfig& config) {
  static const TrainConfig defaults;
  return config.given.count(f.name) > 0 || f.text(config) != f.text(defaults);
}

}  // namespace

std::string RecipeField::key() const {
  std::string out = name;
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
}
std::string RecipeField::toml(const TrainConfig& config) const { return value_text(ref(*this, config), true); }
std::string RecipeField::text(const TrainConfig& config) const { return value_text(ref(*this, config), false); }

const std::vector<RecipeField>& recipe_fields() {
  static const std::vector<RecipeField> all = [] {
    std::vector<RecipeField> f;
    add_text_and_model(f);
    add_method(f);
    add_optimizer(f);
    add_computing(f);
    add_keeping(f);
    return f;
  }();
  return all;
}

const RecipeField* find_recipe_field(const std::string& name) {
  std::string wanted = name;
  std::replace(wanted.begin(), wanted.end(), '_', '-');
  for (const RecipeField& f : recipe_fields()) {
    if (f.name == wanted) return &f;
  }
  return nullptr;
}

void check_settings(const TrainConfig& config) {
  for (const RecipeField& f : recipe_fields()) check_range(f, config);
  for (const RecipeField& f : recipe_fields()) {
    if (!f.idle || !is_given(f, config)) continue;
    const std::string why = f.idle(config);
    check(why.empty(), kOp, "--", f.name, " has no effect here: ", why);
  }
}

std::string recipe_to_toml(const TrainConfig& config) {
  std::string out = "# A run of `ropewalk train`. This runs it again: ropewalk train --config THIS_FILE --out FOLDER\n[train]\n";
  for (const RecipeField& f : recipe_fields()) {
    const std::string text = f.text(config);
    if (text.empty() || (f.idle && !f.idle(config).empty())) continue;
    out += f.key() + " = " + f.toml(config) + "\n";
  }
  return out;
}

void set_field(TrainConfig& config, const RecipeField& field, const std::string& text) {
  const auto parse = [&](auto& number) {
    const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
    check(result.ec == std::errc() && result.ptr == text.data() + text.size(), kOp, "--", field.name,
          " must be a number, got '", text.substr(0, 40), "'");
  };
  std::visit(Overloaded{[&](std::string* s) { *s = text; },
                        [&](std::vector<std::string>* list) { list->push_back(text); }, [&](int64_t* n) { parse(*n); },
                        [&](uint64_t* n) { parse(*n); }, [&](double* x) { parse(*x); },
                        [&](bool* b) {
                          check(text == "true" || text == "false", kOp, "--", field.name,
                                " must be true or false, got '", text.substr(0, 40), "'");
                          *b = text == "true";
                        }},
             field.at(config));
  config.given.insert(field.name);
}

TrainConfig recipe_from_toml(const std::string& text, const std::string& name) {
  TrainConfig config;
  for (const TomlSection& section : parse_toml(text, name, kOp)) {
    check(section.name == "train" || section.items.empty(), kOp, "'", name, "' line ", section.line,
          ": a run's settings stand in [train], found section [", section.name, "]");
    for (const TomlItem& item : section.items) {
      const RecipeField* field = find_recipe_field(item.key);
      check(field != nullptr, kOp, "'", name, "' line ", item.line, ": unknown key '", item.key, "'");
      const bool list = std::holds_alternative<std::vector<std::string>*>(field->at(config));
      check(list || item.values.size() == 1, kOp, "'", name, "' line ", item.line, ": '", item.key,
            "' takes one value, got ", item.values.size());
      for (const std::string& value : item.values) set_field(config, *field, value);
    }
  }
  for (const RecipeField& f : recipe_fields()) check_range(f, config);
  return config;
}

std::map<std::string, std::string> deciding_settings(const TrainConfig& config) {
  std::map<std::string, std::string> out;
  for (const RecipeField& f : recipe_fields()) {
    if (f.role != FieldRole::decides || (f.idle && !f.idle(config).empty())) continue;
    out[f.key()] = f.text(config);
  }
  return out;
}

}  // namespace rw
