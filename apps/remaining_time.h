// How long a job still takes, judged by its pace since the first report.
#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>

/// The first report only says where the job stands: it may come after a start-up of any length, in the middle of a
/// resumed run, and in any unit (steps, tokens, documents). From the second on there is a pace.
class RemainingTime {
 public:
  explicit RemainingTime(int64_t total) : total_(total) {}

  /// `done` of the total is done at `now`, in seconds of any clock.
  void report(int64_t done, double now) {
    if (!started_) first_ = done, first_time_ = now, started_ = true;
    done_ = done;
    now_ = now;
  }
  /// Seconds, never negative; nothing before there is a pace.
  std::optional<double> seconds() const {
    if (!started_ || done_ <= first_ || now_ <= first_time_) return std::nullopt;
    const double pace = static_cast<double>(done_ - first_) / (now_ - first_time_);
    return static_cast<double>(std::max<int64_t>(0, total_ - done_)) / pace;
  }

 private:
  int64_t total_, first_ = 0, done_ = 0;
  double first_time_ = 0, now_ = 0;
  bool started_ = false;
};
