// The C API: models, tokens, generation. Every function translates its arguments, calls the C++ library inside
// guarded(), and turns exceptions into a status and a message.
#include "ropewalk.h"

#include <cmath>
#include <cstring>
#include <filesystem>

#include "capi/detail.h"
#include "nn/generate.h"
#include "nn/io/checkpoint.h"
#include "nn/io/gguf.h"
#include "nn/io/hf.h"
#include "nn/io/llama2c.h"
#include "tensor/threads.h"
#include "train/extend.h"

namespace rw {
namespace {

/// A fixed buffer: reporting that memory ran out must not ask for memory.
thread_local char last_error[1024] = "";

void load(const std::string& path, const ropewalk_load_options& options, ropewalk_model& model) {
  const Device device = parse_device(options.device ? options.device : "auto");
  use_device(device);
  const std::string rope = options.rope ? rope_json_of(options.rope) : "";
  const DType dtype = device.is_cuda() ? DType::bf16 : DType::f32;
  std::string tokenizer = options.tokenizer ? options.tokenizer : path;
  if (path.ends_with(".bin")) {
    if (!options.tokenizer)
      tokenizer = (std::filesystem::path(path).parent_path() / "tokenizer.bin").lexically_normal().string();
    model.lm = load_llama2c(path, dtype, device);
    ModelConfig config = model.lm->config();
    apply_rope_json(config, rope);
    if (!rope.empty()) model.lm->set_rope(config.rope);
  } else if (is_gguf_path(path)) {
    model.lm = load_gguf_model(GgufFile(path), {.compute = dtype, .device = device, .adjust = [&](ModelConfig& c) {
                                                  apply_rope_json(c, rope);
                                                }});
  } else {
    const std::string folder = model_folder(path);
    if (!options.tokenizer) tokenizer = folder;
    model.lm = load_hf(
        folder, {.compute = dtype, .device = device, .adjust = [&](ModelConfig& c) { apply_rope_json(c, rope); }});
  }
  model.tokenizer = load_tokenizer(tokenizer);
  model.lm->use_bf16_copy();
}

/// The text that a new id adds; a model may have more ids than its tokenizer (padded vocabularies), which say nothing.
std::string piece_of(const Tokenizer& tokenizer, int32_t previous, int32_t id) {
  if (id >= tokenizer.vocab_size()) return "";
  return tokenizer.piece(previous < tokenizer.vocab_size() ? previous : -1, id);
}

}  // namespace

ropewalk_status failed(ropewalk_status status, const char* why) noexcept {
  std::strncpy(last_error, why, sizeof last_error - 1);
  return status;
}

}  // namespace rw

using namespace rw;

const char* ropewalk_version(void) { return ROPEWALK_VERSION; }
const char* ropewalk_last_error(void) { return last_error; }

ropewalk_status ropewalk_load(const char* path, const ropewalk_load_options* options, ropewalk_model** model) {
  if (model != nullptr) *model = nullptr;
  return guarded([&] {
    require(path != nullptr && model != nullptr, "ropewalk_load", "path and model must not be null");
    auto loaded = std::make_unique<ropewalk_model>();
    load(path, read_options(options, {sizeof(ropewalk_load_options), nullptr, nullptr, nullptr}, "ropewalk_load"),
         *loaded);
    loaded->path = path;
    *model = loaded.release();
    return ROPEWALK_OK;
  });
}

void ropewalk_free(ropewalk_model* model) { delete model; }

int32_t ropewalk_vocab_size(const ropewalk_model* model) {
  return model ? static_cast<int32_t>(model->lm->config().vocab_size) : 0;
}
int64_t ropewalk_context_length(const ropewalk_model* model) {
  return model ? model->lm->config().rope.max_position_embeddings : 0;
}
int32_t ropewalk_bos(const ropewalk_model* model) { return model ? model->tokenizer->bos_id().value_or(-1) : -1; }
int32_t ropewalk_eos(const ropewalk_model* model) { return model ? model->tokenizer->eos_id().value_or(-1) : -1; }

ropewalk_status ropewalk_tokenize(const ropewalk_model* model, const char* text, size_t bytes, uint32_t flags,
                                  int32_t* ids, size_t capacity, size_t* count) {
  return guarded([&] {
    constexpr const char* kName = "ropewalk_tokenize";
    require(model != nullptr && count != nullptr, kName, "model and count must not be null");
    require(text != nullptr || bytes == 0, kName, "text is null but ", bytes, " bytes long");
    require(ids != nullptr || capacity == 0, kName, "ids is null but has room for ", capacity);
    require((flags & ~(ROPEWALK_ADD_BOS | ROPEWALK_PARSE_SPECIAL)) == 0, kName, "unknown flags ", flags);
    const std::string_view whole(bytes > 0 ? text : "", bytes);
    const Tokenizer& tokenizer = *model->tokenizer;
    std::vector<int32_t> found =
        flags & ROPEWALK_PARSE_SPECIAL ? tokenizer.encode_special(whole) : tokenizer.encode(whole);
    if (flags & ROPEWALK_ADD_BOS) {
      check(tokenizer.bos_id().has_value(), kName, "the tokenizer has no beginning-of-text token");
      found.insert(found.begin(), *tokenizer.bos_id());
    }
    return give(found, ids, capacity, count, kName);
  });
}

ropewalk_status ropewalk_detokenize(const ropewalk_model* model, const int32_t* ids, size_t count, char* text,
                                    size_t capacity, size_t* bytes) {
  return guarded([&] {
    constexpr const char* kName = "ropewalk_detokenize";
    require(model != nullptr && bytes != nullptr, kName, "model and bytes must not be null");
    require(ids != nullptr || count == 0, kName, "ids is null but ", count, " long");
    require(text != nullptr || capacity == 0, kName, "text is null but has room for ", capacity);
    return give(model->tokenizer->decode({ids, count}), text, capacity, bytes, kName);
  });
}

void ropewalk_generate_defaults(ropewalk_generate_options* options) {
  if (options != nullptr) *options = {sizeof *options, 128, 1.0, 0, 1.0, 0, 0};
}

ropewalk_status ropewalk_generate(ropewalk_model* model, const int32_t* prompt, size_t count,
                                  const ropewalk_generate_options* options, ropewalk_on_token on_token, void* user,
                                  int64_t* made) {
  int64_t tokens = 0;
  const ropewalk_status status = guarded([&] {
    constexpr const char* kName = "ropewalk_generate";
    require(model != nullptr && on_token != nullptr, kName, "model and on_token must not be null");
    require(prompt != nullptr && count > 0, kName, "the prompt is empty: begin with the beginning-of-text token");
    ropewalk_generate_options o;
    ropewalk_generate_defaults(&o);
    o = read_options(options, o, kName);
    constexpr int64_t kMost = INT32_MAX;
    require(o.max_tokens >= 0 && o.max_tokens <= kMost && count <= static_cast<size_t>(kMost), kName,
            "max_tokens must be 0 to ", kMost, ", got ", o.max_tokens, " after a prompt of ", count);
    require(o.temperature >= 0 && std::isfinite(o.temperature) && o.top_k >= 0 && o.top_p > 0 && o.top_p <= 1, kName,
            "expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got ", o.temperature, ", ", o.top_k, ", ",
            o.top_p);
    GenerateOptions wanted{
        .tokens = o.max_tokens,
        .sampling = {.temperature = o.temperature, .top_k = o.top_k, .top_p = o.top_p, .seed = o.seed},
        .stop = {}};
    check_ids(*model, prompt, count, kName);
    const Tokenizer& tokenizer = *model->tokenizer;
    if (!o.ignore_ends) {
      for (const int64_t id : model->lm->config().eos_token_id) wanted.stop.push_back(static_cast<int32_t>(id));
      if (wanted.stop.empty() && tokenizer.eos_id()) wanted.stop.push_back(*tokenizer.eos_id());
      if (tokenizer.bos_id()) wanted.stop.push_back(*tokenizer.bos_id());
    }
    int32_t previous = prompt[count - 1];
    use_device(model->lm->device());
    generate(*model->lm, {prompt, prompt + count}, wanted, [&](int32_t id) {
      const std::string piece = piece_of(tokenizer, previous, id);
      previous = id;
      ++tokens;
      return on_token(user, id, piece.c_str(), piece.size()) == 0;
    });
    return ROPEWALK_OK;
  });
  if (made != nullptr) *made = tokens;
  return status;
}

ropewalk_status ropewalk_set_threads(int32_t threads) {
  return guarded([&] {
    require(threads >= 1 && threads <= 4096, "ropewalk_set_threads", "expected 1 to 4096 threads, got ", threads);
    set_thread_count(threads);
    return ROPEWALK_OK;
  });
}
