// Fields of a held record by their keys.
#include "rope/record.h"

#include "tensor/error.h"

namespace rw {

const Field* AnyRecord::find(std::string_view key) const {
  for (const Field& f : fields()) {
    if (f.key() == key) return &f;
  }
  return nullptr;
}

void AnyRecord::set(std::string_view key, const std::string& text) {
  const Field* f = find(key);
  check(f != nullptr, name(), "there is no field ", key);
  f->parse(data(), text, name());
}

std::string AnyRecord::text(std::string_view key) const {
  const Field* f = find(key);
  check(f != nullptr, name(), "there is no field ", key);
  return f->text(data());
}

std::map<std::string, std::string> AnyRecord::texts() const {
  std::map<std::string, std::string> all;
  for (const Field& f : fields()) all[f.key()] = f.text(data());
  return all;
}

void AnyRecord::check_fields() const {
  for (const Field& f : fields()) f.check(data(), name());
}

}  // namespace rw
