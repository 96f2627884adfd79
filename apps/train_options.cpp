// `ropewalk train`: options and help.
#include <cstdio>
#include <memory>

#include "common.h"
#include "ranks.h"
#include "rope/method_options.h"
#include "train.h"

using namespace rw;

namespace {

/// The options of every method, from the tables of their records' fields.
void add_method_options(CLI::App& app, std::map<std::string, std::string>& given) {
  for (const MethodOption& o : method_options()) {
    const std::string name = "--" + o.name, key = o.key;
    if (o.is_flag) {
      app.add_flag_function(
          name, [&given, key](int64_t n) { given[key] = n > 0 ? "true" : "false"; }, o.help);
      continue;
    }
    CLI::Option* option = app.add_option_function<std::string>(
        name, [&given, key](const std::string& text) { given[key] = text; }, o.help);
    if (!o.choices.empty()) option->check(CLI::IsMember(o.choices));
    option->default_str(o.default_text);
  }
}

}  // namespace

void add_train_options(CLI::App& app, TrainConfig& config) {
  auto& c = config;
  CLI::App* sub = &app;
  sub->add_option("--data", c.data,
                  "text files, .jsonl files or folders, or one token file (default: the built-in corpus)");
  sub->add_option("--out", c.out, "folder for the model, checkpoints and metrics.jsonl");
  sub->add_option("--from", c.from, "model folder to start from");
  sub->add_option("--tokenizer", c.tokenizer, "tokenizer folder or file (default: --from's; bytes for a new model)");
  sub->add_flag("--resume", c.resume, "go on from the newest whole checkpoint in --out");
  sub->add_option("--hidden", c.hidden, "new model: hidden size")->capture_default_str();
  sub->add_option("--layers", c.layers, "new model: blocks")->capture_default_str();
  sub->add_option("--heads", c.heads, "new model: attention heads")->capture_default_str();
  sub->add_option("--kv-heads", c.kv_heads, "new model: key/value heads (0: as many as heads)")->capture_default_str();
  sub->add_option("--head-dim", c.head_dim, "new model: size of a head (0: hidden / heads)")->capture_default_str();
  sub->add_option("--ffn", c.ffn, "new model: feed-forward size (0: 8/3 hidden, to a multiple of 32)")
      ->capture_default_str();
  sub->add_option("--theta", c.theta, "new model: RoPE base")->capture_default_str();
  sub->add_option("--init-std", c.init_std, "new model: standard deviation of weights (0: 1 / sqrt(hidden))")
      ->capture_default_str();
  sub->add_flag("--untied", c.untied, "new model: an output head of its own");
  sub->add_option("--method", c.method, "plain, full, pi, pose, randpos, e2 or clex")->capture_default_str();
  sub->add_option(
      "--scaling", c.scaling,
      "RoPE scaling: default, linear, ntk, yarn, llama3, longrope, abf, e2, clex, or a JSON object of its fields");
  sub->add_option("--factor", c.factor, "scaling factor (0: target / base window)")->capture_default_str();
  sub->add_option("--window", c.window, "tokens of a sample (0: the base's window; for full and pi: the target)")
      ->capture_default_str();
  sub->add_option("--target", c.target, "context window to extend to");
  add_method_options(app, c.method_options);
  sub->add_option("--retrieval-share", c.retrieval_share,
                  "share of samples in which a number is hidden in the text and asked for (5 to 10 % teach the task)")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  sub->add_option("--retrieval-weight", c.retrieval_weight, "how many times an answer's tokens count in the loss")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--retrieval-template", c.retrieval_template,
                  "wording of those: default, short, or a JSON file with task, filler, needle, question")
      ->capture_default_str();
  sub->add_option("--steps", c.steps, "optimizer steps")->capture_default_str();
  sub->add_option("--batch", c.batch, "samples of a forward, over all ranks")->capture_default_str();
  sub->add_option("--accumulate", c.accumulate, "forwards of a step, weighted by scored tokens")->capture_default_str();
  sub->add_option("--lr", c.schedule.lr, "peak learning rate")->capture_default_str();
  sub->add_option("--schedule", c.schedule.kind, "constant, linear or cosine")->capture_default_str();
  sub->add_option("--warmup", c.schedule.warmup, "warm-up steps")->capture_default_str();
  sub->add_option("--warmup-start", c.schedule.warmup_start, "share of the peak where warm-up begins")
      ->capture_default_str();
  sub->add_option("--min-ratio", c.schedule.min_ratio, "share of the peak at the end")->capture_default_str();
  sub->add_option("--beta1", c.adamw.beta1, "AdamW")->capture_default_str();
  sub->add_option("--beta2", c.adamw.beta2, "AdamW")->capture_default_str();
  sub->add_option("--eps", c.adamw.eps, "AdamW")->capture_default_str();
  sub->add_option("--weight-decay", c.adamw.weight_decay, "on matrices, not on norms")->capture_default_str();
  sub->add_option("--clip", c.clip, "largest global gradient norm (0: off)")->capture_default_str();
  sub->add_option("--seed", c.seed, "of weights, text and positions")->capture_default_str();
  sub->add_option("--dtype", c.dtype, "f32, bf16 or auto (bf16 on a GPU)")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  sub->add_option(
         "--matmul", c.matmul,
         "the blocks' linear layers: native, or fp8: 8-bit products where their sizes pay (bf16; a GPU of compute "
         "capability 8.9 or later)")
      ->check(CLI::IsMember({"native", "fp8"}))
      ->capture_default_str();
  sub->add_flag("--recompute", c.recompute, "recompute each block in backward: less memory, about a third more time");
  sub->add_flag(
      "--lean", c.lean,
      "bf16, one process: 14 bytes for each parameter instead of 18. Master weights lose nothing; gradients are "
      "kept in bf16, which is less exact with --accumulate");
  sub->add_flag("--eager", c.eager, "GPU: launch every kernel from the host instead of replaying a CUDA graph");
  add_fast_atomics(*sub, c.fast_atomics);
  sub->add_flag("--mask-seams", c.mask_seams, "pose: no loss where one chunk ends and another begins");
  sub->add_flag("--no-bos", c.no_bos, "no beginning-of-text token in front of samples");
  sub->add_flag("--packed", c.packed, "join documents with end-of-text tokens (for corpora of short ones)");
  sub->add_option("--save-every", c.save_every, "steps between checkpoints (0: only the model at the end)")
      ->capture_default_str();
  sub->add_option("--keep", c.keep, "checkpoints to keep")->capture_default_str();
  sub->add_option("--validation", c.validation,
                  "text that is not trained on, as --data: its loss under the target window goes to validation.jsonl");
  sub->add_option("--validate-every", c.validate_every, "steps between validations (0: only at the end)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  sub->add_option("--validation-tokens", c.validation_tokens, "tokens of a validation, from the documents' beginnings")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--log-every", c.log_every, "steps between lines of metrics.jsonl")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

std::shared_ptr<TrainConfig> add_train(CLI::App& app, Globals& globals) {
  auto config = std::make_shared<TrainConfig>();
  CLI::App* sub = app.add_subcommand("train", "Train a model, or extend the context window of one");
  sub->footer(
      "A sample is --window tokens. Methods, for a model given by --from:\n"
      "  full      contiguous text of --target tokens, any --scaling (default: direct fine-tuning)\n"
      "  pi        position interpolation: full length, linear scaling\n"
      "  pose      positional skips: short windows that imitate --target, any --scaling (default linear)\n"
      "  randpos   random sorted positions below --target\n"
      "  e2        E2-LLM: random scale and offset per sample; serves every window up to max-factor times the base's\n"
      "  clex      learned frequencies by a neural ODE\n"
      "OUT becomes a model folder with the whole RoPE recipe in config.json; eval and generate need no flags for it.\n"
      "Started by torchrun, mpirun or srun, each process is one rank with a GPU of its own and a part of every batch\n"
      "(docs/parallel.md); the run is the same on any number of GPUs.\n"
      "Every option may stand in a TOML file under [train], given by --config; the command line wins.\n\n"
      "  ropewalk train --data books/ --out base --window 512 --steps 2000\n"
      "  ropewalk train --data books/ --from base --out long --method pose --scaling yarn --target 4096 --steps 500 "
      "--lr 2e-4");
  add_train_options(*sub, *config);
  sub->get_option("--out")->required();
  sub->callback([config, &globals] {
    Globals own = globals;
    const auto comm = join_ranks(own);
    const TrainResult result = run_training_and_record(*config, own, {}, comm.get());
    if (comm) comm->close();
    if (comm && !comm->root()) return;
    if (!result.losses.empty()) {
      std::printf("model %s  steps %zu  tokens %s  time %s  loss %.4f\n", config->out.c_str(), result.losses.size(),
                  with_commas(result.tokens).c_str(), duration(result.seconds).c_str(), result.losses.back());
    }
  });
  return config;
}
