// Errors of the operating system, sorted by who is to blame.
#include "tensor/system_error.h"

#include <cerrno>
#include <system_error>

#include "tensor/printable.h"

namespace rw {

void fail_with_errno(std::string_view op, std::string_view what, int error) {
  const std::string message =
      printable(cat("[", op, "] ", what, ": ", std::error_code(error, std::generic_category()).message()));
  switch (error) {
    case EIO:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EAGAIN:
      throw SystemError(message);
    default:
      throw Error(message);
  }
}

}  // namespace rw
