// `ropewalk search longrope`: which divisors stretch a trained model best, before any training at the new length.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "common.h"
#include "data/text.h"
#include "eval/longrope_search.h"
#include "eval/provenance.h"
#include "eval/retrieval.h"
#include "eval/scorer.h"
#include "interrupt.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "rope/kinds.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/printable.h"

using namespace rw;

namespace {

struct Options {
  std::string model, out, objective = "ppl";
  std::vector<std::string> data, eval_data;
  int64_t target = 0, documents = 4, trials = 8;
  bool write_model = false;
  LongRopeSearchOptions search;
};

/// Windows to score: the first `target` tokens of each long document, or needles whose answer is scored.
std::vector<ScoreWindow> windows_of(const TokenCorpus& corpus, const Tokenizer& tokenizer, const Options& o) {
  std::vector<ScoreWindow> out;
  const std::optional<int32_t> bos = tokenizer.bos_id();
  if (o.objective == "needle") {  // LongRoPE2: the tokens that the far context decides
    const RetrievalPrompts prompts(choose_retrieval_template("short"), tokenizer, bos, &corpus);
    for (int64_t t = 0; t < o.trials; ++t) {
      Random random(o.search.seed, Purpose::retrieval, 0, static_cast<uint64_t>(t));
      const RetrievalPrompt p = prompts.at_depth(
          o.target, static_cast<double>(t) / static_cast<double>(std::max<int64_t>(1, o.trials - 1)), random);
      out.push_back({p.ids, p.answer_begin});
    }
    return out;
  }
  const int64_t special = bos ? 1 : 0;
  for (int64_t d = 0; d < corpus.documents() && static_cast<int64_t>(out.size()) < o.documents; ++d) {
    if (corpus.length(d) + special < o.target) continue;
    std::vector<int32_t> ids(static_cast<size_t>(o.target));
    if (bos) ids[0] = *bos;
    corpus.read(d, 0, std::span(ids).subspan(static_cast<size_t>(special)));
    out.push_back({std::move(ids), 1});
  }
  check(!out.empty(), "search", "no document has ", o.target, " tokens");
  return out;
}

/// What gives the losses: a search must not go on with another model, text or objective.
std::string judge_of(const Options& o, const TokenCorpus& corpus) {
  const std::string how = o.objective == "needle" ? cat(o.trials, " needles") : cat(o.documents, " documents");
  const std::string model = model_folder(o.model);
  return cat(how, ", text ", fingerprint(corpus), ", weights ", weights_checksum(model).value_or("of " + model));
}

/// Mean loss under a recipe, nats per token.
double loss_under(CausalLm& model, const RopeConfig& recipe, const std::vector<ScoreWindow>& windows, int64_t length) {
  model.set_rope(recipe);
  ModelScorer scorer(model);
  double sum = 0, count = 0;
  for (const auto& scores : scorer.score(windows, length)) {
    for (const TokenScore& s : scores) sum += s.nll, count += 1;
  }
  return sum / count;
}

void prepare(const Options& o, LongRopeSearch& search) {
  const std::string state = o.out + "/search.json";
  if (path_exists(state)) return search.from_json(read_file(state), state);
  std::error_code error;
  check(!path_exists(o.out) || std::filesystem::is_empty(o.out, error), "search", "'", o.out,
        "' holds something else: name another folder");
  make_folder("search", o.out);
}

/// The found recipe beside the known ones, on text that the search has not seen.
std::vector<std::string> compare(CausalLm& model, const LongRopeSearch& search, const std::vector<ScoreWindow>& windows,
                                 const RopeConfig& base, int64_t target) {
  std::vector<std::string> lines;
  const auto add = [&](const std::string& name, const RopeConfig& recipe) {
    const double loss = loss_under(model, recipe, windows, target);
    char text[96];
    std::snprintf(text, sizeof text, "%-10s %8.4f nats per token  perplexity %.3f", name.c_str(), loss, std::exp(loss));
    lines.emplace_back(text);
  };
  add("plain", base);
  for (const LongRopeCandidate& c : search.known()) add(c.origin, search.recipe(c));
  add("found", search.recipe(search.best()));
  return lines;
}

void run(const Options& o, const Globals& globals) {
  catch_interrupts("\nropewalk: interrupted; the same command goes on from here\n");
  LoadedModel loaded = load_model_and_tokenizer(o.model, globals);
  CausalLm& model = *loaded.model;
  const RopeConfig base = model.config().rope;
  const TokenCorpus text = load_text(o.data, *loaded.tokenizer, globals);
  LongRopeSearchOptions settings = o.search;
  settings.judge = judge_of(o, text);
  LongRopeSearch search(base, o.target, settings);
  const std::vector<ScoreWindow> windows = windows_of(text, *loaded.tokenizer, o);
  prepare(o, search);
  ProgressBar bar("generations", o.search.generations + 1, globals);
  while (!search.done()) {
    search.step([&](const RopeConfig& recipe) {
      if (interrupted()) throw Interrupted{interrupted()};
      return loss_under(model, recipe, windows, o.target);
    });
    write_file_atomic(o.out + "/search.json", search.to_json());
    bar.update(search.generation(), cat("loss ", search.best().loss));
  }
  bar.finish();
  std::vector<std::string> lines;
  if (!o.eval_data.empty()) {
    Options held_out = o;
    held_out.objective = "ppl";
    lines = compare(model, search,
                    windows_of(load_text(o.eval_data, *loaded.tokenizer, globals), *loaded.tokenizer, held_out), base,
                    o.target);
    lines.insert(lines.begin(), cat("Held-out text, ", o.target, " tokens:"));
  } else {
    lines = compare(model, search, windows, base, o.target);
    lines.insert(lines.begin(), o.objective == "needle"
                                    ? cat("The digits of the search's own needles, ", o.target, " tokens:")
                                    : cat("The search's own text, ", o.target, " tokens:"));
  }
  const RopeConfig found = search.recipe(search.best());
  write_file_atomic(o.out + "/longrope.json", rope_scaling_to_json(found) + "\n");
  write_file_atomic(
      o.out + "/search.html",
      longrope_search_page(search, cat("LongRoPE's search, ", base.original_window(), " to ", o.target), lines));
  for (const std::string& line : lines) std::printf("%s\n", line.c_str());
  if (o.write_model && !path_exists(o.out + "/model/config.json")) {
    model.set_rope(found);
    save_hf(o.out + "/model", model, {.dtype = {}, .generation = generation_file(model_folder(o.model))});
    loaded.tokenizer->save(o.out + "/model");
  }
  if (search.best().start > 0) {
    std::printf("the first %lld tokens are not interpolated (start_tokens): transformers ignores that\n",
                static_cast<long long>(search.best().start));
  }
  std::printf("recipe %s/longrope.json  page %s/search.html\n", printable(o.out).c_str(), printable(o.out).c_str());
}

void add_search_options(CLI::App& sub, Options& o) {
  add_model(sub, o.model);
  const auto common = [](CLI::Option* option) { option->group(kCommonOptions); };
  common(sub.add_option("--data", o.data, "text that judges the candidates")->required());
  common(sub.add_option("--eval-data", o.eval_data, "held-out text for the table at the end (default: --data)"));
  common(sub.add_option("--target", o.target, "window to extend to")->required()->check(CLI::PositiveNumber));
  common(sub.add_option("--out", o.out, "folder of the recipe, the page and the state that the search goes on from")
             ->required());
  sub.add_option("--objective", o.objective,
                 "ppl: the loss of all tokens; needle: that of a hidden number's digits (LongRoPE2)")
      ->check(CLI::IsMember({"ppl", "needle"}))
      ->capture_default_str();
  const auto count = [&](const char* name, int64_t& to, const char* help, int low) {
    sub.add_option(name, to, help)->check(CLI::Range(low, 1 << 20))->capture_default_str();
  };
  count("--documents", o.documents, "documents that judge (ppl)", 1);
  count("--trials", o.trials, "prompts that judge (needle)", 1);
  count("--population", o.search.population, "candidates that live on (the paper: 64)", 4);
  count("--parents", o.search.parents, "candidates that have descendants (the paper: 32)", 2);
  count("--mutants", o.search.mutants, "of a generation (the paper: 16)", 1);
  count("--crosses", o.search.crosses, "of a generation (the paper: 16)", 0);
  count("--generations", o.search.generations, "after the first (the paper: 40)", 0);
  sub.add_option("--mutation-rate", o.search.mutation_rate, "share of pairs that a mutation changes")
      ->check(CLI::Range(0.001, 1.0))
      ->capture_default_str();
  sub.add_flag(
      "--start-tokens", o.search.start_tokens,
      "also search how many first tokens are not interpolated (the paper's n^); other programs cannot read it");
  sub.add_option("--seed", o.search.seed, "of all draws")->capture_default_str();
  sub.add_flag("--write-model", o.write_model, "also write the model with the recipe to OUT/model");
}

}  // namespace

void add_search(CLI::App& app, Globals& globals) {
  CLI::App* verb = app.add_subcommand("search", "Search a RoPE recipe for a trained model");
  verb->require_subcommand(1);
  auto options = std::make_shared<Options>();
  CLI::App* sub = verb->add_subcommand("longrope", "A divisor for every pair, by evolution (LongRoPE)");
  sub->footer(
      "The same command goes on where it was stopped. The recipe is a rope_scaling object of kind longrope, which\n"
      "transformers reads.\n\n"
      "  ropewalk search longrope --model base --data books/val --target 4096 --out out/longrope\n"
      "  ropewalk eval ppl --model base --data held-out/ --window 4096 --rope \"$(cat out/longrope/longrope.json)\"");
  add_search_options(*sub, *options);
  sub->callback([options, &globals] { run(*options, globals); });
}
