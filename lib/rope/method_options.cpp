// The options of all methods, gathered from the tables of their fields.
#include "rope/method_options.h"

#include <algorithm>

#include "tensor/printable.h"

namespace rw {
namespace {

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

namespace {

/// Sets one field. Messages call it as the option is called: --max-factor instead of max_factor.
void set_option(AnyRecord& record, const Field& field, const std::string& text) {
  try {
    record.set(field.key(), text);
  } catch (const Error& e) {
    std::string what = e.what();
    const size_t at = what.find(field.key(), what.find(']'));
    if (at != std::string::npos) what.replace(at, field.key().size(), "--" + field.option_name());
    throw Error(what);
  }
}

/// Refuses an option that neither of the two has: for its value if that is none,
/// otherwise with the methods that have it.
[[noreturn]] void refuse_option(const std::string& key, const std::string& text, const PositionConfig& sampler,
                                const RopeKind& kind) {
  for (const PositionConfig& known : position_samplers()) {
    const Field* f = known.find(key);
    PositionConfig scratch = known;
    if (f && f->is_option()) set_option(scratch, *f, text);
  }
  for (const MethodOption& o : method_options()) {
    check(o.key != key, "options", "--", o.name, " is an option of ", joined(o.methods), ", got sampler ",
          sampler.name(), " and scaling ", kind.name());
  }
  fail("options", "no method has an option ", key);
}

}  // namespace

void apply_options(const std::map<std::string, std::string>& given, PositionConfig& sampler, RopeKind& kind) {
  for (const auto& [key, text] : given) {
    bool used = false;
    for (AnyRecord* record : {static_cast<AnyRecord*>(&sampler), static_cast<AnyRecord*>(&kind)}) {
      const Field* f = record->find(key);
      if (f == nullptr || !f->is_option()) continue;
      set_option(*record, *f, text);
      used = true;
    }
    if (!used) refuse_option(key, text, sampler, kind);
  }
}

}  // namespace rw
