#include <doctest/doctest.h>

#include <cctype>

#include "eval/longbench.h"
#include "eval/passkey.h"
#include "eval/tasks.h"
#include "support.h"
#include "tensor/file.h"
#include "toy.h"

using namespace rw;
using test::ToyScorer;

namespace {

const std::unique_ptr<Tokenizer> kBytes = make_byte_tokenizer();  // a token is a byte, so indices can be checked by eye

std::string text_of(std::span<const int32_t> ids) { return kBytes->decode(ids); }

/// The next byte of a model that has read the number after `lead` and repeats it when asked, provided the digit is
/// among the last `sight` tokens. Elsewhere, and when it cannot see, it says "?".
ToyScorer copy_oracle(const std::string& lead, int64_t sight) {
  return ToyScorer([=](std::span<const int32_t> context) {
    const std::string text = text_of(context);  // BOS decodes to nothing
    const size_t asked = text.rfind(lead), told = text.find(lead + " ");
    char next = '?';
    if (asked != std::string::npos && told != std::string::npos && told != asked) {
      const size_t said = text.size() - (asked + lead.size());  // bytes of the answer so far: " 123"
      const size_t source = told + lead.size() + said;
      const bool visible = static_cast<int64_t>(text.size() - source) <= sight;
      if (visible && (text[source] == ' ' || std::isdigit(static_cast<unsigned char>(text[source]))))
        next = text[source];
      if (said == 0) next = ' ';
    }
    std::vector<double> p(static_cast<size_t>(kBytes->vocab_size()), 0.01 / 257);
    p[static_cast<size_t>(kBytes->encode(std::string(1, next))[0])] = 0.99;
    return p;
  });
}

const std::string kLead = "secret number is";  // of the default template

void check_prompt(const RetrievalPrompt& p, const Tokenizer& tokenizer, const std::string& needle_lead) {
  const std::span<const int32_t> ids(p.ids);
  const int64_t digits = static_cast<int64_t>(p.key.size());
  const std::string key = tokenizer.decode(ids.subspan(static_cast<size_t>(p.key_begin), static_cast<size_t>(digits)));
  CHECK(key == p.key);
  const std::string before = tokenizer.decode(ids.subspan(0, static_cast<size_t>(p.key_begin)));
  CHECK(before.ends_with(needle_lead));
  CHECK(before.find(p.key) == std::string::npos);  // the key is not given away earlier
  const std::string answer = tokenizer.decode(ids.subspan(static_cast<size_t>(p.answer_begin)));
  CHECK(answer.ends_with(p.key));
  CHECK(answer.size() <= p.key.size() + 1);
  CHECK(tokenizer.decode(ids.subspan(static_cast<size_t>(p.answer_key))) == p.key);
}

}  // namespace

TEST_CASE("The key lies where the prompt says, to the token") {
  const RetrievalTemplate parts = default_retrieval_template();
  const RetrievalPrompts prompts(parts, *kBytes, kBytes->bos_id());
  const int64_t sentence = static_cast<int64_t>(parts.filler.size()) + 1;
  for (int64_t length : {600, 1000, 2048}) {
    for (int64_t distance : {300, 512, 600}) {
      if (distance > length - 200) continue;
      Random random(1, Purpose::test, static_cast<uint64_t>(length), static_cast<uint64_t>(distance));
      const RetrievalPrompt p = prompts.at_distance(length, distance, random);
      check_prompt(p, *kBytes, "The secret number is ");
      CHECK(p.ids[0] == kBytes->bos_id());
      CHECK(static_cast<int64_t>(p.ids.size()) <= length);
      CHECK(static_cast<int64_t>(p.ids.size()) > length - sentence);
      CHECK(p.distance() <= distance);
      CHECK(p.distance() > distance - sentence);
    }
    for (double depth : {0.0, 0.3, 1.0}) {
      Random random(2, Purpose::test);
      const RetrievalPrompt p = prompts.at_depth(length, depth, random);
      check_prompt(p, *kBytes, "The secret number is ");
      CHECK(static_cast<int64_t>(p.ids.size()) <= length);
      CHECK(static_cast<int64_t>(p.ids.size()) > length - sentence);
      if (depth == 0) CHECK(p.key_begin < 200);
      if (depth == 1) CHECK(p.distance() < 150);
    }
  }
}

TEST_CASE("With filler from documents, lengths and distances are exact") {
  const TokenCorpus corpus = tokenize_corpus({{"a", std::string(5000, 'x')}, {"b", std::string(3000, 'y')}}, *kBytes);
  const RetrievalPrompts prompts(short_retrieval_template(), *kBytes, kBytes->bos_id(), &corpus);
  for (int64_t distance : {40, 100, 333}) {
    Random random(3, Purpose::test, static_cast<uint64_t>(distance));
    const RetrievalPrompt p = prompts.at_distance(400, distance, random);
    check_prompt(p, *kBytes, " The key is ");
    CHECK(p.ids.size() == 400);
    CHECK(p.distance() == distance);
  }
}

TEST_CASE("As much filler is taken as fits, however unevenly its units count") {
  const auto uneven = [](int64_t n) { return 10 + 3 * n + (n % 5 == 0 ? 2 : 0) + n * n / 50; };
  for (int64_t limit = 12; limit < 400; ++limit) {
    const int64_t n = largest_fit(limit, uneven);
    CHECK(uneven(n) <= limit);
    CHECK(uneven(n + 1) > limit);
  }
  CHECK(largest_fit(11, uneven) == -1);
}

TEST_CASE("Filler that adds no tokens is refused instead of being added for ever") {
  const auto flat = [](int64_t) { return int64_t{10}; };
  CHECK_THROWS_WITH_AS(largest_fit(20, flat), doctest::Contains("the filler adds no tokens"), Error);
  CHECK(largest_fit(9, flat) == -1);
}

TEST_CASE("The same seed gives the same prompt, another trial another key") {
  const RetrievalPrompts prompts(default_retrieval_template(), *kBytes, {});
  Random a(1, Purpose::eval, 0, 0), b(1, Purpose::eval, 0, 0), c(1, Purpose::eval, 0, 1);
  const RetrievalPrompt p = prompts.at_depth(800, 0.5, a);
  CHECK(p.ids == prompts.at_depth(800, 0.5, b).ids);
  CHECK(p.key != prompts.at_depth(800, 0.5, c).key);
}

TEST_CASE("The published passkey prompt is read from its file and keeps its parts") {
  const std::string path = test::shared_data("passkey_published.json");
  if (path.empty()) return;
  const RetrievalTemplate parts = retrieval_template_from_json(read_file(path), path);
  CHECK(parts.task.size() == 148);
  CHECK(parts.filler.size() == 89);
  CHECK(parts.question.size() == 37);
  const RetrievalPrompts prompts(parts, *kBytes, kBytes->bos_id());
  Random random(1, Purpose::test);
  const RetrievalPrompt p = prompts.at_depth(1500, 0.5, random);
  check_prompt(p, *kBytes, "The pass key is ");
  const std::string text = text_of(p.ids);
  CHECK(text.starts_with("There is an important info hidden"));
  CHECK(text.find("again. The grass") != std::string::npos);
  CHECK(text.find("again.\nThe pass key is " + p.key + ". Remember it. " + p.key + " is the pass key.\nThe grass") !=
        std::string::npos);
  CHECK(text.ends_with("What is the pass key? The pass key is " + p.key));
}

TEST_CASE("A real tokenizer places the key as exactly") {
  const std::string folder = test::shared_data("models/books30m");
  if (folder.empty()) return;
  const auto tokenizer = load_tokenizer(folder);
  const TokenCorpus corpus =
      tokenize_corpus({{"a", read_file(test::shared_data("tinystories_train_head.txt")).substr(0, 60000)}}, *tokenizer);
  for (const TokenCorpus* filler : {static_cast<const TokenCorpus*>(nullptr), &corpus}) {
    const RetrievalPrompts prompts(short_retrieval_template(), *tokenizer, tokenizer->bos_id(), filler);
    for (int64_t distance : {64, 200, 450}) {
      Random random(4, Purpose::test, static_cast<uint64_t>(distance));
      const RetrievalPrompt p = prompts.at_distance(512, distance, random);
      check_prompt(p, *tokenizer, "The key is ");
      CHECK(p.distance() <= distance);
      CHECK(p.distance() > distance - 16);
      CHECK(p.ids.size() <= 512);
      CHECK(p.ids.size() > 512 - 16);
    }
  }
}

TEST_CASE("A model that copies the key scores 100 %, teacher-forced and generating") {
  ToyScorer oracle = copy_oracle(kLead, 1 << 20);
  const RetrievalPrompts prompts(default_retrieval_template(), *kBytes, kBytes->bos_id());
  const PasskeyOptions options{.lengths = {512, 1024}, .trials = 6, .greedy = true, .seed = 5};
  const PasskeyResult result = evaluate_passkey(oracle, prompts, *kBytes, options);
  REQUIRE(result.groups.size() == 2);
  for (const PasskeyGroup& g : result.groups) {
    CHECK(g.hits == 6);
    CHECK(g.greedy_hits == 6);
    CHECK(g.margin == doctest::Approx(std::log(0.99 / (0.01 / 257))));
  }
  CHECK(result.longest_80 == 1024);
  const EvalResult file = to_eval_result(result, options, "passkey");
  CHECK(file.rows.size() == 12);
  CHECK(file.totals[0].number("accuracy") == 1.0);
  CHECK(file.totals.back().text("by") == "distance");
}

TEST_CASE("A model that sees only the last L tokens has k_max = L") {
  const RetrievalPrompts prompts(default_retrieval_template(), *kBytes, kBytes->bos_id());
  for (int64_t sight : {512, 1024}) {
    ToyScorer oracle = copy_oracle(kLead, sight);
    const PasskeyResult result = evaluate_passkey(
        oracle, prompts, *kBytes, {.lengths = {2048}, .distances = distance_grid(2048, 8), .trials = 3});
    CHECK(result.k_max == sight);
    CHECK(result.longest_80 == 0);
  }
  ToyScorer blind = copy_oracle(kLead, 0);
  const PasskeyResult nothing =
      evaluate_passkey(blind, prompts, *kBytes, {.lengths = {1024}, .distances = {256, 512}, .trials = 2});
  CHECK(nothing.k_max == 0);
}

TEST_CASE("k_max ends at the first distance that fails, and one wrong digit fails a trial") {
  const RetrievalPrompts prompts(default_retrieval_template(), *kBytes, kBytes->bos_id());
  ToyScorer far_and_near([](std::span<const int32_t> context) {
    // Blind to keys between 500 and 1100 tokens back.
    const std::string text = text_of(context);
    const size_t told = text.find(kLead + " "), asked = text.rfind(kLead);
    const size_t distance = asked - told;
    std::vector<double> p(static_cast<size_t>(kBytes->vocab_size()), 0.01 / 257);
    const char next = distance > 500 && distance < 1100 ? '?' : text[told + text.size() - asked];
    p[static_cast<size_t>(kBytes->encode(std::string(1, next))[0])] = 0.99;
    return p;
  });
  const PasskeyResult result = evaluate_passkey(far_and_near, prompts, *kBytes,
                                                {.lengths = {2048}, .distances = {300, 450, 900, 1700}, .trials = 2});
  CHECK(result.groups[3].accuracy() == 1);
  CHECK(result.k_max == 450);

  ToyScorer last_digit_only([](std::span<const int32_t> context) {
    const std::string text = text_of(context);
    const size_t said = text.size() - text.rfind(kLead) - kLead.size();
    const char next = said == 5 ? text[text.find(kLead + " ") + kLead.size() + said] : '?';
    std::vector<double> p(static_cast<size_t>(kBytes->vocab_size()), 0.01 / 257);
    p[static_cast<size_t>(kBytes->encode(std::string(1, next))[0])] = 0.99;
    return p;
  });
  CHECK(evaluate_passkey(last_digit_only, prompts, *kBytes, {.lengths = {600}, .trials = 4}).groups[0].hits == 0);
}

TEST_CASE("A needle grid shows how deep a short-sighted model reads") {
  ToyScorer oracle = copy_oracle(kLead, 700);
  const RetrievalPrompts prompts(default_retrieval_template(), *kBytes, kBytes->bos_id());
  const PasskeyOptions options{.lengths = {600, 1600}, .depths = {0, 0.5, 1}, .trials = 2};
  const PasskeyResult result = evaluate_passkey(oracle, prompts, *kBytes, options);
  REQUIRE(result.groups.size() == 6);
  CHECK(result.groups[0].accuracy() == 1);  // 600 tokens: all in sight
  CHECK(result.groups[3].accuracy() == 0);  // 1600 tokens, key at the beginning
  CHECK(result.groups[5].accuracy() == 1);  // key at the end
  CHECK(result.effective_length == 600);
  const EvalResult file = to_eval_result(result, options, "needle");
  CHECK(file.totals[3].number("depth") == 0);
  CHECK(file.totals[3].integer("length") == 1600);
}

TEST_CASE("Retrieval prompts that cannot be built say why") {
  const RetrievalPrompts prompts(default_retrieval_template(), *kBytes, {});
  Random random(1, Purpose::test);
  CHECK(test::error_of([&] { prompts.at_depth(50, 0.5, random); }) ==
        "[retrieval] a prompt of 50 tokens is too short: without filler it takes 240");
  CHECK(test::error_of([&] { prompts.at_distance(1000, 10, random); }).find("a distance of 10 tokens is too short") !=
        std::string::npos);
  CHECK(test::error_of([] { retrieval_template_from_json("{\"filler\":\"x\"}", "t.json"); }) ==
        "[retrieval] t.json: \"needle\" is missing");
  CHECK(test::error_of([] {
          retrieval_template_from_json(R"({"filler":"x","needle":"y","question":"z"})", "t.json");
        }) == "[retrieval] t.json: the needle holds no {key}");
}

TEST_CASE("Tasks keep their facts in order, within the length, and ask for what they say") {
  for (const char* task : {"single", "multikey", "vt"}) {
    for (int64_t length : {600, 1500}) {
      Random random(7, Purpose::test, static_cast<uint64_t>(length));
      const TaskPrompt p = make_task(task, length, *kBytes, {.hops = 4, .bos = kBytes->bos_id()}, random);
      const std::string text = text_of(p.ids);
      CHECK(static_cast<int64_t>(p.ids.size()) <= length);
      CHECK(static_cast<int64_t>(p.ids.size()) > length - 90);
      size_t at = 0;
      for (const std::string& fact : p.facts) {
        const size_t found = text.find("\n" + fact + "\n", at);
        REQUIRE(found != std::string::npos);
        at = found + 1;
      }
      CHECK(p.facts.size() == (std::string(task) == "single" ? 1 : std::string(task) == "multikey" ? 4 : 5));
      const std::string answer = text_of(std::span(p.ids).subspan(static_cast<size_t>(p.answer_begin)));
      for (const std::string& e : p.expected) CHECK(answer.find(e) != std::string::npos);
    }
  }
  // They stand at random places, not in one block: most chains have noise between every two of their lines.
  int apart = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed, Purpose::test);
    const TaskPrompt p = make_task("vt", 6000, *kBytes, {.hops = 1}, random);
    apart += text_of(p.ids).find(p.facts[0] + "\n" + p.facts[1]) == std::string::npos;
  }
  CHECK(apart >= 15);
  Random random(7, Purpose::test);
  CHECK(test::error_of([&] { make_task("cwe", 600, *kBytes, {}, random); }) ==
        "[tasks] unknown task 'cwe'; known: single, multikey, vt");
  CHECK(test::error_of([&] { make_task("vt", 20, *kBytes, {}, random); }).find("too short for vt") !=
        std::string::npos);
}

TEST_CASE("An oracle passes every task and a model that guesses passes none") {
  // The oracle knows the asked prompts: it continues any of them as they end.
  const TaskOptions options{.lengths = {500}, .trials = 3, .greedy = true, .seed = 2};
  std::vector<std::vector<int32_t>> known;
  for (uint64_t g = 0; g < 3; ++g) {
    for (uint64_t t = 0; t < 3; ++t) {
      Random random(options.seed, Purpose::eval, g, t);
      known.push_back(make_task(options.tasks[g], 500, *kBytes, options, random).ids);
    }
  }
  const auto model = [&](bool knows) {
    return ToyScorer([&known, knows](std::span<const int32_t> context) {
      std::vector<double> p(static_cast<size_t>(kBytes->vocab_size()), 0.5 / 257);
      size_t next = 0;
      for (const auto& ids : known) {
        if (knows && ids.size() > context.size() && std::equal(context.begin(), context.end(), ids.begin()))
          next = static_cast<size_t>(ids[context.size()]);
      }
      p[next] = 0.5;
      return p;
    });
  };
  ToyScorer oracle = model(true), guesser = model(false);
  for (const Record& total : evaluate_tasks(oracle, *kBytes, options).totals) {
    CHECK(total.number("accuracy") == 1);
    CHECK(total.number("string_match_all") == 1);
  }
  for (const Record& total : evaluate_tasks(guesser, *kBytes, options).totals) {
    CHECK(total.number("accuracy") == 0);
    CHECK(total.number("string_match_all") == 0);
  }
}

TEST_CASE("F1 and ROUGE-L count words as their definitions do") {
  CHECK(word_f1("The cat sat.", "a cat sat") == doctest::Approx(1));
  CHECK(word_f1("cat cat dog", "cat") == doctest::Approx(2 * (1.0 / 3) * 1 / (1.0 / 3 + 1)));
  CHECK(word_f1("", "cat") == 0);
  CHECK(rouge_l("police killed the gunman", "police kill the gunman") == doctest::Approx(0.75));
  CHECK(rouge_l("the gunman police killed", "police killed the gunman") == doctest::Approx(0.5));
  CHECK(rouge_l("a a a", "a b") == doctest::Approx(2 * (1.0 / 3) * 0.5 / (1.0 / 3 + 0.5)));
  CHECK(rouge_l("", "x") == 0);
}

TEST_CASE("LongBench items are read, cut in the middle, answered and scored") {
  const test::TempDir folder;
  write_file_atomic(folder.path("x.jsonl"), "{\"context\":\"" + std::string(300, 'c') +
                                                "\",\"input\":\"who?\",\"answers\":[\"nobody\",\"!! !!\"]}\n\n");
  const auto items = load_longbench(folder.path("x.jsonl"));
  REQUIRE(items.size() == 1);
  std::string seen;
  ToyScorer toy([&](std::span<const int32_t> context) {
    if (seen.empty()) seen = text_of(context);
    std::vector<double> p(static_cast<size_t>(kBytes->vocab_size()), 0.5 / 257);
    p[static_cast<size_t>(kBytes->encode("!")[0])] = 0.5;
    return p;
  });
  const EvalResult result = evaluate_longbench(
      toy, *kBytes, items, {.metric = "rouge", .window = 100, .max_new = 4, .bos = kBytes->bos_id()});
  CHECK(result.rows[0].integer("prompt_tokens") == 96);
  CHECK(result.rows[0].text("answer") == "!!!!");
  CHECK(seen.starts_with("ccc"));
  CHECK(seen.ends_with("\n\nQuestion: who?\nAnswer:"));
  CHECK(truncate_middle({1, 2, 3, 4, 5}, 3) == std::vector<int32_t>{1, 4, 5});
  write_file_atomic(folder.path("bad.jsonl"), "{\"context\":\"x\"}\n");
  CHECK(test::error_of([&] {
          load_longbench(folder.path("bad.jsonl"));
        }).find("bad.jsonl line 1: expected an object") != std::string::npos);
}
