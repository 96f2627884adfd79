// The C API as a binding sees it: the small model is made here, so nothing but this repository is needed.
#include <ropewalk.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "data/tokenizer.h"
#include "nn/generate.h"
#include "small_model.h"
#include "tensor/allocator.h"
#include "use_from_c.h"

using namespace rw;

namespace {

using Folder = SmallModel;

ropewalk_generate_options defaults() {
  ropewalk_generate_options options;
  ropewalk_generate_defaults(&options);
  options.ignore_ends = 1;
  return options;
}

int collect(void* user, int32_t id, const char*, size_t) {
  static_cast<std::vector<int32_t>*>(user)->push_back(id);
  return 0;
}

std::vector<int32_t> generated(ropewalk_model* model, const ropewalk_generate_options& options) {
  const std::vector<int32_t> prompt = {0, 70, 71, 72};
  std::vector<int32_t> ids;
  int64_t made = -1;
  CHECK(ropewalk_generate(model, prompt.data(), prompt.size(), &options, collect, &ids, &made) == ROPEWALK_OK);
  CHECK(made == static_cast<int64_t>(ids.size()));
  return ids;
}

}  // namespace

TEST_CASE("a C program loads a model, tokenizes, detokenizes and generates what the C++ library generates") {
  const Folder folder;
  const auto model = load_hf(folder.path());
  const auto tokenizer = load_tokenizer(folder.path());
  std::string expected;
  generate(*model, tokenizer->encode_with_bos("Call me"), {.tokens = 20, .sampling = {.temperature = 0}, .stop = {}},
           [&](int32_t id) {
             if (id < tokenizer->vocab_size()) expected += tokenizer->piece(-1, id);
             return true;
           });
  std::vector<char> out(1000);
  CHECK(use_from_c(folder.path().c_str(), "Call me", 20, out.data(), out.size()) == 0);
  CHECK(std::string(out.data(), expected.size() + 1) == expected + '\0');
}

TEST_CASE("a llama2.c file loads with the tokenizer beside it or the one that is named") {
  const test::TempDir dir;
  const std::string file = dir.path("tiny.bin");
  {
    const int32_t header[7] = {8, 12,  1, 2,
                               1, 512, 16};  // dim, hidden_dim, layers, heads, kv heads, vocabulary, window
    const int64_t floats = 512 * 8 + 8 + 64 + 32 + 32 + 64 + 8 + 3 * 96 + 8 + 16 * 4;
    std::vector<float> weights(static_cast<size_t>(floats));
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(static_cast<float>(i) * 0.7f);
    std::ofstream out(file, std::ios::binary);
    out.write(reinterpret_cast<const char*>(header), sizeof header);
    out.write(reinterpret_cast<const char*>(weights.data()), static_cast<std::streamsize>(4 * weights.size()));
  }
  const std::string tokenizer = test::data_dir() + "/tokenizers/tok512.bin";
  ropewalk_model* model = nullptr;
  CHECK(ropewalk_load(file.c_str(), nullptr, &model) == ROPEWALK_ERROR_INPUT);
  CHECK(says("tokenizer.bin"));
  CHECK(model == nullptr);
  const ropewalk_load_options named{sizeof named, tokenizer.c_str(), "cpu"};
  REQUIRE(ropewalk_load(file.c_str(), &named, &model) == ROPEWALK_OK);
  CHECK(ropewalk_vocab_size(model) == 512);
  CHECK(ropewalk_context_length(model) == 16);
  CHECK(ropewalk_bos(model) == 1);
  CHECK(ropewalk_eos(model) == 2);
  ropewalk_free(model);
  std::filesystem::copy_file(tokenizer, dir.path("tokenizer.bin"));
  CHECK(ropewalk_load(file.c_str(), nullptr, &model) == ROPEWALK_OK);
  ropewalk_free(model);
}

TEST_CASE("sampling repeats with the seed, and a callback can stop it") {
  const Folder folder;
  const Loaded m(folder.path());
  ropewalk_generate_options options = defaults();
  options.max_tokens = 12;
  options.seed = 3;
  options.top_k = 40;
  options.top_p = 0.95;
  const std::vector<int32_t> once = generated(m.model, options);
  CHECK(once.size() == 12);
  CHECK(once == generated(m.model, options));
  options.seed = 4;
  CHECK(once != generated(m.model, options));
  int calls = 0;
  const auto stop = [](void* user, int32_t, const char*, size_t) { return ++*static_cast<int*>(user) == 3 ? 1 : 0; };
  const int32_t bos = ropewalk_bos(m.model);
  int64_t made = 0;
  CHECK(ropewalk_generate(m.model, &bos, 1, &options, stop, &calls, &made) == ROPEWALK_OK);
  CHECK(calls == 3);
  CHECK(made == 3);
}

TEST_CASE("options whose size ends within a field are refused before a half pointer is followed") {
  ropewalk_load_options o{sizeof o, nullptr, "cpu"};
  ropewalk_model* model = nullptr;
  for (size_t size = sizeof o.size + 1; size < sizeof o; ++size) {
    if (size % sizeof(void*) == 0) continue;
    o.size = size;
    CHECK(ropewalk_load("/nowhere", &o, &model) == ROPEWALK_ERROR_ARGUMENT);
  }
}

TEST_CASE("options of an older caller keep the new defaults, those of a newer one must be zero where unknown") {
  const Folder folder;
  const Loaded m(folder.path());
  const int32_t bos = ropewalk_bos(m.model);
  std::vector<int32_t> ids;
  ropewalk_generate_options old = defaults();
  old.max_tokens = 5;
  old.size = offsetof(ropewalk_generate_options, temperature);  // knows size and max_tokens only
  old.temperature = -1;
  CHECK(ropewalk_generate(m.model, &bos, 1, &old, collect, &ids, nullptr) == ROPEWALK_OK);
  CHECK(ids.size() <= 5);
  struct Newer {
    ropewalk_generate_options known;
    int64_t unknown;
  } newer{defaults(), 0};
  newer.known.max_tokens = 2;
  newer.known.size = sizeof newer;
  CHECK(ropewalk_generate(m.model, &bos, 1, &newer.known, collect, &ids, nullptr) == ROPEWALK_OK);
  newer.unknown = 1;
  CHECK(ropewalk_generate(m.model, &bos, 1, &newer.known, collect, &ids, nullptr) == ROPEWALK_ERROR_ARGUMENT);
  for (const size_t size : {size_t{0}, size_t{8}, size_t{1} << 40}) {
    newer.known.size = size;
    CHECK(ropewalk_generate(m.model, &bos, 1, &newer.known, collect, &ids, nullptr) == ROPEWALK_ERROR_ARGUMENT);
    CHECK(says("options.size"));
  }
}

TEST_CASE("bad arguments and bad files give a status and a reason, and the model stays usable") {
  const Folder folder;
  const Loaded m(folder.path());
  ropewalk_model* none = nullptr;
  size_t count = 0;
  int32_t ids[4] = {0, 5, 6, 7};
  char text[8];
  CHECK(ropewalk_load(nullptr, nullptr, &none) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_load("x", nullptr, nullptr) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_load("no/such/model", nullptr, &none) == ROPEWALK_ERROR_INPUT);
  CHECK(says("no/such/model"));
  const ropewalk_load_options odd{sizeof odd, nullptr, "abacus"};
  CHECK(ropewalk_load(folder.path().c_str(), &odd, &none) == ROPEWALK_ERROR_INPUT);
  CHECK(says("abacus"));
  CHECK(ropewalk_tokenize(nullptr, "a", 1, 0, ids, 4, &count) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_tokenize(m.model, nullptr, 1, 0, ids, 4, &count) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_tokenize(m.model, "a", 1, 64, ids, 4, &count) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_tokenize(m.model, "a", 1, 0, nullptr, 4, &count) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_tokenize(m.model, "abcdef", 6, 0, ids, 4, &count) == ROPEWALK_ERROR_BUFFER);
  CHECK(count == 6);
  CHECK(ids[1] == 5);
  CHECK(ropewalk_tokenize(m.model, nullptr, 0, 0, nullptr, 0, &count) == ROPEWALK_OK);
  CHECK(count == 0);
  CHECK(ropewalk_detokenize(m.model, ids, 4, text, 1, &count) == ROPEWALK_ERROR_BUFFER);
  ids[3] = 999;
  CHECK(ropewalk_detokenize(m.model, ids, 4, text, 8, &count) == ROPEWALK_ERROR_INPUT);
  CHECK(says("999 at position 3"));
  ropewalk_generate_options options = defaults();
  int64_t made = 9;
  CHECK(ropewalk_generate(m.model, ids, 4, &options, collect, nullptr, &made) == ROPEWALK_ERROR_INPUT);
  CHECK(made == 0);
  CHECK(ropewalk_generate(m.model, ids, 0, &options, collect, nullptr, &made) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_generate(m.model, ids, 2, &options, nullptr, nullptr, &made) == ROPEWALK_ERROR_ARGUMENT);
  options.top_p = 0;
  CHECK(ropewalk_generate(m.model, ids, 2, &options, collect, nullptr, &made) == ROPEWALK_ERROR_ARGUMENT);
  options = defaults();
  options.max_tokens = INT64_MAX;
  CHECK(ropewalk_generate(m.model, ids, 2, &options, collect, nullptr, &made) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_set_threads(0) == ROPEWALK_ERROR_ARGUMENT);
  options.max_tokens = 3;
  CHECK(generated(m.model, options).size() == 3);
  ropewalk_free(nullptr);
  CHECK(ropewalk_vocab_size(nullptr) == 0);
  CHECK(ropewalk_bos(nullptr) == -1);
}

TEST_CASE("an exception thrown by a callback does not cross the C API") {
  const Folder folder;
  const Loaded m(folder.path());
  const int32_t bos = ropewalk_bos(m.model);
  const ropewalk_generate_options options = defaults();
  const auto number = [](void*, int32_t, const char*, size_t) -> int { throw 42; };
  const auto error = [](void*, int32_t, const char*, size_t) -> int { throw std::runtime_error("from the callback"); };
  int64_t made = 0;
  CHECK(ropewalk_generate(m.model, &bos, 1, &options, number, nullptr, &made) == ROPEWALK_ERROR_INTERNAL);
  CHECK(made == 1);
  CHECK(ropewalk_generate(m.model, &bos, 1, &options, error, nullptr, &made) == ROPEWALK_ERROR_INTERNAL);
  CHECK(says("from the callback"));
}

TEST_CASE("running out of memory is a status, and the model generates on afterwards") {
  const Folder folder;
  const Loaded m(folder.path());
  ropewalk_generate_options options = defaults();
  options.max_tokens = 100000;
  const int32_t bos = ropewalk_bos(m.model);
  set_memory_limit(memory_stats().live_bytes + (1 << 20));
  CHECK(ropewalk_generate(m.model, &bos, 1, &options, collect, nullptr, nullptr) == ROPEWALK_ERROR_MEMORY);
  CHECK(says("kv cache"));
  set_memory_limit(0);
  options.max_tokens = 3;
  CHECK(generated(m.model, options).size() == 3);
}

TEST_CASE("the last error belongs to its thread, and models run side by side") {
  const Folder folder;
  const Loaded a(folder.path()), b(folder.path());
  ropewalk_generate_options options = defaults();
  options.max_tokens = 8;
  const std::vector<int32_t> expected = generated(a.model, options);
  ropewalk_load(nullptr, nullptr, nullptr);
  const std::string here = ropewalk_last_error();
  std::vector<int32_t> from_a, from_b;
  std::string there;
  const int32_t prompt[] = {0, 70, 71, 72};
  std::thread one([&] {
    there = ropewalk_last_error();
    ropewalk_generate(a.model, prompt, 4, &options, collect, &from_a, nullptr);
    ropewalk_load("elsewhere", nullptr, nullptr);
  });
  std::thread two([&] { ropewalk_generate(b.model, prompt, 4, &options, collect, &from_b, nullptr); });
  one.join();
  two.join();
  CHECK(there.empty());
  CHECK(from_a == expected);
  CHECK(from_b == expected);
  CHECK(ropewalk_last_error() == here);
}

TEST_CASE("the version is the project's") {
  std::ifstream in(std::string(ROPEWALK_SOURCE_DIR) + "/CMakeLists.txt");
  const std::string text(std::istreambuf_iterator<char>(in), {});
  CHECK(text.find(std::string("VERSION ") + ropewalk_version() + " ") != std::string::npos);
}
