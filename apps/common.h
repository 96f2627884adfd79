// What the verbs share.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "nn/causal_lm.h"
#include "nn/io/checkpoint.h"
#include "remaining_time.h"
#include "train/plan.h"
#include "train/text.h"
#include "verbs.h"

/// A progress line on stderr: a bar on a terminal, a plain line every ten seconds otherwise. Silent with --quiet.
class ProgressBar {
 public:
  ProgressBar(std::string title, int64_t total, const Globals& globals);
  ~ProgressBar();
  /// `note` stands behind the bar: "loss 3.21  12,345 tok/s".
  void update(int64_t done, const std::string& note = "");
  void finish(const std::string& note = "");

 private:
  void print(int64_t done, const std::string& note, bool last);
  using Clock = std::chrono::steady_clock;
  std::string title_;
  int64_t total_;
  RemainingTime left_;
  bool terminal_, quiet_, finished_ = false;
  Clock::time_point start_, printed_;
};

/// A progress line that learns its total with the first report and ends with the last.
rw::Progress progress_bar(const std::string& title, const Globals& globals);
/// One line on stderr, unless --quiet.
void notice(const std::string& line, const Globals& globals);
/// Reads and tokenizes files and folders, or opens one token file, with a progress line. Errors: as rw::load_tokens.
rw::TokenCorpus load_text(const std::vector<std::string>& paths, const rw::Tokenizer& tokenizer,
                          const Globals& globals);

/// Seconds since some fixed moment.
double now();
/// "1 234 567" with thin separators: 1,234,567.
std::string with_commas(int64_t n);
/// "4m 07s"
std::string duration(double seconds);

/// Whether --only asks for a part: by names with commas between them, or for all by naming none.
bool asked_for(const std::string& only, const std::string& name);

/// Applies --threads and --device. Errors: no such device.
rw::Device use(const Globals& globals);

/// The group of options that help lists first.
inline constexpr const char* kCommonOptions = "Common options";
/// Declares --model (also --from): the model folder that a verb reads.
void add_model(CLI::App& app, std::string& path);
/// Declares --adapter: a folder with an adapter of the model.
void add_adapter(CLI::App& app, std::string& path);
/// Declares --rope (also --scaling): another rope_scaling for this call, as a JSON object or as the name of a kind.
void add_rope(CLI::App& app, std::string& rope);
/// Declares --weights: model, or int8.
void add_weights(CLI::App& app, std::string& weights);
/// Does what it says. Errors: use_int8_weights()'s.
void apply_weights(rw::CausalLm& model, const std::string& weights);

/// Declares --fast-atomics (Tape::set_fast_atomics).
void add_fast_atomics(CLI::App& app, bool& on);

struct LoadedModel {
  std::unique_ptr<rw::CausalLm> model;
  std::unique_ptr<rw::Tokenizer> tokenizer;
};
/// The model alone, computing in `dtype`, with `adapter` ("": none) merged into it. Errors: as load_hf and load_merged.
std::unique_ptr<rw::CausalLm> load_model(const std::string& path, const Globals& globals, const std::string& rope_json,
                                         rw::DType dtype, const std::string& adapter = "");
/// Loads for inference: bf16 on a GPU, f32 on the CPU. `rope_json` replaces the recipe ("" keeps it): an object as in
/// config.json's rope_scaling. The tokenizer knows the model's vocabulary (fit_model).
/// Errors: as load_hf and load_tokenizer.
LoadedModel load_model_and_tokenizer(const std::string& path, const Globals& globals, const std::string& rope_json = "",
                                     const std::string& adapter = "");
/// As above, with the dtype given.
LoadedModel load_model_and_tokenizer(const std::string& path, const Globals& globals, const std::string& rope_json,
                                     rw::DType dtype, const std::string& adapter = "");
