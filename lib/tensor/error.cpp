// Where errors are thrown: their text is one line that is safe to show.
#include "tensor/error.h"

#include "tensor/printable.h"

namespace rw {

void throw_error(std::string_view message) {
  constexpr size_t kMost = 4000;
  std::string line = printable(message.substr(0, kMost));
  if (message.size() > kMost) line += cat("... (", message.size() - kMost, " more bytes)");
  throw Error(line);
}

}  // namespace rw
