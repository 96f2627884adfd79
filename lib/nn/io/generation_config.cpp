// Reads generation_config.json.
#include "nn/io/generation_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

constexpr const char* kOp = "generation_config";
using Json = nlohmann::json;

int32_t token_of(const Json& value, const std::string& path) {
  check(value.is_number_integer() && value >= 0 && value <= INT32_MAX, kOp, path,
        ": \"eos_token_id\" must be a token id or a list of them, got ", value.dump());
  return value.get<int32_t>();
}

/// Settings that change what transformers chooses, with the values at which they do not.
std::vector<std::string> unused_settings(const Json& json) {
  const std::pair<const char*, Json> neutral[] = {{"repetition_penalty", 1},
                                                  {"encoder_repetition_penalty", 1},
                                                  {"presence_penalty", 0},
                                                  {"frequency_penalty", 0},
                                                  {"no_repeat_ngram_size", 0},
                                                  {"min_p", 0},
                                                  {"typical_p", 1},
                                                  {"top_h", nullptr},
                                                  {"epsilon_cutoff", 0},
                                                  {"eta_cutoff", 0},
                                                  {"num_beams", 1},
                                                  {"num_beam_groups", 1},
                                                  {"penalty_alpha", 0},
                                                  {"guidance_scale", 1},
                                                  {"min_length", 0},
                                                  {"min_new_tokens", 0},
                                                  {"bad_words_ids", nullptr},
                                                  {"suppress_tokens", nullptr},
                                                  {"begin_suppress_tokens", nullptr},
                                                  {"forced_bos_token_id", nullptr},
                                                  {"forced_eos_token_id", nullptr},
                                                  {"sequence_bias", nullptr},
                                                  {"stop_strings", nullptr},
                                                  {"max_new_tokens", nullptr}};
  std::vector<std::string> out;
  for (const auto& [key, value] : neutral) {
    if (!json.contains(key) || json[key].is_null() || json[key] == value || json[key].empty()) continue;
    out.push_back(cat(key, " ", json[key].dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 40)));
  }
  return out;
}

}  // namespace

GenerationConfig read_generation_config(const std::string& folder) {
  GenerationConfig out;
  const std::string path = folder + "/generation_config.json";
  if (!path_exists(path)) return out;
  const std::string text = read_file(path, limits::config);
  check_json_depth(text, kOp, path);
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(json.is_object(), kOp, path, " must be a JSON object");
  const auto has = [&](const char* key) { return json.contains(key) && !json[key].is_null(); };
  if (has("eos_token_id")) {
    const Json& eos = json["eos_token_id"];
    if (eos.is_array()) {
      for (const Json& id : eos) out.eos.push_back(token_of(id, path));
    } else {
      out.eos.push_back(token_of(eos, path));
    }
  }
  const auto number = [&](const char* key, double most, bool zero) -> std::optional<double> {
    if (!has(key)) return std::nullopt;
    const double value = json[key].is_number() ? json[key].get<double>() : std::nan("");
    check((value > 0 || (zero && value == 0)) && value <= most, kOp, path, ": \"", key, "\" must be a number ",
          zero ? "of at least 0" : "above 0", " and at most ", most, ", got ", json[key].dump());
    return value;
  };
  out.temperature = number("temperature", 1e6, /*zero=*/true);
  out.top_p = number("top_p", 1, /*zero=*/false);
  out.unused = unused_settings(json);
  if (has("top_k")) {
    check(json["top_k"].is_number_integer() && json["top_k"] >= 0, kOp, path, ": \"top_k\" must be 0 or more, got ",
          json["top_k"].dump());
    out.top_k = json["top_k"].get<int64_t>();
  }
  if (has("do_sample")) {
    check(json["do_sample"].is_boolean(), kOp, path, ": \"do_sample\" must be true or false");
    out.do_sample = json["do_sample"].get<bool>();
  }
  return out;
}

}  // namespace rw
