// What a profile of one training step says: a table by kernel, CSV, and a timeline as one HTML file.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "tensor/profile.h"

namespace rw {

/// What was profiled, and what to compare it with. 0: not known, and then left out.
struct ProfileSubject {
  std::string title;   // "M, T 1024, batch 64, bf16"
  std::string device;  // "NVIDIA H200"
  Profile profile;
  double bytes_per_second = 0, flops_per_second = 0;  // the ceilings of the roofline
  std::string ceilings;                               // where they come from: "measured"
  double step_seconds = 0;                            // of a step that was not profiled
  double tokens = 0;                                  // of a step
  double model_flops = 0, peak_flops = 0;             // MFU = model_flops / step_seconds / peak_flops
  int64_t peak_bytes = 0;
  std::map<std::string, int64_t> memory;  // by tag, at the peak
};

/// All calls of one name in one phase.
struct ProfileRow {
  std::string phase, name;
  int64_t calls = 0;
  double seconds = 0;
  Work work;
  double share = 0;     // of all rows' time
  double roofline = 0;  // least possible time / time, in [0, 1]; 0 where the work or the ceilings are not known
};

/// Most expensive first. Kernels if there are any, else the host's ops.
std::vector<ProfileRow> profile_rows(const ProfileSubject& s);

/// When the device had nothing to do between two kernels.
struct ProfileGap {
  double start = 0, seconds = 0;
  std::string before, after;  // names of the kernels around it
};
/// Gaps longer than `least` seconds, longest first.
std::vector<ProfileGap> profile_gaps(const std::vector<ProfileRecord>& kernels, double least = 0);

/// For a terminal: summary, kernels (at most `rows`), memory by tag, gaps.
std::string profile_text(const ProfileSubject& s, size_t rows = 40);
/// phase,name,calls,seconds,share,bytes,flops,gb_per_s,tflop_per_s,roofline
std::string profile_csv(const ProfileSubject& s);
/// Every record: kind,phase,part,name,start_s,end_s,queued_s,bytes,flops
std::string profile_records_csv(const Profile& p);
/// One page without outside resources: summary, timeline by phase (zoom with the wheel, move by dragging, details under
/// the pointer), table.
std::string profile_html(const ProfileSubject& s);

}  // namespace rw
