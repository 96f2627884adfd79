// Every number of a report as records, for CSV and JSON lines.
#include "eval/report.h"
#include "tensor/error.h"

namespace rw {

std::vector<Record> report_records(const std::vector<ReportRun>& runs) {
  std::vector<Record> out;
  for (const ReportRun& run : runs) {
    const auto put = [&](const char* section, const char* by, RecordValue x, const char* what, RecordValue value) {
      out.push_back({{"run", run.name},
                     {"section", std::string(section)},
                     {"by", std::string(by)},
                     {"x", std::move(x)},
                     {"what", std::string(what)},
                     {"value", std::move(value)}});
      return &out.back();
    };
    const auto interval = [](Record* record, double low, double high) {
      if (low < high) {
        record->set("low", low);
        record->set("high", high);
      }
      return record;
    };
    const auto measured = [](Record* record, const std::string& protocol) {
      if (!protocol.empty()) record->set("protocol", protocol);
    };
    for (const auto& [key, value] : run.recipe) put("recipe", "setting", key, "value", value);
    for (const LossPoint& p : run.loss) put("loss", "step", p.step, "nats_per_token", p.loss);
    for (const ValidationPoint& p : run.validation)
      measured(put("validation", "step", p.step, "nats_per_token", p.loss), p.protocol);
    for (const PplPoint& p : run.ppl)
      measured(interval(put("ppl", "window", p.window, "perplexity", p.ppl), p.low, p.high), p.protocol);
    for (const BinPoint& p : run.bins) {
      Record* record = put("bins", "token", p.begin, "nats_per_token", p.nll);
      record->set("end", p.end);
      measured(record, p.protocol);
    }
    for (const ContextPoint& p : run.lastk)
      measured(interval(put("lastk", "context", p.context, "nats_per_token", p.nll), p.low, p.high), p.protocol);
    for (const PasskeyPoint& p : run.passkey) {
      Record* record = put("passkey", "distance", p.distance, "accuracy", p.accuracy);
      record->set("trials", p.trials);
      measured(record, p.protocol);
    }
    for (const NeedleCell& c : run.needle) {
      Record* record = put("needle", "length", c.length, "accuracy", c.accuracy);
      record->set("depth", c.depth);
      measured(record, c.protocol);
    }
    for (const LongPplPoint& p : run.longppl) {
      Record* record =
          interval(put("longppl", "window", p.window, "perplexity_of_key_tokens", p.longppl), p.low, p.high);
      record->set("key_share", p.key_share);
      record->set("ppl", p.ppl);
      measured(record, p.protocol);
    }
    for (const ScorePoint& p : run.scores) {
      Record* record = interval(put("scores", "task", p.task, "share", p.value), p.low, p.high);
      if (!p.kind.empty()) record->set("kind", p.kind);
      if (p.length > 0) record->set("length", p.length);
      measured(record, p.protocol);
    }
    for (size_t i = 0; i < run.inv_freq.size(); ++i)
      put("frequencies", "pair", static_cast<int64_t>(i), "inv_freq", run.inv_freq[i]);
    for (size_t s = 0; s < run.positions.size(); ++s) {
      for (const size_t m : position_corners(run.positions[s])) {
        put("positions", "token", static_cast<int64_t>(m), "position", run.positions[s][m])
            ->set("sample", static_cast<int64_t>(s));
      }
    }
    if (run.cost.seconds > 0) put("cost", "", std::string("time"), "seconds", run.cost.seconds);
    if (run.cost.tokens > 0) put("cost", "", std::string("tokens"), "tokens", run.cost.tokens);
    if (run.cost.tokens_per_s > 0) put("cost", "", std::string("speed"), "tokens_per_s", run.cost.tokens_per_s);
    if (run.cost.peak_memory_bytes > 0) put("cost", "", std::string("memory"), "bytes", run.cost.peak_memory_bytes);
  }
  return out;
}

}  // namespace rw
