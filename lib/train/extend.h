// Extending a model's window: a method as a value, and what it comes to for a model.
//
//   Extension e = extend(config, {.sampler = PosePositions{.chunks = 3}, .rope = YarnRope{}}, 8192);
//   e.config     the model's config with the RoPE recipe that is trained and stored
//   e.sampler    where positions come from during training
//   e.window     tokens of a sample
//
// Training, evaluation, comparisons and bindings all extend a model by this call.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "nn/config.h"
#include "rope/extend.h"
#include "rope/kinds.h"
#include "rope/samplers.h"

namespace rw {

/// A context-extension method: which positions a model is trained on, and which frequencies it gets.
struct Method {
  PositionConfig sampler = {};  // contiguous: whole windows of the target
  RopeKind rope = {};           // plain RoPE: nothing but training
  double factor = 0;            // of the RoPE kind, where it has one; 0: as extend_rope chooses it
  int64_t window = 0;           // T: tokens of a sample; 0: the target for contiguous positions, else L
  std::string rope_json = {};   // in place of `rope`: a recipe as in config.json's rope_scaling, taken as it is
};

/// What a method comes to for a model.
struct Extension {
  ModelConfig config;  // with the RoPE recipe that is trained and stored
  PositionConfig sampler;
  int64_t window = 0;           // T: tokens of a sample
  int64_t target = 0;           // L': the window after extension
  int64_t original_window = 0;  // L
  int64_t region = 0;           // tokens of the region of a document that a sample comes from; 0: all of it
};

/// `target` 0 leaves it to methods with a largest scale factor (E2-LLM, CLEX): L times that. The base may be an
/// extended model (rope/extend.h). Errors: windows that do not fit together, a kind and a sampler that do not, a kind
/// that is not trained; extend_rope's.
Extension extend(const ModelConfig& base, const Method& method, int64_t target);
/// The same for a model that is only evaluated: the kind may be one that is not trained, and its sampler does not
/// count. With rope_json, `target` 0 is the window that the recipe states, or the model's own.
Extension extend_untrained(const ModelConfig& base, const Method& method, int64_t target);

/// A method by its names, as recipes and command lines state it.
struct MethodText {
  std::string name = "full";  // one of method_names()
  std::string scaling = {};   // "": the method's own; else the name of a RoPE kind, or a JSON object of its fields
  double factor = 0;          // 0: none
  int64_t window = 0;
  std::map<std::string, std::string> options = {};  // fields of sampler and kind, by key (rope/method_options.h)
};
/// The methods that extend a model: full, pi, and every sampler but the contiguous one.
std::vector<std::string> method_names();
/// The one of them that a method is: its sampler's name, or pi or full.
std::string method_name(const Method& method);
/// `target` is what the model will be extended to, 0 where it is not known: a JSON object may leave out what
/// follows from it. Errors: unknown names, options that the method does not have, a factor beside a JSON
/// object, a field that the JSON object must state.
Method method_from_text(const MethodText& text, const ModelConfig& base, int64_t target = 0);
/// Why names and options cannot state the method: a record that is not known by name, or a field that is no option and
/// differs from its default. "" if they can.
std::string why_no_text(const Method& method);
/// Errors: why_no_text(), where it says something.
MethodText method_to_text(const Method& method);

/// The rope_scaling object of what a user names: a kind, {"rope_type": kind}, or an object, which stays as it is.
std::string rope_json_of(const std::string& text);
/// Replaces config.rope by a rope_scaling object, if there is one, by extend_untrained().
void apply_rope_json(ModelConfig& config, const std::string& rope_json);

}  // namespace rw
