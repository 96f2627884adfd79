// RopeConfig in and out of config.json.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "rope/kinds.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

using Json = nlohmann::json;
constexpr const char* kOp = "rope_config";
constexpr int64_t kLongestWindow = int64_t{1} << 40;

template <class... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <class... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

/// Reads fields of one object and says which field is wrong. null counts as absent, as in HF's files.
class Fields {
 public:
  Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {}

  const Json* find(const char* name) const {
    const auto it = object_.find(name);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  const Json& require(const char* name) const {
    const Json* value = find(name);
    if (!value) fail(kOp, path_, name, " is missing");
    return *value;
  }
  /// Leaves `to` as it is if the field is absent.
  void read(const char* name, double& to) const {
    if (const Json* v = find(name)) to = number(*v, name);
  }
  void read(const char* name, std::optional<double>& to) const {
    if (const Json* v = find(name)) to = number(*v, name);
  }
  void read(const char* name, int64_t& to) const {
    const Json* v = find(name);
    if (!v) return;
    const double x = number(*v, name);
    if (x != static_cast<double>(static_cast<int64_t>(x))) wrong(*v, name, "a whole number");
    to = static_cast<int64_t>(x);
  }
  void read(const char* name, bool& to) const {
    const Json* v = find(name);
    if (v && !v->is_boolean()) wrong(*v, name, "true or false");
    if (v) to = v->get<bool>();
  }
  void read(const char* name, std::string& to) const {
    const Json* v = find(name);
    if (v && !v->is_string()) wrong(*v, name, "a string");
    if (v) to = v->get<std::string>();
  }
  void read(const char* name, std::vector<double>& to) const {
    const Json* v = find(name);
    if (!v) return;
    if (!v->is_array()) wrong(*v, name, "a list of numbers");
    to.clear();
    for (const Json& x : *v) to.push_back(number(x, name));
  }

  /// What precedes a field's name in messages: "rope_scaling.".
  const std::string& path() const { return path_; }

 private:
  double number(const Json& v, const char* name) const {
    if (!v.is_number()) wrong(v, name, "a number");
    const double x = v.get<double>();
    if (!(std::abs(x) < 1e18)) wrong(v, name, "a number of reasonable size");
    return x;
  }
  [[noreturn]] void wrong(const Json& v, const char* name, const char* expected) const {
    fail(kOp, path_, name, " must be ", expected, ", got ", v.dump().substr(0, 60));
  }
  const Json& object_;
  std::string path_;
};

/// Writes a record's fields. Numbers that are absent are left out, and so are choices that every program means.
void write_fields(const RopeKind& kind, Json& out) {
  for (const Field& f : kind.fields()) {
    std::visit(Overloaded{[&](const ChoiceRef& x) {
                            const auto value = static_cast<size_t>(x.get(x.at));
                            if (value > 0 || f.writes_first_choice()) out[f.key()] = f.choices().at(value);
                          },
                          [&](const std::optional<double>* x) {
                            if (*x) out[f.key()] = **x;
                          },
                          [&](const auto* x) { out[f.key()] = *x; }},
               f.at(const_cast<void*>(kind.data())));  // only read here
  }
}

/// Reads a record's fields and checks their ranges. The keys that were there go to `given`.
void read_fields(RopeKind& kind, const Fields& from, GivenKeys& given) {
  for (const Field& f : kind.fields()) {
    const char* key = f.key().c_str();
    if (f.is_required()) from.require(key);
    if (!from.find(key)) continue;
    given.push_back(f.key());
    std::visit(Overloaded{[&](const ChoiceRef&) {
                            std::string name;
                            from.read(key, name);
                            f.parse(kind.data(), name, kOp, from.path());
                          },
                          [&](auto* x) { from.read(key, *x); }},
               f.at(kind.data()));
    f.check(kind.data(), kOp, from.path());
  }
}

const char* name_of(LogN logn) {
  switch (logn) {
    case LogN::position:
      return "position";
    case LogN::constant:
      return "constant";
    case LogN::ssmax:
      return "ssmax";
    case LogN::none:
      break;
  }
  return "none";
}

LogN logn_from(const std::string& name) {
  for (const LogN logn : {LogN::none, LogN::position, LogN::constant, LogN::ssmax}) {
    if (name == name_of(logn)) return logn;
  }
  fail(kOp, "logn_scaling must be none, position, constant or ssmax, got \"", name, "\"");
}

/// Keys that may stand in a recipe without being a field of its kind: HF's own, and those of published files that
/// change nothing at the given value. Anything else is refused by name.
bool is_harmless(const std::string& key, const Json& value, const RopeConfig& c) {
  for (const char* common : {"rope_type", "type", "rope_theta", "partial_rotary_factor",
                             "original_max_position_embeddings", "logn_scaling", "log_scale"}) {
    if (key == common) return true;
  }
  if (key == "finetuned") return value.is_boolean();  // YaRN's published models
  if (key == "max_position_embeddings") return value == c.max_position_embeddings;
  // CLEX's published models state a factor of 1, as do some plain ones; the others are YaRN's and Phi's multipliers.
  for (const char* multiplier :
       {"factor", "attention_factor", "attn_factor", "extrapolation_factor", "short_mscale", "long_mscale"}) {
    if (key == multiplier) return value == 1;
  }
  return false;
}

void refuse_unknown_keys(const RopeConfig& c, const Json& object, const std::string& path) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_null() || c.kind.find(key) || is_harmless(key, value, c)) continue;
    std::string fields;
    for (const Field& f : c.kind.fields()) fields += (fields.empty() ? "" : ", ") + f.key();
    fail(kOp, path, key, " is not a field of ", c.rope_type(), ", which has ", fields.empty() ? "none" : fields);
  }
}

/// "rope_type", or "type" where it is absent; "default" where both are.
std::string type_of(const Fields& fields, const Json& object, const std::string& path) {
  std::string type;
  fields.read("type", type);
  fields.read("rope_type", type);
  if (type == "su") return "longrope";                                   // Phi-3's older name
  if (type == "yarn" && fields.find("short_factor")) return "longrope";  // and an even older one
  if (!type.empty()) return type;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_null() && key != "rope_theta" && key != "partial_rotary_factor" && key != "logn_scaling" &&
        key != "original_max_position_embeddings") {
      fail(kOp, path, "rope_type is missing beside ", key);
    }
  }
  return "default";
}

void check_common(const RopeConfig& c, const std::string& path) {
  check(c.rope_theta > 1, kOp, path, "rope_theta must be above 1, got ", c.rope_theta);
  check(c.partial_rotary_factor > 0 && c.partial_rotary_factor <= 1, kOp, path,
        "partial_rotary_factor must be above 0 and at most 1, got ", c.partial_rotary_factor);
  check(c.max_position_embeddings >= 1 && c.max_position_embeddings <= kLongestWindow, kOp,
        "max_position_embeddings must be 1 to ", kLongestWindow, ", got ", c.max_position_embeddings);
  check(c.original_max_position_embeddings >= 0 && c.original_max_position_embeddings <= kLongestWindow, kOp, path,
        "original_max_position_embeddings must be 1 to ", kLongestWindow, ", got ", c.original_max_position_embeddings);
  check(c.head_dim >= 1 && c.head_dim <= kMostHeadDim, kOp, "head_dim must be 1 to ", kMostHeadDim, ", got ",
        c.head_dim);
}

/// Reads one recipe over `c`, which holds what stands outside of it. `window`: the
/// original window where neither states one, or 0.
void read_recipe(RopeConfig& c, const Json& object, const std::string& name, std::span<const RopeKind> kinds,
                 int64_t window = 0) {
  if (!object.is_object()) fail(kOp, name, " must be an object or null, got ", object.dump().substr(0, 60));
  const std::string path = name + ".";
  const Fields fields(object, path);
  c.kind = rope_kind(type_of(fields, object, path), kinds);
  fields.read("rope_theta", c.rope_theta);
  fields.read("partial_rotary_factor", c.partial_rotary_factor);
  // As transformers: the window of pre-training that stands beside the recipe goes before one inside.
  if (c.original_max_position_embeddings == 0) {
    fields.read("original_max_position_embeddings", c.original_max_position_embeddings);
  }
  if (c.original_max_position_embeddings == 0) c.original_max_position_embeddings = window;
  check_common(c, path);
  GivenKeys given;
  read_fields(c.kind, fields, given);
  refuse_unknown_keys(c, object, path);
  c.kind.complete(c, given, path);

  std::string logn = name_of(LogN::none);
  bool log_scale = false;  // CLEX's published name
  fields.read("log_scale", log_scale);
  if (log_scale) logn = name_of(LogN::constant);
  fields.read("logn_scaling", logn);
  c.logn = logn_from(logn);
}

/// What stands outside of a recipe.
RopeConfig read_common(const Fields& top, const RopeDefaults& defaults) {
  RopeConfig c;
  c.max_position_embeddings = defaults.max_position_embeddings;
  if (c.max_position_embeddings == 0) top.require("max_position_embeddings");
  top.read("max_position_embeddings", c.max_position_embeddings);
  top.read("original_max_position_embeddings", c.original_max_position_embeddings);
  c.rope_theta = defaults.rope_theta;
  top.read("rotary_emb_base", c.rope_theta);  // GPT-NeoX
  top.read("rope_theta", c.rope_theta);
  c.partial_rotary_factor = defaults.partial_rotary_factor;
  top.read("rotary_pct", c.partial_rotary_factor);  // GPT-NeoX
  top.read("partial_rotary_factor", c.partial_rotary_factor);
  c.head_dim = defaults.head_dim;
  top.read("head_dim", c.head_dim);
  if (c.head_dim == 0) {
    int64_t hidden = 0, heads = 0;
    top.require("hidden_size");
    top.require("num_attention_heads");
    top.read("hidden_size", hidden);
    top.read("num_attention_heads", heads);
    if (heads < 1 || hidden % heads != 0) {
      fail(kOp, "hidden_size ", hidden, " is not a multiple of num_attention_heads ", heads);
    }
    c.head_dim = hidden / heads;
  }
  return c;
}

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";

/// Vicuna's way to say that max_position_embeddings is still the original window: a longer one beside it.
bool window_stays(const Fields& top, const RopeConfig& c) {
  int64_t extended = 0;
  top.read("max_sequence_length", extended);
  return extended > c.max_position_embeddings;
}

/// True if the recipe has one part per type of layer. Errors: parts for other types than the two known ones.
bool is_per_layer_type(const Json& recipe) {
  if (!recipe.is_object() || (!recipe.contains(kFull) && !recipe.contains(kSliding))) return false;
  for (const auto& [key, value] : recipe.items()) {
    check(
        key == kFull || key == kSliding || value.is_null(), kOp, "rope_parameters.", key,
        " is neither full_attention nor sliding_attention, the two types of layers that may have recipes of their own");
  }
  return true;
}

/// True if there is something to read: not null and not {}, which transformers takes as absent.
bool states(const Json* recipe) { return recipe != nullptr && !(recipe->is_object() && recipe->empty()); }

Json parse_object(const std::string& text, const char* what) {
  check_json_depth(text, kOp, what);
  Json whole = Json::parse(text, nullptr, false);
  if (whole.is_discarded() || !whole.is_object()) fail(kOp, what, " is not a JSON object");
  return whole;
}

}  // namespace

RopeConfigs rope_configs_from_json(const std::string& config_json_text, const RopeDefaults& defaults) {
  const Json whole = parse_object(config_json_text, "config.json");
  const Fields top(whole, "");
  RopeConfigs out{.full = read_common(top, defaults), .sliding = std::nullopt};
  check_common(out.full, "");
  const RopeConfig common = out.full;
  const int64_t window = common.max_position_embeddings;
  const Json *v5 = top.find("rope_parameters"), *v4 = top.find("rope_scaling");

  // The base of windowed layers where it stands alone, as in Gemma 3's files of transformers 4.
  std::optional<double> local = defaults.local_rope_theta;
  top.read("rope_local_base_freq", local);
  if (local) {
    out.sliding = common;
    out.sliding->rope_theta = *local;
    check_common(*out.sliding, "");
  }

  if (v5 && is_per_layer_type(*v5)) {
    Json full = v5->value(kFull, Json::object()), sliding = v5->value(kSliding, Json::object());
    if (full.is_null()) full = Json::object();
    if (sliding.is_null()) sliding = Json::object();
    if (states(v4) && full.is_object()) full.update(*v4);  // as transformers does for Gemma 3
    read_recipe(out.full, full, cat("rope_parameters.", kFull), defaults.kinds);
    if (!out.sliding) out.sliding = common;
    read_recipe(*out.sliding, sliding, cat("rope_parameters.", kSliding), defaults.kinds);
  } else if (states(v4)) {  // as transformers: it takes the place of rope_parameters, whatever is in there
    read_recipe(out.full, *v4, "rope_scaling", defaults.kinds, window_stays(top, common) ? window : 0);
  } else if (states(v5)) {
    read_recipe(out.full, *v5, "rope_parameters", defaults.kinds, window_stays(top, common) ? window : 0);
  }
  return out;
}

RopeConfig rope_config_from_json(const std::string& config_json_text, const RopeDefaults& defaults) {
  RopeConfigs both = rope_configs_from_json(config_json_text, defaults);
  check(!both.sliding, kOp, "the model has one RoPE for full attention and another for windowed layers, expected one");
  return both.full;
}

RopeConfig rope_recipe_from_json(const RopeConfig& base, const std::string& recipe, std::span<const RopeKind> kinds) {
  check_json_depth(recipe, "rope", "the recipe");
  const Json json = Json::parse(recipe, nullptr, false);
  check(json.is_object() || json.is_null(), "rope",
        "expected a JSON object like {\"rope_type\":\"linear\",\"factor\":4}, got '", recipe, "'");
  RopeConfig c = base;
  c.kind = {};
  c.logn = LogN::none;
  if (!states(&json) || json.is_null()) return c;
  const Fields fields(json, "rope_scaling.");
  c.original_max_position_embeddings = 0;
  fields.read("original_max_position_embeddings", c.original_max_position_embeddings);
  if (c.original_max_position_embeddings == 0) c.original_max_position_embeddings = base.original_window();
  read_recipe(c, json, "rope_scaling", kinds);
  if (c.kind.window_factor() > 1) {
    c.max_position_embeddings = std::llround(c.kind.window_factor() * static_cast<double>(c.original_window()));
  }
  return c;
}

std::string rope_scaling_to_json(const RopeConfig& config) {
  if (config.kind.is<DefaultRope>() && config.logn == LogN::none) return "null";
  Json out = Json::object();
  out["rope_type"] = config.rope_type();
  write_fields(config.kind, out);
  if (config.original_max_position_embeddings != 0) {
    out["original_max_position_embeddings"] = config.original_max_position_embeddings;
  }
  if (config.logn != LogN::none) out["logn_scaling"] = name_of(config.logn);
  return out.dump();
}

std::string rope_parameters_to_json(const RopeConfigs& configs) {
  const auto part = [](const RopeConfig& c) {
    const std::string scaling = rope_scaling_to_json(c);
    Json out = scaling == "null" ? Json::object() : Json::parse(scaling);
    out["rope_type"] = c.rope_type();
    out["rope_theta"] = c.rope_theta;
    if (c.partial_rotary_factor != 1) out["partial_rotary_factor"] = c.partial_rotary_factor;
    return out;
  };
  if (!configs.sliding) return part(configs.full).dump();
  Json out = Json::object();
  out[kFull] = part(configs.full);
  out[kSliding] = part(*configs.sliding);
  return out.dump();
}

}  // namespace rw
