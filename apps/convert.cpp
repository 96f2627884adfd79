// `ropewalk convert llama2c|hf`: other people's checkpoints into model folders.
#include <cstdio>
#include <filesystem>

#include "common.h"
#include "nn/freeze.h"
#include "nn/io/hf.h"
#include "nn/io/llama2c.h"

using namespace rw;

namespace {

struct Options {
  std::string input, tokenizer, out, dtype = "keep";
  int64_t shard_mb = 4096, length = 0;
};

void save(const CausalLm& model, const Tokenizer& tokenizer, const Options& o) {
  SaveOptions save{.dtype = {}, .max_shard_bytes = o.shard_mb << 20};
  if (o.dtype != "keep") save.dtype = o.dtype == "bf16" ? DType::bf16 : DType::f32;
  replace_model_folder(o.out, [&](const std::string& folder) {
    tokenizer.save(folder);
    save_hf(folder, model, save);
  });
  std::printf("model %s  parameters %s\n", o.out.c_str(), with_commas(model.arena().parameter_count()).c_str());
}

}  // namespace

void add_convert(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("convert", "Turn other checkpoints into a model folder (Hugging Face layout)");
  sub->require_subcommand(1);
  const auto common = [&](CLI::App* s) {
    s->add_option("--out", o.out, "model folder to write")->required();
    s->add_option("--dtype", o.dtype, "f32, bf16, or keep: that of the files")
        ->check(CLI::IsMember({"keep", "f32", "bf16"}))
        ->capture_default_str();
    s->add_option("--shard-mb", o.shard_mb, "largest size of a weights file")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
  };
  CLI::App* c = sub->add_subcommand("llama2c", "A llama2.c .bin file (version 0)");
  c->add_option("file", o.input, "the checkpoint")->required();
  c->add_option("--tokenizer", o.tokenizer, "its tokenizer (.bin or .model)")->required();
  common(c);
  c->callback([options, &globals] {
    use(globals);
    save(*load_llama2c(options->input), *load_tokenizer(options->tokenizer), *options);
  });
  CLI::App* h =
      sub->add_subcommand("hf", "A Hugging Face model folder: checks it, and writes it in another dtype or sharding");
  h->add_option("folder", o.input, "the model folder")->required();
  h->add_option("--tokenizer", o.tokenizer, "another tokenizer than the folder's");
  common(h);
  h->callback([options, &globals] {
    use(globals);
    const auto tokenizer = load_tokenizer(options->tokenizer.empty() ? options->input : options->tokenizer);
    save(*load_hf(options->input), *tokenizer, *options);
  });
  CLI::App* f = sub->add_subcommand(
      "freeze",
      "Turn the RoPE recipe into constant factors for one length, which transformers and vLLM read (longrope)");
  f->add_option("--model,--from", o.input, "the model folder")->required();
  f->add_option("--length", o.length, "tokens at which the model gives the same logits")
      ->required()
      ->check(CLI::PositiveNumber);
  common(f);
  f->callback([options, &globals] {
    use(globals);
    check(!std::filesystem::exists(options->out + "/config.json"), "convert", "'", options->out,
          "' holds a model: name another --out");
    const auto model = load_hf(model_folder(options->input));
    save(*freeze_model(*model, options->length), *load_tokenizer(model_folder(options->input)), *options);
  });
}
