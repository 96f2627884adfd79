// Retrieval tasks in the form of RULER: facts among lines of noise, at lengths that are exact to a line.
#include "eval/tasks.h"

#include <algorithm>
#include <array>

#include "eval/retrieval.h"
#include "eval/statistics.h"
#include "tensor/error.h"

namespace rw {
namespace {

constexpr const char* kOp = "tasks";
constexpr const char* kNoise = "The river runs to the sea. A cart rolls down the lane. Rain falls on the roof.";
constexpr std::array kAdjectives = {"amber", "brisk", "calm", "dusty", "early", "faint", "gentle", "hollow",
                                    "iron",  "jolly", "keen", "loose", "mild",  "noble", "old",    "pale"};
constexpr std::array kNouns = {"anchor", "barn",   "candle", "door", "engine", "ferry",  "garden",  "harbor",
                               "island", "jacket", "kettle", "lamp", "mirror", "needle", "orchard", "plough"};

std::string number_of(int64_t digits, Random& random) {
  std::string out;
  for (int64_t i = 0; i < digits; ++i) out += static_cast<char>('0' + random.between(i == 0 ? 1 : 0, 9));
  return out;
}

/// `count` different draws of `draw()`.
template <class Draw>
std::vector<std::string> distinct(int64_t count, Draw draw) {
  std::vector<std::string> out;
  while (static_cast<int64_t>(out.size()) < count) {
    std::string value = draw();
    if (std::find(out.begin(), out.end(), value) == out.end()) out.push_back(std::move(value));
  }
  return out;
}

/// What a task says and asks.
struct Story {
  std::string task;
  std::vector<std::string> facts;
  std::string question, answer;
  std::vector<std::string> expected;
};

Story numbers_story(int64_t keys, const TaskOptions& options, Random& random) {
  const std::vector<std::string> names = distinct(keys, [&] {
    return std::string(kAdjectives[static_cast<size_t>(random.below(kAdjectives.size()))]) + " " +
           kNouns[static_cast<size_t>(random.below(kNouns.size()))];
  });
  const std::vector<std::string> values = distinct(keys, [&] { return number_of(options.digits, random); });
  Story story;
  story.task = "Some lines below give things a number. Remember them: you will be asked for one.";
  for (size_t i = 0; i < names.size(); ++i) {
    story.facts.push_back("The number of the " + names[i] + " is " + values[i] + ".");
  }
  const size_t asked = static_cast<size_t>(random.below(keys));
  story.question = "What is the number of the " + names[asked] + "? The number of the " + names[asked] + " is";
  story.answer = values[asked];
  story.expected = {values[asked]};
  return story;
}

Story variables_story(const TaskOptions& options, Random& random) {
  const std::vector<std::string> names = distinct(options.hops + 1, [&] {
    return std::string{static_cast<char>('A' + random.below(26)), static_cast<char>('A' + random.below(26))};
  });
  const std::string value = number_of(options.digits, random);
  Story story;
  story.task = "Some lines below assign variables. Follow the assignments.";
  for (size_t i = 0; i < names.size(); ++i) {
    story.facts.push_back("VAR " + names[i] + " = " + (i == 0 ? value : "VAR " + names[i - 1]));
    story.answer += (i ? " " : "") + names[i];
  }
  story.question = "Which variables hold " + value + "? They are";
  story.expected = names;
  return story;
}

Story make_story(const std::string& task, const TaskOptions& options, Random& random) {
  if (task == "single") return numbers_story(1, options, random);
  if (task == "multikey") return numbers_story(options.keys, options, random);
  check(task == "vt", kOp, "unknown task '", task, "'; known: single, multikey, vt");
  return variables_story(options, random);
}

}  // namespace

TaskPrompt make_task(const std::string& task, int64_t length, const Tokenizer& tokenizer, const TaskOptions& options,
                     Random& random) {
  check(options.keys >= 1 && options.keys <= 64, kOp, "keys must be in [1, 64], got ", options.keys);
  check(options.hops >= 1 && options.hops <= 4, kOp, "hops must be in [1, 4], got ", options.hops);
  check(options.digits >= 2 && options.digits <= 18, kOp, "digits must be in [2, 18], got ", options.digits);
  const Story story = make_story(task, options, random);
  std::vector<double> places;
  for (size_t i = 0; i < story.facts.size(); ++i) places.push_back(random.uniform());
  std::sort(places.begin(), places.end());  // facts keep their order

  const auto text_with = [&](int64_t noise) {
    std::string text = story.task + "\n";
    size_t next = 0;
    for (int64_t line = 0; line <= noise; ++line) {
      while (next < places.size() && places[next] * static_cast<double>(noise + 1) < static_cast<double>(line + 1)) {
        text += story.facts[next++] + "\n";
      }
      if (line < noise) text += std::string(kNoise) + "\n";
    }
    return text + story.question;
  };
  const auto ids_of = [&](const std::string& text) {
    std::vector<int32_t> ids = tokenizer.encode(text);
    if (options.bos) ids.insert(ids.begin(), *options.bos);
    return ids;
  };
  const auto size_with = [&](int64_t noise) {
    return static_cast<int64_t>(ids_of(text_with(noise) + " " + story.answer).size());
  };
  const int64_t noise = largest_fit(length, size_with);
  check(noise >= 0, kOp, "a prompt of ", length, " tokens is too short for ", task, ": without noise it takes ",
        size_with(0));

  TaskPrompt out;
  const std::vector<int32_t> asked = ids_of(text_with(noise));
  out.ids = ids_of(text_with(noise) + " " + story.answer);
  out.answer_begin = std::mismatch(asked.begin(), asked.end(), out.ids.begin(), out.ids.end()).first - asked.begin();
  check(out.answer_begin < static_cast<int64_t>(out.ids.size()), kOp, "the answer '", story.answer,
        "' adds no tokens to the question: this tokenizer cannot tell answers apart");
  out.facts = story.facts;
  out.expected = story.expected;
  return out;
}

namespace {

/// hit (0 or 1) and margin of one trial.
Record judge(const TaskPrompt& prompt, const std::vector<TokenScore>& scores) {
  int64_t hit = 1;
  double margin = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i].best != prompt.ids[static_cast<size_t>(prompt.answer_begin) + i]) hit = 0;
    margin += scores[i].margin / static_cast<double>(scores.size());
  }
  return {{"hit", hit}, {"margin", margin}};
}

/// A prompt to be continued by twice the answer's length, and what should be in it.
struct Asked {
  std::vector<GreedyRequest> requests;
  std::vector<std::vector<std::string>> expected;

  void add(const TaskPrompt& prompt) {
    requests.push_back({.prompt = {prompt.ids.begin(), prompt.ids.begin() + prompt.answer_begin},
                        .tokens = 2 * (std::ssize(prompt.ids) - prompt.answer_begin)});
    expected.push_back(prompt.expected);
  }
};

/// Generates what was asked, into the rows, and forgets it; the sum of the shares of expected strings in the texts.
double add_generated(TokenScorer& scorer, const Tokenizer& tokenizer, Asked& asked, std::span<Record> rows) {
  const auto made = scorer.greedy_all(asked.requests);
  double matched = 0;
  for (size_t i = 0; i < made.size(); ++i) {
    const std::string text = tokenizer.decode(made[i]);
    rows[i].set("generated", text);
    double found = 0;
    for (const std::string& e : asked.expected[i]) found += text.find(e) != std::string::npos;
    matched += found / static_cast<double>(asked.expected[i].size());
  }
  asked = {};
  return matched;
}

}  // namespace

EvalResult evaluate_tasks(TokenScorer& scorer, const Tokenizer& tokenizer, const TaskOptions& options) {
  check(options.trials >= 1, kOp, "needs at least one trial, got ", options.trials);
  EvalResult out;
  out.kind = "tasks";
  out.protocol = {{"success", std::string("every answer token is the most likely one, teacher-forced")},
                  {"trials", options.trials},
                  {"keys", options.keys},
                  {"hops", options.hops},
                  {"digits", options.digits},
                  {"interval", std::string("95 % Wilson")}};
  const int64_t groups = static_cast<int64_t>(options.tasks.size() * options.lengths.size());
  int64_t done = 0, group = 0;
  for (const std::string& task : options.tasks) {
    for (int64_t length : options.lengths) {
      int64_t hits = 0;
      double margin = 0, matched = 0;
      Asked asked;
      for (int64_t begin = 0; begin < options.trials;) {
        const int64_t end = std::min(options.trials, begin + scorer.windows_per_batch(length));
        std::vector<TaskPrompt> prompts;
        std::vector<ScoreWindow> windows;
        for (int64_t t = begin; t < end; ++t) {
          Random random(options.seed, Purpose::eval, static_cast<uint64_t>(group), static_cast<uint64_t>(t));
          prompts.push_back(make_task(task, length, tokenizer, options, random));
          windows.push_back({prompts.back().ids, prompts.back().answer_begin});
        }
        const auto scores = scorer.score(windows, length, /*details=*/true);
        for (size_t i = 0; i < prompts.size(); ++i) {
          const Record row = judge(prompts[i], scores[i]);
          hits += row.integer("hit");
          margin += row.number("margin");
          if (options.greedy) asked.add(prompts[i]);
          out.rows.push_back({{"task", task}, {"length", length}});
          for (const auto& [name, value] : row.fields()) out.rows.back().set(name, value);
        }
        done += end - begin;
        begin = end;
        if (options.greedy && (begin == options.trials || std::ssize(asked.requests) >= kPromptsAtOnce))
          matched += add_generated(scorer, tokenizer, asked, std::span(out.rows).last(asked.requests.size()));
        if (options.progress) options.progress(done, groups * options.trials);
      }
      const Interval interval = wilson_interval(hits, options.trials);
      const double n = static_cast<double>(options.trials);
      Record total{{"task", task},
                   {"length", length},
                   {"trials", options.trials},
                   {"accuracy", static_cast<double>(hits) / n},
                   {"accuracy_low", interval.low},
                   {"accuracy_high", interval.high},
                   {"margin", margin / n}};
      if (options.greedy) total.set("string_match_all", matched / n);
      out.totals.push_back(std::move(total));
      ++group;
    }
  }
  return out;
}

}  // namespace rw
