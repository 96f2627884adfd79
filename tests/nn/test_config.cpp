// config.json and the files beside it: what is honoured, what is refused, and by which words.
#include <filesystem>

#include "autograd/tape.h"
#include "families.h"
#include "rope/kinds/longrope.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

/// A small config.json of `model_type` with `more` fields, each beginning with a comma.
std::string config_text(const std::string& model_type, const std::string& more = "") {
  return cat(R"({"model_type":")", model_type,
             R"(","vocab_size":20,"hidden_size":16,"intermediate_size":24,"num_hidden_layers":4,)",
             R"("num_attention_heads":2)", more, "}");
}

ModelConfig read(const std::string& model_type, const std::string& more = "") {
  return model_config_from_json(config_text(model_type, more));
}

std::string refused(const std::string& model_type, const std::string& more) {
  return test::error_of([&] { read(model_type, more); });
}

bool says(const std::string& message, const std::string& part) {
  CAPTURE(message);
  return message.find(part) != std::string::npos;
}

std::vector<int64_t> windows(const ModelConfig& c) {
  std::vector<int64_t> list;
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) list.push_back(c.layer(i).window);
  return list;
}

ModelConfig tiny() {
  ModelConfig c;
  c.vocab_size = 20, c.hidden_size = 16, c.intermediate_size = 24, c.num_hidden_layers = 1, c.num_attention_heads = 2;
  c.rope.max_position_embeddings = 32;
  return c;
}

std::vector<double> logits_of(const CausalLm& model) {
  const NoGrad no_grad;
  const Tensor ids = Tensor::from(std::vector<int32_t>{3, 7, 1, 9}, {1, 4});
  return model.logits(model.forward(ids, model.angles(model.plain_positions(0, 4), {}))).value().to_vector();
}

/// The tensors of a saved model, to be changed and saved again.
std::vector<NamedTensor> tensors_of(const std::string& path) {
  const SafetensorsFile file(path);
  std::vector<NamedTensor> tensors;
  for (const auto& [name, entry] : file.entries()) tensors.push_back({name, file.load(name)});
  return tensors;
}

}  // namespace

TEST_CASE("lists of first and end tokens are kept whole") {
  const ModelConfig c = read("llama", R"(,"bos_token_id":1,"eos_token_id":[4,5,6])");
  CHECK(c.bos_token_id == std::vector<int64_t>{1});
  CHECK(c.eos_token_id == std::vector<int64_t>{4, 5, 6});
  CHECK(model_config_from_json(model_config_to_json(c, "float32")).eos_token_id == c.eos_token_id);
  CHECK(read("llama", R"(,"eos_token_id":null)").eos_token_id.empty());
  CHECK(says(refused("llama", R"(,"eos_token_id":"</s>")"), "'eos_token_id'"));
}

TEST_CASE("absent fields are transformers' defaults of the family") {
  CHECK(read("llama").rope.max_position_embeddings == 2048);
  CHECK(read("mistral", R"(,"num_key_value_heads":2)").rope.max_position_embeddings == 131072);
  CHECK(says(refused("mistral", ""), "num_key_value_heads 8"));
  CHECK(read("qwen2", R"(,"num_key_value_heads":2)").rope.max_position_embeddings == 32768);
  CHECK(read("gemma2", R"(,"num_key_value_heads":2)").rope.max_position_embeddings == 8192);
  CHECK(!read("llama").tie_word_embeddings);
  CHECK(read("gemma2", R"(,"num_key_value_heads":2)").tie_word_embeddings);
  CHECK(read("smollm3", R"(,"num_key_value_heads":2)").tie_word_embeddings);
  CHECK(read("smollm3", R"(,"num_key_value_heads":2)").rope.rope_theta == 2000000);
  CHECK(read("gpt_neox").rope.partial_rotary_factor == 0.25);
  CHECK(read("qwen3", R"(,"num_key_value_heads":2)").head_dim == 128);
  CHECK(read("mistral", R"(,"num_key_value_heads":null)").num_key_value_heads == 2);
}

TEST_CASE("windows of attention follow the fields of each family") {
  const std::string kv = R"(,"num_key_value_heads":2)";
  CHECK(windows(read("mistral", kv)) == std::vector<int64_t>(4, 4096));
  CHECK(windows(read("mistral", kv + R"(,"sliding_window":null)")) == std::vector<int64_t>(4, 0));
  CHECK(windows(read("phi3", kv)) == std::vector<int64_t>(4, 0));
  CHECK(windows(read("phi3", kv + R"(,"sliding_window":9)")) == std::vector<int64_t>(4, 9));
  CHECK(windows(read("qwen2", kv + R"(,"sliding_window":9,"max_window_layers":2)")) == std::vector<int64_t>(4, 0));
  const std::string used = kv + R"(,"use_sliding_window":true,"sliding_window":9,"max_window_layers":2)";
  CHECK(windows(read("qwen3", used)) == std::vector<int64_t>{0, 0, 9, 9});
  CHECK(windows(read("gemma2", kv + R"(,"sliding_window":9)")) == std::vector<int64_t>{9, 0, 9, 0});
  CHECK(windows(read("gemma3_text", kv + R"(,"sliding_window":9,"sliding_window_pattern":3)")) ==
        std::vector<int64_t>{9, 9, 0, 9});
  const std::string types =
      R"(,"layer_types":["full_attention","sliding_attention","full_attention","full_attention"])";
  CHECK(windows(read("gemma2", kv + R"(,"sliding_window":9)" + types)) == std::vector<int64_t>{0, 9, 0, 0});
  CHECK(says(refused("qwen2", kv + types), "'sliding_window'"));
  CHECK(says(refused("gemma2", kv + R"(,"layer_types":["full_attention"])"), "'layer_types' has 1 entries"));
  CHECK(says(refused("mistral", kv + R"(,"sliding_window":0)"), "'sliding_window'"));
}

TEST_CASE("a Gemma without windowed layers is saved with the window that transformers needs") {
  for (const char* family : {"gemma2", "gemma3_text"}) {
    const ModelConfig c = read(family, R"(,"num_key_value_heads":2,"sliding_window":9,"layer_types":["full_attention",)"
                                       R"("full_attention","full_attention","full_attention"])");
    const std::string saved = model_config_to_json(c, "float32");
    CHECK(says(saved, R"("sliding_window": 4096)"));
    CHECK(windows(model_config_from_json(saved)) == std::vector<int64_t>(4, 0));
  }
}

TEST_CASE("LongRoPE's factor follows from the window of pre-training beside the recipe, as in Phi-3's files") {
  const std::string factors = R"("short_factor":[1,1,1,1],"long_factor":[2,3,4,5]})";
  const ModelConfig c = read("phi3", R"(,"max_position_embeddings":64,"original_max_position_embeddings":16,)"
                                     R"("rope_scaling":{"type":"longrope",)" +
                                         factors);
  CHECK(c.rope.kind.get<LongRope>()->factor == 4);
  CHECK(c.rope.original_max_position_embeddings == 16);
  CHECK(read("phi3", R"(,"max_position_embeddings":64,"original_max_position_embeddings":16)").rope ==
        read("phi3", R"(,"max_position_embeddings":64)").rope);
  // A window below that of pre-training is not stretched.
  const ModelConfig short_one = read("phi3", R"(,"max_position_embeddings":64,"original_max_position_embeddings":4096,)"
                                             R"("rope_scaling":{"type":"su",)" +
                                                 factors);
  CHECK(short_one.rope.kind.get<LongRope>()->factor == 1);
}

TEST_CASE("every fourth layer of SmolLM3 has no RoPE where no list says otherwise") {
  const ModelConfig c = read("smollm3", R"(,"num_key_value_heads":2)");
  CHECK((c.layer(0).rope && c.layer(1).rope && c.layer(2).rope && !c.layer(3).rope));
}

TEST_CASE("older and newer fields of Gemma 3 give a RoPE recipe to each layer type") {
  const std::string kv = R"(,"num_key_value_heads":2)";
  const ModelConfig old = read("gemma3_text", kv + R"(,"rope_theta":2e6,"rope_local_base_freq":3e4,)" +
                                                  R"("rope_scaling":{"rope_type":"linear","factor":8.0})");
  CHECK(old.rope.rope_theta == 2e6);
  CHECK(old.local_rope->rope_theta == 3e4);
  CHECK(rope_scaling_to_json(old.rope).find("linear") != std::string::npos);
  CHECK(rope_scaling_to_json(*old.local_rope) == "null");
  const ModelConfig again = model_config_from_json(model_config_to_json(old, "float32"));
  CHECK(again.rope.rope_theta == 2e6);
  CHECK(again.local_rope->rope_theta == 3e4);
  CHECK(rope_scaling_to_json(again.rope) == rope_scaling_to_json(old.rope));
  CHECK(says(refused("gemma3_text", kv + R"(,"rope_parameters":{"chunked_attention":{}})"), "chunked_attention"));
}

TEST_CASE("fields that would change the computation are refused by name") {
  const std::string kv = R"(,"num_key_value_heads":2)";
  CHECK(says(refused("llama", R"(,"hidden_act":"relu")"), "'hidden_act'"));
  CHECK(says(refused("llama", R"(,"pretraining_tp":2)"), "'pretraining_tp'"));
  CHECK(says(refused("llama", R"(,"num_local_experts":8)"), "'num_local_experts'"));
  CHECK(says(refused("llama", R"(,"logit_scale":0.5)"), "'logit_scale'"));
  CHECK(says(refused("llama", R"(,"quantization_config":{"quant_method":"gptq","bits":4})"), "gptq"));
  CHECK(says(refused("llama", R"(,"quantization":{"group_size":64,"bits":4})"), "'quantization'"));  // MLX
  CHECK(says(refused("llama", R"(,"is_causal":false)"), "'is_causal'"));
  CHECK(says(refused("qwen3", kv + R"(,"use_bidirectional_attention":true)"), "'use_bidirectional_attention'"));
  CHECK(says(refused("stablelm", kv + R"(,"qk_layernorm":true)"), "'qk_layernorm'"));
  CHECK(says(refused("gemma3_text", kv + R"(,"use_bidirectional_attention":true)"), "'use_bidirectional_attention'"));
  CHECK(says(refused("gemma3_text", kv + R"(,"attn_logit_softcapping":50.0)"), "'attn_logit_softcapping'"));
  CHECK(says(refused("gemma3", ""), "gemma3_text"));
  CHECK(says(refused("mixtral", ""), "model_type must be one of llama, mistral"));
  CHECK(says(test::error_of([] { model_config_from_json("[1]"); }), "not a JSON object"));
}

TEST_CASE("a part that the family does not have is refused by name, and its absence is kept") {
  CHECK(says(refused("llama", R"(,"sliding_window":8)"), "'sliding_window' is 8, but a llama model has no such part"));
  CHECK(says(refused("llama", R"(,"layer_types":["full_attention","sliding_attention"])"), "'layer_types'"));
  CHECK(says(refused("llama", R"(,"final_logit_softcapping":30.0)"), "'final_logit_softcapping'"));
  CHECK(says(refused("llama", R"(,"use_qk_norm":true)"), "'use_qk_norm'"));
  CHECK(says(refused("gpt_neox", R"(,"mlp_bias":true)"), "'mlp_bias'"));
  const ModelConfig c = read("llama", R"(,"sliding_window":8,"use_sliding_window":false,"use_qk_norm":false,)"
                                      R"("layer_types":["full_attention","full_attention"],"rotary_pct":null)");
  const std::string saved = model_config_to_json(c, "float32");
  for (const char* part : {R"("sliding_window": 8)", R"("use_sliding_window": false)", R"("use_qk_norm": false)"})
    CHECK(saved.find(part) != std::string::npos);
}

TEST_CASE("fields that change nothing are kept, in value and in name") {
  const ModelConfig c = read("llama", R"(,"attention_dropout":0.1,"auto_map":{"a":"b"},"pad_token_id":0)");
  const std::string saved = model_config_to_json(c, "float32");
  for (const char* part : {R"("attention_dropout": 0.1)", R"("auto_map")", R"("pad_token_id": 0)"})
    CHECK(saved.find(part) != std::string::npos);
}

TEST_CASE("an output head that differs from a tied embedding is used") {
  const test::TempDir dir;
  ModelConfig config = tiny();
  config.tie_word_embeddings = false;
  const CausalLm model(config, DType::f32, kCpu, 3);
  save_hf(dir.path("m"), model);
  const std::string json = dir.path("m/config.json");
  std::string text = read_file(json);
  const std::string untied = "\"tie_word_embeddings\": false";
  text.replace(text.find(untied), untied.size(), "\"tie_word_embeddings\": true");
  write_file_atomic(json, text);
  const auto loaded = load_hf(dir.path("m"));
  CHECK(!loaded->config().tie_word_embeddings);
  CHECK(logits_of(*loaded) == logits_of(model));
  save_hf(dir.path("again"), *loaded);
  CHECK(logits_of(*load_hf(dir.path("again"))) == logits_of(model));

  // The same head as the embedding: tied it stays.
  std::vector<NamedTensor> tensors = tensors_of(dir.path("m/model.safetensors"));
  Tensor embedding;
  for (const NamedTensor& t : tensors) {
    if (t.name == "model.embed_tokens.weight") embedding = t.tensor;
  }
  for (NamedTensor& t : tensors) {
    if (t.name == "lm_head.weight") t.tensor = embedding;
  }
  save_safetensors(dir.path("m/model.safetensors"), tensors);
  CHECK(load_hf(dir.path("m"))->config().tie_word_embeddings);
}

TEST_CASE("model.safetensors counts before an index that was left beside it") {
  const test::TempDir dir;
  const CausalLm model(tiny(), DType::f32, kCpu, 3), other(tiny(), DType::f32, kCpu, 4);
  save_hf(dir.path("m"), other, {.max_shard_bytes = 1000});
  const std::string index = read_file(dir.path("m/model.safetensors.index.json"));
  save_hf(dir.path("m"), model);
  write_file_atomic(dir.path("m/model.safetensors.index.json"), index);
  CHECK(logits_of(*load_hf(dir.path("m"))) == logits_of(model));
}

TEST_CASE("tensors that are left over, missing or under another prefix are named") {
  const test::TempDir dir;
  save_hf(dir.path("m"), CausalLm(tiny(), DType::f32, kCpu, 3));
  const std::string path = dir.path("m/model.safetensors");
  const std::vector<NamedTensor> whole = tensors_of(path);
  const auto message = [&](const std::vector<NamedTensor>& tensors) {
    save_safetensors(path, tensors);
    return test::error_of([&] { load_hf(dir.path("m")); });
  };
  std::vector<NamedTensor> more = whole;
  more.push_back({"model.layers.0.self_attn.q_proj.bias", Tensor::zeros({16})});
  CHECK(says(message(more), "no place for: 'model.layers.0.self_attn.q_proj.bias'"));
  std::vector<NamedTensor> renamed = whole;
  for (NamedTensor& t : renamed) t.name = "language_model." + t.name;
  const std::string other_prefix = message(renamed);
  CHECK(says(other_prefix, "no tensor 'model.embed_tokens.weight'"));
  CHECK(says(other_prefix, "'language_model.model."));
  std::vector<NamedTensor> quantized = whole;
  quantized.push_back({"model.layers.0.mlp.up_proj.qweight", Tensor::zeros({4}, DType::i32)});
  CHECK(says(message(quantized), "quantized"));
  quantized.back().name = "model.layers.0.mlp.up_proj.scales";  // MLX
  CHECK(says(message(quantized), "quantized"));
  std::vector<NamedTensor> buffers = whole;
  buffers.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", Tensor::zeros({4})});
  save_safetensors(path, buffers);
  CHECK(load_hf(dir.path("m")) != nullptr);
}

TEST_CASE("weights that are not read are refused by what they are") {
  const test::TempDir dir;
  save_hf(dir.path("m"), CausalLm(tiny(), DType::f32, kCpu, 3));
  const auto message = [&] { return test::error_of([&] { load_hf(dir.path("m")); }); };
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d4d\nsize 988097824\n";
  write_file_atomic(dir.path("m/model.safetensors"), pointer);
  CHECK(says(message(), "git-lfs pointer"));
  fs::remove(dir.path("m/model.safetensors"));
  CHECK(says(message(), "neither"));
  write_file_atomic(dir.path("m/model-00001-of-00002.safetensors"), "x");
  CHECK(says(message(), "'model-00001-of-00002.safetensors', but neither"));
  fs::remove(dir.path("m/model-00001-of-00002.safetensors"));
  write_file_atomic(dir.path("m/adapter_model.bin"), "x");
  CHECK(says(message(), "'adapter_model.bin' is in a format that is not read"));
  fs::remove(dir.path("m/adapter_model.bin"));
  write_file_atomic(dir.path("m/weights.gguf"), "GGUF");
  CHECK(says(message(), "name that one, '" + dir.path("m/weights.gguf")));
  write_file_atomic(dir.path("m/adapter_model.safetensors"), "x");
  CHECK(says(message(), "adapter"));
  write_file_atomic(dir.path("m/pytorch_model.bin"), "x");
  CHECK(says(message(), "save_pretrained"));
  write_file_atomic(dir.path("m/config.json"), pointer);
  CHECK(says(message(), "git-lfs pointer"));
}

TEST_CASE("a model is saved in the dtype of its files unless told otherwise") {
  const test::TempDir dir;
  const CausalLm model(tiny(), DType::f32, kCpu, 3);
  const auto dtype_of = [&](const std::string& folder) {
    return SafetensorsFile(dir.path(folder + "/model.safetensors")).entries().begin()->second.dtype;
  };
  save_hf(dir.path("f32"), model);
  save_hf(dir.path("bf16"), model, {.dtype = DType::bf16});
  CHECK(dtype_of("f32") == "F32");
  const auto loaded = load_hf(dir.path("bf16"));
  CHECK(loaded->config().file_dtype == DType::bf16);
  save_hf(dir.path("again"), *loaded);
  CHECK(dtype_of("again") == "BF16");
  CHECK(read_file(dir.path("again/config.json")).find("bfloat16") != std::string::npos);
  save_hf(dir.path("wide"), *loaded, {.dtype = DType::f32});
  CHECK(dtype_of("wide") == "F32");
}
