// Profiling on the GPU: a pair of events around every launch, and NVTX ranges for external profilers.
//
// An event costs about a microsecond of the stream, so times of kernels that short are too long by as much; a step
// takes longer while it is profiled.
#include "tensor/cuda.h"
#include "tensor/launch.cuh"
#include "tensor/profile.h"

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>  // header-only; does nothing unless a tool is attached
#define ROPEWALK_NVTX 1
#endif

namespace rw::cuda {
namespace {

struct Pending {
  ProfileRecord record;
  cudaEvent_t begin = nullptr, end = nullptr;
};

/// One profile at a time, on the compute stream of the current device.
struct Recorder {
  cudaEvent_t base = nullptr;
  std::vector<Pending> pending;
  std::vector<size_t> open;  // launches that have begun and not ended
};
Recorder recorder;

cudaEvent_t recorded_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  check_cuda(cudaEventRecord(event, stream()), "cudaEventRecord");
  return event;
}

}  // namespace

void begin_timed(const Label& label) {
  Pending p;
  p.record.name = label.name;
  p.record.work = label.work;
  p.record.queued = detail::profile_now();
  detail::fill_places(p.record);
  p.begin = recorded_event();
  recorder.open.push_back(recorder.pending.size());
  recorder.pending.push_back(std::move(p));
}

void end_timed() noexcept {
  if (recorder.open.empty()) return;  // the profile was stopped meanwhile
  Pending& p = recorder.pending[recorder.open.back()];
  recorder.open.pop_back();
  if (cudaEventCreate(&p.end) == cudaSuccess) cudaEventRecord(p.end, stream());
}

void start_kernel_profile() {
  recorder.pending.clear();
  recorder.open.clear();
  if (device_count() == 0) return;
  synchronize();  // the base is then now, on the host's clock too
  recorder.base = recorded_event();
}

void stop_kernel_profile(Profile& profile) {
  if (device_count() == 0) return;
  synchronize();
  const auto seconds = [](cudaEvent_t event) {
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, recorder.base, event), "cudaEventElapsedTime");
    return static_cast<double>(ms) * 1e-3;
  };
  for (Pending& p : recorder.pending) {
    if (p.end) {
      p.record.start = seconds(p.begin);
      p.record.end = seconds(p.end);
      profile.kernels.push_back(std::move(p.record));
      cudaEventDestroy(p.end);
    }
    cudaEventDestroy(p.begin);
  }
  cudaEventDestroy(recorder.base);
  recorder = {};
}

#ifdef ROPEWALK_NVTX
void push_nvtx(const char* name, int64_t index) {
  nvtxEventAttributes_t range{};
  range.version = NVTX_VERSION;
  range.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  range.messageType = NVTX_MESSAGE_TYPE_ASCII;
  range.message.ascii = name;
  if (index >= 0) {
    range.payloadType = NVTX_PAYLOAD_TYPE_INT64;
    range.payload.llValue = index;
  }
  nvtxRangePushEx(&range);
}
void pop_nvtx() { nvtxRangePop(); }
#else
void push_nvtx(const char*, int64_t) {}
void pop_nvtx() {}
#endif

}  // namespace rw::cuda
