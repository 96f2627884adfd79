// A record of what ran, when and for how long: kernels on the GPU (by events on its stream), ops on the host (by the
// clock). Off, it costs one branch per launch and per recorded op.
//
//   start_profile();
//   { const ProfileRange range("forward"); ... }
//   Profile p = stop_profile();     // waits for the GPU
//
// Ranges are also NVTX ranges, in a build with CUDA, whether a profile is being taken or not.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace rw {

/// What a piece of work has to do at least: bytes that cross device memory (each input read once, each output written
/// once) and floating-point operations. 0: not known.
struct Work {
  double bytes = 0, flops = 0;
  Work() = default;
  template <class B, class F = double>
  Work(B least_bytes, F operations = 0)  // NOLINT: a number of bytes may stand where work is asked for
      : bytes(static_cast<double>(least_bytes)), flops(static_cast<double>(operations)) {}
};

/// A kernel or an op. Times are seconds since start_profile().
struct ProfileRecord {
  std::string name;
  std::string phase, part;  // the outermost and the innermost range around it: "forward", "block 3"
  double start = 0, end = 0;
  double queued = 0;  // kernels: when the host launched it
  Work work;
};

struct Profile {
  std::vector<ProfileRecord> kernels;  // in the order of the stream
  std::vector<ProfileRecord> ops;      // of the host
  double seconds = 0;                  // from start to stop, on the host
};

/// Errors: a profile is being taken already.
void start_profile();
Profile stop_profile();

namespace detail {
extern std::atomic<bool> profile_on;
}
inline bool profiling() { return detail::profile_on.load(std::memory_order_relaxed); }

/// Where something happens. Names are string literals; index -1: none.
struct ProfilePlace {
  const char* name = nullptr;
  int64_t index = -1;
};
class ProfileRange {
 public:
  explicit ProfileRange(const char* name, int64_t index = -1) : ProfileRange(ProfilePlace{name, index}) {}
  explicit ProfileRange(ProfilePlace place);  // of no name: does nothing
  ~ProfileRange();
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;
  /// The innermost range below the phase; no name if there is none.
  static ProfilePlace current();

 private:
  bool open_;
};

/// While a profile is taken: the host's time since the last lap (or range) of this thread was `name`.
void profile_lap(const char* name);

/// A copy of `name` that lives as long as the process: for names made at run time.
const char* keep_name(const std::string& name);

namespace cuda {
/// Implemented in profile.cu; profile_stub.cpp does nothing.
void start_kernel_profile();
/// Appends to p.kernels, with names of ranges filled in.
void stop_kernel_profile(Profile& p);
void push_nvtx(const char* name, int64_t index);
void pop_nvtx();
}  // namespace cuda

namespace detail {
double profile_now();                     // seconds since start_profile()
void fill_places(ProfileRecord& record);  // phase and part of this moment
}  // namespace detail

}  // namespace rw
