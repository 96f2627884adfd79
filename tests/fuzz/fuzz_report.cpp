// A run folder as `ropewalk report` reads it: one input is put in the place of each of its files in turn, and what is
// accepted is drawn.
#include <filesystem>

#include "eval/report.h"
#include "fuzz.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace {

constexpr const char* kNames[] = {"metrics.jsonl",    "validation.jsonl", "recipe.toml", "cost.json",
                                  "frequencies.json", "eval-a.json",      "config.json", "run.json"};

}  // namespace

void fuzz_one(std::string_view input) {
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
}
