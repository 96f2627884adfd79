// Where bytes live and work runs.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace rw {

enum class DeviceType : uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;  // which GPU

  bool is_cuda() const { return type == DeviceType::cuda; }
  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device kCpu{DeviceType::cpu, 0};

template <class Stream>
Stream& operator<<(Stream& out, const Device& d) {
  out << (d.is_cuda() ? "cuda:" : "cpu");
  if (d.is_cuda()) out << d.index;
  return out;
}

/// Number of usable GPUs: 0 in a build without CUDA, and where there is no driver or no card.
int cuda_device_count();
/// "NVIDIA H200", or why there is none ("built without CUDA", "no CUDA driver").
std::string cuda_device_name(int index = 0);
/// "cpu", "cuda" (first GPU), "cuda:1" or "auto" (the GPU if there is one). Errors: no such device.
Device parse_device(std::string_view text);
/// Makes a GPU the one that this thread's work runs on; nothing for the CPU. The first GPU is it unless told otherwise.
void use_device(Device device);

}  // namespace rw
