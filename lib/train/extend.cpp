// From a method to a model's config, positions and windows.
#include "train/extend.h"

#include "rope/method_options.h"
#include "tensor/error.h"

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
  check(
      method.rope.trained(), kOp, "scaling '", kind,
      "' chooses frequencies by length at inference and is not trained; train with another and set it in config.json");
  check((sampler == "clex") == (kind == "clex"), kOp,
        "method clex and scaling clex go together: the sampler draws the scale factor t that the learned frequencies "
        "are solved for (method '",
        sampler, "', scaling '", kind, "')");
  check((sampler == "e2") == (kind == "e2"), kOp,
        "method e2 and scaling e2 go together: its positions are divided by g in training already (method '", sampler,
        "', scaling '", kind, "')");
}

Extension extended(const ModelConfig& base, const Method& method, int64_t target, bool trained) {
  Extension e;
  e.config = base;
  e.config.finish();
  const RopeConfig from = e.config.rope;
  e.original_window = rope_origin(from).window;
  e.sampler = method.sampler;
  const std::string name = name_of(method);
  const bool whole = method.sampler.name() == "contiguous";
  if (trained) check_pair(method);
  check(target > 0 || max_factor_of(method.sampler) > 1, kOp, "method '", name,
        "' needs --target, the window to extend to");
  e.target = target > 0 ? target : e.original_window * max_factor_of(method.sampler);
  e.window = method.window > 0 ? method.window : whole ? e.target : e.original_window;
  check(e.target >= e.window, kOp, "--target ", e.target, " is shorter than the training window ", e.window);
  check((name != "pose" && name != "randpos") || e.target > e.window, kOp, "method '", name,
        "' trains with windows shorter than the target: --window ", e.window, ", --target ", e.target);
  e.config.rope = method.rope_json.empty() ? extend_rope(from, method.rope, e.target, method.factor)
                                           : extend_rope(from, method.rope_json, e.target);
  e.original_window =
      e.config.rope.original_max_position_embeddings > 0 ? e.config.rope.original_window() : e.original_window;
  static_cast<void>(make_rope_scaling(e.config.rope));  // refuses values out of range before anything is read

  const auto* pose = e.sampler.get<PosePositions>();
  e.region = pose && pose->content != PoseContent::zero ? pose->content_windows * e.window : 0;
  return e;
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
  Method method{.sampler = sampler_of(text.name), .factor = text.factor, .window = text.window};
  if (is_json) {
    method.rope_json = scaling;
    method.rope = rope_recipe_from_json(base.rope, scaling).kind;
  } else {
    method.rope = rope_kind(scaling);
  }
  check(text.factor == 0 || !is_json, kOp, "--factor has no effect on a JSON scaling, which states its own");
  check(text.name != "pi" || method.rope.is<LinearRope>(), kOp, "method pi is linear scaling; for '",
        method.rope.name(), "' at full length use method full");

  // CLEX's largest t is one number for sampler and kind; a JSON scaling states it.
  const RopeKind stated = method.rope;
  apply_options(text.options, method.sampler, method.rope);
  auto* sampler = method.sampler.get<ClexPositions>();
  const auto* clex = method.rope.get<ClexRope>();
  if (sampler && clex && is_json) {
    check(stated == method.rope, kOp, "--max-factor is ", sampler->max_factor, ", the scaling's max_factor ",
          stated.text("max_factor"));
    sampler->max_factor = clex->max_factor;
  }
  return method;
}

MethodText method_to_text(const Method& method) {
  static_cast<void>(position_sampler(method.sampler.name()));
  MethodText text{.name = name_of(method), .factor = method.factor, .window = method.window};
  text.scaling = method.rope_json;
  if (text.scaling.empty()) {
    text.scaling = method.rope.name();
    for (const auto& [key, value] : method.rope.texts()) {
      const Field* field = method.rope.find(key);
      if (value == rope_kind(method.rope.name()).text(key)) continue;
      if (key == "factor") text.factor = method.factor > 0 ? method.factor : std::stod(value);
      if (key == "factor") continue;
      check(field->is_option(), kOp, "scaling ", text.scaling, " with ", key, " = ", value,
            " has no name for a recipe; give it as rope_json");
      text.options[key] = value;
    }
  }
  for (const auto& [key, value] : method.sampler.texts()) {
    const Field* field = method.sampler.find(key);
    if (value == position_sampler(method.sampler.name()).text(key)) continue;
    check(field->is_option(), kOp, "sampler ", text.name, " with ", key, " = ", value, " has no name for a recipe");
    text.options[key] = value;
  }
  return text;
}

std::string rope_json_of(const std::string& text) {
  const bool name = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789") == std::string::npos;
  return name && !text.empty() && text != "null" ? "{\"rope_type\":\"" + text + "\"}" : text;
}

void apply_rope_json(ModelConfig& config, const std::string& rope_json) {
  if (!rope_json.empty()) config.rope = rope_recipe_from_json(config.rope, rope_json);
}

}  // namespace rw
