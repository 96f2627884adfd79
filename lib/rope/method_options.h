// The options of methods as data, for whoever declares or reads them: a command line, a recipe file, a binding.
#pragma once
#include "rope/positions.h"
#include "rope/scaling.h"

namespace rw {

/// An option that sets a field of one or more records. Fields of the same key are one option.
struct MethodOption {
  std::string key;                   // of the field: "pose_variant"
  std::string name;                  // on the command line, without dashes in front: "pose-variant"
  std::string help;                  // "pose: how chunks lie"
  std::string default_text;          // "paper"
  std::vector<std::string> choices;  // empty: any value
  std::vector<std::string> methods;  // the records that have it
  bool is_flag = false;
};

/// Every option of every sampler and RoPE kind that is known by name, in the order of the lists.
const std::vector<MethodOption>& method_options();

/// Sets the fields that `given` names by key, as text, in the records that have them. Errors: an option that neither
/// record has, with the methods that do; values that are none or out of range.
void apply_options(const std::map<std::string, std::string>& given, PositionConfig& sampler, RopeKind& kind);

}  // namespace rw
