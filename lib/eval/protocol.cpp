// What all evaluation protocols share: their subject, the settings that several of them have, and the record of what
// was run.
#include "eval/protocol.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "data/text.h"
#include "eval/provenance.h"
#include "nn/decoder.h"
#include "nn/io/checkpoint.h"
#include "tensor/error.h"
#include "tensor/folder.h"

namespace rw {

int64_t serving_window(const RopeConfig& rope) { return std::max(rope.extended_window(), rope.original_window()); }

EvalSubject::EvalSubject(const CausalLm& m, const Tokenizer& t, TokenCorpus text, const EvalOptions& o)
    : model(m),
      tokenizer(t),
      corpus(std::move(text)),
      scorer(m, {.batch_tokens = o.batch_tokens, .together = o.together}) {
  if (!o.no_bos) bos = tokenizer.bos_id();
  check_vocabulary(corpus, model.config().vocab_size);
  check(!bos || *bos < model.config().vocab_size, "eval", "the tokenizer's BOS has id ", bos.value_or(0),
        ", the model a vocabulary of ", model.config().vocab_size, ": expected another tokenizer, or --no-bos");
}

EvalResult EvalProtocol::run(EvalSubject& subject, const Progress& progress) const {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  EvalResult result = evaluate(subject, progress);
  const ModelConfig& config = subject.model.config();
  Record& p = result.protocol;
  p.set("model", options.model);
  if (!options.weights.empty()) p.set("weights", options.weights);
  if (options.weight_format != "model") p.set("weight_format", options.weight_format);
  p.set("rope_type", config.rope.rope_type());
  p.set("rope_scaling", rope_scaling_to_json(config.rope));
  p.set("trained_window", subject.trained_window());
  p.set("model_window", subject.window());
  if (options.together > 0) p.set("together", options.together);
  p.set("seed", static_cast<int64_t>(options.seed));
  if (subject.corpus.documents() > 0) {
    std::string data;
    for (const std::string& path : options.data) data += (data.empty() ? "" : ", ") + path;
    p.set("data", data);
    p.set("text", fingerprint(subject.corpus));
  }
  p.set("vocabulary", static_cast<int64_t>(config.vocab_size));
  p.set("device", device_text(subject.model.device()));
  p.set("version", program_version());
  p.set("date", date_now());
  p.set("seconds", std::chrono::duration<double>(Clock::now() - start).count());
  return result;
}

const std::vector<std::string>& eval_kinds() {
  static const std::vector<std::string> kinds = {"ppl",    "lastk", "bins",  "longppl",   "passkey",
                                                 "needle", "tasks", "ruler", "longbench", "choice"};
  return kinds;
}

std::unique_ptr<EvalProtocol> make_eval_protocol(const std::string& kind) {
  if (kind == "ppl") return protocols::ppl();
  if (kind == "lastk") return protocols::lastk();
  if (kind == "bins") return protocols::bins();
  if (kind == "longppl") return protocols::longppl();
  if (kind == "passkey" || kind == "needle") return protocols::passkey(kind == "needle");
  if (kind == "tasks") return protocols::tasks();
  if (kind == "ruler") return protocols::ruler();
  if (kind == "longbench") return protocols::longbench();
  if (kind == "choice") return protocols::choice();
  return nullptr;
}

namespace protocols {

void add_common(std::vector<Setting>& settings, EvalOptions& o) {
  settings.push_back({.name = "batch-tokens",
                      .help = "tokens of one forward pass (0: 4096 on the CPU, 65536 on a GPU)",
                      .target = &o.batch_tokens,
                      .low = 0,
                      .high = kMostCount});
  settings.push_back({.name = "seed",
                      .help = "of everything that is drawn: intervals, keys, depths",
                      .target = &o.seed,
                      .low = 0,
                      .high = 1e20,
                      .shows_default = true});
  settings.push_back({.name = "no-bos", .help = "do not begin with the beginning-of-text token", .target = &o.no_bos});
}

void add_generation(std::vector<Setting>& settings, EvalOptions& o) {
  settings.push_back({.name = "together",
                      .help = "texts that are generated at the same time (0: 16 where each keeps the bits that it has "
                              "alone, which is so on the CPU, else 1)",
                      .target = &o.together,
                      .low = 0,
                      .high = static_cast<double>(BatchDecoder::kMost)});
}

void add_text(std::vector<Setting>& settings, EvalOptions& o) {
  settings.push_back({.name = "data",
                      .help = "text: files, folders, .jsonl, or a token file; demo: built-in stories",
                      .target = &o.data,
                      .required = true,
                      .common = true});
  settings.push_back({.name = "documents",
                      .help = "only the first N documents that are long enough (0: all)",
                      .target = &o.documents,
                      .low = 0,
                      .high = kMostCount,
                      .common = true});
  add_common(settings, o);
}

Setting items_file(const char* help, std::string& file) {
  return {.name = "file", .help = help, .target = &file, .required = true, .positional = true};
}

void set_file(Record& protocol, const std::string& key, const std::string& path) {
  protocol.set(key, path);
  if (is_file(path)) protocol.set(key + "_checksum", file_checksum(path));  // a pipe cannot be read again
}

Setting first_items(EvalOptions& o) {
  return {.name = "documents",
          .help = "only the first N items (0: all)",
          .target = &o.documents,
          .low = 0,
          .high = kMostCount,
          .common = true};
}

}  // namespace protocols
}  // namespace rw
