// The protocols of `ropewalk eval`, each with its options: for the verb, which loads a model for one of them, and for
// `compare`, which runs several on every model it has trained.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common.h"
#include "data/corpus.h"
#include "eval/records.h"
#include "eval/scorer.h"

/// Options that every protocol has.
struct EvalOptions {
  std::string model, rope, json;
  std::vector<std::string> data;
  int64_t documents = 0, max_tokens = 0, batch_tokens = 0;
  uint64_t seed = 0;
  bool no_bos = false;
};

/// A model that is being evaluated, and the text that the protocol reads (empty: none).
struct EvalSubject {
  /// Errors: a corpus with token ids that the model does not have.
  EvalSubject(const rw::CausalLm& model, const rw::Tokenizer& tokenizer, rw::TokenCorpus corpus, const EvalOptions& o);

  const rw::CausalLm& model;
  const rw::Tokenizer& tokenizer;
  rw::TokenCorpus corpus;
  std::optional<int32_t> bos;
  rw::ModelScorer scorer;
  int64_t trained_window() const { return model.config().rope.original_window(); }
};

class EvalProtocol {
 public:
  virtual ~EvalProtocol() = default;
  virtual const char* kind() const = 0;  // the verb after `eval`
  virtual const char* help() const = 0;
  /// Text must be given: it is not only filler.
  virtual bool needs_data() const { return false; }
  /// The options of EvalOptions that apply, and the protocol's own.
  virtual void add_options(CLI::App& sub) = 0;
  /// Rows and totals, with what was run in the result's protocol.
  rw::EvalResult run(EvalSubject& subject, const Globals& globals) const;
  /// Lines to print below the table.
  virtual std::string closing(const rw::EvalResult&) const { return ""; }

  EvalOptions options;

 protected:
  virtual rw::EvalResult evaluate(EvalSubject& subject, const Globals& globals) const = 0;
};

/// ppl, lastk, bins, passkey, needle, tasks, longbench; nullptr for anything else.
std::unique_ptr<EvalProtocol> make_eval_protocol(const std::string& kind);

/// Reads and tokenizes files and folders, or opens one token file.
rw::TokenCorpus load_tokens(const std::vector<std::string>& paths, const rw::Tokenizer& tokenizer,
                            const Globals& globals);
