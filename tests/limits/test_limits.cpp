// What an input of n bytes may cost: memory at most 8 times for text and 4 times for others, beside a fixed part, and a
// number of allocations in proportion to n. This program counts every allocation.
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "data/corpus.h"
#include "data/sentencepiece.h"
#include "eval/records.h"
#include "nn/config.h"
#include "nn/io/llama2c.h"
#include "support.h"
#include "tensor/allocator.h"
#include "tensor/file.h"
#include "tensor/gguf.h"
#include "tensor/json_depth.h"
#include "tensor/toml_depth.h"

namespace {

std::atomic<int64_t> live{0}, peak{0}, calls{0};

void* counted(size_t n) {
  void* p = std::malloc(n > 0 ? n : 1);
  if (!p) throw std::bad_alloc();
  const int64_t now = live += static_cast<int64_t>(::malloc_usable_size(p));
  for (int64_t most = peak; now > most && !peak.compare_exchange_weak(most, now);) {
  }
  ++calls;
  return p;
}
void uncounted(void* p) {
  if (p) live -= static_cast<int64_t>(::malloc_usable_size(p));
  std::free(p);
}

}  // namespace

void* operator new(size_t n) { return counted(n); }
void* operator new[](size_t n) { return counted(n); }
void operator delete(void* p) noexcept { uncounted(p); }
void operator delete[](void* p) noexcept { uncounted(p); }
void operator delete(void* p, size_t) noexcept { uncounted(p); }
void operator delete[](void* p, size_t) noexcept { uncounted(p); }

using namespace rw;

namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

struct Cost {
  int64_t bytes = 0, calls = 0;  // at most at once, beyond what was there before; in all
};
/// Of `f`, whose rw::Errors are an answer like any other.
template <class F>
Cost cost_of(F f) {
  release_cached_memory();
  reset_peak_memory();
  const int64_t before = live, calls_before = calls, tensors = memory_stats().live_bytes;
  peak = before;
  try {
    f();
  } catch (const Error&) {
  }
  return {peak - before + memory_stats().peak_bytes - tensors, calls - calls_before};
}

/// Holds `f` to `factor` times its input beside `fixed`, and its allocations to growing as the input does.
void check_cost(const std::string& what, int factor, int64_t fixed, const std::function<std::string(int64_t n)>& input,
                const std::function<void(const std::string&)>& f) {
  CAPTURE(what);
  const int64_t n = 4 * kMiB;
  const std::string small = input(n / 4), large = input(n);
  cost_of([&] { f(input(1000)); });  // whatever is made once
  const Cost a = cost_of([&] { f(small); }), b = cost_of([&] { f(large); });
  CAPTURE(b.bytes);
  CAPTURE(large.size());
  CHECK(b.bytes <= factor * static_cast<int64_t>(large.size()) + fixed);
  CHECK(b.calls <= 5 * a.calls + 1000);
}

std::string repeated(const std::string& before, const std::string& unit, const std::string& after, int64_t n) {
  std::string text = before;
  while (static_cast<int64_t>(text.size()) < n) text += unit;
  return text + after;
}

}  // namespace

TEST_CASE("JSON takes at most 8 times its text and 64 MiB, whatever is in it") {
  const auto parse = [](const std::string& text) { model_config_from_json(text); };
  const std::vector<std::pair<std::string, std::string>> units = {
      {"[", "1,"}, {"[", "{},"}, {"[", "[],"}, {"[", "\"\","}, {"[", "\"0123456789abcdef\","}, {"[", "1.5e300,"}};
  for (const auto& [before, unit] : units) {
    check_cost(
        "config of " + unit, 8, 64 * kMiB, [&](int64_t n) { return repeated("{\"a\":" + before, unit, "1]}", n); },
        parse);
  }
  int64_t serial = 0;
  const auto members = [&](int64_t n) {
    std::string text = "{";
    while (static_cast<int64_t>(text.size()) < n) text += cat("\"", serial++, "\":1,");
    return text + "\"a\":1}";
  };
  check_cost("config of members", 8, 64 * kMiB, members, parse);
  check_cost(
      "evaluation of rows", 8, 64 * kMiB,
      [](int64_t n) {
        return repeated(R"({"kind":"ppl","protocol":{},"rows":[)", R"({"a":1},)", R"({}],"totals":[]})", n);
      },
      [](const std::string& text) { eval_result_from_json(text, "x"); });
}

TEST_CASE("JSON whose values would take more is refused before it is parsed, and real files are far from it") {
  const std::string dense = repeated("[", "1,", "1]", 32 * kMiB);
  CHECK(test::error_of([&] { check_json_depth(dense, "load", "x.json"); }).find("would take more than") !=
        std::string::npos);
  const Cost cost = cost_of([&] { check_json_depth(dense, "load", "x.json"); });
  CHECK(cost.bytes < kMiB);
  check_json_depth(repeated("{\"vocab\":{", "\"token\": 12345, ", "\"z\":1}}", 32 * kMiB), "load", "x.json");
  check_json_depth(repeated("[", "\"a b\",\n      ", "\"\"]", 32 * kMiB), "load", "x.json");
}

TEST_CASE("a safetensors header takes at most 8 times its text and 64 MiB") {
  const test::TempDir dir;
  int64_t serial = 0;
  check_cost(
      "header", 8, 64 * kMiB,
      [&](int64_t n) {
        std::string text = "{";
        while (static_cast<int64_t>(text.size()) < n)
          text += cat("\"", serial++, R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)");
        text += R"("z":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})";
        const uint64_t length = text.size();
        return std::string(reinterpret_cast<const char*>(&length), 8) + text;
      },
      [&](const std::string& bytes) {
        write_file_atomic(dir.path("x"), bytes);
        const SafetensorsFile file(dir.path("x"));
      });
}

TEST_CASE("a token file takes at most 4 times its tables, and its ids nothing") {
  const test::TempDir dir;
  check_cost(
      "documents without names", 4, kMiB,
      [&](int64_t n) {
        // 12 bytes for each document: an offset and the length of a name
        const std::vector<std::string> names(static_cast<size_t>(n / 12));
        std::vector<std::vector<int32_t>> documents(names.size());
        documents[0] = {1};
        write_token_file(dir.path("t"), TokenCorpus(names, documents, 10));
        return read_file(dir.path("t"));
      },
      [&](const std::string& bytes) {
        write_file_atomic(dir.path("u"), bytes);
        TokenCorpus::open(dir.path("u"));
      });
  std::vector<std::vector<int32_t>> long_document = {std::vector<int32_t>(4 * kMiB, 1)};
  write_token_file(dir.path("l"), TokenCorpus({"a"}, long_document, 10));
  std::vector<int32_t> ids(1000);
  const Cost cost = cost_of([&] { TokenCorpus::open(dir.path("l")).read(0, 3'000'000, ids); });
  CHECK(cost.bytes < kMiB);
  CHECK(ids[999] == 1);
}

TEST_CASE("a GGUF file takes at most 4 times its bytes and 32 MiB for its entries, and a tensor 4 times its own") {
  const test::TempDir dir;
  const auto open = [&](const std::string& bytes) {
    write_file_atomic(dir.path("x.gguf"), bytes);
    const GgufFile file(dir.path("x.gguf"));
  };
  const auto file_of = [&](const GgufMetadata& keys, const std::vector<GgufTensor>& tensors) {
    save_gguf(dir.path("made.gguf"), keys, tensors);
    return read_file(dir.path("made.gguf"));
  };
  const auto many = [](int64_t n, auto make) {
    for (int64_t i = 0; i < n; ++i) make(i);
  };
  check_cost(
      "empty strings", 4, 32 * kMiB,
      [&](int64_t n) {
        return file_of({{"a", GgufValue::string_list(std::vector<std::string>(static_cast<size_t>(n / 8)))}}, {});
      },
      open);
  check_cost(
      "keys", 4, 32 * kMiB,
      [&](int64_t n) {
        GgufMetadata keys;
        many(std::min<int64_t>(n / 20, 65536), [&](int64_t i) { keys.emplace_back(cat(i), GgufValue::boolean(true)); });
        return file_of(keys, {});
      },
      open);
  check_cost(
      "tensors", 4, 32 * kMiB,
      [&](int64_t n) {
        std::vector<GgufTensor> tensors;
        many(std::min<int64_t>(n / 64, 65536), [&](int64_t i) {
          tensors.push_back({cat(i), Tensor::empty({0}), GgmlType::f32});
        });
        return file_of({}, tensors);
      },
      open);
  check_cost(
      "a Q8_0 tensor", 4, 4 * kMiB,
      [&](int64_t n) {
        return file_of({}, {{"a", Tensor::zeros({n / 32, 32}), GgmlType::q8_0}});
      },
      [&](const std::string& bytes) {
        write_file_atomic(dir.path("x.gguf"), bytes);
        GgufFile(dir.path("x.gguf")).load("a");
      });
}

TEST_CASE("a llama2.c model takes at most 4 times its file") {
  const test::TempDir dir;
  check_cost(
      "model", 4, kMiB,
      [](int64_t n) {
        const int32_t dim = 64, vocab = static_cast<int32_t>(n / 4 / dim);
        const int32_t header[7] = {dim, 8, 1, 1, 1, vocab, 8};
        std::string bytes(reinterpret_cast<const char*>(header), 28);
        bytes.resize(28 + 4 * static_cast<size_t>(vocab * dim + 2 * dim + 4 * dim * dim + 3 * dim * 8 + dim + 8 * dim));
        return bytes;
      },
      [&](const std::string& bytes) {
        write_file_atomic(dir.path("m"), bytes);
        load_llama2c(dir.path("m"));
      });
}

TEST_CASE("TOML of thousands of sections or of deep names is refused by name") {
  const auto refusal = [](const std::string& text) {
    return test::error_of([&] { check_toml_depth(text, "recipe", "r.toml"); });
  };
  std::string sections;
  for (int i = 0; i < 2000; ++i) sections += cat("[a", i, "]\n");
  CHECK(refusal(sections) == "[recipe] r.toml: more than 1000 sections");
  CHECK(refusal(std::string(30'000, '\n')) == "[recipe] r.toml: more than 20000 lines");
  CHECK(refusal(repeated("\na", ".a", " = 1", 1000)).find("line 2: a name of ") != std::string::npos);
  CHECK(refusal(repeated("[a", ".a", "]", 1000)).find("line 1: a name of ") != std::string::npos);
  check_toml_depth("# a.b.c.d.e.f.g.h.i.j\n[arms.a]\nx = \"1.2.3.4.5.6.7.8.9.10\"\n'a.b.c.d.e.f.g.h.i.j' = 1\n",
                   "recipe", "r.toml");
}
