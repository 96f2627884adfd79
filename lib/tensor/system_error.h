// Errors of the operating system.
#pragma once
#include <string_view>

#include "tensor/error.h"

namespace rw {

/// The system failed, through no fault of the input: a full disk, a device's input/output error, too many open files,
/// no more threads. The same call may succeed later.
class SystemError : public Error {
 public:
  using Error::Error;
};

/// Throws "[op] what: the system's own words for `error`", an errno value: a SystemError if the machine is to
/// blame, else an Error. The message is printable.
[[noreturn]] void fail_with_errno(std::string_view op, std::string_view what, int error);

}  // namespace rw
