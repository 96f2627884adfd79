// Host memory where the device is the CPU: its own.
#include "tensor/host_copy.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace rw {
namespace {

class OwnCopies final : public HostCopies {
 public:
  int64_t start(const Tensor& from, const Tensor& to) override {
    check(from.dtype() == to.dtype(), "host_copy", "from ", from.dtype(), " to ", to.dtype());
    to.copy_from(from);
    return 0;
  }
  void join(int64_t) override {}
  void wait(int64_t) override {}
};

}  // namespace

Tensor host_tensor(const Shape& shape, DType dtype, Device device) {
  return device.is_cuda() ? cuda::pinned_tensor(shape, dtype) : Tensor::zeros(shape, dtype);
}

int64_t host_memory_size() {
  int64_t bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    int64_t limit = 0;  // "max" is no number
    if (std::ifstream(path) >> limit && limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

std::unique_ptr<HostCopies> make_host_copies(Device device) {
  if (device.is_cuda()) return cuda::make_host_copies();
  return std::make_unique<OwnCopies>();
}

}  // namespace rw
