// From a method to a model's config, positions and windows.
#include "train/extend.h"

#include <optional>

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
  bool known = false;
  std::string names = "plain";
  for (const std::string& name : method_names()) {
    known = known || name == method;
    names += ", " + name;
  }
  check(known, kOp, "unknown method '", method, "', expected ", names);
}

int64_t max_factor_of(const PositionConfig& sampler) {
  return sampler.find("max_factor") ? std::stoll(sampler.text("max_factor")) : 1;
}

/// Some samplers and kinds go together: the one makes what the other needs.
void check_pair(const Method& method) {
  const std::string sampler = method.sampler.name(), kind = method.rope.name();
  check(
      method.rope.trained(), kOp, "scaling '", kind,
      "' chooses frequencies by length at inference and is not trained; train with another and set it in config.json");
  const auto check_both = [&](bool same, const std::string& own_sampler, const std::string& own_kind) {
    check(same, kOp, "method ", own_sampler, " and scaling ", own_kind,
          " go together: that sampler alone trains that kind (method '", method_name(method), "', scaling '", kind,
          "')");
  };
  const std::string own = method.rope.sampler();
  check_both(own.empty() || own == sampler, own, kind);
  for (const RopeKind& known : rope_kinds()) {
    if (known.sampler() == sampler) check_both(known.name() == kind, sampler, known.name());
  }
}

Extension extended(const ModelConfig& base, const Method& method, int64_t target, bool trained) {
  Extension e;
  e.config = base;
  e.config.finish();
  const RopeConfig from = e.config.rope;
  e.original_window = rope_origin(from).window;
  e.sampler = method.sampler;
  const std::string name = method_name(method);
  const bool whole = method.sampler.name() == "contiguous";
  if (trained) check_pair(method);
  std::optional<RopeConfig> stated;  // the recipe, where it states the window, too
  if (target == 0 && !trained && !method.rope_json.empty()) stated = extend_rope(from, method.rope_json, 0);
  check(target > 0 || stated || max_factor_of(method.sampler) > 1, kOp, "method '", name,
        "' needs --target, the window to extend to");
  e.target = stated       ? stated->extended_window()
             : target > 0 ? target
                          : e.original_window * max_factor_of(method.sampler);
  e.window = method.window > 0 ? method.window : whole ? e.target : e.original_window;
  check(e.target >= e.window, kOp, "--target ", e.target, " is shorter than the training window ", e.window);
  check(!e.sampler.trains_short() || method.window > 0 || e.target > e.window, kOp, "--target ", e.target,
        " is no longer than the window of ", e.original_window, " that the model has");
  check(!e.sampler.trains_short() || e.target > e.window, kOp, "method '", name,
        "' trains with windows shorter than the target: --window ", e.window, ", --target ", e.target);
  e.config.rope = stated                     ? *stated
                  : method.rope_json.empty() ? extend_rope(from, method.rope, e.target, method.factor)
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
  Extension e = extended(base, method, target, true);
  const LongRope* longrope = e.config.rope.kind.get<LongRope>();
  check(!longrope || longrope->start_tokens.value_or(0) == 0, kOp,
        "longrope's start_tokens, first tokens without interpolation, is for inference only: train without it");
  return e;
}
Extension extend_untrained(const ModelConfig& base, const Method& method, int64_t target) {
  return extended(base, method, target, method.rope.trained() && (method.rope_json.empty() || target > 0));
}

std::string method_name(const Method& method) {
  if (!method.sampler.is<ContiguousPositions>()) return method.sampler.name();
  return method.rope.is<LinearRope>() ? "pi" : "full";
}

std::vector<std::string> method_names() {
  std::vector<std::string> names = {"full", "pi"};
  for (const PositionConfig& sampler : position_samplers()) {
    if (!sampler.is<ContiguousPositions>()) names.push_back(sampler.name());
  }
  return names;
}

Method method_from_text(const MethodText& text, const ModelConfig& base, int64_t target) {
  check_name(text.name);
  const std::string scaling = text.scaling.empty() ? default_scaling(text.name) : text.scaling;
  const bool is_json = scaling.front() == '{';
  Method method{.sampler = sampler_of(text.name), .factor = text.factor, .window = text.window};
  if (is_json) {
    method.rope_json = scaling;
    method.rope = extend_rope(base.rope, scaling, target).kind;
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

namespace {

/// A field that differs from its default and is no option: "" if there is none.
std::string unnamed_field(const AnyRecord& record, const AnyRecord& defaults) {
  for (const auto& [key, value] : record.texts()) {
    if (key != "factor" && value != defaults.text(key) && !record.find(key)->is_option())
      return cat(record.name(), " with ", key, " = ", value, " has no name for a recipe");
  }
  return "";
}

template <class Record>
const Record* find_known(const std::vector<Record>& all, const Record& wanted) {
  for (const Record& known : all) {
    if (known.name() == wanted.name()) return &known;
  }
  return nullptr;
}

}  // namespace

std::string why_no_text(const Method& method) {
  const PositionConfig* sampler = find_known(position_samplers(), method.sampler);
  if (!sampler) return cat("sampler ", method.sampler.name(), " is not known by name");
  const std::string of_sampler = unnamed_field(method.sampler, *sampler);
  if (!of_sampler.empty()) return "sampler " + of_sampler;
  if (!method.rope_json.empty()) return "";
  const RopeKind* kind = find_known(rope_kinds(), method.rope);
  if (!kind) return cat("scaling ", method.rope.name(), " is not known by name");
  const std::string of_kind = unnamed_field(method.rope, *kind);
  return of_kind.empty() ? "" : "scaling " + of_kind;
}

MethodText method_to_text(const Method& method) {
  const std::string why = why_no_text(method);
  check(why.empty(), kOp, why);
  MethodText text{
      .name = method_name(method), .scaling = method.rope_json, .factor = method.factor, .window = method.window};
  const auto state = [&](const AnyRecord& record, const AnyRecord& defaults) {
    for (const auto& [key, value] : record.texts()) {
      if (value != defaults.text(key) && key != "factor") text.options[key] = value;
    }
  };
  if (text.scaling.empty()) {
    const RopeKind defaults = method.rope.defaults();
    text.scaling = method.rope.name();
    state(method.rope, defaults);
    if (text.factor == 0 && method.rope.find("factor") && method.rope.text("factor") != defaults.text("factor"))
      text.factor = std::stod(method.rope.text("factor"));
  }
  state(method.sampler, position_sampler(method.sampler.name()));
  return text;
}

std::string rope_json_of(const std::string& text) {
  const bool name = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789") == std::string::npos;
  return name && !text.empty() && text != "null" ? "{\"rope_type\":\"" + text + "\"}" : text;
}

void apply_rope_json(ModelConfig& config, const std::string& rope_json) {
  if (!rope_json.empty()) config = extend_untrained(config, {.rope_json = rope_json}, 0).config;
}

}  // namespace rw
