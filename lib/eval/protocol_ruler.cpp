// The protocol `ruler`: settings and defaults; ruler.h says what is asked and how it is judged.
#include <algorithm>

#include "eval/protocol.h"
#include "eval/ruler.h"
#include "tensor/error.h"

namespace rw {
namespace {

constexpr int64_t kMostHaystackTokens = int64_t{1} << 22;

class Ruler : public EvalProtocol {
 public:
  const char* kind() const override { return "ruler"; }
  const char* help() const override { return "RULER's thirteen tasks in its own wording, judged by its string match"; }

  std::vector<Setting> settings() override {
    std::vector<Setting> s;
    s.push_back({.name = "data",
                 .help =
                     "text for the haystacks of needles in text, and cwe's words (default: those tasks are left out; "
                     "cwe's words are made of syllables)",
                 .target = &options.data,
                 .common = true});
    protocols::add_common(s, options);
    protocols::add_generation(s, options);
    s.push_back({.name = "task",
                 .help =
                     "niah_single_1 to 3, niah_multikey_1 to 3, niah_multivalue, niah_multiquery, vt, cwe, fwe, qa_1, "
                     "qa_2 (default: all that the given text suffices for)",
                 .target = &own_.tasks,
                 .choices = ruler_tasks(),
                 .common = true});
    s.push_back({.name = "window",
                 .other_name = "length",
                 .help = "tokens of prompt and answer together (default: the model's own window)",
                 .target = &lengths_,
                 .low = 1,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "trials",
                 .help = "prompts per task and length (RULER: 500)",
                 .target = &own_.trials,
                 .low = 1,
                 .high = kMostCount,
                 .shows_default = true,
                 .common = true});
    s.push_back({.name = "squad", .help = "SQuAD 2.0's JSON, for qa_1", .target = &squad_});
    s.push_back({.name = "hotpotqa", .help = "HotpotQA's JSON, for qa_2", .target = &hotpotqa_});
    s.push_back({.name = "no-shots", .help = "without the solved examples of vt and cwe", .target = &no_shots_});
    s.push_back({.name = "file",
                 .help = "prompts that RULER's own generator wrote (input, answer_prefix, outputs), in place of ours; "
                         "--task names their task",
                 .target = &file_});
    return s;
  }

  std::string plan(const EvalSubject& s) const override {
    if (!own_.tasks.empty() || !file_.empty()) return "";
    const size_t known = ruler_tasks().size(), made = ruler_tasks_of(material(s)).size();
    if (made == known) return "";
    return cat("ruler: ", made, " of ", known, " tasks; --data, --squad and --hotpotqa bring the others");
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Progress& progress) const override {
    RulerOptions o = own_;
    o.lengths = lengths_.empty() ? std::vector<int64_t>{s.window()} : lengths_;
    o.shots = !no_shots_;
    o.bos = s.bos;
    o.eos = s.tokenizer.eos_id();
    o.seed = options.seed;
    o.progress = progress;
    if (file_.empty()) {
      EvalResult result = evaluate_ruler(s.scorer, s.tokenizer, material(s), o);
      for (const auto& [key, path] : {std::pair{"squad", squad_}, {"hotpotqa", hotpotqa_}}) {
        if (!path.empty()) protocols::set_file(result.protocol, key, path);
      }
      return result;
    }
    check(o.tasks.size() == 1, "ruler", "--file needs --task with the one task that its prompts are of");
    const int64_t window = *std::max_element(o.lengths.begin(), o.lengths.end());
    EvalResult result = evaluate_ruler_prompts(s.scorer, s.tokenizer, load_ruler(file_, o.tasks[0]), window, o);
    protocols::set_file(result.protocol, "file", file_);
    result.protocol.set("tasks", o.tasks[0]);
    return result;
  }

 private:
  RulerMaterial material(const EvalSubject& s) const {
    std::vector<Document> documents;
    int64_t tokens = 0;
    for (int64_t d = 0; d < s.corpus.documents() && tokens < kMostHaystackTokens; ++d) {
      documents.push_back({s.corpus.name(d), s.tokenizer.decode(s.corpus.tokens(d))});
      tokens += s.corpus.length(d);
    }
    RulerMaterial out = ruler_material(documents);
    if (!squad_.empty()) out.squad = load_ruler_questions(squad_);
    if (!hotpotqa_.empty()) out.hotpotqa = load_ruler_questions(hotpotqa_);
    return out;
  }

  std::vector<int64_t> lengths_;
  RulerOptions own_;
  std::string squad_, hotpotqa_, file_;
  bool no_shots_ = false;
};

}  // namespace

namespace protocols {
std::unique_ptr<EvalProtocol> ruler() { return std::make_unique<Ruler>(); }
}  // namespace protocols
}  // namespace rw
