// The profile: laps and ranges on the host, and what the report makes of records.
#include <algorithm>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "autograd/tape.h"
#include "eval/profile_report.h"
#include "support.h"

using namespace rw;

namespace {

ProfileRecord record(const char* name, const char* phase, double start, double end, Work work = {}) {
  ProfileRecord r;
  r.name = name, r.phase = phase, r.part = "block 0", r.start = start, r.end = end, r.work = work;
  return r;
}

ProfileSubject subject() {
  ProfileSubject s;
  s.title = "tiny <model>", s.device = "a card", s.ceilings = "stated";
  s.bytes_per_second = 1e12, s.flops_per_second = 1e14;
  s.step_seconds = 2e-3, s.tokens = 100, s.model_flops = 1e10, s.peak_flops = 1e14;
  s.peak_bytes = int64_t{3} << 30, s.memory = {{"parameters", int64_t{2} << 30}, {"activations", int64_t{1} << 30}};
  s.profile.kernels = {
      record("gemm", "forward", 0, 1e-4, Work(1e6, 5e9)), record("norm, wide", "forward", 1.1e-4, 1.6e-4, Work(2.5e7)),
      record("gemm", "backward", 2e-4, 5e-4, Work(2e6, 1e10)), record("gemm", "forward", 5e-4, 6e-4, Work(1e6, 5e9))};
  return s;
}

size_t lines(const std::string& text) { return static_cast<size_t>(std::count(text.begin(), text.end(), '\n')); }

}  // namespace

TEST_CASE("a profile's rows add up calls of a name within a phase, the longest first") {
  const std::vector<ProfileRow> rows = profile_rows(subject());
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].phase == "backward");
  CHECK(rows[1].name == "gemm");
  CHECK(rows[1].calls == 2);
  CHECK(rows[1].seconds == doctest::Approx(2e-4));
  CHECK(rows[1].work.flops == doctest::Approx(1e10));
  CHECK(rows[0].share + rows[1].share + rows[2].share == doctest::Approx(1));
  CHECK(rows[1].roofline == doctest::Approx(0.5));  // 1e10 FLOPs at 1e14 a second take 1e-4 of 2e-4 seconds
  CHECK(rows[2].roofline == doctest::Approx(0.5));  // 25 MB at 1 TB/s take 25 of 50 us
}

TEST_CASE("a profile's gaps are where the device waited") {
  const std::vector<ProfileGap> gaps = profile_gaps(subject().profile.kernels, 1e-6);
  REQUIRE(gaps.size() == 2);
  CHECK(gaps[0].seconds == doctest::Approx(4e-5));
  CHECK(gaps[0].before == "norm, wide");
  CHECK(gaps[1].seconds == doctest::Approx(1e-5));
}

TEST_CASE("a profile as text, CSV and a page") {
  const ProfileSubject s = subject();
  const std::string text = profile_text(s);
  for (const char* part : {"MFU 5.0 % of 100 TFLOP/s", "50000 tokens/s", "parameters", "2.000 GiB", "norm, wide",
                           "50.0 %", "gaps 0.050 ms"}) {
    CAPTURE(part);
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  }
  CHECK(profile_text(s, 1).find("and 2 more") != std::string::npos);

  const std::string csv = profile_csv(s);
  CHECK(lines(csv) == 4);
  CHECK(csv.find("forward,\"norm, wide\",1,0.000050000,") != std::string::npos);
  CHECK(lines(profile_records_csv(s.profile)) == 5);

  const std::string page = profile_html(s);
  CHECK(page.find("tiny &lt;model&gt;") != std::string::npos);
  CHECK(page.find("tiny <model>") == std::string::npos);
  CHECK(page.find("prefers-color-scheme: dark") != std::string::npos);
  CHECK(page.find("rows = [\"forward\",\"backward\"]") != std::string::npos);
  CHECK(page.find("[0,0,1,0.000,100.000,0.000,1000000,5000000000]") != std::string::npos);
  for (const char* outside : {"src=", "href=", "@import", "url("}) CHECK(page.find(outside) == std::string::npos);
}

TEST_CASE("an empty profile makes a page and a table too") {
  ProfileSubject s;
  s.title = "nothing";
  CHECK(profile_rows(s).empty());
  CHECK(profile_text(s).find("nothing") != std::string::npos);
  CHECK(profile_html(s).find("records = []") != std::string::npos);
}

TEST_CASE("ops are timed forward and backward, in the range they were recorded in") {
  const Var x = Var::leaf(Tensor::full({1000}, 2.0));
  start_profile();
  CHECK_THROWS_AS(start_profile(), Error);
  Var y;
  {
    const ProfileRange forward("forward");
    const ProfileRange block("block", 3);
    y = sum(mul(x, x));
  }
  {
    const ProfileRange phase("backward");
    backward(y);
  }
  const Profile p = stop_profile();
  CHECK_THROWS_AS(stop_profile(), Error);
  REQUIRE(p.ops.size() == 4);
  CHECK(p.ops[0].name == "mul");
  CHECK(p.ops[0].phase == "forward");
  CHECK(p.ops[0].part == "block 3");
  CHECK(p.ops[3].name == "mul");
  CHECK(p.ops[3].phase == "backward");
  CHECK(p.ops[3].part == "block 3");
  for (size_t i = 0; i < 4; ++i) {
    CHECK(p.ops[i].end >= p.ops[i].start);
    CHECK(p.ops[i].end <= p.seconds);
    if (i > 0) CHECK(p.ops[i].start >= p.ops[i - 1].end);
  }
  CHECK(p.kernels.empty());
  CHECK_FALSE(profiling());
}

TEST_CASE("memory by tag is kept as it was at the peak") {
  release_cached_memory();
  reset_peak_memory();
  const int64_t before = memory_stats().live_bytes;
  {
    const MemoryTag tag("peak test");
    const Tensor big = Tensor::empty({1 << 20});
  }
  const Tensor small = Tensor::empty({16});
  const MemoryStats stats = memory_stats();
  CHECK(stats.peak_bytes == before + (4 << 20));
  CHECK(stats.tags_at_peak.at("peak test") == 4 << 20);
  CHECK(stats.live_by_tag.at("peak test") == 0);
}
