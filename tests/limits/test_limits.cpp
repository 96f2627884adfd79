// What an input of n bytes may cost: memory at most 8 times for text and 4 times for others, beside a fixed part, and a
// number of allocations in proportion to n. This program counts every allocation.
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "data/byte_bpe.h"
#include "data/corpus.h"
#include "data/sentencepiece.h"
#include "eval/records.h"
#include "eval/report.h"
#include "nn/config.h"
#include "nn/io/checkpoint.h"
#include "nn/io/llama2c.h"
#include "nn/io/weight_files.h"
#include "support.h"
#include "tensor/allocator.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/gguf.h"
#include "tensor/json_depth.h"
#include "train/comparison_recipe.h"
#include "train/metrics_file.h"
#include "train/recipe_fields.h"
#include "train/toml.h"

namespace {

std::atomic<int64_t> live{0}, peak{0}, calls{0};
std::atomic<bool> refuse{false};  // all memory

void* counted(size_t n) {
  if (refuse) throw std::bad_alloc();
  void* p = std::malloc(n > 0 ? n : 1);
  if (!p) throw std::bad_alloc();
  const int64_t now = live += static_cast<int64_t>(::malloc_usable_size(p));
  for (int64_t most = peak; now > most && !peak.compare_exchange_weak(most, now);) {
  }
  ++calls;
  return p;
}
void* counted_or_null(size_t n) noexcept {
  try {
    return counted(n);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void uncounted(void* p) {
  if (p) live -= static_cast<int64_t>(::malloc_usable_size(p));
  std::free(p);
}

}  // namespace

void* operator new(size_t n) { return counted(n); }
void* operator new[](size_t n) { return counted(n); }
// What std::stable_sort asks with: left to the C++ library it would call the first; a sanitizer's own would not.
void* operator new(size_t n, const std::nothrow_t&) noexcept { return counted_or_null(n); }
void* operator new[](size_t n, const std::nothrow_t&) noexcept { return counted_or_null(n); }
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
                const std::function<void(const std::string&)>& f, int64_t n = 4 * kMiB) {
  CAPTURE(what);
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

TEST_CASE("tensors are freed without taking memory: where none is left, their blocks go back to the system") {
  release_cached_memory();
  const int64_t reserved = memory_stats().reserved_bytes;
  {
    const MemoryTag tag("a tag of more letters than a short string holds");
    std::vector<Tensor> tensors;
    for (int64_t i = 1; i <= 40; ++i) tensors.push_back(Tensor::zeros({1000 * i}));
    refuse = true;
    tensors.clear();  // a throw here would end the process
    refuse = false;
  }
  CHECK(memory_stats().live_bytes == 0);
  release_cached_memory();
  CHECK(memory_stats().reserved_bytes == reserved);
}

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

TEST_CASE("TOML of thousands of entries or of deep names is refused by name") {
  const auto refusal = [](const std::string& text) {
    return test::error_of([&] { parse_toml(text, "r.toml", "recipe"); });
  };
  std::string sections;
  for (int i = 0; i < 20'000; ++i) sections += cat("[a", i, "]\n");
  CHECK(refusal(sections).find("more than 10000 entries") != std::string::npos);
  CHECK(refusal(repeated("a = [0", ", 0", "]", 60'000)).find("more than 10000 entries") != std::string::npos);
  CHECK(refusal(repeated("\na", ".a", " = 1", 1000)).find("line 2: a name of ") != std::string::npos);
  CHECK(refusal(repeated("[a", ".a", "]", 1000)).find("line 1: a section inside") != std::string::npos);
  CHECK(parse_toml("# a.b.c.d.e.f\n[arms.a]\nx = \"1.2.3.4.5.6.7.8.9.10\"\n" + std::string(30'000, '\n'), "r.toml",
                   "recipe")
            .size() == 2);
}

// --- tokenizers -----------------------------------------------------------------------------------------------------

namespace {

/// What is kept of each token and merge beside its text: strings, two indices, a table of merges.
constexpr int64_t kPerToken = 600;

/// Spellings of one to four letters that differ, and are made of each other.
std::string spelling(int64_t serial) {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  std::string text;
  for (int64_t left = serial + 1; left > 0; left = (left - 1) / 52)
    text += kLetters[static_cast<size_t>((left - 1) % 52)];
  return text;
}

std::string sentencepiece_of(int64_t n) {
  std::string model = {0x12, 2, 0x18, 2, 0x0a, 5, 0x0a, 1, '?', 0x18, 2};  // BPE; an unknown piece
  for (int64_t i = 0; static_cast<int64_t>(model.size()) < n; ++i) {
    const std::string text = spelling(i);
    const auto length = static_cast<char>(text.size());
    model += std::string{0x0a, static_cast<char>(length + 2), 0x0a, length} + text;
  }
  return model;
}

}  // namespace

TEST_CASE("a SentencePiece model takes at most 4 times its file, and 600 bytes for each of its pieces") {
  const int64_t n = 2 * kMiB;
  const auto pieces = static_cast<int64_t>(parse_sentencepiece(sentencepiece_of(n), "x").pieces.size());
  CHECK(pieces > n / 8 - 10'000);
  check_cost(
      "model", 4, kMiB + kPerToken * pieces, sentencepiece_of,
      [](const std::string& bytes) { SentencePieceBpe(parse_sentencepiece(bytes, "x")); }, n);
  const std::string why = test::error_of([] { parse_sentencepiece(sentencepiece_of(9 * kMiB), "x"); });
  CHECK(why == "[tokenizer] x: more than 1048576 pieces");
}

TEST_CASE("a tokenizer.json takes at most 8 times its text, 64 MiB, and 600 bytes for each of its tokens") {
  const test::TempDir dir;
  const auto bytes = make_byte_tokenizer();
  const std::string json = dynamic_cast<const ByteBpe&>(*bytes).to_json();
  const auto load = [&](const std::string& text) {
    write_file_atomic(dir.path("tokenizer.json"), text);
    load_tokenizer(dir.path("tokenizer.json"));
  };
  const auto with = [&](const std::string& from, const std::string& to) {
    const size_t at = json.find(from);
    REQUIRE(at != std::string::npos);
    return json.substr(0, at) + to + json.substr(at + from.size());
  };
  int64_t tokens = 0;
  const auto vocabulary = [&](int64_t n) {
    std::string more = "\"vocab\": {";
    for (tokens = 0; static_cast<int64_t>(more.size()) < n; ++tokens)
      more += cat("\"", spelling(tokens + 60), "\":", bytes->vocab_size() + tokens, ",");
    return with("\"vocab\": {", more);
  };
  const int64_t n = 2 * kMiB;
  load(vocabulary(n));  // works
  check_cost("vocabulary", 8, 64 * kMiB + kPerToken * tokens, vocabulary, load, n);
  const auto merges = [&](int64_t size) {
    return with("\"merges\": []", "\"merges\": [" + repeated("", "\"a b\",", "\"a b\"]", size));
  };
  check_cost("merges", 8, 64 * kMiB, merges, load, n);
  const auto added = [&](int64_t size) {
    std::string more = "\"added_tokens\": [";
    for (tokens = 0; static_cast<int64_t>(more.size()) < size; ++tokens)
      more += cat("{\"id\":", bytes->vocab_size() + tokens, ",\"content\":\"", spelling(tokens + 60), "\"},");
    return with("\"added_tokens\": [", more);
  };
  added(n);
  check_cost("added tokens", 8, 64 * kMiB + kPerToken * tokens, added, load, n);
}

// --- what lies in the folders of models and runs ---------------------------------------------------------------------

TEST_CASE("an index of weight files takes at most 8 times its text and 64 MiB") {
  const test::TempDir dir;
  save_safetensors(dir.path("w"), {{"a", Tensor::zeros({1})}});
  const auto open = [&](const std::string& text) {
    write_file_atomic(dir.path("model.safetensors.index.json"), text);
    WeightFiles files(dir.path());
  };
  int64_t serial = 0;
  for (const std::string file : {"w", "none"}) {
    check_cost(
        "tensors in " + file, 8, 64 * kMiB,
        [&](int64_t n) {
          std::string text = "{\"weight_map\":{";
          while (static_cast<int64_t>(text.size()) < n) text += cat("\"", serial++, "\":\"", file, "\",");
          return text + "\"a\":\"w\"}}";
        },
        open);
  }
}

TEST_CASE("the metrics of a run take at most 8 times their text and 64 MiB") {
  const test::TempDir dir;
  int64_t step = 0;
  const auto lines = [&](int64_t n) {
    std::string text;
    while (static_cast<int64_t>(text.size()) < n) text += cat("{\"step\":", step++, ",\"loss\":1}\n");
    return text;
  };
  const auto write = [&](const std::string& text) { write_file_atomic(dir.path("run/metrics.jsonl"), text); };
  make_folder(dir.path("run"));
  const auto report = [&](const std::string& text) {
    write(text);
    const std::vector<ReportRun> runs = {load_run(dir.path("run"))};
    CHECK(report_html(runs, {}).size() < static_cast<size_t>(8 * kMiB));
  };
  check_cost("report", 8, 64 * kMiB, lines, report);
  const auto resume = [&](const std::string& text) {
    write(text);
    const MetricsFile file(dir.path("run/metrics.jsonl"), int64_t{1} << 40);
  };
  check_cost("resume", 8, 64 * kMiB, lines, resume);
}

TEST_CASE("a trainer state takes at most 8 times its text and 64 MiB") {
  const test::TempDir dir;
  ModelConfig c;
  c.vocab_size = 7, c.hidden_size = 4, c.intermediate_size = 4, c.num_hidden_layers = 1, c.num_attention_heads = 1;
  c.rope.max_position_embeddings = 8;
  CausalLm model(c, DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  const std::string folder = save_checkpoint(dir.path(), model, optimizer, {.step = 3}, 0);
  const std::string state = read_file(folder + "/trainer_state.json");
  int64_t serial = 0;
  const auto load = [&](const std::string& text) {
    write_file_atomic(folder + "/trainer_state.json", text);
    latest_checkpoint(dir.path());
    load_checkpoint(folder, model, optimizer);
  };
  check_cost(
      "members", 8, 64 * kMiB,
      [&](int64_t n) {
        std::string text = "{";
        while (static_cast<int64_t>(text.size()) < n) text += cat("\"", serial++, "\":1,");
        return text + state.substr(1);
      },
      load);
  check_cost(
      "list", 8, 64 * kMiB, [&](int64_t n) { return repeated("{\"x\":[", "1,", "1]," + state.substr(1), n); }, load);
}

TEST_CASE("a recipe takes at most 8 times its text and 64 MiB") {
  const test::TempDir dir;
  const auto train = [](const std::string& text) { recipe_from_toml(text, "r.toml"); };
  const auto compare = [&](const std::string& text) {
    write_file_atomic(dir.path("c.toml"), text);
    read_comparison_recipe(dir.path("c.toml"), {});
  };
  for (const std::string unit : {"\"a\",", "1,", "[],", "x=1\n", "\n", "[a]\n", "#\n"}) {
    const bool list = unit.ends_with(',');
    const auto input = [&](const std::string& head, const std::string& tail) {
      return [=](int64_t n) { return repeated(head, unit, tail, n - 1000); };
    };
    check_cost("train of " + unit, 8, 64 * kMiB, input(list ? "[train]\ndata=[" : "[train]\n", list ? "1]\n" : "\n"),
               train, kMiB);
    check_cost("compare of " + unit, 8, 64 * kMiB, input(list ? "[base]\ndata=[" : "[base]\n", list ? "1]\n" : "\n"),
               compare, kMiB);
    check_cost("arms of " + unit, 8, 64 * kMiB,
               input(list ? "[base]\nsteps=1\n[arms.a]\nseeds=[" : "[base]\nsteps=1\n[arms.a]\n", list ? "1]\n" : "\n"),
               compare, kMiB);
  }
}

TEST_CASE("the header of a GGUF file takes at most 4 times its bytes and 16 MiB") {
  const test::TempDir dir;
  const auto put = [](std::string& out, auto value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  const auto head = [&](uint64_t tensors, uint64_t keys) {
    std::string bytes = "GGUF";
    put(bytes, uint32_t{3}), put(bytes, tensors), put(bytes, keys);
    return bytes;
  };
  const auto name = [&](std::string& out, uint64_t serial) {
    put(out, uint64_t{4}), put(out, static_cast<uint32_t>(serial));
  };
  const auto open = [&](const std::string& bytes) {
    write_file_atomic(dir.path("m"), bytes);
    const GgufFile file(dir.path("m"));
  };
  const auto keys = [&](int64_t n) {
    const auto count = static_cast<uint64_t>(n / 17);
    std::string bytes = head(0, count);
    for (uint64_t i = 0; i < count; ++i) name(bytes, i), put(bytes, uint32_t{0}), put(bytes, uint8_t{1});
    return bytes;
  };
  const auto tensors = [&](int64_t n) {
    const auto count = static_cast<uint64_t>(n / 28);
    std::string bytes = head(count, 0);
    for (uint64_t i = 0; i < count; ++i)
      name(bytes, i), put(bytes, uint32_t{0}), put(bytes, uint32_t{0}), put(bytes, uint64_t{0});
    return bytes + std::string(64, 0);
  };
  const auto strings = [&](int64_t n) {
    std::string bytes = head(0, 1);
    name(bytes, 0), put(bytes, uint32_t{9}), put(bytes, uint32_t{8}), put(bytes, static_cast<uint64_t>(n / 8));
    return bytes + std::string(static_cast<size_t>(n / 8 * 8), 0);
  };
  open(keys(60'000)), open(tensors(60'000)), open(strings(60'000));  // all three are files
  check_cost("keys", 4, 16 * kMiB, keys, open, 64 << 10);
  check_cost("tensors", 4, 16 * kMiB, tensors, open, kMiB);
  check_cost("strings", 4, 16 * kMiB, strings, open);
  CHECK(test::error_of([&] { open(keys(2 * kMiB)); }).find("are more than 65536") != std::string::npos);
}
