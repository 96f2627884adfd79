// The protocol `choice`: settings and defaults; choice.h says what is counted.
#include <algorithm>

#include "eval/choice.h"
#include "eval/protocol.h"
#include "tensor/error.h"

namespace rw {
namespace {

class Choice : public EvalProtocol {
 public:
  const char* kind() const override { return "choice"; }
  const char* help() const override { return "multiple choice by log-likelihood, as lm-evaluation-harness counts it"; }

  std::vector<Setting> settings() override {
    std::vector<Setting> s;
    protocols::add_common(s, options);
    s.push_back(
        protocols::items_file("published JSON lines of a task, or lines of context, choices and answer", file_));
    s.push_back({.name = "task",
                 .help = "which task's fields the lines have; auto: by the first line",
                 .target = &task_,
                 .choices = {"auto", "own", "boolq", "piqa", "race", "winogrande", "arc", "hellaswag"},
                 .shows_default = true,
                 .common = true});
    s.push_back(protocols::first_items(options));
    s.push_back({.name = "shots",
                 .help = "solved examples before every question: the first N of --shots-file",
                 .target = &shots_,
                 .low = 0,
                 .high = 1024,
                 .shows_default = true,
                 .common = true});
    s.push_back({.name = "shots-file", .help = "a file like the items', for --shots", .target = &shots_file_});
    s.push_back({.name = "answer-context",
                 .help = "what acc_answer divides by: the choice after this text alone",
                 .target = &own_.answer_context,
                 .shows_default = true});
    s.push_back({.name = "window",
                 .help = "tokens of context and choice; longer contexts lose their beginning (default: the model's own "
                         "window)",
                 .target = &window_,
                 .low = 2,
                 .high = kMostCount});
    return s;
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Progress& progress) const override {
    std::vector<ChoiceItem> items = load_choices(file_, task_);
    if (options.documents > 0 && static_cast<int64_t>(items.size()) > options.documents)
      items.resize(static_cast<size_t>(options.documents));
    ChoiceOptions o = own_;
    check(shots_ == 0 || !shots_file_.empty(), "choice", "--shots needs --shots-file, other items than the asked ones");
    if (shots_ > 0) {
      o.shots = load_choices(shots_file_, task_);
      check(static_cast<int64_t>(o.shots.size()) >= shots_, "choice", "'", shots_file_, "' holds ", o.shots.size(),
            " examples, --shots asks for ", shots_);
      o.shots.resize(static_cast<size_t>(shots_));
    }
    o.window = window_ > 0 ? window_ : s.window();
    o.bos = s.bos;
    o.progress = progress;
    EvalResult result = evaluate_choice(s.scorer, s.tokenizer, items, o);
    protocols::set_file(result.protocol, "file", file_);
    if (shots_ > 0) protocols::set_file(result.protocol, "shots_file", shots_file_);
    result.protocol.set("task", task_);
    return result;
  }

 private:
  std::string file_, task_ = "auto", shots_file_;
  int64_t shots_ = 0, window_ = 0;
  ChoiceOptions own_;
};

}  // namespace

namespace protocols {
std::unique_ptr<EvalProtocol> choice() { return std::make_unique<Choice>(); }
}  // namespace protocols
}  // namespace rw
