// `ropewalk convert`: other people's checkpoints into model folders, and model folders for other programs.
#include <cstdio>
#include <filesystem>

#include "common.h"
#include "data/tokenizer_gguf.h"
#include "nn/freeze.h"
#include "nn/io/adapter.h"
#include "nn/io/gguf.h"
#include "nn/io/hf.h"
#include "nn/io/llama2c.h"
#include "tensor/folder.h"
#include "tensor/printable.h"
#include "train/run_folder.h"

using namespace rw;

namespace {

struct Options {
  std::string input, adapter, tokenizer, out, dtype = "keep", type = "f16";
  int64_t shard_mb = 4096, length = 0;
  bool overwrite = false;
};

/// Before the work. Errors: what is in --out would be lost, or is what is converted.
void check_place(const Options& o) {
  std::error_code error;
  check(!std::filesystem::equivalent(o.input, o.out, error), "convert", "'", o.out,
        "' is what is converted and cannot be --out as well: name another --out");
  check_unclaimed("convert", o.out, o.overwrite, /*makes_model=*/true);
}

/// `base`: the model folder whose generation_config.json goes along, or "".
void save(const CausalLm& model, const Tokenizer& tokenizer, const Options& o, const std::string& base = "") {
  SaveOptions save{.dtype = {}, .max_shard_bytes = o.shard_mb << 20, .generation = {}};
  if (!base.empty()) save.generation = generation_file(base);
  if (o.dtype != "keep") save.dtype = o.dtype == "bf16" ? DType::bf16 : DType::f32;
  replace_model_folder(o.out, [&](const std::string& folder) {
    tokenizer.save(folder);
    save_hf(folder, model, save);
  });
  std::printf("model %s  parameters %s\n", printable(o.out).c_str(),
              with_commas(model.arena().parameter_count()).c_str());
}

/// A model folder into a GGUF file.
void write_gguf(const Options& o) {
  check(o.overwrite || !path_exists(o.out), "convert", "'", o.out,
        "' is there already: name another --out, or add --overwrite");
  const std::string folder = model_folder(o.input);
  const auto model = load_hf(folder);
  const std::string tokenizer = o.tokenizer.empty() ? folder : o.tokenizer;
  const GgufMetadata keys = tokenizer == "none"
                                ? GgufMetadata{{"tokenizer.ggml.model", GgufValue::string("none")}}
                                : gguf_tokenizer(*load_tokenizer(tokenizer), model->config().vocab_size);
  const GgmlType type = o.type == "f32"    ? GgmlType::f32
                        : o.type == "f16"  ? GgmlType::f16
                        : o.type == "bf16" ? GgmlType::bf16
                                           : GgmlType::q8_0;
  save_gguf_model(o.out, *model, type, keys);
  std::printf("file %s  type %s  parameters %s\n", printable(o.out).c_str(), o.type.c_str(),
              with_commas(model->arena().parameter_count()).c_str());
}

/// A GGUF file into a model folder.
void read_gguf(const Options& o) {
  check_place(o);
  const auto tokenizer = load_tokenizer(o.tokenizer.empty() ? o.input : o.tokenizer);
  save(*load_gguf_model(GgufFile(o.input)), *tokenizer, o);
}

void add_convert_gguf(CLI::App& sub, const std::shared_ptr<Options>& options, Globals& globals) {
  Options& o = *options;
  CLI::App* g = sub.add_subcommand(
      "gguf", "A model folder into a GGUF file for llama.cpp, or a GGUF file (--model FILE.gguf) into a model folder");
  g->add_option("--model,--from", o.input, "the model folder, or the .gguf file")->required();
  g->add_option("--out", o.out, "the .gguf file to write, or the model folder")->required();
  g->add_option("--tokenizer", o.tokenizer, "another tokenizer than the model's; \"none\" writes a file without one");
  CLI::Option* type = g->add_option("--type", o.type, "of a file's matrices: f32, f16, bf16 or q8_0")
                          ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}))
                          ->capture_default_str();
  g->add_flag("--overwrite", o.overwrite, "replace the file or the model that is in --out");
  CLI::Option* dtype =
      g->add_option("--dtype", o.dtype, "of a folder's weights: f32, bf16, or keep: bf16 if the file's are")
          ->check(CLI::IsMember({"keep", "f32", "bf16"}))
          ->capture_default_str();
  g->callback([options, &globals, type, dtype] {
    use(globals);
    const bool in = is_gguf_path(options->input);
    check(!in || type->count() == 0, "convert", "--type is of a GGUF file that is written; '", options->input,
          "' is read");
    check(in || dtype->count() == 0, "convert",
          "--dtype is of a model folder that is written; --type is of a GGUF file");
    check(in != options->out.ends_with(".gguf"), "convert", "--out must be ",
          in ? "a model folder, got a .gguf file" : "a file whose name ends in .gguf", ": '", options->out, "'");
    in ? read_gguf(*options) : write_gguf(*options);
  });
}

}  // namespace

void add_convert(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand(
      "convert",
      "Turn other checkpoints into a model folder (Hugging Face layout), or a model folder into what others read");
  sub->require_subcommand(1);
  const auto common = [&](CLI::App* s) {
    s->add_option("--out", o.out, "model folder to write")->required();
    s->add_flag("--overwrite", o.overwrite, "replace the model that is in --out");
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
    check_place(*options);
    save(*load_llama2c(options->input), *load_tokenizer(options->tokenizer), *options);
  });
  CLI::App* h =
      sub->add_subcommand("hf", "A Hugging Face model folder: checks it, and writes it in another dtype or sharding");
  h->add_option("folder", o.input, "the model folder")->required();
  h->add_option("--tokenizer", o.tokenizer, "another tokenizer than the folder's");
  common(h);
  h->callback([options, &globals] {
    use(globals);
    check_place(*options);
    const auto tokenizer = load_tokenizer(options->tokenizer.empty() ? options->input : options->tokenizer);
    save(*load_hf(options->input), *tokenizer, *options, options->input);
  });
  CLI::App* m = sub->add_subcommand("merge", "Add an adapter (LoRA, in PEFT's layout) to the weights of its base");
  m->add_option("--model,--from", o.input, "model folder of the base")->required();
  m->add_option("--adapter", o.adapter, "folder of the adapter")->required();
  common(m);
  m->callback([options, &globals] {
    use(globals);
    check_place(*options);
    const std::string base = model_folder(options->input);
    save(*load_merged(base, adapter_folder(options->adapter)), *load_tokenizer(base), *options, base);
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
    check_place(*options);
    const std::string base = model_folder(options->input);
    const auto model = load_hf(base);
    save(*freeze_model(*model, options->length), *load_tokenizer(base), *options, base);
  });
  add_convert_gguf(*sub, options, globals);
}
