// Which of the row products' versions this CPU runs.
#include "tensor/row_dots.h"

namespace rw::cpu {

int every_row_dots(const RowDots* (&out)[3]) {
  int n = 0;
#ifdef ROPEWALK_CPU_LEVELS
  if (__builtin_cpu_supports("x86-64-v4")) out[n++] = &v4::row_dots;
  if (__builtin_cpu_supports("x86-64-v3")) out[n++] = &v3::row_dots;
#endif
  out[n++] = &build::row_dots;
  return n;
}

const RowDots& row_dots() {
  static const RowDots& fastest = []() -> const RowDots& {
    const RowDots* all[3];
    every_row_dots(all);
    return *all[0];
  }();
  return fastest;
}

}  // namespace rw::cpu
