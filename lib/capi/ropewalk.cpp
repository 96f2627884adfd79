// The C API: every function translates its arguments, calls the C++ library inside guarded(), and turns exceptions into
// a status and a message.
#include "ropewalk.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <new>

#include "data/tokenizer.h"
#include "nn/generate.h"
#include "nn/io/hf.h"
#include "nn/io/llama2c.h"
#include "tensor/threads.h"

struct ropewalk_model {
  std::unique_ptr<rw::CausalLm> llama;
  std::unique_ptr<rw::Tokenizer> tokenizer;
};

namespace rw {
namespace {

/// An argument that the header forbids.
class BadArgument : public Error {
 public:
  using Error::Error;
};

/// A fixed buffer: reporting that memory ran out must not ask for memory.
thread_local char last_error[1024] = "";

ropewalk_status failed(ropewalk_status status, const char* why) noexcept {
  std::strncpy(last_error, why, sizeof last_error - 1);
  return status;
}

template <class F>
ropewalk_status guarded(F&& f) noexcept {
  try {
    return f();
  } catch (const BadArgument& e) {
    return failed(ROPEWALK_ERROR_ARGUMENT, e.what());
  } catch (const OutOfMemory& e) {
    return failed(ROPEWALK_ERROR_MEMORY, e.what());
  } catch (const std::bad_alloc&) {
    return failed(ROPEWALK_ERROR_MEMORY, "[capi] out of host memory");
  } catch (const Error& e) {
    return failed(ROPEWALK_ERROR_INPUT, e.what());
  } catch (const std::exception& e) {
    return failed(ROPEWALK_ERROR_INTERNAL, e.what());
  } catch (...) {
    return failed(ROPEWALK_ERROR_INTERNAL, "[capi] an exception of unknown type, from a callback perhaps");
  }
}

template <class... Parts>
void require(bool ok, const char* function, const Parts&... message) {
  if (!ok) throw BadArgument(cat("[", function, "] ", message...));
}

/// `given` in the layout of this library: what an older caller does not know keeps its default; what a newer caller
/// knows beyond it must be zero.
template <class Options>
Options read_options(const Options* given, Options options, const char* function) {
  if (given == nullptr) return options;
  constexpr size_t kLargest = 4096;  // a size that was never set must not walk through memory
  require(given->size > sizeof given->size && given->size <= kLargest, function, "options.size is ", given->size,
          "; set it to sizeof the struct");
  require(given->size % alignof(Options) == 0, function, "options.size is ", given->size,
          ", which ends within a field; set it to sizeof the struct");
  const auto* bytes = reinterpret_cast<const char*>(given);
  for (size_t i = sizeof options; i < given->size; ++i)
    require(bytes[i] == 0, function, "options of ", given->size, " bytes ask for what this version does not know");
  std::memcpy(static_cast<void*>(&options), bytes, std::min(given->size, sizeof options));
  return options;
}

void load(const std::string& path, const ropewalk_load_options& options, ropewalk_model& model) {
  const Device device = parse_device(options.device ? options.device : "auto");
  const DType dtype = device.is_cuda() ? DType::bf16 : DType::f32;
  std::string tokenizer = options.tokenizer ? options.tokenizer : path;
  if (path.ends_with(".bin")) {
    if (!options.tokenizer)
      tokenizer = (std::filesystem::path(path).parent_path() / "tokenizer.bin").lexically_normal().string();
    model.llama = load_llama2c(path, dtype, device);
  } else {
    model.llama = load_hf(path, {.compute = dtype, .device = device, .adjust = {}, .seed = 0});
  }
  model.tokenizer = load_tokenizer(tokenizer);
  model.llama->use_compact_weights();
}

/// Copies out if it fits; writes the size in any case.
template <class T, class Container>
ropewalk_status give(const Container& from, T* to, size_t capacity, size_t* count, const char* function) {
  *count = from.size();
  if (from.size() > capacity) {
    failed(ROPEWALK_ERROR_BUFFER, cat("[", function, "] ", from.size(), " needed, room for ", capacity).c_str());
    return ROPEWALK_ERROR_BUFFER;
  }
  std::copy(from.begin(), from.end(), to);
  return ROPEWALK_OK;
}

/// The text that a new id adds; a model may have more ids than its tokenizer (padded vocabularies), which say nothing.
std::string piece_of(const Tokenizer& tokenizer, int32_t previous, int32_t id) {
  if (id >= tokenizer.vocab_size()) return "";
  return tokenizer.piece(previous < tokenizer.vocab_size() ? previous : -1, id);
}

}  // namespace
}  // namespace rw

using namespace rw;

const char* ropewalk_version(void) { return ROPEWALK_VERSION; }
const char* ropewalk_last_error(void) { return last_error; }

ropewalk_status ropewalk_load(const char* path, const ropewalk_load_options* options, ropewalk_model** model) {
  if (model != nullptr) *model = nullptr;
  return guarded([&] {
    require(path != nullptr && model != nullptr, "ropewalk_load", "path and model must not be null");
    auto loaded = std::make_unique<ropewalk_model>();
    load(path, read_options(options, {sizeof(ropewalk_load_options), nullptr, nullptr}, "ropewalk_load"), *loaded);
    *model = loaded.release();
    return ROPEWALK_OK;
  });
}

void ropewalk_free(ropewalk_model* model) { delete model; }

int32_t ropewalk_vocab_size(const ropewalk_model* model) {
  return model ? static_cast<int32_t>(model->llama->config().vocab_size) : 0;
}
int64_t ropewalk_context_length(const ropewalk_model* model) {
  return model ? model->llama->config().rope.max_position_embeddings : 0;
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
    const int64_t vocab = model->llama->config().vocab_size;
    for (size_t i = 0; i < count; ++i)
      check(prompt[i] >= 0 && prompt[i] < vocab, kName, "token id ", prompt[i], " at position ", i,
            " of the prompt is beyond the vocabulary of ", vocab);
    const Tokenizer& tokenizer = *model->tokenizer;
    if (!o.ignore_ends) {
      for (const int64_t id : model->llama->config().eos_token_id) wanted.stop.push_back(static_cast<int32_t>(id));
      if (wanted.stop.empty() && tokenizer.eos_id()) wanted.stop.push_back(*tokenizer.eos_id());
      if (tokenizer.bos_id()) wanted.stop.push_back(*tokenizer.bos_id());
    }
    int32_t previous = prompt[count - 1];
    generate(*model->llama, {prompt, prompt + count}, wanted, [&](int32_t id) {
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
