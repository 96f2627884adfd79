// What a comparison has measured so far, as tables: one row per arm, over its seeds.
#pragma once
#include <string>
#include <vector>

#include "eval/records.h"
#include "eval/report.h"

namespace rw {

/// The folders of one arm, one per seed.
struct ArmRuns {
  std::string name;
  std::vector<std::string> folders;
};

/// One number of one arm: "ppl @4096", "passkey k_max".
struct ArmMetric {
  std::string arm, metric;
  bool shown = false;          // a column of the short table
  std::vector<double> values;  // one per seed that has it
  double mean() const;
  double deviation() const;  // sample standard deviation; NaN for one value
};

/// Reads cost.json and every eval-*.json of the arms' folders; what is missing is left out.
std::vector<ArmMetric> arm_metrics(const std::vector<ArmRuns>& arms);

/// Rows are arms, columns the shown metrics; "32.61 ± 0.05" where there are several seeds.
std::string to_markdown(const std::vector<ArmRuns>& arms, const std::vector<ArmMetric>& metrics);
/// The same for a terminal.
std::string to_terminal(const std::vector<ArmRuns>& arms, const std::vector<ArmMetric>& metrics);
/// One record per arm and metric: mean, deviation, min, max, seeds, values.
std::vector<Record> to_records(const std::vector<ArmMetric>& metrics);

/// One run for the report: the first seed's, with the curves of the evaluations averaged over seeds.
ReportRun report_run(const ArmRuns& arm);

}  // namespace rw
