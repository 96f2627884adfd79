// The options of all methods, gathered from the tables of their fields.
#include "rope/method_options.h"

#include <algorithm>

namespace rw {
namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

void gather(const AnyRecord& record, std::vector<MethodOption>& all) {
  for (const Field& f : record.fields()) {
    if (!f.is_option()) continue;
    const auto same = std::find_if(all.begin(), all.end(), [&](const MethodOption& o) { return o.key == f.key(); });
    if (same == all.end()) {
      all.push_back({.key = f.key(),
                     .name = f.option_name(),
                     .help = f.help(),
                     .default_text = f.text(record.data()),
                     .choices = f.choices(),
                     .methods = {record.name()},
                     .is_flag = f.is_flag()});
    } else if (std::find(same->methods.begin(), same->methods.end(), record.name()) == same->methods.end()) {
      same->methods.push_back(record.name());
    }
  }
}

}  // namespace

const std::vector<MethodOption>& method_options() {
  static const std::vector<MethodOption> options = [] {
    std::vector<MethodOption> all;
    for (const PositionConfig& sampler : position_samplers()) gather(sampler, all);
    for (const RopeKind& kind : rope_kinds()) gather(kind, all);
    for (MethodOption& o : all) o.help = joined(o.methods) + ": " + o.help;
    return all;
  }();
  return options;
}

void apply_options(const std::map<std::string, std::string>& given, PositionConfig& sampler, RopeKind& kind) {
  for (const auto& [key, text] : given) {
    bool used = false;
    for (AnyRecord* record : {static_cast<AnyRecord*>(&sampler), static_cast<AnyRecord*>(&kind)}) {
      const Field* f = record->find(key);
      if (f == nullptr || !f->is_option()) continue;
      record->set(key, text);
      used = true;
    }
    if (used) continue;
    for (const MethodOption& o : method_options()) {
      check(o.key != key, "options", "--", o.name, " is an option of ", joined(o.methods), ", got sampler ",
            sampler.name(), " and scaling ", kind.name());
    }
    fail("options", "no method has an option ", key);
  }
}

}  // namespace rw
