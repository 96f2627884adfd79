// The table and records of a profile.
#include "eval/profile_report.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "tensor/error.h"

namespace rw {
namespace {

const std::vector<ProfileRecord>& records_of(const Profile& p) { return p.kernels.empty() ? p.ops : p.kernels; }

template <class... Values>
std::string format(const char* pattern, Values... values) {
  char text[400];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

/// A number, or a dash for "not known".
std::string number(const char* pattern, double value) { return value > 0 ? format(pattern, value) : "-"; }

/// A CSV field: quoted if it has to be.
std::string field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string gibibytes(int64_t bytes) { return format("%.3f GiB", static_cast<double>(bytes) / (1 << 30)); }

}  // namespace

std::vector<ProfileRow> profile_rows(const ProfileSubject& s) {
  std::map<std::pair<std::string, std::string>, ProfileRow> by_name;
  double total = 0;
  for (const ProfileRecord& r : records_of(s.profile)) {
    ProfileRow& row = by_name[{r.phase, r.name}];
    row.phase = r.phase;
    row.name = r.name;
    ++row.calls;
    row.seconds += r.end - r.start;
    row.work.bytes += r.work.bytes;
    row.work.flops += r.work.flops;
    total += r.end - r.start;
  }
  std::vector<ProfileRow> rows;
  for (auto& [key, row] : by_name) {
    if (total > 0) row.share = row.seconds / total;
    double least = 0;
    if (s.bytes_per_second > 0) least = row.work.bytes / s.bytes_per_second;
    if (s.flops_per_second > 0) least = std::max(least, row.work.flops / s.flops_per_second);
    if (row.seconds > 0) row.roofline = least / row.seconds;
    rows.push_back(std::move(row));
  }
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  return rows;
}

std::vector<ProfileGap> profile_gaps(const std::vector<ProfileRecord>& kernels, double least) {
  std::vector<ProfileGap> gaps;
  for (size_t i = 1; i < kernels.size(); ++i) {
    const double gap = kernels[i].start - kernels[i - 1].end;
    if (gap > least)
      gaps.push_back(
          {.start = kernels[i - 1].end, .seconds = gap, .before = kernels[i - 1].name, .after = kernels[i].name});
  }
  std::stable_sort(gaps.begin(), gaps.end(), [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  return gaps;
}

std::string profile_text(const ProfileSubject& s, size_t most_rows) {
  const auto& records = records_of(s.profile);
  const bool device = !s.profile.kernels.empty();
  std::string out = s.title + " on " + s.device + "\n";
  if (s.step_seconds > 0) {
    out += format("step without profiling %.3f ms", s.step_seconds * 1e3);
    if (s.tokens > 0) out += format(", %.0f tokens/s", s.tokens / s.step_seconds);
    if (s.model_flops > 0 && s.peak_flops > 0)
      out += format(", MFU %.1f %% of %.0f TFLOP/s", 100 * s.model_flops / s.step_seconds / s.peak_flops,
                    s.peak_flops * 1e-12);
    out += "\n";
  }
  double busy = 0;
  for (const ProfileRecord& r : records) busy += r.end - r.start;
  if (!records.empty()) {
    const double span = records.back().end - records.front().start;
    out += format("profiled: %zu %s in %.3f ms, busy %.3f ms, gaps %.3f ms (%.1f %%)\n", records.size(),
                  device ? "kernels" : "ops", span * 1e3, busy * 1e3, (span - busy) * 1e3,
                  span > 0 ? 100 * (span - busy) / span : 0);
  }
  if (s.bytes_per_second > 0 || s.flops_per_second > 0)
    out += format("roofline: %.0f GB/s and %.0f TFLOP/s (%s)\n", s.bytes_per_second * 1e-9, s.flops_per_second * 1e-12,
                  s.ceilings.c_str());

  const std::vector<ProfileRow> rows = profile_rows(s);
  out += format("\n%-10s %-42s %6s %10s %7s %9s %9s %7s %8s %8s\n", "phase", device ? "kernel" : "op", "calls", "ms",
                "share", "MB", "GFLOP", "GB/s", "TFLOP/s", "roofline");
  for (size_t i = 0; i < std::min(most_rows, rows.size()); ++i) {
    const ProfileRow& r = rows[i];
    out += format(
        "%-10s %-42s %6lld %10.4f %5.1f %% %9s %9s %7s %8s %8s\n", r.phase.c_str(), r.name.c_str(),
        static_cast<long long>(r.calls), r.seconds * 1e3, 100 * r.share, number("%.1f", r.work.bytes * 1e-6).c_str(),
        number("%.1f", r.work.flops * 1e-9).c_str(), number("%.0f", r.work.bytes / r.seconds * 1e-9).c_str(),
        number("%.1f", r.work.flops / r.seconds * 1e-12).c_str(), number("%.1f %%", 100 * r.roofline).c_str());
  }
  if (rows.size() > most_rows) out += format("and %zu more\n", rows.size() - most_rows);

  if (s.peak_bytes > 0) {
    out += "\nmemory at its peak: " + gibibytes(s.peak_bytes) + "\n";
    std::vector<std::pair<int64_t, std::string>> tags;
    for (const auto& [tag, bytes] : s.memory) {
      if (bytes > 0) tags.emplace_back(bytes, tag);
    }
    std::sort(tags.rbegin(), tags.rend());
    for (const auto& [bytes, tag] : tags) out += format("  %-28s %s\n", tag.c_str(), gibibytes(bytes).c_str());
  }
  const std::vector<ProfileGap> gaps = profile_gaps(s.profile.kernels, 5e-6);
  if (!gaps.empty()) {
    out += format("\n%zu gaps of more than 5 us; the longest:\n", gaps.size());
    for (size_t i = 0; i < std::min<size_t>(5, gaps.size()); ++i)
      out += format("  %8.1f us between %s and %s\n", gaps[i].seconds * 1e6, gaps[i].before.c_str(),
                    gaps[i].after.c_str());
  }
  return out;
}

std::string profile_csv(const ProfileSubject& s) {
  std::string out = "phase,name,calls,seconds,share,bytes,flops,gb_per_s,tflop_per_s,roofline\n";
  for (const ProfileRow& r : profile_rows(s)) {
    out += field(r.phase) + "," + field(r.name) +
           format(",%lld,%.9f,%.6f,%.0f,%.0f,%.3f,%.4f,%.4f\n", static_cast<long long>(r.calls), r.seconds, r.share,
                  r.work.bytes, r.work.flops, r.seconds > 0 ? r.work.bytes / r.seconds * 1e-9 : 0,
                  r.seconds > 0 ? r.work.flops / r.seconds * 1e-12 : 0, r.roofline);
  }
  return out;
}

std::string profile_records_csv(const Profile& p) {
  std::string out = "kind,phase,part,name,start_s,end_s,queued_s,bytes,flops\n";
  const auto add = [&](const char* kind, const std::vector<ProfileRecord>& records) {
    for (const ProfileRecord& r : records) {
      out += std::string(kind) + "," + field(r.phase) + "," + field(r.part) + "," + field(r.name) +
             format(",%.9f,%.9f,%.9f,%.0f,%.0f\n", r.start, r.end, r.queued, r.work.bytes, r.work.flops);
    }
  };
  add("kernel", p.kernels);
  add("op", p.ops);
  return out;
}

}  // namespace rw
