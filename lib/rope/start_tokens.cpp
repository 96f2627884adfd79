// Angles whose first rows are those of plain RoPE.
#include "rope/start_tokens.h"

#include <algorithm>

#include "tensor/error.h"

namespace rw {

RopeAngles angles_after_start(const StartTokens& start, int64_t length, const Tensor& positions, const RopeTable& table,
                              DType dtype, Device device) {
  const int64_t threshold = start.start_tokens(length);
  const float* p = positions.data<float>();
  const bool any = std::any_of(p, p + positions.numel(), [&](float x) { return x < static_cast<float>(threshold); });
  if (!any) return rope_angles(positions, table.inv_freq, table.attention_scale, dtype, device);
  check(table.inv_freq.rank() == 1, "rope", "first tokens without interpolation need one table for all samples");
  // Made on the host: a few rows differ, and a table is small beside what it is used for.
  RopeAngles out = rope_angles(positions, table.inv_freq, table.attention_scale, dtype, kCpu);
  const RopeAngles plain = rope_angles(positions, Var(start.start_inv_freq()), table.attention_scale, dtype, kCpu);
  const int64_t row = out.cos.size(2) * static_cast<int64_t>(out.cos.bytes()) / std::max<int64_t>(1, out.cos.numel());
  for (int64_t t = 0; t < positions.numel(); ++t) {
    if (p[t] >= static_cast<float>(threshold)) continue;
    for (const auto& [to, from] : {std::pair{&out.cos, &plain.cos}, {&out.sin, &plain.sin}})
      std::copy_n(static_cast<const char*>(from->raw()) + t * row, row, static_cast<char*>(to->raw()) + t * row);
  }
  out.cos = out.cos.to(device);
  out.sin = out.sin.to(device);
  if (device.is_cuda()) out.positions = positions.to(device);
  return out;
}

}  // namespace rw
