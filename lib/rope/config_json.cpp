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

/// Writes a record's fields. Numbers that are absent are left out.
void write_fields(const RopeKind& kind, Json& out) {
  for (const Field& f : kind.fields()) {
    std::visit(Overloaded{[&](const ChoiceRef& x) { out[f.key()] = f.choices().at(static_cast<size_t>(x.get(x.at))); },
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
  return logn == LogN::position ? "position" : logn == LogN::constant ? "constant" : "none";
}

LogN logn_from(const std::string& name) {
  for (const LogN logn : {LogN::none, LogN::position, LogN::constant}) {
    if (name == name_of(logn)) return logn;
  }
  fail(kOp, "logn_scaling must be none, position or constant, got \"", name, "\"");
}

void read_recipe(RopeConfig& c, const Json& object, const std::string& path) {
  if (!object.is_object()) fail(kOp, path, " must be an object or null, got ", object.dump().substr(0, 60));
  const Fields fields(object, path + ".");
  std::string type;
  fields.read("rope_type", type);
  if (type.empty()) fields.read("type", type);
  if (type.empty()) fail(kOp, path, ".rope_type is missing");
  if (type == "su") type = "longrope";  // Phi-3's older name
  c.kind = rope_kind(type);

  fields.read("rope_theta", c.rope_theta);
  fields.read("partial_rotary_factor", c.partial_rotary_factor);
  fields.read("original_max_position_embeddings", c.original_max_position_embeddings);
  GivenKeys given;
  read_fields(c.kind, fields, given);
  c.kind.complete(c, given, path + ".");
  std::string logn = name_of(LogN::none);
  bool log_scale = false;  // CLEX's published name
  fields.read("log_scale", log_scale);
  if (log_scale) logn = name_of(LogN::constant);
  fields.read("logn_scaling", logn);
  c.logn = logn_from(logn);
}

}  // namespace

RopeConfig rope_config_from_json(const std::string& config_json_text) {
  check_json_depth(config_json_text, kOp, "config.json");
  const Json whole = Json::parse(config_json_text, nullptr, false);
  if (whole.is_discarded() || !whole.is_object()) fail(kOp, "config.json is not a JSON object");
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
      fail(kOp, "hidden_size ", hidden, " is not a multiple of num_attention_heads ", heads);
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

}  // namespace rw
