// Which of the row products' versions this CPU runs.
#include "tensor/row_dots.h"

#include "tensor/cpu_levels.h"

namespace rw::cpu {
namespace {

constexpr Versions<RowDots> kVersions = RW_VERSIONS(row_dots);

}  // namespace

int every_row_dots(const RowDots* (&out)[3]) { return runnable(kVersions, out); }

const RowDots& row_dots() {
  static const RowDots& dots = fastest(kVersions);
  return dots;
}

}  // namespace rw::cpu
