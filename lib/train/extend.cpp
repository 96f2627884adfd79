// From a method to a model's config, positions and windows.
#include "train/extend.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "rope/method_options.h"
#include "tensor/error.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

constexpr const char* kOp = "train";

/// The scaling a method brings when none is named.
std::string default_scaling(const std::string& method) {
  if (method == "pi") return "linear";
  for (const PositionConfig& sampler : position_samplers()) {
    if (sampler.name() == method) return sampler.scaling();
  }
  return "default";
}

PositionConfig sampler_of(const std::string& method) {
  for (const PositionConfig& sampler : position_samplers()) {
    if (sampler.name() == method) return sampler;
  }
  return {};
}

void check_name(const std::string& method) {
  bool known = method == "full" || method == "pi";
  std::string names = "plain, full, pi";
  for (const PositionConfig& sampler : position_samplers()) {
    if (sampler.name() == "contiguous") continue;
    known = known || sampler.name() == method;
    names += ", " + sampler.name();
  }
  check(known, kOp, "unknown method '", method, "', expected ", names);
}

/// The name by which a method is known.
std::string name_of(const Method& method) {
  if (method.sampler.name() != "contiguous") return method.sampler.name();
  return method.rope.is<LinearRope>() ? "pi" : "full";
}

int64_t max_factor_of(const PositionConfig& sampler) {
  return sampler.find("max_factor") ? std::stoll(sampler.text("max_factor")) : 1;
}

/// Some samplers and kinds go together: the one makes what the other needs.
void check_pair(const Method& method) {
  const std::string sampler = name_of(method), kind = method.rope.name();
  check(method.rope.trained(), kOp, "scaling '", kind,
        "' chooses frequencies by length at inference and is not trained; train with another and set it in config.json");
  check((sampler == "clex") == (kind == "clex"), kOp,
        "method clex and scaling clex go together: the sampler draws the scale factor t that the learned frequencies "
        "are solved for (method '",
        sampler, "', scaling '", kind, "')");
  check((sampler == "e2") == (kind == "e2"), kOp,
        "method e2 and scaling e2 go together: its positions are divided by g in training already (method '", sampler,
        "', scaling '", kind, "')");
}

void set_factor(const Method& method, const Extension& e, RopeKind& kind) {
  const bool has_factor = kind.find("factor") != nullptr;
  check(!method.factor || has_factor, kOp, "--factor has no effect on scaling ", kind.name());
  if (!has_factor || (!method.factor && kind.is<E2Rope>())) return;
  const double ratio = static_cast<double>(e.target) / static_cast<double>(e.original_window);
  kind.set("factor", number_text(method.factor.value_or(ratio)));
}

Extension extended(const ModelConfig& base, const Method& method, int64_t target, bool trained) {
  Extension e;
  e.config = base;
  e.config.finish();
  RopeConfig& rope = e.config.rope;
  e.original_window = method.original_window > 0 ? method.original_window : rope.original_window();
  e.sampler = method.sampler;
  const bool whole = method.sampler.name() == "contiguous";
  const std::string name = name_of(method);
  check(target > 0 || max_factor_of(method.sampler) > 1, kOp, "method '", name,
        "' needs --target, the window to extend to");
  e.target = target > 0 ? target : e.original_window * max_factor_of(method.sampler);
  e.window = method.window > 0 ? method.window : whole ? e.target : e.original_window;
  check(e.target >= e.window, kOp, "--target ", e.target, " is shorter than the training window ", e.window);
  check(name != "pose" && name != "randpos" ? true : e.target > e.window, kOp, "method '", name,
        "' trains with windows shorter than the target: --window ", e.window, ", --target ", e.target);
  if (trained) check_pair(method);

  const auto* abf = rope.kind.get<AbfRope>();
  rope = {.rope_theta = abf ? abf->base : rope.rope_theta,  // a base that was trained with stays
          .head_dim = rope.head_dim,
          .partial_rotary_factor = rope.partial_rotary_factor,
          .max_position_embeddings = e.original_window,
          .logn = method.logn,
          .kind = method.rope};
  set_factor(method, e, rope.kind);
  const bool direct = rope.kind.is<DefaultRope>();
  rope.original_max_position_embeddings = direct ? 0 : e.original_window;
  rope.max_position_embeddings = direct ? e.target : std::max(e.target, e.original_window);
  static_cast<void>(make_rope_scaling(rope));  // refuses values out of range before anything is read

  const auto* pose = e.sampler.get<PosePositions>();
  e.region = pose && pose->content != PoseContent::zero ? pose->content_windows * e.window : 0;
  return e;
}

/// What a JSON object of a kind's fields says: it states its factor, too.
void use_json(const std::string& scaling, const ModelConfig& base, Method& method) {
  ModelConfig config = base;
  apply_rope_json(config, scaling);
  method.rope = config.rope.kind;
  method.logn = config.rope.logn;
  if (method.rope.find("factor")) method.factor = std::stod(method.rope.text("factor"));
  const auto json = nlohmann::json::parse(scaling, nullptr, false);
  const char* key = "original_max_position_embeddings";
  if (json.contains(key) && json[key].is_number_integer() && json[key].get<int64_t>() > 0)
    method.original_window = json[key].get<int64_t>();
}

}  // namespace

Extension extend(const ModelConfig& base, const Method& method, int64_t target) {
  return extended(base, method, target, true);
}
Extension extend_untrained(const ModelConfig& base, const Method& method, int64_t target) {
  return extended(base, method, target, method.rope.trained());
}

Method method_from_text(const MethodText& text, const ModelConfig& base) {
  check_name(text.name);
  const std::string scaling = text.scaling.empty() ? default_scaling(text.name) : text.scaling;
  const bool is_json = scaling.front() == '{';
  Method method{.sampler = sampler_of(text.name), .window = text.window};
  if (is_json) use_json(scaling, base, method);
  else method.rope = rope_kind(scaling);
  check(text.name != "pi" || method.rope.is<LinearRope>(), kOp, "method pi is linear scaling; for '",
        method.rope.name(), "' at full length use method full");
  check(text.factor == 0 || !is_json, kOp, "--factor has no effect on a JSON scaling, which states its own");
  if (text.factor > 0) method.factor = text.factor;

  // CLEX's largest t is one number for sampler and kind.
  const RopeKind stated = method.rope;
  apply_options(text.options, method.sampler, method.rope);
  auto* sampler = method.sampler.get<ClexPositions>();
  auto* clex = method.rope.get<ClexRope>();
  if (sampler && clex && is_json) {
    check(!text.options.count("max_factor") || stated == method.rope, kOp, "--max-factor is ", sampler->max_factor,
          ", the scaling's max_factor ", stated.text("max_factor"));
    sampler->max_factor = clex->max_factor;
  }
  return method;
}

MethodText method_to_text(const Method& method) {
  static_cast<void>(rope_kind(method.rope.name()));
  static_cast<void>(position_sampler(method.sampler.name()));
  MethodText text{.name = name_of(method), .window = method.window};
  RopeConfig whole{.head_dim = 2, .max_position_embeddings = method.original_window, .logn = method.logn};
  whole.kind = method.rope;
  const bool named = method.logn == LogN::none && method.original_window == 0 && method.rope == [&] {
    RopeKind plain = rope_kind(method.rope.name());  // with this factor: it is stated apart
    if (plain.find("factor")) plain.set("factor", method.rope.text("factor"));
    return plain;
  }();
  text.scaling = named ? method.rope.name() : rope_scaling_to_json(whole);
  text.factor = named ? method.factor.value_or(0) : 0;
  for (const auto& [key, value] : method.sampler.texts()) {
    const Field* field = method.sampler.find(key);
    if (field && field->is_option()) text.options[key] = value;
  }
  return text;
}

void apply_rope_json(ModelConfig& config, const std::string& rope_json) {
  if (rope_json.empty()) return;
  check_json_depth(rope_json, "rope", "the recipe");
  const auto scaling = nlohmann::json::parse(rope_json, nullptr, false);
  check(scaling.is_object() || scaling.is_null(), "rope",
        "expected a JSON object like {\"rope_type\":\"linear\",\"factor\":4}, got '", rope_json, "'");
  const int64_t window = config.rope.original_window();
  const nlohmann::json whole = {{"head_dim", config.head_dim},
                                {"rope_theta", config.rope.rope_theta},
                                {"partial_rotary_factor", config.rope.partial_rotary_factor},
                                {"max_position_embeddings", window},
                                {"rope_scaling", scaling}};
  config.rope = rope_config_from_json(whole.dump());
}

}  // namespace rw
