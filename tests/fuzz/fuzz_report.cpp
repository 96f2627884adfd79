<<<<<<< HEAD
// A run folder, as `ropewalk report` reads it, up to the page, the table and the records. The input is a bundle of the
// folder's files: a line "=== NAME" begins each.
#include <array>
#include <cstdlib>
=======
// A run folder as `ropewalk report` reads it: one input is put in the place of each of its files in turn, and what is
// accepted is drawn.
>>>>>>> eval
#include <filesystem>

#include "eval/report.h"
#include "fuzz.h"
<<<<<<< HEAD

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
=======
#include "tensor/error.h"
#include "tensor/file.h"

namespace {

constexpr const char* kNames[] = {"metrics.jsonl",    "validation.jsonl", "recipe.toml", "cost.json",
                                  "frequencies.json", "eval-a.json",      "config.json", "run.json"};
>>>>>>> eval

}  // namespace

void fuzz_one(std::string_view input) {
<<<<<<< HEAD
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
=======
  const std::string file = fuzz::file("metrics.jsonl", "{\"step\":0,\"loss\":1}\n"),
                    folder = file.substr(0, file.rfind('/')) + "/run";
  std::error_code error;
  for (const char* name : kNames) {
    std::filesystem::remove_all(folder, error);
    std::filesystem::create_directory(folder, error);
    rw::write_file_atomic(folder + "/metrics.jsonl", "{\"step\":0,\"loss\":1}\n");
    rw::write_file_atomic(folder + "/" + name, input);
    try {
      rw::report_html({rw::load_run(folder)});
    } catch (const rw::Error&) {
      // refused by name: the other files are tried all the same
    }
  }
}

std::vector<std::string> fuzz_seeds() {
  return {
      "{\"step\":0,\"loss\":5.5,\"tokens_per_s\":1000,\"time_s\":2}\n{\"step\":1,\"loss\":null}\n{\"step\":2,\"lo",
      "method = \"pose\"\nrope_scaling = \"{\\\"factor\\\":4}\"\nwindow = \"64\"\ntarget = \"256\"\nbatch = \"2\"\n",
      "method=\"clex\"\nwindow=\"32\"\ntarget=\"64\"\nmax_factor=\"16\"\n",
      R"({"seconds": 9, "tokens": 5000, "peak_memory_bytes": 1048576, "parameters": 5, "device": "cpu"})",
      R"({"length": 256, "attention_scale": 1.25, "inv_freq": [1, 0.2, 0.03, 0.004]})",
      R"({"kind":"ppl","protocol":{"mode":"sliding","text":"9 tokens in 1 documents, fnv1a 00"},
              "totals":[{"window":128,"stride":64,"documents":3,"ppl":9.5,"ppl_low":9,"ppl_high":10},{"window":64,"ppl":null}]})",
      R"({"kind":"needle","totals":[{"length":64,"depth":0.5,"accuracy":1},{"length":128,"depth":1,"accuracy":0}]})",
      R"({"kind":"passkey","protocol":{"place":"uniform depth"},"totals":[{"length":64,"distance":8,"accuracy":0.5}]})",
      R"({"kind":"bins","totals":[{"begin":0,"end":64,"nll":3.5},{"begin":64,"end":128,"nll":null}]})",
      R"({"model_type":"llama","head_dim":8,"rope_theta":100.0,"max_position_embeddings":64,"hidden_size":16,
              "num_attention_heads":2,"rope_scaling":{"rope_type":"linear","factor":4.0}})",
      R"({"identity":{},"model":{},"facts":{"parameters":12,"target":64,"original_window":16}})"};
>>>>>>> eval
}
