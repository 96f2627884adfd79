// The evaluation protocols: what each asks, its settings with their defaults, and one call that runs it on a model.
// The command line, comparisons, training and bindings all take them from here.
//
//   auto protocol = make_eval_protocol("ppl");
//   assign(*find_setting(protocol->settings(), "window"), {"512,2048"}, "window");
//   EvalSubject subject(*model, *tokenizer, read_tokens({"held-out"}, *tokenizer), protocol->options);
//   EvalResult result = protocol->run(subject);
//
// Defaults follow the model's own window, the extended one where it has been extended.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "eval/records.h"
#include "eval/scorer.h"
#include "eval/settings.h"

namespace rw {

/// What every protocol may be given. Which fields count depends on the protocol: settings() names them.
struct EvalOptions {
  std::string model = {};               // a name for the model, kept in the result
  std::string weights = {};             // weights_checksum of the model's folder, kept in the result; may be empty
  std::string weight_format = "model";  // of the weights that were used, kept in the result: model, or int8
  std::vector<std::string> data = {};   // files and folders; the caller reads them
  int64_t documents = 0;                // only the first so many; 0: all
  int64_t max_tokens = 0;               // only the first so many tokens of each document; 0: all
  int64_t batch_tokens = 0;             // of one forward pass; 0: 4096 on the CPU, 65536 on a GPU
  int64_t together = 0;                 // texts that are generated together; 0: see generate_greedy
  uint64_t seed = 0;                    // of everything that is drawn
  bool no_bos = false;
};

/// The window that a RoPE recipe serves, in tokens: the extended one where there is one. For kinds that choose their
/// frequencies by length (CLEX, E2-LLM) it is max_position_embeddings, or CLEX's largest factor times L.
int64_t serving_window(const RopeConfig& rope);

/// A model that is being evaluated, and the text that the protocol reads (empty: none).
struct EvalSubject {
  /// Model and tokenizer must outlive it. Errors: a corpus with token ids that the model does not have.
  EvalSubject(const CausalLm& model, const Tokenizer& tokenizer, TokenCorpus corpus, const EvalOptions& options);

  const CausalLm& model;
  const Tokenizer& tokenizer;
  TokenCorpus corpus;
  std::optional<int32_t> bos;
  ModelScorer scorer;

  /// L: the window of pre-training.
  int64_t trained_window() const { return model.config().rope.original_window(); }
  /// The window that the model serves.
  int64_t window() const { return serving_window(model.config().rope); }
};

class EvalProtocol {
 public:
  virtual ~EvalProtocol() = default;
  /// The word after `eval`.
  virtual const char* kind() const = 0;
  /// One line of help.
  virtual const char* help() const = 0;
  /// True if text must be given: it is not only filler.
  virtual bool needs_data() const { return false; }
  /// The settings that apply. They point into this object.
  virtual std::vector<Setting> settings() = 0;
  /// What is about to be done and what it costs, in one line; empty where there is nothing to say.
  virtual std::string plan(const EvalSubject&) const { return ""; }
  /// Rows and totals. The result's protocol says what was run: model, RoPE, windows, text, seed, device, version, date
  /// and seconds.
  EvalResult run(EvalSubject& subject, const Progress& progress = {}) const;
  /// Lines to print below the table.
  virtual std::string closing(const EvalResult&) const { return ""; }

  EvalOptions options;

 protected:
  virtual EvalResult evaluate(EvalSubject& subject, const Progress& progress) const = 0;
};

/// The kinds in the order of the help: ppl, lastk, bins, longppl, passkey, needle, tasks, ruler, longbench,
/// choice.
const std::vector<std::string>& eval_kinds();

/// nullptr for anything but those.
std::unique_ptr<EvalProtocol> make_eval_protocol(const std::string& kind);

/// One protocol each; make_eval_protocol chooses among them.
namespace protocols {
std::unique_ptr<EvalProtocol> ppl();
std::unique_ptr<EvalProtocol> lastk();
std::unique_ptr<EvalProtocol> bins();
std::unique_ptr<EvalProtocol> longppl();
std::unique_ptr<EvalProtocol> passkey(bool grid);
std::unique_ptr<EvalProtocol> tasks();
std::unique_ptr<EvalProtocol> ruler();
std::unique_ptr<EvalProtocol> longbench();
std::unique_ptr<EvalProtocol> choice();
/// Settings that every protocol has, and those of protocols that measure losses on text.
void add_common(std::vector<Setting>& settings, EvalOptions& options);
/// --together, of protocols that generate text.
void add_generation(std::vector<Setting>& settings, EvalOptions& o);
void add_text(std::vector<Setting>& settings, EvalOptions& options);
/// Those of protocols that read their items from a file: its name, and `documents`.
Setting items_file(const char* help, std::string& file);
Setting first_items(EvalOptions& options);
/// States in a protocol which file was read under `key`, and its checksum: a report compares what was read from equal
/// files only.
void set_file(Record& protocol, const std::string& key, const std::string& path);
}  // namespace protocols

}  // namespace rw
