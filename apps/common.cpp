// What the verbs share: progress lines, global options, loading models and text.
#include "common.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>

#include "cli.h"
#include "nn/decoder.h"
#include "nn/io/adapter.h"
#include "nn/io/gguf.h"
#include "nn/io/hf.h"
#include "tensor/printable.h"
#include "tensor/threads.h"
#include "train/extend.h"

using namespace rw;

ProgressBar::ProgressBar(std::string title, int64_t total, const Globals& globals)
    : title_(std::move(title)),
      total_(std::max<int64_t>(total, 1)),
      left_(total_),
      terminal_(::isatty(STDERR_FILENO) != 0),
      quiet_(globals.quiet),
      start_(Clock::now()) {}

ProgressBar::~ProgressBar() {
  if (!finished_ && !quiet_ && terminal_) std::fprintf(stderr, "\n");
}

void ProgressBar::update(int64_t done, const std::string& note) {
  const auto moment = Clock::now();
  left_.report(done, std::chrono::duration<double>(moment - start_).count());
  const double interval = terminal_ ? 0.1 : 10.0;
  if (quiet_ || std::chrono::duration<double>(moment - printed_).count() < interval) return;
  printed_ = moment;
  print(done, note, false);
}

void ProgressBar::finish(const std::string& note) {
  if (finished_) return;
  finished_ = true;
  if (!quiet_) print(total_, note, true);
}

void ProgressBar::print(int64_t done, const std::string& note, bool last) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
  const std::optional<double> left = left_.seconds();
  const std::string time = last ? "in " + duration(seconds) : left ? duration(*left) + " left" : "";
  if (terminal_) {
    std::string bar;
    for (int i = 0; i < 24; ++i) bar += i < static_cast<int>(share * 24) ? "█" : "░";
    std::fprintf(stderr, "\r\033[K%s %s %3.0f%%  %s  %s%s", title_.c_str(), bar.c_str(), share * 100, note.c_str(),
                 time.c_str(), last ? "\n" : "");
  } else {
    std::fprintf(stderr, "%s %3.0f%%  %s  %s\n", title_.c_str(), share * 100, note.c_str(), time.c_str());
  }
  std::fflush(stderr);
}

Progress progress_bar(const std::string& title, const Globals& globals) {
  return [title, &globals, bar = std::shared_ptr<ProgressBar>()](int64_t done, int64_t total) mutable {
    if (!bar) bar = std::make_shared<ProgressBar>(title, total, globals);
    if (done < total) bar->update(done);
    else bar->finish();
  };
}

void notice(const std::string& line, const Globals& globals) {
  if (!globals.quiet) std::fprintf(stderr, "%s\n", rw::printable(line).c_str());
}

TokenCorpus load_text(const std::vector<std::string>& paths, const Tokenizer& tokenizer, const Globals& globals) {
  std::unique_ptr<ProgressBar> bar;
  TokenCorpus corpus = load_tokens(paths, tokenizer, [&](int64_t done, int64_t total) {
    if (!bar) bar = std::make_unique<ProgressBar>("tokenize", total, globals);
    bar->update(done);
  });
  if (bar)
    bar->finish(with_commas(corpus.total_tokens()) + " tokens in " + with_commas(corpus.documents()) + " documents");
  return corpus;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string with_commas(int64_t n) {
  std::string digits = std::to_string(n < 0 ? -n : n);
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), ",");
  return (n < 0 ? "-" : "") + digits;
}

std::string duration(double seconds) {
  const int64_t s = std::llround(std::max(0.0, seconds));
  char text[40];
  if (s >= 3600) {
    std::snprintf(text, sizeof text, "%lldh %02lldm", static_cast<long long>(s / 3600),
                  static_cast<long long>(s / 60 % 60));
  } else if (s >= 60) {
    std::snprintf(text, sizeof text, "%lldm %02llds", static_cast<long long>(s / 60), static_cast<long long>(s % 60));
  } else {
    std::snprintf(text, sizeof text, "%.1fs", seconds);
  }
  return text;
}

namespace {

constexpr int kMostThreads = 1024;

}  // namespace

void add_globals(CLI::App& app, Globals& globals) {
  app.require_subcommand(1);
  app.fallthrough();
  app.set_config("--config", "", "TOML file with options, one [verb] section each; the command line wins");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_option("--device", globals.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--threads", globals.threads, "CPU threads (0: all cores)")
      ->check(CLI::Range(0, kMostThreads))
      ->capture_default_str();
  app.add_flag("--quiet", globals.quiet, "no progress output");
}

bool asked_for(const std::string& only, const std::string& name) {
  return only.empty() || ("," + only + ",").find("," + name + ",") != std::string::npos;
}

Device use(const Globals& globals) {
  if (globals.threads > 0) set_thread_count(globals.threads);
  const Device device = parse_device(globals.device);
  use_device(device);
  return device;
}

void add_model(CLI::App& app, std::string& path) {
  app.add_option("--model,--from", path, "model folder (Hugging Face layout) or GGUF file")
      ->required()
      ->group(kCommonOptions);
}

void add_adapter(CLI::App& app, std::string& path) {
  app.add_option("--adapter", path, "folder with an adapter of the model (PEFT's layout), which is merged into it");
}

void add_rope(CLI::App& app, std::string& rope) {
  app.add_option_function<std::string>(
      "--rope,--scaling", [&rope](const std::string& text) { rope = rope_json_of(text); },
      "another rope_scaling for this call: a kind, or a JSON object like {\"rope_type\":\"linear\",\"factor\":8}");
}

void add_weights(CLI::App& app, std::string& weights) {
  app.add_option("--weights", weights,
                 "model: as they are; int8: rounded to 8 bits, in blocks of 64 with a scale each, which decoding reads")
      ->check(CLI::IsMember({"model", "int8"}))
      ->default_val("model");
}

void apply_weights(CausalLm& model, const std::string& weights) {
  if (weights == "int8") use_int8_weights(model);
}

void add_fast_atomics(CLI::App& app, bool& on) {
  app.add_flag("--fast-atomics", on,
               "GPU: add up some gradients in whatever order they come: faster, but no two runs give the same bits");
}

std::unique_ptr<CausalLm> load_model(const std::string& path, const Globals& globals, const std::string& rope_json,
                                     DType dtype, const std::string& adapter) {
  const LoadOptions options{
      .compute = dtype, .device = use(globals), .adjust = [&](ModelConfig& c) { apply_rope_json(c, rope_json); }};
  if (is_gguf_path(path)) {
    check(adapter.empty(), "load", "--adapter is for a model folder, got the GGUF file '", path,
          "': convert it with `ropewalk convert gguf` first");
    return load_gguf_model(GgufFile(path), options);
  }
  if (adapter.empty()) return load_hf(model_folder(path), options);
  return load_merged(model_folder(path), adapter_folder(adapter), options);
}

LoadedModel load_model_and_tokenizer(const std::string& path, const Globals& globals, const std::string& rope_json,
                                     const std::string& adapter) {
  const Device device = use(globals);
  return load_model_and_tokenizer(path, globals, rope_json, device.is_cuda() ? DType::bf16 : DType::f32, adapter);
}

LoadedModel load_model_and_tokenizer(const std::string& path, const Globals& globals, const std::string& rope_json,
                                     DType dtype, const std::string& adapter) {
  LoadedModel loaded;
  loaded.model = load_model(path, globals, rope_json, dtype, adapter);
  loaded.tokenizer = load_tokenizer(is_gguf_path(path) ? path : model_folder(path));
  loaded.tokenizer->fit_model(loaded.model->config().vocab_size);
  return loaded;
}
