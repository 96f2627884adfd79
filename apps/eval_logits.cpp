// `ropewalk eval logits`: a model's raw output, for comparison with other programs.
#include <cstdio>

#include "autograd/tape.h"
#include "common.h"
#include "result_file.h"
#include "rope/f32_angles.h"
#include "tensor/printable.h"
#include "tensor/safetensors.h"
#include "verbs.h"

using namespace rw;

namespace {

struct Options {
  std::string model, adapter, out, rope, dtype = "f32";
  std::vector<int32_t> tokens;
  bool f32_angles = false;
};

void run(const Options& o, const Globals& globals) {
  check_result_file("eval", o.out, "a file of logits", [](const std::string& path) {
    const SafetensorsFile file(path);
    return file.entries().size() == 2 && file.entries().count("ids") && file.entries().count("logits");
  });
  check(!o.f32_angles || o.dtype != "f64", "eval",
        "--f32-angles with --dtype f64: the angles would be the least exact part");
  const DType dtype = o.dtype == "bf16" ? DType::bf16 : o.dtype == "f64" ? DType::f64 : DType::f32;
  const std::unique_ptr<CausalLm> model = load_model(o.model, globals, o.rope, dtype, o.adapter);
  const int64_t count = static_cast<int64_t>(o.tokens.size()), vocab = model->config().vocab_size;
  for (int64_t t = 0; t < count; ++t) {
    const int32_t id = o.tokens[static_cast<size_t>(t)];
    check(id >= 0 && id < vocab, "eval", "token id ", id, " at position ", t, " is beyond the vocabulary of ", vocab);
  }
  const NoGrad no_grad;
  const Tensor ids = Tensor::from(o.tokens, {1, count}).to(model->device());  // [1,T]
  const Tensor positions = model->plain_positions(0, count);
  check(!o.f32_angles || !model->config().local_rope, "eval", "--f32-angles is for models with one RoPE recipe");
  const RopeAngles angles =
      o.f32_angles ? f32_angles(model->config().rope, positions, model->device()) : model->angles(positions, {});
  const Var hidden = model->forward(ids, angles);                                                    // [1,T,C]
  const Tensor logits = model->logits(hidden).value().to(kCpu).to(DType::f32).view({count, vocab});  // [T,V]
  save_safetensors(o.out, {{"ids", Tensor::from(o.tokens, {count})}, {"logits", logits}});
  std::printf("logits %s  tokens %lld  vocabulary %lld\n", printable(o.out).c_str(), static_cast<long long>(count),
              static_cast<long long>(vocab));
}

}  // namespace

void add_eval_logits(CLI::App& eval, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = eval.add_subcommand("logits", "raw output for given token ids, to compare with other programs");
  add_model(*sub, o.model);
  add_adapter(*sub, o.adapter);
  sub->add_option("--ids,--tokens", o.tokens, "token ids, e.g. 1,15043,29892; nothing is put in front")
      ->delimiter(',')
      ->required();
  sub->add_option("--out", o.out, "safetensors file: logits f32 [T,V] and ids i32 [T]")->required();
  add_rope(*sub, o.rope);
  sub->add_option("--dtype", o.dtype, "what the model computes in: f32, f64 or bf16 (f64 on the CPU only)")
      ->check(CLI::IsMember({"f32", "f64", "bf16"}))
      ->capture_default_str();
  sub->add_flag("--f32-angles", o.f32_angles,
                "compute angles in f32, as transformers does (default: in f64, rounded once)");
  sub->callback([options, &globals] { run(*options, globals); });
}
