// The one exception type of the library, and the two helpers that throw it.
//
// An error names the op, then the argument, what was expected and what came:
//   [rope] positions must have shape [2, 48], got [48]
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rw {

/// Everything the library throws. The library never prints, exits or aborts.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Device or host memory ran out. The process may free something and go on.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// Concatenates anything that has operator<<.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws Error(message) as one printable line: a message may quote names and values of files, which hold anything.
[[noreturn]] void throw_error(std::string_view message);

/// Throws Error("[op] message"), made printable and cut after some thousand bytes.
template <class... Parts>
[[noreturn]] void fail(std::string_view op, const Parts&... message) {
  throw_error(cat("[", op, "] ", message...));
}

/// fail(op, message...) unless `ok`. The message is put together only on failure.
template <class... Parts>
void check(bool ok, std::string_view op, const Parts&... message) {
  if (!ok) fail(op, message...);
}

}  // namespace rw
