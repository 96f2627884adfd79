// RopeConfig in and out of config.json.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "rope/scaling.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

using Json = nlohmann::json;

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
    if (!value) fail("rope_config", path_, name, " is missing");
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

 private:
  double number(const Json& v, const char* name) const {
    if (!v.is_number()) wrong(v, name, "a number");
    const double x = v.get<double>();
    if (!(std::abs(x) < 1e18)) wrong(v, name, "a number of reasonable size");
    return x;
  }
  [[noreturn]] void wrong(const Json& v, const char* name, const char* expected) const {
    fail("rope_config", path_, name, " must be ", expected, ", got ", v.dump().substr(0, 60));
  }
  const Json& object_;
  std::string path_;
};

/// The keys of a recipe beyond rope_type, in the order they are written. A visitor reads or writes each one.
template <class Config, class Visitor>
void visit_recipe(Config& c, Visitor&& v) {
  const std::string& type = c.rope_type;
  const auto is = [&](std::initializer_list<const char*> kinds) {
    return std::find(kinds.begin(), kinds.end(), type) != kinds.end();
  };
  if (is({"linear", "ntk", "dynamic", "yarn", "llama3"})) v("factor", c.factor, true);
  if (is({"longrope", "e2"})) v("factor", c.factor, false);
  v("original_max_position_embeddings", c.original_max_position_embeddings, type == "llama3");
  if (type == "yarn") {
    v("beta_fast", c.beta_fast, false);
    v("beta_slow", c.beta_slow, false);
    v("truncate", c.truncate, false);
    v("yarn_variant", c.yarn_variant, false);
    v("mscale", c.mscale, false);
    v("mscale_all_dim", c.mscale_all_dim, false);
  }
  if (is({"yarn", "longrope"})) v("attention_factor", c.attention_factor, false);
  if (type == "llama3") {
    v("low_freq_factor", c.low_freq_factor, true);
    v("high_freq_factor", c.high_freq_factor, true);
  }
  if (type == "longrope") {
    v("short_factor", c.short_factor, true);
    v("long_factor", c.long_factor, true);
  }
  if (type == "abf") v("base", c.base, true);
  if (type == "clex") {
    v("max_factor", c.clex.max_factor, false);
    v("param_factor", c.clex.param_factor, false);
    v("act", c.clex.act, false);
    v("prior", c.clex.prior, false);
    v("ntk_input", c.clex.ntk_input, false);
    v("input_base", c.clex.input_base, false);
    v("time_dt", c.clex.time_dt, false);
    v("grow_steps", c.clex.grow_steps, false);
    v("grad", c.clex.grad, false);
    v("lr_scale", c.clex.lr_scale, false);
  }
}

struct Writer {
  Json& out;
  template <class T>
  void operator()(const char* name, const T& value, bool) const {
    out[name] = value;
  }
  void operator()(const char* name, const std::optional<double>& value, bool) const {
    if (value) out[name] = *value;
  }
  void operator()(const char* name, const int64_t& value, bool) const {
    if (value != 0) out[name] = value;
  }
};

const char* name_of(LogN logn) {
  return logn == LogN::position ? "position" : logn == LogN::constant ? "constant" : "none";
}

LogN logn_from(const std::string& name) {
  for (const LogN logn : {LogN::none, LogN::position, LogN::constant}) {
    if (name == name_of(logn)) return logn;
  }
  fail("rope_config", "logn_scaling must be none, position or constant, got \"", name, "\"");
}

bool known_type(const std::string& type) {
  for (const char* known :
       {"default", "linear", "ntk", "dynamic", "dynamic_linear", "yarn", "llama3", "longrope", "clex", "e2", "abf"}) {
    if (type == known) return true;
  }
  return false;
}

void read_recipe(RopeConfig& c, const Json& object, const std::string& path) {
  if (!object.is_object()) fail("rope_config", path, " must be an object or null, got ", object.dump().substr(0, 60));
  const Fields fields(object, path + ".");
  c.rope_type = "";
  fields.read("rope_type", c.rope_type);
  if (c.rope_type.empty()) fields.read("type", c.rope_type);
  if (c.rope_type.empty()) fail("rope_config", path, ".rope_type is missing");
  if (c.rope_type == "su") c.rope_type = "longrope";  // Phi-3's older name
  if (!known_type(c.rope_type)) fail("rope_config", "unknown rope_type \"", c.rope_type, "\"");

  fields.read("rope_theta", c.rope_theta);
  fields.read("partial_rotary_factor", c.partial_rotary_factor);
  if (c.rope_type == "e2") c.factor = 0;
  visit_recipe(c, [&](const char* name, auto& value, bool required) {
    const bool ratio_known = c.rope_type == "yarn" && std::string(name) == "factor";
    if (required && !ratio_known) fields.require(name);
    fields.read(name, value);
  });
  // HF: a yarn or longrope recipe without a factor means the ratio of the two windows
  if ((c.rope_type == "yarn" || c.rope_type == "longrope") && !fields.find("factor")) {
    if (c.original_max_position_embeddings <= 0) fail("rope_config", path, ".factor is missing");
    c.factor = static_cast<double>(c.max_position_embeddings) / static_cast<double>(c.original_max_position_embeddings);
  }
  std::string logn = name_of(LogN::none);
  bool log_scale = false;  // CLEX's published name
  fields.read("log_scale", log_scale);
  if (log_scale) logn = name_of(LogN::constant);
  fields.read("logn_scaling", logn);
  c.logn = logn_from(logn);
}

}  // namespace

RopeConfig rope_config_from_json(const std::string& config_json_text) {
  check_json_depth(config_json_text, "rope_config", "config.json");
  const Json whole = Json::parse(config_json_text, nullptr, false);
  if (whole.is_discarded() || !whole.is_object()) fail("rope_config", "config.json is not a JSON object");
  const Fields top(whole, "");
  RopeConfig c;
  top.require("max_position_embeddings");
  top.read("max_position_embeddings", c.max_position_embeddings);
  top.read("original_max_position_embeddings", c.original_max_position_embeddings);
  top.read("rope_theta", c.rope_theta);
  top.read("partial_rotary_factor", c.partial_rotary_factor);
  top.read("head_dim", c.head_dim);
  if (!top.find("head_dim")) {
    int64_t hidden = 0, heads = 0;
    top.require("hidden_size");
    top.require("num_attention_heads");
    top.read("hidden_size", hidden);
    top.read("num_attention_heads", heads);
    if (heads < 1 || hidden % heads != 0) {
      fail("rope_config", "hidden_size ", hidden, " is not a multiple of num_attention_heads ", heads);
    }
    c.head_dim = hidden / heads;
  }
  if (const Json* v5 = top.find("rope_parameters")) {
    read_recipe(c, *v5, "rope_parameters");
  } else if (const Json* v4 = top.find("rope_scaling")) {
    read_recipe(c, *v4, "rope_scaling");
  }
  return c;
}

std::string rope_scaling_to_json(const RopeConfig& config) {
  if (config.rope_type == "default" && config.logn == LogN::none) return "null";
  Json out = Json::object();
  out["rope_type"] = config.rope_type;
  visit_recipe(config, Writer{out});
  if (config.logn != LogN::none) out["logn_scaling"] = name_of(config.logn);
  return out.dump();
}

}  // namespace rw
