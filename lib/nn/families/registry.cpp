// The list of families.
#include "nn/families/families.h"

namespace rw {

const std::vector<const FamilyRecord*>& all_families() {
  static const std::vector<const FamilyRecord*> list{&kLlama, &kMistral, &kQwen2,   &kQwen3,    &kGptNeox, &kGptj,
                                                     &kPhi3,  &kOlmo2,   &kSmollm3, &kStablelm, &kGemma2,  &kGemma3};
  return list;
}

const FamilyRecord& family_record(Family family) {
  for (const FamilyRecord* record : all_families()) {
    if (record->family == family) return *record;
  }
  fail("config", "unknown family");
}

const FamilyRecord& family_named(const std::string& model_type) {
  std::string known;
  for (const FamilyRecord* record : all_families()) {
    if (model_type == record->model_type) return *record;
    known += cat(known.empty() ? "" : ", ", record->model_type);
  }
  if (model_type == "gemma3") {
    fail("config",
         "model_type \"gemma3\" is a model of text and images, which is not supported; expected its text part alone, "
         "\"gemma3_text\"");
  }
  fail("config", "model_type must be one of ", known, ", got \"", model_type.substr(0, 60), "\"");
}

namespace {
/// Row i of the result is row rows[i] of `value`, or the other way round.
Tensor reorder(const ModelConfig& config, const std::string& name, const Tensor& value, bool to_file) {
  const FamilyRecord& record = family_record(config.family);
  if (!record.file_rows) return value;
  const std::vector<int64_t> rows = record.file_rows(config, name);
  if (rows.empty()) return value;
  check(static_cast<int64_t>(rows.size()) == value.size(0), "load", "'", name, "' must have ", rows.size(),
        " rows, got ", value.shape());
  const Tensor host = value.to(kCpu);
  const Tensor out = Tensor::empty(host.shape(), host.dtype());
  const int64_t bytes = host.bytes() / host.size(0);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t model = static_cast<int64_t>(i) * bytes, file = rows[i] * bytes;
    std::memcpy(static_cast<char*>(out.raw()) + (to_file ? file : model),
                static_cast<const char*>(host.raw()) + (to_file ? model : file), static_cast<size_t>(bytes));
  }
  return out;
}
}  // namespace

Tensor from_file_rows(const ModelConfig& config, const std::string& name, const Tensor& value) {
  return reorder(config, name, value, false);
}
Tensor to_file_rows(const ModelConfig& config, const std::string& name, const Tensor& value) {
  return reorder(config, name, value, true);
}

std::optional<int64_t> read_window(const ConfigReader& in, std::optional<int64_t> otherwise) {
  if (in.is_null("sliding_window") || (!in.has("sliding_window") && !otherwise)) return std::nullopt;
  const int64_t window = in.integer("sliding_window", otherwise);
  check(window > 0, "config", "'sliding_window' must be positive or null, got ", window);
  return window;
}

void write_window(ConfigWriter& out, int64_t window) {
  if (window > 0) {
    out.set("sliding_window", window);
  } else {
    out.set_null("sliding_window");
  }
}

}  // namespace rw
