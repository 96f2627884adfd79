// A run folder, as `ropewalk report` reads it, up to the page, the table and the records. The input is a bundle of the
// folder's files: a line "=== NAME" begins each.
#include <array>
#include <cstdlib>
#include <filesystem>

#include "eval/report.h"
#include "fuzz.h"

namespace {

constexpr std::array kNames = {"metrics.jsonl",    "config.json",   "cost.json",       "recipe.toml",
                               "frequencies.json", "eval-ppl.json", "eval-other.json", "validation.jsonl"};

/// Writes the bundle's files and removes those that it lacks. Other names are ignored: they cannot be reached.
std::string write_bundle(std::string_view input) {
  const std::string first = fuzz::file(kNames[0], "");
  const std::string folder = first.substr(0, first.rfind('/'));
  for (const char* name : kNames) std::filesystem::remove(folder + "/" + name);
  while (!input.empty()) {
    const size_t next = input.find("\n=== ");
    std::string_view part = input.substr(0, next);
    input.remove_prefix(next == std::string_view::npos ? input.size() : next + 1);
    if (!part.starts_with("=== ")) continue;
    const size_t end = part.find('\n');
    const std::string_view name = part.substr(4, end - 4);
    const std::string_view text = end == std::string_view::npos ? "" : part.substr(end + 1);
    for (const char* known : kNames) {
      if (name == known) fuzz::file(known, text);
    }
  }
  return folder;
}

}  // namespace

void fuzz_one(std::string_view input) {
  const std::vector<rw::ReportRun> runs = {rw::load_run(write_bundle(input))};
  rw::report_html(runs, {.title = "<t>", .texts = {{"a", "b"}}});
  rw::to_csv(rw::report_records(runs));
}

std::vector<std::string> fuzz_seeds() {
  const std::string metrics =
      "=== "
      "metrics.jsonl\n{\"step\":1,\"loss\":4.5,\"lr\":0.1,\"norm\":1,\"tokens\":32,\"tokens_per_s\":10,\"time_s\":1}\n"
      "{\"step\":2,\"loss\":4.25,\"lr\":0.1,\"norm\":1,\"tokens\":64,\"tokens_per_s\":12,\"time_s\":2}\n";
  const std::string config =
      "=== config.json\n{\"vocab_size\":258,\"hidden_size\":8,\"intermediate_size\":8,\"num_hidden_layers\":1,"
      "\"num_attention_heads\":2,\"max_position_embeddings\":64,\"rope_theta\":10000,\"rope_scaling\":{\"rope_type\":"
      "\"yarn\",\"factor\":4,\"original_max_position_embeddings\":16}}\n";
  const std::string ppl =
      "=== eval-ppl.json\n{\"kind\":\"ppl\",\"protocol\":{\"windows\":\"16,32\",\"stride\":8},\"rows\":[{\"document\":"
      "\"a\",\"window\":16,\"stride\":8,\"tokens\":50,\"nll\":3.5,\"ppl\":33.1}],\"totals\":[{\"window\":16,\"tokens\":"
      "50,"
      "\"nll\":3.5,\"ppl\":33.1,\"low\":30,\"high\":36}]}\n";
  const std::string needle =
      "=== eval-other.json\n{\"kind\":\"needle\",\"protocol\":{},\"rows\":[],\"totals\":[{\"length\":128,\"depth\":0.5,"
      "\"accuracy\":0.75,\"trials\":4},{\"length\":256,\"depth\":1,\"accuracy\":null,\"trials\":4}]}\n";
  const std::string passkey =
      "=== "
      "eval-other.json\n{\"kind\":\"passkey\",\"protocol\":{},\"rows\":[],\"totals\":[{\"distance\":128,\"accuracy\":1,"
      "\"trials\":4}]}\n=== "
      "cost.json\n{\"seconds\":3,\"tokens\":64,\"tokens_per_s\":20,\"peak_memory_bytes\":100000}\n";
  const std::string recipe =
      "=== recipe.toml\nmethod = \"pose\"\nwindow = \"16\"\ntarget = \"64\"\nchunks = \"2\"\nseed = \"1\"\n"
      "=== frequencies.json\n{\"inv_freq\":[1,0.1,0.01,0.001],\"attention_scale\":1.1}\n";
  const std::string bins =
      "=== "
      "eval-other.json\n{\"kind\":\"bins\",\"protocol\":{},\"rows\":[],\"totals\":[{\"begin\":0,\"end\":16,\"nll\":4,"
      "\"tokens\":100},{\"begin\":16,\"end\":32,\"nll\":3,\"tokens\":100}]}\n=== eval-ppl.json\n{\"kind\":\"lastk\","
      "\"protocol\":{},\"rows\":[],\"totals\":[{\"context\":16,\"nll\":4,\"low\":3,\"high\":5}]}\n";
  return {metrics + config,
          config + ppl + needle,
          metrics + passkey,
          config + recipe,
          bins,
          metrics + config + recipe + ppl};
}
