#include "tensor/profile.h"

#include <chrono>
#include <mutex>
#include <set>

#include "tensor/error.h"

namespace rw {
namespace {

using Clock = std::chrono::steady_clock;

struct State {
  std::mutex mutex;
  Clock::time_point start;
  std::vector<ProfileRecord> ops;
};
State& state() {
  static State s;
  return s;
}

thread_local std::vector<ProfilePlace> places;  // open ranges of this thread, outermost first
thread_local double lap_start = 0;

std::string text_of(const ProfilePlace& p) { return p.index < 0 ? p.name : cat(p.name, " ", p.index); }

}  // namespace

namespace detail {

std::atomic<bool> profile_on{false};

double profile_now() { return std::chrono::duration<double>(Clock::now() - state().start).count(); }

void fill_places(ProfileRecord& record) {
  if (!places.empty()) record.phase = text_of(places.front());
  if (places.size() > 1) record.part = text_of(places.back());
}

}  // namespace detail

void start_profile() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  check(!profiling(), "profile", "a profile is being taken already");
  s.ops.clear();
  s.start = Clock::now();
  cuda::start_kernel_profile();
  lap_start = 0;
  detail::profile_on = true;
}

Profile stop_profile() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  check(profiling(), "profile", "no profile is being taken");
  detail::profile_on = false;
  Profile p;
  cuda::stop_kernel_profile(p);
  p.seconds = detail::profile_now();
  p.ops = std::move(s.ops);
  s.ops.clear();
  return p;
}

ProfileRange::ProfileRange(ProfilePlace place) : open_(place.name != nullptr) {
  if (!open_) return;
  places.push_back(place);
  cuda::push_nvtx(place.name, place.index);
  if (profiling()) lap_start = detail::profile_now();
}

ProfileRange::~ProfileRange() {
  if (!open_) return;
  cuda::pop_nvtx();
  places.pop_back();
}

ProfilePlace ProfileRange::current() { return places.size() > 1 ? places.back() : ProfilePlace{}; }

void profile_lap(const char* name) {
  if (!profiling()) return;
  ProfileRecord record;
  record.name = name;
  detail::fill_places(record);
  record.start = lap_start;
  lap_start = record.end = detail::profile_now();
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.ops.push_back(std::move(record));
}

const char* keep_name(const std::string& name) {
  static std::mutex mutex;
  static std::set<std::string> names;  // nodes do not move
  const std::lock_guard lock(mutex);
  return names.insert(name).first->c_str();
}

}  // namespace rw
