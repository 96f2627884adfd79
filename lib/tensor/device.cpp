#include "tensor/device.h"

#include <charconv>

#include "tensor/cuda.h"
#include "tensor/error.h"

namespace rw {

int cuda_device_count() { return cuda::device_count(); }
std::string cuda_device_name(int index) { return cuda::device_name(index); }

Device parse_device(std::string_view text) {
  if (text == "cpu") return kCpu;
  if (text == "auto") return cuda_device_count() > 0 ? Device{DeviceType::cuda, 0} : kCpu;
  int index = 0;
  if (text.starts_with("cuda:")) {
    const std::string_view digits = text.substr(5);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    check(error == std::errc{} && end == digits.data() + digits.size(), "device", "expected cuda:<number>, got '", text,
          "'");
  } else {
    check(text == "cuda", "device", "expected auto, cpu, cuda or cuda:<number>, got '", text, "'");
  }
  check(index < cuda_device_count(), "device", "'", text, "' asked for, but there are ", cuda_device_count(), " GPUs (",
        cuda_device_name(), ")");
  return {DeviceType::cuda, index};
}

void use_device(Device device) {
  if (device.is_cuda()) cuda::set_device(device.index);
}

}  // namespace rw
