// Sequences of C API calls, made from bytes: loads, frees, tokenizes, generates, scores and extends with null pointers,
// wrong sizes, odd numbers and buffers that are too small, in any order. Every call must come back with one of the
// statuses.
#include <ropewalk.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "data/tokenizer.h"
#include "fuzz.h"
#include "nn/io/hf.h"

namespace {

const std::string& model_folder() {
  static const std::string folder = [] {
    const std::string file = fuzz::file("place", "");
    const std::string path = file.substr(0, file.rfind('/')) + "/model";
    const auto tokenizer = rw::make_byte_tokenizer();
    rw::ModelConfig c;
    c.vocab_size = tokenizer->vocab_size(), c.hidden_size = 4, c.intermediate_size = 4, c.num_hidden_layers = 1;
    c.num_attention_heads = 1, c.rope.max_position_embeddings = 16;
    c.finish();
    rw::save_hf(path, rw::CausalLm(c, rw::DType::f32, rw::kCpu, 1));
    tokenizer->save(path);
    return path;
  }();
  return folder;
}

/// Takes the input apart, zeros after its end.
class Bytes {
 public:
  explicit Bytes(std::string_view input) : rest_(input) {}
  bool empty() const { return rest_.empty(); }
  unsigned byte() {
    if (rest_.empty()) return 0;
    const auto value = static_cast<unsigned char>(rest_[0]);
    rest_.remove_prefix(1);
    return value;
  }
  template <class T>
  T value() {
    T v{};
    const size_t n = std::min(sizeof v, rest_.size());
    std::memcpy(&v, rest_.data(), n);
    rest_.remove_prefix(n);
    return v;
  }
  std::string_view text() {
    const std::string_view part = rest_.substr(0, byte());
    rest_.remove_prefix(std::min(part.size(), rest_.size()));
    return part;
  }

 private:
  std::string_view rest_;
};

/// Options with room behind them, as a newer caller's struct has: a size up to twice the library's stays within it.
template <class Options>
struct Roomy {
  Options options{};
  std::array<char, sizeof(Options)> beyond{};
};

void check_status(ropewalk_status status) {
  if (status >= ROPEWALK_OK && status <= ROPEWALK_ERROR_BUFFER && ropewalk_last_error() != nullptr &&
      (status == ROPEWALK_OK || ropewalk_last_error()[0] != '\0'))
    return;
  std::fprintf(stderr, "fuzz: status %d, '%s'\n", static_cast<int>(status), ropewalk_last_error());
  std::abort();
}

int stop_sometimes(void* user, int32_t, const char* piece, size_t bytes) {
  if (piece[bytes] != '\0') std::abort();
  return --*static_cast<int*>(user) < 0;
}

void generate(ropewalk_model* model, Bytes& in) {
  std::vector<int32_t> prompt(in.byte() % 20);
  for (int32_t& id : prompt) id = in.byte() % 16 == 0 ? in.value<int32_t>() : static_cast<int32_t>(in.byte());
  Roomy<ropewalk_generate_options> roomy;
  ropewalk_generate_options& o = roomy.options;
  ropewalk_generate_defaults(&o);
  o.max_tokens = in.byte() % 8 == 0 ? in.value<int64_t>() : in.byte() % 6;
  if (o.max_tokens > 20 && o.max_tokens < int64_t{1} << 40) o.max_tokens = 20;  // honest work is no finding
  if (in.byte() % 2) o.temperature = in.value<double>();
  if (in.byte() % 2) o.top_k = in.value<int64_t>();
  if (in.byte() % 2) o.top_p = in.value<double>();
  if (in.byte() % 16 == 0) o.size = in.value<size_t>() % (2 * sizeof o);
  if (in.byte() % 32 == 0) roomy.beyond[in.byte() % sizeof o] = 1;  // asks for what the library does not know
  o.ignore_ends = in.byte() % 2;
  int left = static_cast<int>(in.byte() % 8);
  int64_t made = -1;
  check_status(ropewalk_generate(model, in.byte() % 8 ? prompt.data() : nullptr, prompt.size(),
                                 in.byte() % 8 ? &o : nullptr, stop_sometimes, &left, in.byte() % 2 ? &made : nullptr));
}

void tokenize(ropewalk_model* model, Bytes& in) {
  const std::string_view text = in.text();
  std::array<int32_t, 64> ids{};
  size_t count = 0;
  const size_t capacity = in.byte() % 65;
  check_status(ropewalk_tokenize(model, in.byte() % 8 ? text.data() : nullptr, text.size(), in.byte() % 8,
                                 in.byte() % 4 ? ids.data() : nullptr, capacity, in.byte() % 8 ? &count : nullptr));
  std::array<char, 64> out{};
  size_t bytes = 0;
  if (in.byte() % 4 == 0) ids[0] = in.value<int32_t>();
  check_status(ropewalk_detokenize(model, ids.data(), std::min(count, ids.size()), out.data(), in.byte() % 65, &bytes));
}

/// Ids that are often right, and rows and buffers that often do not fit.
void logits_or_score(ropewalk_model* model, Bytes& in) {
  std::array<int32_t, 12> ids{};
  for (int32_t& id : ids) id = in.byte() % 32 == 0 ? in.value<int32_t>() : static_cast<int32_t>(in.byte());
  const size_t count = in.byte() % (ids.size() + 1), first = in.byte() % 8 == 0 ? in.value<size_t>() : in.byte() % 12;
  std::vector<float> logits(in.byte() * 20);
  std::array<double, 12> scores{};
  size_t written = 0;
  const int32_t* given = in.byte() % 8 ? ids.data() : nullptr;
  size_t* written_to = in.byte() % 8 ? &written : nullptr;
  if (in.byte() % 2) {
    check_status(ropewalk_logits(model, given, count, first, in.byte() % 4 ? logits.data() : nullptr,
                                 in.byte() % 4 ? logits.size() : 0, written_to));
  } else {
    check_status(ropewalk_score(model, given, count, first, in.byte() % 4 ? scores.data() : nullptr,
                                in.byte() % (scores.size() + 1), written_to));
  }
}

/// Settings by names that exist, with values that may make sense, and by others.
void extend(ropewalk_model* model, Bytes& in) {
  constexpr std::array<const char*, 7> kNames{"method", "scaling", "factor", "target", "chunks", "max-factor", "wrong"};
  constexpr std::array<const char*, 7> kValues{"pose", "yarn", "linear", "4", "64", "{\"rope_type\":\"ntk\"}", "-1"};
  std::array<std::string, 3> odd;
  std::vector<ropewalk_setting> settings;
  const size_t count = in.byte() % (odd.size() + 1);
  for (size_t i = 0; i < count; ++i) {
    odd[i] = in.text();
    settings.push_back({in.byte() % 32 ? kNames[in.byte() % kNames.size()] : nullptr,
                        in.byte() % 8 ? kValues[in.byte() % kValues.size()] : odd[i].c_str()});
  }
  check_status(ropewalk_extend(model, in.byte() % 8 ? settings.data() : nullptr, settings.size()));
  std::array<char, 256> json{};
  size_t bytes = 0;
  check_status(
      ropewalk_rope(model, in.byte() % 4 ? json.data() : nullptr, in.byte(), in.byte() % 8 ? &bytes : nullptr));
}

}  // namespace

void fuzz_one(std::string_view input) {
  Bytes in(input);
  std::array<ropewalk_model*, 2> models{};
  for (int calls = 0; calls < 30 && !in.empty(); ++calls) {
    ropewalk_model*& model = models[in.byte() % 2];
    switch (in.byte() % 8) {
      case 0: {
        ropewalk_free(model);
        model = nullptr;
        Roomy<ropewalk_load_options> roomy;
        ropewalk_load_options& o = roomy.options;
        o.size = sizeof o, o.device = "cpu";
        const std::string odd(in.text());
        if (in.byte() % 8 == 0) o.size = in.value<size_t>() % (2 * sizeof o);
        if (in.byte() % 8 == 0) o.device = odd.c_str();
        if (in.byte() % 8 == 0) o.tokenizer = odd.c_str();
        check_status(ropewalk_load(in.byte() % 4 ? model_folder().c_str() : odd.c_str(), &o, &model));
        break;
      }
      case 1:
        ropewalk_free(model);
        model = nullptr;
        break;
      case 2:
        tokenize(model, in);
        break;
      case 3:
        generate(model, in);
        break;
      case 4:
        ropewalk_vocab_size(model), ropewalk_context_length(model), ropewalk_bos(model), ropewalk_eos(model);
        break;
      case 6:
        logits_or_score(model, in);
        break;
      case 7:
        extend(model, in);
        break;
      default:
        check_status(ropewalk_set_threads(in.byte() % 4 ? 1 : in.value<int32_t>() % 5 - 1));
    }
  }
  for (ropewalk_model* model : models) ropewalk_free(model);
}

std::vector<std::string> fuzz_seeds() {
  model_folder();  // before any limit is set
  const std::string load("\0\0\1x\1\1\1\1", 8), use("\0\2\5Hello\1\1\1\1\1\1\1", 15);
  const std::string go("\0\3\4\1a\1b\1c\1d\1\5\0\0\0\1\1\7\1\1\1", 20), ask("\0\4", 2), drop("\0\1", 2);
  return {load + use + go + ask + drop,
          load + go + go,
          use + go,
          load + drop + use,
          std::string("\0\5\1", 3) + load + go,
          load + std::string("\0\7\3\0\1\3\1\4\0\1\1\1\1\1\1\1", 16) + go,
          load + std::string("\0\6\1a\1b\1c\1d\1e\1f\6\1\1\377\1\1\1\1\1", 22)};
}
